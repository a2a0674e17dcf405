"""Where max_split_size_mb and expandable segments meet."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

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
