"""The recordings kept as data can be read and explained, and hold nothing of the machine that made them."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.history import history_of
from oomdoctor.allocator.replay import replay
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.snapshot import read_snapshot
from oomdoctor.units import MIB

TRACES = Path(__file__).parent.parent / "traces"
RUNS = sorted(path.parent for path in TRACES.glob("*/run.json"))
OUT_OF_MEMORY = [run for run in RUNS if any(run.glob("processes/*/*-oom.json"))]


@pytest.mark.parametrize("run", OUT_OF_MEMORY, ids=lambda run: run.name)
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


def test_settings_decide_whether_the_long_run_survives() -> None:
    """As the table of recordings says of it."""
    (path,) = (TRACES / "llama-2-layers-to-the-end").glob("processes/*/0001-exit.pickle")
    history = history_of(read_snapshot(path), 0, parse_settings("", (2, 15)).settings, (2, 15))
    assert history.check.matching == history.check.compared
    conditions = Conditions(capacity=1900 * MIB)
    survives = {
        text: replay(history, parse_settings(text, (2, 15)).settings, conditions).outcome.first_oom is None
        for text in ("", "max_split_size_mb:128", "max_split_size_mb:64", "expandable_segments:True")
    }
    assert survives == {
        "": False,
        "max_split_size_mb:128": False,
        "max_split_size_mb:64": True,
        "expandable_segments:True": True,
    }
