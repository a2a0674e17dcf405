"""Programs run under the recorder, most of them with a fake torch.

What it does has nothing to do with a GPU.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from oomdoctor.recorder import recording_environment

FAKE_TORCH = Path(__file__).parent / "fake_torch"


@dataclass
class Process:
    """One process folder."""

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    dumps: list[dict[str, Any]] = field(default_factory=list)
    ooms: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""

    @property
    def reasons(self) -> list[str]:
        return [dump["reason"] for dump in self.dumps]


def read_processes(run: Path) -> list[Process]:
    """Every process folder, read strictly: each JSON parses, each snapshot named is there and whole."""
    found = []
    for folder in sorted((run / "processes").glob("*"), key=lambda f: f.name.rsplit("-", 1)[1]):
        process = Process(folder)
        if (folder / "process.json").exists():
            process.facts = json.loads((folder / "process.json").read_text())
        for path in sorted(folder.glob("[0-9]*.json")):
            dump = json.loads(path.read_text())
            assert dump["schema"] == "oomdoctor.dump/1"
            if dump["snapshot"] is not None:
                data = (folder / dump["snapshot"]).read_bytes()
                assert data[:2] == b"\x80\x04", "PyTorch's viewer reads protocol 4 at most"
                dump["loaded"] = pickle.loads(data)  # our own
            process.dumps.append(dump)
        pickles = {path.name for path in folder.glob("*.pickle")}
        assert pickles == {dump["snapshot"] for dump in process.dumps if dump["snapshot"]}
        if (folder / "ooms.jsonl").exists():
            process.ooms = [json.loads(line) for line in (folder / "ooms.jsonl").read_text().splitlines()]
        if (folder / "recorder.log").exists():
            process.log = (folder / "recorder.log").read_text()
        found.append(process)
    return found


@dataclass
class Recorded:
    returncode: int
    stdout: str
    stderr: str
    run: Path

    @property
    def processes(self) -> list[Process]:
        return read_processes(self.run) if self.run.exists() else []

    @property
    def process(self) -> Process:
        (process,) = self.processes
        return process


class Program:
    """A program under the recorder, started and not yet ended."""

    def __init__(self, popen: subprocess.Popen[str], run: Path) -> None:
        self.popen = popen
        self.run = run

    def wait_for(self, word: str) -> None:
        """Until the program prints this line."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"the program ended without {word!r}: {self.popen.stderr.read()}")  # type: ignore[union-attr]

    def wait_for_dump(self, reason: str, count: int = 1, patience: float = 20) -> None:
        until = time.monotonic() + patience
        while len(list(self.run.glob(f"processes/*/*-{reason}.json"))) < count:
            assert time.monotonic() < until, f"no {reason} snapshot within {patience} s"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> Recorded:
        stdout, stderr = self.popen.communicate(timeout=30)
        return Recorded(self.popen.returncode, stdout, stderr, self.run)


Start = Callable[..., Program]
Record = Callable[..., Recorded]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Start a program (source text) under the recorder by its variables alone."""
    started: list[subprocess.Popen[str]] = []

    def start_program(
        source: str,
        *,
        odd: str = "",
        python: str = sys.executable,
        flags: tuple[str, ...] = (),
        run: Optional[Path] = None,
        recorded: bool = True,
        path: tuple[Path, ...] = (FAKE_TORCH,),
        env: Optional[dict[str, str]] = None,
        max_entries: int = 1_000_000,
    ) -> Program:
        run = run or tmp_path / "run"
        script = tmp_path / f"program{len(started)}.py"
        script.write_text(textwrap.dedent(source))
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OOMDOCTOR_", "PYTHON"))}
        environment["FAKE_TORCH"] = odd
        python_path = os.pathsep.join(map(str, path))
        environment["PYTHONPATH"] = python_path
        if recorded:
            environment.update(recording_environment(run, max_entries=max_entries, python_path=python_path))
        environment.update(env or {})
        popen = subprocess.Popen(
            [python, *flags, str(script)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        started.append(popen)
        return Program(popen, run)

    yield start_program
    for popen in started:
        if popen.poll() is None:
            popen.kill()
            popen.wait()


@pytest.fixture
def record(start: Start) -> Record:
    """Run a program to its end."""

    def run_program(source: str, **options: Any) -> Recorded:
        return start(source, **options).end()

    return run_program
