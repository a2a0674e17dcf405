"""Every key of the allocator's settings, and the releases that know it.

Sources: ``getKeys`` of c10/core/AllocatorConfig.h and c10/cuda/CUDAAllocatorConfig.h (2.11 to 2.15), the keys
that ``CUDAAllocatorConfig::parseArgs`` compares with in the releases before, the pull requests named below.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Optional

from oomdoctor.allocator.torch_version import OLDEST, TorchVersion

# c10/core/AllocatorConfig.cpp takes over from c10/cuda/CUDAAllocatorConfig.cpp (pull 165135; 2.9 has both and
# uses the older).
ACCELERATOR_CONFIG_SINCE: TorchVersion = (2, 10)


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        since: the first release of 2.0 and later that reads it; None where only releases before 2.0 did.
        common: read for every accelerator, by c10/core/AllocatorConfig.cpp where that exists; else by
            CUDA's own.
    """

    name: str
    since: Optional[TorchVersion]
    common: bool = False


KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key("max_split_size_mb", OLDEST, common=True),
        Key("garbage_collection_threshold", OLDEST, common=True),
        Key("roundup_power2_divisions", OLDEST, common=True),
        Key("backend", OLDEST),
        Key("roundup_bypass_threshold_mb", None),  # 1.13 alone: pull 85940, removed by 87290
        Key("expandable_segments", (2, 1), common=True),  # pull 96995
        Key("release_lock_on_cudamalloc", (2, 2)),  # pull 108367
        Key("release_lock_on_hipmalloc", (2, 2)),  # pull 110715
        Key("pinned_use_cuda_host_register", (2, 2)),  # pull 108488
        Key("pinned_use_hip_host_register", (2, 2)),
        Key("pinned_num_register_threads", (2, 2)),  # pull 108488
        Key("max_non_split_rounding_mb", (2, 6), common=True),  # pull 136174
        Key("pinned_use_background_threads", (2, 6), common=True),  # pull 135524
        Key("graph_capture_record_stream_reuse", (2, 9)),  # pull 158352
        Key("pinned_reserve_segment_size_mb", (2, 10)),  # pull 163780
        Key("per_process_memory_fraction", (2, 10)),  # pull 161035
        Key("large_segment_size_mb", (2, 11), common=True),  # pull 172056
        Key("throw_on_cudamalloc_oom", (2, 12)),  # pull 179473
        Key("pinned_free_catch_all", (2, 12)),
        Key("pinned_max_round_threshold_mb", (2, 13), common=True),
        Key("pinned_max_cached_size_mb", (2, 13), common=True),
        Key("expandable_segments_reserve", (2, 15)),  # pull 192269
        Key("expandable_segments_reserve_by_class", (2, 15)),  # pull 192269
    )
}


def knows(name: str, torch: TorchVersion) -> bool:
    """Whether that release reads the key."""
    key = KEYS.get(name)
    return key is not None and key.since is not None and torch >= key.since


def why_unknown(name: str, torch: TorchVersion) -> str:
    """Why that release does not read the key, in words."""
    key = KEYS.get(name)
    if key is None:
        return "no PyTorch from 2.0 to 2.15 knows it"
    if key.since is None:
        return "only PyTorch before 2.0 knew it"
    return f"PyTorch {key.since[0]}.{key.since[1]} and later know it, {torch[0]}.{torch[1]} does not"


def nearest(name: str, torch: TorchVersion) -> Optional[str]:
    """The key that was probably meant; None where none resembles it."""
    known = [key for key in KEYS if knows(key, torch)]
    found = difflib.get_close_matches(name, known, 1, 0.7)
    return found[0] if found else None
