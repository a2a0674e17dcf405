"""The real allocator, given the recorded requests under a setting: its own figures beside the replay's.

A subprocess under the torch at hand, on a CUDA device with the room for it, else on an emulated one. No
kernel runs; the allocator is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Optional

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
from oomdoctor.errors import EmulatorError
from oomdoctor.units import GIB

if TYPE_CHECKING:
    from oomdoctor.emulator.real_device import RealDevice

ProveOn = Literal["auto", "device", "emulated"]
GRANULE = 2 << 20

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
class Ground:
    """On what is to be proved.

    Attributes:
        device: a real one; None: an emulated one.
        why_not: what keeps a real one that is there from being used.
        falls_back: whether an emulated one serves where the real one fails.
    """

    device: Optional[RealDevice] = None
    why_not: Optional[str] = None
    falls_back: bool = True

    def __str__(self) -> str:
        return "an emulated device" if self.device is None else str(self.device)


EMULATED = Ground()


@dataclass(frozen=True)
class Proof:
    """What the real allocator did.

    Attributes:
        alloc_conf: under which settings.
        torch: its release, "2.15".
        figures: its own statistics, by the names of ``replay --json``.
        failed_at: index of the allocation that it had no memory for; None.
        differences: where the replay says otherwise: name to (replayed, real).
        ground: on what.
        disturbed: what gave it another capacity than it was to have, in words; None: nothing.
    """

    alloc_conf: str
    torch: str
    figures: dict[str, int]
    failed_at: Optional[int]
    differences: dict[str, tuple[Any, Any]]
    ground: Ground = EMULATED
    disturbed: Optional[str] = None

    @property
    def agrees(self) -> bool:
        return not self.differences and self.disturbed is None


def ground_for(rooms: Sequence[int], python: str, on: ProveOn) -> Ground:
    """Where to prove what takes ``rooms``, bytes each.

    Raises:
        EmulatorError: it is to be a real device, and there is none that can be used.
    """
    from oomdoctor.emulator.real_device import find_device

    if on == "emulated":
        return EMULATED
    found = find_device(python, max(rooms, default=0), idle=on == "auto")
    if found.device is None and on == "device":
        raise EmulatorError(
            "there is no CUDA device to prove on",
            where="--prove-on device",
            why=found.why_not or "the torch that was asked sees none",
            next_step="leave the option out: an emulated device, with PyTorch's own allocator, does it too",
        )
    return Ground(found.device, found.why_not, falls_back=on == "auto")


def room_of(capacity: Optional[int], outcomes: Sequence[Outcome]) -> int:
    """What a device has to have free, bytes: the capacity, or without an end what is reserved at most."""
    most = max((outcome.peak_reserved_bytes for outcome in outcomes), default=0)
    return most if capacity is None else capacity


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
    ground: Ground = EMULATED,
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
    total = -(-max(total, conditions.capacity or 0) // GRANULE) * GRANULE
    ops = operations(device)

    def jobs(texts: list[str], of: int) -> list[dict[str, Any]]:
        """The programs, on a device of so much memory."""
        return [
            {
                "program": {
                    "ops": ops,
                    "settings": text,
                    "capacity": conditions.capacity,
                    "memory_fraction": _rescaled(_fraction(text, device, conditions), total, of),
                }
            }
            for text in texts
        ]

    texts = [text for text, _ in settings]
    results: dict[str, tuple[dict[str, Any], Ground]] = {}
    if ground.device is not None:
        driven = drive(python, jobs(texts, ground.device.total_bytes), on=ground.device)
        results = {text: (result, ground) for text, result in zip(texts, driven)}
    failed = [text for text in texts if text not in results or _trouble(results[text][0])]
    if failed and (ground.device is None or ground.falls_back):
        driven = drive(python, jobs(failed, total), devices=EmulatedDevices((total,), context_bytes=0))
        for text, result in zip(failed, driven):
            why = _trouble(results[text][0]) if text in results else ground.why_not
            results[text] = (result, Ground(None, why))
    return [_proof(text, torch, *results[text], outcome) for text, outcome in settings]


def _rescaled(fraction: Optional[float], total: int, of: int) -> Optional[float]:
    """What of another device's memory is the same limit; at most all of it."""
    if fraction is None or of == total:
        return fraction
    # PyTorch cuts the product off.
    return min((int(fraction * total) + 0.5) / of, 1.0)


def _fraction(text: str, device: DeviceHistory, conditions: Conditions) -> Optional[float]:
    """A fraction in the settings is read when a device starts, and the driver's has: it is set by hand."""
    if conditions.memory_fraction is not None:
        return conditions.memory_fraction
    fraction = parse_settings(text, device.history.torch).settings.per_process_memory_fraction
    return fraction if fraction < 1.0 else None


def _trouble(result: dict[str, Any]) -> Optional[str]:
    """What kept a program from being run to its end, in a line."""
    trouble = result.get("error") or result.get("unsupported")
    return str(trouble).strip().splitlines()[-1] if trouble else None


def _proof(text: str, torch: str, result: dict[str, Any], ground: Ground, outcome: Outcome) -> Proof:
    trouble = _trouble(result)
    if trouble:
        return Proof(text, torch, {}, None, {"run": ("ran", trouble)}, ground)
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
    return Proof(text, torch, figures, failed, differences, ground, result.get("disturbed"))
