"""What ``inspect --json`` and ``replay --json`` say alike of a device."""

from __future__ import annotations

from typing import Any, Optional

from oomdoctor.allocator.history import History
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.release_bounds import named
from oomdoctor.snapshot.model import ALLOC

Json = dict[str, Any]


def basis_of(device: DeviceHistory) -> str:
    """Of the recording's own figures: the replay gives them, which is the recording only where it arrives."""
    return "recorded" if device.is_as_recorded or not device.has_events else "replayed"


def about(device: DeviceHistory) -> Json:
    """Where a device's recording is from, and how far the replay can be trusted."""
    source, bounds = device.source, device.torch
    return {
        "path": source.path,
        "process": source.process,
        "rank": source.rank,
        "pid": source.pid,
        "dump": source.dump,
        "torch": {
            "version": bounds.text or (named(bounds.oldest) if bounds.is_exact else None),
            "oldest": named(bounds.oldest),
            "newest": named(bounds.newest),
            "basis": bounds.basis,
        },
        "complete_history": device.is_complete,
        "self_check": self_check(device.history),
    }


def self_check(history: History) -> Json:
    """Of all recorded allocations, how many the heap puts where they were recorded."""
    check = history.check
    return {
        "compared": check.compared,
        "matching": check.matching,
        "fraction": check.matching / check.compared if check.compared else None,
        "first_mismatch": first_mismatch(history),
        "conflicts": check.conflicts,
    }


def first_mismatch(history: History) -> Optional[Json]:
    """The first allocation that the heap puts elsewhere."""
    event = history.check.first_mismatch
    if event is None:
        return None
    events = history.recording.events
    predicted = int(history.effects["predicted"][event])
    return {
        "event": event,
        "alloc_index": int((events.action[:event] == ALLOC).sum()),
        "requested_bytes": int(events.entry_size[event]),
        "address": int(events.address[event]),
        "predicted_address": predicted if predicted >= 0 else None,
        "why": "the heap takes another free block here"
        if predicted >= 0
        else "the heap finds no free block here, and no segment came",
    }
