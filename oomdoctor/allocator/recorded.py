"""Replaying a recording event by event: the heap does what the events say, and says where it would have gone
itself.

Nothing is guessed here. A segment comes when ``segment_alloc`` says so, at the address it says; a free
completes when ``free_completed`` says so. At each ``alloc`` the heap first searches by its own rules; the
address it arrives at is kept beside the recorded one, which is then followed. Equal addresses all through
mean that the rules are PyTorch's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.compiled import compiled, compiled_entry, passed
from oomdoctor.allocator.constants import MIN_BLOCK_SIZE
from oomdoctor.allocator.heap import (
    alloc_found_block,
    delete_block,
    erase,
    erase_at,
    find_expandable_room,
    find_free_block,
    free,
    free_completed,
    free_requested,
    get_pool,
    has_room,
    insert_into_blocks,
    is_reserved,
    is_split,
    map_range,
    new_block,
    new_expandable_segment,
    new_segment,
    position_of,
    release_block,
    release_expandable_segment,
    round_size,
    should_split,
    splice,
    unmap_range,
    unmapped_erase,
    unmapped_insert,
    unmapped_lower_bound,
)
from oomdoctor.allocator.heap_layout import CAUSE_RECORDED, FIRST_PRIVATE, NULL, Heap
from oomdoctor.allocator.initial import RESERVE
from oomdoctor.snapshot.model import (
    ALLOC,
    FREE_COMPLETED,
    FREE_REQUESTED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
)

_RECORDED, _ZERO = passed(CAUSE_RECORDED), passed(0)


class Steps(NamedTuple):
    """What the replay takes: one row per event.

    Attributes:
        action: uint8[n].
        address, entry_size: int64[n], as in :class:`~oomdoctor.snapshot.model.Events`.
        stream: int64[n], rank of the handle.
        private_pool: int64[n], 0 for the default pools.
        pool_known: uint8[n], whether the recording tells that, or the default was assumed.
        birth: int64[n], of the block that an alloc or free speaks of: the number of the event that allocated
            it, or n + k for the k-th block that was there before; -1 otherwise.
        is_small: uint8[n], for segment events: of which of the two pools.
        request: int64[n], for segment_alloc and segment_map: the alloc or oom that they serve; -1 if unknown.
    """

    action: NDArray[np.uint8]
    address: NDArray[np.int64]
    entry_size: NDArray[np.int64]
    stream: NDArray[np.int64]
    private_pool: NDArray[np.int64]
    pool_known: NDArray[np.uint8]
    birth: NDArray[np.int64]
    is_small: NDArray[np.uint8]
    request: NDArray[np.int64]


# One row per event: what it did.
EFFECT = np.dtype(
    [
        ("block_size", np.int64),  # of the block handed out or freed, of the segment that came or went
        ("split_remainder", np.int64),  # bytes split off behind it and kept free
        ("merged_before", np.int64),  # bytes of the free neighbours it merged with
        ("merged_after", np.int64),
        ("predicted", np.int64),  # alloc: the address by our own rules; -1: none
        ("private_pool", np.int64),  # 0: none
        # alloc: by how many bytes the block at the predicted address, which was passed over, is too large
        ("passed_over", np.int64),
        (
            "tie",
            np.uint8,
        ),  # alloc: the address predicted and the recorded one are of blocks alike but for their age
        ("allocated_bytes", np.int64),  # after the event
        ("active_bytes", np.int64),
        ("requested_bytes", np.int64),
        ("reserved_bytes", np.int64),
        ("inactive_split_bytes", np.int64),
    ]
)


@compiled
def _free_block_at(heap: Heap, ptr: int) -> int:
    """The position in ``free_blocks`` of the one that covers an address."""
    for at in range(heap.stats[0].free):
        block = heap.blocks[heap.free_blocks[at].block]
        if block.ptr <= ptr < block.ptr + block.size:
            return at
    return NULL


@compiled
def _take_at(heap: Heap, ptr: int, size: int) -> int:
    """Take the free block at an address out of its list; what lies before the address stays free."""
    at = _free_block_at(heap, ptr)
    if at == NULL:
        return NULL
    b = heap.free_blocks[at].block
    block = heap.blocks[b]
    if block.ptr + block.size < ptr + size:
        return NULL
    erase_at(heap, at)
    if block.ptr < ptr:
        if block.expandable_segment == NULL:
            stats = heap.stats[0]
            was_split = is_split(heap, b)
            stats.inactive_split += 1 if was_split else 2
            stats.inactive_split_bytes += 0 if was_split else block.size
        front = new_block(heap, block.stream, ptr - block.ptr, block.pool, block.ptr, block.counter)
        heap.blocks[front].expandable_segment = block.expandable_segment
        heap.blocks[front].segment_event = block.segment_event
        splice(heap, front, block.prev, b)
        block.ptr = ptr
        block.size -= heap.blocks[front].size
        insert_into_blocks(heap, front)
    return b


@compiled
def _settle(heap: Heap) -> None:
    """No alloc follows the segment that came last: it is a cached one. The malloc is over."""
    stats = heap.stats[0]
    if stats.fresh != NULL:
        insert_into_blocks(heap, stats.fresh)
    stats.fresh = NULL
    stats.searched = 0
    stats.hit_ptr = NULL
    stats.seen_release = 0
    stats.mapped_block = NULL


@compiled
def _find(heap: Heap, pool: int, stream: int, size: int, expandable: bool) -> int:
    """The position in ``free_blocks`` of what a malloc takes without new memory; negative: none."""
    at = find_free_block(heap, pool, stream, size, expandable)
    if at < 0 and expandable:
        # A block too large for the request by max_split_size is found after all, as one that could grow.
        b = find_expandable_room(heap, pool, stream, size)
        if b != NULL and heap.blocks[b].mapped and heap.blocks[b].size >= size:
            return position_of(heap, b)
    return at


@compiled
def _search(heap: Heap, steps: Steps, request: int) -> None:
    """Before a segment comes: would the heap have asked for one?"""
    stats = heap.stats[0]
    if stats.searched or request < 0:
        return
    stats.searched = 1
    stats.hit_ptr = NULL
    size = steps.entry_size[request]
    size = round_size(heap, size) if steps.action[request] == ALLOC else size
    pool = get_pool(steps.private_pool[request], size)
    expandable = bool(heap.config[0].expandable_segments) and not heap.pools[pool].custom_allocator
    at = _find(heap, pool, steps.stream[request], size, expandable)
    if at >= 0:
        stats.hit_ptr = heap.blocks[heap.free_blocks[at].block].ptr


@compiled
def _phantom(heap: Heap, stream: int, pool: int, ptr: int, size: int) -> int:
    """A block where the recording's own segments have no room for it."""
    stats = heap.stats[0]
    stats.conflicts += 1
    b = new_block(heap, stream, size, pool, ptr, _ZERO)
    heap.blocks[b].phantom = 1
    return b


@compiled
def _alloc(heap: Heap, steps: Steps, i: int) -> int:
    """One recorded allocation: returns its block, leaves the address by the heap's own rules in ``stats``."""
    stats = heap.stats[0]
    ptr, requested_size, stream = steps.address[i], steps.entry_size[i], steps.stream[i]
    size = round_size(heap, requested_size)
    pool = get_pool(steps.private_pool[i], size)
    expandable = bool(heap.config[0].expandable_segments) and not heap.pools[pool].custom_allocator
    predicted, b, taken = NULL, NULL, NULL
    if stats.fresh != NULL or stats.mapped_block != NULL:
        # Where a release or a pending free came in the same malloc, the pool was not searched again after it.
        came = stats.fresh if stats.fresh != NULL else stats.mapped_block
        predicted = heap.blocks[came].ptr
        if stats.hit_ptr != NULL and not stats.seen_release:
            predicted = stats.hit_ptr
        if (
            stats.fresh != NULL
            and heap.blocks[stats.fresh].ptr == ptr
            and heap.blocks[stats.fresh].size >= size
        ):
            b = stats.fresh
            stats.fresh = NULL
    else:
        at = _find(heap, pool, stream, size, expandable)
        if at >= 0:
            predicted = heap.blocks[heap.free_blocks[at].block].ptr
            if predicted == ptr:
                b, taken = heap.free_blocks[at].block, at
    if predicted != ptr and heap.config[0].infers_pools:
        if not steps.pool_known[i]:
            if b != NULL:
                # A segment came although a cached block would have done: it must be a private pool's.
                heap.blocks[b].pool = _inferred_pool(heap, pool)
                stats.inferred_segments += 1
                predicted = ptr
            elif stats.mapped_block != NULL:
                if (
                    heap.blocks[stats.mapped_block].ptr == ptr
                    and heap.blocks[stats.mapped_block].pool == pool
                ):
                    _move_segment(heap, stats.mapped_block, pool)
                    predicted = ptr
            else:
                # The block taken is of a private pool, so the request was.
                predicted = _search_where(heap, ptr, stream, size, pool)
        elif pool < FIRST_PRIVATE:
            predicted = _search_again(heap, steps, predicted, ptr, b != NULL, stream, size, pool)
    if b == NULL and predicted not in (NULL, ptr):
        stats.tie = _is_tie(heap, predicted, ptr)
        at = _free_block_at(heap, predicted)
        if at != NULL:
            stats.passed_over = heap.blocks[heap.free_blocks[at].block].size - size
    _settle(heap)
    if b == NULL:
        b = _take_at(heap, ptr, size)
    if b == NULL:
        # By other settings than ours it may have been smaller.
        size = (requested_size + MIN_BLOCK_SIZE - 1) // MIN_BLOCK_SIZE * MIN_BLOCK_SIZE
        b = _take_at(heap, ptr, size)
    if b == NULL:
        b = _phantom(heap, stream, pool, ptr, size)
    split = should_split(heap, b, size, expandable)
    b = alloc_found_block(heap, b, taken, size, requested_size, split)
    heap.blocks[b].alloc_event = steps.birth[i]
    stats.predicted = predicted
    return b


@compiled
def _search_where(heap: Heap, ptr: int, stream: int, size: int, pool: int) -> int:
    """What the search finds in the pool of the free block at an address, another than ``pool``."""
    at = _free_block_at(heap, ptr)
    if at == NULL:
        return NULL
    other = heap.blocks[heap.free_blocks[at].block].pool
    if other == pool or heap.pools[other].is_small != heap.pools[pool].is_small:
        return NULL
    found = find_free_block(heap, other, stream, size, bool(heap.config[0].expandable_segments))
    return heap.blocks[heap.free_blocks[found].block].ptr if found >= 0 else NULL


@compiled
def _is_tie(heap: Heap, ptr: int, other_ptr: int) -> bool:
    """Whether free blocks of one size, pool and stream begin at both addresses."""
    at, other_at = _free_block_at(heap, ptr), _free_block_at(heap, other_ptr)
    if at == NULL or other_at == NULL:
        return False
    block, other = heap.blocks[heap.free_blocks[at].block], heap.blocks[heap.free_blocks[other_at].block]
    alike = block.size == other.size and block.pool == other.pool and block.stream == other.stream
    return alike and block.ptr == ptr and other.ptr == other_ptr


@compiled
def _inferred_pool(heap: Heap, pool: int) -> int:
    """The last of the private pools stands for those that the recording does not name."""
    return len(heap.pools) - (2 if heap.pools[pool].is_small else 1)


@compiled
def _move_segment(heap: Heap, b: int, pool: int) -> None:
    """The segment of a block was taken for one of the default pools, and is a private one's."""
    heap.stats[0].inferred_segments += 1
    while heap.blocks[b].prev != NULL:
        b = heap.blocks[b].prev
    while b != NULL:
        block = heap.blocks[b]
        if not block.mapped:
            unmapped_erase(heap, b)
            block.pool = _inferred_pool(heap, pool)
            unmapped_insert(heap, b)
        elif block.allocated or block.pending:
            block.pool = _inferred_pool(heap, pool)
        else:
            erase(heap, b)
            block.pool = _inferred_pool(heap, pool)
            insert_into_blocks(heap, b)
        b = block.next


@compiled
def _search_again(
    heap: Heap, steps: Steps, predicted: int, ptr: int, came: bool, stream: int, size: int, pool: int
) -> int:
    """A request of a known pool passed over a free block: its segment must be a private pool's."""
    while predicted not in (NULL, ptr):
        at = _free_block_at(heap, predicted)
        if at == NULL:
            return predicted
        b = heap.free_blocks[at].block
        came_with = heap.blocks[b].segment_event
        if came_with < 0 or steps.pool_known[came_with]:
            return predicted
        _move_segment(heap, b, pool)
        at = find_free_block(heap, pool, stream, size, bool(heap.config[0].expandable_segments))
        predicted = heap.blocks[heap.free_blocks[at].block].ptr if at >= 0 else NULL
    return ptr if predicted == NULL and came else predicted


@compiled
def _free_of(heap: Heap, b: int, completed: bool) -> None:
    block = heap.blocks[b]
    if block.phantom:
        stats = heap.stats[0]
        if block.allocated:
            stats.allocated_bytes -= block.size
            block.allocated = 0
        if completed:
            stats.active_bytes -= block.size
            stats.requested_bytes -= block.requested_size
            delete_block(heap, b)
    elif not completed:
        if block.allocated:
            free_requested(heap, b)
    elif block.pending:
        free_completed(heap, b)
    else:
        free(heap, b)


@compiled
def _unmapped_at(heap: Heap, pool: int, stream: int, ptr: int) -> int:
    """The unmapped block of this pool and stream that covers an address."""
    at = unmapped_lower_bound(heap, pool, stream, ptr + 1) - 1
    if at < 0:
        return NULL
    b = heap.unmapped[at]
    block = heap.blocks[b]
    inside = block.pool == pool and block.stream == stream and ptr < block.ptr + block.size
    return b if inside else NULL


@compiled
def _unmapped_of_any_pool(heap: Heap, pool: int, stream: int, ptr: int) -> int:
    """The unmapped block that begins at an address, whichever pool of the same kind it is of."""
    for at in range(heap.stats[0].unmapped_count):
        b = heap.unmapped[at]
        block = heap.blocks[b]
        alike = block.stream == stream and heap.pools[block.pool].is_small == heap.pools[pool].is_small
        if block.ptr == ptr and alike:
            return b
    return NULL


@compiled
def _clear(heap: Heap, ptr: int, size: int) -> bool:
    """Take from the ends of expandable segments what a new segment shows not to be theirs.

    The trace does not say where an expandable segment ends. False where this one would lie inside of one,
    below memory that is mapped there, which cannot be.
    """
    stats = heap.stats[0]
    at = 0
    while at < stats.unmapped_count:
        b = heap.unmapped[at]
        block = heap.blocks[b]
        if block.ptr >= ptr + size or block.ptr + block.size <= ptr:
            at += 1
            continue
        if block.next != NULL:
            return False
        if block.ptr < ptr:
            block.size = ptr - block.ptr
            at += 1
            continue
        unmapped_erase(heap, b)
        if block.prev != NULL:
            heap.blocks[block.prev].next = NULL
        else:
            heap.expandable[block.expandable_segment].alive = 0
        delete_block(heap, b)
    return True


@compiled
def _room_above(heap: Heap, ptr: int, size: int) -> int:
    """The address range of an expandable segment that begins here; 0 where there is no room for one."""
    if is_reserved(heap, ptr, size) or not _clear(heap, ptr, size):
        return 0
    end = ptr + RESERVE
    for b in range(len(heap.blocks)):
        block = heap.blocks[b]
        if block.used and not block.phantom and block.ptr > ptr:
            end = min(end, block.ptr)
    return end - ptr


@compiled
def _map(heap: Heap, steps: Steps, i: int) -> None:
    stats = heap.stats[0]
    ptr, size, stream = steps.address[i], steps.entry_size[i], steps.stream[i]
    if size <= 0:
        stats.conflicts += 1
        return
    pool = get_pool(steps.private_pool[i], 0 if steps.is_small[i] else 1 << 40)
    b = _unmapped_at(heap, pool, stream, ptr)
    if b == NULL and not steps.pool_known[i]:
        b = _unmapped_of_any_pool(heap, pool, stream, ptr)
    if b == NULL:
        room = _room_above(heap, ptr, size)
        if room < size:
            stats.conflicts += 1
            return
        b = new_expandable_segment(heap, pool, stream, ptr, room)
    block = heap.blocks[b]
    if block.ptr + block.size < ptr + size:
        stats.conflicts += 1
        return
    if block.ptr < ptr:
        # Only where the recording began later than the segment.
        unmapped_erase(heap, b)
        front = new_block(heap, stream, ptr - block.ptr, pool, block.ptr, block.counter)
        heap.blocks[front].mapped = 0
        heap.blocks[front].expandable_segment = block.expandable_segment
        splice(heap, front, block.prev, b)
        block.ptr = ptr
        block.size -= heap.blocks[front].size
        unmapped_insert(heap, front)
        unmapped_insert(heap, b)
    map_range(heap, b, size, _RECORDED)
    stats.mapped_block = b


@compiled
def _unmap(heap: Heap, ptr: int, size: int) -> int:
    """Returns the private pool that gave the memory back."""
    at = _free_block_at(heap, ptr)
    if at != NULL:
        b = heap.free_blocks[at].block
        block = heap.blocks[b]
        if size > 0 and block.expandable_segment != NULL and ptr + size <= block.ptr + block.size:
            private_pool = heap.pools[block.pool].private_pool
            unmap_range(heap, b, ptr, ptr + size, _RECORDED)
            if block.prev == NULL and block.next == NULL:
                release_expandable_segment(heap, b)
            return private_pool
    heap.stats[0].conflicts += 1
    heap.stats[0].checks_segments = 1
    return 0


@compiled
def _segment_alloc(heap: Heap, steps: Steps, i: int) -> int:
    """Returns the block that the segment is; -1 where another is there already."""
    ptr, size = steps.address[i], steps.entry_size[i]
    contradicts = heap.stats[0].checks_segments and is_reserved(heap, ptr, size)
    if size <= 0 or contradicts or not _clear(heap, ptr, size):
        heap.stats[0].conflicts += 1
        return NULL
    pool = get_pool(steps.private_pool[i], 0 if steps.is_small[i] else 1 << 40)
    return new_segment(heap, pool, steps.stream[i], ptr, size, _RECORDED)


@compiled
def _segment_free(heap: Heap, ptr: int, size: int) -> int:
    """Returns the private pool that gave the memory back."""
    at = _free_block_at(heap, ptr)
    if at != NULL:
        b = heap.free_blocks[at].block
        block = heap.blocks[b]
        whole = block.prev == NULL and block.next == NULL and block.expandable_segment == NULL
        if whole and block.ptr == ptr and block.size == size:
            private_pool = heap.pools[block.pool].private_pool
            release_block(heap, b, _RECORDED)
            return private_pool
    heap.stats[0].conflicts += 1
    heap.stats[0].checks_segments = 1
    return 0


@compiled_entry
def run_recorded(
    heap: Heap,
    steps: Steps,
    block_of: NDArray[np.int64],
    effects: NDArray[Any],
    start: int,
    stop: int,
    writes_effects: bool,
) -> int:
    """Replay events ``start`` to ``stop``; returns where it stopped: earlier, if the heap needs more room.

    Args:
        block_of: int64[births], the row of each block by its birth; kept up to date.
        effects: EFFECT[n]; written to where ``writes_effects``.
    """
    for i in range(start, stop):
        if not has_room(heap):
            return i
        stats = heap.stats[0]
        stats.event = i
        stats.split_remainder = 0
        stats.merged_before = 0
        stats.merged_after = 0
        stats.tie = 0
        stats.passed_over = 0
        action = steps.action[i]
        block_size, predicted, private_pool = 0, NULL, steps.private_pool[i]
        if action == ALLOC:
            b = _alloc(heap, steps, i)
            block_of[steps.birth[i]] = b
            block_size = heap.blocks[b].size
            predicted = stats.predicted
            private_pool = heap.pools[heap.blocks[b].pool].private_pool
        elif action in (FREE_REQUESTED, FREE_COMPLETED):
            birth = steps.birth[i]
            b = block_of[birth] if birth >= 0 else NULL
            if action == FREE_REQUESTED:
                _settle(heap)
                stats.last_free_requested = birth
            elif stats.last_free_requested == birth:
                stats.last_free_requested = NULL
            else:
                stats.seen_release = 1
            if b != NULL:
                block_size = heap.blocks[b].size
                _free_of(heap, b, action == FREE_COMPLETED)
                if action == FREE_COMPLETED:
                    block_of[birth] = NULL
        elif action == SEGMENT_ALLOC:
            _search(heap, steps, steps.request[i])
            if stats.fresh != NULL:
                insert_into_blocks(heap, stats.fresh)
            block_size = steps.entry_size[i]
            stats.fresh = _segment_alloc(heap, steps, i)
        elif action == SEGMENT_MAP:
            _search(heap, steps, steps.request[i])
            _map(heap, steps, i)
            block_size = steps.entry_size[i]
        elif action == SEGMENT_FREE:
            stats.seen_release = 1
            private_pool = _segment_free(heap, steps.address[i], steps.entry_size[i])
            block_size = steps.entry_size[i]
        elif action == SEGMENT_UNMAP:
            stats.seen_release = 1
            private_pool = _unmap(heap, steps.address[i], steps.entry_size[i])
            block_size = steps.entry_size[i]
        elif action == OOM:
            _settle(heap)
            stats.num_ooms += 1
        if writes_effects:
            row = effects[i]
            row.block_size = block_size
            row.split_remainder = stats.split_remainder
            row.merged_before = stats.merged_before
            row.merged_after = stats.merged_after
            row.predicted = predicted
            row.private_pool = private_pool
            row.tie = stats.tie
            row.passed_over = stats.passed_over
            row.allocated_bytes = stats.allocated_bytes
            row.active_bytes = stats.active_bytes
            row.requested_bytes = stats.requested_bytes
            row.reserved_bytes = stats.reserved_bytes
            row.inactive_split_bytes = stats.inactive_split_bytes
    return stop
