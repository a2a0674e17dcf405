"""advise on snapshots without history: what the state suggests, estimated, and nothing replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oomdoctor.diagnosis.max_split import HoleySegments, mildest_mb, within_reach
from oomdoctor.diagnosis.state import device_state
from oomdoctor.diagnosis.unmappable import unmappable_bytes
from oomdoctor.snapshot import snapshot_from_plain
from oomdoctor.units import GIB, MIB
from tests.run.building import add_dump, add_process, make_run
from tests.snapshot.building import CACHE, USER, event, hole, live, segment, snapshot

from .test_advise import ask, flowing, refused, save, text

BASE = 1 << 40
KEYS = {
    "device", "capacity_bytes", "self_check", "current", "recommendation", "why", "max_split_size_mb", "candidates",
    "proofs", "unproved", "notes", "torch",
}  # fmt: skip


def holes(count: int = 8, size: int = 100 * MIB, used: int = 30 * MIB, **more: Any) -> list[dict[str, Any]]:
    """Segments that a small live block keeps open each."""
    return [
        segment(BASE + i * GIB, live(used, stack=[CACHE, USER]), hole(size - used), **more)
        for i in range(count)
    ]


def device_of(path: str, *arguments: str) -> Any:
    (device,) = ask(path, *arguments)["devices"]
    return device


@pytest.fixture
def file(tmp_path: Path) -> str:
    return save(tmp_path / "one.pickle", snapshot(*holes()))


def test_the_document_is_that_of_advise(file: str) -> None:
    document = ask(file)
    assert document["schema"] == "oomdoctor.advise/1"
    (device,) = document["devices"]
    assert set(device) >= KEYS
    assert device["self_check"]["compared"] == 0
    assert device["self_check"]["fraction"] is None
    metrics = device["current"]["metrics"]
    assert metrics["final_reserved_bytes"] == 800 * MIB
    assert metrics["final_allocated_bytes"] == 240 * MIB
    assert {metrics[name] for name in ("peak_reserved_bytes", "num_alloc_retries", "survives")} == {None}
    assert device["current"]["basis"] == "recorded"
    for one in (device["recommendation"], device["max_split_size_mb"], *device["candidates"]):
        assert one["basis"] == "estimated"
        assert one["estimate"]["formula"]
        assert one["metrics"]["peak_reserved_bytes"] is None
    assert device["state"]["hole_bytes"] == 560 * MIB
    (pin,) = device["state"]["pinning"]
    assert (pin["hole_bytes"], pin["frames"][0]["name"]) == (560 * MIB, "update")
    assert "no request was recorded" in device["unproved"]


def test_what_could_be_saved_is_read_off_the_segments(file: str) -> None:
    device = device_of(file)
    saved = {one["alloc_conf"]: one["estimate"]["saves_at_most_bytes"] for one in device["candidates"]}
    # Of the 70 MiB after the first 30 of each segment, granules 2 to 4 of 20 MiB are free as a whole.
    assert saved == {"expandable_segments:True": 8 * 60 * MIB, "max_split_size_mb:64": 560 * MIB}
    assert device["recommendation"]["alloc_conf"] == "expandable_segments:True"
    assert device["recommendation"]["line"] == "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    split = device["max_split_size_mb"]
    assert (split["helps"], split["best"]) == (True, 64)
    assert split["why"].startswith("may help. It could have kept 8 segments")


def test_a_person_is_told_that_it_is_no_more_than_an_estimate(file: str) -> None:
    said = text(file)
    assert max(map(len, said.splitlines())) <= 80
    flows = flowing(said)
    assert "no setting can be tried" in flows
    assert "update …/cache_utils.py:88" in flows
    assert "max_split_size_mb: 64 may help" in flows
    assert "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in said
    assert "oomdoctor trace -o RUN_FOLDER -- COMMAND" in said
    for certain in ("replayed", "proved", "survives"):
        assert certain not in flows


@pytest.mark.parametrize(
    ("segments", "why", "about_split"),
    [
        ([segment(BASE, live(100 * MIB))], "nothing to gain: of 100.00 MiB", "no segment of the large pool has holes"),
        ([segment(BASE, live(4000 * MIB), hole(60 * MIB))], "little to gain: only 60.00 MiB of", "would do little"),
        (
            # 35 MiB of holes in each, in them 20 MiB that a granule has; a fiftieth of all is 30.80 MiB.
            [segment(BASE, live(1470 * MIB)), segment(BASE + GIB * 2, live(35 * MIB), hole(35 * MIB))],
            "expandable_segments:True could save 20.00 MiB of them at most, less than 30.80 MiB, a fiftieth of"
            " what is reserved. max_split_size_mb:64 could keep segments with 35.00 MiB of them whole, at a"
            " cost that a state does not show",
            "may help",
        ),
        (
            [segment(BASE + i * GIB, live(4 * MIB), hole(16 * MIB)) for i in range(4)],
            "in pieces too small for a setting to matter",
            "no segment with holes is larger than 20.00 MiB",
        ),
        (holes(expandable=True), "with expandable segments on already", "expandable segments are split at any value"),
    ],
    ids=["no-hole", "small-hole", "split-alone", "small-segments", "expandable"],
)  # fmt: skip
def test_where_nothing_is_worth_a_change_it_says_why(
    tmp_path: Path, segments: Any, why: str, about_split: str
) -> None:
    plain = snapshot(*segments)
    plain["allocator_settings"]["expandable_segments"] = segments[0]["is_expandable"]
    device = device_of(save(tmp_path / "one.pickle", plain))
    assert device["recommendation"] is None
    assert why in device["why"]
    split = device["max_split_size_mb"]
    assert about_split in split["why"]
    assert split["helps"] == ("may help" in split["why"])
    said = text(str(tmp_path / "one.pickle"))
    assert "No setting to change" in said
    assert "export" not in said
    assert max(map(len, said.splitlines())) <= 80


def test_what_is_set_already_stays_in_the_line(tmp_path: Path) -> None:
    plain = snapshot(*holes())
    plain["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] = "garbage_collection_threshold:0.8"
    device = device_of(save(tmp_path / "one.pickle", plain))
    assert device["current"]["alloc_conf"] == "garbage_collection_threshold:0.8"
    assert (
        device["recommendation"]["alloc_conf"] == "garbage_collection_threshold:0.8,expandable_segments:True"
    )


def test_an_event_that_asks_for_nothing_is_no_history(tmp_path: Path) -> None:
    plain = snapshot(*holes(), traces=[[event("snapshot", 0, addr=0)]])
    assert device_of(save(tmp_path / "one.pickle", plain))["recommendation"]["basis"] == "estimated"


def test_devices_without_history_get_one_setting(tmp_path: Path) -> None:
    plain = snapshot(*holes(2), segment(1 << 44, live(300 * MIB), hole(700 * MIB), device=1))
    plain["device_traces"] = [[], []]
    first, second = ask(save(tmp_path / "one.pickle", plain))["devices"]
    assert first["recommendation"]["alloc_conf"] == second["recommendation"]["alloc_conf"]
    assert first["recommendation"]["estimate"]["saves_at_most_bytes"] == 120 * MIB
    assert second["recommendation"]["estimate"]["saves_at_most_bytes"] == 700 * MIB
    # Nine tenths of 840 MiB need the segments of 100 MiB.
    assert first["max_split_size_mb"]["best"] == 64


def test_an_error_of_which_the_sidecar_alone_knows_is_judged_as_explain_judges(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_dump(
        add_process(run, 7),
        snapshot(*holes()),
        requested=200 * MIB,
        total=2 * GIB,
        free=20 * MIB,
        reason="oom",
    )
    device = device_of(str(run))
    assert device["capacity_bytes"] == 820 * MIB
    assert device["recommendation"]["alloc_conf"] == "expandable_segments:True"
    assert device["max_split_size_mb"]["best"] == 64
    full = make_run(tmp_path / "full")
    add_dump(
        add_process(full, 7),
        snapshot(segment(BASE, live(1000 * MIB))),
        requested=200 * MIB,
        total=1200 * MIB,
        free=20 * MIB,
    )
    device = device_of(str(full))
    assert device["recommendation"] is None
    assert "in use by live tensors" in device["why"]


def test_proof_is_said_to_be_impossible(file: str) -> None:
    assert any("nothing is proved" in problem for problem in ask(file, "--prove")["problems"])


def test_a_capacity_is_said_to_change_nothing(file: str) -> None:
    assert "--capacity changes nothing" in flowing(text(file, "--capacity", "1GiB"))
    assert "--capacity" not in text(file)


def test_a_snapshot_of_nothing_is_refused(tmp_path: Path) -> None:
    error = refused(save(tmp_path / "one.pickle", {"segments": [], "device_traces": []}))
    assert error.exit_code == 1
    assert "oomdoctor trace" in str(error)


# ---- the rules ----


def test_of_values_that_reach_nearly_all_holes_the_mildest_is_proposed() -> None:
    large, small = HoleySegments(1000 * MIB, 1, 900 * MIB), HoleySegments(40 * MIB, 2, 30 * MIB)
    assert mildest_mb((large, small)) == 512
    assert mildest_mb((HoleySegments(1000 * MIB, 1, 100 * MIB), small)) == 32
    assert mildest_mb((HoleySegments(30 * MIB, 1, 20 * MIB),)) is None
    assert within_reach((large, small), 40) == 930 * MIB
    assert within_reach((large, small), 41) == 900 * MIB


def test_only_whole_granules_can_be_unmapped() -> None:
    plain = snapshot(
        segment(BASE, live(MIB), hole(38 * MIB), live(MIB)),  # the one from 20 to 40 is not whole
        segment(BASE + GIB, live(20 * MIB), hole(20 * MIB)),
        segment(BASE + 2 * GIB, live(512), hole(6 * MIB - 512), small=True),
        segment(BASE + 3 * GIB, hole(60 * MIB)),  # given back by itself
        segment(BASE + 4 * GIB, live(20 * MIB), hole(20 * MIB), pool=(0, 1)),
        segment(BASE + 5 * GIB, live(20 * MIB), hole(20 * MIB), expandable=True),
    )
    state = device_state(snapshot_from_plain(plain), 0)
    assert unmappable_bytes(state) == 20 * MIB + 4 * MIB
    assert unmappable_bytes(state, 40 * MIB) == 4 * MIB
