"""Tables as DataFrames."""

from __future__ import annotations

import numpy as np
import pandas as pd

from oomdoctor.snapshot import snapshot_from_plain
from tests.snapshot.building import event, ordinary, snapshot


def test_events() -> None:
    plain = ordinary()
    plain["device_traces"][0][1]["user_metadata"] = "prefill"
    trace = snapshot_from_plain(plain).traces[0]
    found = trace.to_pandas()
    assert len(found) == len(trace)
    assert found["action"].tolist()[:2] == ["segment_alloc", "alloc"]
    assert found["address"].tolist() == trace.address.tolist()
    assert found["pool_first"].tolist() == [0] * 6
    assert found["label"].dropna().tolist() == ["prefill"]
    assert found["label"].isna().sum() == 5
    assert isinstance(found["action"].dtype, pd.CategoricalDtype)
    assert np.shares_memory(found["time_us"].to_numpy(), trace.time_us)


def test_one_text_in_two_columns() -> None:
    plain = snapshot(traces=[[event("alloc", 1, user_metadata="0/0", compile_context="0/0")]])
    found = snapshot_from_plain(plain).traces[0].to_pandas()
    assert found["label"].tolist() == found["compile_context"].tolist() == ["0/0"]


def test_segments_and_blocks() -> None:
    found = snapshot_from_plain(ordinary())
    segments, blocks = found.segments.to_pandas(), found.blocks.to_pandas()
    assert segments["first_block"].tolist() == [0, 4]
    assert segments["is_small"].tolist() == [False, True]
    assert blocks["state"].tolist()[:2] == ["active_allocated", "inactive"]
    sums = blocks.groupby("segment")["block_size"].sum()
    assert sums.tolist() == segments["total_size"].tolist()


def test_tables_without_rows() -> None:
    found = snapshot_from_plain(snapshot())
    assert len(found.traces[0].to_pandas()) == 0
    assert len(found.segments.to_pandas()) == len(found.blocks.to_pandas()) == 0
    assert "pool_first" in found.segments.to_pandas()


def test_taking_events() -> None:
    plain = snapshot(traces=[[event("alloc", i, user_metadata=str(i)) for i in range(5)]])
    trace = snapshot_from_plain(plain).traces[0]
    taken = trace.take([3, 1])
    assert taken.entry_size.tolist() == [3, 1]
    assert [taken.labels[i] for i in taken.label] == ["3", "1"]
    assert len(taken.forward) == 2
    assert trace.take(trace.entry_size > 2).entry_size.tolist() == [3, 4]
