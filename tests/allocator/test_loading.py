"""Which release and which settings a recording is of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from oomdoctor.allocator.agreement import agrees_with_snapshot
from oomdoctor.allocator.conservation import violations
from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.moment import moment_of
from oomdoctor.allocator.release_bounds import ReleaseBounds, bounds_of
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError, UsageError
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import read_snapshot, snapshot_from_plain
from oomdoctor.units import MIB
from tests.emulator.conftest import PYTHONS

from .recorded_by_heap import recorded
from .reference.programs import make_program
from .reference.run import Policy, run_programs, torch_version

PROGRAM = [("alloc", 700, 0), ("alloc", 5 * MIB, 0), ("alloc", 300, 0), ("free", 0), ("alloc", 600, 0)]


def of_era(plain: Any, release: tuple[int, int]) -> Any:
    """The same snapshot as an older release would have written it."""
    since: dict[str, tuple[int, int]] = {
        "pool_id": (2, 12), "user_metadata": (2, 10), "compile_context": (2, 7), "time_us": (2, 2),
    }  # fmt: skip
    for entry in plain["device_traces"][0]:
        for key, first in since.items():
            if release < first:
                entry.pop(key, None)
    if release < (2, 5):
        del plain["external_annotations"]
    if release < (2, 9):
        plain["allocator_settings"].pop("graph_capture_record_stream_reuse", None)
    if release < (2, 3):
        del plain["allocator_settings"]
    if release >= (2, 13):
        plain["allocator_settings"]["max_round_threshold"] = -1
    if release >= (2, 14):
        plain["host_segments"], plain["host_traces"] = [], []
    return plain


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ((2, 1), "2.1"),
        ((2, 2), "2.2"),
        ((2, 3), "between 2.3 and 2.4"),
        ((2, 5), "between 2.5 and 2.6"),
        ((2, 7), "between 2.7 and 2.8"),
        ((2, 9), "2.9"),
        ((2, 10), "between 2.10 and 2.11"),
        ((2, 12), "2.12"),
        ((2, 13), "2.13"),
        ((2, 14), "between 2.14 and 2.15"),
    ],
)
def test_fields_bound_the_release(written: tuple[int, int], said: str) -> None:
    found = bounds_of(snapshot_from_plain(of_era(recorded(PROGRAM, Settings()), written)))
    assert str(found) == said
    assert found.oldest <= written <= found.newest


def test_without_events_their_fields_bound_nothing() -> None:
    plain = of_era(recorded([], Settings()), (2, 12))
    assert str(bounds_of(snapshot_from_plain(plain))) == "between 2.9 and 2.12"
    segments = recorded(PROGRAM, Settings())["segments"]
    assert bounds_of(snapshot_from_plain(segments)).newest == (2, 15), "a bare list has no fields to miss"


def loaded(plain: Any, torch: Optional[tuple[int, int]] = None, **beside: Any) -> DeviceHistory:
    return load_device(snapshot_from_plain(plain), SnapshotSource("x.pickle", **beside), 0, torch)


@pytest.mark.parametrize("written", [(2, 3), (2, 4)])
def test_where_rules_differ_the_self_check_decides(written: tuple[int, int]) -> None:
    """Up to 2.3 a division of one left sizes unrounded: 700 bytes took 700."""
    conf = parse_settings("roundup_power2_divisions:1", written).settings
    plain = of_era(recorded(PROGRAM, conf, torch=written), written)
    plain["allocator_settings"]["roundup_power2_divisions"] = {str(1 << slot): 1 for slot in range(16)}
    device = loaded(plain)
    assert str(device.torch) == f"2.{written[1]}"
    assert device.history.torch == written
    assert device.history.check.matching == device.history.check.compared == 4
    assert any("its fields allow torch between 2.3 and 2.4" in note for note in device.notes)


def test_what_stands_beside_it_counts() -> None:
    plain = recorded(PROGRAM, Settings())
    assert loaded(plain).torch.basis == "derived"
    assert loaded(plain, torch_version="2.13.1+cu130").torch == ReleaseBounds(
        (2, 13), (2, 13), "recorded", "2.13.1+cu130"
    )
    assert loaded(plain, (2, 12)).torch.basis == "stated"
    newer = loaded(plain, torch_version="2.17.0")
    assert newer.history.torch == (2, 17)
    assert any("newer than 2.15" in note for note in newer.notes)
    assert loaded(plain, torch_version="a nightly build").torch.basis == "derived"


@pytest.mark.parametrize("torch", [(2, 3), (2, 13)])
def test_a_release_that_cannot_have_written_it(torch: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="has not recorded this"):
        loaded(recorded(PROGRAM, Settings()), torch)


def test_a_recording_that_begins_late_is_not_complete() -> None:
    assert loaded(recorded(PROGRAM, Settings())).is_complete
    assert not loaded(recorded(PROGRAM, Settings(), keep=2)).is_complete
    without = loaded(recorded(PROGRAM, Settings(), keep=0))
    assert not without.is_complete
    assert not without.has_events
    assert any("no history was recorded" in note for note in without.notes)


def test_a_larger_capacity_is_a_larger_device() -> None:
    beside = {"devices": [{"device": 0, "total_bytes": 24 * MIB}]}
    device = loaded(recorded(PROGRAM, Settings()), document=beside)
    assert device.conditions().total_memory == 24 * MIB
    assert device.conditions(20 * MIB).total_memory == 24 * MIB
    assert device.conditions(80 * MIB).total_memory == 80 * MIB


@pytest.mark.torch
@pytest.mark.xdist_group("allocator-reference")
@pytest.mark.parametrize("python", PYTHONS, ids=lambda p: p.rsplit("/bin/")[0].rsplit("/")[-1])
def test_recordings_of_the_real_allocator(python: str, tmp_path: Path) -> None:
    """Its release is within the bounds, every state is sound, and the end is what it wrote."""
    try:
        python = find_torch(python or sys.executable).python
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")
    version = torch_version(python)
    programs = [
        make_program("mixed", 2, 150),
        make_program("inference", 3, 150),
        make_program("everything", 6, 150),
        make_program("graphs", 7, 150),
        make_program("mixed", 4, 150).under("expandable_segments:True"),
        make_program("training", 5, 150).under("max_split_size_mb:40"),
    ]
    for outcome in run_programs(python, programs, Policy("random", seed=5), snapshots=tmp_path):
        assert outcome.error is None
        assert outcome.snapshot is not None
        snapshot = read_snapshot(outcome.snapshot)
        bounds = bounds_of(snapshot)
        assert bounds.oldest <= version <= bounds.newest
        device = load_device(snapshot, SnapshotSource(str(outcome.snapshot)), 0)
        history = device.history
        assert history.check.matching == history.check.compared > 0
        assert agrees_with_snapshot(history)
        assert device.is_complete
        for events in range(0, len(history.recording) + 1, 7):
            assert violations(history.heap_after(events)) == []
        device_sums = moment_of(history, len(history.recording)).fragmentation.device
        assert device_sums.allocated_bytes == outcome.figures["final_allocated_bytes"]
        assert (
            device_sums.allocated_bytes + device_sums.pending_bytes == outcome.figures["final_active_bytes"]
        )
        assert device_sums.reserved_bytes == outcome.figures["final_reserved_bytes"]
