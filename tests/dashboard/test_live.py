"""What is live: the numbers of inspect --json, filters, places, the flame graph, and the page that shows them."""

from __future__ import annotations

import csv
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.figures.boxes import blended
from oomdoctor_dashboard.figures.live import boxes, flame
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.live_data import (
    NO_PLACE,
    Live,
    Places,
    blocks_table,
    chosen,
    csv_of,
    page_of,
    places_table,
    stack_to_show,
)
from oomdoctor_dashboard.live_data import live_of as of_places
from oomdoctor_dashboard.live_filter import Age, Bounds, Wanted, age_bounds, size_bounds, wanted_of
from oomdoctor_dashboard.live_flame import Flame, boxes_of, flame_of
from oomdoctor_dashboard.pages import live as page
from oomdoctor_dashboard.pages.live import live_of, table_of, totals_text
from oomdoctor_dashboard.view import changed, with_options

from oomdoctor.allocator.settings import Settings
from oomdoctor.diagnosis.inspection import inspect_device
from oomdoctor.errors import UsageError
from oomdoctor.reporters.inspect_json import document
from oomdoctor.snapshot.stacks import NO_STACK
from oomdoctor.units import KIB, MIB, format_bytes
from tests.allocator.recorded_by_heap import recorded
from tests.snapshot.building import LIBRARY, TORCH, USER, event, frame, hole, live, pending, segment, snapshot

from .test_segments import words

RUN = Path(__file__).parents[2] / "traces" / "llama-4-layers-two-gpus"
EVENTS = (0, 1, 100, 3333, 7819, 7820)
# Sizes, streams and waiting blocks of every kind.
PROGRAM = [
    ("alloc", 3 * MIB + 1, 0), ("alloc", 100, 1), ("alloc", 20 * MIB, 0), ("alloc", 700 * KIB, 2),
    ("defer", 2), ("alloc", 30 * MIB, 1), ("free", 0), ("alloc", 513, 0), ("defer", 1), ("alloc", MIB, 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def llama() -> Loaded:
    library = Library()
    return library.loaded(library.add(str(RUN))[0].key, 0)


def opened(plain: Any, tmp_path: Path) -> Loaded:
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(plain))
    library = Library()
    return library.loaded(library.add(str(path))[0].key, 0)


def written(loaded: Loaded, event: int) -> Any:
    """What inspect --json says."""
    return document([inspect_device(loaded.device, event)])["devices"][0]


def live_blocks(loaded: Loaded, event: int) -> list[Any]:
    return [one for one in written(loaded, event)["blocks"] if one["state"] != "inactive"]


# ---- the numbers ----


@pytest.mark.parametrize("event", EVENTS)
def test_rows_are_the_live_blocks_of_inspect(llama: Loaded, event: int) -> None:
    said, found = live_blocks(llama, event), live_of(llama, event)
    table = blocks_table(found)
    assert found.bytes == found.total_bytes == sum(one["bytes"] for one in said)
    state = written(llama, event)["state"]
    assert found.bytes == state["allocated_bytes"] + state["pending_bytes"] == state["active_bytes"]
    assert len(found) == state["live_blocks"]
    rows = table.frame.to_dict("records")
    assert [row["address"] for row in rows] == [one["address"] for one in said]
    for row, one in zip(rows, said):
        known = {key: None if row[key] == -1 else row[key] for key in ("alloc_event", "age_events", "age_us")}
        assert known == {key: one[key] for key in known}
        assert (row["block_size"], row["requested_size"]) == (one["bytes"], one["requested_bytes"])
        assert row["rounding"] == one["bytes"] - one["requested_bytes"]
        assert (row["state"], row["pool"]) == (one["state"], one["size_class"])
        assert row["older_than_trace"] == one["older_than_trace"]


def test_totals_say_what_is_shown_of_what_and_on_what_basis(llama: Loaded) -> None:
    everything = live_of(llama, None)
    text = totals_text(llama, everything, Wanted())
    assert text.startswith("43 blocks, 1.10 GiB of 1.10 GiB live (recorded) · ")
    wanted = Wanted(size=Bounds(low=86 * MIB))
    assert totals_text(llama, chosen(everything, wanted), wanted).startswith(
        "7 blocks of 43, 766.00 MiB of 1.10 GiB"
    )
    assert "(replayed)" in totals_text(llama, live_of(llama, 100), Wanted())


@pytest.mark.parametrize("event", EVENTS)
def test_places_add_up_to_the_total(llama: Loaded, event: int) -> None:
    found = live_of(llama, event)
    table = places_table(found)
    assert table.frame["block_size"].sum() == found.total_bytes
    assert table.frame["blocks"].sum() == len(found)
    assert table.frame["share"].sum() == pytest.approx(1.0 if len(found) else 0.0)
    assert table.frame["block_size"].is_monotonic_decreasing
    by_block = blocks_table(found).frame
    for row in table.frame.to_dict("records"):
        mine = by_block[by_block["place"] == row["place"]]
        assert (mine["block_size"].sum(), mine["rounding"].sum()) == (row["block_size"], row["rounding"])
        assert mine["age_events"].max() == row["age_events"]


def test_the_share_is_of_all_that_is_live_also_among_some(llama: Loaded) -> None:
    some = chosen(live_of(llama, None), Wanted(size=Bounds(low=86 * MIB)))
    table = places_table(some)
    assert table.frame["share"].sum() == pytest.approx(some.bytes / some.total_bytes)
    assert some.bytes < some.total_bytes


# ---- filters ----


def matches(loaded: Loaded, event: int, **options: Any) -> tuple[Live, list[Any]]:
    found = chosen(live_of(loaded, event), wanted_of(options))
    addresses = set(found.address.tolist())
    return found, [one for one in live_blocks(loaded, event) if one["address"] in addresses]


def test_text_is_looked_for_in_all_frames(llama: Loaded) -> None:
    stacks = written(llama, 3333)["stacks"]
    for text in ("MODELING_llama.py", "torch/nn/modules", "main", "nowhere", "cache_utils.py:136"):
        _, kept = matches(llama, 3333, text=text)
        expected = [
            one
            for one in live_blocks(llama, 3333)
            if one["stack"] is not None
            and any(
                text.lower() in f"{f['name']} {f['filename']}:{f['line']}".lower()
                for f in stacks[one["stack"]]
            )
        ]
        assert kept == expected, text
    assert 0 < len(matches(llama, 3333, text="modeling_llama.py")[0]) < len(live_of(llama, 3333))


def test_an_address_finds_the_block_around_it(llama: Loaded) -> None:
    one = live_blocks(llama, 7820)[3]
    _, kept = matches(llama, 7820, text=hex(one["address"] + one["bytes"] - 1))
    assert kept == [one]
    assert not len(matches(llama, 7820, text="0xnothing")[0])
    assert not len(matches(llama, 7820, text="0x" + "f" * 40)[0])


def test_size_age_pool_stream_and_state(tmp_path: Path) -> None:
    loaded = opened(recorded(PROGRAM, Settings()), tmp_path)
    n = loaded.events
    said = live_blocks(loaded, n)
    handles = loaded.recording.streams.tolist()
    cases: list[tuple[dict[str, str], Any]] = [
        ({"size": "1 MiB"}, lambda b: b["bytes"] >= MIB),
        ({"size": "< 1 MiB"}, lambda b: b["bytes"] < MIB),
        ({"size": "> 1MiB"}, lambda b: b["bytes"] > MIB),
        ({"size": "<= 1MiB"}, lambda b: b["bytes"] <= MIB),
        ({"size": "600 KiB - 5 MiB"}, lambda b: 600 * KIB <= b["bytes"] <= 5 * MIB),
        ({"age": "5 events"}, lambda b: b["age_events"] >= 5),
        ({"age": "< 5"}, lambda b: b["age_events"] < 5),
        ({"age": "50 us"}, lambda b: b["age_us"] >= 50),
        ({"age": "older than the trace"}, lambda b: b["older_than_trace"]),
        ({"pool": "0:small"}, lambda b: b["size_class"] == "small"),
        ({"pool": "0:large"}, lambda b: b["size_class"] == "large"),
        ({"pool": "1:large"}, lambda b: False),
        ({"stream": "1"}, lambda b: b["stream"] == handles[1]),
        ({"state": "pending"}, lambda b: b["state"] == "active_pending_free"),
        ({"state": "allocated"}, lambda b: b["state"] == "active_allocated"),
        ({"state": "pending", "pool": "0:large"}, lambda b: "pending" in b["state"] and b["bytes"] > MIB),
    ]
    for options, test in cases:
        _, kept = matches(loaded, n, **options)
        assert kept == [one for one in said if test(one)], options
    told = {len(matches(loaded, n, **options)[0]) for options, _ in cases}
    assert len(told) > 3, "the program has blocks of every kind"


def test_blocks_older_than_the_trace_are_older_than_any_age(tmp_path: Path) -> None:
    loaded = opened(recorded(PROGRAM, Settings(), keep=4), tmp_path)
    found = live_of(loaded, None)
    older = [one for one in live_blocks(loaded, loaded.events) if one["older_than_trace"]]
    assert 0 < len(older) < len(found)
    assert matches(loaded, loaded.events, age="older than the trace")[1] == older
    assert set(map(str, older)) <= set(map(str, matches(loaded, loaded.events, age="1000000 events")[1]))
    assert not len(matches(loaded, loaded.events, age="< 2 s", size="3 MiB - 4 MiB")[0])
    table = blocks_table(found)
    shown = page_of(table, table.order("age"), 0, 100)
    assert [row["age"] for row in shown[: len(older)]] == ["older than the trace"] * len(older)
    assert f"{len(older)} older than the trace" in totals_text(loaded, found, Wanted())


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("", None),
        ("  ", None),
        ("1 MiB", Bounds(MIB, None)),
        (">= 1MiB", Bounds(MIB, None)),
        ("≥ 1MiB", Bounds(MIB, None)),
        ("> 1MiB", Bounds(MIB + 1, None)),
        ("<512", Bounds(None, 511)),
        ("≤512", Bounds(None, 512)),
        ("1 KiB – 2 KiB", Bounds(1024, 2048)),
        ("1KiB..2KiB", Bounds(1024, 2048)),
        ("1..2 KiB", Bounds(1024, 2048)),
        ("1 - 2", Bounds(1, 2)),
    ],
)
def test_sizes_as_they_are_typed(text: str, bounds: Any) -> None:
    assert size_bounds(text) == bounds


def test_what_is_no_size_is_named() -> None:
    with pytest.raises(UsageError, match="'-1'"):
        size_bounds("-1")


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("", None),
        ("1,000", Age("events", Bounds(1000, None))),
        ("< 5 events", Age("events", Bounds(None, 4))),
        ("2 s", Age("us", Bounds(2_000_000, None))),
        ("1.5 ms - 2 min", Age("us", Bounds(1500, 120_000_000))),
        ("Older than the trace", Age("older")),
    ],
)
def test_ages_as_they_are_typed(text: str, age: Any) -> None:
    assert age_bounds(text) == age


@pytest.mark.parametrize(
    "options",
    [{"size": "big"}, {"size": "<"}, {"age": "1 week"}, {"age": "3 - 2 s"}, {"size": "2 MiB - 1 MiB"}],
)
def test_what_cannot_be_read_is_said(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        wanted_of(options)


def test_what_an_address_asks_for_is_not_trusted() -> None:
    assert wanted_of({"stream": "x", "state": "?", "pool": "", "text": " A "}) == Wanted(text="a")


def test_an_age_in_time_needs_times(tmp_path: Path) -> None:
    plain = snapshot(segment(1 << 40, live(4 * MIB)), traces=[[event("alloc", 4 * MIB, addr=1 << 40)]])
    del plain["device_traces"][0][0]["time_us"]
    loaded = opened(plain, tmp_path)
    with pytest.raises(UsageError, match="no times"):
        matches(loaded, 1, age="1 s")
    assert len(matches(loaded, 1, age="< 5 events")[0]) == 1


# ---- tables ----


@pytest.mark.parametrize("column", ["place", "block_size", "requested_size", "rounding", "age", "alloc_event",
                                    "state", "pool", "stream", "address"])  # fmt: skip
def test_any_column_sorts(llama: Loaded, column: str) -> None:
    table = blocks_table(live_of(llama, 3333))
    values = table.columns[column]
    up, down = values[table.order(column, False)], values[table.order(column, True)]
    assert (up[:-1] <= up[1:]).all()
    assert (down[:-1] >= down[1:]).all()
    if column == "place":
        texts = table.frame["place"].to_numpy()[table.order("place", False)].tolist()
        assert texts == sorted(texts)
    assert column in page_of(table, table.order(), 0, 1)[0]


def test_a_page_is_a_part_of_the_whole(llama: Loaded) -> None:
    table = blocks_table(live_of(llama, None))
    order = table.order()
    whole = page_of(table, order, 0, 1000)
    assert len(whole) == len(table) == 43
    assert page_of(table, order, 10, 20) == whole[10:20]
    assert page_of(table, order, 40, 140) == whole[40:]
    assert len({row["id"] for row in whole}) == 43
    assert whole[0]["block_size"] == "250.00 MiB"
    assert whole[0]["alloc_event"] == "34"


def test_the_csv_has_all_rows_in_bytes(llama: Loaded) -> None:
    found = chosen(live_of(llama, None), Wanted(size=Bounds(low=MIB)))
    rows = list(csv.DictReader(io.StringIO(csv_of(blocks_table(found)))))
    assert sum(int(row["block_size"]) for row in rows) == found.bytes
    assert [int(row["block_size"]) for row in rows] == sorted(found.block_size.tolist(), reverse=True)
    assert {int(row["address"], 16) for row in rows} == set(found.address.tolist())
    grouped = list(csv.DictReader(io.StringIO(csv_of(places_table(found)))))
    assert sum(int(row["block_size"]) for row in grouped) == found.bytes


def test_the_table_of_a_view_follows_its_options(llama: Loaded) -> None:
    view = changed(None, item="x", tab="live", event=3333)
    everything = table_of(llama, view)
    assert len(everything) == len(live_of(llama, 3333))
    assert table_of(llama, view) is everything, "it is kept"
    some = table_of(llama, with_options(view, "live", size="1 MiB"))
    assert 0 < len(some) < len(everything)
    grouped = table_of(llama, with_options(view, "live", group="place"))
    assert "share" in grouped.frame
    assert len(grouped) < len(everything)
    for moment in range(100, 120):
        table_of(llama, changed(view, event=moment))
    assert len(llama.made("live-tables", lambda _: {})) <= 8


def test_the_stack_of_a_row(llama: Loaded) -> None:
    found = live_of(llama, None)
    one = live_blocks(llama, 7820)[5]
    stack, mine = stack_to_show(found, str(one["address"]))
    assert found.address[mine].tolist() == [one["address"]]
    frames = written(llama, 7820)["stacks"][one["stack"]]
    assert [f._asdict() for f in found.places.stacks[stack]] == frames
    place = int(found.place[0])
    stack, mine = stack_to_show(found, f"place:{place}")
    assert (found.place[mine] == place).all()
    assert len(mine) == (found.place == place).sum()
    for unknown in ("12", "place:99999", "place:x", "", "-1"):
        assert stack_to_show(found, unknown)[0] == NO_STACK
        assert not len(stack_to_show(found, unknown)[1])


# ---- the flame graph ----


def sums_hold(tree: Any) -> None:
    size = dict(zip(tree.ids, tree.bytes))
    below: dict[str, int] = {}
    for parent, value in zip(tree.parents, tree.bytes):
        below[parent] = below.get(parent, 0) + value
    assert len(set(tree.ids)) == len(tree.ids)
    assert below.pop("") == tree.bytes[0]
    assert all(below[parent] <= size[parent] for parent in below)
    assert all(tree.ids.index(parent) < at for at, parent in enumerate(tree.parents) if parent)


@pytest.mark.parametrize("all_frames", [False, True])
@pytest.mark.parametrize("event", EVENTS)
def test_the_flame_adds_up_to_the_total(llama: Loaded, event: int, all_frames: bool) -> None:
    found = live_of(llama, event)
    tree = flame_of(found, all_frames=all_frames)
    sums_hold(tree)
    assert tree.bytes[0] == found.total_bytes
    assert tree.blocks[0] == len(found)
    leaves = set(tree.ids) - set(tree.parents)
    below = sum(b for i, b in zip(tree.ids, tree.bytes) if i in leaves)
    # Of telling frames alone, those of one stack may be the first ones of another.
    assert below == found.total_bytes if all_frames else 0 <= below <= found.total_bytes


@pytest.mark.parametrize("all_frames", [False, True])
def test_a_flame_does_not_depend_on_what_was_looked_at_before(llama: Loaded, all_frames: bool) -> None:
    """The tree of stacks is kept, and grows."""
    used = Places(llama.recording.snapshot.stacks)
    for after in (*EVENTS, *reversed(EVENTS)):
        moment = llama.moment(after)
        alone = of_places(moment, Places(llama.recording.snapshot.stacks))
        among = of_places(moment, used)
        assert flame_of(among, all_frames=all_frames) == flame_of(alone, all_frames=all_frames)


def test_only_telling_frames_unless_all_are_asked_for(llama: Loaded) -> None:
    found = live_of(llama, None)
    few, many = flame_of(found), flame_of(found, all_frames=True)
    assert not any("site-packages/torch/" in detail for detail in few.details)
    assert any("site-packages/torch/" in detail for detail in many.details)
    assert many.depth > few.depth


@pytest.mark.parametrize("most", [400, 60, 20, 3])
def test_small_nodes_are_gathered_and_nothing_is_lost(llama: Loaded, most: int) -> None:
    found = live_of(llama, None)
    tree = flame_of(found, all_frames=True, most=most)
    assert len(tree.ids) <= most
    sums_hold(tree)
    assert tree.bytes[0] == found.bytes
    leaves = set(tree.ids) - set(tree.parents)
    assert sum(b for i, b in zip(tree.ids, tree.bytes) if i in leaves) == found.bytes
    assert sum(b for i, b in zip(tree.ids, tree.blocks) if i in leaves) == len(found)


def test_many_stacks_make_no_more_nodes_than_can_be_seen(tmp_path: Path) -> None:
    blocks = [
        live(512 * (1 + at % 7), stack=[TORCH, frame(f"f{at}", "/home/me/a.py", at), USER])
        for at in range(3000)
    ]
    found = live_of(opened(snapshot(segment(1 << 40, *blocks)), tmp_path), None)
    tree = flame_of(found)
    assert len(tree.ids) <= 400
    sums_hold(tree)
    others = [label for label in tree.labels if label.endswith("others")]
    assert len(others) == 1
    assert int(others[0].split()[0]) == 3000 - (len(tree.ids) - 3)
    assert len(go.Figure(flame(tree, found.total_bytes)).to_json()) < 200_000


def test_the_selected_frames_of_a_filter_are_all_the_flame_shows(llama: Loaded) -> None:
    found = chosen(live_of(llama, None), wanted_of({"text": "cache_utils.py"}))
    tree = flame_of(found)
    assert 0 < tree.bytes[0] == found.bytes < found.total_bytes
    assert any("cache_utils.py" in label for label in tree.labels)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure(llama: Loaded, theme: str) -> None:
    found = live_of(llama, None)
    tree = flame_of(found)
    figure = go.Figure(flame(tree, found.total_bytes, theme=theme))
    (trace,) = figure.data
    assert trace.branchvalues == "total"
    assert list(trace["values"]) == tree.bytes
    assert list(trace.ids) == tree.ids
    assert figure.layout.paper_bgcolor == {"light": "#ffffff"}.get(theme, figure.layout.paper_bgcolor)
    assert figure.layout.height >= 23 * tree.depth
    assert "100.0%" in json.dumps(trace.customdata[0])


def lie_within(tree: Flame) -> None:
    """Boxes are as wide as their bytes, a level below their parents and within them, and beside one another."""
    laid = boxes_of(tree)
    number = {name: i for i, name in enumerate(tree.ids)}
    top = range(tree.above + 1)
    assert laid.level[: tree.above + 1].tolist() == list(top)
    assert {(low, high) for low, high in zip(laid.low[top], laid.high[top])} == {(0, tree.bytes[tree.above])}
    for i, parent in enumerate(tree.parents):
        if i > tree.above:
            up = number[parent]
            assert laid.level[i] == laid.level[up] + 1
            assert laid.low[up] <= laid.low[i] <= laid.high[i] <= laid.high[up]
            assert laid.high[i] - laid.low[i] == tree.bytes[i]
    assert laid.level.max() + 1 == tree.depth
    for level in range(tree.depth):
        mine = np.flatnonzero(laid.level == level)
        mine = mine[np.argsort(laid.low[mine])]
        assert (laid.high[mine[:-1]] <= laid.low[mine[1:]]).all()


@pytest.mark.parametrize("all_frames", [False, True])
def test_zooming_shows_what_leads_there_and_what_is_below(llama: Loaded, all_frames: bool) -> None:
    found = live_of(llama, 5000)
    whole = flame_of(found, all_frames=all_frames)
    lie_within(whole)
    assert (whole.above, whole.paths[0]) == (0, "")
    deep = [i for i, path in enumerate(whole.paths) if path.count(".") == 2]
    assert len(deep) > 1
    for i in deep:
        near = flame_of(found, all_frames=all_frames, zoom=whole.paths[i])
        lie_within(near)
        assert near.above == 3
        assert near.paths[3] == whole.paths[i]
        at = whole.paths.index(whole.paths[i])  # of others it is their parent's
        assert (near.ids[3], near.bytes[3], near.labels[3]) == (
            whole.ids[at],
            whole.bytes[at],
            whole.labels[at],
        )
        again = flame_of(found, all_frames=all_frames, zoom=whole.paths[i] + ".999999.7")
        assert again == near, "as far as there are such nodes"
    for strange in ("x", "-5", "..", "99999999999999999999", "1.2.3"):
        assert flame_of(found, all_frames=all_frames, zoom=strange).above == 0


def test_what_is_too_small_is_seen_nearer(llama: Loaded) -> None:
    found = live_of(llama, None)
    whole = flame_of(found, all_frames=True, most=12)
    (others, *_) = (i for i, label in enumerate(whole.labels) if label.endswith("others"))
    near = flame_of(found, all_frames=True, most=12, zoom=whole.paths[others])
    assert len(near.ids) - near.above <= 12
    assert set(near.ids) - set(whole.ids)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_boxes(llama: Loaded, theme: str) -> None:
    found = live_of(llama, None)
    tree = flame_of(found)
    drawn = boxes(tree, found.total_bytes, theme=theme)
    nodes, paint = drawn["layout"]["meta"]["nodes"], drawn["layout"]["meta"]["paint"]
    assert [row[0] for row in nodes] == tree.paths
    assert "100.0% of all that is live" in nodes[0][-1]
    line, low, high = (np.array(paint[key]) for key in ("line", "low", "high"))
    assert (high - low).tolist() == tree.bytes
    assert set(line.tolist()) == set(range(tree.depth))
    assert list(drawn["layout"]["xaxis"]["range"]) == [0, int(high[0])] == [0, found.bytes]
    assert paint["texts"] == [list(one) for one in zip(tree.labels, map(format_bytes, tree.bytes))]
    assert {len(paint[key]) for key in ("line", "low", "high", "look", "texts")} == {len(tree.ids)}
    assert max(paint["look"]) < len(paint["looks"])
    same_file = [look for look, file in zip(paint["look"], tree.files) if file == tree.files[1]]
    assert len(set(same_file)) == 1, "one file, one colour"
    assert len(go.Figure(drawn).to_json()) < 100_000
    deep = max(tree.paths, key=lambda path: path.count("."))
    zoomed = flame_of(found, zoom=deep)
    near = boxes(zoomed, found.total_bytes, theme=theme)["layout"]["meta"]["paint"]
    fill, ink = near["looks"][near["look"][0]]
    assert (zoomed.above > 0, ink) == (True, colours.ink(theme))
    assert fill != paint["looks"][paint["look"][0]][0], "what leads there stands back"


def test_a_veil() -> None:
    assert blended("#000000", "#ffffff", 0.0) == "#000000"
    assert blended("#000000", "#ffffff", 1.0) == "#ffffff"
    assert blended("#204060", "#ffffff", 0.5) == "#90a0b0"


def test_what_a_snapshot_names_is_text_and_never_markup(tmp_path: Path) -> None:
    bad = frame("<b>x</b>", "/home/me/<a href='http://e'>.py", 1)
    found = live_of(opened(snapshot(segment(1 << 40, live(MIB, stack=[bad]))), tmp_path), None)
    (trace,) = go.Figure(flame(flame_of(found), found.total_bytes)).data
    assert "&lt;b&gt;x&lt;/b&gt;" in trace.labels[1]
    assert "<a" not in trace.labels[1] + trace.customdata[1][0]
    # Of these the browser makes text.
    meta = boxes(flame_of(found), found.total_bytes)["layout"]["meta"]
    assert meta["paint"]["texts"][1][0].startswith("<b>x</b>")
    assert meta["nodes"][1][1].startswith("<b>x</b>")


def test_what_is_said_of_a_row(llama: Loaded) -> None:
    shown = changed(None, item="x", device=0, event=5000, tab="live")
    table = table_of(llama, shown)
    (row,) = page_of(table, table.order(), 0, 1)
    said, born, style, word = page._details_of(llama, shown, [row])
    text = words(json.loads(said))
    assert f"1 block, {row['block_size']} at {row['address']}" in text
    assert "main /project/examples/llama_generate.py:59" in text
    assert born is not None
    assert style == {}
    assert word == f"Go to its allocation, event {born:,}"
    everything = with_options(shown, "live", group="place")
    table = table_of(llama, everything)
    (row,) = page_of(table, table.order(), 0, 1)
    said, born, _, word = page._details_of(llama, everything, [row])
    assert f"{row['blocks']} blocks, {row['block_size']}" in words(json.loads(said))
    assert word == f"Go to its oldest allocation, event {born:,}"
    nothing = with_options(everything, "live", size="> 100 GiB")
    assert "not among what is chosen" in words(json.loads(page._details_of(llama, nothing, [row])[0]))
    wrong = with_options(everything, "live", size="much")
    assert "much" in words(json.loads(page._details_of(llama, wrong, [row])[0]))
    assert "Choose a row" in words(json.loads(page._details_of(llama, shown, [])[0]))


# ---- what may be missing ----


def test_the_state_alone(tmp_path: Path) -> None:
    plain = snapshot(segment(1 << 40, live(4 * MIB, 4 * MIB - 100), hole(2 * MIB), pending(3 * MIB)))
    loaded = opened(plain, tmp_path)
    found = live_of(loaded, None)
    assert (len(found), found.bytes) == (2, 7 * MIB)
    text = totals_text(loaded, found, Wanted())
    assert "no history was recorded" in text
    assert "(recorded)" in text
    table = blocks_table(found)
    rows = page_of(table, table.order(), 0, 10)
    assert [row["state"] for row in rows] == ["allocated", "pending"]
    assert rows[0]["rounding"] == "100 bytes"
    assert rows[0]["alloc_event"] == ""
    assert LIBRARY["name"] in rows[0]["place"]
    sums_hold(flame_of(found))


def test_stacks_that_were_not_recorded(tmp_path: Path) -> None:
    found = live_of(opened(recorded(PROGRAM, Settings()), tmp_path), None)
    assert blocks_table(found).frame["place"].unique().tolist() == [NO_PLACE]
    tree = flame_of(found)
    assert tree.labels[1:] == [NO_PLACE]
    assert tree.bytes == [found.bytes, found.bytes]
    assert not len(chosen(found, Wanted(text="a")))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_live(tmp_path: Path, theme: str) -> None:
    loaded = opened(snapshot(traces=[[event("snapshot", 0, addr=0)]]), tmp_path)
    found = live_of(loaded, None)
    assert (len(found), found.bytes) == (0, 0)
    for table in (blocks_table(found), places_table(found)):
        assert len(table) == len(table.frame) == 0
        assert page_of(table, table.order(), 0, 100) == []
        assert csv_of(table).count("\n") == 1
    tree = flame_of(found)
    assert tree.bytes == [0]
    assert len(go.Figure(flame(tree, 0, theme=theme)).data) == 1
    assert not np.any(chosen(found, Wanted(text="x", size=Bounds(1, 2))).rows)
