"""A recording beside itself under other settings, another capacity, another release."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from oomdoctor.allocator.history import History
from oomdoctor.allocator.loading import DeviceHistory, recorded_settings
from oomdoctor.allocator.release_bounds import named
from oomdoctor.allocator.replay import Outcome, Replay, recorded_outcome, replay
from oomdoctor.allocator.rules import TIE_ADDRESS, rules_of
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.allocator.settings_warnings import summaries
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.errors import SettingsError, UsageError
from oomdoctor.snapshot.model import OOM
from oomdoctor.units import format_bytes


@dataclass(frozen=True)
class Asked:
    """What is to be different; None for as recorded.

    Attributes:
        alloc_conf: a text as in ``PYTORCH_CUDA_ALLOC_CONF``.
        capacity: bytes that PyTorch may reserve.
        torch: the release whose rules are to hold.
        memory_fraction: of ``set_per_process_memory_fraction``.
        total_bytes: of the device, what fractions are of; changes nothing by itself.
    """

    alloc_conf: Optional[str] = None
    capacity: Optional[int] = None
    torch: Optional[TorchVersion] = None
    memory_fraction: Optional[float] = None
    total_bytes: Optional[int] = None

    @property
    def changes_something(self) -> bool:
        return any(
            value is not None for value in (self.alloc_conf, self.capacity, self.torch, self.memory_fraction)
        )


@dataclass(frozen=True)
class Comparison:
    """The figures of a recording, and those under what was asked.

    Attributes:
        recorded: of the recording itself.
        simulated: under what was asked; None where nothing was, or no history was recorded.
        alloc_conf: the settings text that ``outcome`` is of.
        torch: the release whose rules hold.
        warnings: about the settings text.
        notes: what a reader has to know, those of the recording included.
        limit_bytes: the end of memory in the simulation, by capacity or fraction; None: without end.
        fits_at_start: whether what was reserved when the trace began is within that limit. Where it is not,
            nothing is simulated: those segments are none that could have been.
        memory_fraction: the one that holds; None where none was recorded or asked for.
        fraction_of: bytes that it is a fraction of; None where not known.
        replay: the simulation itself, with its totals, where those were asked for.
    """

    device: DeviceHistory
    asked: Asked
    recorded: Outcome
    simulated: Optional[Outcome]
    alloc_conf: str
    torch: TorchVersion
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    limit_bytes: Optional[int] = None
    fits_at_start: bool = True
    memory_fraction: Optional[float] = None
    fraction_of: Optional[int] = None
    replay: Optional[Replay] = None

    @property
    def outcome(self) -> Outcome:
        """The answer: simulated where something was asked."""
        return self.simulated or self.recorded


def compare(device: DeviceHistory, asked: Asked, *, with_totals: bool = False) -> Comparison:
    """Replay a device under what was asked, if anything.

    Args:
        with_totals: keep the replay, with the totals after each act.

    Raises:
        SettingsError: that release of torch rejects the settings.
        UsageError: they switch to another allocator.
    """
    history = device.history
    torch = asked.torch or history.torch
    settings = recorded_settings(history.recording.snapshot, device.source, torch)
    alloc_conf = settings.text
    warnings: tuple[str, ...] = ()
    notes = list(device.notes)
    if asked.alloc_conf is not None:
        parsed = parse_settings(asked.alloc_conf, torch, "--alloc-conf")
        settings, alloc_conf = parsed.settings, asked.alloc_conf
        warnings = summaries(
            parsed.warnings,
            device.memory_fraction if asked.memory_fraction is None else asked.memory_fraction,
        )
        if settings.backend != "native":
            raise UsageError(
                f"a replay knows PyTorch's own allocator, not backend:{settings.backend}",
                where="--alloc-conf",
                why="cudaMallocAsync is the driver's allocator, whose rules are not public",
                next_step="leave backend out",
            )
        notes += _rejected_by_oldest(device, asked)
    recorded = recorded_outcome(history)
    simulated, limit, kept = None, None, None
    fits = True
    fraction, fraction_of = device.memory_fraction, device.total_bytes
    if not device.has_events:
        alloc_conf = history.settings.text
    elif asked.changes_something:
        conditions = device.conditions(asked.capacity)
        if asked.memory_fraction is not None:
            conditions = replace(conditions, memory_fraction=asked.memory_fraction)
        if asked.total_bytes is not None:
            conditions = replace(conditions, total_memory=asked.total_bytes)
        fraction = conditions.memory_fraction
        fraction = settings.per_process_memory_fraction if fraction is None else fraction
        total = conditions.total_memory
        fraction_of = asked.capacity if total is None else total
        if fraction < 1.0 and fraction_of is None:
            notes.append(
                f"a memory fraction of {fraction:g} is set, and how much the device has is not known: without"
                " --total there is no limit"
            )
        if asked.total_bytes is not None and fraction >= 1.0 and not settings.throw_on_cudamalloc_oom:
            warnings += ("--total changes nothing: no memory fraction is set (--memory-fraction F)",)
        limits = [asked.capacity]
        if fraction < 1.0 and fraction_of is not None:
            limits.append(int(fraction * fraction_of))
        limit = min((one for one in limits if one is not None), default=None)
        if limit is not None and device.held_at_start > limit:
            fits = False
            notes.append(_does_not_fit(device, limit))
        else:
            done = replay(history, settings, conditions, torch, with_totals=with_totals)
            simulated = done.outcome
            kept = done if with_totals else None
            if done.makes_up_addresses and rules_of(torch).tie_break == TIE_ADDRESS:
                notes.append(
                    f"of free blocks of one size torch {named(torch)} takes the one at the lower address, and"
                    " of segments that the recording does not have the addresses are made up: on a device the"
                    " figures could come out somewhat different"
                )
    elif asked.total_bytes is not None:
        warnings += ("--total changes nothing by itself: it is what --memory-fraction is a fraction of",)
    return Comparison(
        device=device,
        asked=asked,
        recorded=recorded,
        simulated=simulated,
        alloc_conf=alloc_conf,
        torch=torch,
        warnings=warnings,
        notes=tuple(notes),
        limit_bytes=limit,
        fits_at_start=fits,
        memory_fraction=fraction
        if fraction != 1.0 or asked.memory_fraction is not None
        else device.memory_fraction,
        fraction_of=fraction_of,
        replay=kept,
    )


def _does_not_fit(device: DeviceHistory, limit: int) -> str:
    heap = device.history.heap_after(0)
    live = int(heap.stats["active_bytes"][0])
    said = (
        f"{format_bytes(device.held_at_start)} were reserved when the trace began, more than"
        f" {format_bytes(limit)}: how the program would have come to this point is not in the recording"
    )
    if live > limit:
        return f"{said}, and {format_bytes(live)} of it were in use, so it would not have come so far"
    return f"{said}; {format_bytes(live)} of it were in use, the rest could have been given back"


def capacity_at_oom(history: History) -> Optional[int]:
    """What PyTorch could have reserved when it first ran out of memory, bytes; None where it did not.

    What it had reserved, and what the device had free (``device_free`` of the event).
    """
    events = history.recording.events
    ooms = np.flatnonzero(events.action == OOM)
    if not len(ooms):
        return None
    first = int(ooms[0])
    return int(history.effects["reserved_bytes"][first] + max(int(events.address[first]), 0))


def capacity_of(device: DeviceHistory) -> Optional[int]:
    """What PyTorch could reserve: at the recorded out-of-memory error, else when the snapshot was taken."""
    return capacity_at_oom(device.history) or device.source.capacity(device.device)


def _rejected_by_oldest(device: DeviceHistory, asked: Asked) -> list[str]:
    """The text is read as the newest possible release does; the oldest may know less."""
    oldest = device.torch.oldest
    if asked.torch is not None or device.torch.is_exact or asked.alloc_conf is None:
        return []
    try:
        parse_settings(asked.alloc_conf, oldest, "--alloc-conf")
    except SettingsError as error:
        return [f"if it was torch {named(oldest)} that recorded this: {error.what}"]
    return []
