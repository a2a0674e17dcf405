"""The allocator's settings as values: what a parsed ``PYTORCH_CUDA_ALLOC_CONF`` amounts to.

Source: the members of ``CUDAAllocatorConfig`` (c10/cuda/CUDAAllocatorConfig.h) and, from 2.9 on, of
``AcceleratorAllocatorConfig`` (c10/core/AllocatorConfig.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from oomdoctor.allocator.constants import LARGE_BUFFER, UNLIMITED

ROUNDUP_SLOTS = 16  # kRoundUpPowerOfTwoIntervals: slot i is for sizes of [2^i, 2^(i+1)) MiB


@dataclass(frozen=True)
class Reserve:
    """``ExpandableSegmentReserveSpec``: GiB, or a fraction of the device's memory."""

    value: float
    is_fraction: bool = True


@dataclass(frozen=True)
class Settings:
    """Settings in effect; the defaults are those of torch without any variable set. Sizes in bytes.

    Attributes:
        max_split_size: free blocks of at least this size are not split; UNLIMITED where off.
        max_non_split_rounding: how much larger than the request such a block may be.
        large_segment_size: the segment for requests of 1 to 10 MiB.
        garbage_collection_threshold: fraction of the allowed memory; 0.0 where off.
        roundup_power2_divisions: divisions of a power of two, by slot; 0 and 1 round to 512 bytes.
        per_process_memory_fraction: of the device's memory, taken when a device is first used; a later
            ``torch.cuda.set_per_process_memory_fraction`` is not seen here.
        expandable_segments_reserve: the address space of an expandable segment; None for 9/8 of the device.
        expandable_segments_reserve_by_class: the same for streams with a class, by its name.
        backend: "native" or "cudaMallocAsync".
        text: the text these were parsed from, in canonical form; "" for the defaults.
    """

    max_split_size: int = UNLIMITED
    max_non_split_rounding: int = LARGE_BUFFER
    large_segment_size: int = LARGE_BUFFER
    garbage_collection_threshold: float = 0.0
    roundup_power2_divisions: tuple[int, ...] = (0,) * ROUNDUP_SLOTS
    expandable_segments: bool = False
    per_process_memory_fraction: float = 1.0
    throw_on_cudamalloc_oom: bool = False
    graph_capture_record_stream_reuse: bool = False
    expandable_segments_reserve: Optional[Reserve] = None
    expandable_segments_reserve_by_class: tuple[tuple[str, Reserve], ...] = ()
    release_lock_on_cudamalloc: bool = False
    pinned_use_cuda_host_register: bool = False
    pinned_num_register_threads: int = 1
    pinned_use_background_threads: bool = False
    pinned_reserve_segment_size: int = 0
    pinned_max_round_threshold: int = UNLIMITED
    pinned_max_cached_size: int = UNLIMITED
    pinned_free_catch_all: bool = False
    backend: str = "native"
    text: str = ""
