"""How a process ended that left no last snapshot: killed, crashed, or not ended at all."""

from __future__ import annotations

import shlex
import signal
import socket
from dataclasses import dataclass
from typing import Any, Optional

from oomdoctor.diagnosis.model import Finding
from oomdoctor.run.demand import is_alive
from oomdoctor.run.documents import integer, number, objects, text
from oomdoctor.run.folder import Launcher, Process, RunFolder
from oomdoctor.units import format_bytes

Json = dict[str, Any]
_LAST = ("exit", "sigterm")


@dataclass(frozen=True)
class Ended:
    """A process without a snapshot of its end.

    Attributes:
        process: name of its folder.
        pid, rank, host: who it was.
        returncode: of its launcher's command; None while that runs, or where nobody knows.
        runs: whether it runs still; None where that cannot be told from here.
        findings: what is known, the most telling first.
        next: the next command; None where there is none.
    """

    process: str
    pid: Optional[int]
    rank: Optional[int]
    host: str
    returncode: Optional[int]
    runs: Optional[bool]
    findings: tuple[Finding, ...]
    next: Optional[str]


def ended(run: RunFolder, process: Process, called: str) -> Optional[Ended]:
    """How a process ended; None where its own last snapshot shows that."""
    if any(dump.reason in _LAST for dump in process.dumps):
        return None
    launcher = run.launcher_of(process)
    returncode = integer(launcher.document, "returncode") if launcher else None
    runs = _runs(process, launcher, returncode)
    signal_number = _signal(returncode)
    if process.dumps and not runs and signal_number is None:
        return None
    what = "no snapshot" if not process.dumps else "no snapshot of its end"
    verb = "has left" if runs else "left"
    findings = [
        Finding(
            "no-last-snapshot",
            f"{called[:1].upper()}{called[1:]}, on {process.host or 'an unknown host'}, {verb} {what}: "
            f"{_how(runs, returncode, signal_number)}.",
            "recorded",
            None,
            {"pid": process.pid, "rank": process.rank, "host": process.host, "returncode": returncode},
        )
    ]
    last = _last_seen(run, process)
    findings += [last] if last else []
    follow = None
    if runs is not False:
        follow = f"oomdoctor dump {shlex.quote(run.path)}"
    elif signal_number == signal.SIGKILL:
        follow = "dmesg -T | grep -i -E 'killed process|out of memory'"
        findings.append(
            Finding(
                "killed",
                "SIGKILL cannot be caught, so nothing could be written. If nobody sent it, the host's "
                "out-of-memory killer or a container's memory limit did: the kernel's log says so.",
                "estimated",
            )
        )
    return Ended(
        process.name, process.pid, process.rank, process.host, returncode, runs, tuple(findings), follow
    )


def _runs(process: Process, launcher: Optional[Launcher], returncode: Optional[int]) -> Optional[bool]:
    if process.host == _this_host() and process.document:
        return is_alive(process.document)
    return False if launcher is not None and returncode is not None else None


def _this_host() -> str:
    return socket.gethostname()


def _signal(returncode: Optional[int]) -> Optional[int]:
    """The signal of a return code: as Python gives it (−9), or as a shell does (137)."""
    if returncode is None or 0 <= returncode <= 128 or returncode > 192:
        return None
    return -returncode if returncode < 0 else returncode - 128


def _how(runs: Optional[bool], returncode: Optional[int], signal_number: Optional[int]) -> str:
    if runs:
        return "it still runs"
    if signal_number is not None:
        try:
            name = signal.Signals(signal_number).name
        except ValueError:
            name = f"signal {signal_number}"
        return f"the command ended with {returncode}, by {name}"
    if returncode is not None:
        return f"the command ended with {returncode}; the process was killed, or crashed, before it could"
    if runs is None:
        return "it may still run; how it ended was not recorded"
    return "it was killed, or crashed, and so was its launcher: no return code was recorded"


def _last_seen(run: RunFolder, process: Process) -> Optional[Finding]:
    """What NVML last said of it."""
    seen: list[tuple[float, int, Optional[int], Json]] = []
    for launcher in run.launchers:
        if text(launcher.document, "host") not in (None, process.host):
            continue
        for sample in launcher.nvml:
            for one in objects(sample, "processes"):
                taken, device = number(sample, "t"), integer(sample, "device")
                if integer(one, "pid") == process.pid and taken is not None and device is not None:
                    seen.append((taken, device, integer(one, "bytes"), sample))
    if not seen:
        return None
    newest = max(one[0] for one in seen)
    parts = []
    for taken, device, held, sample in seen:
        if taken < newest:
            continue
        free, total = integer(sample, "free_bytes"), integer(sample, "total_bytes")
        part = f"{format_bytes(held) if held is not None else 'an unknown amount'} of GPU {device}"
        if free is not None and total is not None:
            part += f", where {format_bytes(free)} of {format_bytes(total)} were free"
        parts.append(part)
    return Finding(
        "last-seen-by-nvml",
        f"NVML last saw it hold {'; '.join(parts)}.",
        "recorded",
        sum(held or 0 for taken, _, held, _ in seen if taken == newest),
        {"t": newest},
    )
