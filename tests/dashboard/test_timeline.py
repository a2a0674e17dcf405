"""The timeline: few points for many without losing a peak, bands that sum, marks where they belong."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dash
import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oomdoctor_dashboard.extremes import bounds_by_position, even_bounds, extremes
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.figures.timeline import MOMENT_SHAPE, timeline_figure
from oomdoctor_dashboard.library import Item, Library, Loaded
from oomdoctor_dashboard.pages import timeline as page
from oomdoctor_dashboard.timeline_bands import MAKERS, OLDER, OTHERS, by_lifetime, by_stack
from oomdoctor_dashboard.timeline_data import SERIES, Timeline
from oomdoctor_dashboard.timeline_marks import marks_of, thinned
from oomdoctor_dashboard.timeline_picture import picture
from oomdoctor_dashboard.view import changed, with_options

from oomdoctor.allocator.heap_layout import CAUSE_EMPTY_CACHE, CAUSE_GARBAGE_COLLECTION
from oomdoctor.allocator.loading import load_device
from oomdoctor.allocator.releases import Burst
from oomdoctor.diagnosis.inspection import inspect_device
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import Snapshot, read_snapshot
from oomdoctor.snapshot.model import ACTIVE_ALLOCATED, OOM, UNKNOWN, Annotation

TRACES = Path(__file__).parents[2] / "traces"
OOM_RUN, END_RUN = TRACES / "llama-4-layers-two-gpus", TRACES / "llama-2-layers-to-the-end"
MIB = 1 << 20


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def loaded(library: Library) -> Loaded:
    """Device 0 of the run that ran out of memory."""
    (item,) = library.add(str(OOM_RUN))
    return library.loaded(item.key, 0)


@pytest.fixture(scope="module")
def ended(library: Library) -> Loaded:
    """Device 0 of the run that came to its end: 36,063 events."""
    (item,) = library.add(str(END_RUN))
    return library.loaded(item.key, 0)


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return read_snapshot(str(next(OOM_RUN.glob("processes/*/0001-oom.pickle"))))


def loaded_of(snapshot: Snapshot) -> Loaded:
    """Device 0 of a snapshot that was made here."""
    source = SnapshotSource("made.pickle", torch_version="2.15.0")
    item = Item(key="made", source=source, run=None, group="made", label="made")
    return Loaded(item, load_device(snapshot, source, 0))


def with_events(snapshot: Snapshot, change: Callable[[Any], Any]) -> Snapshot:
    return dataclasses.replace(snapshot, traces=(change(snapshot.traces[0]), *snapshot.traces[1:]))


@pytest.fixture(scope="module")
def late(snapshot: Snapshot) -> Loaded:
    """The same recording, begun 4,000 events later: it has blocks older than itself."""
    return loaded_of(with_events(snapshot, lambda events: events.take(np.arange(4000, len(events)))))


@pytest.fixture(scope="module")
def timeless(snapshot: Snapshot) -> Loaded:
    """The same recording by a torch that writes no times."""
    return loaded_of(
        with_events(
            snapshot,
            lambda events: dataclasses.replace(events, time_us=np.full(len(events), UNKNOWN, np.int64)),
        )
    )


def view_of(one: Loaded, **changes: Any) -> Any:
    return changed(None, item=one.item.key, device=0, **changes)


# ---- few points for many ----


def test_extremes_of_stretches() -> None:
    values = np.array([5, 1, 9, 9, 1, 7, 7])
    assert extremes(values, np.array([0, 4, 4, 7])).tolist() == [1, 2, 4, 5]
    assert extremes(values, even_bounds(7, 1)).tolist() == [1, 2]
    assert even_bounds(10, 3).tolist() == [0, 3, 6, 10]
    assert bounds_by_position(np.array([0, 1, 2, 3, 90, 99]), 3).tolist() == [0, 4, 4, 6]


def timeline_over(times: np.ndarray[Any, Any]) -> Timeline:
    timeline = Timeline.__new__(Timeline)
    timeline.events, timeline._times = len(times), times
    return timeline


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_extremes_survive_whatever_the_window(data: Any) -> None:
    n = data.draw(st.integers(1, 3000))
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    values = rng.integers(0, 1 << 40, n + 1)
    gaps = np.where(rng.random(n) < 0.01, rng.integers(0, 10**8, n), rng.integers(0, 3, n))
    timeline = timeline_over(1795226881507190 + np.cumsum(gaps))
    low = data.draw(st.integers(0, n))
    high = data.draw(st.integers(low, n))
    most = data.draw(st.integers(8, 500))
    for over_time in (False, True):
        kept = timeline.kept(values, low, high, most, over_time)
        assert len(kept) <= most
        assert (np.diff(kept) > 0).all()
        assert (kept[0], kept[-1]) == (low, high)
        window = values[low : high + 1]
        assert (values[kept].max(), values[kept].min()) == (window.max(), window.min())
        if high - low < most:
            assert kept.tolist() == list(range(low, high + 1))


def test_over_time_the_last_of_a_crowd_is_kept_before_a_long_silence() -> None:
    # 1,000 events within a millisecond, the last of them neither least nor most; then nothing for a second.
    times = np.concatenate([np.arange(1000), [1_000_000]]) + 10**15
    values = np.concatenate([[0], np.resize([10, 90], 999), [50, 50]])
    timeline = timeline_over(times)
    kept = timeline.kept(values, 0, 1001, 100, over_time=True)
    assert 1000 in kept
    assert values[1000] == 50


def test_every_pixel_has_its_peak(ended: Loaded) -> None:
    timeline = Timeline(ended.device)
    for name in ("allocated", "reserved"):
        values = timeline.series[name]
        kept = timeline.kept(values, 0, timeline.events, 1600, over_time=False)
        # Columns as wide as the sampler's, and one of neighbours: a peak is kept within two of them.
        edges = np.linspace(0, timeline.events + 1, 400).astype(int)
        for start, stop in zip(edges[:-1], edges[2:]):
            here = kept[(kept >= start) & (kept < stop)]
            inner = values[start + 50 : stop - 50]
            assert values[here].max() >= inner.max()
            assert values[here].min() <= inner.min()


def test_a_narrow_window_is_the_recording_itself(ended: Loaded) -> None:
    low, high = 20_000, 20_700
    seen = page.picture_of(ended, view_of(ended, low=low, high=high))
    for name in SERIES:
        x, y = seen.lines[name]
        inside = (x >= low) & (x <= high)
        assert x[inside].tolist() == list(range(low, high + 1))
        states = np.arange(low - 1, high)
        assert y[inside].tolist() == ended.history.effects[f"{name}_bytes"][states].tolist()
        assert len(x) <= 1600
        assert (x[0], x[-1]) == (0, ended.events)  # a rough picture of what lies beside it


def test_beside_a_window_no_peak_is_lost_either() -> None:
    values = np.random.default_rng(1).integers(1000, 2000, 100_001)
    values[[11_111, 88_888]] = 1, 9999
    timeline = object.__new__(Timeline)
    timeline.events, timeline.series, timeline._coarse_states = 100_000, {"allocated": values}, {}
    timeline._times = np.arange(100_000)
    low, high = 50_000, 51_000
    states = timeline.kept_around("allocated", low, high, 400, False)
    assert len(states) <= 400
    assert {0, 11_111, low, high, 88_888, 100_000} <= set(states.tolist())
    inside = states[(states >= low) & (states <= high)]
    assert inside.tolist() == timeline.kept(values, low, high, 300, False).tolist()
    # A stretch that is short is gone through itself.
    near = timeline.kept_around("allocated", 2000, 3000, 400, False)
    assert near[near <= 2000].tolist() == timeline.kept(values, 0, 2000, 50, False).tolist()


def test_never_more_points_than_pixels(ended: Loaded) -> None:
    for axis in ("events", "time"):
        for window in ((None, None), (100, 30_000)):
            seen = page.picture_of(ended, view_of(ended, axis=axis, low=window[0], high=window[1]))
            assert max(len(x) for x, _ in seen.lines.values()) <= 1600
            assert seen.over_time == (axis == "time")


# ---- the same numbers as inspect ----


def test_the_figures_are_those_of_inspect(loaded: Loaded, ended: Loaded) -> None:
    for one in (loaded, ended):
        timeline = Timeline(one.device)
        for event in (None, 0, 1, one.events // 3):
            device = inspect_device(one.device, event).moment.fragmentation.device
            state = one.event(event)
            assert timeline.series["allocated"][state] == device.allocated_bytes
            assert timeline.series["active"][state] == device.allocated_bytes + device.pending_bytes
            assert timeline.series["reserved"][state] == device.reserved_bytes
            requested = device.allocated_bytes + device.pending_bytes - device.internal_bytes
            assert timeline.series["requested"][state] == requested


def test_peaks_are_those_that_torch_counted(loaded: Loaded) -> None:
    timeline = Timeline(loaded.device)
    (entry, _) = loaded.item.source.document["devices"]
    assert timeline.peaks["allocated"].bytes == entry["max_allocated_bytes"]
    assert timeline.peaks["reserved"].bytes == entry["max_reserved_bytes"]
    assert (
        loaded.moment(timeline.peaks["allocated"].after).fragmentation.device.allocated_bytes
        == (entry["max_allocated_bytes"])
    )
    text = page.summary(loaded, view_of(loaded), page.picture_of(loaded, view_of(loaded)))
    assert text.startswith("Peak allocated 1.11 GiB after 7,812 events, reserved 1.16 GiB (recorded)")
    zoomed = view_of(loaded, low=1000, high=2000)
    here = int(timeline.series["allocated"][1000:2001].argmax()) + 1000
    assert f"in view 1.05 GiB after {here:,} events" in page.summary(
        loaded, zoomed, page.picture_of(loaded, zoomed)
    )


# ---- bands ----


@pytest.mark.parametrize("mode", sorted(MAKERS))
@pytest.mark.parametrize("which", ["loaded", "ended", "late"])
def test_bands_sum_to_allocated_at_every_point(mode: str, which: str, request: pytest.FixtureRequest) -> None:
    one: Loaded = request.getfixturevalue(which)
    timeline = Timeline(one.device)
    bands = MAKERS[mode](one.history)
    every = np.arange(one.events + 1)
    values = bands.at(every)
    assert (values.sum(axis=0) == timeline.series["allocated"]).all()
    assert values.min() >= 0
    assert len(values) <= 12
    assert (OLDER in bands.labels) == (which == "late")
    seen = page.picture_of(one, with_options(view_of(one, low=100, high=3000), "timeline", mode=mode))
    assert seen.bands is not None
    _, _, x, drawn = seen.bands
    assert (drawn.sum(axis=0) == timeline.series["allocated"][x]).all()
    assert len(x) <= 1000


def test_bands_by_stack_are_the_live_blocks_of_their_place(loaded: Loaded, late: Loaded) -> None:
    for one in (loaded, late):
        bands = by_stack(one.history)
        assert len(bands.labels) == 11 + (one is late)
        assert bands.labels[-1] == OTHERS
        stacks = one.recording.snapshot.stacks
        for event in (500, 2000, one.events):
            moment = one.moment(event)
            found: Counter[str] = Counter()
            allocated = moment.layout.state == ACTIVE_ALLOCATED
            for row in np.flatnonzero(allocated).tolist():
                size = int(moment.layout.blocks["size"][row])
                born = moment.birth[row]
                place = page_title(stacks[moment.stack[row]]) if born != UNKNOWN else bands.titles[0]
                found[place if place in bands.titles else bands.titles[-1]] += size
            values = bands.at(np.array([event]))[:, 0].tolist()
            assert found == Counter(dict(zip(bands.titles, values))), event


def page_title(stack: Any) -> str:
    from oomdoctor.diagnosis.frames import frame_text, telling_frames

    return " ← ".join(frame_text(frame) for frame in telling_frames(stack))


def test_bands_by_stack_are_the_ten_of_the_highest_peak(ended: Loaded) -> None:
    bands = by_stack(ended.history)
    peaks = bands.at(np.arange(ended.events + 1)).max(axis=1)[:-1].tolist()
    assert peaks == sorted(peaks, reverse=True)
    assert len(peaks) == 10
    assert bands.titles[0].startswith("build_model")


def test_bands_by_lifetime_count_events_until_the_free(loaded: Loaded) -> None:
    bands = by_lifetime(loaded.history)
    recording, effects = loaded.recording, loaded.history.effects
    freed = {int(b): i for i, b in enumerate(recording.birth) if recording.events.action[i] == 1}
    event = 350  # some of each, and one block that lives but a little longer than 100 events
    alive = [
        b for b in range(event) if recording.events.action[b] == 0 and freed.get(b, loaded.events) >= event
    ]
    expected: Counter[str] = Counter()
    lives: list[int] = []
    for b in alive:
        lived = freed[b] - b if b in freed else None
        label = "never freed"
        if lived is not None:
            label = "less than 100 events" if lived < 100 else "100 to 10,000 events"
            lives.append(lived)
        expected[label] += int(effects["block_size"][b])
    assert len(expected) == 3
    assert any(100 <= lived < 200 for lived in lives)
    values = bands.at(np.array([event]))[:, 0].tolist()
    assert expected == Counter(dict(zip(bands.labels, values)))


# ---- marks ----


def test_marks_are_at_their_events(loaded: Loaded) -> None:
    marks = {one.kind: one for one in marks_of(loaded.history, Timeline(loaded.device))}
    assert sorted(marks) == ["oom", "retry"]
    (at,) = np.flatnonzero(loaded.recording.events.action == OOM).tolist()
    assert marks["oom"].after.tolist() == [at + 1]
    assert marks["oom"].text(0) == "out of memory: 32.00 MiB were asked for, the device had 16.00 MiB free"
    # The segment that the retry gave back is gone in the state that its mark leads to, not before.
    (after,) = marks["retry"].after.tolist()
    reserved = Timeline(loaded.device).series["reserved"]
    assert reserved[after - 1] - reserved[after] == marks["retry"].bytes[0] == 2 * MIB


def test_releases_are_marked_by_their_cause(loaded: Loaded) -> None:
    (burst,) = loaded.history.bursts
    for cause, kind in ((CAUSE_GARBAGE_COLLECTION, "garbage_collection"), (CAUSE_EMPTY_CACHE, "empty_cache")):
        history = copy.copy(loaded.history)
        history.bursts = [Burst(burst.start, burst.stop, cause, (), False)]
        marks = {one.kind: one for one in marks_of(history, Timeline(loaded.device))}
        assert sorted(marks) == sorted(["oom", kind])
        assert marks[kind].after.tolist() == [burst.stop]
        assert marks[kind].text(0).endswith("gave back 2.00 MiB")


def test_annotations_come_by_their_time(snapshot: Snapshot, loaded: Loaded) -> None:
    times = snapshot.traces[0].time_us
    annotations = (
        Annotation("step <2>", "START", 0, int(times[500]) + 1),
        Annotation("step 1", "START", -1, int(times[0]) - 5),
        Annotation("elsewhere", "START", 1, int(times[500])),
    )
    one = loaded_of(dataclasses.replace(snapshot, annotations=annotations))
    timeline = Timeline(one.device)
    marks = {found.kind: found for found in marks_of(one.history, timeline)}["annotation"]
    assert [marks.text(row) for row in range(len(marks))] == ["step 1 START", "step <2> START"]
    after = int(np.searchsorted(times, times[500] + 1, side="right"))
    assert marks.after.tolist() == [0, after]
    figure = go.Figure(timeline_figure(page.picture_of(one, view_of(one)), "light"))
    (trace,) = [found for found in figure.data if found.name == "annotation"]
    assert trace.customdata[1][1] == "step &lt;2&gt; START"  # plotly reads tags


def test_marks_beside_one_another_are_one_with_a_count(loaded: Loaded) -> None:
    timeline = Timeline(loaded.device)
    history = copy.copy(loaded.history)
    at = [100, 101, 102, 5000]
    history.bursts = [Burst(i - 1, i, CAUSE_EMPTY_CACHE, (), False) for i in at]
    (marks,) = [one for one in marks_of(history, timeline) if one.kind == "empty_cache"]
    few = thinned(marks, timeline, 0, loaded.events, 300, over_time=False)
    assert few.after.tolist() == [100, 5000]
    assert few.texts[0].endswith("(and 2 more beside it)")
    assert "more" not in few.texts[1]
    near = thinned(marks, timeline, 90, 110, 300, over_time=False)
    assert near.after.tolist() == [100, 101, 102]


# ---- time ----


def test_time_is_seconds_since_the_first_event(loaded: Loaded) -> None:
    timeline = Timeline(loaded.device)
    times = loaded.recording.events.time_us
    states = np.array([0, 1, 1000])
    expected = [0.0, 0.0, (times[999] - times[0]) / 1e6]
    assert timeline.positions(states, over_time=True).tolist() == expected
    low, high = timeline.window_between(0.5, 1.5, over_time=True)
    assert times[low - 1] - times[0] <= 500_000 < times[low] - times[0]
    assert times[high - 2] - times[0] <= 1_500_000 < times[high - 1] - times[0]
    # The axis that is drawn covers what was asked for.
    seen = page.picture_of(loaded, view_of(loaded, axis="time", low=low, high=high))
    assert seen.shown[0] <= 0.5
    assert seen.shown[1] >= 1.5
    assert seen.hover.rows[0][0].startswith(f"after {low:,} events  ·  ")
    assert seen.hover.rows[0][0].endswith("2026-11-21 02:08:02 UTC")


def test_without_times_there_are_only_events(timeless: Loaded) -> None:
    timeline = Timeline(timeless.device)
    assert not timeline.has_times
    seen = page.picture_of(timeless, view_of(timeless, axis="time"))
    assert not seen.over_time
    assert seen.extent == (0, timeless.events)


def test_the_page_says_why_time_cannot_be_chosen(timeless: Loaded, loaded: Loaded) -> None:
    for one, label in ((timeless, "Time (torch before 2.2 records no times)"), (loaded, "Time")):
        (events, time) = drawing(Holding(one))(view_of(one))[4]
        assert time == {"value": "time", "label": label, "disabled": one is timeless}
        assert not events.get("disabled")


def test_a_window_fits_the_recording(loaded: Loaded) -> None:
    timeline, n = Timeline(loaded.device), loaded.events
    assert timeline.window(None, None) == (0, n)
    assert timeline.window(-5, n + 9) == (0, n)
    assert timeline.window(10, 11) == (8, 12)
    assert timeline.window(n, n) == (n - 4, n)
    assert timeline.window(0, 0) == (0, 4)
    assert timeline.window_between(10.4, 99.2, over_time=False) == (10, 100)


# ---- the device, by NVML ----


def test_samples_of_the_device_are_joined_by_time(library: Library, loaded: Loaded) -> None:
    samples = Timeline(loaded.device, loaded.item.run).samples
    # Of nine samples of either device those that were taken during the recording, of this device alone.
    assert samples.used_bytes.tolist() == [1598029824, 1734344704]
    times = loaded.recording.events.time_us
    for taken, after in zip(samples.time_us.tolist(), samples.after.tolist()):
        assert times[after - 1] <= taken < times[after]
    other = library.loaded(loaded.item.key, 1)
    assert 1598029824 in Timeline(other.device, other.item.run).samples.used_bytes
    assert 1732247552 in Timeline(other.device, other.item.run).samples.used_bytes
    assert not len(Timeline(loaded.device).samples.after)  # a bare file has nothing beside it
    assert not len(Timeline(loaded.device, str(TRACES / "nowhere")).samples.after)


def test_capacity_is_drawn_where_it_is_near_and_told_where_it_is_not(loaded: Loaded, ended: Loaded) -> None:
    near = page.picture_of(loaded, view_of(loaded))
    assert near.levels == (
        ("PyTorch could reserve (at the out-of-memory error)", 1241513984 + 16777216),
        ("device memory", 1782579200),
    )
    assert not near.beyond
    assert near.top == 1782579200
    # Nor do their names lie over each other, however near the levels are.
    notes = timeline_figure(near, "light")["layout"]["annotations"]
    reserve, device = (next(one for one in notes if one["text"].startswith(name)) for name, _ in near.levels)
    assert device["x"] - reserve["x"] > 0.4
    far = page.picture_of(ended, view_of(ended))
    assert not far.levels
    assert [size for _, size in far.beyond] == [25245515776, 25769803776]
    assert "device memory: 24.00 GiB" in page.summary(ended, view_of(ended), far)
    assert far.top == 3045064704  # the most that NVML saw in use


def test_a_window_high_above_nothing_says_where_its_axis_begins(loaded: Loaded, late: Loaded) -> None:
    # The whole recording is seen from 0, also where it never came near.
    assert Timeline(late.device).series["allocated"].min() > 900 * MIB
    assert page.picture_of(late, view_of(late)).bottom == 0
    seen = page.picture_of(loaded, view_of(loaded, low=2000, high=3000))
    least = int(Timeline(loaded.device).series["allocated"][2000:3001].min())
    assert least // 2 < seen.bottom < least
    figure = go.Figure(timeline_figure(seen, "light"))
    assert figure.layout.yaxis.range[0] == seen.bottom
    assert any("the axis begins at" in note.text for note in figure.layout.annotations)
    assert 2 <= len(figure.layout.yaxis.tickvals) <= 12


def test_no_band_vanishes_below_the_axis(loaded: Loaded) -> None:
    for mode in sorted(MAKERS):
        view = with_options(view_of(loaded, low=2000, high=3000), "timeline", mode=mode)
        seen = page.picture_of(loaded, view)
        assert seen.bands is not None
        _, _, x, values = seen.bands
        assert seen.bottom < values[0, (x >= 2000) & (x <= 3000)].min()
        if mode == "stack":
            assert seen.bottom > 900 * MIB
    # Of this one the lowest band is small.
    history = copy.copy(loaded.history)
    few = dataclasses.replace(
        by_stack(history),
        labels=("a", "b"),
        titles=("a", "b"),
        start=(MIB, 900 * MIB),
        after=(np.empty(0, np.int64),) * 2,
        bytes=(np.empty(0, np.int64),) * 2,
    )
    assert picture(history, Timeline(loaded.device), (), (2000, 3000), 0, bands=few).bottom == 0


# ---- the figure ----


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("mode", ["lines", *sorted(MAKERS)])
def test_the_figure_in_either_theme(loaded: Loaded, theme: str, mode: str) -> None:
    view = with_options(view_of(loaded, event=1234), "timeline", mode=mode)
    figure = go.Figure(timeline_figure(page.picture_of(loaded, view), theme))
    assert figure.layout.paper_bgcolor == colours.paper(theme)
    moment = figure.layout.shapes[MOMENT_SHAPE]
    assert (moment.x0, moment.x1, moment.line.color) == (1234, 1234, colours.MOMENT)
    names = [trace.name for trace in figure.data]
    stacked = [trace for trace in figure.data if trace.stackgroup]
    assert ("reserved" in names) == (mode == "lines")
    assert bool(stacked) == (mode != "lines")
    assert {"out of memory", "retry"} <= set(names)
    if mode == "stack":
        shown = [note for note in figure.layout.annotations if note.hovertext]
        assert len(shown) == len(stacked) == 11
        assert shown[-1].hovertext.startswith("build_model")
        assert stacked[0].fillcolor in shown[-1].text
    # What can be clicked begins with its number of events.
    clickable = [trace for trace in figure.data if trace.customdata is not None]
    assert len(clickable) == 3
    for trace in clickable:
        assert [row[0] for row in trace.customdata] == list(trace.x)
    assert len(figure.to_json()) < 500_000


# ---- the page ----


def test_a_zoom_asks_for_a_window_and_the_figures_own_range_does_not(loaded: Loaded) -> None:
    view = view_of(loaded)
    zoom = {"xaxis.range[0]": 99.6, "xaxis.range[1]": 2000.2}
    asked = page.asked_for(loaded, view, zoom)
    assert asked == {"low": 99, "high": 2001}
    zoomed = changed(view, **asked)
    figure = go.Figure(timeline_figure(page.picture_of(loaded, zoomed), "light"))
    assert tuple(figure.layout.xaxis.range) == (99, 2001)
    own = {"xaxis.range": list(figure.layout.xaxis.range)}
    assert page.asked_for(loaded, zoomed, own) is None
    assert page.asked_for(loaded, zoomed, {"autosize": True}) is None
    assert page.asked_for(loaded, zoomed, {"shapes[0].x0": 5}) is None
    assert page.asked_for(loaded, zoomed, {"xaxis.range": "no"}) is None
    whole = {"xaxis.range[0]": -50, "xaxis.range[1]": loaded.events + 50.0}
    assert page.asked_for(loaded, zoomed, whole) == {"low": None, "high": None}
    assert page.asked_for(loaded, view, whole) is None


class Holding(Library):
    """A library of one device that was made here."""

    def __init__(self, one: Loaded) -> None:
        super().__init__()
        self.one = one

    def loaded(self, key: str, device: int) -> Loaded:
        return self.one


def drawing(library: Library) -> Callable[..., Any]:
    """The page's drawing callback, as Dash would call it."""
    app = dash.Dash("test")
    page.register(app, library)
    (key,) = [key for key in app.callback_map if "timeline-graph.figure" in key]
    draw: Callable[..., Any] = app.callback_map[key]["callback"].__wrapped__
    return draw


def test_the_moment_stands_where_it_lies(library: Library, loaded: Loaded) -> None:
    """The browser moves it, by events or by seconds."""
    draw = drawing(library)
    first = draw(view_of(loaded, event=10))
    assert len(first) == 7
    assert first[0]["layout"]["shapes"][MOMENT_SHAPE]["x0"] == 10
    over_time = draw(view_of(loaded, event=20, axis="time"))
    assert over_time[0]["layout"]["shapes"][MOMENT_SHAPE]["x0"] == pytest.approx(page.seconds_of(loaded, 20))
    times = loaded.recording.events.time_us
    assert page.seconds_of(loaded, 20) == pytest.approx((int(times[19]) - int(times[0])) / 1e6)
    assert all(value is dash.no_update for value in draw(None))


def test_a_state_without_history_says_so(snapshot: Snapshot) -> None:
    one = loaded_of(dataclasses.replace(snapshot, traces=()))
    assert one.events == 0

    _, style, drawn, text, axes, _, none = drawing(Holding(one))(view_of(one))
    assert style["display"] == "none"
    assert none.title == "No history was recorded"
    assert "trace -- COMMAND" in none.children[0].children
    assert axes[1] == {"value": "time", "label": "Time", "disabled": True}
    assert text == ""
    assert drawn == page.key_of(view_of(one))
    assert Timeline(one.device).series["reserved"].tolist() == [1241513984]


def test_what_is_not_open_is_told_on_the_page(library: Library) -> None:
    answer = drawing(library)(changed(None, item="gone", device=0))
    assert answer[1]["display"] == "none"
    assert "not open here" in answer[6].title


def test_a_picture_does_not_need_its_moment_in_the_window(loaded: Loaded) -> None:
    timeline = Timeline(loaded.device)
    seen = picture(loaded.history, timeline, (), (100, 200), 5000)
    assert seen.moment == 5000
    assert seen.shown == (100, 200)
