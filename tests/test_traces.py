"""The recordings kept as data can be read and explained, and hold nothing of the machine that made them."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

TRACES = Path(__file__).parent.parent / "traces"
RUNS = sorted(path.parent for path in TRACES.glob("*/run.json"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_recording_is_explained(run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "oomdoctor", "explain", str(run), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (oom,) = json.loads(done.stdout)["ooms"]
    (sidecar,) = run.glob("processes/*/0001-oom.json")
    (device,) = [d for d in json.loads(sidecar.read_text())["devices"] if d["device"] == oom["device"]]
    for key in ("total_bytes", "free_bytes", "allocated_bytes", "reserved_bytes"):
        assert oom[key] == device[key]
    assert oom["verdict"] == "fragmentation"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_recording_names_no_one(run: Path) -> None:
    for path in run.rglob("*.*"):
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".pickle" else content).decode("latin-1")
        found = set(re.findall(r"/(?:home|root|tmp|work|Users|mnt)/[\w./-]+", text)) - {"/home/user"}
        assert not found


def test_there_are_recordings() -> None:
    assert RUNS
