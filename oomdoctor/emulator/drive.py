"""Allocation programs run by the real allocator, in processes on emulated devices, or on a real one.

What jobs and programs are, and what their results hold, stands in ``payload/drive_allocator.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from oomdoctor.emulator.real_device import RealDevice
from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.units import GIB

DRIVER = Path(__file__).parent / "payload" / "drive_allocator.py"
# The programs' own settings hold, not those of whoever runs them.
_LEFT_OUT = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "CUDA_VISIBLE_DEVICES",
)
# Reservations of expandable segments are 9/8 of this; a program's capacity is part of it.
DEVICES = EmulatedDevices((64 * GIB,), context_bytes=0)


def drive(
    python: str,
    jobs: Sequence[Mapping[str, Any]],
    *,
    devices: EmulatedDevices = DEVICES,
    on: Optional[RealDevice] = None,
    timeout: Optional[float] = None,
) -> list[dict[str, Any]]:
    """The result of each job, under the torch of the interpreter ``python``.

    As few processes as can be: one runs all jobs that it can, the next those that remain. A job that ends its
    process has an ``error``.

    Args:
        devices: the emulated ones.
        on: a real device instead, of which all memory but a job's capacity is taken meanwhile. Each job has a
            process of its own there, since nothing tells what an earlier one left. A result has in
            ``disturbed`` what made its capacity another at its end.

    Raises:
        EmulatorError: no torch that can be used, no compiler, or stand-ins that cannot be built.
        subprocess.TimeoutExpired: a process took longer than ``timeout`` seconds.
    """
    results: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="oomdoctor-drive-") as folder:
        while remaining := [index for index in range(len(jobs)) if index not in results]:
            asked = [jobs[index] for index in remaining]
            with _environment(python, devices, on) as environment:
                if on is not None:
                    asked = [{**job, "fresh_process": True} for job in asked]
                told, end = run_process(
                    python, asked, Path(folder), environment, timeout, ballast=on is not None
                )
            for result in told:
                results[remaining[result.pop("index")]] = result
            if not told:  # the first job is the one that every process starts with
                results[remaining[0]] = {"error": end, "unsupported": None, "can_go_on": False}
    return [results[index] for index in range(len(jobs))]


@contextmanager
def _environment(python: str, devices: EmulatedDevices, on: Optional[RealDevice]) -> Iterator[dict[str, str]]:
    base = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    if on is not None:
        yield {**base, **on.environment}
        return
    with rehearsal([python], devices, python=python) as ready:
        yield {**base, **ready.environment}


def run_process(
    python: str,
    jobs: list[Mapping[str, Any]],
    folder: Path,
    environment: dict[str, str],
    timeout: Optional[float],
    *,
    ballast: bool,
) -> tuple[list[dict[str, Any]], str]:
    """What one process told of those jobs that it ran, and how it ended.

    Args:
        folder: where jobs and results are put.
        ballast: whether the capacity is made by taking all other memory, as on a real device.
    """
    questions, answers = folder / "jobs.json", folder / "results.jsonl"
    questions.write_text(json.dumps(jobs))
    answers.write_text("")
    done = subprocess.run(
        [python, str(DRIVER), str(questions), str(answers), *(["ballast"] if ballast else [])],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
    )
    # The last line may be cut short where the process was ended in the middle of it.
    lines = answers.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines], f"exit status {done.returncode}: {done.stderr[-2000:]}"
