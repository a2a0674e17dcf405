"""Where no setting helps: how much is missing, and what holds the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.history import History, table_of
from oomdoctor.diagnosis.by_stack import Place, places
from oomdoctor.snapshot.model import OOM
from oomdoctor.snapshot.stacks import NO_STACK


@dataclass(frozen=True)
class Holder:
    """Live blocks of one place in the code, when memory ran out."""

    place: Place
    blocks: int
    bytes: int


@dataclass(frozen=True)
class Shortfall:
    """What a device would have needed.

    Attributes:
        live_bytes: held by live blocks when memory ran out first.
        requested_bytes: what was asked for then.
        missing_bytes: how much more memory both together take than there is; 0: it is not capacity alone.
        holders: what lived, most bytes first.
    """

    live_bytes: int
    requested_bytes: int
    missing_bytes: int
    holders: tuple[Holder, ...]


def shortfall(history: History, capacity: Optional[int]) -> Optional[Shortfall]:
    """At the first recorded out-of-memory error; None where there is none."""
    events = history.recording.events
    ooms = np.flatnonzero(events.action == OOM)
    if not len(ooms):
        return None
    first = int(ooms[0])
    table = table_of(history.heap_after(first))
    live = table[((table["allocated"] == 1) | (table["pending"] == 1))]
    stacks = _stacks(history, live["alloc_event"])
    found, index = places(history.recording.snapshot.stacks, stacks)
    counts = np.bincount(index, minlength=len(found))
    sizes = np.zeros(len(found), np.int64)
    np.add.at(sizes, index, live["size"])
    order = sorted(range(len(found)), key=lambda i: (-int(sizes[i]), i))
    held, wanted = int(live["size"].sum()), int(events.entry_size[first])
    return Shortfall(
        live_bytes=held,
        requested_bytes=wanted,
        missing_bytes=max(held + wanted - capacity, 0) if capacity is not None else 0,
        holders=tuple(Holder(found[i], int(counts[i]), int(sizes[i])) for i in order),
    )


def _stacks(history: History, births: NDArray[np.int64]) -> NDArray[np.int32]:
    """Where blocks were allocated, int32, by their births."""
    n = len(history.recording)
    older = dict(zip(history.initial.blocks.birth.tolist(), history.initial.blocks.stack.tolist()))
    return np.array(
        [
            int(history.recording.events.stack[birth]) if 0 <= birth < n else older.get(birth, NO_STACK)
            for birth in births.tolist()
        ],
        np.int32,
    )
