"""``advise --json`` without history: ``oomdoctor.advise/1``, all of it estimated. Sizes are bytes.

The keys are those of the contract. Of ``metrics`` only the final figures of the current state are known; the
rest is null. Added: ``estimate`` of a candidate, with the bytes that it could save at most and their formula,
and ``state``, what :mod:`oomdoctor.reporters.inspect_json` says of the holes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Optional

from oomdoctor.advice.state_only import WHY_UNPROVABLE, Estimate, StateAdvice
from oomdoctor.allocator.replay import Outcome
from oomdoctor.reporters.inspect_json import pin_json, pools_json, state_json
from oomdoctor.reporters.recording_json import about

Json = dict[str, Any]


def render(advice: StateAdvice, problems: Sequence[str] = ()) -> str:
    """The document as text."""
    return json.dumps(document(advice, problems), indent=2, ensure_ascii=False)


def document(advice: StateAdvice, problems: Sequence[str] = ()) -> Json:
    """The document as plain values."""
    return {
        "schema": "oomdoctor.advise/1",
        "devices": [_device(advice, number) for number in range(len(advice.devices))],
        "again": None,
        "max_split_size_mb_again": None,
        "notes": list(advice.notes),
        "problems": list(problems),
    }


def _device(advice: StateAdvice, number: int) -> Json:
    device, inspection = advice.devices[number], advice.inspections[number]
    measures = inspection.moment.fragmentation.device
    best, value = advice.best, advice.max_split_mb
    split = next((one for one in advice.estimates if value is not None and _sets(one, value)), None)
    return {
        "device": device.device,
        "capacity_bytes": advice.capacities[number],
        **about(device),
        "current": {
            "alloc_conf": advice.current,
            "basis": inspection.basis,
            "metrics": _metrics(measures.allocated_bytes, measures.reserved_bytes),
        },
        "recommendation": None
        if best is None
        else {**_candidate(best, number), "why": advice.why, "line": best.line},
        "why": advice.why,
        "max_split_size_mb": {
            "helps": advice.max_split_helps,
            "best": value,
            "basis": "estimated",
            "metrics": None if split is None else _metrics(),
            "estimate": None if split is None else _estimate(split, number),
            "why": advice.max_split_why,
        },
        "candidates": [_candidate(one, number) for one in advice.estimates],
        "proofs": [],
        "unproved": WHY_UNPROVABLE,
        "state": {
            "basis": inspection.basis,
            **state_json(inspection),
            "pools": pools_json(inspection),
            "pinning": [pin_json(pin) for pin in inspection.pins],
        },
        "notes": list(device.notes),
    }


def _sets(estimate: Estimate, value: int) -> bool:
    return f"max_split_size_mb:{value}" in estimate.alloc_conf.split(",")


def _candidate(estimate: Estimate, number: int) -> Json:
    return {
        "alloc_conf": estimate.alloc_conf,
        "basis": "estimated",
        "metrics": _metrics(),
        "estimate": _estimate(estimate, number),
    }


def _estimate(estimate: Estimate, number: int) -> Json:
    return {"saves_at_most_bytes": estimate.saves[number], "formula": estimate.formula}


def _metrics(allocated: Optional[int] = None, reserved: Optional[int] = None) -> Json:
    """The figures of a replay, null but for the final ones."""
    names = [one.name for one in fields(Outcome)]
    names += ["survives", "headroom_bytes", "least_capacity_bytes"]
    unknown: Json = dict.fromkeys(names)
    return {**unknown, "final_allocated_bytes": allocated, "final_reserved_bytes": reserved}
