"""Asking running, recorded processes of this host for a snapshot."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from oomdoctor.errors import InputError


@dataclass(frozen=True)
class Target:
    """A recorded process, and why it cannot be asked, if so."""

    folder: Path
    pid: int
    why_not: Optional[str]


def targets(run: Path) -> list[Target]:
    """The recorded processes of this host, as they are now.

    Raises:
        InputError: not a run folder.
    """
    if not (run / "run.json").exists() and not (run / "processes").is_dir():
        raise InputError(
            "not a run folder",
            where=str(run),
            next_step="name the folder that `oomdoctor trace -o` was given",
        )
    found = []
    for folder in sorted((run / "processes").glob("*")):
        try:
            facts = json.loads((folder / "process.json").read_text())
            pid = int(facts["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if facts.get("host") == socket.gethostname():
            found.append(Target(folder, pid, _why_not(pid, facts)))
    return found


def is_alive(facts: dict[str, Any]) -> bool:
    """Whether the process of a process.json runs on this host now; its number alone may be another's."""
    try:
        stat = Path(f"/proc/{int(facts['pid'])}/stat").read_bytes().rsplit(b")", 1)[1].split()
    except (OSError, IndexError, KeyError, TypeError, ValueError):
        return False
    return stat[0] not in (b"Z", b"X") and facts.get("start_ticks") in (None, int(stat[19]))


def _why_not(pid: int, facts: dict[str, Any]) -> Optional[str]:
    """Why SIGUSR2 must not be sent: whom it finds unprepared, it kills."""
    if not is_alive(facts):
        return "it has ended"
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "it has ended"
    if not facts.get("on_demand"):
        return "the program uses SIGUSR2 itself"
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    if not int(caught, 16) >> (signal.SIGUSR2 - 1) & 1:
        return "it does not wait for SIGUSR2 any more"
    return None


def _snapshots(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("[0-9]*-demand.json")}


def ask(asked: Iterable[Target], patience_s: float) -> Iterator[tuple[Target, Optional[Path]]]:
    """Send SIGUSR2 to each, then yield each with its new snapshot as it comes, or with None when time is
    up."""
    waiting: dict[Target, set[str]] = {}
    for target in asked:
        before = _snapshots(target.folder)
        try:
            os.kill(target.pid, signal.SIGUSR2)
        except OSError:
            yield target, None
            continue
        waiting[target] = before
    until = time.monotonic() + patience_s
    while waiting and time.monotonic() < until:
        for target, before in list(waiting.items()):
            new = _snapshots(target.folder) - before
            if new:
                del waiting[target]
                yield target, target.folder / max(new)
        time.sleep(0.02)
    for target in waiting:
        yield target, None
