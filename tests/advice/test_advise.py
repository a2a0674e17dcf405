"""The command advise, as a person and a program meet it; on recordings that need no torch."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
from click.testing import CliRunner

from oomdoctor.advice import search as search_module
from oomdoctor.advice.advise import advise
from oomdoctor.advice.candidates import max_split_values
from oomdoctor.advice.evaluate import Place, Task, evaluate
from oomdoctor.advice.held import refuse_less
from oomdoctor.advice.search import local_map
from oomdoctor.allocator.loading import load_device
from oomdoctor.allocator.release_bounds import ReleaseBounds
from oomdoctor.allocator.replay import Outcome
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.cli import group
from oomdoctor.errors import InputError, OomdoctorError
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import snapshot_from_plain
from oomdoctor.units import MIB
from tests.allocator.recorded_by_heap import Act, recorded
from tests.run.building import add_dump, add_process, make_run
from tests.snapshot.building import event, hole, live, segment, snapshot

TRACES = Path(__file__).parent.parent.parent / "traces"
TWO_GPUS = TRACES / "llama-4-layers-two-gpus"

# 100 MiB come, go and come again; in between 30 MiB settle in what they left.
HELPS: list[Act] = [
    ("alloc", 100 * MIB, 0),
    ("free", 0),
    ("alloc", 30 * MIB, 0),
    ("alloc", 100 * MIB, 0),
]
CAPACITY: list[Act] = [("alloc", 60 * MIB, 0), ("alloc", 60 * MIB, 0)]
SMALL: list[Act] = [("alloc", 1000, 0), ("alloc", 3000, 0), ("free", 0), ("alloc", 500, 0)]
MIDDLE: list[Act] = [("alloc", 5 * MIB, 0), ("alloc", 6 * MIB, 0), ("free", 0), ("alloc", 5 * MIB, 0)]
# 25 and 14 MiB fit into what 40 left, unless 25 have all of it: at 20 it is not split, and cannot be given back.
WORSE: list[Act] = [
    ("alloc", 40 * MIB, 0),
    ("free", 0),
    ("alloc", 25 * MIB, 0),
    ("alloc", 14 * MIB, 0),
]


def save(path: Path, plain: Any) -> str:
    path.write_bytes(pickle.dumps(plain, 4))
    return str(path)


def ask(path: str, *arguments: str) -> Any:
    """What --json says."""
    result = CliRunner().invoke(
        group, ["advise", path, "--json", "--workers", "1", *arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def advised(folder: Path, program: list[Act], *arguments: str, **more: Any) -> Any:
    """The one device of a program's recording."""
    (device,) = ask(save(folder / "one.pickle", recorded(program, Settings(), **more)), *arguments)["devices"]
    return device


def text(path: str, *arguments: str) -> str:
    result = CliRunner().invoke(group, ["advise", path, "--workers", "1", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> OomdoctorError:
    with pytest.raises(OomdoctorError) as caught:
        CliRunner().invoke(group, ["advise", *arguments], catch_exceptions=False)
    return caught.value


def flowing(said: str) -> str:
    return " ".join(said.split())


# ---- the contract ----


def test_json_has_the_keys_and_types_of_the_contract(tmp_path: Path) -> None:
    path = save(tmp_path / "one.pickle", recorded(HELPS, Settings()))
    document = ask(path, "--capacity", "140MiB")
    assert next(iter(document)) == "schema"
    assert document["schema"] == "oomdoctor.advise/1"
    (device,) = document["devices"]
    assert device["device"] == 0
    assert device["capacity_bytes"] == 140 * MIB
    assert {"compared", "matching", "first_mismatch"} <= set(device["self_check"])
    replay = CliRunner().invoke(group, ["replay", path, "--capacity", "140MiB", "--json"])
    (figures,) = json.loads(replay.stdout)["devices"]
    current = device["current"]
    assert current["alloc_conf"] == ""
    for name in (
        "peak_allocated_bytes", "peak_active_bytes", "peak_reserved_bytes", "peak_inactive_split_bytes",
        "final_allocated_bytes", "final_reserved_bytes", "num_alloc_retries", "num_ooms",
        "segments_allocated", "segments_freed", "first_oom",
    ):  # fmt: skip
        assert current["metrics"][name] == figures[name], name
    recommended = device["recommendation"]
    assert {"alloc_conf", "basis", "metrics", "why"} <= set(recommended)
    assert recommended["basis"] == "replayed"
    assert recommended["metrics"]["first_oom"] is None
    assert isinstance(recommended["why"], str)
    split = device["max_split_size_mb"]
    assert {"helps", "best", "basis", "metrics", "why"} <= set(split)
    assert isinstance(split["helps"], bool)
    assert isinstance(split["best"], int)
    assert all({"alloc_conf", "basis", "metrics"} <= set(one) for one in device["candidates"])
    named = [one["alloc_conf"] for one in device["candidates"]]
    assert len(named) == len(set(named))
    assert {current["alloc_conf"], recommended["alloc_conf"]} <= set(named)


def test_nothing_to_gain_is_an_answer(tmp_path: Path) -> None:
    device = advised(tmp_path, SMALL)
    assert device["recommendation"] is None
    assert device["why"].startswith("no setting leaves more room")
    said = flowing(text(str(tmp_path / "one.pickle")))
    assert "No setting to change" in said
    assert "export" not in said


def test_what_capacity_lacks_no_setting_gives(tmp_path: Path) -> None:
    device = advised(tmp_path, CAPACITY, "--capacity", "100MiB")
    assert device["recommendation"] is None
    assert device["current"]["metrics"]["survives"] is False
    assert "less memory, or a larger device" in device["why"]
    said = text(str(tmp_path / "one.pickle"), "--capacity", "100MiB")
    # All of them, not those until memory ran out.
    assert "The recorded blocks hold 120.00 MiB at their peak." in flowing(said)
    assert "needs:" not in said
    assert "needs:" in text(str(tmp_path / "one.pickle"))


def test_where_nothing_lived_no_list_of_it_is_begun(tmp_path: Path) -> None:
    path = save(tmp_path / "one.pickle", recorded(CAPACITY, Settings()))
    said = flowing(text(path, "--capacity", "1"))
    assert "0 bytes were live and 60.00 MiB wanted, 60.00 MiB more than there are." in said
    assert "What lived" not in said


# ---- max_split_size_mb, by name ----


def test_max_split_size_that_helps_is_named(tmp_path: Path) -> None:
    split = advised(tmp_path, HELPS, "--capacity", "140MiB")["max_split_size_mb"]
    # Above 30, so that these are not oversize; not above 100, so that those are.
    assert (split["helps"], split["best"]) == (True, 32)
    assert split["metrics"]["first_oom"] is None
    assert split["metrics"]["peak_reserved_bytes"] == 130 * MIB
    assert split["why"].startswith("the run survives, without a retry")
    said = flowing(text(str(tmp_path / "one.pickle"), "--capacity", "140MiB"))
    assert "max_split_size_mb: 32 — the run survives" in said


@pytest.mark.parametrize(
    ("program", "capacity", "why"),
    [
        (CAPACITY, "100MiB", "it is capacity"),
        (CAPACITY, None, "no value leaves more room, or retries less"),
        (SMALL, None, "every request is of the small pool"),
        (MIDDLE, None, "blocks below 20.00 MiB are split at any value"),
        (WORSE, None, "2 of 2 values make it worse: the peak reserved is up to 40.00 MiB higher"),
    ],
    ids=["capacity", "nothing-wrong", "small-pool", "nothing-to-split", "worse"],
)
def test_max_split_size_that_does_not_help_is_told_why(
    tmp_path: Path, program: list[Act], capacity: Optional[str], why: str
) -> None:
    limit = () if capacity is None else ("--capacity", capacity)
    split = advised(tmp_path, program, *limit)["max_split_size_mb"]
    assert split["helps"] is False
    assert why in split["why"]
    assert f"max_split_size_mb: {split['why'][:20]}" in flowing(text(str(tmp_path / "one.pickle"), *limit))


# 9 MiB live in each of four segments of 20 MiB, beside 11 that 30 MiB do not fit into.
SCATTERED: list[Act] = [
    *[("alloc", size * MIB, 0) for _ in range(4) for size in (9, 9)],
    *[("free", 0), ("free", 1), ("free", 2), ("free", 3)],
    ("alloc", 30 * MIB, 0),
]
GIANT: list[Act] = [
    ("alloc", 70 * MIB, 0),
    ("alloc", 9 * MIB, 0),
    ("free", 1),
    ("alloc", 3 * MIB, 0),
    ("alloc", 25 * MIB, 0),
]
# A small one that needs a segment of 2 MiB where 1 is left.
LAST_SMALL: list[Act] = [("alloc", 60 * MIB, 0), ("alloc", 512, 0)]


@pytest.mark.parametrize(
    ("program", "capacity", "why"),
    [
        (SCATTERED, "94MiB", "44.00 MiB of holes lie in segments of 20.00 MiB and less"),
        (GIANT, "110MiB", "one live block has 70.00 MiB of the 110.00 MiB"),
        (LAST_SMALL, "61MiB", "the request that failed is of the small pool"),
    ],
    ids=["small-segments", "giant", "small-request"],
)
def test_where_memory_ran_out_the_reason_is_in_the_heap(
    tmp_path: Path, program: list[Act], capacity: str, why: str
) -> None:
    device = advised(tmp_path, program, "--capacity", capacity)
    assert device["current"]["metrics"]["survives"] is False
    split = device["max_split_size_mb"]
    assert split["helps"] is False
    assert why in split["why"]


# ---- candidates ----


def values_of(program: list[Act], torch: tuple[int, int] = (2, 12)) -> list[int]:
    plain = recorded(program, Settings(), torch=torch)
    device = load_device(snapshot_from_plain(plain), SnapshotSource("nowhere"), 0)
    return max_split_values([device.history])


def test_values_of_max_split_size_come_from_the_sizes_that_occur() -> None:
    # Sizes 30, 40 and 100 MiB: up to each a value does the same, and a power of two stands for it.
    assert values_of([*HELPS, ("alloc", 40 * MIB, 0)]) == [20, 32, 64]
    assert values_of([("alloc", 70 * MIB, 0), ("alloc", 72 * MIB, 0)]) == [32, 71]
    assert values_of(MIDDLE) == values_of(SMALL) == []


@pytest.mark.parametrize("torch", ["2.3", "2.9", "2.10", "2.12"])
def test_what_is_tried_the_release_takes(tmp_path: Path, torch: str) -> None:
    run = make_run(tmp_path / "run")
    add_dump(
        add_process(run, 7, torch_version=torch + ".0"),
        recorded(MIDDLE * 8, Settings()),
        reason="exit",
    )
    (device,) = ask(str(run))["devices"]
    version = (int(torch.split(".")[0]), int(torch.split(".")[1]))
    texts = [one["alloc_conf"] for one in device["candidates"]]
    for conf in texts:
        parse_settings(conf, version)
    assert any("expandable_segments" in conf for conf in texts)
    assert any("large_segment_size_mb" in conf for conf in texts) == (version >= (2, 11))


def test_the_search_tells_how_far_it_is() -> None:
    device = load_device(snapshot_from_plain(recorded(HELPS, Settings())), SnapshotSource("nowhere"), 0)
    recordings = [(Place("nowhere", 0), device)]
    told: list[tuple[int, int]] = []
    with local_map(recordings, workers=1) as mapped:
        advise(recordings, mapped, capacity=140 * MIB, progress=lambda done, of: told.append((done, of)))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert all(done <= of for done, of in told)
    assert told[-1][0] == told[-1][1]


# ---- one answer ----


def test_as_many_workers_as_there_are_find_the_same(tmp_path: Path) -> None:
    path = save(tmp_path / "one.pickle", recorded(HELPS * 6, Settings()))
    for limit in ((), ("--capacity", "400MiB")):
        assert ask(path, *limit) == ask(path, *limit, "--workers", "2")


_HERE = os.getpid()


def killed_in_a_worker(task: Task) -> Outcome:
    if os.getpid() != _HERE:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(task)


def test_a_worker_that_is_killed_is_told_of_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "one.pickle", recorded(HELPS, Settings()))
    monkeypatch.setattr(search_module, "evaluate", killed_in_a_worker)
    error = refused(path, "--workers", "2")
    assert error.exit_code == 1
    assert error.why is not None
    assert "ended before its replay did" in str(error)
    assert "--workers 1" in str(error.next_step)


def test_devices_of_a_job_get_one_setting() -> None:
    document = ask(str(TWO_GPUS))
    first, second = document["devices"]
    assert (first["device"], second["device"]) == (0, 1)
    assert first["recommendation"]["alloc_conf"] == second["recommendation"]["alloc_conf"]
    assert first["recommendation"]["metrics"] != second["recommendation"]["metrics"]
    assert first["max_split_size_mb"]["best"] == second["max_split_size_mb"]["best"]
    assert first["capacity_bytes"] != second["capacity_bytes"]
    (alone,) = ask(str(TWO_GPUS), "--device", "1")["devices"]
    assert (alone["device"], alone["current"]["metrics"]["survives"]) == (1, True)


@pytest.mark.parametrize("capacity", [None, "1150MiB", "900MiB", "20GiB"])
def test_an_answer_fits_the_page(capacity: Optional[str]) -> None:
    said = text(str(TWO_GPUS), *(() if capacity is None else ("--capacity", capacity)))
    assert max(map(len, said.splitlines())) <= 80
    assert "max_split_size_mb: " in said


def test_pairs_that_add_nothing_are_not_shown(tmp_path: Path) -> None:
    """Of odd sizes each rounding makes something else, and nothing better."""
    odd: list[Act] = [("alloc", size * MIB + 12345, 0) for size in (1, 3, 5)]
    growing: list[Act] = [
        act for size in range(33, 70, 10) for act in (("alloc", size * MIB, 0), ("free", 3))
    ]
    path = save(tmp_path / "one.pickle", recorded([*odd, *growing], Settings()))
    (device,) = ask(path, "--capacity", "130MiB")["devices"]
    best = device["recommendation"]["alloc_conf"]
    pairs = [one["alloc_conf"] for one in device["candidates"] if best in one["alloc_conf"].split(",")][1:]
    assert len(pairs) > 2
    assert not any(pair in text(path, "--capacity", "130MiB") for pair in pairs)


def test_ranks_recorded_with_different_settings_are_told_of(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for pid, conf in ((7, ""), (8, "max_split_size_mb:64")):
        settings = parse_settings(conf, (2, 12)).settings
        folder = add_process(run, pid, torch_version="2.12.0")
        add_dump(folder, recorded(HELPS, settings), reason="exit")
    document = ask(str(run))
    first, second = document["devices"]
    for device in (first, second):
        assert device["current"]["alloc_conf"] == ""
        assert device["current"]["metrics"]["peak_reserved_bytes"] == 200 * MIB
    assert any("pid 8: recorded with max_split_size_mb:64" in note for note in document["notes"])


def test_what_the_program_set_itself_is_not_advised_anew(tmp_path: Path) -> None:
    in_effect = replace(parse_settings("max_split_size_mb:32", (2, 12)).settings, text="")
    (device,) = ask(save(tmp_path / "one.pickle", recorded(HELPS, in_effect)))["devices"]
    assert device["current"]["metrics"]["peak_reserved_bytes"] == 130 * MIB
    assert device["recommendation"] is None
    assert device["max_split_size_mb"]["helps"] is False


# ---- input that is not as it should be ----


def test_a_history_without_a_request_is_survived(tmp_path: Path) -> None:
    plain = snapshot(segment(1 << 40, live(4 * MIB), hole(16 * MIB)), traces=[[event("snapshot", 0, addr=0)]])
    (device,) = ask(save(tmp_path / "one.pickle", plain))["devices"]
    assert device["recommendation"] is None
    assert device["max_split_size_mb"]["helps"] is False


def test_a_device_without_history_has_no_say(tmp_path: Path) -> None:
    plain = recorded(HELPS, Settings())
    plain["segments"].append(segment(1 << 44, live(4 * MIB), hole(16 * MIB), device=1))
    plain["device_traces"].append([])
    document = ask(save(tmp_path / "one.pickle", plain))
    assert [device["device"] for device in document["devices"]] == [0]
    assert any("device 1" in problem for problem in document["problems"])


def test_a_truncated_history_says_that_there_was_something_before(tmp_path: Path) -> None:
    path = save(tmp_path / "one.pickle", recorded(HELPS * 5, Settings(), keep=12))
    (device,) = ask(path)["devices"]
    assert device["complete_history"] is False
    assert device["candidates"]
    assert "were reserved when the trace began" in flowing(text(path))


# What is reserved before the trace is in use by a third then.
BEFORE: list[Act] = [("alloc", 90 * MIB, 0), ("alloc", 60 * MIB, 0), ("free", 0)]
AFTER: list[Act] = [("alloc", 40 * MIB, 0), ("free", 2)]


def truncated(folder: Path) -> str:
    """150 MiB are reserved when the trace begins, and 60 of them in use; 100 MiB are, at its peak."""
    return save(folder / "one.pickle", recorded([*BEFORE, *AFTER], Settings(), keep=3))


def test_less_than_was_held_when_the_trace_began_is_refused(tmp_path: Path) -> None:
    """As replay refuses it: how the program would have come there is not recorded."""
    path = truncated(tmp_path)
    error = refused(path, "--capacity", "149MiB")
    assert error.exit_code == 2
    assert "nothing can be said of 149.00 MiB for PyTorch" in str(error)
    assert "150.00 MiB were reserved when the trace began" in str(error)
    assert "--capacity 150MiB or more" in str(error)
    (device,) = ask(path, "--capacity", "150MiB")["devices"]
    assert device["current"]["metrics"]["survives"] is True


def test_of_several_devices_the_one_that_held_more_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for pid, keep in ((7, 3), (8, 1000)):
        plain = recorded([*BEFORE, *AFTER], Settings(), keep=keep)
        add_dump(add_process(run, pid, torch_version="2.12.0"), plain, reason="exit")
    error = refused(str(run), "--capacity", "149MiB")
    assert "150.00 MiB were reserved on GPU 0 when" in str(error)
    assert "or another --device" in str(error)


def test_a_recording_that_had_less_at_its_error_than_at_its_start_is_refused(tmp_path: Path) -> None:
    plain = recorded([*BEFORE, *AFTER], Settings(), keep=3)
    device = load_device(snapshot_from_plain(plain), SnapshotSource("nowhere"), 0)
    with pytest.raises(InputError) as caught:
        refuse_less([device], [149 * MIB], asked=False)
    assert "when memory ran out there were 149.00 MiB for PyTorch" in str(caught.value)
    refuse_less([device], [150 * MIB], asked=False)
    refuse_less([device], [None], asked=False)


def test_what_is_needed_is_not_less_than_what_was_held(tmp_path: Path) -> None:
    path = truncated(tmp_path)
    (device,) = ask(path, "--capacity", "200MiB")["devices"]
    needs = [one["metrics"]["least_capacity_bytes"] for one in device["candidates"]]
    assert min(need for need in needs if need is not None) == 150 * MIB
    assert "and not less than the 150.00 MiB reserved when the trace began" in text(path)


def test_no_fraction_of_less_than_was_held_is_tried() -> None:
    plain = recorded([*BEFORE, *AFTER], Settings(), keep=3)
    device = load_device(snapshot_from_plain(plain), SnapshotSource("nowhere"), 0)
    tried: set[str] = set()

    def noted(tasks: Sequence[Task]) -> Iterator[Outcome]:
        tried.update(task.alloc_conf for task in tasks)
        return mapped(tasks)

    recordings = [(Place("nowhere", 0), device)]
    for capacity, begins in ((156 * MIB, False), (160 * MIB, True)):
        tried.clear()
        with local_map(recordings, workers=1) as mapped:
            advise(recordings, noted, capacity=capacity)
        # 95 % of 156 MiB are less than 150.
        assert any("per_process_memory_fraction" in text for text in tried) == begins


def test_a_release_newer_than_all_known_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_dump(add_process(run, 7, torch_version="2.99.0"), recorded(HELPS, Settings()), reason="exit")
    (device,) = ask(str(run))["devices"]
    assert device["torch"]["version"] == "2.99.0"
    assert any("2.99" in note for note in device["notes"])


def test_a_release_that_is_bounded_only_may_not_know_the_setting() -> None:
    """The fields of a bare snapshot bound the release; expandable segments came with 2.1."""
    growing: list[Act] = [
        act for size in range(30, 70, 10) for act in (("alloc", size * MIB, 0), ("free", 0))
    ]
    device = load_device(snapshot_from_plain(recorded(growing, Settings())), SnapshotSource("nowhere"), 0)
    bounded = replace(device, torch=ReleaseBounds((2, 0), (2, 12), "derived"))
    for one, told in ((device, False), (bounded, True)):
        recordings = [(Place("nowhere", 0), one)]
        with local_map(recordings, workers=1) as mapped:
            advice = advise(recordings, mapped, capacity=100 * MIB)
        assert advice.best is not None
        assert "expandable_segments" in advice.best.alloc_conf
        assert any("if it was torch 2.0 that recorded this" in note for note in advice.notes) == told


def test_a_version_that_is_none_is_taken_from_the_fields(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_dump(add_process(run, 7, torch_version="main"), recorded(HELPS, Settings()), reason="exit")
    (device,) = ask(str(run))["devices"]
    assert (device["torch"]["oldest"], device["torch"]["basis"]) == ("2.12", "derived")


def test_a_release_that_has_not_recorded_it_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "one.pickle", recorded(HELPS, Settings()))
    error = refused(path, "--torch", "2.3")
    assert error.exit_code == 2
    assert "torch 2.3 has not recorded this: it is of 2.12" in str(error)
    assert ReleaseBounds((2, 3), (2, 4), "derived").as_one == "a release between 2.3 and 2.4"
    assert ask(path, "--torch", "2.12")["devices"][0]["torch"]["basis"] == "stated"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--capacity", "plenty"), 2),
        (("--workers", "0"), 2),
        (("--device", "5"), 2),
        (("--scheduler", "nonsense"), 2),
        (("--python", "/not/there"), 2),
        ((), 0),
    ],
)
def test_exit_codes(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    path = save(tmp_path / "one.pickle", recorded(SMALL, Settings()))
    done = subprocess.run(
        [sys.executable, "-m", "oomdoctor", "advise", path, *arguments], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (code == 0)


def test_a_folder_with_spaces_is_quoted_in_the_command(tmp_path: Path) -> None:
    copied = tmp_path / "a run"
    shutil.copytree(TWO_GPUS, copied)
    assert f"oomdoctor advise '{copied}' --prove" in flowing(text(str(copied)).replace("\\\n", ""))
