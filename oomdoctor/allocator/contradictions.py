"""Whether the segments of a recording can have been: none comes where one is, none goes that is not there.

A sound recording never fails this, and its replay need not look. That of a damaged one looks before each
segment, which takes longer.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from oomdoctor.allocator.initial import Piece
from oomdoctor.allocator.recording import Recording
from oomdoctor.snapshot.model import SEGMENT_ALLOC, SEGMENT_FREE, SEGMENT_MAP, SEGMENT_UNMAP


class _Reserved:
    """The stretches of addresses that are reserved, by address; mapped ones that touch are one."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._mapped: list[bool] = []
        for piece in pieces:
            self.add(piece.start, piece.end, piece.expandable)

    def add(self, start: int, end: int, mapped: bool) -> bool:
        """False where something is there already."""
        at = bisect_right(self._starts, start)
        if start >= end or (at and self._ends[at - 1] > start):
            return False
        if at < len(self._starts) and self._starts[at] < end:
            return False
        if mapped and at and self._mapped[at - 1] and self._ends[at - 1] == start:
            self._ends[at - 1] = end
            at -= 1
        else:
            self._put(at, start, end, mapped)
        following = at + 1 < len(self._starts) and self._mapped[at + 1] and self._starts[at + 1] == end
        if mapped and following:
            self._ends[at] = self._ends[at + 1]
            self._drop(at + 1)
        return True

    def remove(self, start: int, end: int, mapped: bool) -> bool:
        """False where that is not there."""
        at = bisect_right(self._starts, start) - 1
        if at < 0 or start >= end or self._ends[at] < end or self._mapped[at] != mapped:
            return False
        first, last = self._starts[at], self._ends[at]
        if not mapped and (first, last) != (start, end):
            return False
        self._drop(at)
        if end < last:
            self._put(at, end, last, mapped)
        if first < start:
            self._put(at, first, start, mapped)
        return True

    def _put(self, at: int, start: int, end: int, mapped: bool) -> None:
        self._starts.insert(at, start)
        self._ends.insert(at, end)
        self._mapped.insert(at, mapped)

    def _drop(self, at: int) -> None:
        del self._starts[at], self._ends[at], self._mapped[at]


class UsedAddresses:
    """All that has been reserved at some time, whether or not it was given back."""

    def __init__(self, ranges: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> bool:
        """Whether some of it had been used before."""
        first = bisect_right(self._ends, start)
        stop = bisect_left(self._starts, end, lo=first)
        start, end = min([start, *self._starts[first:stop]]), max([end, *self._ends[first:stop]])
        self._starts[first:stop], self._ends[first:stop] = [start], [end]
        return stop > first


def segments_contradict(recording: Recording, pieces: Sequence[Piece]) -> bool:
    """Whether some segment event cannot be, after those before it.

    Args:
        pieces: what was reserved when the trace began.
    """
    events = recording.events
    reserved = _Reserved(pieces)
    comes = (SEGMENT_ALLOC, SEGMENT_MAP)
    rows = np.flatnonzero(np.isin(events.action, (*comes, SEGMENT_FREE, SEGMENT_UNMAP)))
    columns = (events.action[rows], events.address[rows], events.entry_size[rows])
    for action, start, size in zip(*(column.tolist() for column in columns)):
        mapped = action in (SEGMENT_MAP, SEGMENT_UNMAP)
        change = reserved.add if action in comes else reserved.remove
        if not change(start, start + size, mapped):
            return True
    return False
