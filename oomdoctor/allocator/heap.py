"""The caching allocator, compiled: the rules of ``DeviceCachingAllocator`` over arrays.

Functions carry the names of the C++ methods they follow (``c10/cuda/CUDACachingAllocator.cpp``) and read in
their order. Where releases differ, ``config`` says which rule holds; ``oomdoctor.allocator.rules`` sets it by
version. A block is its row in ``heap.blocks``.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from oomdoctor.allocator.compiled import compiled, inlined, move_rows, passed
from oomdoctor.allocator.constants import (
    MIN_BLOCK_SIZE,
    MIN_LARGE_ALLOC,
    ROUND_LARGE,
    SMALL_BUFFER,
    SMALL_SIZE,
    UNLIMITED,
)
from oomdoctor.allocator.heap_layout import (
    CAUSE_EMPTY_CACHE,
    CAUSE_GARBAGE_COLLECTION,
    CAUSE_NEW,
    CAUSE_RELEASE_AVAILABLE,
    CAUSE_RETRY,
    FIRST_PRIVATE,
    LARGE_BLOCKS,
    LARGEST_SIZE,
    MOST_POOLS,
    MOST_STREAMS,
    NULL,
    POOL_SHIFT,
    SIZE_SHIFT,
    SMALL_BLOCKS,
    STREAM_SHIFT,
    Heap,
)
from oomdoctor.allocator.rounding import rounded
from oomdoctor.allocator.rules import TIE_BLOCK_COUNTER, TIE_SEGMENT_COUNTER
from oomdoctor.snapshot.model import SEGMENT_ALLOC, SEGMENT_FREE, SEGMENT_MAP, SEGMENT_UNMAP

# What cudaMalloc and cuMemCreate hand out is charged in granules of this size (Pascal and later; PyTorch pull
# 17120).
DRIVER_GRANULE = 2 << 20

_NEW, _RETRY, _GARBAGE_COLLECTION, _RELEASE_AVAILABLE, _EMPTY_CACHE = map(
    passed, (CAUSE_NEW, CAUSE_RETRY, CAUSE_GARBAGE_COLLECTION, CAUSE_RELEASE_AVAILABLE, CAUSE_EMPTY_CACHE)
)
_SEGMENT_ALLOC, _SEGMENT_FREE, _SEGMENT_MAP, _SEGMENT_UNMAP = map(
    passed, (SEGMENT_ALLOC, SEGMENT_FREE, SEGMENT_MAP, SEGMENT_UNMAP)
)
_SMALL, _LARGE = passed(SMALL_BLOCKS), passed(LARGE_BLOCKS)
_NONE, _ONE, _FIRST, _NO_GAP = passed(0), passed(1), passed(-1), passed(NULL)
# Addresses that a replay makes up may be negative: below the lowest that the recording names.
_LOWEST_ADDRESS = passed(-(1 << 63))

MALLOC_OOM, MALLOC_REJECTED = -1, -2


# ---- statistics ----


@compiled
def _increase_reserved(heap: Heap, size: int) -> None:
    stats = heap.stats[0]
    stats.reserved_bytes += size
    stats.peak_reserved_bytes = max(stats.peak_reserved_bytes, stats.reserved_bytes)


@compiled
def _change_inactive_split(heap: Heap, blocks: int, size: int) -> None:
    stats = heap.stats[0]
    stats.inactive_split += blocks
    stats.inactive_split_bytes += size
    stats.peak_inactive_split_bytes = max(stats.peak_inactive_split_bytes, stats.inactive_split_bytes)


@compiled
def _write_log(heap: Heap, action: int, block: int, ptr: int, size: int, cause: int) -> None:
    """One segment event, as ``record_trace`` keeps it, with why."""
    stats = heap.stats[0]
    if not heap.config[0].writes_log:
        return
    row = heap.log[stats.logged]
    row.event = stats.event
    row.ptr = ptr
    row.size = size
    row.pool = heap.blocks[block].pool
    row.stream = heap.blocks[block].stream
    row.action = action
    row.cause = cause
    stats.logged += 1


# ---- blocks ----


@inlined
def new_block(heap: Heap, stream: int, size: int, pool: int, ptr: int, counter: int) -> int:
    """``new Block(...)``.

    Args:
        counter: of its segment; taken where the release breaks ties by segment.
    """
    stats = heap.stats[0]
    stats.spares -= 1
    b = heap.spare[stats.spares]
    block = heap.blocks[b]
    block.ptr = ptr
    block.size = size
    block.requested_size = 0
    block.counter = 0
    tie_break = heap.config[0].tie_break
    if tie_break == TIE_BLOCK_COUNTER:
        stats.block_counter += 1
        block.counter = stats.block_counter
    elif tie_break == TIE_SEGMENT_COUNTER:
        block.counter = counter
    block.gc_count_base = 0
    block.alloc_event = -1
    block.segment_event = -1
    block.pool = pool
    block.stream = stream
    block.prev = NULL
    block.next = NULL
    block.expandable_segment = NULL
    block.allocated = 0
    block.pending = 0
    block.mapped = 1
    block.phantom = 0
    block.used = 1
    return b


@compiled
def delete_block(heap: Heap, b: int) -> None:
    heap.blocks[b].used = 0
    stats = heap.stats[0]
    heap.spare[stats.spares] = b
    stats.spares += 1


@compiled
def new_segment_counter(heap: Heap) -> int:
    """Torch 2.13 and later number segments as they are created."""
    stats = heap.stats[0]
    stats.segment_counter += 1
    return stats.segment_counter


@compiled
def is_split(heap: Heap, b: int) -> bool:
    return heap.blocks[b].prev != NULL or heap.blocks[b].next != NULL


@inlined
def splice(heap: Heap, b: int, before: int, after: int) -> None:
    if before != NULL:
        heap.blocks[before].next = b
    heap.blocks[b].prev = before
    if after != NULL:
        heap.blocks[after].prev = b
    heap.blocks[b].next = after


# ---- BlockPool.blocks: a sorted array ----


@compiled
def key_of(pool: int, stream: int, size: int) -> int:
    """What comes first in the order of ``free_blocks``, in one number: pool, stream, size.

    What does not fit is cut off at the end of its range, and so is what follows it: keys may then be equal
    where blocks differ, and are never out of order.
    """
    if pool > MOST_POOLS:
        return (MOST_POOLS + 1) << POOL_SHIFT
    if stream > MOST_STREAMS:
        return ((pool + 1) << POOL_SHIFT) - 1
    # Sizes of a damaged recording may be below nothing.
    of_size = max(0, min(size >> SIZE_SHIFT, LARGEST_SIZE))
    return (pool << POOL_SHIFT) | (stream << STREAM_SHIFT) | of_size


@inlined
def _first_of_key(free_blocks: NDArray[Any], low: int, high: int, key: int) -> int:
    """The first position from ``low`` on, before ``high``, whose key is not below this one."""
    # Without a branch on what is compared: it would go either way as often.
    left = high - low
    while left > 1:
        half = left >> 1
        low += half if free_blocks[low + half - 1].key < key else 0
        left -= half
    return low + (1 if left == 1 and free_blocks[low].key < key else 0)


@inlined
def lower_bound(heap: Heap, pool: int, stream: int, size: int, counter: int, ptr: int) -> int:
    """The first position in ``free_blocks`` whose block is not before this key."""
    free_blocks, blocks, used = heap.free_blocks, heap.blocks, heap.stats[0].free
    key = key_of(pool, stream, size)
    low = _first_of_key(free_blocks, 0, used, key)
    step = 1
    while low + step < used and free_blocks[low + step].key == key:
        step += step
    high = _first_of_key(free_blocks, low + (step >> 1), min(low + step, used), key + 1)
    while low < high:
        middle = (low + high) >> 1
        block = blocks[free_blocks[middle].block]
        if block.pool != pool:
            before = block.pool < pool
        elif block.stream != stream:
            before = block.stream < stream
        elif block.size != size:
            before = block.size < size
        elif block.counter != counter:
            before = block.counter < counter
        else:
            before = block.ptr < ptr
        if before:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def pool_begin(heap: Heap, pool: int) -> int:
    """``pool.blocks.begin()``."""
    return lower_bound(heap, pool, _NONE, _NONE, _FIRST, _FIRST)


@inlined
def position_of(heap: Heap, b: int) -> int:
    block = heap.blocks[b]
    return lower_bound(heap, block.pool, block.stream, block.size, block.counter, block.ptr)


@inlined
def put_in_place_of(heap: Heap, b: int, gap: int) -> None:
    """``insert_into_blocks`` after ``erase``, where only what lies between the two positions moves.

    Args:
        gap: the position whose block goes, though it still stands there; NULL: none goes.
    """
    block, stats, free_blocks = heap.blocks[b], heap.stats[0], heap.free_blocks
    block.gc_count_base = heap.pools[block.pool].get_free_blocks_call_count
    at = position_of(heap, b)
    if gap == NULL:
        move_rows(free_blocks, at + 1, at, stats.free - at)
        stats.free += 1
    elif at > gap:
        at -= 1
        move_rows(free_blocks, gap, gap + 1, at - gap)
    else:
        move_rows(free_blocks, at + 1, at, gap - at)
    free_blocks[at].key = key_of(block.pool, block.stream, block.size)
    free_blocks[at].block = b


@compiled
def insert_into_blocks(heap: Heap, b: int) -> None:
    """``BlockPool::insert_into_blocks``: keeps the age for garbage collection."""
    put_in_place_of(heap, b, _NO_GAP)


@inlined
def erase_at(heap: Heap, at: int) -> None:
    stats = heap.stats[0]
    stats.free -= 1
    move_rows(heap.free_blocks, at, at + 1, stats.free - at)


@compiled
def erase(heap: Heap, b: int) -> None:
    erase_at(heap, position_of(heap, b))


# ---- BlockPool.unmapped ----


@compiled
def unmapped_lower_bound(heap: Heap, pool: int, stream: int, ptr: int) -> int:
    low, high = 0, heap.stats[0].unmapped_count
    while low < high:
        middle = (low + high) >> 1
        block = heap.blocks[heap.unmapped[middle]]
        if block.pool != pool:
            before = block.pool < pool
        elif block.stream != stream:
            before = block.stream < stream
        else:
            before = block.ptr < ptr
        if before:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def unmapped_insert(heap: Heap, b: int) -> None:
    block = heap.blocks[b]
    at = unmapped_lower_bound(heap, block.pool, block.stream, block.ptr)
    stats = heap.stats[0]
    move_rows(heap.unmapped, at + 1, at, stats.unmapped_count - at)
    heap.unmapped[at] = b
    stats.unmapped_count += 1


@compiled
def unmapped_erase(heap: Heap, b: int) -> None:
    block = heap.blocks[b]
    at = unmapped_lower_bound(heap, block.pool, block.stream, block.ptr)
    stats = heap.stats[0]
    stats.unmapped_count -= 1
    move_rows(heap.unmapped, at, at + 1, stats.unmapped_count - at)


# ---- sizes ----


@compiled
def round_size(heap: Heap, size: int) -> int:
    config = heap.config[0]
    return rounded(size, config.roundup_power2_divisions, bool(config.unrounded_division_of_one))


@compiled
def get_allocation_size(heap: Heap, size: int) -> int:
    if size <= SMALL_SIZE:
        return SMALL_BUFFER
    if size < MIN_LARGE_ALLOC:
        return heap.config[0].large_segment_size
    return ROUND_LARGE * ((size + ROUND_LARGE - 1) // ROUND_LARGE)


@compiled
def get_pool(private_pool: int, size: int) -> int:
    """The BlockPool of a request: of a private pool (from 1), or of none (0)."""
    if private_pool:
        return FIRST_PRIVATE + 2 * (private_pool - 1) + (0 if size <= SMALL_SIZE else 1)
    return SMALL_BLOCKS if size <= SMALL_SIZE else LARGE_BLOCKS


# ---- free ----


@inlined
def _merges(heap: Heap, dst: int, src: int) -> bool:
    if src == NULL:
        return False
    other = heap.blocks[src]
    return not other.allocated and not other.pending and other.mapped == heap.blocks[dst].mapped


@inlined
def _subsume(heap: Heap, dst: int, src: int) -> int:
    """Make one block of two that touch; ``src`` is in no list any more. Returns its bytes."""
    into, other = heap.blocks[dst], heap.blocks[src]
    if into.prev == src:
        into.ptr = other.ptr
        into.prev = other.prev
        if into.prev != NULL:
            heap.blocks[into.prev].next = dst
        into.segment_event = other.segment_event
    else:
        into.next = other.next
        if into.next != NULL:
            heap.blocks[into.next].prev = dst
    subsumed_size = other.size
    into.size += subsumed_size
    delete_block(heap, src)
    return subsumed_size


@compiled
def try_merge_blocks(heap: Heap, dst: int, src: int) -> int:
    """Combine previously split blocks. Returns the bytes subsumed, 0 if they do not merge."""
    if not _merges(heap, dst, src):
        return 0
    if heap.blocks[src].mapped:
        erase(heap, src)
    else:
        unmapped_erase(heap, src)
    return _subsume(heap, dst, src)


@inlined
def free_block(heap: Heap, b: int) -> None:
    """Move a block into the pool of cached free blocks."""
    stats = heap.stats[0]
    block = heap.blocks[b]
    stats.active_bytes -= block.size
    stats.requested_bytes -= block.requested_size
    block.alloc_event = -1
    # ``try_merge_blocks`` of both neighbours; the block takes the place of one of them in the list.
    gap = NULL
    split_blocks, before, after = 0, 0, 0
    if _merges(heap, b, block.prev):
        gap = position_of(heap, block.prev)
        before = _subsume(heap, b, block.prev)
        split_blocks -= 1
    if _merges(heap, b, block.next):
        at = position_of(heap, block.next)
        after = _subsume(heap, b, block.next)
        split_blocks -= 1
        if gap == NULL:
            gap = at
        else:
            erase_at(heap, at)
            gap -= 1 if at < gap else 0
    stats.merged_before = before
    stats.merged_after = after
    put_in_place_of(heap, b, gap)
    split_size = -before - after
    if is_split(heap, b):
        split_blocks += 1
        split_size += block.size
    if block.expandable_segment == NULL:
        _change_inactive_split(heap, split_blocks, split_size)


@compiled
def free_requested(heap: Heap, b: int) -> None:
    """``free`` up to where it waits for other streams: allocated no more, active still."""
    block = heap.blocks[b]
    block.allocated = 0
    block.pending = 1
    stats = heap.stats[0]
    stats.allocated_bytes -= block.size
    heap.pending[stats.pending_count] = b
    stats.pending_count += 1


@compiled
def free_completed(heap: Heap, b: int) -> None:
    """The last event of a pending block is done."""
    stats = heap.stats[0]
    at = 0
    while at < stats.pending_count and heap.pending[at] != b:
        at += 1
    if at == stats.pending_count:
        return
    stats.pending_count -= 1
    move_rows(heap.pending, at, at + 1, stats.pending_count - at)
    heap.blocks[b].pending = 0
    free_block(heap, b)


@inlined
def free(heap: Heap, b: int) -> None:
    """``free`` of a block that no other stream used."""
    heap.blocks[b].allocated = 0
    heap.stats[0].allocated_bytes -= heap.blocks[b].size
    free_block(heap, b)


@compiled
def synchronize_and_free_events(heap: Heap) -> None:
    while heap.stats[0].pending_count:
        free_completed(heap, heap.pending[0])


# ---- giving memory back ----


@compiled
def _granules(size: int) -> int:
    return (size + DRIVER_GRANULE - 1) // DRIVER_GRANULE * DRIVER_GRANULE


@compiled
def release_block(heap: Heap, b: int, cause: int) -> None:
    """cudaFree of a free block that is a whole segment."""
    stats = heap.stats[0]
    block = heap.blocks[b]
    stats.num_device_free += 1
    stats.segments_freed += 1
    _write_log(heap, _SEGMENT_FREE, b, block.ptr, block.size, cause)
    stats.total_allocated_memory -= block.size
    stats.driver_bytes -= _granules(block.size)
    stats.reserved_bytes -= block.size
    erase(heap, b)
    delete_block(heap, b)


@compiled
def expandable_granularity(heap: Heap, pool: int) -> int:
    return SMALL_BUFFER if heap.pools[pool].is_small else heap.config[0].large_segment_size


@compiled
def unmap_range(heap: Heap, b: int, start: int, end: int, cause: int) -> None:
    """The part of ``unmap_block`` after the driver unmapped ``start`` to ``end`` of the free block."""
    stats = heap.stats[0]
    block = heap.blocks[b]
    erase(heap, b)
    before_size = start - block.ptr
    after_size = block.ptr + block.size - end
    if before_size > 0:
        before_free = new_block(heap, block.stream, before_size, block.pool, block.ptr, block.counter)
        heap.blocks[before_free].expandable_segment = block.expandable_segment
        heap.blocks[before_free].segment_event = block.segment_event
        splice(heap, before_free, block.prev, b)
        insert_into_blocks(heap, before_free)
    if after_size > 0:
        after_free = new_block(heap, block.stream, after_size, block.pool, end, block.counter)
        heap.blocks[after_free].expandable_segment = block.expandable_segment
        splice(heap, after_free, b, block.next)
        insert_into_blocks(heap, after_free)
    block.ptr = start
    block.size = end - start
    block.mapped = 0
    _write_log(heap, _SEGMENT_UNMAP, b, start, end - start, cause)
    try_merge_blocks(heap, b, block.prev)
    try_merge_blocks(heap, b, block.next)
    unmapped_insert(heap, b)
    stats.total_allocated_memory -= end - start
    stats.driver_bytes -= end - start
    stats.reserved_bytes -= end - start
    stats.num_device_free += 1


@compiled
def unmap_block(heap: Heap, b: int, cause: int) -> None:
    """Give back the whole handles that lie inside a free block of an expandable segment."""
    block = heap.blocks[b]
    granularity = expandable_granularity(heap, block.pool)
    base = heap.expandable[block.expandable_segment].start
    start = base + (block.ptr - base + granularity - 1) // granularity * granularity
    end = base + (block.ptr + block.size - base) // granularity * granularity
    if end > start:
        unmap_range(heap, b, start, end, cause)


@compiled
def release_expandable_segment(heap: Heap, b: int) -> None:
    heap.expandable[heap.blocks[b].expandable_segment].alive = 0
    unmapped_erase(heap, b)
    delete_block(heap, b)


@compiled
def release_blocks(heap: Heap, pool: int, cause: int) -> None:
    """Free all blocks of a pool that are whole segments; unmap what can be of expandable ones."""
    at = pool_begin(heap, pool)
    to_unmap = 0
    while at < heap.stats[0].free:
        b = heap.free_blocks[at].block
        if heap.blocks[b].pool != pool:
            break
        if heap.blocks[b].expandable_segment != NULL:
            # Unmapping changes the list: gather first. The spare end of ``unmapped`` keeps them meanwhile.
            to_unmap += 1
            heap.unmapped[len(heap.unmapped) - to_unmap] = b
            at += 1
        elif not is_split(heap, b):
            release_block(heap, b, cause)
        else:
            at += 1
    for i in range(to_unmap):
        b = heap.unmapped[len(heap.unmapped) - 1 - i]
        unmap_block(heap, b, cause)
        if not is_split(heap, b) and not heap.blocks[b].mapped:
            release_expandable_segment(heap, b)


@compiled
def release_cached_blocks(heap: Heap, cause: int) -> None:
    synchronize_and_free_events(heap)
    release_blocks(heap, _LARGE, cause)
    release_blocks(heap, _SMALL, cause)
    for pool in range(FIRST_PRIVATE, len(heap.pools)):
        if heap.pools[pool].freeable:
            release_blocks(heap, pool, cause)


@compiled
def empty_cache(heap: Heap) -> None:
    release_cached_blocks(heap, _EMPTY_CACHE)


@compiled
def empty_pool(heap: Heap, small_pool: int) -> None:
    """``emptyCache`` of one private pool: waits only for its own pending blocks."""
    stats = heap.stats[0]
    at = 0
    while at < stats.pending_count:
        if heap.blocks[heap.pending[at]].pool >> 1 == small_pool >> 1:
            free_completed(heap, heap.pending[at])
        else:
            at += 1
    release_blocks(heap, small_pool, _EMPTY_CACHE)
    release_blocks(heap, small_pool + 1, _EMPTY_CACHE)


@compiled
def release_available_cached_blocks(heap: Heap, pool: int, stream: int, size: int) -> bool:
    """Free one or more oversize blocks, only enough for the request."""
    max_split_size = heap.config[0].max_split_size
    if max_split_size == UNLIMITED:
        return False
    key_size = max(size, max_split_size)
    first = pool_begin(heap, pool)
    at = lower_bound(heap, pool, stream, key_size, _FIRST, _FIRST)
    found = at < heap.stats[0].free
    if found:
        b = heap.free_blocks[at].block
        block = heap.blocks[b]
        found = block.pool == pool and block.stream == stream and block.expandable_segment == NULL
        # Under these settings no block so large is ever split; what was there before may be of others.
        found = found and not is_split(heap, b)
    if found:
        release_block(heap, heap.free_blocks[at].block, _RELEASE_AVAILABLE)
        return True
    # No single block is large enough: free several, starting with the largest.
    if at == first:
        return False
    at -= 1
    total_released = 0
    while total_released < key_size:
        b = heap.free_blocks[at].block
        block = heap.blocks[b]
        if block.size < max_split_size or block.stream != stream:
            break
        is_first = at == first
        if block.expandable_segment == NULL and not is_split(heap, b):
            total_released += block.size
            release_block(heap, b, _RELEASE_AVAILABLE)
        if is_first:
            break
        at -= 1
    return total_released >= key_size


@compiled
def garbage_collect_cached_blocks(heap: Heap) -> None:
    """Free cached blocks of the default large pool, the older half first, until the threshold is met."""
    config, stats = heap.config[0], heap.stats[0]
    gc_threshold = int(config.garbage_collection_threshold * config.allowed_memory_maximum)
    if stats.total_allocated_memory <= gc_threshold:
        return
    target_size = stats.total_allocated_memory - gc_threshold
    calls = heap.pools[LARGE_BLOCKS].get_free_blocks_call_count
    first = pool_begin(heap, _LARGE)
    total_age, freeable_block_count = 0, 0
    at = first
    while at < stats.free and heap.blocks[heap.free_blocks[at].block].pool == LARGE_BLOCKS:
        b = heap.free_blocks[at].block
        if not is_split(heap, b):
            total_age += calls - heap.blocks[b].gc_count_base
            freeable_block_count += 1
        at += 1
    gc_reclaimed = 0
    block_freed = True
    while gc_reclaimed < target_size and block_freed and freeable_block_count > 0:
        age_threshold = total_age / freeable_block_count
        block_freed = False
        at = first
        while at < stats.free and heap.blocks[heap.free_blocks[at].block].pool == LARGE_BLOCKS:
            b = heap.free_blocks[at].block
            block = heap.blocks[b]
            age = calls - block.gc_count_base
            if not is_split(heap, b) and block.expandable_segment == NULL and age >= age_threshold:
                block_freed = True
                gc_reclaimed += block.size
                total_age -= age
                freeable_block_count -= 1
                release_block(heap, b, _GARBAGE_COLLECTION)
            else:
                at += 1


# ---- expandable segments ----


@compiled
def _allocatable(heap: Heap, b: int) -> bool:
    return b != NULL and not heap.blocks[b].allocated and not heap.blocks[b].pending


@compiled
def _has_available_address_space(heap: Heap, b: int, size: int) -> bool:
    found = 0
    while found < size and _allocatable(heap, b):
        found += heap.blocks[b].size
        b = heap.blocks[b].next
    return found >= size


@compiled
def new_expandable_segment(heap: Heap, pool: int, stream: int, start: int, size: int) -> int:
    """An ExpandableSegment, nothing of it mapped: returns the one block it is."""
    stats = heap.stats[0]
    segment = stats.expandable_segments
    stats.expandable_segments += 1
    counter = new_segment_counter(heap)
    row = heap.expandable[segment]
    row.start = start
    row.size = size
    row.counter = counter
    row.alive = 1
    b = new_block(heap, stream, size, pool, start, counter)
    heap.blocks[b].mapped = 0
    heap.blocks[b].expandable_segment = segment
    unmapped_insert(heap, b)
    return b


@compiled
def next_address(heap: Heap, size: int) -> int:
    """Where the driver puts a new range, as far as a replay can know: beyond all earlier ones."""
    stats = heap.stats[0]
    size = _granules(size)
    if heap.config[0].addresses_fall:
        stats.next_address -= size
        return stats.next_address
    address = stats.next_address
    stats.next_address += size
    return address


@compiled
def is_reserved(heap: Heap, ptr: int, size: int) -> bool:
    """Whether blocks have some of these bytes. It looks at each, so ask seldom."""
    for b in range(len(heap.blocks)):
        block = heap.blocks[b]
        there = block.used and block.mapped and not block.phantom
        if there and block.ptr < ptr + size and ptr < block.ptr + block.size:
            return True
    return False


@compiled
def segment_address(heap: Heap, size: int) -> int:
    """What cudaMalloc returns: as recorded, while the replay asks for what was asked for then."""
    stats = heap.stats[0]
    k = stats.segments_as_recorded
    if k < len(heap.recorded_segments):
        recorded_size, ptr, was_used_before = heap.recorded_segments[k]
        if recorded_size == size and not (was_used_before and is_reserved(heap, ptr, size)):
            stats.segments_as_recorded += 1
            return ptr
        stats.segments_as_recorded = len(heap.recorded_segments)
    return next_address(heap, size)


@compiled
def find_expandable_room(heap: Heap, pool: int, stream: int, size: int) -> int:
    """The lowest address in any expandable segment with room for the size, free or unmapped; -1: none."""
    at = unmapped_lower_bound(heap, pool, stream, _LOWEST_ADDRESS)
    while at < heap.stats[0].unmapped_count:
        c = heap.unmapped[at]
        if heap.blocks[c].pool != pool or heap.blocks[c].stream != stream:
            break
        # There might be a free block right before it.
        if _allocatable(heap, heap.blocks[c].prev):
            c = heap.blocks[c].prev
        if _has_available_address_space(heap, c, size):
            return c
        at += 1
    return NULL


@compiled
def find_expandable_block(heap: Heap, pool: int, stream: int, size: int) -> int:
    b = find_expandable_room(heap, pool, stream, size)
    if b != NULL:
        return b
    reserve = heap.config[0].address_space
    granularity = expandable_granularity(heap, pool)
    reserve = (reserve + granularity - 1) // granularity * granularity
    return new_expandable_segment(heap, pool, stream, next_address(heap, reserve), reserve)


@compiled
def map_range(heap: Heap, to_map: int, mapped_size: int, cause: int) -> None:
    """The part of ``map_block`` after the driver mapped the first bytes of the unmapped block."""
    stats = heap.stats[0]
    block = heap.blocks[to_map]
    unmapped_erase(heap, to_map)
    block.mapped = 1
    block.segment_event = stats.event
    if mapped_size < block.size:
        remaining = new_block(
            heap, block.stream, block.size - mapped_size, block.pool, block.ptr + mapped_size, block.counter
        )
        heap.blocks[remaining].mapped = 0
        heap.blocks[remaining].expandable_segment = block.expandable_segment
        splice(heap, remaining, to_map, block.next)
        unmapped_insert(heap, remaining)
        block.size = mapped_size
    _write_log(heap, _SEGMENT_MAP, to_map, block.ptr, mapped_size, cause)
    try_merge_blocks(heap, to_map, block.prev)
    try_merge_blocks(heap, to_map, block.next)
    insert_into_blocks(heap, to_map)
    stats.total_allocated_memory += mapped_size
    stats.driver_bytes += mapped_size
    _increase_reserved(heap, mapped_size)
    stats.num_device_alloc += 1


@compiled
def map_block(heap: Heap, to_map: int, size: int, cause: int) -> bool:
    granularity = expandable_granularity(heap, heap.blocks[to_map].pool)
    mapped_size = (size + granularity - 1) // granularity * granularity
    # Ranges are whole handles, but for recordings that contradict themselves.
    mapped_size = min(mapped_size, heap.blocks[to_map].size)
    capacity = heap.config[0].capacity
    if capacity >= 0 and heap.stats[0].driver_bytes + mapped_size > capacity:
        return False
    map_range(heap, to_map, mapped_size, cause)
    return True


@compiled
def try_allocate_expandable_block(heap: Heap, pool: int, stream: int, size: int, cause: int) -> int:
    # A request beyond what a segment reserves fails in the driver, once its reserve is used up.
    if size > heap.config[0].address_space:
        return NULL
    candidate = find_expandable_block(heap, pool, stream, size)
    if not heap.blocks[candidate].mapped and not map_block(
        heap, candidate, min(heap.blocks[candidate].size, size), cause
    ):
        return NULL
    while heap.blocks[candidate].size < size:
        remaining = size - heap.blocks[candidate].size
        new_candidate = heap.blocks[candidate].next
        if not map_block(heap, new_candidate, min(remaining, heap.blocks[new_candidate].size), cause):
            return NULL
        candidate = new_candidate
    erase(heap, candidate)
    return candidate


# ---- malloc ----


@inlined
def find_free_block(heap: Heap, pool: int, stream: int, size: int, expandable_active: bool) -> int:
    """The search of ``get_free_block``: the position in ``free_blocks`` of the block it takes, -1 if none."""
    stats, config = heap.stats[0], heap.config[0]
    blocks, free_blocks = heap.blocks, heap.free_blocks
    at = lower_bound(heap, pool, stream, size, _FIRST, _FIRST)
    if at >= stats.free:
        return NULL
    b = free_blocks[at].block
    if blocks[b].pool != pool or blocks[b].stream != stream:
        return NULL
    if blocks[b].expandable_segment != NULL:
        if expandable_active:
            # A block that can still grow counts with the size it can grow to.
            while blocks[free_blocks[at].block].expandable_segment != NULL and at + 1 < stats.free:
                following = free_blocks[at + 1].block
                if blocks[following].pool != pool or blocks[following].stream != stream:
                    break
                if _expandable_size(heap, following) >= _expandable_size(heap, free_blocks[at].block):
                    break
                at += 1
        else:
            # The C++ loop steps at least once and stops beyond the stream as well.
            while True:
                at += 1
                if at >= stats.free:
                    return NULL
                b = free_blocks[at].block
                if blocks[b].pool != pool or blocks[b].stream != stream:
                    return NULL
                if blocks[b].expandable_segment == NULL:
                    break
    found_size = blocks[free_blocks[at].block].size
    # Do not return an oversize block for a smaller request.
    if size < config.max_split_size and found_size >= config.max_split_size:
        return NULL
    # An oversize request may be rounded up, within a limit.
    if size >= config.max_split_size and found_size >= size + config.max_non_split_rounding:
        return NULL
    return at


@compiled
def _expandable_size(heap: Heap, b: int) -> int:
    following = heap.blocks[b].next
    room = 0
    if following != NULL and not heap.blocks[following].mapped:
        room = heap.blocks[following].size
    return heap.blocks[b].size + room


@compiled
def counts_searches(heap: Heap) -> bool:
    """Ages count only where garbage collection is on, and that takes a memory fraction."""
    config = heap.config[0]
    return config.allowed_memory_maximum >= 0 and config.garbage_collection_threshold > 0


@inlined
def get_free_block(heap: Heap, pool: int, stream: int, size: int, expandable_active: bool) -> int:
    """The position in ``free_blocks`` of the block it takes; what takes it out is ``alloc_found_block``."""
    if counts_searches(heap):
        heap.pools[pool].get_free_blocks_call_count += 1
    return find_free_block(heap, pool, stream, size, expandable_active)


@compiled
def new_segment(heap: Heap, pool: int, stream: int, ptr: int, size: int, cause: int) -> int:
    """The part of ``alloc_block`` after cudaMalloc: a block of ``size`` bytes at ``ptr``, in no list yet."""
    stats = heap.stats[0]
    stats.total_allocated_memory += size
    stats.driver_bytes += _granules(size)
    b = new_block(heap, stream, size, pool, ptr, new_segment_counter(heap))
    heap.blocks[b].segment_event = stats.event
    _increase_reserved(heap, size)
    stats.num_device_alloc += 1
    stats.segments_allocated += 1
    _write_log(heap, _SEGMENT_ALLOC, b, ptr, size, cause)
    return b


@compiled
def alloc_block(
    heap: Heap, pool: int, stream: int, size: int, alloc_size: int, expandable_active: bool, cause: int
) -> int:
    """New memory from the driver: a block; NULL: there is none; MALLOC_REJECTED: it may not be asked."""
    config, stats = heap.config[0], heap.stats[0]
    allowed = config.allowed_memory_maximum
    if allowed >= 0 and stats.total_allocated_memory + alloc_size > allowed:
        return NULL
    if config.rejection_maximum >= 0 and stats.total_allocated_memory + alloc_size > config.rejection_maximum:
        stats.num_oom_rejections += 1
        return MALLOC_REJECTED
    if expandable_active:
        return try_allocate_expandable_block(heap, pool, stream, size, cause)
    if config.capacity >= 0 and stats.driver_bytes + _granules(alloc_size) > config.capacity:
        return NULL
    return new_segment(heap, pool, stream, segment_address(heap, alloc_size), alloc_size, cause)


@inlined
def should_split(heap: Heap, b: int, size: int, expandable_active: bool) -> bool:
    block = heap.blocks[b]
    remaining = block.size - size
    if heap.pools[block.pool].is_small or expandable_active:
        return remaining >= MIN_BLOCK_SIZE
    return size < heap.config[0].max_split_size and remaining > SMALL_SIZE


@inlined
def alloc_found_block(
    heap: Heap, b: int, at: int, size: int, requested_size: int, split_remainder: bool
) -> int:
    """Hand out a block; its tail goes back to the pool if it is split.

    Args:
        at: its position in ``free_blocks``; NULL if it is in no list.
    """
    stats = heap.stats[0]
    already_split = is_split(heap, b)
    stats.split_remainder = 0
    if split_remainder:
        remaining = b
        rest = heap.blocks[remaining]
        b = new_block(heap, rest.stream, size, rest.pool, rest.ptr, rest.counter)
        block = heap.blocks[b]
        block.expandable_segment = rest.expandable_segment
        block.segment_event = rest.segment_event
        splice(heap, b, rest.prev, remaining)
        rest.ptr += size
        rest.size -= size
        put_in_place_of(heap, remaining, at)
        stats.split_remainder = rest.size
        if block.expandable_segment == NULL:
            if already_split:
                _change_inactive_split(heap, _NONE, -block.size)
            else:
                _change_inactive_split(heap, _ONE, rest.size)
    else:
        if at != NULL:
            erase_at(heap, at)
        if already_split and heap.blocks[b].expandable_segment == NULL:
            _change_inactive_split(heap, -_ONE, -heap.blocks[b].size)
    block = heap.blocks[b]
    block.allocated = 1
    block.requested_size = requested_size
    block.alloc_event = stats.event
    stats.allocated_bytes += block.size
    stats.active_bytes += block.size
    stats.requested_bytes += requested_size
    stats.peak_allocated_bytes = max(stats.peak_allocated_bytes, stats.allocated_bytes)
    stats.peak_active_bytes = max(stats.peak_active_bytes, stats.active_bytes)
    stats.peak_requested_bytes = max(stats.peak_requested_bytes, stats.requested_bytes)
    return b


@inlined
def malloc(heap: Heap, requested_size: int, stream: int, private_pool: int, capturing: bool) -> int:
    """``DeviceCachingAllocator::malloc`` after ``process_events``.

    Args:
        requested_size: bytes.
        stream: its rank.
        private_pool: 0 for the default pools.
        capturing: whether a capture is underway, which keeps cached blocks from being released.

    Returns:
        the block, ``MALLOC_OOM``, or ``MALLOC_REJECTED`` (throw_on_cudamalloc_oom).
    """
    config, stats = heap.config[0], heap.stats[0]
    size = round_size(heap, requested_size)
    pool = get_pool(private_pool, size)
    alloc_size = get_allocation_size(heap, size)
    expandable_active = bool(config.expandable_segments) and not heap.pools[pool].custom_allocator
    at = get_free_block(heap, pool, stream, size, expandable_active)
    if at != NULL:
        b = heap.free_blocks[at].block
    else:
        if counts_searches(heap):
            garbage_collect_cached_blocks(heap)
        b = alloc_block(heap, pool, stream, size, alloc_size, expandable_active, _NEW)
        if b == NULL and release_available_cached_blocks(heap, pool, stream, size):
            b = alloc_block(heap, pool, stream, size, alloc_size, expandable_active, _RELEASE_AVAILABLE)
        if b == NULL and not capturing:
            release_cached_blocks(heap, _RETRY)
            stats.num_alloc_retries += 1
            b = alloc_block(heap, pool, stream, size, alloc_size, expandable_active, _RETRY)
        if b == NULL:
            stats.num_ooms += 1
            return MALLOC_OOM
        if b == MALLOC_REJECTED:
            return MALLOC_REJECTED
    split = should_split(heap, b, size, expandable_active)
    return alloc_found_block(heap, b, at, size, requested_size, split)


@compiled
def has_room(heap: Heap) -> bool:
    """Whether any one operation fits into the arrays: the worst unmaps or releases every free block."""
    stats = heap.stats[0]
    worst = 2 * stats.free + stats.pending_count + 64
    return (
        stats.spares > worst
        and len(heap.unmapped) > stats.unmapped_count + worst + stats.free
        and len(heap.expandable) > stats.expandable_segments + 2
        and (not heap.config[0].writes_log or len(heap.log) > stats.logged + worst)
    )
