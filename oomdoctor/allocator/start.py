"""A heap that holds what was there before the first event."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.compiled import compiled_entry
from oomdoctor.allocator.heap import insert_into_blocks, new_block, new_segment_counter, unmapped_insert
from oomdoctor.allocator.heap_layout import FIRST_PRIVATE, NULL, Heap, new_heap
from oomdoctor.allocator.initial import ALLOCATED, FREE, PENDING, UNMAPPED, InitialState

_ROW = np.dtype(
    [
        ("ptr", np.int64), ("size", np.int64), ("requested_size", np.int64), ("birth", np.int64),
        ("pool", np.int64), ("stream", np.int64), ("expandable_segment", np.int64),
        ("kind", np.uint8), ("first", np.uint8),
    ]
)  # fmt: skip


def started_heap(config: NDArray[Any], private_pools: int, initial: InitialState) -> Heap:
    """The heap at the beginning of the trace."""
    rows = _rows(initial)
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


def _rows(initial: InitialState) -> NDArray[Any]:
    """Blocks, free memory between them and unmapped memory of expandable segments, by address."""
    by_piece: dict[int, list[int]] = {}
    for block, piece in enumerate(initial.blocks.piece.tolist()):
        by_piece.setdefault(piece, []).append(block)
    rows: list[tuple[int, ...]] = []
    reserve = -1
    cursor = 0  # up to where the current expandable segment is laid out
    for number, piece in enumerate(initial.pieces):
        pool = _pool(piece.private_pool, piece.is_small)
        segment = NULL
        first = True
        if piece.expandable:
            segment = _reserve_of(initial.reserves, piece.start)
            if segment != reserve:
                _close(rows, initial.reserves, reserve, cursor)
                cursor = initial.reserves[segment][0]
                reserve = segment
            else:
                first = False
            if cursor < piece.start:
                rows.append(
                    (cursor, piece.start - cursor, 0, -1, pool, piece.stream, segment, UNMAPPED, first)
                )
                first = False
        at = piece.start
        for block in by_piece.get(number, []):
            address = int(initial.blocks.address[block])
            if at < address:
                rows.append((at, address - at, 0, -1, pool, piece.stream, segment, FREE, first))
                first = False
            size = int(initial.blocks.block_size[block])
            requested, birth = int(initial.blocks.requested_size[block]), int(initial.blocks.birth[block])
            rows.append(
                (
                    address,
                    size,
                    requested,
                    birth,
                    pool,
                    piece.stream,
                    segment,
                    int(initial.blocks.state[block]),
                    first,
                )
            )
            first = False
            at = address + size
        if at < piece.end:
            rows.append((at, piece.end - at, 0, -1, pool, piece.stream, segment, FREE, first))
        cursor = piece.end if piece.expandable else cursor
    _close(rows, initial.reserves, reserve, cursor)
    return np.array(rows, dtype=_ROW) if rows else np.empty(0, _ROW)


def _close(
    rows: list[tuple[int, ...]], reserves: tuple[tuple[int, int], ...], reserve: int, cursor: int
) -> None:
    """The unmapped rest of an expandable segment, whose last row is somewhere above."""
    if reserve < 0 or cursor >= reserves[reserve][1]:
        return
    last = max(i for i, row in enumerate(rows) if row[6] == reserve)
    pool, stream = rows[last][4], rows[last][5]
    row = (cursor, reserves[reserve][1] - cursor, 0, -1, pool, stream, reserve, UNMAPPED, False)
    rows.insert(last + 1, row)


def _reserve_of(reserves: tuple[tuple[int, int], ...], address: int) -> int:
    return next(i for i, (start, end) in enumerate(reserves) if start <= address < end)


@compiled_entry
def _build(heap: Heap, rows: NDArray[Any]) -> None:
    stats = heap.stats[0]
    previous = NULL
    counter = 0
    for i in range(len(rows)):
        row = rows[i]
        if row.first:
            counter = new_segment_counter(heap)
        b = new_block(heap, row.stream, row.size, row.pool, row.ptr, counter)
        block = heap.blocks[b]
        block.expandable_segment = row.expandable_segment
        if row.expandable_segment != NULL:
            stats.expandable_segments = max(stats.expandable_segments, row.expandable_segment + 1)
            heap.expandable[row.expandable_segment].alive = 1
            heap.expandable[row.expandable_segment].counter = counter
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
