"""The line to paste, by the name that the release reads, and the commands that show whether it helped."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from oomdoctor.advice.emulated_memory import with_capacity
from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.run.sources import snapshot_sources
from oomdoctor.snapshot import read_snapshot
from oomdoctor.units import GIB, MIB
from tests.allocator.recorded_by_heap import recorded
from tests.run.building import add_dump, add_launcher, add_process, make_run

from .test_advise import HELPS, ask, flowing, save, text

CAPACITY = ("--capacity", "140MiB")


def run_of(folder: Path, version: str = "2.12.0", **launcher: Any) -> Path:
    run = make_run(folder / "run")
    add_launcher(run, **launcher)
    add_dump(add_process(run, 7, torch_version=version), recorded(HELPS, Settings()), reason="exit")
    return run


def recommended(path: str) -> Any:
    (device,) = ask(path, *CAPACITY)["devices"]
    return device["recommendation"]


def test_a_run_is_recorded_again_by_its_own_command(tmp_path: Path) -> None:
    run = run_of(tmp_path, command=("python", "infer.py", "--prompt", "a b"), cwd=os.getcwd())
    record, compare = recommended(str(run))["verify"]
    assert record == (
        f"PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:32 oomdoctor trace -o {run}-2 -- python infer.py --prompt 'a b'"
    )
    assert compare == f"oomdoctor compare {run} {run}-2"


def test_a_command_that_runs_elsewhere_is_left_to_the_reader(tmp_path: Path) -> None:
    run = run_of(tmp_path, command=("python", "infer.py"), cwd="/home/me/work")
    assert recommended(str(run))["verify"][0].endswith("-- COMMAND")


def test_of_a_rehearsed_run_the_same_devices_are_rehearsed(tmp_path: Path) -> None:
    run = run_of(tmp_path, emulated={"memory_bytes": [140 * MIB]}, cwd="/home/me/work")
    assert "oomdoctor rehearse --gpus 1 --memory 140MiB -o" in recommended(str(run))["verify"][0]


def test_the_devices_rehearsed_have_the_capacity_asked_about(tmp_path: Path) -> None:
    """The recorded device's 24 GiB less what was not PyTorch's, the context."""
    run = make_run(tmp_path / "run")
    emulated = {"memory_bytes": [24 * GIB], "context_bytes": 500 * MIB, "address_order": "falling"}
    add_launcher(run, emulated=emulated, cwd="/home/me/work")
    plain = recorded(HELPS, Settings())
    free = 24 * GIB - 500 * MIB - 200 * MIB
    add_dump(add_process(run, 7, torch_version="2.12.0"), plain, reason="exit", free=free)
    (device,) = ask(str(run))["devices"]
    assert device["capacity_bytes"] == 24 * GIB - 500 * MIB
    assert (
        "oomdoctor rehearse --gpus 1 --memory 640MiB --addresses falling -o"
        in recommended(str(run))["verify"][0]
    )


def test_where_a_command_cannot_give_the_capacity_it_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path, command=("python", "infer.py"), cwd=os.getcwd())
    said = flowing(text(str(run), *CAPACITY))
    assert "record again with it where PyTorch has 140.00 MiB, and compare:" in said


def test_the_real_allocator_is_asked_about_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / "one.pickle", recorded(HELPS, Settings()))
    asked = ("--device", "0", "--capacity", "140MiB", "--torch", "2.12")
    said = flowing(text(path, *asked).replace("\\\n", ""))
    assert f"oomdoctor advise {path} {' '.join(asked)} --prove" in said


def processes_of(folder: Path, *indices: int) -> list[DeviceHistory]:
    """A process on each of these devices, which it calls 0."""
    run = make_run(folder / "run")
    for number, index in enumerate(indices):
        process = add_process(run, 7 + number, torch_version="2.12.0")
        add_dump(process, recorded(HELPS, Settings()), reason="exit", free=300 * MIB)
        (sidecar,) = process.glob("*-exit.json")
        document = json.loads(sidecar.read_text())
        document["devices"][0]["nvml_index"] = index
        sidecar.write_text(json.dumps(document))
    sources, _ = snapshot_sources(str(run))
    return [load_device(read_snapshot(one.path), one, 0) for one in sources]


def test_of_emulated_devices_those_asked_about_get_the_capacity(tmp_path: Path) -> None:
    emulated = {"memory_bytes": [GIB, GIB, GIB]}
    only = processes_of(tmp_path / "one", 1)
    found = with_capacity(emulated, only, 400 * MIB)
    # PyTorch had 200 MiB and 300 were free.
    assert found.emulated == {"memory_bytes": [GIB, GIB - 100 * MIB, GIB]}
    assert with_capacity(emulated, only, None).emulated == emulated
    both = processes_of(tmp_path / "two", 1, 1)
    assert "2 processes share GPU 1" in str(with_capacity(emulated, both, 400 * MIB).why_not)
    beyond = processes_of(tmp_path / "three", 3)
    assert "GPU 3 had is not known" in str(with_capacity(emulated, beyond, 400 * MIB).why_not)
    assert "cannot be emulated" in str(with_capacity(emulated, only, 2 << 40).why_not)
    assert with_capacity(None, only, 400 * MIB).why_not == "it was not rehearsed"


def test_of_a_bare_snapshot_the_command_is_not_known(tmp_path: Path) -> None:
    path = save(tmp_path / "a snapshot.pickle", recorded(HELPS, Settings()))
    found = recommended(path)
    assert found["variable"] == "PYTORCH_CUDA_ALLOC_CONF"
    assert found["verify"] == [
        "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:32 oomdoctor trace -o after -- COMMAND",
        f"oomdoctor compare {shlex.quote(path)} after",
    ]


@pytest.mark.parametrize(
    ("version", "more", "variable"),
    [
        ("2.9.1+cu128", {}, "PYTORCH_CUDA_ALLOC_CONF"),
        ("2.10.0", {}, "PYTORCH_ALLOC_CONF"),
        ("2.12.0", {"environment": {"PYTORCH_ALLOC_CONF": ""}}, "PYTORCH_ALLOC_CONF"),
        ("2.9.0+rocm6.3", {"hip_version": "6.3"}, "PYTORCH_HIP_ALLOC_CONF"),
    ],
)
def test_the_variable_is_called_as_the_release_reads_it(
    tmp_path: Path, version: str, more: dict[str, Any], variable: str
) -> None:
    run = make_run(tmp_path / "run")
    plain = recorded(HELPS, Settings())
    add_dump(add_process(run, 7, torch_version=version, **more), plain, reason="exit")
    found = recommended(str(run))
    assert found["variable"] == variable
    assert found["line"] == f"export {variable}={found['alloc_conf']}"
    assert found["verify"][0].startswith(f"{variable}=")


def test_settings_that_do_not_bear_on_it_are_kept(tmp_path: Path) -> None:
    asked = "pinned_use_background_threads:True,garbage_collection_threshold:0.9"
    plain = recorded(HELPS, parse_settings(asked, (2, 12)).settings)
    found = recommended(save(tmp_path / "one.pickle", plain))
    assert found["alloc_conf"] == "max_split_size_mb:32"
    assert found["line"].endswith("=pinned_use_background_threads:True,max_split_size_mb:32")


def test_a_person_gets_both_commands_in_lines_that_a_shell_takes(tmp_path: Path) -> None:
    run = run_of(tmp_path, command=("python", "infer.py", *["--option", "value"] * 12), cwd=os.getcwd())
    said = text(str(run), *CAPACITY)
    assert max(map(len, said.splitlines())) <= 80 + len(str(run))
    block = said.split("compare:\n")[1].split("\nThe real")[0]
    record, compare, *_ = block.replace("\\\n", "").splitlines()
    verify = recommended(str(run))["verify"]
    assert [shlex.split(record), shlex.split(compare)] == [shlex.split(command) for command in verify]
