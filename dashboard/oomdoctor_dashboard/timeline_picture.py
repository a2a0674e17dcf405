"""What the timeline shows of a window: a few arrays, ready to draw."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from html import escape
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.history import History
from oomdoctor.snapshot.model import ACTIONS, OOM, UNKNOWN
from oomdoctor.units import format_bytes
from oomdoctor_dashboard.timeline_bands import Bands
from oomdoctor_dashboard.timeline_data import SERIES, Timeline
from oomdoctor_dashboard.timeline_marks import Marks, Thinned, thinned

POINTS = 1_600
"""Of a line. A laptop's screen has 1,400 pixels for it."""
_OF_BANDS, _TO_HOVER, _OF_MARKS = 1_000, 600, 300

_OFF_THE_SCALE = 1.6
"""A level this far above everything else is told, not drawn: it would press the lines flat."""
_LARGEST_BANDS = 4

Numbers = NDArray[Any]
"""Positions on the axis: int64 over events, float64 over time."""


@dataclass(frozen=True)
class Hover:
    """What is said of states as the mouse passes.

    Attributes:
        after: int64[m], how many events have happened.
        position: number[m], on the axis.
        bytes: int64[m], allocated.
        rows: texts, alike in number: the state, when, what happened last, and a line per figure.
    """

    after: NDArray[np.int64]
    position: Numbers
    bytes: NDArray[np.int64]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A window of a timeline. Positions are on its axis, sizes in bytes.

    Attributes:
        over_time: the axis is seconds since the first event; else events that have happened.
        extent: where the whole recording lies.
        shown: where the window lies.
        lines: of each series positions and values; empty where bands are drawn.
        bands: labels, titles, positions, and values of each band; None where lines are drawn.
        samples: device memory in use by NVML.
        marks: by kind.
        levels: names and bytes of the lines across: capacity and the device's memory.
        beyond: of those that are far above the rest.
        bottom, top: what the vertical axis has to show. It begins above 0 only where a window, all of it high
            above, was zoomed to.
        moment: where the moment looked at is.
    """

    over_time: bool
    extent: tuple[float, float]
    shown: tuple[float, float]
    hover: Hover
    marks: tuple[Thinned, ...]
    bottom: int
    top: int
    moment: float
    lines: dict[str, tuple[Numbers, NDArray[np.int64]]] = field(default_factory=dict)
    bands: Optional[tuple[tuple[str, ...], tuple[str, ...], Numbers, NDArray[np.int64]]] = None
    samples: tuple[Numbers, NDArray[np.int64]] = field(
        default_factory=lambda: (np.empty(0), np.empty(0, np.int64))
    )
    levels: tuple[tuple[str, int], ...] = ()
    beyond: tuple[tuple[str, int], ...] = ()


def picture(
    history: History,
    timeline: Timeline,
    marks: tuple[Marks, ...],
    window: tuple[int, int],
    event: int,
    *,
    over_time: bool = False,
    bands: Optional[Bands] = None,
) -> Picture:
    """A window of a recording.

    Args:
        window: the states between which, both shown.
        event: the moment looked at.
        bands: draw these instead of lines.
    """
    low, high = window
    over_time = over_time and timeline.has_times
    lines = {}
    stack = None
    if bands is None:
        for name in SERIES:
            states = timeline.kept_around(name, low, high, POINTS, over_time)
            lines[name] = (timeline.positions(states, over_time), timeline.series[name][states])
        least = int(timeline.series["allocated"][low : high + 1].min())
    else:
        states = timeline.kept_around("allocated", low, high, _OF_BANDS, over_time)
        values = bands.at(states)
        stack = (bands.labels, bands.titles, timeline.positions(states, over_time), values)
        # No band may vanish below the axis.
        inside = (states >= low) & (states <= high)
        least = int(values[0, inside].min()) if len(values) else 0
    bottom, top = _heights(timeline, low, high, least, with_reserved=bands is None)
    levels, beyond, top = _levels(timeline, bottom, top, with_device=bands is None)
    ends = timeline.positions(np.array([0, timeline.events, low, high, event]), over_time).tolist()
    return Picture(
        over_time=over_time,
        extent=(ends[0], ends[1]),
        shown=(ends[2], ends[3]),
        hover=_hover(history, timeline, low, high, over_time, bands),
        marks=tuple(thinned(one, timeline, low, high, _OF_MARKS, over_time) for one in marks),
        bottom=bottom,
        top=top,
        moment=ends[4],
        lines=lines,
        bands=stack,
        samples=_samples(timeline, over_time) if bands is None else (np.empty(0), np.empty(0, np.int64)),
        levels=levels,
        beyond=beyond,
    )


def _heights(timeline: Timeline, low: int, high: int, least: int, *, with_reserved: bool) -> tuple[int, int]:
    """Between which sizes a window lies, of which ``least`` has to be seen. The whole is seen from 0."""
    top = timeline.peak("reserved" if with_reserved else "allocated", low, high).bytes
    if (low, high) == (0, timeline.events):
        return 0, max(top, int(timeline.samples.used_bytes.max(initial=0)) if with_reserved else 0)
    # Small changes of much are to be seen, but no noise made a mountain.
    bottom = least - max(top - least, top // 50) // 4
    return (bottom if bottom > top // 2 else 0), top


def _levels(
    timeline: Timeline, bottom: int, top: int, *, with_device: bool
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...], int]:
    """Levels that are drawn, levels that are not, and the top of the axis."""
    known = [(f"PyTorch could reserve ({timeline.capacity_basis})", timeline.capacity_bytes)]
    if with_device:
        known.append(("device memory", timeline.total_bytes))
    there = [(name, size) for name, size in known if size is not None and size > 0]
    drawn = tuple(one for one in there if one[1] - bottom <= (top - bottom) * _OFF_THE_SCALE)
    beyond = tuple(one for one in there if one not in drawn)
    return drawn, beyond, max([top, *(size for _, size in drawn)])


def _samples(timeline: Timeline, over_time: bool) -> tuple[Numbers, NDArray[np.int64]]:
    """In time each; over events of those between two events the most."""
    samples = timeline.samples
    if not len(samples.after):
        return np.empty(0), np.empty(0, np.int64)
    if over_time:
        start = int(timeline.time_us(np.zeros(1, np.int64))[0])
        # Of a long run more than pixels: again the most of each.
        step = -(-len(samples.after) // POINTS)
        starts = np.arange(0, len(samples.after), step)
        return (samples.time_us[starts] - start) / 1e6, np.maximum.reduceat(samples.used_bytes, starts)
    column = (
        samples.after * POINTS // max(timeline.events, 1) if len(samples.after) > POINTS else samples.after
    )
    _, starts = np.unique(column, return_index=True)
    return samples.after[starts].astype(np.float64), np.maximum.reduceat(samples.used_bytes, starts)


def _hover(
    history: History, timeline: Timeline, low: int, high: int, over_time: bool, bands: Optional[Bands]
) -> Hover:
    states = timeline.kept(timeline.series["allocated"], low, high, _TO_HOVER, over_time)
    figures = {name: timeline.series[name][states] for name in SERIES}
    what = _happened(history, states)
    when = _times(timeline, states)
    rows = []
    largest = _largest(bands, states) if bands is not None else None
    for i, state in enumerate(states.tolist()):
        sizes = "  ".join(f"{name} {format_bytes(int(figures[name][i]))}" for name in SERIES)
        if largest is not None:
            sizes = f"allocated {format_bytes(int(figures['allocated'][i]))}{largest[i]}"
        rows.append((f"after {state:,} events{when[i]}", what[i], sizes))
    return Hover(states, timeline.positions(states, over_time), figures["allocated"], tuple(rows))


def _happened(history: History, states: NDArray[np.int64]) -> list[str]:
    """What the last event of each state was."""
    events = history.recording.events
    out = []
    for state in states.tolist():
        if not state:
            out.append("before the first event")
            continue
        action = int(events.action[state - 1])
        size = int(events.entry_size[state - 1])
        told = f" {format_bytes(size)}" if action <= OOM and size != UNKNOWN else ""
        out.append(f"event {state - 1:,}: {ACTIONS[action]}{told}")
    return out


def _times(timeline: Timeline, states: NDArray[np.int64]) -> list[str]:
    """Since the first event and by the clock."""
    if not timeline.has_times:
        return [""] * len(states)
    seconds = timeline.positions(states, over_time=True).tolist()
    return [
        f"  ·  {since:,.3f} s  ·  {_clock(when // 1_000_000)}"
        for since, when in zip(seconds, timeline.time_us(states).tolist())
    ]


@lru_cache(maxsize=4096)
def _clock(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "no such time"  # a file may say anything


def _largest(bands: Bands, states: NDArray[np.int64]) -> list[str]:
    """The largest bands of each state, a line each."""
    values = bands.at(states)
    order = np.argsort(-values, axis=0, kind="stable")[:_LARGEST_BANDS]
    return [
        "".join(
            f"<br>{format_bytes(int(values[band, i]))}  {escape(bands.labels[band])}"
            for band in order[:, i].tolist()
            if values[band, i] > 0
        )
        for i in range(len(states))
    ]
