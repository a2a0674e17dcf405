"""The real allocator, given the recorded requests under a setting: its own figures beside the replay's.

A subprocess under the torch at hand, on an emulated device: kernels do not run, the allocator is PyTorch's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.replay import Outcome, requests_of
from oomdoctor.allocator.requests import (
    OP_ALLOC,
    OP_EMPTY_CACHE,
    OP_FAILED_ALLOC,
    OP_FREE,
    OP_FREE_COMPLETED,
    OP_FREE_REQUESTED,
)
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.units import GIB

# What both must have in common to count as proof. Allocated bytes differ where a free waited for another
# stream: it is driven when it completed.
COMPARED = (
    "peak_active_bytes",
    "peak_reserved_bytes",
    "num_alloc_retries",
    "num_ooms",
    "segments_allocated",
    "segments_freed",
)


@dataclass(frozen=True)
class Proof:
    """What the real allocator did.

    Attributes:
        alloc_conf: under which settings.
        torch: its release, "2.15".
        figures: its own statistics, by the names of ``replay --json``.
        failed_at: index of the allocation that it had no memory for; None.
        differences: where the replay says otherwise: name to (replayed, real). Empty: proved.
    """

    alloc_conf: str
    torch: str
    figures: dict[str, int]
    failed_at: Optional[int]
    differences: dict[str, tuple[Any, Any]]

    @property
    def agrees(self) -> bool:
        return not self.differences


def why_unprovable(device: DeviceHistory) -> Optional[str]:
    """What keeps the recorded requests from being driven through another allocator; None: nothing."""
    if not device.has_events:
        return "no history was recorded"
    if not device.is_complete:
        return "the recording began with blocks already there, which cannot be put where they were"
    if device.history.recording.pools or device.history.check.inferred_segments:
        return "the recording has private pools (CUDA graphs, MemPool), whose use cannot be repeated from it"
    return None


def operations(device: DeviceHistory) -> list[list[Any]]:
    """The recorded requests as ``payload/drive_allocator.py`` takes them."""
    requests = requests_of(device.history)
    ops: list[list[Any]] = []
    kinds, births = requests.op.tolist(), requests.birth.tolist()
    sizes, streams = requests.requested_size.tolist(), requests.stream.tolist()
    # The default stream is 0 for the driver. Handles ascend, so it has rank 0 here where it occurs.
    shift = 0 if 0 in device.history.recording.streams[:1] else 1
    for kind, birth, size, rank in zip(kinds, births, sizes, streams):
        stream = rank + shift
        if kind == OP_ALLOC:
            ops.append(["alloc", birth, size, stream])
        elif kind == OP_FAILED_ALLOC:
            ops += [["alloc", f"oom {len(ops)}", size, stream], ["free", f"oom {len(ops)}"]]
        elif kind in (OP_FREE, OP_FREE_COMPLETED):
            ops.append(["free", birth])
        elif kind == OP_EMPTY_CACHE:
            ops.append(["empty_cache"])
        else:
            assert kind == OP_FREE_REQUESTED  # driven when it completes
    return ops


def prove(
    device: DeviceHistory,
    settings: list[tuple[str, Outcome]],
    conditions: Conditions,
    python: str,
) -> list[Proof]:
    """Drive the recorded requests under each of ``settings``, and compare with what the replay said of it.

    Args:
        conditions: those that the replays had.
        python: the interpreter whose torch is to do it.

    Raises:
        EmulatorError: there is no torch that can be used.
    """
    from oomdoctor.emulator.drive import drive
    from oomdoctor.emulator.state import EmulatedDevices
    from oomdoctor.emulator.torch_build import find_torch

    torch = ".".join(find_torch(python).version.split(".")[:2])
    most = max((outcome.peak_reserved_bytes for _, outcome in settings), default=0)
    # As the replay has it: expandable segments reserve address space by it, and can come to its end.
    total = conditions.total_memory or conditions.capacity or max(2 * most, 4 * GIB)
    total = -(-max(total, conditions.capacity or 0) // (2 << 20)) * (2 << 20)
    ops = operations(device)
    jobs = [
        {
            "program": {
                "ops": ops,
                "settings": text,
                "capacity": conditions.capacity,
                "memory_fraction": _fraction(text, device, conditions),
            }
        }
        for text, _ in settings
    ]
    results = drive(python, jobs, devices=EmulatedDevices((total,), context_bytes=0))
    return [_proof(text, torch, result, outcome) for (text, outcome), result in zip(settings, results)]


def _fraction(text: str, device: DeviceHistory, conditions: Conditions) -> Optional[float]:
    """A fraction in the settings is read when a device starts, and the driver's has: it is set by hand."""
    if conditions.memory_fraction is not None:
        return conditions.memory_fraction
    fraction = parse_settings(text, device.history.torch).settings.per_process_memory_fraction
    return fraction if fraction < 1.0 else None


def _proof(text: str, torch: str, result: dict[str, Any], outcome: Outcome) -> Proof:
    trouble = result.get("error") or result.get("unsupported")
    if trouble:
        return Proof(text, torch, {}, None, {"run": ("ran", str(trouble).strip().splitlines()[-1])})
    figures = {name: int(result[name]) for name in COMPARED}
    figures["peak_allocated_bytes"] = int(result["peak_allocated_bytes"])
    failed = result["first_oom"] and int(result["first_oom"]["event_alloc_index"])
    differences: dict[str, tuple[Any, Any]] = {
        name: (getattr(outcome, name), figures[name])
        for name in COMPARED
        if getattr(outcome, name) != figures[name]
    }
    ours = outcome.first_oom and outcome.first_oom.alloc_index
    if ours != failed:
        differences["first_oom"] = (ours, failed)
    return Proof(text, torch, figures, failed, differences)
