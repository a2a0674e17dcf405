"""A rehearsed program once more, whole, under the recommended setting: a recording ends at its OOM."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from oomdoctor.advice.shortfall import Shortfall, shortfall
from oomdoctor.allocator.loading import load_device
from oomdoctor.allocator.replay import recorded_outcome
from oomdoctor.allocator.what_if import capacity_at_oom
from oomdoctor.diagnosis.run import recorded_with
from oomdoctor.diagnosis.torch_settings import variable
from oomdoctor.run.documents import text
from oomdoctor.run.folder import Launcher, RunFolder
from oomdoctor.run.sources import snapshot_sources
from oomdoctor.snapshot import read_snapshot
from oomdoctor.storage import is_folder


@dataclass(frozen=True)
class Again:
    """How the program ended under a setting, on the same emulated devices.

    Attributes:
        alloc_conf: the setting.
        exit_status: of the program.
        ooms: how many of its processes ran out of memory.
        why_not: what kept it from being run; None where it was.
        lacks: what was missing where it ran out of memory, a device at a time: its number, at which
            allocation, and the rest.
    """

    alloc_conf: str
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


def run_again(path: str, alloc_conf: str) -> Again:
    """Rehearse the run of a folder again under a setting. What the program prints is dropped."""
    launchers = _rehearsals(RunFolder.open(path))
    if len(launchers) != 1 or not launchers[0].command:
        return Again(alloc_conf, why_not="the command that was rehearsed is not known")
    launcher = launchers[0]
    cwd = text(launcher.document, "cwd")
    if cwd is None or not os.path.isdir(cwd):
        return Again(alloc_conf, why_not=f"the folder it was run in is not there: {cwd}")
    with tempfile.TemporaryDirectory(prefix="oomdoctor-again-") as folder:
        target = os.path.join(folder, "run")
        verb = recorded_with(launcher.document.get("emulated"))
        done = subprocess.run(
            [sys.executable, "-m", "oomdoctor", *verb, "-o", target, "--", *launcher.command],
            cwd=cwd,
            env={**os.environ, variable("torch", None): alloc_conf},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if not os.path.isdir(target):
            return Again(alloc_conf, done.returncode, why_not="it could not be rehearsed again")
        processes = RunFolder.open(target).processes
        ooms = sum(any(dump.reason == "oom" for dump in process.dumps) for process in processes)
        lacks = tuple(_lacks(target)) if ooms else ()
    return Again(alloc_conf, done.returncode, ooms, lacks=lacks)


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
