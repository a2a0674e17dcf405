"""From settings, a release and the outer conditions to the numbers that the heap runs by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.heap_layout import CONFIG
from oomdoctor.allocator.rules import rules_of
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.torch_version import TorchVersion

_NO_END = 1 << 45


@dataclass(frozen=True)
class Conditions:
    """What a replay runs under, beside the settings.

    Attributes:
        capacity: bytes that PyTorch may reserve: the device's total less what is not PyTorch's. None: no end.
        total_memory: bytes of the device, for what is a fraction of it; the capacity where None.
        memory_fraction: of ``torch.cuda.set_per_process_memory_fraction``; None: not called.
        addresses_fall: whether cudaMalloc hands out falling addresses, which breaks ties before torch 2.12.
            None: as most segments of the recording did.
    """

    capacity: Optional[int] = None
    total_memory: Optional[int] = None
    memory_fraction: Optional[float] = None
    addresses_fall: Optional[bool] = None


def config_of(
    settings: Settings,
    torch: TorchVersion,
    conditions: Optional[Conditions] = None,
    *,
    writes_log: bool = False,
) -> NDArray[Any]:
    """CONFIG[1] for :func:`oomdoctor.allocator.heap_layout.new_heap`."""
    conditions = conditions or Conditions()
    rules = rules_of(torch)
    total = conditions.total_memory if conditions.total_memory is not None else conditions.capacity
    fraction = conditions.memory_fraction
    if fraction is None:
        fraction = settings.per_process_memory_fraction
    config = np.zeros(1, CONFIG)
    config["max_split_size"] = settings.max_split_size
    config["max_non_split_rounding"] = settings.max_non_split_rounding
    config["large_segment_size"] = settings.large_segment_size
    config["allowed_memory_maximum"] = int(fraction * total) if total is not None and fraction < 1.0 else -1
    config["rejection_maximum"] = -1
    if settings.throw_on_cudamalloc_oom and total is not None:
        config["rejection_maximum"] = int(settings.per_process_memory_fraction * total)
    config["capacity"] = -1 if conditions.capacity is None else conditions.capacity
    # ExpandableSegment: address space for the whole device, an eighth to spare.
    config["address_space"] = _NO_END if total is None else total + total // 8
    config["garbage_collection_threshold"] = settings.garbage_collection_threshold
    config["roundup_power2_divisions"] = settings.roundup_power2_divisions
    config["expandable_segments"] = settings.expandable_segments
    config["tie_break"] = rules.tie_break
    config["unrounded_division_of_one"] = rules.unrounded_division_of_one
    config["addresses_fall"] = bool(conditions.addresses_fall)
    config["writes_log"] = writes_log
    return config
