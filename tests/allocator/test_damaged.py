"""Recordings that contradict themselves: the replay counts that, stays sound, and ends."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.conservation import violations
from oomdoctor.allocator.contradictions import UsedAddresses, segments_contradict
from oomdoctor.allocator.history import History, history_of, table_of
from oomdoctor.allocator.replay import replay, requests_of
from oomdoctor.allocator.requests import OP_EMPTY_CACHE, Requests
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.snapshot import snapshot_from_plain
from tests.snapshot.building import event, snapshot

from .recorded_by_heap import RELEASE, acts, recorded
from .test_conservation import CONFS

Json = dict[str, Any]
MIB = 1 << 20
BASE = 1 << 44


def history(made: Json, conf: str = "") -> History:
    return history_of(snapshot_from_plain(made), 0, parse_settings(conf, RELEASE).settings, RELEASE)


def of_events(*rows: tuple[str, int, int]) -> History:
    """(action, MiB from the base, MiB)"""
    trace = [
        event(action, size * MIB, addr=BASE + at * MIB, time_us=1000 + number)
        for number, (action, at, size) in enumerate(rows)
    ]
    return history(snapshot(traces=[trace]))


@pytest.mark.parametrize(
    "rows",
    [
        [("segment_alloc", 0, 20), ("segment_alloc", 10, 20)],
        [("segment_alloc", 0, 20), ("segment_alloc", 0, 20)],
        [("segment_alloc", 10, 20), ("segment_alloc", 0, 40)],
        [("segment_alloc", 0, 20), ("segment_map", 10, 20)],
        [("segment_map", 0, 20), ("segment_map", 20, 20), ("segment_alloc", 10, 2)],
        [("segment_map", 0, 20), ("segment_map", 40, 20), ("segment_map", 30, 20)],
        [("segment_alloc", 0, 20), ("alloc", 0, 20), ("segment_free", 0, 20), ("segment_alloc", 0, 20)],
        [("segment_map", 0, 20), ("segment_unmap", 10, 20)],
        [("segment_alloc", 0, 0)],
    ],
)
def test_segments_that_cannot_be_are_counted(rows: list[tuple[str, int, int]]) -> None:
    damaged = of_events(*rows)
    assert damaged.check.conflicts >= 1
    for events in range(len(rows) + 1):
        assert violations(damaged.heap_after(events)) == []


def test_segments_that_can_be_are_no_contradiction() -> None:
    sound = of_events(
        ("segment_map", 0, 20), ("segment_map", 20, 20), ("segment_unmap", 10, 20), ("segment_map", 10, 20),
        ("segment_alloc", 1000, 20), ("alloc", 1000, 20), ("free_requested", 1000, 20),
        ("free_completed", 1000, 20), ("segment_free", 1000, 20), ("segment_alloc", 1000, 2),
        ("segment_alloc", 1002, 2),
    )  # fmt: skip
    assert not segments_contradict(sound.recording, sound.initial.pieces)
    assert sound.check.conflicts == 0


def test_addresses_used_before_are_known() -> None:
    used = UsedAddresses([(100, 200), (300, 400)])
    assert not used.add(200, 300)
    assert used.add(150, 350)
    assert not used.add(400, 500)
    assert not used.add(50, 100)
    assert used.add(499, 600)
    assert not used.add(600, 700)


@st.composite
def damages(draw: st.DrawFn, length: int) -> list[tuple[str, int, int]]:
    """What is done to a trace: the kind, where, and a number for it."""
    one = st.tuples(
        st.sampled_from(["drop", "repeat", "swap", "address", "size", "stream", "action"]),
        st.integers(0, max(length - 1, 0)),
        st.integers(0, 1000),
    )
    return draw(st.lists(one, min_size=1, max_size=8))


def damaged(made: Json, plan: list[tuple[str, int, int]]) -> Json:
    made = copy.deepcopy(made)
    trace = made["device_traces"][0]
    for kind, at, number in plan:
        if not trace:
            break
        row, other = trace[at % len(trace)], trace[number % len(trace)]
        if kind == "drop":
            trace.remove(row)
        elif kind == "repeat":
            trace.insert(number % len(trace), dict(row))
        elif kind == "swap":
            row["addr"], other["addr"] = other["addr"], row["addr"]
        elif kind == "address":
            row["addr"] += (number - 500) * 512
        elif kind == "size":
            row["size"] = number * 65536
        elif kind == "stream":
            row["stream"] = other["stream"]
        else:
            row["action"] = other["action"]
    for number, row in enumerate(trace):
        row["time_us"] = 1000 + number
    return made


def test_a_range_that_is_no_whole_number_of_handles_is_mapped_as_far_as_it_goes() -> None:
    conf = "expandable_segments:True"
    program = [("alloc", 20 * MIB, 0), ("alloc", 1, 0), ("alloc", MIB + 1, 0)]
    made = recorded(program, parse_settings(conf, RELEASE).settings, keep=None)
    replayed = history(damaged(made, [("swap", 2, 4), ("address", 0, 0)]), conf)
    done = replay(replayed, parse_settings(conf, RELEASE).settings, Conditions(), stops_at_oom=False)
    assert violations(done.heap) == []


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), program=acts(), conf=st.sampled_from(CONFS), keep=st.none() | st.integers(0, 60))
def test_damaged_recordings_are_replayed_soundly(
    data: st.DataObject, program: Any, conf: str, keep: Any
) -> None:
    made = recorded(program, parse_settings(conf, RELEASE).settings, keep=keep)
    made = damaged(made, data.draw(damages(len(made["device_traces"][0]))))
    replayed = history(made, conf)
    for events in range(len(replayed.recording) + 1):
        assert violations(replayed.heap_after(events)) == [], f"after {events} events"
    for other in CONFS:
        chosen = parse_settings(other, RELEASE).settings
        for capacity in (None, int(replayed.last.stats["peak_reserved_bytes"][0])):
            done = replay(replayed, chosen, Conditions(capacity=capacity), stops_at_oom=False)
            assert violations(done.heap) == [], (other, capacity)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=acts(), conf=st.sampled_from(CONFS), keep=st.integers(0, 60), share=st.floats(0.3, 1.2))
def test_what_if_from_a_late_start_is_sound(program: Any, conf: str, keep: int, share: float) -> None:
    """The start state was made under other settings: what is split there would be whole under these."""
    late = history(recorded(program, parse_settings(conf, RELEASE).settings, keep=keep), conf)
    peak = int(late.last.stats["peak_reserved_bytes"][0])
    for other in (*CONFS, "max_split_size_mb:21", "max_split_size_mb:21,garbage_collection_threshold:0.5"):
        chosen = parse_settings(other, RELEASE).settings
        done = replay(late, chosen, Conditions(capacity=int(share * peak)), stops_at_oom=False)
        assert violations(done.heap) == [], other


@pytest.mark.parametrize(("asked", "keep"), [(80, 2), (45, 1)])
def test_a_block_split_under_other_settings_is_not_released(asked: int, keep: int) -> None:
    """max_split_size_mb would never have split the 100 MiB; the start state has them split."""
    program = [("alloc", 100 * MIB, 0), ("free", 0), ("alloc", 30 * MIB, 0), ("alloc", asked * MIB, 0)]
    late = history(recorded(program, parse_settings("", RELEASE).settings, keep=keep))
    reserved = int(late.heap_after(0).stats["reserved_bytes"][0])
    assert [row["size"] // MIB for row in table_of(late.heap_after(0))] == [30, 70]
    chosen = parse_settings("max_split_size_mb:21", RELEASE).settings
    done = replay(late, chosen, Conditions(capacity=reserved), stops_at_oom=False)
    assert violations(done.heap) == []
    assert done.outcome.num_ooms == 1


def test_a_recorded_address_still_in_use_is_not_handed_out_again() -> None:
    """The recording gave its first segment back in a retry and got its address again; the replay keeps it."""
    rows = [("segment_alloc", 0, 20), ("alloc", 0, 20), ("free_requested", 0, 20), ("free_completed", 0, 20)]
    rows.append(("segment_free", 0, 20))
    for at in (100, 0, 200):
        rows += [("segment_alloc", at, 20), ("alloc", at, 20)]
    asked = of_events(*rows)
    chosen = parse_settings("", RELEASE).settings
    requests = requests_of(asked)
    # Without the segment_free nothing says empty_cache: as if the replay had had no need to release it.
    kept = np.flatnonzero(requests.op != OP_EMPTY_CACHE)
    requests = Requests(*(column[kept] for column in requests))
    done = replay(asked, chosen, Conditions(), requests=requests)
    assert violations(done.heap) == []
    assert done.outcome.segments_allocated == 3


def test_events_of_one_time_that_changed_places_are_put_right() -> None:
    """Sorting by time leaves them as they stand: the free would complete before it was asked for."""
    program = [("alloc", 5 * MIB, 0), ("free", 0), ("alloc", 7 * MIB, 0), ("free", 0), ("alloc", 900, 0)]
    whole = recorded(program, parse_settings("", RELEASE).settings)
    swapped = copy.deepcopy(whole)
    trace = swapped["device_traces"][0]
    for row in trace:
        row["time_us"] = 1000
    for at, row in enumerate(trace[:-1]):
        if row["action"] == "free_requested":
            trace[at], trace[at + 1] = trace[at + 1], row
    trace[0], trace[1] = trace[1], trace[0]
    trace[-1]["time_us"] = 2000
    trace.insert(0, trace.pop())  # out of order: it is sorted
    right, put = history(whole), history(swapped)
    assert put.recording.events.action.tolist() == right.recording.events.action.tolist()
    assert requests_of(put).op.tolist() == requests_of(right).op.tolist()
