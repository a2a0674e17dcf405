"""What expandable segments could give back of the holes that a snapshot shows.

An expandable segment is mapped in granules, 2 MiB in the small pool and ``large_segment_size`` (20 MiB) in
the large one, and unmaps each that is free as a whole (``ExpandableSegment::unmap``, ``unmap_block``;
c10/cuda/CUDACachingAllocator.cpp, since 2.1).
"""

from __future__ import annotations

import numpy as np

from oomdoctor.allocator.constants import LARGE_BUFFER, SMALL_BUFFER
from oomdoctor.diagnosis.state import DeviceState
from oomdoctor.snapshot.model import INACTIVE


def unmappable_bytes(state: DeviceState, large_segment_size: int = LARGE_BUFFER) -> int:
    """Bytes of whole granules inside the holes of a device's default pools, blocks lying as they lie.

    Segments that are expandable already are left out, and so are private pools. Granules are counted from
    the start of each segment. In an expandable segment holes of neighbours join, so it may be more.
    """
    segments, blocks = state.snapshot.segments, state.snapshot.blocks
    right = state.segments & state.in_use & ~segments.is_expandable
    right &= (segments.pool[:, 0] == 0) & (segments.pool[:, 1] == 0)
    rows = np.flatnonzero(right[blocks.segment] & (blocks.state == INACTIVE))
    segment = blocks.segment[rows]
    granule = np.where(segments.is_small[segment], SMALL_BUFFER, large_segment_size).astype(np.int64)
    begin = blocks.address[rows] - segments.address[segment]
    end = begin + blocks.block_size[rows]
    first, last = -(-begin // granule) * granule, end // granule * granule
    return int(np.maximum(last - first, 0).sum())
