"""Fragmentation: series that equal the moments they are of, free blocks against requests, tables of inspect."""

from __future__ import annotations

import csv
import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from oomdoctor_dashboard.figures import fragmentation as figures
from oomdoctor_dashboard.fragmentation_data import (
    EARLIER,
    LATER,
    MEASURES,
    MOST_SAMPLES,
    RELEASABLE,
    STRANDED,
    Series,
    classes_of,
    demand_of,
    measure_of,
    sample_events,
    sampled_series,
    totals_series,
    where_key,
    where_of,
    window_of,
)
from oomdoctor_dashboard.fragmentation_tables import (
    COLUMNS,
    device_row,
    measure_text,
    pin_rows,
    pins_csv,
    pool_rows,
    pools_csv,
)
from oomdoctor_dashboard.jobs import Cancelled
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.pages import fragmentation as page
from oomdoctor_dashboard.view import changed, with_options

from oomdoctor.allocator.moment import moment_of
from oomdoctor.allocator.observed import requests_of
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.diagnosis.inspection import inspect_device
from oomdoctor.reporters.inspect_json import document
from oomdoctor.snapshot.model import INACTIVE
from oomdoctor.units import KIB, MIB, format_bytes
from tests.allocator.recorded_by_heap import RELEASE, recorded
from tests.snapshot.building import event, hole, live, segment, snapshot

RUN = Path(__file__).parents[2] / "traces" / "llama-4-layers-two-gpus"
EVENTS = (0, 1, 100, 3333, 7819, 7820)
PROGRAM = [
    ("alloc", 3 * MIB + 1, 0), ("alloc", 100, 1), ("alloc", 20 * MIB, 0), ("alloc", 700 * KIB, 2),
    ("defer", 2), ("alloc", 30 * MIB, 1), ("free", 0), ("alloc", 513, 0), ("defer", 1), ("alloc", MIB, 1),
    ("complete",), ("empty",), ("alloc", 5 * MIB, 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def llama() -> Loaded:
    library = Library()
    return library.loaded(library.add(str(RUN))[0].key, 0)


@pytest.fixture(scope="module")
def llama_series(llama: Loaded) -> Series:
    return sampled_series(llama.history, sample_events(llama.history, 0, llama.events, 40))


def opened(plain: Any, tmp_path: Path) -> Loaded:
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(plain))
    library = Library()
    return library.loaded(library.add(str(path))[0].key, 0)


def written(loaded: Loaded, at: int) -> Any:
    return document([inspect_device(loaded.device, at)])["devices"][0]


# ---- over time ----


def test_the_sampled_series_is_that_of_the_moments(llama: Loaded, llama_series: Series) -> None:
    assert llama_series.is_sampled
    for at, after in enumerate(llama_series.events.tolist()):
        found = moment_of(llama.history, after).fragmentation
        wanted = {None: found.device}
        wanted |= {(c.private_pool, c.is_small, c.stream): c.measures for c in found.compartments}
        for where in llama_series.where:
            for name in MEASURES:
                value = llama_series.of(name, where)
                assert value is not None
                expected = measure_of(wanted[where], name) if where in wanted else 0.0
                assert value[at] == expected, (after, where, name)


def test_the_sampled_series_is_that_of_inspect(llama: Loaded, llama_series: Series) -> None:
    for at in (0, 11, len(llama_series.events) - 1):
        said = written(llama, int(llama_series.events[at]))
        for name in ("free_bytes", "hole_bytes", "largest_free_bytes", "stranded_bytes", "internal_bytes"):
            value = llama_series.of(name, None)
            assert value is not None
            assert value[at] == said["state"][name]
        external = llama_series.of("external", None)
        assert external is not None
        assert external[at] == said["state"]["external_fragmentation"]


def test_a_compartment_that_comes_later_holds_nothing_before(tmp_path: Path) -> None:
    loaded = opened(recorded(PROGRAM, Settings()), tmp_path)
    series = sampled_series(loaded.history, np.arange(loaded.events + 1))
    assert len(series.where) > 3
    assert series.where[0] is None
    reserved = series.values["reserved_bytes"]
    assert (reserved[1:].sum(axis=0) == reserved[0]).all()
    assert (reserved[:, 0] == 0).all()
    most = reserved[1:].max(axis=1)
    assert (most[:-1] >= most[1:]).all()
    for name in ("allocated_bytes", "pending_bytes", "free_bytes", "hole_bytes", "stranded_bytes"):
        assert (series.values[name][1:].sum(axis=0) == series.values[name][0]).all(), name
    assert (series.values["pending_bytes"][0] > 0).any()


def test_the_bands_sum_to_reserved_less_requested(tmp_path: Path) -> None:
    loaded = opened(recorded(PROGRAM, Settings()), tmp_path)
    series = sampled_series(loaded.history, np.arange(loaded.events + 1))
    of = {name: series.values[name][0] for name in MEASURES}
    assert (of["hole_bytes"] + of["whole_bytes"] == of["free_bytes"]).all()
    unused = of["hole_bytes"] + of["whole_bytes"] + of["pending_bytes"]
    assert (unused == of["reserved_bytes"] - of["allocated_bytes"]).all()


def test_totals_equal_the_moments_too(llama: Loaded, tmp_path: Path) -> None:
    pending = opened(recorded(PROGRAM, Settings()), tmp_path)
    for loaded in (llama, pending):
        totals = totals_series(loaded.history, 0, loaded.events, 30)
        assert not totals.is_sampled
        assert totals.events[-1] == loaded.events
        for at, after in enumerate(totals.events.tolist()):
            device = moment_of(loaded.history, after).fragmentation.device
            for name, rows in totals.values.items():
                assert rows[0, at] == getattr(device, name), (after, name)
    assert totals.values["pending_bytes"].any()
    assert totals.of("hole_bytes", None) is None
    assert totals.of("free_bytes", (0, False, 0)) is None


def test_what_is_sampled(llama: Loaded) -> None:
    history = llama.history
    assert sample_events(history, 100, 120).tolist() == list(range(100, 121)), "all where there are few"
    few = sample_events(history, 500, 500 + MOST_SAMPLES - 1)
    assert few.tolist() == list(range(500, 500 + MOST_SAMPLES))
    found = sample_events(history, 0, llama.events)
    assert (found[0], found[-1]) == (0, llama.events)
    assert 100 < len(found) <= MOST_SAMPLES + 1
    assert (np.diff(found) > 0).all()
    assert (np.diff(found) <= 2 * (llama.events // (MOST_SAMPLES - 1) + 1)).all()
    inside = sample_events(history, 1000, 3000)
    assert (inside[0], inside[-1]) == (1000, 3000)


def test_the_worst_moment_between_is_sampled_and_no_half_done_allocation(tmp_path: Path) -> None:
    loaded = opened(recorded([*PROGRAM, ("alloc", 90 * MIB, 0), ("free", 0)] * 8, Settings()), tmp_path)
    history, events = loaded.history, loaded.recording.events
    effects = history.effects
    unused = effects["reserved_bytes"] - effects["allocated_bytes"]
    action = events.action
    settled = ~np.isin(action, (3, 5))
    settled[:-1] &= ~(
        (action[:-1] == 1) & (action[1:] == 2) & (loaded.recording.birth[:-1] == loaded.recording.birth[1:])
    )
    found = sample_events(history, 0, loaded.events, 6)
    edges = np.linspace(0, loaded.events, 5).astype(int)
    for low, high in zip(edges[:-1], edges[1:]):
        inside = [one for one in found.tolist() if low < one <= high and settled[one - 1]]
        assert max(unused[one - 1] for one in inside) == unused[low:high][settled[low:high]].max()
    between = found[1:-1]
    assert settled[between - 1].all()
    assert not settled.all()


def test_windows() -> None:
    assert window_of(None, None, 100) == (0, 100)
    assert window_of(10, 20, 100) == (10, 20)
    assert window_of(10, 2000, 100) == (10, 100)
    assert window_of(30, 30, 100) == window_of(200, 300, 100) == (0, 100)


def test_progress_is_said_and_stops_it(llama: Loaded) -> None:
    said: list[tuple[int, int]] = []
    sampled_series(llama.history, np.array([5, 6, 7]), lambda done, total: said.append((done, total)))
    assert said == [(0, 3), (1, 3), (2, 3), (3, 3)]

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        sampled_series(llama.history, np.array([5, 6, 7]), stop)


# ---- free blocks and requests ----


@pytest.mark.parametrize("at", EVENTS)
def test_the_histogram_sums_to_what_is_free(llama: Loaded, at: int) -> None:
    moment, demand = llama.moment(at), demand_of(llama.history)
    classes = classes_of(moment.layout, demand, at, llama.events)
    said = written(llama, at)
    assert classes.free_bytes.sum() == said["state"]["free_bytes"]
    free = [one["bytes"] for one in said["blocks"] if one["state"] == "inactive"]
    assert classes.free_count.sum() == len(free)
    for lower, count in zip(classes.lower.tolist(), classes.free_count.sum(axis=0).tolist()):
        assert count == sum(lower <= size < 2 * lower for size in free)
    assert classes.free_bytes[STRANDED].sum() == said["state"]["stranded_bytes"]
    asked = requests_of(llama.recording, llama.history.settings, llama.history.torch)
    later = asked.size[asked.event >= at]
    assert classes.asked_count.sum() == len(later)
    assert classes.asked_bytes.sum() == later.sum()


@pytest.mark.parametrize("at", [100, 3333, 7820])
def test_compartments_sum_to_the_device(llama: Loaded, at: int) -> None:
    moment, demand = llama.moment(at), demand_of(llama.history)
    device = classes_of(moment.layout, demand, at, llama.events)
    free, stranded, asked = 0, 0, 0
    for c in moment.fragmentation.compartments:
        one = classes_of(moment.layout, demand, at, llama.events, (c.private_pool, c.is_small, c.stream))
        assert one.free_bytes.sum() == c.measures.free_bytes
        assert one.free_bytes[STRANDED].sum() == c.measures.stranded_bytes
        free, stranded = free + one.free_bytes.sum(), stranded + one.free_bytes[STRANDED].sum()
        asked += one.asked_count.sum()
    assert (free, stranded) == (device.free_bytes.sum(), device.free_bytes[STRANDED].sum())
    assert asked == device.asked_count.sum()


def test_memory_given_back_in_part_counts_in_both_parts(tmp_path: Path) -> None:
    expandable = parse_settings("expandable_segments:True", RELEASE).settings
    sizes = [("alloc", size * MIB, size % 2) for size in (30, 3, 50, 2, 90, 7)]
    loaded = opened(
        recorded([*sizes, ("free", 0), ("free", 1), ("free", 2), ("alloc", 100, 0)], expandable), tmp_path
    )
    nothing = replace(demand_of(loaded.history), event=np.empty(0, np.int64), kind=np.empty(0, np.int64))
    nothing = replace(nothing, pool=nothing.event, stream=nothing.event, size=nothing.event)
    layout = loaded.moment(None).layout
    free = layout.state == INACTIVE
    size, back = layout.blocks["size"][free], layout.releasable[free]
    assert ((back > 0) & (back < size)).any()
    classes = classes_of(layout, nothing, 0, 0)
    assert classes.free_bytes[RELEASABLE].sum() == back.sum()
    assert classes.free_bytes[STRANDED].sum() == (size - back).sum()
    assert classes.free_count[STRANDED].sum() == (back < size).sum()
    assert classes.free_count.sum() == free.sum()


def test_demand_has_the_observed_sizes(llama: Loaded) -> None:
    demand, observed = demand_of(llama.history), llama.history.observed
    found = demand.observed(demand.counts(0, llama.events))
    assert found.keys() == observed.keys()
    assert all(np.array_equal(found[key], observed[key]) for key in observed)
    assert demand.counts(0, 0).sum() == 0
    halves = demand.counts(0, 4000) + demand.counts(4000, llama.events)
    assert np.array_equal(halves, demand.counts(0, llama.events))


def test_what_becomes_of_free_blocks() -> None:
    """Of four free blocks in large segments one serves a later request, two an earlier one, one none."""
    big, small = 1 << 40, 1 << 41
    plain = snapshot(
        segment(big, live(4 * MIB), hole(9 * MIB), live(2 * MIB), hole(5 * MIB)),
        segment(small, live(MIB // 2), hole(3 * MIB // 2), small=True),
        segment(1 << 42, hole(20 * MIB), stream=0x5500),
        traces=[
            [
                event("alloc", 4 * MIB, addr=big),
                event("free_requested", 4 * MIB, addr=big + 13 * MIB),
                event("snapshot", 0, addr=0),
                event("alloc", 8 * MIB, addr=big + 4 * MIB),
                event("free_requested", 8 * MIB, addr=big + 4 * MIB),
                event("free_completed", 8 * MIB, addr=big + 4 * MIB),
            ]
        ],
    )
    from oomdoctor.allocator.history import history_of
    from oomdoctor.snapshot import snapshot_from_plain

    history = history_of(snapshot_from_plain(plain), 0, Settings(), (2, 12))
    demand, now = demand_of(history), moment_of(history, len(history.recording))
    large = (0, False, 0)
    classes = classes_of(now.layout, demand, len(history.recording), len(history.recording), large)
    by_fate = classes.free_bytes.sum(axis=1)
    assert by_fate[LATER] == 0, "nothing comes later"
    assert by_fate[EARLIER] == by_fate.sum() == 14 * MIB
    assert classes.asked_count.sum() == 0
    before = classes_of(now.layout, demand, 3, 6, large)
    assert before.free_bytes[LATER].sum() == 9 * MIB, "8 MiB go into 9"
    assert before.free_bytes[EARLIER].sum() == 5 * MIB, "but not into 5"
    assert (before.asked_count.sum(), before.asked_bytes.sum()) == (1, 8 * MIB)
    other = classes_of(now.layout, demand, 3, 6, (0, False, 1))
    assert other.free_bytes[RELEASABLE].sum() == other.free_bytes.sum() == 20 * MIB
    device = now.fragmentation.device
    everything = classes_of(now.layout, demand, 3, 6)
    assert everything.free_bytes[STRANDED].sum() == device.stranded_bytes == 3 * MIB // 2


# ---- tables ----


@pytest.mark.parametrize("at", EVENTS)
def test_rows_are_the_pools_of_inspect(llama: Loaded, at: int) -> None:
    said, moment = written(llama, at), llama.moment(at)
    rows = pool_rows(moment)
    assert len(rows) == len(said["pools"])
    for row, one in zip([device_row(moment), *rows], [said["state"], *said["pools"]]):
        for name, _, _ in COLUMNS:
            assert row[name] == one["external_fragmentation" if name == "external" else name], name
        if "size_class" in one:
            assert row["pool"] == one["size_class"]
    for name in ("reserved_bytes", "hole_bytes", "stranded_bytes"):
        assert device_row(moment)[f"{name}_text"] == format_bytes(said["state"][name])


@pytest.mark.parametrize("at", EVENTS)
def test_pins_are_those_of_inspect(llama: Loaded, at: int) -> None:
    said, rows = written(llama, at)["pinning"], pin_rows(llama.inspection(at), None)
    assert len(rows) == len(said)
    for row, one in zip(rows, said):
        assert (row["hole_bytes"], row["alone"]) == (one["hole_bytes"], one["hole_bytes_alone"])
        assert (row["blocks"], row["bytes"], row["segments"]) == (
            one["blocks"],
            one["bytes"],
            one["segments"],
        )
        assert row["hole_bytes_text"] == format_bytes(one["hole_bytes"])
        assert all(frame["name"] in row["place"] for frame in one["frames"])
        if one["oldest_age_events"] is not None:
            assert row["age"] == one["oldest_age_events"]
    assert len(pin_rows(llama.inspection(at), 2)) == min(2, len(said))


def test_csv_files_have_bytes(llama: Loaded) -> None:
    said = written(llama, 3333)
    rows = list(csv.DictReader(io.StringIO(pools_csv(llama.moment(3333)))))
    assert [int(row["reserved_bytes"]) for row in rows] == [
        one["reserved_bytes"] for one in (said["state"], *said["pools"])
    ]
    assert float(rows[0]["external_fragmentation"]) == said["state"]["external_fragmentation"]
    pins = list(csv.DictReader(io.StringIO(pins_csv(llama.inspection(3333)))))
    assert [int(row["hole_bytes"]) for row in pins] == [one["hole_bytes"] for one in said["pinning"]]
    assert [int(row["oldest_age_us"]) for row in pins] == [one["oldest_age_us"] for one in said["pinning"]]


def test_measures_in_words() -> None:
    assert measure_text("stranded_bytes", None) == "unknown"
    assert measure_text("reserved_over_allocated", None) == ""
    assert measure_text("external", 0.365) == "36.5%"
    assert measure_text("holes", 1234) == "1,234"


# ---- figures ----


@pytest.mark.parametrize("axis", ["events", "time"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_over_time(llama: Loaded, llama_series: Series, theme: str, axis: str) -> None:
    start = int(llama.recording.events.time_us[0])
    figure = go.Figure(
        figures.over_time(llama_series, where=None, axis=axis, event=5000, start_us=start, theme=theme)
    )
    named = {trace.name: trace for trace in figure.data}
    for name, label, _ in figures.BANDS:
        assert np.array_equal(named[label].y, llama_series.of(name, None)), name
        assert named[label].stackgroup == "bands"
    x = np.asarray(named["in holes"].x)
    if axis == "events":
        assert np.array_equal(x, llama_series.events)
        assert figure.layout.shapes[0].x0 == 5000
    else:
        assert x[0] == 0.0
        times = llama.recording.events.time_us
        assert x[-1] == pytest.approx((int(times[-1]) - start) / 1e6)
    at = 7
    assert figures.nearest_event(llama_series, axis, start, float(x[at]) + 1e-7) == llama_series.events[at]
    assert named["external fragmentation"].yaxis == "y2"
    assert len(figure.to_json()) < 100_000


def test_the_moment_is_marked_where_it_is_within_the_window(llama: Loaded) -> None:
    series = sampled_series(llama.history, sample_events(llama.history, 1000, 1050))
    arguments: dict[str, Any] = {"where": None, "axis": "events", "start_us": 0}
    for at, seen in ((1020, True), (999, False), (1051, False)):
        layout = go.Figure(figures.over_time(series, event=at, **arguments)).layout
        (line,) = layout.shapes
        low, high = layout.xaxis.range
        assert (low, high) == (series.events[0], series.events[-1])
        assert (low <= line.x0 <= high) is seen
        assert line.x0 == at or not seen


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_one_measure_of_all_compartments(llama: Loaded, llama_series: Series, theme: str) -> None:
    names = page.choices_of(llama, llama_series)
    assert list(names.values()) == ["the device", "large, stream 0", "small, stream 0"]
    for measure in ("external", "largest_free_bytes", "stranded_bytes"):
        figure = go.Figure(
            figures.by_compartment(
                llama_series, measure, names, axis="events", event=10, start_us=0, theme=theme
            )
        )
        assert [trace.name for trace in figure.data] == list(names.values())
        for where, trace in zip(llama_series.where, figure.data):
            assert np.array_equal(trace.y, llama_series.of(measure, where))


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_of_free_blocks(llama: Loaded, theme: str, counts: bool) -> None:
    moment = llama.moment(5000)
    classes = classes_of(moment.layout, demand_of(llama.history), 5000, llama.events)
    figure = go.Figure(figures.free_blocks(classes, counts=counts, theme=theme))
    *free, asked = figure.data
    drawn = sum(float(np.sum(trace.y)) for trace in free)
    assert drawn == (classes.free_count.sum() if counts else moment.fragmentation.device.free_bytes)
    assert np.nansum(asked.y) == classes.asked_count.sum()
    assert figure.layout.xaxis.ticktext[0] == "512 B"
    assert any("stranded" in trace.name for trace in free)


# ---- the page's own ----


def test_a_series_is_computed_once_for_a_window() -> None:
    library = Library()
    (item,) = library.add(str(RUN))
    loaded = library.loaded(item.key, 0)
    view = changed(None, item=item.key, device=0, tab="fragmentation", low=1000, high=1100)
    key = page.series_key(view, loaded)
    job = page.start_series(library, loaded, key)
    assert job.wait(60)
    assert job.state == "done"
    assert job.result.events.tolist() == list(range(1000, 1101))
    assert page.start_series(library, loaded, key) is job
    assert page.series_key(changed(view, event=5), loaded) == key, "the moment changes nothing"
    assert page.series_key(changed(view, low=1001), loaded) != key


def test_compartments_in_an_address() -> None:
    for where in (None, (0, False, 0), (3, True, 12)):
        assert where_of(where_key(where)) == where
    for text in (None, "", "x", "1:medium:2", "a:small:1", "1:small", "1:small:999999999999", "-1:small:0"):
        assert where_of(text) is None


def test_the_line_above_the_histogram(llama: Loaded) -> None:
    view = changed(None, item="x", tab="fragmentation", event=5000)
    device = llama.moment(5000).fragmentation.device
    _, text = page._blocks(view, llama)
    assert text.startswith(f"{format_bytes(device.free_bytes)} free in 14 blocks (replayed)")
    assert f"stranded: none fits: {format_bytes(device.stranded_bytes or 0)}" in text
    assert "938 requests until the end" in text
    _, sooner = page._blocks(with_options(view, "fragmentation", later="1000"), llama)
    asked = requests_of(llama.recording, llama.history.settings, llama.history.torch).event
    count = int(((asked >= 5000) & (asked < 6000)).sum())
    assert sooner.endswith(f" · {count} requests in the next 1,000 events")
    _, small = page._blocks(with_options(view, "fragmentation", where="0:small:0"), llama)
    (c,) = [c for c in llama.moment(5000).fragmentation.compartments if c.is_small]
    assert small.startswith(f"{format_bytes(c.measures.free_bytes)} free")


# ---- what may be missing ----


def test_the_state_alone(tmp_path: Path) -> None:
    loaded = opened(snapshot(segment(1 << 40, live(4 * MIB), hole(16 * MIB))), tmp_path)
    assert not loaded.device.has_events
    moment = loaded.moment(None)
    (row,) = pool_rows(moment)
    assert row["hole_bytes"] == 16 * MIB
    assert row["stranded_bytes_text"] == "unknown"
    assert pools_csv(moment).count("\n") == 3
    (pin,) = pin_rows(loaded.inspection(None))
    assert pin["hole_bytes"] == 16 * MIB
    assert pin["age_text"] == "older than the trace"
    assert pins_csv(loaded.inspection(None)).splitlines()[1].endswith(",,,True")
    series = sampled_series(loaded.history, np.array([0]))
    assert np.isnan(series.values["stranded_bytes"]).all()
    classes = classes_of(moment.layout, demand_of(loaded.history), 0, 0)
    assert not classes.has_requests
    assert classes.free_bytes.sum() == 16 * MIB


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_allocator_that_holds_nothing(tmp_path: Path, theme: str) -> None:
    loaded = opened(snapshot(traces=[[event("snapshot", 0, addr=0)]]), tmp_path)
    series = sampled_series(loaded.history, np.array([0, 1]))
    assert series.where == (None,)
    figure = go.Figure(figures.over_time(series, where=None, axis="time", event=1, start_us=1, theme=theme))
    assert all(not np.any(trace.y) for trace in figure.data)
    moment = loaded.moment(None)
    classes = classes_of(moment.layout, demand_of(loaded.history), 1, 1)
    assert len(classes.lower) == 0
    assert len(figures.free_blocks(classes, theme=theme)["data"]) == 1
    assert pool_rows(moment) == []
    assert device_row(moment)["reserved_bytes"] == 0
    assert pin_rows(loaded.inspection(None)) == []
    assert pins_csv(loaded.inspection(None)).count("\n") == 1
    _, text = page._blocks(changed(None, item="x", tab="fragmentation"), loaded)
    assert "Nothing is free" in text
