"""A heap as a person sees it: segments tiled by blocks, by address.

A segment is what a snapshot lists as one (``DeviceCachingAllocator::snapshot``): a cudaMalloc, or a stretch
of an expandable segment that is mapped without a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.constants import SMALL_BUFFER
from oomdoctor.allocator.heap_layout import NULL, Heap
from oomdoctor.allocator.history import table_of
from oomdoctor.snapshot.model import ACTIVE_ALLOCATED, ACTIVE_PENDING_FREE, INACTIVE


@dataclass(frozen=True)
class Layout:
    """The mapped memory of one device at one moment.

    Attributes:
        blocks: BLOCK[m] of :mod:`oomdoctor.allocator.heap_layout`, by address; neither unmapped memory nor
            blocks that contradict the recording's segments.
        state: uint8[m], index in ``STATES`` of :mod:`oomdoctor.snapshot.model`.
        segment: int64[m], the segment of each block.
        first_block: int64[s + 1]; the blocks of segment i are rows ``first_block[i]:first_block[i + 1]``.
        room: int64[m], bytes of the free and unmapped memory around a free block of an expandable segment,
            its own included, where some of it is unmapped and can be mapped for a request; else 0.
        releasable: int64[m], bytes of a free block that the allocator can give back without freeing anything:
            all of it where it is a whole segment, else the whole handles of an expandable one. Memory of
            private pools that somebody uses is none.
        phantoms: bytes of blocks that contradict the recording's segments.
    """

    blocks: NDArray[Any]
    state: NDArray[np.uint8]
    segment: NDArray[np.int64]
    first_block: NDArray[np.int64]
    room: NDArray[np.int64]
    releasable: NDArray[np.int64]
    phantoms: int
    heap: Heap

    @property
    def segments(self) -> int:
        """How many."""
        return len(self.first_block) - 1

    @property
    def live(self) -> NDArray[np.bool_]:
        """bool[m]: allocated, or freed and waiting for another stream."""
        mask: NDArray[np.bool_] = self.state != INACTIVE
        return mask

    @property
    def expandable(self) -> NDArray[np.bool_]:
        """bool[m]: of an expandable segment."""
        mask: NDArray[np.bool_] = self.blocks["expandable_segment"] != NULL
        return mask

    @property
    def private_pool(self) -> NDArray[np.int32]:
        """int32[m]: number of the private pool, 0 for the default ones."""
        numbers: NDArray[np.int32] = self.heap.pools["private_pool"][self.blocks["pool"]]
        return numbers

    @property
    def is_small(self) -> NDArray[np.bool_]:
        """bool[m]: of the small pool."""
        mask: NDArray[np.bool_] = self.heap.pools["is_small"][self.blocks["pool"]] == 1
        return mask

    @property
    def in_hole(self) -> NDArray[np.bool_]:
        """bool[m]: free, in a segment that holds a live block."""
        in_use = np.zeros(self.segments, np.bool_)
        in_use[self.segment[self.live]] = True
        mask: NDArray[np.bool_] = ~self.live & in_use[self.segment]
        return mask

    def per_segment(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[s]: sums of int64[m]."""
        if not self.segments:
            return np.empty(0, np.int64)
        sums: NDArray[np.int64] = np.add.reduceat(values, self.first_block[:-1])
        return sums


def layout_of(heap: Heap) -> Layout:
    """The segments and blocks of a heap."""
    table = table_of(heap)
    phantom = table["phantom"] == 1
    phantoms = int(table["size"][phantom].sum())
    table = table[~phantom]
    mapped = table["mapped"] == 1
    room = _room(table)[mapped]
    blocks = table[mapped]
    state = np.full(len(blocks), INACTIVE, np.uint8)
    state[blocks["pending"] == 1] = ACTIVE_PENDING_FREE
    state[blocks["allocated"] == 1] = ACTIVE_ALLOCATED
    first_block = np.append(np.flatnonzero(_starts(blocks)), len(blocks)).astype(np.int64)
    segment = np.repeat(np.arange(len(first_block) - 1), np.diff(first_block)).astype(np.int64)
    return Layout(
        blocks=blocks,
        state=state,
        segment=segment,
        first_block=first_block,
        room=room,
        releasable=_releasable(heap, blocks, state),
        phantoms=phantoms,
        heap=heap,
    )


def _starts(blocks: NDArray[Any]) -> NDArray[np.bool_]:
    """Which blocks begin a segment: nothing before them, or something unmapped."""
    starts: NDArray[np.bool_] = blocks["prev"] == NULL
    if len(blocks):
        gap = blocks["ptr"][1:] != blocks["ptr"][:-1] + blocks["size"][:-1]
        other = blocks["expandable_segment"][1:] != blocks["expandable_segment"][:-1]
        starts[1:] |= gap | other
        starts[0] = True
    return starts


def _room(table: NDArray[Any]) -> NDArray[np.int64]:
    """See ``Layout.room``; for every row of a table that includes unmapped memory."""
    room = np.zeros(len(table), np.int64)
    if not len(table):
        return room
    idle = (table["allocated"] == 0) & (table["pending"] == 0) & (table["expandable_segment"] != NULL)
    joined = np.zeros(len(table), np.bool_)
    joined[1:] = idle[1:] & idle[:-1] & (table["expandable_segment"][1:] == table["expandable_segment"][:-1])
    run = np.cumsum(~joined) - 1
    size = np.zeros(run[-1] + 1, np.int64)
    np.add.at(size, run, table["size"])
    can_grow = np.zeros(run[-1] + 1, np.bool_)
    can_grow[run[idle & (table["mapped"] == 0)]] = True
    rows = idle & can_grow[run]
    room[rows] = size[run[rows]]
    return room


def _releasable(heap: Heap, blocks: NDArray[Any], state: NDArray[np.uint8]) -> NDArray[np.int64]:
    """See ``Layout.releasable``; ``release_cached_blocks`` and ``unmap_block``."""
    out = np.zeros(len(blocks), np.int64)
    pools = heap.pools[blocks["pool"]]
    may = (state == INACTIVE) & ((pools["private_pool"] == 0) | (pools["freeable"] == 1))
    expandable = blocks["expandable_segment"] != NULL
    whole = may & ~expandable & (blocks["prev"] == NULL) & (blocks["next"] == NULL)
    out[whole] = blocks["size"][whole]
    rows = np.flatnonzero(may & expandable)
    handle = np.where(
        pools["is_small"][rows] == 1, SMALL_BUFFER, int(heap.config["large_segment_size"][0])
    ).astype(np.int64)
    begin = blocks["ptr"][rows] - heap.expandable["start"][blocks["expandable_segment"][rows]]
    end = begin + blocks["size"][rows]
    first, last = -(-begin // handle) * handle, end // handle * handle
    out[rows] = np.maximum(last - first, 0)
    return out
