"""The commands inspect and replay, as a person and a program meet them."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest
from click.testing import CliRunner

from oomdoctor.allocator.settings import Settings
from oomdoctor.cli import group
from oomdoctor.errors import OomdoctorError
from oomdoctor.units import MIB
from tests.allocator.recorded_by_heap import recorded
from tests.run.building import add_dump, add_process, make_run
from tests.snapshot.building import event, frame, hole, live, segment, snapshot

TRACE = Path(__file__).parent.parent / "traces" / "llama-4-layers-two-gpus"
PROGRAM = [
    ("alloc", 30 * MIB, 0),
    ("alloc", 5 * MIB, 0),
    ("alloc", 12 * MIB, 0),
    ("free", 0),
    ("alloc", 26 * MIB, 0),
    ("free", 0),
    ("alloc", 7 * MIB, 0),
    ("alloc", 40 * MIB, 0),
]


def save(path: Path, plain: Any) -> str:
    path.write_bytes(pickle.dumps(plain, 4))
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return save(tmp_path / "one.pickle", recorded(PROGRAM, Settings()))


def ask(*arguments: str) -> Any:
    """What --json says."""
    result = CliRunner().invoke(group, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def one(*arguments: str) -> Any:
    (device,) = ask(*arguments)["devices"]
    return device


def refused(*arguments: str) -> OomdoctorError:
    with pytest.raises(OomdoctorError) as caught:
        CliRunner().invoke(group, [*arguments], catch_exceptions=False)
    return caught.value


def text(*arguments: str) -> str:
    result = CliRunner().invoke(group, [*arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    return result.stdout


# ---- replay ----


def test_replay_json_has_the_keys_of_the_contract(file: str) -> None:
    document = ask("replay", file)
    assert next(iter(document)) == "schema"
    assert document["schema"] == "oomdoctor.replay/1"
    (device,) = document["devices"]
    assert {
        "device", "alloc_conf", "capacity_bytes", "events", "complete_history", "self_check",
        "peak_allocated_bytes", "peak_active_bytes", "peak_reserved_bytes", "peak_inactive_split_bytes",
        "final_allocated_bytes", "final_reserved_bytes", "num_alloc_retries", "num_ooms",
        "segments_allocated", "segments_freed", "first_oom",
    } <= set(device)  # fmt: skip
    check = device["self_check"]
    assert (check["compared"], check["matching"], check["first_mismatch"]) == (6, 6, None)
    assert device["complete_history"] is True
    assert device["basis"] == "recorded"
    assert device["recorded"] is None
    assert device["final_allocated_bytes"] == (5 + 12 + 26 + 7 + 40 - 5) * MIB


def test_other_settings_stand_beside_the_recorded_figures(file: str) -> None:
    plain = one("replay", file)
    device = one("replay", file, "--alloc-conf", "max_split_size_mb:21")
    assert device["basis"] == "replayed"
    assert device["recorded"]["peak_reserved_bytes"] == plain["peak_reserved_bytes"]
    assert device["alloc_conf"] == "max_split_size_mb:21"
    same = one("replay", file, "--alloc-conf", "")
    assert same["peak_reserved_bytes"] == plain["peak_reserved_bytes"], "the defaults were recorded"
    assert same["peak_active_bytes"] == plain["peak_active_bytes"]


def test_capacity_ends_the_replay(file: str) -> None:
    device = one("replay", file, "--capacity", "64 MiB")
    assert device["capacity_bytes"] == device["limit_bytes"] == 64 * MIB
    # 30 and 20 MiB are reserved then, and 7 MiB take another segment of 20.
    assert device["first_oom"]["requested_bytes"] == 7 * MIB
    assert device["first_oom"]["alloc_index"] == 4
    assert "out of memory at allocation 4" in text("replay", file, "--capacity", "64MiB")


def test_a_memory_fraction_is_of_the_total(file: str) -> None:
    device = one("replay", file, "--memory-fraction", "0.5", "--total", "128MiB")
    assert device["limit_bytes"] == 64 * MIB
    assert device["first_oom"] is not None
    nothing = one("replay", file, "--memory-fraction", "0.5")
    assert nothing["first_oom"] is None
    assert any("--total" in note for note in nothing["notes"])


def test_a_fraction_in_the_settings_holds_unless_the_program_set_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for pid, fraction in ((7, 1.0), (8, 0.9)):
        folder = add_process(run, pid, torch_version="2.12.0")
        settings = {"memory_fraction": {"0": fraction}}
        add_dump(folder, recorded(PROGRAM, Settings()), total=1000 * MIB, settings=settings)
    conf = ("--alloc-conf", "per_process_memory_fraction:0.5")
    limits = [device["limit_bytes"] for device in ask("replay", str(run), *conf)["devices"]]
    assert limits == [500 * MIB, 900 * MIB]


def test_a_total_without_a_fraction_is_told(file: str) -> None:
    for more in ([], ["--capacity", "1GiB"]):
        result = CliRunner().invoke(group, ["replay", file, "--total", "1GiB", *more], catch_exceptions=False)
        assert "--total changes nothing" in result.stderr
    said = text("replay", file, "--memory-fraction", "0.5", "--total", "128MiB")
    assert "fraction  0.5 of 128.00 MiB: at most 64.00 MiB" in said
    device = one("replay", file, "--alloc-conf", "per_process_memory_fraction:0.5", "--capacity", "128MiB")
    assert (device["memory_fraction"], device["fraction_of_bytes"]) == (0.5, 128 * MIB)
    assert device["limit_bytes"] == 64 * MIB
    assert one("replay", file)["memory_fraction"] is None


@pytest.mark.parametrize(
    ("capacity", "said"), [("30MiB", "would not have come so far"), ("50MiB", "the rest")]
)
def test_what_was_there_before_the_trace_has_to_fit(tmp_path: Path, capacity: str, said: str) -> None:
    base = 1 << 40
    plain = snapshot(
        segment(base, live(36 * MIB), live(4 * MIB), hole(20 * MIB)),
        traces=[[event("alloc", 4 * MIB, addr=base + 36 * MIB)]],
    )
    path = save(tmp_path / "late.pickle", plain)
    device = one("replay", path, "--capacity", capacity)
    assert device["fits_at_start"] is False
    assert device["peak_reserved_bytes"] is device["first_oom"] is None
    assert device["recorded"]["peak_reserved_bytes"] == 60 * MIB
    assert any(said in note for note in device["notes"])
    shown = text("replay", path, "--capacity", capacity)
    assert "does not fit when the trace begins" in shown
    assert "survives" not in shown
    assert one("replay", path, "--capacity", "60MiB")["fits_at_start"] is True
    assert "The trace began late" in text("replay", path)


def test_recorded_retries_are_not_compared_with_endless_memory(tmp_path: Path) -> None:
    first, second = 1 << 40, 1 << 41
    plain = snapshot(
        segment(second, live(40 * MIB)),
        traces=[
            [
                event("segment_alloc", 30 * MIB, addr=first),
                event("alloc", 30 * MIB, addr=first),
                event("free_requested", 30 * MIB, addr=first),
                event("free_completed", 30 * MIB, addr=first),
                event("segment_free", 30 * MIB, addr=first, frames=[frame("f", "a.py")]),
                event("segment_alloc", 40 * MIB, addr=second, frames=[frame("f", "a.py")]),
                event("alloc", 40 * MIB, addr=second, frames=[frame("f", "a.py")]),
            ]
        ],
    )
    path = save(tmp_path / "retry.pickle", plain)
    assert one("replay", path)["num_alloc_retries"] == 1
    said = " ".join(text("replay", path, "--alloc-conf", "max_split_size_mb:64").split())
    assert "Memory has no end here" in said
    assert f"--capacity {40 * MIB}" in said
    assert "than recorded" not in said


def test_addresses_that_are_made_up_are_told_where_they_matter(tmp_path: Path) -> None:
    new = recorded(PROGRAM, Settings())
    old = recorded(PROGRAM, Settings(), torch=(2, 11))
    for entry in old["device_traces"][0]:
        entry.pop("pool_id")
    conf = ("--alloc-conf", "expandable_segments:True")
    for plain, others, told in ((old, conf, True), (new, conf, False), (old, ("--alloc-conf", ""), False)):
        device = one("replay", save(tmp_path / "x.pickle", plain), *others)
        assert any("made up" in note for note in device["notes"]) is told


def test_what_is_strange_about_a_file_is_told_by_both(tmp_path: Path) -> None:
    plain = recorded(PROGRAM, Settings())
    plain["device_traces"][0][-1]["action"] = "frobnicate"
    plain["segments"][0]["blocks"][0]["size"] += 512
    path = save(tmp_path / "odd.pickle", plain)
    for command in ("inspect", "replay"):
        device = one(command, path)
        notes = " ".join(device["notes"])
        assert "unknown actions stand as unknown events: frobnicate" in notes
        assert "1 segment of the snapshot has blocks that do not fill it" in notes
        assert "is not the state in the snapshot" in notes
        assert "live in" in notes, "how far off it is"
        assert device["basis"] == "replayed"
    plain["segments"][1]["total_size"] = -5
    plain["segments"].append(segment(plain["segments"][0]["address"], live(2 * MIB)))
    notes = " ".join(one("inspect", save(tmp_path / "odd.pickle", plain))["notes"])
    assert "no size that a segment can have" in notes
    assert "memory that another has as well" in notes


def test_a_stated_release_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_dump(add_process(run, 7, torch_version="2.15.0+cu132"), recorded(PROGRAM, Settings()))
    same = one("replay", str(run), "--torch", "2.15")
    assert (same["torch"]["version"], same["basis"]) == ("2.15.0+cu132", "recorded")
    other = one("replay", str(run), "--torch", "9.9")
    assert (other["torch"]["version"], other["rules_of_torch"], other["basis"]) == (
        "2.15.0+cu132", "9.9", "replayed",
    )  # fmt: skip
    assert "leave --torch out" in str(refused("inspect", str(run), "--torch", "9.9"))


def test_a_torch_that_can_have_recorded_it_is_taken_for_it(file: str) -> None:
    assert one("replay", file)["torch"]["newest"] == "2.12"
    device = one("replay", file, "--torch", "2.12.1")
    assert (device["basis"], device["torch"]["basis"]) == ("recorded", "stated")
    other = one("replay", file, "--torch", "2.6")
    assert (other["basis"], other["rules_of_torch"]) == ("replayed", "2.6")
    assert "torch 2.6" in text("replay", file, "--torch", "2.6")


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--alloc-conf", "bogus:1"], "has no allocator setting 'bogus'", 2),
        (["--alloc-conf", "max_split_size_mb:1"], "max_split_size_mb", 2),
        (["--alloc-conf", "backend:cudaMallocAsync"], "backend:cudaMallocAsync", 2),
        (["--capacity", "many"], "not a size", 2),
        (["--capacity", "1e30TiB"], "size", 2),
        (["--torch", "one"], "not a version of PyTorch", 2),
        (["--device", "3"], "there is no device 3", 2),
        (["--dump", "0001-oom"], "--dump", 2),
    ],
)
def test_unusable_arguments(file: str, arguments: list[str], said: str, code: int) -> None:
    error = refused("replay", file, *arguments)
    assert said in str(error)
    assert error.exit_code == code


def test_no_number_is_no_fraction(file: str) -> None:
    result = CliRunner().invoke(group, ["replay", file, "--memory-fraction", "nan"])
    assert (result.exit_code, "'nan' is not a number" in result.output) == (2, True)


def test_numbers_that_torch_reads_otherwise_are_told(file: str) -> None:
    for value, read in (("64;x", "64"), ("-1", str(2**64 - 1))):
        arguments = ["replay", file, "--alloc-conf", f"max_split_size_mb:{value}"]
        result = CliRunner().invoke(group, arguments, catch_exceptions=False)
        assert f"max_split_size_mb has '{value}', of which torch reads the number {read}." in result.stderr
    result = CliRunner().invoke(group, ["replay", file, "--alloc-conf", "max_split_size_mb:64"])
    assert result.stderr == ""
    assert "settings  the defaults" in text("replay", file, "--alloc-conf", " ")
    error = refused("replay", file, "--alloc-conf", "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:64")
    assert "give only what stands after the =" in str(error)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in str(refused("inspect", str(tmp_path / "pipe")))


def test_messages_say_why_and_what_next(file: str, tmp_path: Path) -> None:
    data = gzip.compress(Path(file).read_bytes())
    (tmp_path / "cut.gz").write_bytes(data[:-20])
    (tmp_path / "none.gz").write_bytes(gzip.compress(b""))
    for arguments in (
        [str(tmp_path / "cut.gz")],
        [str(tmp_path / "none.gz")],
        [file, "--alloc-conf", "backend:cudaMallocAsync"],
        [file, "--dump", "0001-oom"],
    ):
        error = refused("replay", *arguments)
        assert error.why, arguments
        assert error.next_step, arguments


@pytest.mark.parametrize("fraction", [None, "0.5"])
def test_what_torch_would_ignore_is_said_on_standard_error(file: str, fraction: Optional[str]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "oomdoctor",
            "replay",
            file,
            "--json",
            "--alloc-conf",
            "garbage_collection_threshold:0.8",
            *(("--capacity", "100GiB", "--memory-fraction", fraction) if fraction else ()),
        ],
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout)["devices"]
    assert ("garbage_collection_threshold does nothing" in done.stderr) == (fraction is None)
    assert done.returncode == 0


def test_a_file_that_is_no_snapshot(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pickle"
    broken.write_bytes(b"\x80\x04abc")
    for command in ("inspect", "replay"):
        assert refused(command, str(broken)).exit_code == 1
        assert refused(command, str(tmp_path)).exit_code == 1
    done = subprocess.run(
        [sys.executable, "-m", "oomdoctor", "replay", str(tmp_path / "missing")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_without_history_the_state_is_told_and_nothing_replayed(tmp_path: Path) -> None:
    path = save(tmp_path / "state.pickle", snapshot(segment(1 << 40, live(4 * MIB), hole(16 * MIB))))
    device = one("replay", path)
    assert (device["events"], device["complete_history"]) == (0, False)
    assert device["final_reserved_bytes"] == 20 * MIB
    assert device["peak_reserved_bytes"] is device["num_alloc_retries"] is device["num_ooms"] is None
    assert re.search(r"peak reserved +unknown\n", text("replay", path))
    assert re.search(r"retries +unknown\n", text("replay", path))
    assert "No history was recorded" in text("replay", path)
    assert "No history was recorded" in text("inspect", path)
    assert refused("replay", path, "--alloc-conf", "").exit_code == 1
    assert "leave --event out" in str(refused("inspect", path, "--event", "1"))
    assert ask("replay", save(tmp_path / "empty.pickle", snapshot()))["devices"] == []
    result = CliRunner().invoke(group, ["inspect", str(tmp_path / "empty.pickle")])
    assert "empty.pickle: nothing is recorded" in result.output


def test_what_is_strange_is_told_without_history_as_well(tmp_path: Path) -> None:
    plain = snapshot(segment(1 << 40, live(4 * MIB), hole(16 * MIB)))
    plain["segments"][0]["blocks"][1]["state"] = "asleep"
    path = save(tmp_path / "state.pickle", plain)
    for command in ("inspect", "replay"):
        said = text(command, path)
        assert "- Blocks of unknown states count as inactive: asleep." in said
        assert said.count("o history was recorded") == 1


def test_a_device_without_history_does_not_keep_others_from_replay(tmp_path: Path) -> None:
    plain = recorded(PROGRAM, Settings())
    plain["segments"].append(segment(1 << 45, live(4 * MIB), hole(16 * MIB), device=1))
    first, second = ask("replay", save(tmp_path / "two.pickle", plain), "--capacity", "1GiB")["devices"]
    assert (first["basis"], second["basis"]) == ("replayed", "recorded")


def test_a_mismatch_is_named(tmp_path: Path) -> None:
    """A block where the allocator would not have put it."""
    base = 1 << 40
    plain = snapshot(
        segment(base, hole(8 * MIB), live(4 * MIB), hole(8 * MIB)),
        traces=[
            [
                event("segment_alloc", 20 * MIB, addr=base),
                event("alloc", 8 * MIB, addr=base),
                event("alloc", 4 * MIB, addr=base + 8 * MIB),
                event("free_requested", 8 * MIB, addr=base),
                event("free_completed", 8 * MIB, addr=base),
                event("alloc", 6 * MIB, addr=base + 14 * MIB),
                event("free_requested", 6 * MIB, addr=base + 14 * MIB),
                event("free_completed", 6 * MIB, addr=base + 14 * MIB),
            ]
        ],
    )
    path = save(tmp_path / "odd.pickle", plain)
    check = one("replay", path)["self_check"]
    assert (check["compared"], check["matching"]) == (3, 2)
    assert check["first_mismatch"]["event"] == 5
    assert check["first_mismatch"]["alloc_index"] == 2
    assert check["first_mismatch"]["address"] == base + 14 * MIB
    assert check["first_mismatch"]["predicted_address"] in (base, base + 12 * MIB), "where a hole begins"
    assert "The first it does not is number 2 (event 5" in " ".join(text("replay", path).split())


def test_compiling_is_told_to_a_person_and_once(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from oomdoctor.cli import recordings

    one("replay", file, "--alloc-conf", "")  # now all of it is compiled
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    recordings.say_if_compiling(simulates=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(recordings.glob, "glob", lambda pattern: ["x"] if "run_recorded" in pattern else [])
    recordings.say_if_compiling()
    assert capsys.readouterr().err == ""
    recordings.say_if_compiling(simulates=True)
    assert "compiling the allocator's heap, once" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    recordings.say_if_compiling(simulates=True)
    assert capsys.readouterr().err == "", "nobody watches"


# ---- inspect ----


def test_inspect_json_adds_up(file: str) -> None:
    document = ask("inspect", file)
    assert document["schema"] == "oomdoctor.inspect/1"
    (device,) = document["devices"]
    state = device["state"]
    assert state["allocated_bytes"] + state["pending_bytes"] + state["free_bytes"] == state["reserved_bytes"]
    assert sum(s["total_bytes"] for s in device["segments"]) == state["reserved_bytes"]
    assert sum(b["bytes"] for b in device["blocks"]) == state["reserved_bytes"]
    assert sum(p["reserved_bytes"] for p in device["pools"]) == state["reserved_bytes"]
    assert sum(h["bytes"] for h in device["holes"]) == state["hole_bytes"] > 0
    addresses = {b["address"] for b in device["blocks"]}
    assert all(set(h["pinned_by"]) <= addresses for h in device["holes"])
    live_blocks = [b for b in device["blocks"] if b["state"] == "active_allocated"]
    assert all(b["age_events"] is not None and b["alloc_event"] is not None for b in live_blocks)
    assert device["basis"] == "recorded"


def test_any_event_and_from_the_end(file: str) -> None:
    events = one("inspect", file)["events"]
    assert one("inspect", file, "--event", "0")["state"]["reserved_bytes"] == 0
    second = one("inspect", file, "--event", "2")
    assert second["state"]["allocated_bytes"] == 30 * MIB
    assert second["last_event"]["action"] == "alloc"
    assert second["basis"] == "replayed"
    assert one("inspect", file, "--event", "-1") == one("inspect", file, "--event", str(events - 1))
    for wrong in (events + 1, -events - 1):
        assert refused("inspect", file, "--event", str(wrong)).exit_code == 2
    assert f"after 2 of {events} events" in text("inspect", file, "--event", "2")


def test_an_event_that_only_one_device_has(tmp_path: Path) -> None:
    plain = recorded(PROGRAM, Settings())
    plain["segments"].append(segment(1 << 45, live(4 * MIB), device=1))
    plain["device_traces"].append([event("alloc", 4 * MIB, addr=1 << 45)])
    path = save(tmp_path / "two.pickle", plain)
    document = ask("inspect", path, "--event", "5")
    assert [device["device"] for device in document["devices"]] == [0]
    assert any("device 1 has no state after 5 events" in problem for problem in document["problems"])
    assert "it has 1 event: give 0 to 1" in str(refused("inspect", path, "--event", "5", "--device", "1"))
    assert "device 0" in str(refused("inspect", path, "--event", "5000"))
    assert "GPU 1 at the end" in text("inspect", path)
    assert "1 event\n" in text("inspect", path)


def test_what_the_last_event_did(file: str) -> None:
    """30 MiB in a segment of its own; 5 and 12 in one of 20."""
    first = one("inspect", file, "--event", "1")["last_event"]
    (came,) = first["segments"]
    assert (first["action"], first["block_bytes"]) == ("segment_alloc", None)
    assert (came["came"], came["bytes"], came["cause"]) == (True, 30 * MIB, "new")
    assert "segment_alloc of 30.00 MiB" in text("inspect", file, "--event", "1")
    fourth = one("inspect", file, "--event", "4")["last_event"]
    assert (fourth["event"], fourth["action"], fourth["block_bytes"]) == (3, "alloc", 5 * MIB)
    assert fourth["split_remainder_bytes"] == 15 * MIB
    assert [(change["event"], change["bytes"]) for change in fourth["segments"]] == [(2, 20 * MIB)]
    said = " ".join(text("inspect", file, "--event", "4").split())
    assert "15.00 MiB split off behind it stay free. For it 1 segment of 20.00 MiB came (no cached" in said


def test_a_free_merges_with_what_is_free_beside_it(tmp_path: Path) -> None:
    acts = [("alloc", 5 * MIB, 0), ("alloc", 6 * MIB, 0), ("alloc", 4 * MIB, 0), ("free", 0), ("free", 0)]
    path = save(tmp_path / "merge.pickle", recorded(acts, Settings()))
    events = one("inspect", path)["events"]
    freed = one("inspect", path, "--event", str(events))["last_event"]
    assert freed["action"] == "free_completed"
    assert (freed["block_bytes"], freed["merged_before_bytes"]) == (6 * MIB, 5 * MIB)
    under_way = one("inspect", path, "--event", "-1")
    assert under_way["free_under_way_bytes"] == under_way["state"]["pending_bytes"] == 6 * MIB
    assert freed != under_way["last_event"]
    said = text("inspect", path, "--event", "-1")
    assert re.search(r"being freed +6.00 MiB", said)
    assert "other streams wait" not in said
    assert one("inspect", path)["free_under_way_bytes"] == 0


def test_waiting_for_another_stream_is_not_a_free_under_way(tmp_path: Path) -> None:
    base = 1 << 40
    plain = snapshot(
        segment(base, hole(20 * MIB)),
        traces=[
            [
                event("segment_alloc", 20 * MIB, addr=base),
                event("alloc", 5 * MIB, addr=base),
                event("alloc", 5 * MIB, addr=base + 5 * MIB),
                event("free_requested", 5 * MIB, addr=base),
                event("free_requested", 5 * MIB, addr=base + 5 * MIB),
                event("free_completed", 5 * MIB, addr=base),
                event("free_completed", 5 * MIB, addr=base + 5 * MIB),
            ]
        ],
    )
    path = save(tmp_path / "waits.pickle", plain)
    assert one("inspect", path, "--event", "5")["free_under_way_bytes"] == 0
    assert "other streams wait" in text("inspect", path, "--event", "5")


def test_marks_in_the_names_of_pools_are_explained(tmp_path: Path, file: str) -> None:
    plain = snapshot(
        segment(1 << 40, live(4 * MIB), hole(16 * MIB), expandable=True),
        segment(1 << 41, live(4 * MIB), hole(16 * MIB), pool=(0, 2)),
    )
    said = text("inspect", save(tmp_path / "pools.pickle", plain))
    assert "* expandable segments" in said
    assert "0.2: a private pool" in said
    assert "expandable" not in text("inspect", file)


def test_a_private_pool_that_the_recording_does_not_name(tmp_path: Path) -> None:
    """Before 2.12 the events name no pool: a graph's segment, gone by the end, shows by not being needed."""
    here, there = 1 << 40, 1 << 41
    steps = [
        *[("segment_alloc", here, 20), ("alloc", here, 4), ("free_requested", here, 4)],
        *[("free_completed", here, 4), ("segment_alloc", there, 20), ("alloc", there, 4)],
        *[("free_requested", there, 4), ("free_completed", there, 4), ("segment_free", there, 20)],
    ]
    trace = [
        event(action, size * MIB, addr=address, time_us=at)
        for at, (action, address, size) in enumerate(steps)
    ]
    for one_event in trace:
        del one_event["pool_id"]
    path = save(tmp_path / "graph.pickle", snapshot(traces=[trace]))
    state = one("inspect", path, "--event", "6")
    assert [(pool["kind"], pool["pool"]) for pool in state["pools"]] == [
        ("default", [0, 0]),
        ("private", None),
    ]
    assert [block["pool"] for block in state["blocks"]] == [[0, 0], None, None]
    assert [segment["pool"] for segment in state["segments"]] == [[0, 0], None]
    assert "large private, 0" in text("inspect", path, "--event", "6")


def test_a_replay_that_goes_elsewhere_is_called_a_guess(tmp_path: Path, file: str) -> None:
    plain = recorded(PROGRAM, Settings())
    for row in plain["device_traces"][0]:
        row["addr"] += 512 * (row["size"] % 7) + 512
    assert "a guess" in text("replay", save(tmp_path / "elsewhere.pickle", plain))
    assert "a guess" not in text("replay", file)


def test_what_pins_and_for_how_long(tmp_path: Path) -> None:
    here, there = [frame("here", "/home/me/a.py")], [frame("there", "/home/me/b.py")]
    first, second = 1 << 40, 1 << 41
    plain = snapshot(
        segment(first, live(4 * MIB, stack=here), hole(8 * MIB), live(2 * MIB, stack=there), hole(6 * MIB)),
        segment(
            second,
            *(live(2 * MIB, stack=here), hole(4 * MIB), live(2 * MIB, stack=there)),
            *(live(2 * MIB, stack=there), live(10 * MIB, stack=here)),
            expandable=True,
        ),
        traces=[
            [
                event("alloc", 2 * MIB, addr=second + 8 * MIB, frames=there, time_us=50),
                event("alloc", 2 * MIB, addr=second + 6 * MIB, frames=there, time_us=100),
                event("alloc", 2 * MIB, addr=first + 12 * MIB, frames=there, time_us=300),
                event("alloc", 2 * MIB, addr=second, frames=here, time_us=700),
                event("snapshot", 0, addr=0, time_us=1_500_100),
            ]
        ],
    )
    path = save(tmp_path / "pins.pickle", plain)
    pins = {pin["frames"][0]["name"]: pin for pin in one("inspect", path)["pinning"]}
    assert pins["there"]["blocks"] == 2, "of the expandable segment the neighbours of the hole alone"
    assert (pins["there"]["oldest_age_events"], pins["there"]["oldest_age_us"]) == (3, 1_500_000)
    assert pins["here"]["blocks"] == 2
    assert (pins["here"]["older_than_trace"], pins["here"]["oldest_age_events"]) == (True, None)
    said = text("inspect", path)
    assert re.search(r"there .* 1\.5 s\n", said)
    assert re.search(r"here .* before trace\n", said)
    early = {pin["frames"][0]["name"]: pin for pin in one("inspect", path, "--event", "3")["pinning"]}
    assert early["there"]["oldest_age_us"] == 200


def test_torch_that_cannot_have_recorded_it(file: str) -> None:
    error = refused("inspect", file, "--torch", "2.6")
    assert (error.exit_code, "has not recorded this" in str(error)) == (2, True)
    assert one("inspect", file, "--torch", "2.12")["torch"]["basis"] == "stated"


# ---- run folders ----


def test_the_recorded_run(tmp_path: Path) -> None:
    """A real run: torch is stated, both devices are told, and the end is an error."""
    first, second = ask("replay", str(TRACE))["devices"]
    assert first["torch"] == {
        "version": "2.15.0+cu132", "oldest": "2.15", "newest": "2.15", "basis": "recorded",
    }  # fmt: skip
    assert (first["device"], second["device"], first["dump"]) == (0, 1, "0001-oom")
    for device in (first, second):
        assert device["self_check"]["matching"] == device["self_check"]["compared"] > 0
    assert first["first_oom"]["alloc_index"] == 2627
    assert first["complete_history"] is True
    capacity = first["recorded_capacity_bytes"]
    again = one("replay", str(TRACE), "--device", "0", "--alloc-conf", "", "--capacity", str(capacity))
    assert again["first_oom"]["event"] == first["first_oom"]["event"]
    for figure in ("peak_allocated_bytes", "peak_active_bytes", "peak_reserved_bytes", "num_alloc_retries"):
        assert again[figure] == first[figure], figure
    other = one("replay", str(TRACE), "--device", "0", "--dump", "0002-exit")
    assert other["events"] > first["events"]
    said = text("inspect", str(TRACE))
    assert "Out of memory at this event" in said
    assert re.search(r"update +\S*cache_utils.py", said)
    assert "is not the state in the snapshot" not in said


def test_a_file_inside_a_run_folder_brings_its_surroundings() -> None:
    (path,) = TRACE.glob("processes/*/0001-oom.pickle")
    device = one("replay", str(path), "--device", "1")
    assert device["torch"]["version"] == "2.15.0+cu132"
    assert device["dump"] == "0001-oom"


def test_of_a_process_the_last_error_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    folder = add_process(run, 7, rank=3, torch_version="2.12.0")
    plain = recorded(PROGRAM, Settings())
    add_dump(folder, plain, reason="oom", sequence=1)
    add_dump(folder, plain, reason="oom", sequence=2)
    add_dump(folder, plain, reason="exit", sequence=3)
    add_process(run, 8)
    document = ask("replay", str(run))
    (device,) = document["devices"]
    assert (device["dump"], device["rank"], device["pid"]) == ("0002-oom", 3, 7)
    assert any("left no snapshot" in problem for problem in document["problems"])
    assert one("replay", str(run), "--dump", "0003-exit")["dump"] == "0003-exit"
    assert "0001-oom, 0002-oom, 0003-exit" in str(refused("replay", str(run), "--dump", "0009-oom"))
    assert "GPU 0, rank 3, pid 7" in text("inspect", str(run))


def test_an_unreadable_snapshot_beside_others_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for pid in (7, 8):
        add_dump(add_process(run, pid), recorded(PROGRAM, Settings()))
    (broken,) = run.glob("processes/*-8-*/0001-oom.pickle")
    broken.write_bytes(broken.read_bytes()[:100])
    document = ask("inspect", str(run))
    assert len(document["devices"]) == 1
    assert any("0001-oom" in problem for problem in document["problems"])
    assert "About the recording" in text("inspect", str(run))


def test_settings_of_old_recordings_come_from_the_environment(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    folder = add_process(
        run, 7, torch_version="2.1.0", environment={"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
    )
    plain = recorded(PROGRAM, Settings())
    plain["allocator_settings"] = None
    add_dump(folder, plain, reason="exit")
    assert one("replay", str(run))["alloc_conf"] == "max_split_size_mb:64"
