"""The main job: record a real inference on two devices until it runs out of memory, explain it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import MIB

pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("end-to-end")]

EXAMPLE = Path(__file__).parent.parent / "examples" / "llama_generate.py"
# What torch itself says at the moment of the error, told by an observer of the script's own.
SCRIPT = f"""
import json, runpy, sys, torch
def observe(device, requested, limit, free):
    says = {{"device": device, "requested": requested, "limit": limit, "free": free, "devices": []}}
    for d in (0, 1):
        says["devices"].append([torch.cuda.memory_stats(d), torch.cuda.mem_get_info(d)])
    with open("torch_says.json", "w") as out:
        json.dump(says, out)
torch.cuda._lazy_call(lambda: torch._C._cuda_attach_out_of_memory_observer(observe))
sys.argv = ["llama_generate.py", "--layers", "4", "--max-prompt", "1000"]
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""


def oomdoctor(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "oomdoctor", *arguments], cwd=cwd, capture_output=True, text=True, timeout=250
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same script, each in a folder ``run``."""
    try:
        find_torch(sys.executable)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")
    root = tmp_path_factory.mktemp("llama")
    for name in ("one", "two"):
        folder = root / name
        folder.mkdir()
        (folder / "script.py").write_text(SCRIPT)
        memory = ("--gpus", "2", "--memory", "1700MiB,3GiB", "--nvml-interval", "0.1")
        done = oomdoctor("rehearse", *memory, "-o", "run", "--", sys.executable, "script.py", cwd=folder)
        assert done.returncode == 1, done.stderr[-2000:]
        assert "OutOfMemoryError: CUDA out of memory" in done.stderr
        assert "oomdoctor explain run" in done.stderr.splitlines()[-1]
    return root


def process_folder(run: Path) -> Path:
    (folder,) = (run / "processes").iterdir()
    return folder


def load(path: Path) -> Any:
    """Our own recording, made a moment ago."""
    return pickle.loads(path.read_bytes())


def test_the_run_folder_holds_everything(recorded: Path) -> None:
    run = recorded / "one" / "run"
    folder = process_folder(run)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "0001-oom.json",
        "0001-oom.pickle",
        "0002-exit.json",
        "0002-exit.pickle",
        "ooms.jsonl",
        "process.json",
    ]
    snapshot = load(folder / "0001-oom.pickle")
    assert [len(trace) > 100 for trace in snapshot["device_traces"]] == [True, True]
    assert snapshot["device_traces"][0][-1]["action"] == "oom"
    assert any(event["frames"] for event in snapshot["device_traces"][0])
    (launcher,) = (run / "launchers").iterdir()
    samples = [json.loads(line) for line in (launcher / "nvml.jsonl").read_text().splitlines()]
    assert {sample["device"] for sample in samples} == {0, 1}
    most = max(sample["used_bytes"] for sample in samples if sample["device"] == 0)
    assert most > 500 * MIB
    assert json.loads((launcher / "launcher.json").read_text())["returncode"] == 1


def test_the_explanation_says_what_torch_says_to_the_byte(recorded: Path) -> None:
    folder = recorded / "one"
    done = oomdoctor("explain", "run", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    explained = json.loads(done.stdout)
    assert (explained["schema"], explained["count"]) == ("oomdoctor.explain/1", 1)
    (oom,) = explained["ooms"]
    says = json.loads((folder / "torch_says.json").read_text())
    stats, (free, total) = says["devices"][says["device"]]
    assert oom["device"] == says["device"] == 0
    assert oom["requested_bytes"] == says["requested"]
    assert (oom["free_bytes"], oom["total_bytes"]) == (free, total) == (says["free"], 1700 * MIB)
    assert oom["allocated_bytes"] == stats["allocated_bytes.all.current"]
    assert oom["reserved_bytes"] == stats["reserved_bytes.all.current"]
    unallocated = stats["reserved_bytes.all.current"] - stats["allocated_bytes.all.current"]
    assert oom["reserved_unallocated_bytes"] == unallocated
    assert total - free - stats["reserved_bytes.all.current"] == 500 * MIB  # the context, and nothing else
    assert oom["verdict"] in ("fragmentation", "capacity")
    assert oom["findings"]
    assert all(finding["basis"] in ("recorded", "derived", "estimated") for finding in oom["findings"])


def test_the_text_fits_the_terminal_and_ends_with_what_to_do(recorded: Path) -> None:
    done = oomdoctor("explain", "run", cwd=recorded / "one")
    assert done.returncode == 0, done.stderr
    commands = ("oomdoctor ", "export ", "PYTORCH_")
    lines = [line for line in done.stdout.splitlines() if not line.strip().startswith(commands)]
    assert max(map(len, lines)) <= 80
    assert "GPU 0" in lines[0]
    assert "llama_generate.py" in done.stdout
    assert "\x1b[" not in done.stdout


def test_twice_the_same_events_at_the_same_addresses(recorded: Path) -> None:
    one, two = (
        load(process_folder(recorded / name / "run") / "0001-oom.pickle")["device_traces"]
        for name in ("one", "two")
    )
    keys = ("action", "addr", "device_free", "size", "stream")
    for first, second in zip(one, two):
        assert [[event.get(key) for key in keys] for event in first] == [
            [event.get(key) for key in keys] for event in second
        ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--memory", "10", "--", "true"], "cannot be emulated"),
        (["--memory", "1GiB,2GiB", "--gpus", "3", "--", "true"], "names 2 devices and --gpus 3"),
        (["--memory", "1 parsec", "--", "true"], "unknown unit"),
        (["--memory", "400MiB", "--", "true"], "leave no memory"),
        (["--compute-capability", "nine", "--", "true"], "not a compute capability"),
    ],
)
def test_rehearse_refuses_unusable_arguments(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = oomdoctor("rehearse", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_rehearse_returns_what_the_command_returned(tmp_path: Path) -> None:
    for code in (0, 7):
        done = oomdoctor(
            "rehearse", "-o", "run", "--", sys.executable, "-c", f"raise SystemExit({code})", cwd=tmp_path
        )
        assert done.returncode == code
        assert "nothing was recorded" in done.stderr
