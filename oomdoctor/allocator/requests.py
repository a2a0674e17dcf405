"""The same requests under other conditions: the heap decides everything the recording does not order.

From the recording come the program's own acts, in their places: requests, frees, when a free of another
stream's block completed, empty_cache(). Segments, retries and garbage collection are the heap's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.compiled import compiled_entry
from oomdoctor.allocator.heap import (
    empty_cache,
    empty_pool,
    free,
    free_completed,
    free_requested,
    has_room,
    malloc,
)
from oomdoctor.allocator.heap_layout import FIRST_PRIVATE, NULL, Heap

# What a request does.
(
    OP_ALLOC,
    OP_FREE,  # completed at once
    OP_FREE_REQUESTED,  # completes later
    OP_FREE_COMPLETED,
    OP_FAILED_ALLOC,  # ran out of memory in the recording: if it does not now, nobody keeps the block
    OP_EMPTY_CACHE,
    OP_POOL_FREEABLE,  # the last user of a private pool is gone
    OP_EMPTY_POOL,  # empty_cache() of one private pool, as its end does
) = range(8)


class Requests(NamedTuple):
    """What the program asked of the allocator, one row per act.

    Attributes:
        op: uint8[m].
        event: int64[m], where in the recording.
        birth: int64[m], of the block concerned; -1 for none.
        requested_size: int64[m], bytes.
        stream: int64[m], rank of the handle.
        private_pool: int64[m], 0 for the default pools.
        capturing: uint8[m], whether cached blocks may not be released for it.
    """

    op: NDArray[np.uint8]
    event: NDArray[np.int64]
    birth: NDArray[np.int64]
    requested_size: NDArray[np.int64]
    stream: NDArray[np.int64]
    private_pool: NDArray[np.int64]
    capturing: NDArray[np.uint8]

    @property
    def acts(self) -> int:
        """How many."""
        return len(self.op)


# The totals after each act.
TOTALS = np.dtype(
    [
        ("allocated_bytes", np.int64),
        ("active_bytes", np.int64),
        ("requested_bytes", np.int64),
        ("reserved_bytes", np.int64),
        ("inactive_split_bytes", np.int64),
    ]
)


@compiled_entry
def run_requests(
    heap: Heap,
    requests: Requests,
    block_of: NDArray[np.int64],
    totals: NDArray[Any],
    start: int,
    stops_at_oom: bool,
) -> tuple[int, bool]:
    """Run from ``start``; returns where it stopped, and whether out of memory there.

    It also stops where the heap needs more room, to be called again with a larger one.

    Args:
        block_of: int64[births], the row of each block by its birth; kept up to date.
        totals: TOTALS[m], or of length 0: not wanted.
    """
    stats = heap.stats[0]
    count = len(requests.op)
    for i in range(start, count):
        if not has_room(heap):
            return i, False
        op = requests.op[i]
        birth = requests.birth[i]
        stats.event = requests.event[i]
        if op in (OP_ALLOC, OP_FAILED_ALLOC):
            if requests.private_pool[i]:
                first = FIRST_PRIVATE + 2 * (requests.private_pool[i] - 1)
                heap.pools[first].freeable = 0
                heap.pools[first + 1].freeable = 0
            b = malloc(
                heap,
                requests.requested_size[i],
                requests.stream[i],
                requests.private_pool[i],
                bool(requests.capturing[i]),
            )
            if b < 0:
                if stops_at_oom:
                    return i, True
            elif op == OP_ALLOC:
                block_of[birth] = b
                heap.blocks[b].alloc_event = birth
            else:
                free(heap, b)
        elif op in (OP_FREE, OP_FREE_REQUESTED):
            b = block_of[birth]
            # A damaged recording may free a block twice.
            if b != NULL and heap.blocks[b].alloc_event == birth and heap.blocks[b].allocated:
                if op == OP_FREE:
                    block_of[birth] = NULL
                    free(heap, b)
                else:
                    free_requested(heap, b)
        elif op == OP_FREE_COMPLETED:
            b = block_of[birth]
            block_of[birth] = NULL
            # A retry of ours may have waited for it before.
            if b != NULL:
                block = heap.blocks[b]
                if block.used and block.pending and block.alloc_event == birth:
                    free_completed(heap, b)
        elif op == OP_EMPTY_CACHE:
            empty_cache(heap)
        elif op == OP_POOL_FREEABLE:
            first = FIRST_PRIVATE + 2 * (requests.private_pool[i] - 1)
            heap.pools[first].freeable = 1
            heap.pools[first + 1].freeable = 1
        elif op == OP_EMPTY_POOL:
            empty_pool(heap, FIRST_PRIVATE + 2 * (requests.private_pool[i] - 1))
        if len(totals):
            row = totals[i]
            row.allocated_bytes = stats.allocated_bytes
            row.active_bytes = stats.active_bytes
            row.requested_bytes = stats.requested_bytes
            row.reserved_bytes = stats.reserved_bytes
            row.inactive_split_bytes = stats.inactive_split_bytes
    return count, False
