"""What happened once, as marks on the timeline: out-of-memory errors, retries, releases, annotations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.heap_layout import (
    CAUSE_EMPTY_CACHE,
    CAUSE_GARBAGE_COLLECTION,
    CAUSE_RELEASE_AVAILABLE,
    CAUSE_RETRY,
)
from oomdoctor.allocator.history import History
from oomdoctor.snapshot.model import OOM, SEGMENT_FREE, SEGMENT_UNMAP
from oomdoctor.units import format_bytes
from oomdoctor_dashboard.timeline_data import Timeline

KINDS = ("oom", "retry", "garbage_collection", "empty_cache", "annotation")
NAMES = {
    "oom": "out of memory",
    "retry": "retry",
    "garbage_collection": "garbage collection",
    "empty_cache": "empty_cache",
    "annotation": "annotation",
}
_OF_CAUSE = {
    CAUSE_RETRY: "retry",
    CAUSE_RELEASE_AVAILABLE: "retry",
    CAUSE_GARBAGE_COLLECTION: "garbage_collection",
    CAUSE_EMPTY_CACHE: "empty_cache",
}


@dataclass(frozen=True)
class Marks:
    """All of one kind, in their order.

    Attributes:
        kind: one of KINDS.
        after: int64[m], the state in which each is done: after so many events.
        bytes: int64[m], asked for or given back; -1 for annotations.
        free_bytes: int64[m], of an out-of-memory error, what the device had free; -1 otherwise.
        names: of annotations; empty otherwise.
    """

    kind: str
    after: NDArray[np.int64]
    bytes: NDArray[np.int64]
    free_bytes: NDArray[np.int64]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.after)

    def text(self, row: int) -> str:
        """One of them in words."""
        size = format_bytes(int(self.bytes[row]))
        if self.kind == "annotation":
            return self.names[row]
        if self.kind == "oom":
            free = f", the device had {format_bytes(int(self.free_bytes[row]))} free"
            return f"out of memory: {size} were asked for" + (free if self.free_bytes[row] >= 0 else "")
        why = {
            "retry": "retry: an allocation found no room, the allocator gave back",
            "garbage_collection": "garbage collection gave back",
            "empty_cache": "empty_cache() or the end of a pool gave back",
        }
        return f"{why[self.kind]} {size}"


def marks_of(history: History, timeline: Timeline) -> tuple[Marks, ...]:
    """The marks of a recording, by kind; kinds that do not occur are left out.

    Why segments went is what :mod:`oomdoctor.allocator.releases` makes of the trace.
    """
    found = [_ooms(history), *_releases(history), _annotations(history, timeline)]
    return tuple(marks for marks in found if len(marks))


def _ooms(history: History) -> Marks:
    events = history.recording.events
    at = np.flatnonzero(events.action == OOM).astype(np.int64)
    return Marks("oom", at + 1, events.entry_size[at], events.address[at])


def _releases(history: History) -> list[Marks]:
    events = history.recording.events
    gone = (events.action == SEGMENT_FREE) | (events.action == SEGMENT_UNMAP)
    # Bytes given back before each event.
    before = np.concatenate([[0], np.cumsum(np.where(gone, events.entry_size, 0))])
    out = []
    for kind in ("retry", "garbage_collection", "empty_cache"):
        bursts = [burst for burst in history.bursts if _OF_CAUSE.get(burst.cause) == kind]
        start = np.array([burst.start for burst in bursts], np.int64)
        stop = np.array([burst.stop for burst in bursts], np.int64)
        out.append(Marks(kind, stop, before[stop] - before[start], np.full(len(stop), -1, np.int64)))
    return out


def _annotations(history: History, timeline: Timeline) -> Marks:
    recording = history.recording
    # Those of no device are of all.
    mine = [
        one
        for one in recording.snapshot.annotations
        if one.device in (recording.device, -1) and one.time_us >= 0
    ]
    if not timeline.has_times:
        mine = []
    mine.sort(key=lambda one: one.time_us)
    when = np.array([one.time_us for one in mine], np.int64)
    after = np.searchsorted(recording.events.time_us, when, side="right").astype(np.int64)
    none = np.full(len(mine), -1, np.int64)
    names = tuple(f"{one.name} {one.stage}".strip()[:80] for one in mine)
    return Marks("annotation", after, none, none, names)


@dataclass(frozen=True)
class Thinned:
    """Of the marks that would fall on one another the first.

    Attributes:
        after: int64[m].
        position: number[m], on the axis.
        texts: a line each, which says how many more there are.
    """

    kind: str
    after: NDArray[np.int64]
    position: NDArray[Any]
    texts: tuple[str, ...]


def thinned(marks: Marks, timeline: Timeline, low: int, high: int, columns: int, over_time: bool) -> Thinned:
    """The marks of a window, one a column."""
    first, stop = np.searchsorted(marks.after, [low, high + 1])
    rows = np.arange(first, stop)
    after = marks.after[rows]
    position = timeline.positions(after, over_time)
    left, right = timeline.positions(np.array([low, high]), over_time)
    column = np.floor((position - left) / max(right - left, 1e-9) * columns).astype(np.int64)
    _, heads, counts = np.unique(column, return_index=True, return_counts=True)
    texts = tuple(
        marks.text(row) + (f" (and {count - 1:,} more beside it)" if count > 1 else "")
        for row, count in zip(rows[heads].tolist(), counts.tolist())
    )
    return Thinned(marks.kind, after[heads], position[heads], texts)
