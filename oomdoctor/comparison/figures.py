"""The figures of two recordings side by side: over all of each, and as far as their requests go together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.heap_layout import CAUSE_RETRY
from oomdoctor.allocator.history import History
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.replay import recorded_outcome
from oomdoctor.diagnosis.model import Basis
from oomdoctor.snapshot.model import OOM, SEGMENT_ALLOC, SEGMENT_FREE

PEAKS = ("allocated", "active", "reserved", "inactive_split")


@dataclass(frozen=True)
class Figure:
    """One figure of both, in bytes or a count; None where it is not known.

    Attributes:
        a_basis, b_basis: what each stands on; the difference is derived.
    """

    name: str
    a: Optional[int]
    b: Optional[int]
    a_basis: Basis
    b_basis: Basis

    @property
    def difference(self) -> Optional[int]:
        """B less A."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def is_bytes(self) -> bool:
        return self.name.endswith("_bytes")


def basis_of(device: DeviceHistory) -> Basis:
    """Of a recording's own figures: the replay gives them, which is the recording only where it arrives."""
    return "recorded" if device.is_as_recorded or not device.has_events else "replayed"


def figures_of(a: DeviceHistory, b: DeviceHistory) -> tuple[Figure, ...]:
    """Over the whole of each: what ``oomdoctor replay`` says of it."""
    return _side_by_side(_all_of(a), _all_of(b), a, b)


def figures_until(a: DeviceHistory, b: DeviceHistory, state_a: int, state_b: int) -> tuple[Figure, ...]:
    """From the start of each until a state of it, named by the events before it."""
    return _side_by_side(until(a.history, state_a), until(b.history, state_b), a, b)


def _side_by_side(
    mine: dict[str, Optional[int]], others: dict[str, Optional[int]], a: DeviceHistory, b: DeviceHistory
) -> tuple[Figure, ...]:
    bases = basis_of(a), basis_of(b)
    return tuple(Figure(name, mine[name], others[name], *bases) for name in mine)


def _all_of(device: DeviceHistory) -> dict[str, Optional[int]]:
    outcome = asdict(recorded_outcome(device.history))
    first = outcome.pop("first_oom")
    # A snapshot without history states what is there, and nothing of what was.
    known = {
        name: value if device.has_events or name.startswith("final_") else None
        for name, value in outcome.items()
    }
    return {**known, "first_oom_alloc_index": first["alloc_index"] if first else None}


def until(history: History, state: int) -> dict[str, Optional[int]]:
    """The peaks and counts of the first ``state`` events, the start included."""
    start = history.heap_after(0).stats[0]
    effects, events = history.effects[:state], history.recording.events.action[:state]
    peaks: dict[str, Optional[int]] = {
        f"peak_{name}_bytes": _peak(effects[f"{name}_bytes"], int(start[f"{name}_bytes"])) for name in PEAKS
    }
    return {
        **peaks,
        "num_alloc_retries": sum(
            burst.cause == CAUSE_RETRY and burst.stop < state and events[burst.stop] != OOM
            for burst in history.bursts
        ),
        "num_ooms": int((events == OOM).sum()),
        "segments_allocated": int((events == SEGMENT_ALLOC).sum()),
        "segments_freed": int((events == SEGMENT_FREE).sum()),
    }


def _peak(values: NDArray[np.int64], start: int) -> int:
    return max(int(values.max()), start) if len(values) else start
