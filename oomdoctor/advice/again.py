"""A rehearsed program once more, whole, under the recommended setting: a recording ends at its OOM."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Optional

from oomdoctor.advice.emulated_memory import with_capacity
from oomdoctor.advice.shortfall import Shortfall, shortfall
from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.replay import recorded_outcome
from oomdoctor.allocator.what_if import capacity_at_oom
from oomdoctor.diagnosis.run import recorded_with
from oomdoctor.diagnosis.torch_settings import variable
from oomdoctor.run.documents import text
from oomdoctor.run.folder import Launcher, RunFolder
from oomdoctor.run.sources import snapshot_sources
from oomdoctor.snapshot import read_snapshot
from oomdoctor.storage import is_folder
from oomdoctor.units import format_bytes


@dataclass(frozen=True)
class Again:
    """How the program ended under a setting, on the same emulated devices.

    Attributes:
        alloc_conf: the setting.
        capacity: bytes for PyTorch that it was given on the devices asked about; None: as recorded.
        exit_status: of the program.
        ooms: how many of its processes ran out of memory.
        why_not: what kept it from being run; None where it was.
        lacks: what was missing where it ran out of memory, a device at a time: its number, at which
            allocation, and the rest.
    """

    alloc_conf: str
    capacity: Optional[int] = None
    exit_status: Optional[int] = None
    ooms: int = 0
    why_not: Optional[str] = None
    lacks: tuple[tuple[int, int, Shortfall], ...] = ()

    @property
    def survives(self) -> bool:
        return self.why_not is None and not self.ooms and self.exit_status == 0


def was_rehearsed(path: str) -> bool:
    """Whether a path is the folder of a run on emulated devices."""
    return is_folder(path) and bool(_rehearsals(RunFolder.open(path)))


def _rehearsals(run: RunFolder) -> list[Launcher]:
    return [one for one in run.launchers if isinstance(one.document.get("emulated"), dict)]


def run_again(
    path: str, alloc_conf: str, devices: Sequence[DeviceHistory], capacity: Optional[int] = None
) -> Again:
    """Rehearse the run of a folder again under a setting. What the program prints is dropped.

    Args:
        devices: those asked about.
        capacity: bytes that PyTorch is to have on each of them; None: as recorded.
    """
    not_run = Again(alloc_conf, capacity)
    launchers = _rehearsals(RunFolder.open(path))
    if len(launchers) != 1 or not launchers[0].command:
        return replace(not_run, why_not="the command that was rehearsed is not known")
    launcher = launchers[0]
    cwd = text(launcher.document, "cwd")
    if cwd is None or not os.path.isdir(cwd):
        return replace(not_run, why_not=f"the folder it was run in is not there: {cwd}")
    resized = with_capacity(launcher.document.get("emulated"), devices, capacity)
    if resized.emulated is None:
        return replace(not_run, why_not=resized.why_not)
    with tempfile.TemporaryDirectory(prefix="oomdoctor-again-") as folder:
        target = os.path.join(folder, "run")
        verb = recorded_with(resized.emulated)
        done = subprocess.run(
            [sys.executable, "-m", "oomdoctor", *verb, "-o", target, "--", *launcher.command],
            cwd=cwd,
            env={**os.environ, variable("torch", None): alloc_conf},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not os.path.isdir(target):
            return replace(not_run, exit_status=done.returncode, why_not="it could not be rehearsed again")
        processes = RunFolder.open(target).processes
        ooms = sum(any(dump.reason == "oom" for dump in process.dumps) for process in processes)
        lacks = tuple(_lacks(target)) if ooms else ()
        other = _other_room(target, devices, capacity)
    return replace(not_run, exit_status=done.returncode, ooms=ooms, lacks=lacks, why_not=other)


def _other_room(run: str, devices: Sequence[DeviceHistory], capacity: Optional[int]) -> Optional[str]:
    """Where PyTorch did not have what it was to have: then it says nothing of what was asked."""
    if capacity is None:
        return None
    sources, _ = snapshot_sources(run)
    wanted = {device.device for device in devices}
    for had in (source.capacity(number) for source in sources for number in wanted):
        if had is not None and had != capacity:
            return f"on the emulated devices PyTorch had {format_bytes(had)}, not {format_bytes(capacity)}"
    return None


def _lacks(run: str) -> Iterator[tuple[int, int, Shortfall]]:
    sources, _ = snapshot_sources(run)
    for source in sources:
        snapshot = read_snapshot(source.path)
        for number in snapshot.devices():
            history = load_device(snapshot, source, number).history
            failed = recorded_outcome(history).first_oom
            if failed is not None:
                lack = shortfall(history, capacity_at_oom(history), failed)
                assert lack is not None
                yield number, failed.alloc_index, lack
