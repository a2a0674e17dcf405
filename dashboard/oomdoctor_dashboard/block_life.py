"""The whole life of a block, and of a segment, from a recording: where it came from and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.constants import SMALL_SIZE
from oomdoctor.allocator.heap_layout import CAUSES
from oomdoctor.allocator.history import History
from oomdoctor.snapshot.model import (
    ALLOC,
    FREE_COMPLETED,
    FREE_REQUESTED,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    UNKNOWN,
)

_COMES, _GOES = (SEGMENT_ALLOC, SEGMENT_MAP), (SEGMENT_FREE, SEGMENT_UNMAP)


@dataclass(frozen=True)
class BlockLife:
    """One block from its allocation to its free. Events are numbered from 0; event n is seen after n + 1.

    Attributes:
        birth: its number, see :mod:`oomdoctor.allocator.recording`.
        allocated: the event; None where it is older than the trace.
        address, requested_bytes, block_bytes: where it lies, what was asked for, what was handed out.
        is_bounded: its size is the least that it can have; so it is with some that are older than the trace.
        stack: where it was allocated; NO_STACK.
        stream: rank of the stream.
        private_pool: its number, 0 for the default pools.
        is_small: of the small pool.
        split_from_bytes: the free block that it was cut from; None where it is older than the trace.
        remainder_bytes: what was split off behind it and stayed free.
        segment_event: the segment that came for its sake; None where cached memory served.
        free_requested, free_completed: the events; None where there is none in the trace.
        is_deferred: other events lie between the two: another stream was waited for.
        merged_before_bytes, merged_after_bytes: the free neighbours that it became one with.
        lived_us: until its memory was free again, microseconds; None where not known, or it still lives.
    """

    birth: int
    allocated: Optional[int]
    address: int
    requested_bytes: int
    block_bytes: int
    is_bounded: bool
    stack: int
    stream: int
    private_pool: int
    is_small: bool
    split_from_bytes: Optional[int]
    remainder_bytes: int
    segment_event: Optional[int]
    free_requested: Optional[int]
    free_completed: Optional[int]
    is_deferred: bool
    merged_before_bytes: int
    merged_after_bytes: int
    lived_us: Optional[int]

    @property
    def merged_bytes(self) -> int:
        """The free block that it ended in."""
        return self.merged_before_bytes + self.block_bytes + self.merged_after_bytes

    @property
    def lived_events(self) -> Optional[int]:
        """Events from its allocation to where its memory was free again."""
        if self.allocated is None or self.free_completed is None:
            return None
        return self.free_completed - self.allocated


@dataclass(frozen=True)
class SegmentLife:
    """A segment, or the part of an expandable one, that an address lies in.

    Attributes:
        came, went: the events; None where it is older than the trace, or still there at its end.
        came_cause, went_cause: why, of ``CAUSES`` in :mod:`oomdoctor.allocator.heap_layout`; "" for None.
        address, bytes: of what came or went; 0 where neither is in the trace.
    """

    came: Optional[int]
    came_cause: str
    went: Optional[int]
    went_cause: str
    address: int
    bytes: int


class Lives:
    """All blocks of a recording by where they lay; made once, then asked often.

    Attributes:
        birth, address, block_bytes: int64[k], blocks older than the trace first, then by allocation.
        begun: int64[k], the event of the allocation; -1: older.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        recording, older = history.recording, history.initial.blocks
        action = recording.events.action
        allocs = np.flatnonzero(action == ALLOC)
        order = np.argsort(older.birth, kind="stable")
        self._older_births = older.birth[order]
        self._older_rows = order
        self.birth: NDArray[np.int64] = np.concatenate([older.birth, allocs]).astype(np.int64)
        self.begun: NDArray[np.int64] = np.concatenate([np.full(len(older), -1), allocs]).astype(np.int64)
        self.address: NDArray[np.int64] = np.concatenate([older.address, recording.events.address[allocs]])
        self.block_bytes: NDArray[np.int64] = np.concatenate(
            [older.block_size, history.effects["block_size"][allocs]]
        )
        self._allocs = allocs
        self._frees = {}
        for kind in (FREE_REQUESTED, FREE_COMPLETED):
            events = np.flatnonzero(action == kind)
            by_birth = np.full(max(history.births, 1), -1, np.int64)
            births = recording.birth[events]
            by_birth[births[births >= 0]] = events[births >= 0]
            self._frees[kind] = by_birth
        self._segment_events = np.flatnonzero(np.isin(action, _COMES + _GOES))

    def row(self, birth: int) -> int:
        """The row of a block.

        Raises:
            KeyError: no block has this birth.
        """
        n = len(self.history.recording)
        births, rows = (self._allocs, None) if birth < n else (self._older_births, self._older_rows)
        at = int(np.searchsorted(births, birth))
        if at == len(births) or births[at] != birth:
            raise KeyError(f"no block was allocated with event {birth}")
        return int(rows[at]) if rows is not None else at + len(self._older_births)

    def begun_of(self, birth: int) -> int:
        """The event that a block was allocated with; -1 where it is older than the trace, or not known."""
        return birth if birth < len(self.history.recording) else -1

    def before(self, address: int, size: int, birth: Optional[int], event: int) -> Optional[int]:
        """The last block on some of these bytes, allocated before ``event``; ``birth`` is left out."""
        rows = np.flatnonzero(self._overlaps(address, size, birth) & (self.begun < event))
        return int(rows[-1]) if len(rows) else None

    def after(self, address: int, size: int, birth: Optional[int], event: int) -> Optional[int]:
        """The first one allocated with ``event`` or later."""
        rows = np.flatnonzero(self._overlaps(address, size, birth) & (self.begun >= event))
        return int(rows[0]) if len(rows) else None

    def _overlaps(self, address: int, size: int, birth: Optional[int]) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self.address < address + max(size, 1)
        mask &= self.address + self.block_bytes > address
        if birth is not None:
            mask &= self.birth != birth
        return mask

    def life(self, row: int) -> BlockLife:
        """The life of a block by its row."""
        history = self.history
        recording, effects = history.recording, history.effects
        birth, begun = int(self.birth[row]), int(self.begun[row])
        requested, completed = (_event(self._frees[kind][birth]) for kind in (FREE_REQUESTED, FREE_COMPLETED))
        block_bytes = int(self.block_bytes[row])
        if begun >= 0:
            asked = int(recording.events.entry_size[begun])
            stream, private_pool = int(recording.stream[begun]), int(effects["private_pool"][begun])
            is_small, bounded = -(-asked // 512) * 512 <= SMALL_SIZE, False
        else:
            older = history.initial.blocks
            piece = history.initial.pieces[int(older.piece[row])]
            asked, bounded = int(older.requested_size[row]), bool(older.uncertain[row])
            stream, private_pool, is_small = piece.stream, piece.private_pool, piece.is_small
        remainder = int(effects["split_remainder"][begun]) if begun >= 0 else 0
        times = recording.events.time_us
        lived = None
        if begun >= 0 and completed is not None and UNKNOWN not in (times[begun], times[completed]):
            lived = int(times[completed] - times[begun])
        merged = effects[completed] if completed is not None else None
        return BlockLife(
            birth=birth,
            allocated=begun if begun >= 0 else None,
            address=int(self.address[row]),
            requested_bytes=asked,
            block_bytes=block_bytes,
            is_bounded=bounded,
            stack=int(history.stack_of_birth[birth]),
            stream=stream,
            private_pool=private_pool,
            is_small=is_small,
            split_from_bytes=block_bytes + remainder if begun >= 0 else None,
            remainder_bytes=remainder,
            segment_event=self._segment_for(begun),
            free_requested=requested,
            free_completed=completed,
            is_deferred=requested is not None and completed is not None and completed != requested + 1,
            merged_before_bytes=int(merged["merged_before"]) if merged is not None else 0,
            merged_after_bytes=int(merged["merged_after"]) if merged is not None else 0,
            lived_us=lived,
        )

    def _segment_for(self, begun: int) -> Optional[int]:
        """The segment, or part of one, that came right before an allocation: it was asked for then."""
        events = self.history.recording.events
        before = begun - 1
        if before < 0 or events.action[before] not in _COMES:
            return None
        inside = events.address[before] <= events.address[begun]
        # A part mapped behind a free block serves it together with that.
        behind = events.address[before] < events.address[begun] + self.history.effects["block_size"][begun]
        of_segment = events.action[before] == SEGMENT_MAP or inside
        return before if of_segment and behind else None

    def segment(self, address: int, event: int) -> SegmentLife:
        """The segment at an address after so many events."""
        events, causes = self.history.recording.events, self.history.causes
        rows = self._segment_events
        start, size = events.address[rows], events.entry_size[rows]
        rows = rows[(start <= address) & (address < start + size)]
        comes = np.isin(events.action[rows], _COMES)
        past, coming = rows[rows < event], rows[rows >= event]
        came = int(past[-1]) if len(past) and comes[len(past) - 1] else None
        went = int(coming[0]) if len(coming) and not comes[len(past)] else None
        told = came if came is not None else went
        return SegmentLife(
            came=came,
            came_cause=CAUSES[causes[came]] if came is not None else "",
            went=went,
            went_cause=CAUSES[causes[went]] if went is not None else "",
            address=int(events.address[told]) if told is not None else 0,
            bytes=int(events.entry_size[told]) if told is not None else 0,
        )


def _event(number: int) -> Optional[int]:
    return int(number) if number >= 0 else None
