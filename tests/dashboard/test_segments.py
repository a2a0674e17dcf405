"""The memory map: its bytes are those of inspect --json, its boxes lie where they can, what pins a hole."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oomdoctor_dashboard.figures.segments import height_of, segment_figure
from oomdoctor_dashboard.holes import hole_details
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.map_colours import BY, kinds_of, ranked_places
from oomdoctor_dashboard.pages import segments as page
from oomdoctor_dashboard.segment_map import (
    ALLOCATED,
    FREE,
    HOLE,
    MOST_ROWS,
    PENDING,
    PIXELS,
    STATES,
    Filter,
    SegmentMap,
    bounds,
    row_bytes_for,
    segment_map,
    state_of,
)
from oomdoctor_dashboard.segment_panel import panel, row_at, summary
from oomdoctor_dashboard.segment_words import box_lines
from oomdoctor_dashboard.told import Told
from oomdoctor_dashboard.view import DEFAULT, changed, with_options

from oomdoctor.allocator.moment import Moment, moment_of
from oomdoctor.reporters.inspect_json import document
from oomdoctor.units import MIB, format_bytes
from tests.allocator.recorded_by_heap import acts
from tests.allocator.test_conservation import CONFS, history
from tests.allocator.test_fragmentation import of
from tests.snapshot.building import CACHE, USER, hole, live, pending, segment, snapshot

RUN = Path(__file__).parents[2] / "traces" / "llama-4-layers-two-gpus"
BASE = 1 << 40


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def loaded(library: Library) -> Loaded:
    (item,) = library.add(str(RUN))
    return library.loaded(item.key, 0)


def opened(path: Path, plain: Any) -> Loaded:
    path.write_bytes(pickle.dumps(plain))
    library = Library()
    (item,) = library.add(str(path))
    return library.loaded(item.key, 0)


def bytes_by_state(drawn: SegmentMap) -> dict[int, int]:
    return {state: int(drawn.bytes[drawn.state == state].sum()) for state in (ALLOCATED, PENDING, HOLE, FREE)}


def figures_of(moment: Moment) -> dict[int, int]:
    device = moment.fragmentation.device
    return {
        ALLOCATED: device.allocated_bytes,
        PENDING: device.pending_bytes,
        HOLE: device.hole_bytes,
        FREE: device.free_bytes - device.hole_bytes,
    }


def check_geometry(drawn: SegmentMap) -> None:
    """Boxes lie in their lines and in their segments, without overlap; headings have lines of their own."""
    assert (drawn.bytes > 0).all()
    assert (drawn.start >= 0).all()
    assert (drawn.start + drawn.bytes <= drawn.line_bytes).all()
    assert (drawn.line < drawn.lines).all()
    assert not set(drawn.line.tolist()) & {group.line for group in drawn.groups}
    order = np.lexsort((drawn.start, drawn.line))
    line, start, size = drawn.line[order], drawn.start[order], drawn.bytes[order]
    same = line[1:] == line[:-1]
    assert (start[1:][same] >= (start + size)[:-1][same]).all()
    starts, sizes = bounds(drawn.moment.layout)
    parts = [
        (part, number)
        for number in drawn.segment.tolist()
        for part in drawn.where(int(starts[number]), int(sizes[number]))
    ]
    assert sum(high - low for (_, low, high), _ in parts) == int(sizes[drawn.segment].sum())
    at = drawn.moment.layout.segment[drawn.block]
    for (line_, low, high), number in parts:
        mine = (at == number) & (drawn.line == line_)
        assert int(drawn.bytes[mine].sum()) == high - low, "a segment is tiled by its boxes"
        assert int(drawn.start[mine].min()) == low
        assert int((drawn.start + drawn.bytes)[mine].max()) == high


# ---- bytes ----


@pytest.mark.parametrize("event", [0, 1, 97, 4000, 7601, 7799, 7812, None])
def test_boxes_sum_to_the_state_of_inspect(loaded: Loaded, event: Any) -> None:
    (device,) = document([loaded.inspection(event)])["devices"]
    drawn = segment_map(loaded.moment(event))
    state = device["state"]
    found = bytes_by_state(drawn)
    assert found[ALLOCATED] == state["allocated_bytes"]
    assert found[PENDING] == state["pending_bytes"]
    assert found[HOLE] == state["hole_bytes"]
    assert found[HOLE] + found[FREE] == state["free_bytes"]
    assert sum(found.values()) == state["reserved_bytes"]
    assert sum(group.bytes for group in drawn.groups) == state["reserved_bytes"]
    assert sum(group.segments for group in drawn.groups) == state["segments"]
    check_geometry(drawn)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    program=acts(80),
    conf=st.sampled_from(CONFS),
    most=st.sampled_from([1, 5, 40, 4000]),
    row=st.sampled_from([None, 3 * MIB, 32 * MIB]),
    at=st.floats(0, 1),
    seen=st.sampled_from([None, (0, MIB), (MIB + 512, MIB + 90_000), (2 * MIB, 40 * MIB)]),
)
def test_nothing_is_lost_or_drawn_twice(
    program: Any, conf: str, most: int, row: Any, at: float, seen: Any
) -> None:
    replayed = history(program, conf, None)
    moment = moment_of(replayed, int(at * len(replayed.recording)))
    drawn = segment_map(moment, row_bytes=row, most_boxes=most, seen=seen)
    assert bytes_by_state(drawn) == figures_of(moment)
    check_geometry(drawn)
    # Whatever is joined: as many pieces as the same map has without joining.
    whole = segment_map(moment, row_bytes=drawn.row_bytes, most_boxes=1 << 40)
    assert int(drawn.count.sum()) == int(whole.count.sum()) >= len(moment.layout.blocks)
    assert whole.lines == drawn.lines


def test_what_is_below_a_pixel_is_one_box_for_each_state() -> None:
    small = [make(512) for _ in range(400) for make in (live, hole)]
    moment = of(snapshot(segment(BASE, *small, live(20 * MIB - 800 * 512))))
    drawn = segment_map(moment, row_bytes=24 * MIB)
    assert len(drawn) < 100
    assert int(drawn.count.sum()) == 801
    assert int(drawn.count.max()) > 10
    assert bytes_by_state(drawn) == figures_of(moment)
    box = int(drawn.count.argmax())
    assert box_lines(drawn, box)[0].startswith(f"{drawn.count[box]} ")
    assert format_bytes(int(drawn.bytes[box])) in box_lines(drawn, box)[0]
    check_geometry(drawn)
    # Alone and by itself larger, so that a block is seen.
    close = segment_map(
        of(snapshot(segment(BASE, live(512), hole(2 * MIB - 512), small=True))), Filter(segment=BASE)
    )
    assert sorted(close.count.tolist()) == [1] * len(close)
    assert close.row_bytes <= 512 * PIXELS


def test_what_is_looked_at_nearer_comes_apart() -> None:
    small = [make(512) for _ in range(400) for make in (live, hole)]
    moment = of(snapshot(segment(BASE, *small, live(20 * MIB - 800 * 512))))
    low, high = 100 * 512, 300 * 512
    drawn = segment_map(moment, row_bytes=24 * MIB, seen=(low, high))
    inside = (drawn.start >= low) & (drawn.start + drawn.bytes <= high)
    assert drawn.count[inside].tolist() == [1] * 200
    assert int(drawn.count[~inside].max()) > 10, "elsewhere they are joined"
    assert bytes_by_state(drawn) == figures_of(moment)
    check_geometry(drawn)
    elsewhere = segment_map(moment, row_bytes=12 * MIB, seen=(low, high))
    assert len(elsewhere) > 200
    fewer = segment_map(moment, row_bytes=24 * MIB, seen=(low, high), most_boxes=40)
    assert len(fewer) <= 80
    check_geometry(fewer)
    other = segment_map(moment, seen=(low, high))
    assert int(other.count.max()) > 10, "where lines are as long as they come, nobody knows what is seen"


def test_more_boxes_than_a_browser_takes_are_joined_more() -> None:
    segments = [
        segment(BASE + i * 64 * MIB, *[make(64 << 10) for _ in range(160) for make in (live, hole)])
        for i in range(20)
    ]
    moment = of(snapshot(*segments))
    drawn = segment_map(moment, most_boxes=500)
    assert len(drawn) <= 500
    assert bytes_by_state(drawn) == figures_of(moment)
    check_geometry(drawn)
    assert len(segment_map(moment, most_boxes=1 << 40)) == 6400


# ---- where things lie ----


def test_long_segments_go_on_and_short_ones_share_a_row() -> None:
    moment = of(
        snapshot(
            segment(BASE, live(50 * MIB)),
            segment(BASE + 100 * MIB, live(20 * MIB)),
            segment(BASE + 200 * MIB, live(10 * MIB), hole(10 * MIB)),
            *(segment(BASE + (300 + 10 * i) * MIB, live(2 * MIB), small=True) for i in range(4)),
            segment(BASE + 400 * MIB, live(20 * MIB), pool=(0, 7)),
        )
    )
    drawn = segment_map(moment, row_bytes=24 * MIB)
    assert [(group.name, group.line, group.segments) for group in drawn.groups] == [
        ("large pool", 0, 3), ("small pool", 5, 4), ("private 0.7", 7, 1),
    ]  # fmt: skip
    assert drawn.lines == 9
    assert drawn.where(BASE, 50 * MIB) == [(1, 0, 24 * MIB), (2, 0, 24 * MIB), (3, 0, 2 * MIB)]
    # Behind the end of the long one there is room for one of 20 MiB.
    ((line, low, high),) = drawn.where(BASE + 100 * MIB, 20 * MIB)
    assert line == 3
    assert 2 * MIB < low < 3 * MIB
    assert high - low == 20 * MIB
    assert drawn.where(BASE + 210 * MIB, 10 * MIB) == [(4, 10 * MIB, 20 * MIB)]
    lines = {drawn.where(BASE + (300 + 10 * i) * MIB, 1)[0][0] for i in range(4)}
    assert lines == {6}
    assert drawn.where(BASE + 90 * MIB, 5) == [], "nothing is reserved there"
    check_geometry(drawn)


@pytest.mark.parametrize(("count", "size"), [(1, 20 << 30), (2000, 2 * MIB), (600, 20 * MIB), (3, 512 * MIB)])
def test_any_device_fits_a_screen(count: int, size: int) -> None:
    small = size == 2 * MIB
    segments = [
        segment(BASE + i * 2 * size, live(size // 2), hole(size // 2), small=small) for i in range(count)
    ]
    moment = of(snapshot(*segments))
    drawn = segment_map(moment)
    assert 3 <= drawn.lines <= MOST_ROWS
    assert drawn.row_bytes == row_bytes_for(moment.layout, Filter())
    assert bytes_by_state(drawn) == figures_of(moment)
    check_geometry(drawn)


def test_a_row_of_small_segments_is_full() -> None:
    segments = [segment(BASE + i * 4 * MIB, live(2 * MIB), small=True) for i in range(8)]
    drawn = segment_map(of(snapshot(*segments)), row_bytes=8 * MIB)
    assert drawn.lines == 3, "four of 2 MiB in a row of 8, and a heading"


def test_filters() -> None:
    moment = of(
        snapshot(
            segment(BASE, live(20 * MIB)),
            segment(BASE + 100 * MIB, live(10 * MIB), hole(10 * MIB), stream=0x55),
            segment(BASE + 200 * MIB, live(MIB), hole(MIB), small=True),
            segment(BASE + 300 * MIB, pending(20 * MIB), pool=(0, 7)),
        )
    )

    def shown(**only: Any) -> list[int]:
        drawn = segment_map(moment, Filter(**only))
        check_geometry(drawn)
        return [(int(a) - BASE) // (100 * MIB) for a in bounds(moment.layout)[0][drawn.segment]]

    assert shown() == [0, 1, 2, 3]
    assert shown(pool="large") == [0, 1]
    assert shown(pool="small") == [2]
    assert shown(pool="private") == [3]
    assert shown(stream=1) == [1]
    assert shown(only_holes=True) == [1, 2]
    assert shown(segment=BASE + 200 * MIB) == [2]
    assert shown(segment=BASE + 1) == []
    assert shown(pool="small", stream=1) == []


# ---- colours ----


@pytest.mark.parametrize("by", BY)
def test_colours_keep_the_bytes(loaded: Loaded, by: str) -> None:
    moment = loaded.moment(7800)
    ranking = ranked_places(moment) if by == "stack" else []
    kind, names = kinds_of(moment, by, ranking)
    drawn = segment_map(moment, kind=kind)
    assert bytes_by_state(drawn) == figures_of(moment)
    assert 0 <= int(drawn.kind.min()) <= int(drawn.kind.max()) < len(names)
    live = moment.layout.live
    for number in range(len(names)):
        mine = live & (state_of(moment.layout) == ALLOCATED) & (kind == number)
        expected = int(moment.layout.blocks["size"][mine].sum())
        assert int(drawn.bytes[(drawn.state == ALLOCATED) & (drawn.kind == number)].sum()) == expected


def test_age_and_stack_are_what_they_say(loaded: Loaded) -> None:
    moment = loaded.moment(7800)
    kind, names = kinds_of(moment, "age", [])
    young = moment.layout.live & (moment.age_events < 100) & (moment.age_events >= 0)
    assert set(kind[young].tolist()) == {0}
    assert names[0][0] == "below 100 events"
    lasting = int(moment.birth[moment.age_events > 200][0])
    again = loaded.moment(lasting + 101)
    kind, _ = kinds_of(again, "age", [])
    assert set(kind[again.age_events == 100].tolist()) == {1}, "not below 100"
    old = of(snapshot(segment(BASE, live(20 * MIB))))
    kind, names = kinds_of(old, "age", [])
    assert names[int(kind[0])][0] == "older than the trace"
    two = of(snapshot(segment(BASE, live(12 * MIB, stack=[CACHE]), live(8 * MIB, stack=[USER]))))
    assert ranked_places(two) == ["update cache_utils.py:88", "main infer.py:7"]
    kind, _ = kinds_of(two, "stack", ["main infer.py:7"])
    assert kind.tolist() == [1, 0]


# ---- holes ----


@pytest.mark.parametrize("event", [97, 4000, 7800, None])
def test_pins_are_those_of_inspect(loaded: Loaded, event: Any) -> None:
    (device,) = document([loaded.inspection(event)])["devices"]
    moment = loaded.moment(event)
    assert len(device["holes"]) == moment.fragmentation.device.holes > 0
    for said in device["holes"]:
        row = row_at(moment, said["address"])
        assert row is not None
        found = hole_details(moment, row)
        assert (found.address, found.bytes) == (said["address"], said["bytes"])
        assert (found.pins, found.pinning_bytes) == (said["pinned_by_blocks"], said["pinned_by_bytes"])
        assert [one.address for one in found.shown] == said["pinned_by"]
        text = words(panel(moment, page.lives_of(loaded), said["address"], alone=False))
        assert f"Hole of {format_bytes(said['bytes'])}" in text
        assert format_bytes(said["pinned_by_bytes"]) in text


def test_what_would_come_free() -> None:
    blocks = (live(2 * MIB), hole(4 * MIB), live(3 * MIB), hole(1 * MIB), live(10 * MIB))
    moment = of(
        snapshot(segment(BASE, *blocks), segment(BASE + 64 * MIB, hole(5 * MIB), live(MIB), hole(14 * MIB)))
    )
    first, only = hole_details(moment, 1), hole_details(moment, 5)
    assert [one.joined_bytes // MIB for one in first.shown] == [6, 8, 11]
    assert not any(one.frees_segment for one in first.shown)
    ((joined, frees),) = [(one.joined_bytes, one.frees_segment) for one in only.shown]
    assert (joined, frees) == (20 * MIB, True)
    with pytest.raises(KeyError):
        hole_details(moment, 0)
    expandable = of(
        snapshot(segment(BASE, *[live(2 * MIB), hole(4 * MIB), live(3 * MIB), live(MIB)], expandable=True))
    )
    beside = hole_details(expandable, 1)
    assert [one.block for one in beside.shown] == [0, 2]
    assert beside.expandable


# ---- figure ----


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figure(loaded: Loaded, theme: str) -> None:
    moment = loaded.moment(7800)
    drawn = segment_map(moment)
    hole_row = int(np.flatnonzero(moment.layout.in_hole)[0])
    where = int(moment.layout.blocks["ptr"][hole_row]), int(moment.layout.blocks["size"][hole_row])
    figure = go.Figure(segment_figure(drawn, theme, selected=where, touched=(1, 5)))
    looks = figure.data
    paint = figure.layout.meta["paint"]
    line, low, high = (np.array(paint[key]) for key in ("line", "low", "high"))
    assert line.tolist() == drawn.line.tolist()
    assert low.tolist() == drawn.start.tolist()
    assert (high - low).tolist() == drawn.bytes.tolist()
    assert int((high - low).sum()) == moment.fragmentation.device.reserved_bytes
    assert [shape.name for shape in figure.layout.shapes] == ["selected"]
    fills = [paint["looks"][look][0] for look in paint["look"]]
    for state, name in enumerate(STATES):
        mine = {fill for fill, one in zip(fills, drawn.state.tolist()) if one == state}
        (look,) = (look for look in looks if look.name.startswith(name + " "))
        assert look.showlegend, "also where there is none"
        assert mine <= {look.fillcolor}
        assert bool(mine) == (not look.name.endswith(" 0 bytes"))
    widths = [right - left for _, left, right in paint["outlines"]]
    assert sum(widths) == moment.fragmentation.device.reserved_bytes
    assert format_bytes(moment.fragmentation.device.hole_bytes) in looks[2].name
    assert figure.layout.height == height_of(drawn.lines, 1), "a row for the four states"
    assert len(figure.to_json()) < 200_000
    texts = [f"box {i}" for i in range(len(drawn))]
    told = go.Figure(segment_figure(drawn, theme, hover=texts))
    assert {trace.type for trace in told.data} == {"bar"}
    assert sum(float(np.sum(trace.x)) for trace in told.data) == moment.fragmentation.device.reserved_bytes
    assert sorted(i for trace in told.data for i in trace.meta) == list(range(len(drawn)))
    assert told.data[0].hovertext[0] == f"box {told.data[0].meta[0]}"
    assert [shape.name for shape in told.layout.shapes] == ["border", "segment"]


def test_what_is_zoomed_to_has_ticks_of_its_own(loaded: Loaded) -> None:
    drawn = segment_map(loaded.moment(7800))
    low, high = 5 * MIB, 5 * MIB + 300_000
    axis = segment_figure(drawn, "light", zoom=(low, high))["layout"]["xaxis"]
    assert axis["range"] == [low, high]
    assert 3 <= len(axis["tickvals"]) == len(axis["ticktext"]) <= 10
    assert all(low <= value <= high for value in axis["tickvals"])
    assert axis["ticktext"][0] == format_bytes(axis["tickvals"][0])
    whole = segment_figure(drawn, "light")["layout"]
    assert whole["xaxis"]["range"] == whole["meta"]["whole"]


def test_dark_and_light_differ(loaded: Loaded) -> None:
    drawn = segment_map(loaded.moment(7800))
    light, dark = (go.Figure(segment_figure(drawn, theme)) for theme in ("light", "dark"))
    assert light.layout.meta["paint"]["paper"] != dark.layout.meta["paint"]["paper"]
    assert light.data[3].fillcolor != dark.data[3].fillcolor


# ---- page ----


def words(told: list[Told]) -> str:
    """All the text that is told."""
    return " ".join(one if isinstance(one, str) else words(one[2:]) for one in told)


def test_panel_of_nothing_selected_says_what_inspect_says(loaded: Loaded) -> None:
    for event in (4000, loaded.events):
        one = loaded.inspection(event)
        text = words(summary(loaded.moment(event), page.basis_of(loaded, loaded.moment(event))))
        assert one.basis in text
        device = one.moment.fragmentation.device
        for size in (device.allocated_bytes, device.hole_bytes, device.reserved_bytes):
            assert format_bytes(size) in text


def test_a_segment_that_is_not_shown_is_gone_or_filtered(loaded: Loaded) -> None:
    moment = loaded.moment(7800)
    (there, *_), _ = bounds(moment.layout)
    for address, pool, title in ((5, "", "No such segment"), (there, "small", "No segment is like this")):
        only = Filter(pool=pool, segment=int(address))
        assert len(segment_map(moment, only)) == 0
        assert page._nothing(moment, only).title == title
    assert page._nothing(loaded.moment(0), Filter()).title == "Nothing is reserved"


def test_every_address_has_a_panel(loaded: Loaded) -> None:
    moment, lives = loaded.moment(7800), page.lives_of(loaded)
    for address in [*moment.layout.blocks["ptr"].tolist(), 5]:
        text = words(panel(moment, lives, address, alone=True))
        assert "Show all segments" in text
    assert "not reserved at this moment" in text


def test_page_draws_what_the_view_asks_for(loaded: Loaded) -> None:
    view = changed(DEFAULT, item=loaded.item.key, event=7800, tab="segments")
    key = page.key_of(view, loaded)
    drawn = page.map_of(loaded, key)
    assert drawn is page.map_of(loaded, dict(key))
    assert len(drawn.segment) == drawn.moment.layout.segments
    # The same scale where less is reserved, so that nothing moves while one steps.
    early = page.map_of(loaded, page.key_of(changed(view, event=50), loaded))
    assert early.row_bytes == drawn.row_bytes
    assert early.lines < drawn.lines
    chosen = with_options(view, "segments", pool="small", colour="stack", block="0x100018200000")
    small = page.map_of(loaded, page.key_of(chosen, loaded))
    assert [group.name for group in small.groups] == ["small pool"]
    figure = go.Figure(page.figure_of(loaded, small, page.key_of(chosen, loaded)))
    assert "selected" in {shape.name for shape in figure.layout.shapes}
    alone = with_options(view, "segments", alone="0x100018200000", holes=True)
    assert len(page.map_of(loaded, page.key_of(alone, loaded)).segment) == 1
    strange = with_options(view, "segments", alone="no address", stream="x", pool="deep", colour="taste")
    assert len(page.map_of(loaded, page.key_of(strange, loaded))) == len(drawn)


def test_a_stream_that_is_not_here_is_named(loaded: Loaded) -> None:
    moment = loaded.moment(7800)
    here = page._controls(moment, {"stream": 0})[5]
    assert page._controls(moment, {"stream": 77})[5] == [
        *here,
        {"value": "77", "label": "stream 77 (not here)"},
    ]
    assert page._controls(moment, {"stream": "q"})[5] == here


def test_what_is_seen_of_the_lines(loaded: Loaded) -> None:
    view = changed(DEFAULT, item=loaded.item.key, event=7800, tab="segments")
    drawn = page.map_of(loaded, page.key_of(view, loaded))

    def seen(zoom: str) -> list[float]:
        key = page.key_of(with_options(view, "segments", zoom=zoom), loaded)
        found = page.map_of(loaded, key)
        assert (found.lines, found.row_bytes) == (drawn.lines, drawn.row_bytes), "nothing lies elsewhere"
        return list(page.figure_of(loaded, found, key)["layout"]["xaxis"]["range"])

    whole = seen("")
    assert seen(f"{drawn.row_bytes}:1000:2000") == [1000, 2000]
    assert seen(f"{drawn.row_bytes}:1000:999999999999") == [1000, drawn.line_bytes], "not beyond the whole"
    for strange in (
        "1:1000:2000",
        "x",
        f"{drawn.row_bytes}:2000:1000",
        f"{drawn.row_bytes}:-5:7",
        "::",
        "1:2",
    ):
        assert seen(strange) == whole


def test_listed_segments_are_by_address_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (20, 64, 32)
    moment = of(snapshot(*(segment(BASE + i * 100 * MIB, live(size * MIB)) for i, size in enumerate(sizes))))
    values = [one["value"] for one in page.listed_segments(moment)]
    assert values == [f"{BASE + i * 100 * MIB:#x}" for i in range(3)]
    monkeypatch.setattr(page, "_LISTED", 2)
    assert [one["value"] for one in page.listed_segments(moment)] == values[1:], "the two largest"
    also = page.listed_segments(moment, BASE)
    assert [one["value"] for one in also] == [*values[1:], values[0]]


def test_largest_holes_are_offered(loaded: Loaded) -> None:
    moment = loaded.moment(7800)
    text = words(summary(moment, "replayed"))
    holes = moment.holes_frame().sort_values("block_size", ascending=False)
    assert len(holes) > 5
    for address, size in zip(holes["address"][:3], holes["block_size"][:3]):
        assert f"{format_bytes(size)} at {address:#x}" in text
    assert f"{holes['address'].iloc[-1]:#x}" not in text


def test_an_empty_device_and_a_state_without_history(tmp_path: Path) -> None:
    empty = of(snapshot())
    drawn = segment_map(empty)
    assert (len(drawn), drawn.lines, drawn.groups) == (0, 0, ())
    for theme in ("light", "dark"):
        assert len(go.Figure(segment_figure(drawn, theme)).to_json()) < 20_000
    assert page.listed_segments(empty) == []
    assert "0 bytes" in words(summary(empty, "recorded"))
    state = opened(tmp_path / "state.pickle", snapshot(segment(BASE, live(12 * MIB), hole(8 * MIB))))
    moment = state.moment(None)
    assert bytes_by_state(segment_map(moment)) == {ALLOCATED: 12 * MIB, PENDING: 0, HOLE: 8 * MIB, FREE: 0}
    text = words(panel(moment, page.lives_of(state), BASE, alone=False))
    assert "No history was recorded" in text
    assert page.basis_of(state, moment) == "recorded"
