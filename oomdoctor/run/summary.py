"""What ``trace`` says when the command has ended: what was recorded, what went wrong, and what to do next."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from oomdoctor.run import demand
from oomdoctor.run.notify import Heard
from oomdoctor.run.nvml import Sampler


@dataclass
class Recorded:
    """What this launcher's processes left in the run folder."""

    processes: int = 0
    snapshots: int = 0
    ooms: int = 0
    silent: list[str] = field(default_factory=list)  # processes that ended without any snapshot
    unwritten: list[str] = field(default_factory=list)  # processes whose snapshots could not be made
    running: list[int] = field(default_factory=list)  # pids of processes that outlive the command
    stopped: list[str] = field(default_factory=list)  # processes that switched their history off
    wrapped: list[str] = field(default_factory=list)  # "rank 1 GPU 0"


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def recorded(folder: Path, launcher: str, undumped: Collection[str] = ()) -> Recorded:
    """Count what lies in the folder and was started by this launcher; ``undumped`` told that they failed."""
    found = Recorded()
    for process in sorted((folder / "processes").glob("*")):
        facts = _load(process / "process.json")
        if facts.get("launcher") != launcher:
            continue
        found.processes += 1
        dumps = sorted(process.glob("[0-9]*-*.json"))
        found.snapshots += len(dumps)
        if demand.is_alive(facts):
            found.running.append(facts["pid"])
        elif not dumps and str(facts.get("pid")) in undumped:
            found.unwritten.append(process.name)
        elif not dumps:
            found.silent.append(process.name)
        try:
            lines = (process / "ooms.jsonl").read_text().splitlines()
            found.ooms += json.loads(lines[-1])["count"] if lines else 0
        except (OSError, ValueError, KeyError):
            pass
        if dumps:
            last = _load(dumps[-1])
            rank = (last.get("process") or {}).get("rank")
            who = f"rank {rank} " if rank is not None else ""
            if (last.get("history") or {}).get("recording") is False:
                found.stopped.append(who.strip() or process.name)
            for device, wrapped in enumerate((last.get("history") or {}).get("wrapped") or []):
                if wrapped:
                    found.wrapped.append(f"{who}GPU {device}")
    return found


def failures(heard: Heard) -> list[str]:
    """What recorders could not do, each once."""
    return [text if count == 1 else f"{text} ({count} times)" for text, count in heard.failures.items()]


def troubles(heard: Heard, emulated: bool = False) -> list[str]:
    """What kept torch or CUDA from starting, each once, with what to do."""
    told: list[str] = []
    for error, settings in heard.import_failures.values():
        told.append(f"torch could not be imported: {error.rstrip('.')}{_settings_to_blame(settings)}")
    for settings in heard.importing.values():
        told.append(
            "Python ended while it imported torch"
            + (_settings_to_blame(settings) or ": what the command printed says why")
        )
    unknown = [("what the command printed says why", settings) for settings in heard.initializing.values()]
    for error, settings in [*heard.cuda_failures.values(), *unknown]:
        told.append(
            f"CUDA could not be initialized: {error.rstrip('.')}"
            + (_settings_to_blame(settings) or _devices_to_blame(emulated))
        )
    return list(dict.fromkeys(told))


def _settings_to_blame(settings: str) -> str:
    """What to do where one of the allocator's variables is set, which torch reads at these moments."""
    if not settings:
        return ""
    form = " (torch wants KEY:VALUE,KEY:VALUE)" if "=" in settings.partition("=")[2] else ""
    return f"; {settings} is set: if torch does not take it, correct it{form} or unset it"


def _devices_to_blame(emulated: bool) -> str:
    if emulated:
        return "; the emulated devices are known by the environment: the program must not clear it"
    return "; nvidia-smi shows whether driver and devices are well, CUDA_VISIBLE_DEVICES may hide them"


_EMULATOR_FATAL = 70  # the exit code of `fatal` in emulator/device/state.c
_REMEDIES = (
    (
        r"File too large",
        "a limit on the size of files stops it: `ulimit -f unlimited`, or a lower --max-entries",
    ),
    (r"No space left|Disk quota|ENOSPC", "free some space, or record to another disk with -o"),
    (r"Read-only|Permission denied|not permitted", "record to a folder that the command may write, with -o"),
    (
        r"run folder cannot be written: .*(Not a directory|No such file|Invalid argument)",
        "no folder can be made there: name another with -o",
    ),
    (
        r"keeps no history|cudaMallocAsync",
        "history needs the native allocator: leave backend:cudaMallocAsync out",
    ),
)


def remedy(text: str) -> Optional[str]:
    """What to do about a failure, where it is one of the usual ones."""
    return next((what for pattern, what in _REMEDIES if re.search(pattern, text)), None)


def ignores_python_path(command: Sequence[str]) -> Optional[str]:
    """The flag, if this command is a Python told to ignore PYTHONPATH or to skip ``site`` (-I, -E, -S)."""
    if not command:
        return None
    words = list(command)
    if not re.match(r"python[\d.]*$", os.path.basename(words[0])):
        try:
            with open(words[0], "rb") as file:
                first = file.readline(256)
        except OSError:
            return None
        if not re.match(rb"#!.*python", first):
            return None
        words = first[2:].decode("utf-8", "replace").split()
    for word in words[1:]:
        if not word.startswith("-") or word in ("-c", "-m", "--"):
            return None
        found = re.match(r"-[A-Za-z]*?([IES])", word)
        if found and not word.startswith("--"):
            return f"-{found.group(1)}"
    return None


def why_nothing(
    command: Sequence[str], heard: Heard, listening: bool = True, emulated: bool = False, returncode: int = 0
) -> str:
    """Why no process recorded anything: the step on the way that was not reached."""
    if heard.cuda:
        return "CUDA was initialized, but nothing could be written"
    trouble = troubles(heard, emulated)
    if trouble:
        return trouble[0]
    if any(not text.endswith(" none") for text in heard.torch):
        never = "torch was imported, but CUDA was never initialized"
        if returncode == 0:
            return f"{never}: no tensor went to a GPU"
        return f"{never}: the command ended before, with {_ending(returncode)}" + (
            _devices_to_blame(True) if emulated and returncode == _EMULATOR_FATAL else ""
        )
    if heard.torch:
        version = heard.torch[0].split(" ")[0]
        return f"torch {version} is a build without CUDA: install one with CUDA, or try `oomdoctor rehearse`"
    if heard.pythons:
        return "Python ran, but did not import torch"
    if heard.old:
        return f"Python {', '.join(heard.old)} ran; the recorder needs 3.8 or later"
    flag = ignores_python_path(command)
    if flag:
        return (
            f"python {flag} ignores PYTHONPATH, by which the recorder gets in: run it without {flag}"
            if flag != "-S"
            else "python -S skips the site module, by which the recorder gets in: run it without -S"
        )
    if not listening:
        return "the recorder could not be heard, see the processes/ folder"
    return (
        "no Python process took part, or none that reads PYTHONPATH"
        " (python -I and -E do not; sudo and containers drop it: see `oomdoctor env`)"
    )


def _ending(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def lines(
    command: Sequence[str],
    folder: Path,
    launcher: str,
    heard: Heard,
    problems: Sequence[str],
    sampler: Sampler,
    emulated: bool = False,
    returncode: int = 0,
) -> list[str]:
    """The lines told at the end, the next command last."""
    found = recorded(folder, launcher, heard.undumped)
    shown = _short(folder)
    told: list[str] = []
    if found.processes:
        told.append(
            f"recorded {_many(found.processes, 'process', 'processes')},"
            f" {_many(found.snapshots, 'snapshot', 'snapshots')},"
            f" {_many(found.ooms, 'out-of-memory error', 'out-of-memory errors')} in {shown}"
        )
    else:
        why = why_nothing(command, heard, emulated=emulated, returncode=returncode)
        told.append(f"nothing was recorded: {why}")
        problems = [problem for problem in problems if problem != why]
    for name in found.silent:
        told.append(f"{name} left no snapshot: it was killed before it could (SIGKILL, or a crash)")
    for name in found.unwritten:
        told.append(f"{name} left no snapshot: it could not be written, see the problem below")
    if found.running:
        told.append(
            f"still running, and recorded on: {', '.join(map(str, found.running))};"
            f" `oomdoctor dump {shlex.quote(shown)}` asks for a snapshot now"
        )
    for name in found.stopped:
        told.append(f"the history of {name} was switched off by the program: what came after is missing")
    if found.wrapped:
        told.append(
            f"the history wrapped ({', '.join(found.wrapped)}): its beginning is lost, the newest events are"
            " there; record more with --max-entries"
        )
    for problem in dict.fromkeys(problems):
        what = remedy(problem)
        told.append(f"problem: {problem}" + (f"; {what}" if what else ""))
    if found.processes and not sampler.available:
        told.append(
            f"no NVML samples ({sampler.why}): memory that is not PyTorch's is known from the snapshots only"
        )
    elif found.processes and sampler.why:
        told.append(f"NVML {sampler.why}")
    if found.snapshots:
        told.append(f"next: oomdoctor explain {shlex.quote(shown)}")
    return told


def _short(folder: Path) -> str:
    """The folder as it is easiest to type from here."""
    relative = os.path.relpath(folder)
    return relative if not relative.startswith("..") else str(folder)
