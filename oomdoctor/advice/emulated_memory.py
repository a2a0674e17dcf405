"""Emulated devices on which PyTorch has the memory that was asked about, to rehearse a program on again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.what_if import capacity_of
from oomdoctor.run.documents import Json, integer, objects
from oomdoctor.units import MIB, TIB, format_bytes

# What ``rehearse`` takes.
_LEAST, _MOST = 32 * MIB, TIB


@dataclass(frozen=True)
class Resized:
    """The settings of emulated devices as a launcher keeps them; None where there are none, and why."""

    emulated: Optional[Json]
    why_not: Optional[str] = None


def with_capacity(emulated: Any, devices: Sequence[DeviceHistory], capacity: Optional[int]) -> Resized:
    """The recorded devices, of those in ``devices`` with so much memory that PyTorch has ``capacity``.

    What else was on a device when it was recorded, contexts above all, comes on top.

    Args:
        emulated: of the launcher's document.
        capacity: bytes that PyTorch may reserve on each; None: as recorded.
    """
    if not isinstance(emulated, dict):
        return Resized(None, "it was not rehearsed")
    if capacity is None:
        return Resized(emulated)
    memory = emulated.get("memory_bytes")
    sizes = list(memory) if isinstance(memory, list) and all(isinstance(one, int) for one in memory) else []
    shared, most = next(iter(Counter(map(_index, devices)).most_common(1)), (0, 0))
    if most > 1:
        return Resized(
            None, f"{most} processes share GPU {shared}: no size of it gives each {format_bytes(capacity)}"
        )
    for device in devices:
        at = _index(device)
        if at >= len(sizes):
            return Resized(None, f"how much memory the emulated GPU {at} had is not known")
        had = capacity_of(device)
        if had is None:
            others = (integer(emulated, key) or 0 for key in ("context_bytes", "other_bytes"))
            sizes[at] = capacity + sum(others)
        else:
            sizes[at] += capacity - had
        if not _LEAST <= sizes[at] <= _MOST:
            return Resized(None, f"a GPU with {format_bytes(capacity)} for PyTorch cannot be emulated")
    return Resized({**emulated, "memory_bytes": sizes})


def _index(device: DeviceHistory) -> int:
    """Which of the emulated devices it is: a process may see them in an order of its own."""
    for entry in objects(device.source.document, "devices"):
        index = integer(entry, "nvml_index")
        if integer(entry, "device") == device.device and index is not None:
            return index
    return device.device
