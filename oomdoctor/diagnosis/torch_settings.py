"""Which allocator settings exist in which PyTorch, and the variable that sets them.

Sources: ``AllocatorConfig::parseArgs`` in c10/cuda/CUDAAllocatorConfig.cpp (``CachingAllocatorConfig`` up to
2.1) and c10/core/AllocatorConfig.cpp; pull requests #44742 (max_split_size_mb, 1.10), #96995
(expandable_segments, 2.1),
#165135 (PYTORCH_ALLOC_CONF, 2.10).
"""

from __future__ import annotations

from typing import Any, Optional

from oomdoctor.units import MIB

Version = tuple[int, int]
NEWEST: Version = (2, 15)
EXPANDABLE_SEGMENTS_SINCE: Version = (2, 1)
MAX_SPLIT_SIZE_SINCE: Version = (1, 10)
PRIVATE_VARIABLE_SINCE: Version = (2, 10)


def parse_version(text: str) -> Version:
    """``"2.3.1+cu121"`` as (2, 3)."""
    major, minor = text.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def variable(family: str, stated: Optional[str]) -> str:
    """The environment variable to set.

    PYTORCH_CUDA_ALLOC_CONF is read by every CUDA build since 1.10 and wins where both are set, so it is the
    one to give unless the message names another.
    """
    if stated:
        return stated
    return {"npu": "PYTORCH_NPU_ALLOC_CONF", "rocm": "PYTORCH_HIP_ALLOC_CONF"}.get(
        family, "PYTORCH_CUDA_ALLOC_CONF"
    )


def expandable_segments_on(details: dict[str, Any]) -> bool:
    """Whether the text shows that expandable segments are in use: set, and the platform has them."""
    if details.get("expandable_segments_unsupported"):
        return False
    settings = details.get("settings") or {}
    return bool(details.get("expandable_segments")) or settings.get("expandable_segments") == "True"


def max_split_size_set_mb(details: dict[str, Any]) -> Optional[int]:
    """The ``max_split_size_mb`` that the text shows, in MiB."""
    value = (details.get("settings") or {}).get("max_split_size_mb", "")
    return int(value) if value.isdecimal() and len(value) < 10 else None


def first_max_split_size_mb(requested_bytes: int) -> Optional[int]:
    """A first value for ``max_split_size_mb``, in MiB, for a request that failed. None where none makes
    sense.

    Blocks larger than max_split_size are not split, and requests smaller than it do not take them
    (``DeviceCachingAllocator::should_split``, ``get_free_block``). Below the failed request blocks of its
    size stay whole for the next of its kind; far below it, more and more requests get a segment each. So: the
    largest power of two that is not above half the request, from 32 MiB on (``parseMaxSplitSize`` wants more
    than kLargeBuffer, 20 MiB), and none where the request is not larger than that.
    """
    mib = requested_bytes // MIB
    if mib <= 32:
        return None
    value = 32
    while value * 2 <= mib // 2:
        value *= 2
    return value
