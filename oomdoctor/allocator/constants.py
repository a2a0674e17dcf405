"""Sizes that the caching allocator is built with, in bytes.

Source: the ``constexpr size_t k...`` at the top of c10/cuda/CUDACachingAllocator.cpp, kLargeBuffer
from 2.9 on in c10/core/AllocatorConfig.h. The values have been the same since 1.1.
"""

from __future__ import annotations

from oomdoctor.units import MIB

MIN_BLOCK_SIZE = 512  # kMinBlockSize: all sizes are rounded to at least this
SMALL_SIZE = MIB  # kSmallSize: the largest request of the small pool
SMALL_BUFFER = 2 * MIB  # kSmallBuffer: a segment of the small pool
MIN_LARGE_ALLOC = 10 * MIB  # kMinLargeAlloc: requests from here on get a segment of their own size
ROUND_LARGE = 2 * MIB  # kRoundLarge: to a multiple of this
LARGE_BUFFER = 20 * MIB  # kLargeBuffer: a segment for smaller ones, where large_segment_size is not set

# std::numeric_limits<size_t>::max() in PyTorch; here the largest value of a signed 64-bit column.
UNLIMITED = 2**63 - 1
