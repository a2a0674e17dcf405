"""Where expandable segments meet max_split_size_mb and garbage collection."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oomdoctor.allocator.replay import recorded_outcome
from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import MIB

from .inference.compare import final_state_differs, history_at
from .reference.program import Program
from .reference.run import run_programs, torch_version

SETTINGS = "expandable_segments:True,max_split_size_mb:64"


@pytest.mark.torch
def test_a_small_request_gets_a_block_too_large_to_be_split(tmp_path: Path) -> None:
    """Best fit refuses it, and the search for a segment to grow finds it, with nothing left to map."""
    try:
        find_torch(sys.executable)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")
    version = torch_version(sys.executable)
    program = Program(
        (("alloc", 1, 70 * MIB, 0), ("free", 1), ("alloc", 2, 3 * MIB // 2, 0), ("alloc", 3, 80 * MIB, 0)),
        SETTINGS,
    )
    (ran,) = run_programs(sys.executable, [program], snapshots=tmp_path, max_entries=1000)
    assert ran.error is None
    assert ran.snapshot is not None
    history = history_at(ran.snapshot, SETTINGS, version)
    assert history.check.matching == history.check.compared == 3
    assert final_state_differs(history) == ""


@pytest.mark.torch
def test_what_is_unmapped_was_not_collected_as_garbage(tmp_path: Path) -> None:
    """Only a retry gives back parts of expandable segments."""
    try:
        find_torch(sys.executable)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")
    settings = "expandable_segments:True,garbage_collection_threshold:0.6"
    program = Program(
        (("alloc", 1, 60 * MIB, 0), ("free", 1), ("alloc", 2, 60 * MIB, 1)), settings, capacity=100 * MIB
    )
    (ran,) = run_programs(sys.executable, [program], snapshots=tmp_path, max_entries=1000, stacks=True)
    assert ran.snapshot is not None
    history = history_at(ran.snapshot, settings, torch_version(sys.executable))
    assert recorded_outcome(history).num_alloc_retries == ran.figures["num_alloc_retries"] == 1
