"""A rehearsed program once more under the recommendation, whole: beyond where its recording ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError

from ..emulator.conftest import PYTHONS
from .test_advise import ask, flowing, text

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("advice-real")]

# As HELPS in test_advise: dies by default, and lives with blocks of 100 MiB kept whole.
HOLE = """
import torch
def take(mib): return torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
first = take(100); del first
small = take(30)
large = take(100)
"""
# Goes on after where it died, to where nothing helps.
THEN_MORE = (
    HOLE
    + """
more = [take(30)]
"""
)


# Expandable segments are best, and blocks kept whole help as well.
TWO_HELP = """
import torch
def take(mib): return torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
first = take(800); del first
small = take(240)
second = take(480); del second
other = take(200)
large = take(800)
more = take(440)
"""


@pytest.fixture(scope="module")
def python() -> str:
    try:
        return find_torch(PYTHONS[0]).python
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")


def rehearsed(python: str, folder: Path, script: str, memory: str = "140MiB", context: str = "0MiB") -> str:
    """The run folder of a script, by default on a device that has 140 MiB for PyTorch."""
    (folder / "script.py").write_text(script)
    run = folder / "run"
    subprocess.run(
        [sys.executable, "-m", "oomdoctor", "rehearse", "--memory", memory, "--context", context, "-o", str(run),
         "--", python, str(folder / "script.py")],
        check=False,
        capture_output=True,
    )  # fmt: skip
    return str(run)


def again(path: str, python: str, *arguments: str) -> Any:
    return ask(path, "--prove", "--python", python, *arguments)["again"]


def test_a_program_that_survives_whole_is_said_to(python: str, tmp_path: Path) -> None:
    run = rehearsed(python, tmp_path, HOLE)
    (device,) = ask(run)["devices"]
    assert device["current"]["metrics"]["survives"] is False
    found = again(run, python)
    assert found["survives"] is True
    assert (found["exit_status"], found["ooms"], found["shortfalls"]) == (0, 0, [])
    assert "ends well" in flowing(text(run, "--prove", "--python", python))


def test_the_value_that_is_named_is_tried_on_the_whole_program_as_well(python: str, tmp_path: Path) -> None:
    run = rehearsed(python, tmp_path, TWO_HELP, memory="1960MiB")
    found = ask(run, "--prove", "--python", python)
    assert found["again"]["alloc_conf"] == "expandable_segments:True"
    split = found["max_split_size_mb_again"]
    assert split["alloc_conf"] == f"max_split_size_mb:{found['devices'][0]['max_split_size_mb']['best']}"
    assert (split["survives"], split["exit_status"], split["ooms"]) == (True, 0, 0)
    said = flowing(text(run, "--prove", "--python", python))
    assert f"run again under {split['alloc_conf']} on the same emulated devices, ends well" in said
    assert "survives: as far as was recorded, to where memory ran out" in said
    assert ask(run, "--prove", "--no-rerun", "--python", python)["max_split_size_mb_again"] is None


def test_where_it_dies_later_it_is_said_what_was_missing_there(python: str, tmp_path: Path) -> None:
    run = rehearsed(python, tmp_path, THEN_MORE)
    found = again(run, python)
    assert found["survives"] is False
    (lack,) = found["shortfalls"]
    assert lack["live_bytes"] == 130 << 20
    assert lack["requested_bytes"] == 30 << 20
    assert lack["missing_bytes"] == 20 << 20
    said = flowing(text(run, "--prove", "--python", python))
    assert "1 of its processes runs out of memory" in said
    assert (
        "There, at allocation 3 of GPU 0: 130.00 MiB were live and 30.00 MiB wanted, 20.00 MiB more" in said
    )


def test_the_capacity_asked_about_is_what_the_program_gets(python: str, tmp_path: Path) -> None:
    """With the memory it was recorded with it would end well."""
    run = rehearsed(python, tmp_path, THEN_MORE, memory="600MiB", context="100MiB")
    (device,) = ask(run)["devices"]
    assert device["current"]["metrics"]["survives"] is True
    found = again(run, python, "--capacity", "140MiB")
    assert found["capacity_bytes"] == 140 << 20
    assert (found["why_not"], found["survives"], found["ooms"]) == (None, False, 1)
    (lack,) = found["shortfalls"]
    assert lack["missing_bytes"] == 20 << 20
    enough = again(run, python, "--capacity", "165MiB")
    assert (enough["capacity_bytes"], enough["survives"]) == (165 << 20, True)
    said = flowing(text(run, "--prove", "--python", python, "--capacity", "165MiB"))
    assert "on emulated devices with 165.00 MiB for PyTorch, ends well" in said


def test_a_program_whose_folder_is_gone_is_not_run(python: str, tmp_path: Path) -> None:
    run = rehearsed(python, tmp_path, HOLE)
    for launcher in Path(run).glob("launchers/*/launcher.json"):
        document = json.loads(launcher.read_text())
        document["cwd"] = str(tmp_path / "gone")
        launcher.write_text(json.dumps(document))
    found = again(run, python)
    assert "the folder it was run in is not there" in found["why_not"]
    assert found["survives"] is False
