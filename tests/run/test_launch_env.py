"""Recording by variables alone, and snapshots on demand."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oomdoctor.recorder import INJECT
from tests.recorder.conftest import FAKE_TORCH, read_processes

OOMDOCTOR = [sys.executable, "-m", "oomdoctor"]


def oomdoctor(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OOMDOCTOR, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )


def test_a_shell_takes_the_lines(tmp_path: Path) -> None:
    run = tmp_path / "a run's folder"
    lines = oomdoctor("env", "-o", str(run), "--max-entries", "5", env={"PYTHONPATH": str(FAKE_TORCH)}).stdout
    program = f"{shlex.quote(sys.executable)} -c 'import torch; torch.empty(1)'"
    done = subprocess.run(["sh", "-c", lines + program], capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (process,) = read_processes(run)
    assert process.reasons == ["exit"]
    assert process.facts["launcher"] is None
    assert process.facts["max_entries"] == 5
    assert json.loads((run / "run.json").read_text())["schema"] == "oomdoctor.run/1"


def test_forms(tmp_path: Path) -> None:
    docker = shlex.split(oomdoctor("env", "--format", "docker", "-o", str(tmp_path / "a b")).stdout)
    assert docker[:4] == ["-v", f"{INJECT}:/opt/oomdoctor:ro", "-v", f"{tmp_path / 'a b'}:/oomdoctor-run"]
    assert "PYTHONPATH=/opt/oomdoctor" in docker
    pod = oomdoctor("env", "--format", "k8s", "-o", "/data/run").stdout
    assert '  - name: OOMDOCTOR_RUN\n    value: "/data/run"\n' in pod
    document = json.loads(oomdoctor("env", "--format", "json", env={"PYTHONPATH": ""}).stdout)
    assert document["schema"] == "oomdoctor.env/1"
    assert document["variables"]["PYTHONPATH"] == str(INJECT)
    assert oomdoctor("env", "--recorder").stdout == f"{INJECT}\n"


def test_the_recorder_works_from_a_copy(tmp_path: Path) -> None:
    """As in a container, where no oomdoctor is."""
    subprocess.run(["cp", "-r", str(INJECT), str(tmp_path / "copy")], check=True)
    done = subprocess.run(
        [sys.executable, "-c", "import torch; torch.empty(1)"],
        env={"PYTHONPATH": f"{tmp_path / 'copy'}:{FAKE_TORCH}", "OOMDOCTOR_RUN": str(tmp_path / "run")},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert read_processes(tmp_path / "run")[0].reasons == ["exit"]


def test_a_snapshot_on_demand(tmp_path: Path) -> None:
    run = tmp_path / "run"
    variables = json.loads(
        oomdoctor("env", "--format", "json", "-o", str(run), env={"PYTHONPATH": str(FAKE_TORCH)}).stdout
    )["variables"]
    takes_it = "import signal; signal.signal(signal.SIGUSR2, signal.SIG_IGN);"
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", f"{first} import time, torch; torch.empty(1); time.sleep(60)"],
            env={**os.environ, **variables},
        )
        for first in ("pass;", "pass;", takes_it)
    ]
    try:
        end = time.monotonic() + 20
        ready: list[bool] = []
        while sorted(ready) != [False, True, True] and time.monotonic() < end:
            ready = [p.facts.get("on_demand", False) for p in read_processes(run) if p.facts]
            time.sleep(0.02)
        time.sleep(0.2)
        done = oomdoctor("dump", str(run))
        assert done.returncode == 0, done.stderr
        snapshots = [Path(line) for line in done.stdout.splitlines()]
        assert len(snapshots) == 2
        assert all(path.exists() and path.name == "0001-demand.pickle" for path in snapshots)
        assert f"process {programs[2].pid}: the program uses SIGUSR2 itself" in done.stderr
        done = oomdoctor("dump", str(run), "--pid", str(programs[0].pid))
        assert len(done.stdout.splitlines()) == 1
        assert all(program.poll() is None for program in programs)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    done = oomdoctor("dump", str(run))
    assert done.returncode == 1
    assert "no recorded process to ask" in done.stderr


def test_a_stopped_process_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    run = tmp_path / "run"
    variables = json.loads(
        oomdoctor("env", "--format", "json", "-o", str(run), env={"PYTHONPATH": str(FAKE_TORCH)}).stdout
    )["variables"]
    program = subprocess.Popen(
        [sys.executable, "-c", "import time, torch; torch.empty(1); print('on', flush=True); time.sleep(60)"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
    )
    try:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(signal.SIGSTOP)
        done = oomdoctor("dump", str(run), "--wait", "0.2")
        assert done.returncode == 1
        assert f"no snapshot of process {program.pid} within 0.2 s" in done.stderr
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("arguments", [[], ["--wait", "1"]])
def test_what_is_no_run_folder(tmp_path: Path, arguments: list[str]) -> None:
    done = oomdoctor("dump", str(tmp_path), *arguments)
    assert done.returncode == 1
    assert "not a run folder" in done.stderr
    assert "Traceback" not in done.stderr
