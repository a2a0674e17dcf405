"""The timeline: memory over the events of a recording or over time, with what happened above it."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from oomdoctor.units import format_bytes
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.timeline_marks import NAMES
from oomdoctor_dashboard.timeline_picture import Picture

MOMENT_SHAPE = 0
"""Which of the figure's shapes is the line of the moment looked at."""

_LINES = {
    "reserved": {"color": colours.RESERVED, "width": 1.5},
    "active": {"color": colours.ACTIVE, "width": 1.2},
    "allocated": {"color": colours.ALLOCATED, "width": 1.5},
    "requested": {"color": colours.PENDING, "width": 1, "dash": "dot"},
}
_MARKS = {
    "oom": (colours.OOM, "x", 10),
    "retry": (colours.RETRY, "triangle-up", 9),
    "garbage_collection": (colours.GARBAGE_COLLECTION, "diamond", 8),
    "empty_cache": (colours.EMPTY_CACHE, "square", 7),
    "annotation": (colours.ANNOTATION, "line-ns-open", 9),
}
_STRIP = 0.09
"""The part of the height that marks have to themselves, above the lines."""


def timeline_figure(picture: Picture, theme: str) -> go.Figure:
    """A window of a recording. ``customdata`` of what can be clicked begins with its number of events."""
    data = _bands(picture) if picture.bands is not None else _lines(picture, theme)
    data += [_ooms(picture), _hover(picture), *_marks(picture)]
    figure = go.Figure(data=data)
    figure.update_layout(**_layout(picture, theme))
    return figure


def _lines(picture: Picture, theme: str) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for name, line in _LINES.items():
        x, y = picture.lines[name]
        if theme == "dark" and name == "reserved":
            line = {**line, "color": colours.faint(theme)}
        out.append(
            {
                "type": "scatter", "mode": "lines", "name": name, "x": x, "y": y,
                "line": {**line, "shape": "hv"}, "hoverinfo": "skip",
                "visible": "legendonly" if name == "requested" else True,
                **({"fill": "tozeroy", "fillcolor": "rgba(43,108,176,0.14)"} if name == "allocated" else {}),
            }
        )  # fmt: skip
    x, y = picture.samples
    if len(x):
        out.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": "device in use, NVML", "x": x, "y": y,
                "line": {"color": colours.DEVICE, "width": 1, "dash": "dot"},
                "marker": {"size": 4, "color": colours.DEVICE}, "hoverinfo": "skip",
            }
        )  # fmt: skip
    return out


def _bands(picture: Picture) -> list[dict[str, Any]]:
    assert picture.bands is not None
    labels, x, values = picture.bands
    plain = {"older than the trace": colours.faint("light"), "others": colours.OTHERS}
    others = [label for label in labels if label not in plain]
    colour = {label: colours.SERIES[i % len(colours.SERIES)] for i, label in enumerate(others)} | plain
    return [
        {
            "type": "scatter", "mode": "lines", "name": label, "x": x, "y": y, "stackgroup": "allocated",
            "line": {"width": 0, "shape": "hv", "color": colour[label]}, "fillcolor": colour[label],
            "hoverinfo": "skip", "legendgroup": "bands",
        }
        for label, y in zip(labels, values)
    ]  # fmt: skip


def _hover(picture: Picture) -> dict[str, Any]:
    """Unseen points that speak: texts of all lines at once, and the state that a click means."""
    hover = picture.hover
    return {
        "type": "scatter", "mode": "markers", "x": hover.position, "y": hover.bytes, "showlegend": False,
        "marker": {"size": 1, "opacity": 0}, "name": "",
        "customdata": [[after, *row] for after, row in zip(hover.after.tolist(), hover.rows)],
        "hovertemplate": "%{customdata[1]}<br>%{customdata[2]}<br>%{customdata[3]}<extra></extra>",
    }  # fmt: skip


def _ooms(picture: Picture) -> dict[str, Any]:
    """Lines down from the marks of out-of-memory errors, as one trace."""
    x: list[Any] = []
    y: list[Any] = []
    for marks in picture.marks:
        if marks.kind == "oom":
            for at in marks.position.tolist():
                x += [at, at, None]
                y += [0, _top(picture), None]
    return {
        "type": "scatter", "mode": "lines", "x": x, "y": y, "showlegend": False, "hoverinfo": "skip",
        "line": {"color": colours.OOM, "width": 1, "dash": "dot"},
    }  # fmt: skip


def _marks(picture: Picture) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    # What matters most is drawn last, over the others.
    for marks in reversed(picture.marks):
        colour, symbol, size = _MARKS[marks.kind]
        out.append(
            {
                "type": "scatter", "mode": "markers", "name": NAMES[marks.kind], "yaxis": "y2",
                "x": marks.position, "y": [0.5] * len(marks.after), "cliponaxis": False,
                "marker": {"color": colour, "symbol": symbol, "size": size, "line": {"color": colour, "width": 2}}
                if symbol.endswith("open")
                else {"color": colour, "symbol": symbol, "size": size},
                "customdata": list(zip(marks.after.tolist(), marks.texts)),
                "hovertemplate": "after %{customdata[0]:,} events: %{customdata[1]}<extra></extra>",
            }
        )  # fmt: skip
    return out


def _top(picture: Picture) -> float:
    return max(picture.top, 1) * 1.06


def _layout(picture: Picture, theme: str) -> dict[str, Any]:
    base = colours.layout(theme)
    first, last = picture.shown
    # Events of one and the same time.
    last = last if last > first else first + (1e-3 if picture.over_time else 1)
    beginning, end = picture.extent
    end = max(end, last)
    values, texts = colours.byte_ticks(_top(picture), 4)
    shapes, notes = _levels(picture, theme)
    # The legend of bands holds places in code, too long for a line.
    legend: dict[str, Any] = {"font": {"size": 11}, "uirevision": "kept"}
    right = 16
    if picture.bands is not None:
        right = 290
        legend |= {"orientation": "v", "x": 1.005, "xanchor": "left", "y": 1.04, "yanchor": "top",
                   "traceorder": "reversed", "font": {"size": 10.5}, "tracegroupgap": 2}  # fmt: skip
    else:
        legend |= {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}
    return {
        **base,
        "margin": {"l": 64, "r": right, "t": 24 if picture.bands is None else 6, "b": 34},
        "legend": legend,
        "hovermode": "x",
        "hoverdistance": _reach(picture),
        "spikedistance": -1,
        "dragmode": "zoom",
        "selectdirection": "h",
        "shapes": shapes,
        "annotations": notes,
        "xaxis": {
            **base["xaxis"],
            "anchor": "y",
            "range": [first, last],
            "minallowed": beginning,
            "maxallowed": end,
            # What the server sends holds, whatever was zoomed here meanwhile.
            "uirevision": f"{picture.over_time} {first} {last}",
            "tickformat": ",~r" if picture.over_time else ",d",
            "ticksuffix": " s" if picture.over_time else "",
            "title": {
                "text": "seconds since the first event" if picture.over_time else "events that have happened",
                "font": {"size": 11, "color": colours.faint(theme)},
                "standoff": 2,
            },
            "showspikes": True,
            "spikemode": "across",
            "spikesnap": "cursor",
            "spikethickness": 1,
            "spikedash": "solid",
            "spikecolor": colours.faint(theme),
        },
        "yaxis": {
            **base["yaxis"],
            "domain": [0, 1 - _STRIP],
            "range": [0, _top(picture)],
            "fixedrange": True,
            "tickvals": values,
            "ticktext": texts,
        },
        "yaxis2": {
            "domain": [1 - _STRIP, 1],
            "range": [0, 1],
            "fixedrange": True,
            "visible": False,
            "anchor": "x",
        },
    }


def _reach(picture: Picture) -> int:
    """How near the mouse has to be, pixels: where points are few, half the way between two."""
    return max(20, min(400, 800 // max(len(picture.hover.after), 1)))


def _levels(picture: Picture, theme: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The line of the moment, and capacity and device memory as lines across."""
    shapes: list[dict[str, Any]] = [
        {
            "type": "line", "xref": "x", "yref": "paper", "x0": picture.moment, "x1": picture.moment,
            "y0": 0, "y1": 1, "line": {"color": colours.MOMENT, "width": 2}, "layer": "above",
        }
    ]  # fmt: skip
    notes = []
    for name, size in picture.levels:
        colour = colours.CAPACITY if name != "device memory" else colours.faint(theme)
        shapes.append(
            {
                "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": size, "y1": size,
                "line": {"color": colour, "width": 1, "dash": "dash"}, "layer": "below",
            }
        )  # fmt: skip
        notes.append(
            {
                "xref": "paper", "yref": "y", "x": 0.004, "y": size, "xanchor": "left", "yanchor": "top",
                "text": f"{name}: {format_bytes(size)}", "showarrow": False,
                "font": {"size": 10.5, "color": colour},
            }
        )  # fmt: skip
    return shapes, notes
