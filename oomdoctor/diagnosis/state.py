"""The allocator's state on one device, from a snapshot: what each pool and stream holds.

Memory is only ever reused within a pool and a stream (``DeviceCachingAllocator::get_pool`` and
``get_free_block``, c10/cuda/CUDACachingAllocator.cpp), so these are the compartments in which free memory can
or cannot serve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot.model import ACTIVE_ALLOCATED, ACTIVE_PENDING_FREE, INACTIVE, Snapshot

PoolId = tuple[int, int]
DEFAULT_POOL: PoolId = (0, 0)


@dataclass(frozen=True)
class Compartment:
    """One pool and stream: free memory in it serves nobody else. Sizes in bytes.

    Attributes:
        pool: (0, 0) for the default pool, else the id of a private one (a CUDA graph's, or a MemPool).
        is_small: the small pool (requests up to 1 MiB) rather than the large one.
        stream: raw handle, 0 for the default stream.
        segments, expandable_segments: how many, and how many of them are expandable.
        reserved: all of its segments.
        allocated: blocks in use.
        pending: blocks that were freed and wait for another stream (``active_pending_free``).
        free: inactive blocks; ``reserved = allocated + pending + free``.
        free_whole: the part of ``free`` that is whole segments, which the allocator could give back.
        holes: how many inactive blocks there are beside live ones in their segment.
        largest_free: the largest inactive block.
        rounding: blocks in use, less what was asked for (internal fragmentation); None where not recorded.
    """

    pool: PoolId
    is_small: bool
    stream: int
    segments: int
    expandable_segments: int
    reserved: int
    allocated: int
    pending: int
    free: int
    free_whole: int
    holes: int
    largest_free: int
    rounding: Optional[int]

    @property
    def is_private(self) -> bool:
        return self.pool != DEFAULT_POOL

    @property
    def in_holes(self) -> int:
        """Free bytes beside live blocks: external fragmentation."""
        return self.free - self.free_whole


@dataclass(frozen=True)
class DeviceState:
    """One device's segments and blocks, with masks over the snapshot's rows.

    Attributes:
        segments, blocks: bool masks over the rows of ``snapshot.segments`` and ``snapshot.blocks``.
        compartments: by descending reserved bytes.
        in_use: bool[segments], whether a segment holds a live or pending block.
    """

    snapshot: Snapshot
    device: int
    segments: NDArray[np.bool_]
    blocks: NDArray[np.bool_]
    in_use: NDArray[np.bool_]
    compartments: tuple[Compartment, ...]

    @property
    def reserved(self) -> int:
        return sum(c.reserved for c in self.compartments)

    @property
    def allocated(self) -> int:
        return sum(c.allocated for c in self.compartments)

    @property
    def pending(self) -> int:
        return sum(c.pending for c in self.compartments)

    @property
    def free(self) -> int:
        return sum(c.free for c in self.compartments)

    @property
    def has_expandable(self) -> bool:
        return any(c.expandable_segments for c in self.compartments)


def device_state(snapshot: Snapshot, device: int) -> DeviceState:
    """Group a device's blocks by pool, size class and stream."""
    of_device = snapshot.segments.device == device
    blocks = of_device[snapshot.blocks.segment]
    in_use = np.zeros(len(snapshot.segments), dtype=np.bool_)
    in_use[snapshot.blocks.segment[blocks & (snapshot.blocks.state != INACTIVE)]] = True
    rows = np.flatnonzero(of_device)
    keys = sorted(
        {
            (int(snapshot.segments.pool[i, 0]), int(snapshot.segments.pool[i, 1]),
             bool(snapshot.segments.is_small[i]), int(snapshot.segments.stream[i]))
            for i in rows.tolist()
        }
    )  # fmt: skip
    compartments = [
        _compartment(snapshot, of_device, in_use, (first, second), is_small, stream)
        for first, second, is_small, stream in keys
    ]
    compartments.sort(key=lambda c: -c.reserved)
    return DeviceState(snapshot, device, of_device, blocks, in_use, tuple(compartments))


def _compartment(
    snapshot: Snapshot,
    of_device: NDArray[np.bool_],
    in_use: NDArray[np.bool_],
    pool: PoolId,
    is_small: bool,
    stream: int,
) -> Compartment:
    segments, blocks = snapshot.segments, snapshot.blocks
    mine = (
        of_device
        & (segments.pool[:, 0] == pool[0])
        & (segments.pool[:, 1] == pool[1])
        & (segments.is_small == is_small)
        & (segments.stream == stream)
    )
    in_mine = mine[blocks.segment]
    size, state = blocks.block_size, blocks.state
    free = in_mine & (state == INACTIVE)
    live = in_mine & (state == ACTIVE_ALLOCATED)
    beside_live = free & in_use[blocks.segment]
    requested = blocks.requested_size[live]
    return Compartment(
        pool=pool,
        is_small=is_small,
        stream=stream,
        segments=int(mine.sum()),
        expandable_segments=int((mine & segments.is_expandable).sum()),
        reserved=int(segments.total_size[mine].sum()),
        allocated=int(size[live].sum()),
        pending=int(size[in_mine & (state == ACTIVE_PENDING_FREE)].sum()),
        free=int(size[free].sum()),
        free_whole=int(size[free & ~in_use[blocks.segment]].sum()),
        holes=int(beside_live.sum()),
        largest_free=int(size[free].max(initial=0)),
        rounding=None if (requested < 0).any() else int((size[live] - requested).sum()),
    )
