"""Which settings are tried: every key that can matter, values from the recording, less what does not work with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest

from oomdoctor.advice.candidates import (
    accepted,
    combined_settings,
    kinds,
    large_segment_values,
    non_split_roundings,
    roundup_tables,
    single_settings,
)
from oomdoctor.advice.conflicts import conflicts, doubts
from oomdoctor.allocator.history import History
from oomdoctor.allocator.loading import load_device
from oomdoctor.allocator.rounding import rounded_sizes
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import snapshot_from_plain
from oomdoctor.units import MIB
from tests.allocator.recorded_by_heap import Act, recorded
from tests.snapshot.building import frame, hole, live, segment, snapshot

from .test_advise import HELPS, ask, flowing, save, text

MIXED: list[Act] = [("alloc", size * MIB, 0) for size in (3, 5, 6, 9, 33, 47, 60, 300, 340, 500)]


def history_of(program: list[Act], plain: Optional[Any] = None, version: str = "2.15.0") -> History:
    made = recorded(program, Settings()) if plain is None else plain
    return load_device(snapshot_from_plain(made), SnapshotSource("x", torch_version=version), 0).history


def with_frame(filename: str, program: list[Act] = HELPS) -> Any:
    plain = recorded(program, Settings())
    for entry in plain["device_traces"][0]:
        entry["frames"] = [frame("allocate", filename)]
    return plain


def test_every_key_of_the_newest_release_that_can_matter_is_tried() -> None:
    found = single_settings([history_of(MIXED)], share=1.0)
    assert {key for text in found for key in kinds(text)} == {
        "max_split_size_mb",
        "roundup_power2_divisions",
        "expandable_segments",
        "large_segment_size_mb",
        "per_process_memory_fraction",
        "garbage_collection_threshold",
    }
    pairs = combined_settings(["max_split_size_mb:64", "expandable_segments:True"], [history_of(MIXED)])
    assert {"max_split_size_mb", "max_non_split_rounding_mb"} in [kinds(text) for text in pairs]
    assert "max_split_size_mb:64,expandable_segments:True" in pairs


def test_older_releases_are_not_asked_for_what_they_do_not_have() -> None:
    found = single_settings([history_of(MIXED, version="2.1.0")], share=1.0)
    keys = {key for text in found for key in kinds(text)}
    assert keys == {"max_split_size_mb", "roundup_power2_divisions", "expandable_segments"}


def test_garbage_is_collected_under_a_fraction_that_the_program_set() -> None:
    """Before 2.10 the settings have no fraction, and the program may set one itself."""
    for version in ("2.5.0", "2.15.0"):
        found = single_settings([history_of(MIXED, version=version)], share=1.0, has_fraction=True)
        assert [text for text in found if "garbage" in text] == [
            f"garbage_collection_threshold:{threshold}" for threshold in (0.6, 0.8, 0.9)
        ]
        assert not any("fraction" in text for text in found)


def test_tables_of_divisions_round_where_the_recording_has_several_sizes() -> None:
    tables = roundup_tables([history_of(MIXED)])
    assert "[128:1,256:4]" in tables  # 300, 340 and 500 MiB
    assert "[16:1,32:2]" in tables  # 33, 47 and 60
    assert not any("4:1,8:" in table for table in tables)  # one size alone
    settings = parse_settings("roundup_power2_divisions:[128:1,256:4]", (2, 15)).settings
    assert (
        rounded_sizes(_mib(60, 300, 600), settings.roundup_power2_divisions).tolist()
        == _mib(60, 320, 600).tolist()
    )
    assert roundup_tables([history_of([("alloc", 1000, 0)])]) == tables[:2]


def _mib(*sizes: int) -> Any:
    import numpy as np

    return np.array(sizes, np.int64) * MIB


def test_large_segments_are_tried_up_to_what_they_could_hold() -> None:
    assert large_segment_values([history_of([("alloc", 30 * MIB, 0)])]) == []
    assert large_segment_values([history_of([("alloc", 5 * MIB, 0)] * 4)]) == [32]
    assert large_segment_values([history_of([("alloc", 5 * MIB, 0)] * 10)]) == [32, 64]
    # Never more than one at a time.
    assert large_segment_values([history_of([("alloc", 5 * MIB, 0), ("free", 0)] * 10)]) == []


def test_wider_roundings_come_from_differences_of_sizes() -> None:
    histories = [history_of([("alloc", size * MIB, 0) for size in (100, 150, 400)])]
    assert non_split_roundings(histories, 64) == [51, 251, 301]
    assert non_split_roundings(histories, 128) == [251]
    assert non_split_roundings([history_of(HELPS)], 64) == []


# ---- what does not go together ----


@pytest.mark.parametrize(
    ("filename", "said"),
    [
        ("/env/lib/python3.11/site-packages/vllm/device_allocator/cumem.py", "sleep mode"),
        ("/env/site-packages/torch_memory_saver/entrypoint.py", "torch_memory_saver"),
        ("/env/site-packages/vllm/distributed/device_communicators/custom_all_reduce.py", "CUDA IPC"),
        ("/env/site-packages/torch/multiprocessing/reductions.py", "CUDA IPC"),
    ],
)
def test_what_the_program_uses_besides_rules_a_setting_out(tmp_path: Path, filename: str, said: str) -> None:
    plain = with_frame(filename)
    (conflict,) = conflicts([history_of(HELPS, plain)])
    assert said in conflict.why
    path = save(tmp_path / "one.pickle", plain)
    document = ask(path, "--capacity", "140MiB")
    (device,) = document["devices"]
    assert not any("expandable" in one["alloc_conf"] for one in device["candidates"])
    assert any("expandable_segments is left out" in note and said in note for note in document["notes"])
    assert f"Expandable_segments is left out: {conflict.why}" in flowing(text(path, "--capacity", "140MiB"))


def test_ordinary_programs_rule_nothing_out() -> None:
    assert conflicts([history_of(HELPS, with_frame("/home/me/serve/memory.py"))]) == ()


def test_a_state_without_history_heeds_conflicts_too(tmp_path: Path) -> None:
    stack = [frame("malloc", "/env/site-packages/vllm/device_allocator/cumem.py")]
    plain = snapshot(
        *(segment((1 << 40) + (i << 30), live(30 * MIB, stack=stack), hole(70 * MIB)) for i in range(4))
    )
    document = ask(save(tmp_path / "one.pickle", plain))
    assert not any("expandable" in one["alloc_conf"] for one in document["devices"][0]["candidates"])
    assert any("sleep mode" in note for note in document["notes"])


def test_of_private_pools_it_is_said_what_is_taken_for_granted() -> None:
    history = history_of(HELPS)
    assert doubts("expandable_segments:True", [history]) == []
    history.recording = replace(history.recording, pools=((0, 1),))
    assert "MemPool with an allocator of its own" in doubts("expandable_segments:True", [history])[0]
    assert doubts("max_split_size_mb:64", [history]) == []


def test_keys_that_contradict_each_other_are_left_out() -> None:
    history = history_of(MIXED)
    assert accepted(["large_segment_size_mb:64,max_split_size_mb:32"], [history]) == []
    assert accepted(["large_segment_size_mb:32,max_split_size_mb:64"], [history]) != []
