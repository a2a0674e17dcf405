"""The request that failed, and which free memory could have served it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from oomdoctor.diagnosis.state import DEFAULT_POOL, Compartment, DeviceState, PoolId
from oomdoctor.snapshot.model import INACTIVE, OOM, UNKNOWN, Snapshot
from oomdoctor.units import MIB

SMALL_LIMIT = MIB
"""``kSmallSize``: requests up to this are served from the small pool (c10/cuda/CUDACachingAllocator.cpp)."""

_NON_SPLIT_ROUNDING = 20 * MIB
"""``kLargeBuffer``: how much larger an oversize block may be than an oversize request."""


@dataclass(frozen=True)
class Request:
    """What was asked for when memory ran out.

    Attributes:
        segment_bytes: the segment asked of the device: what the error message says ("Tried to allocate").
        block_bytes: the block needed, after rounding; None where no history says.
        stream: whose free blocks may serve; None where no history says.
        pool: the private pool, where torch 2.12 or later says; else the default pool is taken.
        device_free: what the device had free at that moment.
    """

    segment_bytes: Optional[int]
    block_bytes: Optional[int]
    stream: Optional[int]
    pool: PoolId
    device_free: Optional[int]

    @property
    def least_bytes(self) -> Optional[int]:
        """What a free block must at least hold, as far as is known."""
        return self.block_bytes if self.block_bytes is not None else self.segment_bytes


def last_request(snapshot: Snapshot, device: int, sidecar_oom: dict[str, Any]) -> Optional[Request]:
    """The request of a device's newest ``oom`` entry, with what the recorder's observer was told.

    The trace has the rounded size and the stream, the observer the size of the segment
    (``DeviceCachingAllocator::malloc``: ``record_trace(OOM, device_free, params.size(), params.stream())``,
    then ``observer(device, alloc_size, ...)``). None where neither says anything.
    """
    of_sidecar = sidecar_oom if sidecar_oom.get("device") == device else {}
    segment = of_sidecar.get("requested_bytes")
    free = of_sidecar.get("free_bytes")
    if device < len(snapshot.traces):
        trace = snapshot.traces[device]
        rows = np.flatnonzero(trace.action == OOM)
        if len(rows):
            row = int(rows[-1])
            pool = (int(trace.pool[row, 0]), int(trace.pool[row, 1]))
            block = int(trace.entry_size[row])
            return Request(
                segment_bytes=segment if segment is not None else _segment_size(block),
                block_bytes=block,
                stream=int(trace.stream[row]),
                pool=DEFAULT_POOL if pool[0] == UNKNOWN else pool,
                device_free=free if free is not None else int(trace.address[row]),
            )
    if segment is None:
        return None
    return Request(segment, None, None, DEFAULT_POOL, free)


def _segment_size(block: int) -> int:
    """``get_allocation_size``: 2 MiB, 20 MiB (for 1 to 10 MiB), else up to a multiple of 2 MiB."""
    if block <= SMALL_LIMIT:
        return 2 * MIB
    if block < 10 * MIB:
        return 20 * MIB
    return -(-block // (2 * MIB)) * 2 * MIB


def is_small(request: Request) -> bool:
    """Whether the small pool serves it (``get_pool``). By the segment alone: small segments are 2 MiB."""
    if request.block_bytes is not None:
        return request.block_bytes <= SMALL_LIMIT
    return request.segment_bytes == 2 * MIB


def serving_compartments(state: DeviceState, request: Request) -> list[Compartment]:
    """The compartments whose free blocks may serve: same pool, size class, and stream where it is known."""
    return [
        c
        for c in state.compartments
        if c.pool == request.pool
        and c.is_small == is_small(request)
        and (request.stream is None or c.stream == request.stream)
    ]


def largest_free_block(state: DeviceState, request: Optional[Request]) -> int:
    """The largest free block that the allocator would have looked at, in bytes; 0 where there is none."""
    looked_at = state.compartments if request is None else serving_compartments(state, request)
    return max((c.largest_free for c in looked_at), default=0)


def fitting_blocks(state: DeviceState, request: Request, max_split_size: int) -> int:
    """How many free blocks are large enough, by ``get_free_block``'s rules.

    A request below ``max_split_size`` gets no block of that size or above; one above gets none that is 20 MiB
    (or more) larger. At an OOM there should be none.

    Args:
        max_split_size: bytes; 0 or less where it is not set.
    """
    need = request.least_bytes
    if need is None:
        return 0
    segments, blocks = state.snapshot.segments, state.snapshot.blocks
    right = (
        state.segments
        & (segments.pool[:, 0] == request.pool[0])
        & (segments.pool[:, 1] == request.pool[1])
        & (segments.is_small == is_small(request))
    )
    if request.stream is not None:
        right &= segments.stream == request.stream
    size = blocks.block_size
    fits = right[blocks.segment] & (blocks.state == INACTIVE) & (size >= need)
    if max_split_size > 0:
        if need < max_split_size:
            fits &= size < max_split_size
        else:
            fits &= size < need + _NON_SPLIT_ROUNDING
    return int(fits.sum())
