"""``advise --json``: the contract ``oomdoctor.advise/1``. Sizes are bytes.

Added to it: ``why`` of a device where there is no recommendation, what a recording is of (``path``,
``process``, ``rank``, ``pid``, ``torch``), ``proofs`` with the real allocator's own figures, ``on`` what
they were made, ``emulated`` or not and why, and what ``disturbed`` them, ``unproved``, ``shortfall`` where
memory runs out under the best setting too, ``notes``; how a rehearsed program ended when it was run
``again`` whole under the recommendation, and (``max_split_size_mb_again``) under the value named where that
is another; of the recommendation the ``line`` to paste, its ``variable`` and the commands that ``verify``
it; in ``metrics`` ``survives``, ``headroom_bytes`` and ``least_capacity_bytes``; of candidates whether they
are ``on_frontier``: none leaves more room and asks the driver less.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Optional

from oomdoctor.advice.advise import Advice
from oomdoctor.advice.again import Again
from oomdoctor.advice.ranking import Tried, frontier
from oomdoctor.advice.verify import Steps, pasteable
from oomdoctor.reporters import shortfall_json
from oomdoctor.reporters.recording_json import about

Json = dict[str, Any]


def render(advice: Advice, problems: Sequence[str] = ()) -> str:
    """The document as text."""
    return json.dumps(document(advice, problems), indent=2, ensure_ascii=False)


def document(advice: Advice, problems: Sequence[str] = ()) -> Json:
    """The document as plain values."""
    return {
        "schema": "oomdoctor.advise/1",
        "devices": [_device(advice, number) for number in range(len(advice.devices))],
        "again": _again(advice.again),
        "max_split_size_mb_again": _again(advice.again_split),
        "notes": list(advice.notes),
        "problems": list(problems),
    }


def _again(again: Optional[Again]) -> Optional[Json]:
    if again is None:
        return None
    return {
        "alloc_conf": again.alloc_conf,
        "capacity_bytes": again.capacity,
        "exit_status": again.exit_status,
        "ooms": again.ooms,
        "why_not": again.why_not,
        "survives": again.survives,
        "shortfalls": [
            {"device": number, "alloc_index": index, **(shortfall_json.document(lack) or {})}
            for number, index, lack in again.lacks
        ],
    }


def _device(advice: Advice, number: int) -> Json:
    device = advice.devices[number]
    best, split = advice.best, advice.max_split
    best_of_all = frontier(advice.tried)
    return {
        "device": device.device,
        "capacity_bytes": advice.capacities[number],
        **about(device),
        "current": {
            "alloc_conf": advice.current.alloc_conf,
            "basis": advice.basis(number, advice.current.alloc_conf),
            "metrics": _metrics(advice.current, number),
        },
        "recommendation": None
        if best is None
        else {
            "alloc_conf": best.alloc_conf,
            "basis": advice.basis(number, best.alloc_conf),
            "metrics": _metrics(best, number),
            "why": advice.why,
            **({} if advice.steps is None else _steps(advice.steps)),
        },
        "why": advice.why,
        "max_split_size_mb": {
            "helps": split.helps,
            "best": split.best,
            "basis": "derived" if split.tried is None else advice.basis(number, split.tried.alloc_conf),
            "metrics": None if split.tried is None else _metrics(split.tried, number),
            "why": split.why,
        },
        "candidates": [
            {
                "alloc_conf": one.alloc_conf,
                "basis": advice.basis(number, one.alloc_conf),
                "metrics": _metrics(one, number),
                "on_frontier": one in best_of_all,
            }
            for one in advice.tried
        ],
        "proofs": [
            {
                "alloc_conf": proof.alloc_conf,
                "torch": proof.torch,
                "on": str(proof.ground),
                "emulated": proof.ground.device is None,
                "why_emulated": proof.ground.why_not,
                "agrees": proof.agrees,
                "disturbed": proof.disturbed,
                "metrics": proof.figures,
                "failed_alloc_index": proof.failed_at,
                "differences": {name: list(pair) for name, pair in proof.differences.items()},
            }
            for (of, _), proof in advice.proofs.items()
            if of == number
        ],
        "unproved": advice.unproved.get(number),
        "shortfall": shortfall_json.document(advice.shortfalls[number]) if advice.shortfalls else None,
        "notes": list(device.notes),
    }


def _steps(steps: Steps) -> Json:
    return {
        "line": steps.export,
        "variable": steps.variable,
        "verify": [pasteable(steps.record), pasteable(steps.compare)],
    }


def _metrics(tried: Tried, number: int) -> Json:
    outcome = tried.outcomes[number]
    capacity: Optional[int] = tried.capacities[number]
    return {
        **asdict(outcome),
        "survives": outcome.first_oom is None,
        "headroom_bytes": None if capacity is None else capacity - outcome.peak_reserved_bytes,
        "least_capacity_bytes": tried.needs[number] if tried.needs else None,
    }
