"""Settings to try, each valid for the torch at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .program import Program

Version = tuple[int, int]


@dataclass(frozen=True)
class Setting:
    """A text for PYTORCH_CUDA_ALLOC_CONF, and the memory fraction that goes with it.

    Attributes:
        fraction_of_peak: the limit, as a share of what the program reserved at its peak without one. Garbage is
            collected only under a limit.
        since, before: the releases of torch that take it.
    """

    text: str
    fraction_of_peak: Optional[float] = None
    since: Version = (2, 0)
    before: Version = (99, 0)

    def apply(self, program: Program, peak_reserved: int, total_memory: int) -> Program:
        """``program`` under this setting, on a device of ``total_memory``."""
        if self.fraction_of_peak is None:
            return program.under(self.text)
        fraction = min(1.0, self.fraction_of_peak * peak_reserved / total_memory)
        return program.under(self.text, memory_fraction=fraction)


_ALL = (
    Setting(""),
    Setting("max_split_size_mb:21", before=(2, 11)),
    Setting("max_split_size_mb:20", since=(2, 11)),
    *(Setting(f"max_split_size_mb:{size}") for size in (32, 64, 128, 512)),
    *(Setting(f"roundup_power2_divisions:{divisions}") for divisions in (1, 2, 4, 8)),
    Setting("roundup_power2_divisions:[1:8,16:4,64:2]"),
    Setting("roundup_power2_divisions:[2:1,32:8,>:4]"),
    Setting("garbage_collection_threshold:0.5", 1.0),
    Setting("garbage_collection_threshold:0.8", 1.2),
    Setting("garbage_collection_threshold:0.7,max_split_size_mb:32", 0.9),
    Setting("", 0.8),
    Setting("max_split_size_mb:64,roundup_power2_divisions:4"),
    Setting("expandable_segments:True"),
    Setting("expandable_segments:True", 0.9),
    Setting("expandable_segments:True,roundup_power2_divisions:4"),
    # Releases before assert something else of the blocks of expandable segments.
    Setting("expandable_segments:True,max_split_size_mb:64", since=(2, 6)),
    Setting("expandable_segments:True,garbage_collection_threshold:0.6", 1.0, since=(2, 6)),
    Setting("max_split_size_mb:32,max_non_split_rounding_mb:64", since=(2, 6)),
    Setting("max_split_size_mb:64,max_non_split_rounding_mb:32", since=(2, 6)),
    Setting("large_segment_size_mb:32", since=(2, 11)),
    Setting("large_segment_size_mb:64,max_split_size_mb:128", since=(2, 11)),
    Setting("large_segment_size_mb:40,expandable_segments:True", since=(2, 11)),
)


def settings_for(version: Version) -> list[Setting]:
    """All settings that a release takes, the default first."""
    return [setting for setting in _ALL if setting.since <= version < setting.before]
