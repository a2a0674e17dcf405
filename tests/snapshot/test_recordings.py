"""Real recordings, where a collection of them lies beside the repository."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from oomdoctor.diagnosis.consistency import disagreements
from oomdoctor.diagnosis.state import device_state
from oomdoctor.snapshot import read_snapshot
from oomdoctor.snapshot.container import embedded_pickle, kind_of, read_bytes
from oomdoctor.snapshot.limits import DEFAULT_LIMITS, Limits
from oomdoctor.snapshot.plain_pickle import load_plain_pickle
from tests.snapshot.same import differences

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "snapshots"
FILES = sorted(FOLDER.glob("*.gz")) if FOLDER.is_dir() else []
pytestmark = pytest.mark.skipif(not FILES, reason="no collection of recordings beside the repository")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[:3])
def test_reads_and_conserves(path: Path) -> None:
    snapshot = read_snapshot(path)
    assert len(snapshot.segments)
    assert snapshot.blocks.block_size.sum() == snapshot.segments.total_size.sum()
    for device in snapshot.devices():
        assert disagreements(device_state(snapshot, device), {}) == []
    for trace in snapshot.traces:
        known = trace.time_us[trace.time_us >= 0]
        assert (np.diff(known) >= 0).all()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[:3])
def test_both_readers_agree(path: Path) -> None:
    found = read_snapshot(path, Limits(streamed_bytes=0))
    assert differences(found, read_snapshot(path)) == []
    assert found.notes == ()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[:3])
def test_decodes_as_pickle_does_in_every_protocol(path: Path) -> None:
    data = read_bytes(path, DEFAULT_LIMITS)
    kind = kind_of(data, "x")
    if kind == "json":
        pytest.skip("not a pickle")
    plain = load_plain_pickle(embedded_pickle(data, "x") if kind == "html" else data, "x")
    for protocol in (2, 3, 4, 5):
        assert load_plain_pickle(pickle.dumps(plain, protocol), "x") == plain
