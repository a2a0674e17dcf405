"""The arrays that the compiled heap works on.

One row of ``blocks`` is one ``Block`` of ``c10/cuda/CUDACachingAllocator.cpp`` (torch 2.3 to 2.12 read); its
pointers are row numbers, -1 for null. The ``std::set`` of each ``BlockPool`` is a stretch of one sorted
array, ``free_blocks``: its comparator puts the pool first, then what PyTorch's compares.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NULL = -1

# The two BlockPools outside of private pools; private pool p has FIRST_PRIVATE + 2p (small) and the next
# (large).
SMALL_BLOCKS, LARGE_BLOCKS, FIRST_PRIVATE = 0, 1, 2

# Why a segment came or went, in ``Log.cause`` and ``History.cause``.
CAUSES = (
    "none",
    "new",
    "retry",
    "garbage_collection",
    "release_available",
    "empty_cache",
    "recorded",
    "unknown",
)
(
    CAUSE_NONE, CAUSE_NEW, CAUSE_RETRY, CAUSE_GARBAGE_COLLECTION, CAUSE_RELEASE_AVAILABLE, CAUSE_EMPTY_CACHE,
    CAUSE_RECORDED, CAUSE_UNKNOWN,
) = range(len(CAUSES))  # fmt: skip

# Numbers are 64 bits wide throughout, so that Numba compiles each function once.
BLOCK = np.dtype(
    [
        ("ptr", np.int64),
        ("size", np.int64),
        ("requested_size", np.int64),
        # Breaks ties between free blocks of one size before the address does: 0 for all (torch before 2.12),
        # the number of the Block (2.12), the number of its segment (2.13 and later).
        ("counter", np.int64),
        ("gc_count_base", np.int64),
        ("alloc_event", np.int64),  # the event that allocated it last; -1: before the recording
        ("segment_event", np.int64),  # the event that brought its segment
        ("pool", np.int64),  # row in ``pools``
        ("stream", np.int64),  # rank of the stream's handle among the handles that occur
        ("prev", np.int64),
        ("next", np.int64),
        ("expandable_segment", np.int64),  # -1: cudaMalloc'd
        ("allocated", np.uint8),
        (
            "pending",
            np.uint8,
        ),  # freed by the program; an event of another stream is outstanding (event_count > 0)
        ("mapped", np.uint8),
        ("phantom", np.uint8),  # its memory contradicts the recording's segments
        ("used", np.uint8),  # this row is a block, not spare
    ],
    align=True,
)

# One free block in the order of its pool: what comes first in that order, as one number, and the row.
FREE_BLOCK = np.dtype([("key", np.int64), ("block", np.int64)])
# The key has the pool above the stream above the size, which is in units of kMinBlockSize.
SIZE_SHIFT, STREAM_SHIFT, POOL_SHIFT = 9, 38, 50
LARGEST_SIZE = (1 << STREAM_SHIFT) - 1
MOST_STREAMS = (1 << (POOL_SHIFT - STREAM_SHIFT)) - 2
MOST_POOLS = (1 << (63 - POOL_SHIFT)) - 3

POOL = np.dtype(
    [
        ("get_free_blocks_call_count", np.int64),
        ("private_pool", np.int64),  # 0: none
        ("is_small", np.uint8),
        ("freeable", np.uint8),  # in graph_pools_freeable
        ("custom_allocator", np.uint8),  # never uses expandable segments
    ]
)

EXPANDABLE_SEGMENT = np.dtype(
    [("start", np.int64), ("size", np.int64), ("counter", np.int64), ("alive", np.uint8)]
)

STATS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "allocated_bytes", "active_bytes", "requested_bytes", "reserved_bytes", "inactive_split_bytes",
            "inactive_split",
            "peak_allocated_bytes", "peak_active_bytes", "peak_requested_bytes", "peak_reserved_bytes",
            "peak_inactive_split_bytes",
            "num_alloc_retries", "num_ooms", "num_oom_rejections", "num_device_alloc", "num_device_free",
            "segments_allocated", "segments_freed",
            "total_allocated_memory",  # what the memory fraction is compared with
            "driver_bytes",  # what the driver charges for it, in its granules
            "next_address", "block_counter", "segment_counter",
            "rows", "spares", "free", "unmapped_count", "pending_count", "expandable_segments", "logged",
            "event",  # of the operation now running
            # What the operation now running did.
            "split_remainder", "merged_before", "merged_after",
            # The malloc that a recording is in the middle of; see oomdoctor.allocator.recorded.
            "fresh", "searched", "hit_ptr", "seen_release", "mapped_block", "last_free_requested",
            "predicted", "conflicts",
            "segments_as_recorded",
            "tie",
            "passed_over", "inferred_segments",
            "checks_segments",  # see oomdoctor.allocator.contradictions
        )
    ]
)  # fmt: skip

CONFIG = np.dtype(
    [
        ("max_split_size", np.int64),
        ("max_non_split_rounding", np.int64),
        ("large_segment_size", np.int64),
        ("allowed_memory_maximum", np.int64),  # -1: no fraction set
        ("rejection_maximum", np.int64),  # throw_on_cudamalloc_oom; -1: off
        ("capacity", np.int64),  # bytes the driver can give; -1: no end
        ("address_space", np.int64),  # what an expandable segment reserves
        ("garbage_collection_threshold", np.float64),
        ("roundup_power2_divisions", np.int64, (16,)),
        ("expandable_segments", np.uint8),
        ("tie_break", np.uint8),
        ("unrounded_division_of_one", np.uint8),
        ("addresses_fall", np.uint8),
        ("writes_log", np.uint8),
        ("infers_pools", np.uint8),  # see oomdoctor.allocator.recorded
    ]
)

LOG = np.dtype(
    [
        ("event", np.int64),
        ("ptr", np.int64),
        ("size", np.int64),
        ("pool", np.int64),
        ("stream", np.int64),
        ("action", np.uint8),  # an ACTIONS code of oomdoctor.snapshot.model
        ("cause", np.uint8),
    ]
)


class Heap(NamedTuple):
    """The allocator of one device.

    Attributes:
        blocks: BLOCK[rows], rows in use have ``used`` set.
        spare: int64[rows], a stack of rows not in use; ``stats.spares`` of them.
        free_blocks: FREE_BLOCK[rows], the free mapped blocks in the order of the pools' comparator.
        unmapped: int64[rows], the unmapped ones, by pool, stream, address.
        pending: int64[rows], blocks freed and waiting for an event, oldest first.
        pools, expandable, stats, config, log: see the types above; ``stats`` and ``config`` have one row.
        recorded_segments: int64[k, 3], of each segment that cudaMalloc gave in the recording, in order: size,
            address, whether something had been there before. A replay that asks for the same gets the same,
            until it first asks for something else, or has not given back what had been there.
    """

    blocks: NDArray[Any]
    spare: NDArray[np.int64]
    free_blocks: NDArray[Any]
    unmapped: NDArray[np.int64]
    pending: NDArray[np.int64]
    pools: NDArray[Any]
    expandable: NDArray[Any]
    stats: NDArray[Any]
    config: NDArray[Any]
    log: NDArray[Any]
    recorded_segments: NDArray[np.int64]


def new_heap(config: NDArray[Any], private_pools: int, *, rows: int = 1024, log_rows: int = 0) -> Heap:
    """An empty allocator.

    Args:
        config: CONFIG[1].
        private_pools: how many there can be; number 0 of the private pools stands for "none".
        rows: blocks to make room for at first.
        log_rows: segment events to make room for at first, where ``config.writes_log``.
    """
    pools = np.zeros(FIRST_PRIVATE + 2 * private_pools, POOL)
    pools["is_small"][0::2] = 1
    pools["private_pool"][FIRST_PRIVATE:] = np.repeat(np.arange(1, private_pools + 1), 2)
    heap = Heap(
        blocks=np.zeros(rows, BLOCK),
        spare=np.arange(rows, dtype=np.int64)[::-1].copy(),
        free_blocks=np.zeros(rows, FREE_BLOCK),
        unmapped=np.zeros(rows, np.int64),
        pending=np.zeros(rows, np.int64),
        pools=pools,
        expandable=np.zeros(16, EXPANDABLE_SEGMENT),
        stats=np.zeros(1, STATS),
        config=config,
        log=np.zeros(log_rows, LOG),
        recorded_segments=np.zeros((0, 3), np.int64),
    )
    heap.stats["rows"] = rows
    heap.stats["spares"] = rows
    for name in ("event", "fresh", "hit_ptr", "mapped_block", "last_free_requested"):
        heap.stats[name] = NULL
    # Where segments that the recording does not name are put: above every address that a device hands out.
    heap.stats["next_address"] = 1 << 56
    return heap


def grown(heap: Heap) -> Heap:
    """The same heap with room for more blocks, expandable segments and log rows."""
    rows = len(heap.blocks)
    more = 2 * rows
    spares = int(heap.stats["spares"][0])
    spare = np.zeros(more, np.int64)
    # New rows go to the bottom of the stack.
    spare[: more - rows] = np.arange(rows, more, dtype=np.int64)[::-1]
    spare[more - rows : more - rows + spares] = heap.spare[:spares]
    heap.stats["spares"] = spares + more - rows
    heap.stats["rows"] = more
    return heap._replace(
        blocks=_longer(heap.blocks, more),
        spare=spare,
        free_blocks=_longer(heap.free_blocks, more),
        unmapped=_longer(heap.unmapped, more),
        pending=_longer(heap.pending, more),
        expandable=_longer(heap.expandable, 2 * len(heap.expandable)),
        log=_longer(heap.log, max(2 * len(heap.log), 1024)),
    )


def copied(heap: Heap) -> Heap:
    """A heap that shares nothing with this one but the configuration."""
    return heap._replace(**{name: getattr(heap, name).copy() for name in Heap._fields if name != "config"})


def _longer(array: NDArray[Any], rows: int) -> NDArray[Any]:
    out = np.zeros(rows, array.dtype)
    out[: len(array)] = array
    return out
