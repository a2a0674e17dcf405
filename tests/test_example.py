"""The demo's options, those included that only a machine with a GPU uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError

pytest.importorskip("transformers")
EXAMPLE = Path(__file__).parent.parent / "examples" / "llama_generate.py"
pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("end-to-end")]


@pytest.fixture(autouse=True)
def _needs_torch() -> None:
    try:
        find_torch(sys.executable)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")


def test_a_loop_of_its_own(tmp_path: Path) -> None:
    """What the last request used is still there when the next one is answered."""
    shape = ["--layers", "2", "--requests", "3", "--max-prompt", "400", "--new-tokens", "2"]
    peaks = []
    for way in ([], ["--loop"]):
        subprocess.run(
            [sys.executable, "-m", "oomdoctor", "rehearse", "--memory", "24GiB", "-o", f"run{len(way)}", "--",
             sys.executable, str(EXAMPLE), *shape, *way],
            cwd=tmp_path, check=True, timeout=200,
        )  # fmt: skip
        said = subprocess.run(
            [sys.executable, "-m", "oomdoctor", "advise", f"run{len(way)}", "--json"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        (device,) = json.loads(said.stdout)["devices"]
        peaks.append(device["current"]["metrics"]["peak_allocated_bytes"])
    assert peaks[1] > peaks[0]


def test_a_limit_on_one_large_device(tmp_path: Path) -> None:
    """As on a machine with one GPU: the limit is PyTorch's memory fraction."""
    command = [sys.executable, str(EXAMPLE), "--layers", "4", "--gib", "2.2", "--max-prompt", "1000"]
    done = subprocess.run(
        [sys.executable, "-m", "oomdoctor", "rehearse", "--memory", "141GiB", "-o", "run", "--", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "2.20 GiB allowed" in done.stderr
    explained = subprocess.run(
        [sys.executable, "-m", "oomdoctor", "explain", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "allowed" in explained.stdout
    assert "GPU 0" in explained.stdout
