"""``compare --json``: ``oomdoctor.compare/1``. Sizes are bytes; what is not known is null.

``a`` and ``b`` tell the two recordings. Every figure has both values, the difference (``b`` less ``a``) and
what each stands on. ``common`` are the figures from the start until the last request that both have,
``state_a`` and ``state_b`` say after how many events that is. ``by_place`` is of the states in ``at``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Optional

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.comparison.by_place import Held
from oomdoctor.comparison.compare import Pair
from oomdoctor.comparison.figures import Figure
from oomdoctor.comparison.verdict import are_alike, room_of, same_requests_text
from oomdoctor.reporters.recording_json import about

Json = dict[str, Any]


def render(
    pairs: Sequence[Pair],
    unmatched: Sequence[tuple[str, DeviceHistory]],
    problems: Sequence[str],
    when: str,
) -> str:
    """The document as text."""
    return json.dumps(document(pairs, unmatched, problems, when), indent=2, ensure_ascii=False)


def document(
    pairs: Sequence[Pair],
    unmatched: Sequence[tuple[str, DeviceHistory]],
    problems: Sequence[str],
    when: str,
) -> Json:
    """The document as plain values.

    Args:
        unmatched: "a" or "b", and the device that has no partner.
        when: at which states to tell the difference by place, of ``comparison.points.WHENS``.
    """
    return {
        "schema": "oomdoctor.compare/1",
        "pairs": [_pair(one, when) for one in pairs],
        "unmatched": [{"side": side, **_side(device)} for side, device in unmatched],
        "problems": list(problems),
    }


def _pair(pair: Pair, when: str) -> Json:
    by_place = pair.by_place(pair.point(when))
    point = by_place.point
    return {
        "a": _side(pair.a),
        "b": _side(pair.b),
        "verdict": {
            "id": pair.verdict.id,
            "summary": pair.verdict.summary,
            "basis": pair.verdict.basis,
        },
        "same_requests": _same_requests(pair),
        "figures": _figures(pair.figures),
        "common": _common(pair),
        "at": {"when": point.when, "a_event": point.a, "b_event": point.b},
        "by_place": [_held(one, by_place.a_basis, by_place.b_basis) for one in by_place.held],
        "notes": list(pair.notes),
    }


def _side(device: DeviceHistory) -> Json:
    return {
        "device": device.device,
        **about(device),
        "alloc_conf": device.history.settings.text,
        "events": len(device.history.recording),
        "total_bytes": device.total_bytes,
        "capacity_bytes": room_of(device),
    }


def _same_requests(pair: Pair) -> Optional[Json]:
    if pair.positions is None:
        return None
    alignment = pair.positions.alignment
    return {
        "a_allocations": alignment.count_a,
        "b_allocations": alignment.count_b,
        "from_the_start": alignment.prefix,
        "matched": alignment.matched,
        "share_of_shorter": alignment.share,
        "is_one_program": are_alike(alignment),
        "summary": same_requests_text(alignment),
        "basis": "recorded",
    }


def _figures(figures: Sequence[Figure]) -> Json:
    return {
        one.name: {
            "a": one.a,
            "b": one.b,
            "difference": one.difference,
            "basis": {"a": one.a_basis, "b": one.b_basis, "difference": "derived"},
        }
        for one in figures
    }


def _common(pair: Pair) -> Optional[Json]:
    if pair.positions is None or not pair.common:
        return None
    state_a, state_b = pair.positions.last_common
    return {"state_a": state_a, "state_b": state_b, "figures": _figures(pair.common)}


def _held(one: Held, a_basis: str, b_basis: str) -> Json:
    return {
        "frames": [{"name": f.name, "filename": f.filename, "line": f.line} for f in one.place.frames],
        "change": one.change,
        "lines_moved": one.is_moved,
        "a_bytes": one.a_bytes,
        "b_bytes": one.b_bytes,
        "difference_bytes": one.difference,
        "a_blocks": one.a_blocks,
        "b_blocks": one.b_blocks,
        "basis": {"a": a_basis, "b": b_basis, "difference": "derived"},
    }
