"""Fragmentation over a stretch of a recording, and free blocks beside the requests that came later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor.units import format_bytes
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.figures.drawing import Drawing, drawing
from oomdoctor_dashboard.fragmentation_data import FATES, STRANDED, Classes, Series, Where

# What lies between reserved and what was asked for, the worst at the bottom.
BANDS: tuple[tuple[str, str, str], ...] = (
    ("hole_bytes", "in holes", colours.HOLE),
    ("whole_bytes", "free whole segments", colours.FREE),
    ("pending_bytes", "pending", colours.PENDING),
    ("internal_bytes", "rounding", colours.SMALL_POOL),
)
_UNDIVIDED = (("free_bytes", "free", colours.FREE), *BANDS[2:])
_LINES = (
    ("largest_free_bytes", "largest free block", colours.ALLOCATED, "dot"),
    ("stranded_bytes", "stranded", colours.CAPACITY, "dash"),
)
NAMES: Mapping[str, str] = {
    "hole_bytes": "in holes",
    "largest_free_bytes": "largest free block",
    "external": "external fragmentation",
    "stranded_bytes": "stranded",
    "free_bytes": "free",
    "whole_bytes": "free whole segments",
    "pending_bytes": "pending",
    "internal_bytes": "rounding (internal)",
    "reserved_bytes": "reserved",
}
# By ``FATES``.
_FATE_COLOURS = (colours.ALLOCATED, colours.PENDING, colours.FREE, colours.CAPACITY)
_HEIGHT = 330
_MOST_LINES = 12
_BYTES_HOVER = {"hovertemplate": "%{customdata}"}


def over_time(
    series: Series, *, where: Where, axis: str, event: int, start_us: int, theme: str = "light"
) -> Drawing:
    """What is reserved and serves no request, of one compartment: bands, and external fragmentation below.

    Args:
        axis: "events" or "time"; events where no times were recorded.
        event: the moment, how many events have happened.
        start_us: time of the recording's first event.
    """
    x = positions(series, axis, start_us)
    traces: list[dict[str, Any]] = []
    top = np.zeros(len(x))
    for name, label, colour in BANDS if series.is_sampled else _UNDIVIDED:
        values = series.of(name, where)
        if values is None:
            continue
        top = top + values
        traces.append({
            "type": "scatter", "x": x, "y": values, "name": label, "stackgroup": "bands", "mode": "lines",
            "line": {"width": 0.5, "color": colour}, "fillcolor": colours.faded(colour, 0.55), **_BYTES_HOVER,
            "customdata": _texts(values),
        })  # fmt: skip
    for name, label, colour, dash in _LINES:
        values = series.of(name, where)
        if values is None or np.isnan(values).all():
            continue
        top = np.maximum(top, values)
        traces.append({
            "type": "scatter", "x": x, "y": values, "name": label, "mode": "lines",
            "line": {"width": 1.5, "color": colour, "dash": dash}, **_BYTES_HOVER,
            "customdata": _texts(values),
        })  # fmt: skip
    external = series.of("external", where)
    if external is not None:
        traces.append({
            "type": "scatter", "x": x, "y": external, "name": "external fragmentation", "mode": "lines",
            "yaxis": "y2", "showlegend": False, "line": {"width": 1.5, "color": colours.MOMENT},
            "hovertemplate": "%{y:.1%}",
        })  # fmt: skip
    ticks = colours.byte_ticks(float(top.max(initial=1.0)))
    layout = _layout_over(series, axis, start_us, theme, *ticks, two=external is not None)
    return drawing(traces, {**layout, "shapes": _mark(series, axis, event, start_us)})


def by_compartment(
    series: Series, measure: str, labels: Mapping[Where, str], *, axis: str, event: int, start_us: int,
    theme: str = "light",
) -> Drawing:  # fmt: skip
    """One measure, a line for the device and for each compartment; ``labels`` names these."""
    x = positions(series, axis, start_us)
    traces: list[dict[str, Any]] = []
    is_share = measure == "external"
    top = 1.0
    for at, where in enumerate(series.where[: _MOST_LINES + 1]):
        values = series.of(measure, where)
        if values is None or np.isnan(values).all():
            continue
        colour = colours.ink(theme) if where is None else colours.SERIES[(at - 1) % len(colours.SERIES)]
        hover = {"hovertemplate": "%{y:.1%}"} if is_share else _BYTES_HOVER
        top = max(top, float(np.nanmax(values)))
        traces.append({
            "type": "scatter", "x": x, "y": values, "name": labels.get(where, "device"), "mode": "lines",
            "line": {"width": 1.4, "color": colour, "dash": "dot" if where is None else "solid"},
            "customdata": None if is_share else _texts(values), **hover,
        })  # fmt: skip
    ticks = ([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    values_, texts = ticks if is_share else colours.byte_ticks(top)
    layout = _layout_over(series, axis, start_us, theme, values_, texts, two=False)
    return drawing(traces, {**layout, "shapes": _mark(series, axis, event, start_us)})


def positions(series: Series, axis: str, start_us: int) -> NDArray[Any]:
    """Where the moments of a series lie: events that have happened, or seconds since the first."""
    if axis == "time" and len(series.time_us) and start_us != UNKNOWN and (series.time_us != UNKNOWN).all():
        seconds: NDArray[Any] = (series.time_us - start_us) / 1e6
        return seconds
    return series.events


def nearest_event(series: Series, axis: str, start_us: int, x: float) -> int:
    """The moment of a series next to a position on the axis."""
    at = int(np.argmin(np.abs(positions(series, axis, start_us) - x)))
    return int(series.events[at])


def _texts(values: NDArray[np.float64]) -> list[str]:
    return ["" if np.isnan(one) else format_bytes(int(one)) for one in values.tolist()]


def _layout_over(
    series: Series, axis: str, start_us: int, theme: str, values: list[Any], texts: list[str], *, two: bool
) -> dict[str, Any]:
    layout = colours.layout(theme, height=_HEIGHT, hovermode="x unified")
    x = positions(series, axis, start_us)
    in_time = x is not series.events
    if len(x):
        # Stated, for else the line of a moment outside would stretch it.
        ends = [float(x[0]), max(float(x[-1]), float(x[0]) + 1e-6)]
        layout["xaxis"] = {**layout["xaxis"], "range": ends}
        layout["uirevision"] = f"{axis} {ends}"
    upper = [0.3, 1.0] if two else [0.0, 1.0]
    layout["yaxis"] = {
        **layout["yaxis"], "domain": upper, "tickvals": values, "ticktext": texts, "rangemode": "tozero",
    }  # fmt: skip
    layout["xaxis"] = {
        **layout["xaxis"],
        "title": {
            "text": "seconds since the first event" if in_time else "events that have happened",
            "font": {"color": colours.faint(theme), "size": 11},
        },
        "anchor": "y2" if two else "y",
        "hoverformat": ".3f" if in_time else ",d",
        "tickformat": "" if in_time else ",d",
        "ticksuffix": " s" if in_time else "",
    }
    if two:
        layout["yaxis2"] = {
            **layout["yaxis"], "domain": [0.0, 0.22], "range": [0, 1.04],
            "tickvals": [0, 0.5, 1], "ticktext": ["0 %", "50 %", "100 %"],
            "title": {"text": "external", "font": {"color": colours.faint(theme), "size": 11}},
        }  # fmt: skip
    layout["hoverlabel"] = {
        **layout["hoverlabel"],
        "bgcolor": colours.paper(theme),
        "font": {**layout["hoverlabel"]["font"], "color": colours.ink(theme)},
    }
    return layout


def _mark(series: Series, axis: str, event: int, start_us: int) -> list[dict[str, Any]]:
    """The moment, the first shape of the figure: assets/timeline.js moves it."""
    if not len(series.events):
        return []
    x = positions(series, axis, start_us).astype(np.float64)
    # Beyond the stretch: beyond what is seen.
    beyond = float(x[-1] - x[0]) + 1.0
    at = float(np.interp(event, series.events, x, left=x[0] - beyond, right=x[-1] + beyond))
    line = {"color": colours.MOMENT, "width": 1.5}
    return [{"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}]


def free_blocks(classes: Classes, *, counts: bool = False, theme: str = "light") -> Drawing:
    """Free blocks by size class above, the requests that came later below.

    Args:
        counts: blocks are counted; else their bytes are shown. Requests are counted in any case, on a
            logarithmic axis.
    """
    traces: list[dict[str, Any]] = []
    ticks = [_class_text(one) for one in classes.lower.tolist()]
    places = list(range(len(ticks)))
    free = classes.free_count if counts else classes.free_bytes
    for fate, (name, colour) in enumerate(zip(FATES, _FATE_COLOURS)):
        bytes_of, count = classes.free_bytes[fate], classes.free_count[fate]
        if not bytes_of.any():
            continue
        traces.append({
            "type": "bar", "x": places, "y": free[fate], "name": name,
            "marker": {"color": colour, "pattern": _pattern(fate)},
            "customdata": [
                f"{'1 block' if n == 1 else f'{n:,} blocks'}, {format_bytes(b)}"
                for n, b in zip(count.tolist(), bytes_of.tolist())
            ],
            "hovertemplate": "%{customdata}<extra>" + name + "</extra>",
        })  # fmt: skip
    traces.append({
        "type": "bar", "x": places, "yaxis": "y2",
        "y": np.where(classes.asked_count > 0, classes.asked_count, np.nan),
        "name": "requests that came later", "marker": {"color": colours.ACTIVE},
        "customdata": [
            f"{'1 request' if n == 1 else f'{n:,} requests'}, {format_bytes(b)} in all"
            for n, b in zip(classes.asked_count.tolist(), classes.asked_bytes.tolist())
        ],
        "hovertemplate": "%{customdata}<extra>requests that came later</extra>",
    })  # fmt: skip
    top = float(free.sum(axis=0).max(initial=1))
    layout = colours.layout(theme, height=_HEIGHT, barmode="stack", bargap=0.15, hovermode="x unified")
    layout["xaxis"] = {
        **layout["xaxis"], "tickvals": places, "ticktext": ticks, "anchor": "y2", "tickangle": -40,
        "title": {"text": "size: this and more", "font": {"color": colours.faint(theme), "size": 11}},
    }  # fmt: skip
    values, texts = colours.byte_ticks(top, 4)
    layout["yaxis"] = {
        **layout["yaxis"], "domain": [0.47, 1.0], "rangemode": "tozero",
        **({"tickformat": ",d"} if counts else {"tickvals": values, "ticktext": texts}),
        "title": {"text": "free blocks", "font": {"color": colours.faint(theme), "size": 11}},
    }  # fmt: skip
    layout["yaxis2"] = {
        **colours.layout(theme)["yaxis"], "domain": [0.0, 0.4], "type": "log",
        "range": [-0.3, float(np.log10(max(int(classes.asked_count.max(initial=1)), 10))) + 0.1],
        "tickvals": [10**e for e in range(9)], "ticktext": _POWERS,
        "title": {"text": "requests", "font": {"color": colours.faint(theme), "size": 11}},
    }  # fmt: skip
    layout["hoverlabel"] = {
        **layout["hoverlabel"],
        "bgcolor": colours.paper(theme),
        "font": {**layout["hoverlabel"]["font"], "color": colours.ink(theme)},
    }
    layout["margin"] = {**layout["margin"], "b": 64}
    layout["legend"] = {**layout["legend"], "traceorder": "normal"}
    return drawing(traces, layout)


_POWERS = ["1", "10", "100", "1,000", "10,000", "100 k", "1 M", "10 M", "100 M"]


def _pattern(fate: int) -> Optional[dict[str, Any]]:
    return {"shape": "/", "size": 6, "solidity": 0.35} if fate == STRANDED else None


def _class_text(lower: int) -> str:
    """``2 MiB``: a class begins at a power of two, so no decimals."""
    return format_bytes(lower).replace(".00 ", " ").replace("bytes", "B")
