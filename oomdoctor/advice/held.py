"""What was reserved when a trace began: with less memory than that nothing can be said of it.

Those segments lie as they lie under every setting; how the program would have come there with less is not in
the recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.settings import Settings
from oomdoctor.diagnosis.run_remedies import exact_size
from oomdoctor.errors import InputError, UsageError
from oomdoctor.units import format_bytes


def refuse_less(
    devices: Sequence[DeviceHistory], capacities: Sequence[Optional[int]], *, asked: bool
) -> None:
    """Hold the capacities, in bytes, against what was reserved when the traces began.

    Args:
        asked: whether a person named the capacity, rather than the recording.

    Raises:
        UsageError: one is below that, and was asked for.
        InputError: one is below that, and the recording's own.
    """
    short = [
        (device, size)
        for device, size in zip(devices, capacities)
        if size is not None and size < device.held_at_start
    ]
    if not short:
        return
    device, size = max(short, key=lambda one: one[0].held_at_start)
    held = device.held_at_start
    where = f" on GPU {device.device}" if len(devices) > 1 else ""
    why = (
        f"{format_bytes(held)} were reserved{where} when the trace began, and how the program would have"
        " come there with less is not in the recording"
    )
    enough = f"--capacity {exact_size(held)} or more"
    if len(short) < len(devices):
        enough += ", or another --device"
    if asked:
        raise UsageError(
            f"nothing can be said of {format_bytes(size)} for PyTorch",
            where="--capacity",
            why=why,
            next_step=f"{enough}; or record from the program's start: oomdoctor trace -- COMMAND",
        )
    raise InputError(
        f"when memory ran out there were {format_bytes(size)} for PyTorch, less than when the trace began",
        where=device.source.path,
        why=why,
        next_step=enough,
    )


def can_begin(settings: Settings, device: DeviceHistory, capacity: Optional[int]) -> bool:
    """Whether the memory fraction that these settings bring leaves what was reserved when the trace began."""
    conditions = device.conditions(capacity)
    total = conditions.total_memory or capacity
    fraction = settings.per_process_memory_fraction
    if conditions.memory_fraction is not None or fraction >= 1.0 or total is None:
        return True
    return int(fraction * total) >= device.held_at_start
