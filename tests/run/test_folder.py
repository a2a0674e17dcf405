"""Reading run folders: whole, growing, left by a killed process, and others' folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oomdoctor.errors import EmptyInput, ForeignInput, InputError, NewerInput
from oomdoctor.run.folder import RunFolder
from tests.run.building import add_dump, add_launcher, add_process, make_run, sample, write
from tests.snapshot.building import ordinary


def test_a_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    launcher = add_launcher(run, nvml=(sample(99.0, 1000, {7: 10}),))
    process = add_process(run, 7, rank=None, launcher=launcher)
    add_dump(process, ordinary(), requested=1)
    add_dump(process, ordinary(), reason="exit", sequence=2)
    found = RunFolder.open(run)
    assert found.problems == ()
    (one,) = found.processes
    assert (one.pid, one.host, one.rank) == (7, "node1", None)
    assert [dump.reason for dump in one.dumps] == ["oom", "exit"]
    assert all(dump.snapshot for dump in one.dumps)
    assert len(one.ooms) == 1
    assert found.launcher_of(one) is found.launchers[0]
    assert found.launchers[0].command == ["python", "infer.py"]
    assert found.launchers[0].nvml[0]["used_bytes"] == 10


def test_the_rank_of_the_newest_dump_holds(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    process = add_process(run, 7)
    add_dump(process, ordinary(), process={"rank": 3})
    assert RunFolder.open(run).processes[0].rank == 3


def test_what_a_killed_process_leaves(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    launcher = add_launcher(run, nvml=(sample(99.0, 1000, {}),))
    process = add_process(run, 7)
    add_dump(process, ordinary(), requested=1)
    (process / ".0002-exit.pickle.7.tmp").write_bytes(b"half")
    (process / "0003-demand.pickle").write_bytes(b"\x80\x04")  # no sidecar yet
    with open(process / "ooms.jsonl", "a") as file:
        file.write('{"t": 1, "cou')
    with open(run / "launchers" / launcher / "nvml.jsonl", "a") as file:
        file.write('{"t": 1')
    early = run / "processes" / "node1-9-def"
    early.mkdir()
    found = RunFolder.open(run)
    whole, nothing = found.processes
    assert [dump.name for dump in whole.dumps] == ["0001-oom", "0003-demand"]
    assert whole.dumps[1].document == {}
    assert len(whole.ooms) == 1
    assert len(found.launchers[0].nvml) == 1
    assert (nothing.pid, nothing.dumps) == (9, ())
    assert found.problems == ("processes/node1-9-def/process.json: it is not there",)


def test_a_snapshot_that_is_missing_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    process = add_process(run, 7)
    add_dump(process, ordinary(), requested=1)
    (process / "0001-oom.pickle").unlink()
    found = RunFolder.open(run)
    assert found.processes[0].dumps[0].snapshot is None
    assert any("0001-oom.pickle is missing" in problem for problem in found.problems)


def test_a_sidecar_cannot_point_outside(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    process = add_process(run, 7)
    add_dump(process, ordinary(), requested=1)
    secret = tmp_path / "secret.pickle"
    secret.write_bytes(b"x")
    write(process / "0001-oom.json", {"snapshot": "../../../secret.pickle", "reason": "oom"})
    assert RunFolder.open(run).processes[0].dumps[0].snapshot is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "nonsense", '{"pid": "seven", "rank": [], "environment": 3}']
)
def test_damaged_documents_do_not_stop_reading(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path)
    process = add_process(run, 7)
    (process / "process.json").write_text(text)
    found = RunFolder.open(run)
    assert found.processes[0].pid == 7
    assert found.processes[0].rank is None


def test_wrong_types_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    process = add_process(run, 7)
    add_dump(process, ordinary(), requested=1)
    assert RunFolder.open(run).problems == ()
    path = process / "0001-oom.json"
    document = json.loads(path.read_text())
    document["devices"][0]["total_bytes"] = "24 GiB"
    document["devices"].append(7)
    document["oom"] = []
    document["process"]["rank"] = True
    write(path, document)
    assert RunFolder.open(run).problems == (
        "processes/node1-7-def/0001-oom.json: process.rank is no whole number, and is left out",
        "processes/node1-7-def/0001-oom.json: devices[0].total_bytes is no whole number, and is left out",
        "processes/node1-7-def/0001-oom.json: devices[1] is not an object",
        "processes/node1-7-def/0001-oom.json: oom is not an object, and is left out",
    )


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        RunFolder.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="not a run folder"):
        RunFolder.open(tmp_path / "file")
    with pytest.raises(ForeignInput, match="no run folder"):
        RunFolder.open(tmp_path)
    make_run(tmp_path)
    with pytest.raises(EmptyInput):
        RunFolder.open(tmp_path)
    write(tmp_path / "run.json", {"schema": "oomdoctor.run/2"})
    with pytest.raises(NewerInput, match="run/2"):
        RunFolder.open(tmp_path)
    write(tmp_path / "run.json", {"name": "another tool's"})
    with pytest.raises(ForeignInput):
        RunFolder.open(tmp_path)


def test_without_run_json_what_was_recorded_is_read(tmp_path: Path) -> None:
    add_process(tmp_path, 7)
    assert len(RunFolder.open(tmp_path).processes) == 1
