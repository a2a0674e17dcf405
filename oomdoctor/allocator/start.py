"""A heap that holds what was there before the first event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.compiled import compiled_entry
from oomdoctor.allocator.heap import insert_into_blocks, new_block, unmapped_insert
from oomdoctor.allocator.heap_layout import FIRST_PRIVATE, NULL, Heap, new_heap
from oomdoctor.allocator.initial import ALLOCATED, FREE, PENDING, UNMAPPED, InitialState, Piece

_ROW = np.dtype(
    [
        ("ptr", np.int64), ("size", np.int64), ("requested_size", np.int64), ("birth", np.int64),
        ("pool", np.int64), ("stream", np.int64), ("expandable_segment", np.int64),
        ("counter", np.int64), ("kind", np.uint8), ("first", np.uint8),
    ]
)  # fmt: skip


def started_heap(
    config: NDArray[Any], private_pools: int, initial: InitialState, ranks: Sequence[int]
) -> Heap:
    """The heap at the beginning of the trace.

    Args:
        ranks: of the pieces of ``initial``, the oldest segment first.
    """
    rows = _rows(initial, ranks)
    reserves = [i for i, _ in enumerate(initial.reserves)]
    # One more than the recording names, for those that it does not name but shows.
    heap = new_heap(config, private_pools + 1, rows=max(1024, 4 * len(rows)))
    if len(reserves) + 8 > len(heap.expandable):
        heap = heap._replace(expandable=np.zeros(2 * len(reserves) + 16, heap.expandable.dtype))
    for i, (start, end) in enumerate(initial.reserves):
        heap.expandable[i]["start"] = start
        heap.expandable[i]["size"] = end - start
    _build(heap, rows)
    return heap


def _pool(private_pool: int, is_small: bool) -> int:
    return (FIRST_PRIVATE + 2 * (private_pool - 1) if private_pool else 0) + (0 if is_small else 1)


class _Layout:
    """Rows by address: blocks, free memory between them, unmapped memory of expandable segments."""

    def __init__(self, initial: InitialState, ranks: Sequence[int]) -> None:
        self.rows: list[tuple[int, ...]] = []
        self._initial = initial
        self._ranks = ranks
        # The expandable segment being laid out, and up to where it is.
        self._reserve = NULL
        self._cursor = 0
        self._counter = 0
        self._is_first = True

    def piece(self, number: int, blocks: Sequence[int]) -> None:
        """Lay out a piece of the initial state with the live blocks in it."""
        piece = self._initial.pieces[number]
        segment = NULL
        if piece.expandable:
            segment = _reserve_of(self._initial.reserves, piece.start)
        if segment == NULL or segment != self._reserve:
            self.close()
            self._counter = 1 + self._ranks[number]
            self._is_first = True
        if segment != NULL and segment != self._reserve:
            self._reserve = segment
            self._cursor = self._initial.reserves[segment][0]
        if segment != NULL and self._cursor < piece.start:
            self._add(piece, segment, self._cursor, piece.start, UNMAPPED)
        at = piece.start
        live = self._initial.blocks
        for block in blocks:
            address = int(live.address[block])
            end = address + int(live.block_size[block])
            if at < address:
                self._add(piece, segment, at, address, FREE)
            requested, birth = int(live.requested_size[block]), int(live.birth[block])
            self._add(piece, segment, address, end, int(live.state[block]), requested, birth)
            at = end
        if at < piece.end:
            self._add(piece, segment, at, piece.end, FREE)
        if segment != NULL:
            self._cursor = piece.end
            self._last = piece

    def close(self) -> None:
        """The unmapped rest of the expandable segment being laid out."""
        if self._reserve != NULL and self._cursor < self._initial.reserves[self._reserve][1]:
            end = self._initial.reserves[self._reserve][1]
            self._add(self._last, self._reserve, self._cursor, end, UNMAPPED)
        self._reserve = NULL

    def _add(
        self, piece: Piece, segment: int, start: int, end: int, kind: int, requested: int = 0, birth: int = -1
    ) -> None:
        pool = _pool(piece.private_pool, piece.is_small)
        self.rows.append(
            (
                *(start, end - start, requested, birth, pool, piece.stream, segment),
                *(self._counter, kind, self._is_first),
            )
        )
        self._is_first = False


def _rows(initial: InitialState, ranks: Sequence[int]) -> NDArray[Any]:
    by_piece: dict[int, list[int]] = {}
    for block, piece in enumerate(initial.blocks.piece.tolist()):
        by_piece.setdefault(piece, []).append(block)
    layout = _Layout(initial, ranks)
    for number in range(len(initial.pieces)):
        layout.piece(number, by_piece.get(number, []))
    layout.close()
    return np.array(layout.rows, dtype=_ROW) if layout.rows else np.empty(0, _ROW)


def _reserve_of(reserves: tuple[tuple[int, int], ...], address: int) -> int:
    return next(i for i, (start, end) in enumerate(reserves) if start <= address < end)


@compiled_entry
def _build(heap: Heap, rows: NDArray[Any]) -> None:
    stats = heap.stats[0]
    previous = NULL
    for i in range(len(rows)):
        row = rows[i]
        stats.segment_counter = max(stats.segment_counter, row.counter)
        b = new_block(heap, row.stream, row.size, row.pool, row.ptr, row.counter)
        block = heap.blocks[b]
        block.expandable_segment = row.expandable_segment
        if row.expandable_segment != NULL:
            stats.expandable_segments = max(stats.expandable_segments, row.expandable_segment + 1)
            heap.expandable[row.expandable_segment].alive = 1
            heap.expandable[row.expandable_segment].counter = row.counter
        if not row.first:
            block.prev = previous
            heap.blocks[previous].next = b
        previous = b
        if row.kind == UNMAPPED:
            block.mapped = 0
            unmapped_insert(heap, b)
            continue
        stats.reserved_bytes += row.size
        if row.kind == FREE:
            continue
        block.requested_size = row.requested_size
        block.alloc_event = row.birth
        stats.active_bytes += row.size
        stats.requested_bytes += row.requested_size
        if row.kind == ALLOCATED:
            block.allocated = 1
            stats.allocated_bytes += row.size
        elif row.kind == PENDING:
            block.pending = 1
            heap.pending[stats.pending_count] = b
            stats.pending_count += 1
    # The free ones go to the lists when all are linked, so that it shows which are split.
    for b in range(len(heap.blocks)):
        block = heap.blocks[b]
        if block.used and block.mapped and not block.allocated and not block.pending:
            insert_into_blocks(heap, b)
            if block.expandable_segment == NULL and (block.prev != NULL or block.next != NULL):
                stats.inactive_split += 1
                stats.inactive_split_bytes += block.size
    stats.total_allocated_memory = stats.reserved_bytes
    stats.driver_bytes = stats.reserved_bytes
    stats.peak_allocated_bytes = stats.allocated_bytes
    stats.peak_active_bytes = stats.active_bytes
    stats.peak_requested_bytes = stats.requested_bytes
    stats.peak_reserved_bytes = stats.reserved_bytes
    stats.peak_inactive_split_bytes = stats.inactive_split_bytes


@compiled_entry
def block_rows_of_births(heap: Heap, births: int) -> NDArray[Any]:
    """int64[births]: the row of each block that is there, by its birth; -1 for the others."""
    out = np.full(births, NULL, np.int64)
    for b in range(len(heap.blocks)):
        block = heap.blocks[b]
        if block.used and block.alloc_event >= 0:
            out[block.alloc_event] = b
    return out
