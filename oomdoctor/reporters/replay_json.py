"""``replay --json``: the contract ``oomdoctor.replay/1``. Sizes are bytes.

Added to it: where the recording is from (``path``, ``process``, ``rank``, ``pid``, ``dump``, ``torch``),
``basis``, ``rules_of_torch``, ``memory_fraction``, ``peak_requested_bytes``, ``num_device_alloc``,
``num_device_free``, ``limit_bytes`` (the end of memory in the replay, by capacity or fraction),
``recorded_capacity_bytes`` (what was reserved and free at the recorded out-of-memory error), ``recorded``
(the recording's own figures where the others are replayed), ``fraction_of_bytes`` (what ``memory_fraction``
is a fraction of), ``fits_at_start`` and ``notes``. Where ``fits_at_start`` is false, more was reserved when
the trace began than ``limit_bytes``: nothing is replayed, and the figures are null. Without history all but
the final ones are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from oomdoctor.allocator.release_bounds import named
from oomdoctor.allocator.what_if import Comparison, capacity_at_oom
from oomdoctor.reporters.recording_json import about, basis_of

Json = dict[str, Any]


def render(comparisons: Sequence[Comparison], problems: Sequence[str] = ()) -> str:
    """The document as text."""
    return json.dumps(document(comparisons, problems), indent=2, ensure_ascii=False)


def document(comparisons: Sequence[Comparison], problems: Sequence[str] = ()) -> Json:
    """The document as plain values."""
    return {
        "schema": "oomdoctor.replay/1",
        "devices": [_device(one) for one in comparisons],
        "problems": list(problems),
    }


def _device(one: Comparison) -> Json:
    return {
        "device": one.device.device,
        "alloc_conf": one.alloc_conf,
        "capacity_bytes": one.asked.capacity,
        "limit_bytes": one.limit_bytes,
        "recorded_capacity_bytes": capacity_at_oom(one.device.history),
        "events": len(one.device.history.recording),
        **about(one.device),
        "basis": "derived"
        if not one.fits_at_start
        else "replayed"
        if one.simulated
        else basis_of(one.device),
        "fits_at_start": one.fits_at_start,
        "rules_of_torch": named(one.torch),
        "memory_fraction": one.memory_fraction,
        "fraction_of_bytes": one.fraction_of,
        **_figures(one),
        "recorded": asdict(one.recorded) if one.simulated or not one.fits_at_start else None,
        "notes": list(one.notes),
    }


def _figures(one: Comparison) -> Json:
    """What is known of them."""
    figures = asdict(one.outcome)
    if not one.fits_at_start:
        return dict.fromkeys(figures)
    if not one.device.has_events:
        return {name: value if name.startswith("final_") else None for name, value in figures.items()}
    return figures
