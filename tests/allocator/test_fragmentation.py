"""The measures: their sums, what is stranded, what pins, how old it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oomdoctor.allocator.agreement import agrees_with_snapshot
from oomdoctor.allocator.fragmentation import Measures, fragmentation, usable
from oomdoctor.allocator.heap_layout import copied
from oomdoctor.allocator.history import History, history_of
from oomdoctor.allocator.layout import layout_of
from oomdoctor.allocator.moment import Moment, moment_of
from oomdoctor.allocator.observed import observed_sizes
from oomdoctor.allocator.requests import OP_EMPTY_CACHE
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.snapshot import snapshot_from_plain
from oomdoctor.units import MIB, format_bytes
from tests.snapshot.building import CACHE, TORCH, USER, event, hole, live, pending, segment, snapshot

from .recorded_by_heap import RELEASE, acts, run
from .test_conservation import CONFS, history

ADDS_UP = [name for name in Measures.__dataclass_fields__ if name != "largest_free_bytes"]


def of(plain: Any, conf: str = "", events: int | None = None) -> Moment:
    chosen = parse_settings(conf, RELEASE).settings
    replayed = history_of(snapshot_from_plain(plain), 0, chosen, RELEASE)
    return moment_of(replayed, len(replayed.recording) if events is None else events)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=acts(), conf=st.sampled_from(CONFS), keep=st.none() | st.integers(0, 60))
def test_everything_adds_up_after_every_event(program: Any, conf: str, keep: Any) -> None:
    replayed = history(program, conf, keep)
    observed = observed_sizes(replayed.recording, replayed.settings, replayed.torch)
    for events in range(len(replayed.recording) + 1):
        heap = replayed.heap_after(events)
        found = fragmentation(layout_of(heap), observed)
        device, stats = found.device, heap.stats[0]
        assert device.allocated_bytes + device.pending_bytes + device.free_bytes == device.reserved_bytes
        assert device.reserved_bytes == stats["reserved_bytes"]
        assert device.allocated_bytes == stats["allocated_bytes"]
        assert device.allocated_bytes + device.pending_bytes == stats["active_bytes"]
        assert device.internal_bytes == stats["active_bytes"] - stats["requested_bytes"]
        assert device.inactive_split_bytes == stats["inactive_split_bytes"]
        assert device.hole_bytes <= device.free_bytes
        assert device.stranded_bytes is not None
        assert device.stranded_bytes + device.releasable_bytes <= device.free_bytes
        for name in ADDS_UP:
            assert getattr(device, name) == sum(getattr(c.measures, name) for c in found.compartments), name
        largest = max((c.measures.largest_free_bytes for c in found.compartments), default=0)
        assert device.largest_free_bytes == largest


def may_take(size: int, request: int, limit: int, rounding: int) -> bool:
    """``get_free_block`` for one block and one request, word for word."""
    if size < request:
        return False
    if request < limit and size >= limit:
        return False
    return not (request >= limit and size >= request + rounding)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=acts(), conf=st.sampled_from(["", "max_split_size_mb:21", "max_split_size_mb:40"]))
def test_usable_is_what_some_observed_request_may_take(program: Any, conf: str) -> None:
    replayed = history(program, conf)
    observed = observed_sizes(replayed.recording, replayed.settings, replayed.torch)
    limit, rounding = replayed.settings.max_split_size, replayed.settings.max_non_split_rounding
    layout = layout_of(replayed.last)
    found = usable(layout, observed)
    for row, state, answer in zip(layout.blocks, layout.state.tolist(), found.tolist()):
        sizes = observed.get((int(row["pool"]), int(row["stream"])), np.empty(0, np.int64)).tolist()
        expected = state == 2 and any(may_take(int(row["size"]), s, limit, rounding) for s in sizes)
        assert answer == expected, (int(row["size"]), sizes)


def test_release_gives_back_what_is_releasable() -> None:
    """``empty_cache`` at the end: reserved falls by just that."""
    program = [("alloc", n * MIB + 700, 0) for n in (3, 25, 7, 60, 1, 41)]
    program += [("alloc", 3000, 0), ("free", 1), ("free", 2), ("free", 2), ("free", 3)]
    for conf in CONFS:
        heap = copied(history(program, conf).last)
        before = fragmentation(layout_of(heap)).device
        heap = run(heap, np.empty(0, np.int64), OP_EMPTY_CACHE)
        assert before.releasable_bytes > 0
        assert int(heap.stats["reserved_bytes"][0]) == before.reserved_bytes - before.releasable_bytes


def test_memory_beside_unmapped_memory_is_not_stranded() -> None:
    """What an expandable segment has free at its end grows with the next request."""
    program = [("alloc", 15 * MIB, 0)]
    moment = moment_of(history(program, "expandable_segments:True"), 2)
    (large,) = moment.fragmentation.compartments
    assert large.measures.free_bytes == 5 * MIB, "the smallest request has 15 MiB"
    assert large.measures.stranded_bytes == 0
    plain = moment_of(history([("alloc", 9 * MIB, 0)]), 2).fragmentation.device
    assert plain.free_bytes == 11 * MIB
    assert plain.stranded_bytes == 0, "9 MiB fit into 11"
    plain = moment_of(history([("alloc", 9 * MIB, 0), ("alloc", 8 * MIB, 0)]), 3).fragmentation.device
    assert plain.free_bytes == plain.stranded_bytes == 3 * MIB


EXAMPLE = snapshot(
    segment(
        0x7F0000000000,
        live(4 * MIB, 4 * MIB - 300, [TORCH, CACHE, USER]),
        hole(8 * MIB),
        live(2 * MIB, stack=[USER]),
        hole(3 * MIB // 2),
        live(9 * MIB // 2),
    ),
    segment(0x7F0010000000, hole(20 * MIB)),
    segment(0x7F0020000000, live(512, 100), hole(2 * MIB - 512), small=True),
    segment(0x7F0030000000, pending(30 * MIB), stream=0x5500),
    traces=[
        [
            event("alloc", 6 * MIB, addr=0x7F0000400000, time_us=1000),
            event("free_requested", 6 * MIB, addr=0x7F0000400000, time_us=2000),
            event("free_completed", 6 * MIB, addr=0x7F0000400000, time_us=2500),
            event("alloc", 2 * MIB, addr=0x7F0000C00000, time_us=3000, frames=[USER]),
            event("alloc", 100, addr=0x7F0020000000, time_us=5000),
        ]
    ],
)


def test_the_worked_example_of_the_documentation() -> None:
    """Each number of the page is one that comes out here."""
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "fragmentation.md").read_text()
    device = of(EXAMPLE).fragmentation.device
    shown = {
        "reserved": format_bytes(device.reserved_bytes),
        "allocated": format_bytes(device.allocated_bytes),
        "pending": format_bytes(device.pending_bytes),
        "free": format_bytes(device.free_bytes),
        "internal": format_bytes(device.internal_bytes),
        "in holes": format_bytes(device.hole_bytes),
        "largest free block": format_bytes(device.largest_free_bytes),
        "external": f"{100 * device.external:.1f} %",
        "inactive split": format_bytes(device.inactive_split_bytes),
        "releasable": format_bytes(device.releasable_bytes),
        "stranded": format_bytes(device.stranded_bytes or 0),
        "reserved over allocated": f"{device.reserved_over_allocated:.2f}",
    }
    for name, value in shown.items():
        assert f"| {name} | {value} |" in page, (name, value)


def test_compartments_stand_apart() -> None:
    found = {(c.is_small, c.stream): c.measures for c in of(EXAMPLE).fragmentation.compartments}
    assert set(found) == {(False, 0), (False, 1), (True, 0)}
    assert found[False, 0].stranded_bytes == 3 * MIB // 2, "less than the smallest request, 2 MiB"
    assert found[True, 0].stranded_bytes == 0
    assert found[False, 1].pending_bytes == 30 * MIB
    assert found[False, 1].external == 0.0
    assert found[False, 1].reserved_over_allocated is None


def test_ages_and_stacks() -> None:
    moment = of(EXAMPLE)
    blocks = moment.blocks_frame().set_index("address")
    born = blocks.loc[0x7F0000C00000]
    assert (born["birth"], born["age_events"], born["age_us"]) == (3, 1, 2000)
    older = blocks.loc[0x7F0000000000]
    assert (older["birth"], older["age_events"], older["age_us"]) == (-1, -1, -1)
    stacks = moment.history.recording.snapshot.stacks
    assert stacks[int(born["stack"])][0].name == "main"
    assert stacks[int(older["stack"])][1].name == "update"
    earlier = of(EXAMPLE, events=3)
    assert earlier.time_us == 2500
    assert (earlier.birth >= 0).sum() == 0
    assert of(EXAMPLE, events=0).time_us == -1


def test_holes_and_their_pins() -> None:
    moment = of(EXAMPLE)
    holes = moment.holes_frame().set_index("address")
    assert list(holes["block_size"]) == [8 * MIB, 3 * MIB // 2, 2 * MIB - 512]
    first = holes.loc[0x7F0000400000]
    assert (first["pins"], first["pinning_bytes"]) == (3, 4 * MIB + 2 * MIB + 9 * MIB // 2)
    segments = moment.segments_frame().set_index("address")
    assert int(segments.loc[0x7F0010000000, "free_size"]) == 20 * MIB
    assert int(segments["total_size"].sum()) == moment.fragmentation.device.reserved_bytes
    assert list(segments["live_blocks"]) == [3, 0, 1, 1]


def test_without_history_nothing_is_called_stranded() -> None:
    moment = of(snapshot(segment(0x7F0000000000, live(4 * MIB), hole(16 * MIB))))
    assert moment.fragmentation.device.stranded_bytes is None
    assert moment.fragmentation.to_pandas()["stranded_bytes"].isna().all()


def test_an_allocator_that_holds_nothing() -> None:
    moment = of(snapshot(traces=[[event("snapshot", 0, addr=0)]]))
    assert moment.fragmentation.device.reserved_bytes == 0
    assert moment.fragmentation.compartments == ()
    assert len(moment.blocks_frame()) == len(moment.segments_frame()) == len(moment.holes_frame()) == 0
    assert len(moment.fragmentation.to_pandas()) == 0


def test_a_heap_that_does_not_add_up_is_refused() -> None:
    replayed: History = history([("alloc", 5 * MIB, 0)])
    heap = replayed.heap_after(2)
    heap.stats["reserved_bytes"] += 512
    with pytest.raises(ValueError, match="reserved"):
        fragmentation(layout_of(heap))


def test_sizes_are_observed_as_they_are_rounded() -> None:
    plain = snapshot(
        segment(1 << 40, live(4 * MIB), hole(16 * MIB)),
        traces=[
            [
                event("alloc", 100, addr=1),
                event("alloc", 513, addr=2),
                event("alloc", 3 * MIB + 1, addr=3, stream=0x5500),
                event("oom", 700 * MIB + 512, addr=5),
            ]
        ],
    )
    recording = of(plain, events=0).history.recording
    found = observed_sizes(recording, parse_settings("", RELEASE).settings, RELEASE)
    assert {key: sizes.tolist() for key, sizes in found.items()} == {
        (0, 0): [512, 1024],
        (1, 0): [700 * MIB + 512],
        (1, 1): [3 * MIB + 512],
    }


def usable_of(plain: Any, conf: str) -> list[bool]:
    moment = of(plain, conf)
    recording, chosen = moment.history.recording, moment.history.settings
    return usable(moment.layout, observed_sizes(recording, chosen, RELEASE)).tolist()


def asked(*sizes: int, stream: int = 0) -> list[list[dict[str, Any]]]:
    """A trace of requests that failed, so that they say what was asked for and hold nothing."""
    return [[event("oom", size, addr=0, stream=stream) for size in sizes]]


def test_oversize_blocks_serve_oversize_requests_that_leave_little() -> None:
    """max_non_split_rounding_mb is 20 unless set."""
    whole = segment(1 << 40, hole(60 * MIB))
    conf = "max_split_size_mb:30"
    assert usable_of(snapshot(whole, traces=asked(41 * MIB)), conf) == [True]
    assert usable_of(snapshot(whole, traces=asked(40 * MIB)), conf) == [False], "20 MiB would be left"
    assert usable_of(snapshot(whole, traces=asked(29 * MIB)), conf) == [False]
    assert usable_of(snapshot(whole, traces=asked(29 * MIB)), "") == [True]


def test_expandable_memory_serves_nobody_once_switched_off() -> None:
    left = segment(1 << 40, live(4 * MIB), hole(16 * MIB), expandable=True)
    plain = snapshot(left, traces=asked(2 * MIB))
    assert usable_of(plain, "") == [False, False]
    assert usable_of(plain, "expandable_segments:True") == [False, True]


def test_a_segment_that_can_go_back_is_not_stranded() -> None:
    plain = snapshot(
        segment(1 << 40, hole(20 * MIB), stream=0x5500),
        segment(1 << 41, live(4 * MIB), hole(16 * MIB), stream=0x5500),
        segment(1 << 42, live(7 * MIB), hole(51 * MIB), live(2 * MIB), stream=0x7700, expandable=True),
        traces=asked(2 * MIB),
    )
    device = of(plain).fragmentation.device
    # Of the hole from 7 to 58 MiB the one handle that lies inside it, from 20 to 40.
    assert device.releasable_bytes == 20 * MIB + 20 * MIB
    assert device.stranded_bytes == 16 * MIB + 51 * MIB - 20 * MIB


def test_a_private_pool_in_use_gives_nothing_back() -> None:
    plain = snapshot(segment(1 << 40, hole(20 * MIB), pool=(0, 1)), traces=asked(2 * MIB))
    device = of(plain).fragmentation.device
    assert (device.releasable_bytes, device.stranded_bytes) == (0, 20 * MIB)


def test_the_neighbours_alone_pin_a_hole_of_an_expandable_segment() -> None:
    blocks = (live(2 * MIB), hole(4 * MIB), live(3 * MIB), live(5 * MIB), hole(6 * MIB))
    moment = of(snapshot(segment(1 << 40, *blocks, expandable=True)))
    holes = moment.holes_frame()
    assert list(holes["pins"]) == [2, 1]
    assert list(holes["pinning_bytes"]) == [5 * MIB, 5 * MIB]


def test_blocks_outside_of_every_segment_are_left_out() -> None:
    """As in a recording that was cut by hand."""
    plain = snapshot(
        segment(1 << 40, live(4 * MIB), hole(16 * MIB)),
        traces=[[event("alloc", 3 * MIB, addr=1 << 45)]],
    )
    moment = of(plain)
    assert moment.layout.phantoms == 3 * MIB
    assert moment.history.check.conflicts == 1
    assert moment.fragmentation.device.reserved_bytes == 20 * MIB
    assert not agrees_with_snapshot(moment.history)
