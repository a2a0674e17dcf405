"""What is printed of a run: the contract, 80 columns, and that no terminal means no colour."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from oomdoctor.cli import group
from oomdoctor.diagnosis.run import diagnose_run
from oomdoctor.errors import EmptyInput, ForeignInput
from oomdoctor.reporters import run_json, run_text
from oomdoctor.reporters.ink import Ink
from tests.run.building import GIB, add_dump, add_launcher, add_process, make_run
from tests.snapshot.building import CACHE, MIB, TORCH, USER, event, frame, hole, live, segment, snapshot

LONG = frame(
    "a_function_with_a_name_" + "of_great_length_" * 4, "/home/me/" + "deep/" * 30 + "f" * 60 + ".py", 9
)
PATH_BOUND = ("oomdoctor", "PYTORCH")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = make_run(tmp_path / "run")
    launcher = add_launcher(made)
    for rank in (0, 1):
        process = add_process(made, 70 + rank, rank=rank, launcher=launcher)
        stacks = [[TORCH, CACHE, USER], [LONG], [], [TORCH, USER], [USER]]
        blocks = [one for stack in stacks for one in (live(4 * GIB, stack=stack), hole(600 * MIB))]
        plain = snapshot(
            segment(0x7F0000000000, *blocks),
            segment(0x7FF000000000, live(2 * MIB), hole(8 * MIB), stream=0x55D0C0FFEE00, pool=(12, 34)),
            traces=[[event("alloc", 1), event("oom", GIB, addr=MIB)]],
        )
        add_dump(process, plain, requested=GIB, free=MIB, history={"max_entries": 2, "wrapped": [True]})
    return made


def test_json_keeps_the_contract(run: Path) -> None:
    result = CliRunner().invoke(group, ["explain", str(run), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["schema"] == "oomdoctor.explain/1"
    assert found["count"] == len(found["ooms"]) == 2
    one = found["ooms"][0]
    for key in (
        "family", "kind", "rank", "device", "line", "text", "requested_bytes", "total_bytes", "free_bytes",
        "allocated_bytes", "reserved_bytes", "reserved_unallocated_bytes", "process_in_use_bytes",
        "private_pool_bytes", "allowed_bytes", "other_processes", "verdict", "findings", "remedies",
    ):  # fmt: skip
        assert key in one
    assert (one["family"], one["kind"], one["rank"], one["device"]) == ("recording", "oom", 0, 0)
    assert one["verdict"] == "fragmentation"
    assert one["state"]["largest_free_block_bytes"] == 600 * MIB
    pools = one["state"]["pools"]
    assert sum(pool["reserved_bytes"] for pool in pools) == one["reserved_bytes"]
    assert sum(pool["allocated_bytes"] for pool in pools) == one["allocated_bytes"]
    assert pools[1]["pool"] == [12, 34]
    assert one["state"]["pinning"][0]["hole_bytes"] == 3000 * MIB
    assert one["state"]["top_stacks"][0]["bytes"] == 8 * GIB, "both end in main"


@pytest.mark.parametrize("on", [False, True])
def test_text_fits_80_columns(run: Path, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.chdir(run.parent)  # paths are shown from where one stands
    text = re.sub(r"\x1b\[[0-9;]*m", "", run_text.render(diagnose_run(str(run)), Ink(on)))
    for line in text.splitlines():
        one_path = "/" in line and len(line.removesuffix(" \\").split()) == 1  # cannot be broken
        assert len(line) <= 80 or one_path or line.lstrip().startswith(PATH_BOUND) or "export " in line, line


def test_text_says_what_a_person_needs(run: Path) -> None:
    result = CliRunner().invoke(group, ["explain", str(run)])
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert "\x1b" not in text
    assert "GPU 0, rank 0, pid 70 ran out of memory: fragmentation" in text
    assert "GPU 0, rank 1, pid 71: 1.00 GiB wanted, 20.00 GiB allocated, 1.00 MiB free" in text
    assert "600.00 MiB of 1.00 GiB needed" in " ".join(text.split())
    assert "update  transformers/cache_utils.py:88" in text
    assert "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in text
    assert "Next, to see whether the first of them helps" in text
    assert "newest" in text, "that the history wrapped"


def test_the_documents_are_plain_values(run: Path) -> None:
    document = run_json.document(diagnose_run(str(run)))
    assert json.loads(json.dumps(document)) == document


def test_a_folder_that_is_no_run_is_one_message(tmp_path: Path) -> None:
    result = CliRunner().invoke(group, ["explain", str(tmp_path)])
    assert isinstance(result.exception, ForeignInput)


def test_a_run_without_oom(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run")
    add_dump(add_process(made, 7), snapshot(segment(0, live(MIB))), reason="exit")
    text = run_text.render(diagnose_run(str(made)), Ink(False))
    assert text.startswith("No out-of-memory error was recorded")
    assert "GPU 0, pid 7" in text


def test_explain_tells_a_snapshot_from_a_text_by_content(tmp_path: Path) -> None:
    import gzip
    import pickle

    plain = snapshot(segment(0, live(MIB)))
    path = tmp_path / "named.log"
    for data in (
        pickle.dumps(plain, 2),
        pickle.dumps(plain, 4),
        gzip.compress(pickle.dumps(plain, 4)),
        json.dumps(plain, indent=1).encode(),
        json.dumps(plain["segments"]).encode(),
    ):
        path.write_bytes(data)
        result = CliRunner().invoke(group, ["explain", str(path), "--json"])
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["count"] == 0
        assert found["states"][0]["reserved_bytes"] == MIB
        assert found["states"][0]["kind"] == "state"
    for text in (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB.",
        '{"level": "info"}',
    ):
        path.write_text(text)
        assert "state that it holds" not in CliRunner().invoke(group, ["explain", str(path)]).output


def test_without_a_snapshot_the_picture_is_shown(run: Path) -> None:
    for path in run.rglob("0001-oom.pickle"):
        path.write_bytes(b"\x80\x04}")
    text = run_text.render(diagnose_run(str(run)), Ink(False))
    assert "allocated" in text
    assert "free in pools" in text
    assert "capacity" in text
    assert "Next, to see" in text or "Try" in text


def test_nothing_recorded_exits_1_and_a_state_0(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run")
    add_launcher(made)
    result = CliRunner().invoke(group, ["explain", str(made), "--json"])
    assert isinstance(result.exception, EmptyInput)
    assert json.loads(result.stdout)["count"] == 0
    process = add_process(made, 7)
    result = CliRunner().invoke(group, ["explain", str(made)])
    assert result.exit_code == 0, result.output
    assert "Pid 7, on node1, left no snapshot" in result.stdout
    add_dump(process, snapshot(segment(0, live(MIB))), reason="exit")
    assert CliRunner().invoke(group, ["explain", str(made)]).exit_code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk_is_one_message_and_a_closed_pipe_none(run: Path, more: list[str]) -> None:
    command = [sys.executable, "-m", "oomdoctor", "explain", str(run), *more]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("oomdoctor: standard output: cannot write the answer")
    assert "Traceback" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def test_without_caching_there_is_no_pool_table(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run")
    asked = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    add_dump(add_process(made, 7), snapshot(), reason="exit", free=GIB, asked=asked)
    text = run_text.render(diagnose_run(str(made)), Ink(False))
    assert "Pool, stream" not in text
    assert "context, NCCL" not in text
    assert "tensors, context, others" in text
    assert "every tensor is a cudaMalloc" in text


def test_the_table_numbers_streams_and_counts_one_hole(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run")
    plain = snapshot(segment(0, live(MIB), hole(MIB), stream=0x7F00000000000000))
    add_dump(add_process(made, 7), plain, reason="exit")
    text = run_text.render(diagnose_run(str(made)), Ink(False))
    assert "large, 1 " in text
    assert "1 hole," in text
    streams = run_json.document(diagnose_run(str(made)))["states"][0]["state"]["streams"]
    assert [(one["stream"], one["name"]) for one in streams] == [(0x7F00000000000000, "1")]


def test_a_long_command_is_broken_and_stays_pasteable(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run")
    command = ("python", "-c", "print('a  b')", *(f"--option-{i}=value {i}" for i in range(12)))
    process = add_process(made, 7, launcher=add_launcher(made, command=command))
    plain = snapshot(
        segment(0, live(20 * GIB), hole(900 * MIB)),
        traces=[[event("alloc", 1), event("oom", GIB, addr=GIB // 2)]],
    )
    add_dump(process, plain, requested=GIB, free=GIB // 2)
    found = diagnose_run(str(made))
    text = run_text.render(found, Ink(False))
    shown = text[text.index("Next, to see") :].split("\n", 1)[1]
    assert all(len(line) <= 80 or " " not in line.strip(" \\") for line in shown.splitlines())
    assert " \\\n" in shown
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(found.ooms[0].next or "")


def test_what_ranks_have_in_common_is_said_once(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run")
    for rank in range(9):
        stack = [USER] if rank < 8 else [TORCH, CACHE, USER]
        plain = snapshot(
            segment(0, live((20 + rank) * GIB, stack=stack)),
            traces=[[event("alloc", 1), event("oom", 9 * GIB, addr=MIB)]],
        )
        process = add_process(made, 70 + rank, rank=rank)
        add_dump(process, plain, total=(21 + rank) * GIB, requested=9 * GIB, free=MIB)
    found = diagnose_run(str(made))
    text = run_text.render(found, Ink(False))
    assert text.count("Pool, stream") == 2, "one screen for each kind"
    assert "7 more with the same verdict, from the same places" in text
    assert "GPU 0, rank 7, pid 77: 9.00 GiB wanted, 27.00 GiB allocated, 1.00 MiB free" in text
    assert len(run_json.document(found)["ooms"]) == 9
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(
    "part", ["run.json", "processes", "processes/*", "processes/*/*.json", "launchers/*/launcher.json"]
)
def test_a_part_of_a_run_folder_names_the_whole(
    run: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)  # paths are shown from where one stands
    path = next(iter(sorted(run.glob(part))))
    result = CliRunner().invoke(group, ["explain", str(path)])
    assert isinstance(result.exception, ForeignInput)
    assert "this belongs to a run folder" in str(result.exception)
    assert str(result.exception).endswith(f"oomdoctor explain {run.name}")


def test_a_snapshot_and_a_log_inside_a_run_folder_are_read(run: Path) -> None:
    snapshot_file = next(run.rglob("0001-oom.pickle"))
    assert CliRunner().invoke(group, ["explain", str(snapshot_file)]).exit_code == 0
    log = run / "train.log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 MiB.")
    assert CliRunner().invoke(group, ["explain", str(log)]).exit_code == 0
