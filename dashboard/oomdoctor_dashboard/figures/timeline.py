"""The timeline: memory over the events of a recording or over time, with what happened above it."""

from __future__ import annotations

from html import escape
from typing import Any

from oomdoctor.units import format_bytes
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.figures.drawing import Drawing, drawing
from oomdoctor_dashboard.timeline_bands import OLDER, OTHERS
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
    "annotation": (colours.ANNOTATION, "line-ns", 9),
}
_NAMES_WIDE, _NAME_HIGH = 270, 15
"""Pixels that the names of bands take beside the plot, and the height of one."""
_STRIP = 0.09
"""The part of the height that marks have to themselves, above the lines."""


def timeline_figure(picture: Picture, theme: str) -> Drawing:
    """A window of a recording. ``customdata`` of what can be clicked begins with its number of events."""
    data = _bands(picture) if picture.bands is not None else _lines(picture, theme)
    data += [_ooms(picture), _hover(picture, theme), *_marks(picture)]
    return drawing(data, _layout(picture, theme))


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
    labels, _, x, values = picture.bands
    return [
        {
            "type": "scatter", "mode": "lines", "name": label, "x": x, "y": y, "stackgroup": "allocated",
            "line": {"width": 0, "shape": "hv"}, "fillcolor": colour,
            "hoverinfo": "skip", "showlegend": False,
        }
        for label, y, colour in zip(labels, values, _band_colours(labels))
    ]  # fmt: skip


def _band_colours(labels: tuple[str, ...]) -> list[str]:
    """What is older and what is left over are greys; the others have a colour each."""
    greys = {OLDER: colours.BEFORE, OTHERS: colours.OTHERS}
    series = iter(colours.SERIES * (1 + len(labels) // len(colours.SERIES)))
    return [greys[label] if label in greys else next(series) for label in labels]


def _band_names(picture: Picture, theme: str) -> list[dict[str, Any]]:
    """The bands' names beside them, from the top down, in full as the mouse rests on one.

    A legend would take room from the plot for as many bands.
    """
    if picture.bands is None:
        return []
    labels, titles, _, _ = picture.bands
    names = list(zip(labels, titles, _band_colours(labels)))
    return [
        {
            "xref": "paper", "yref": "paper", "x": 1, "y": 1, "xshift": 8, "yshift": -_NAME_HIGH * row,
            "xanchor": "left", "yanchor": "top", "align": "left", "showarrow": False, "borderpad": 0,
            "text": f'<span style="color:{colour}">■</span> {escape(label)}', "hovertext": escape(title),
            "font": {"size": 10.5, "color": colours.ink(theme)},
        }
        for row, (label, title, colour) in enumerate(reversed(names))
    ]  # fmt: skip


def _hover(picture: Picture, theme: str) -> dict[str, Any]:
    """Unseen points that speak: texts of all lines at once, and the state that a click means.

    Joined by a line of no width: as markers, each would be an element of the page.
    """
    hover = picture.hover
    return {
        "type": "scatter", "mode": "lines", "x": hover.position, "y": hover.bytes, "showlegend": False,
        "line": {"width": 0}, "name": "",
        "hoverlabel": {
            "bgcolor": colours.paper(theme), "bordercolor": colours.faint(theme),
            "font": {"color": colours.ink(theme)},
        },
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
                "marker": {
                    "color": colour, "symbol": symbol, "size": size,
                    "line": {"color": colour, "width": 2 if symbol == "line-ns" else 0},
                },
                "customdata": [[*one] for one in zip(marks.after.tolist(), map(escape, marks.texts))],
                "hovertemplate": "after %{customdata[0]:,} events: %{customdata[1]}<extra></extra>",
            }
        )  # fmt: skip
    return out


def _top(picture: Picture) -> float:
    # Room for the words on the highest level.
    labelled = any(size == picture.top for _, size in picture.levels)
    return picture.bottom + max(picture.top - picture.bottom, 1) * (1.16 if labelled else 1.06)


def _ticks(picture: Picture) -> dict[str, Any]:
    """Round sizes; where the axis begins above 0, enough of them between, and the beginning said in words."""
    count = 5
    if picture.bottom:
        count = min(round(5 * picture.top / max(picture.top - picture.bottom, 1)), 400)
    pairs = list(zip(*colours.byte_ticks(_top(picture), count)))
    shown = [(value, text) for value, text in pairs if value >= picture.bottom]
    return {"tickvals": [value for value, _ in shown], "ticktext": [text for _, text in shown]}


def _layout(picture: Picture, theme: str) -> dict[str, Any]:
    base = colours.layout(theme)
    first, last = picture.shown
    # Events of one and the same time.
    last = last if last > first else first + (1e-3 if picture.over_time else 1)
    beginning, end = picture.extent
    end = max(end, last)
    shapes, notes = _levels(picture, theme)
    notes += _band_names(picture, theme)
    legend = {
        "orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom",
        "font": {"size": 11}, "uirevision": "kept",
    }  # fmt: skip
    return {
        **base,
        "margin": {"l": 64, "r": 16 if picture.bands is None else _NAMES_WIDE, "t": 22, "b": 34},
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
            # Whole numbers, each once, where few events are shown.
            **({"dtick": 1} if not picture.over_time and last - first < 8 else {}),
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
            "range": [picture.bottom, _top(picture)],
            "fixedrange": True,
            **_ticks(picture),
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
    notes: list[dict[str, Any]] = []
    if picture.bottom:
        notes.append(
            {
                "xref": "paper", "yref": "paper", "x": 0.004, "y": 0, "xanchor": "left", "yanchor": "bottom",
                "text": f"the axis begins at {format_bytes(picture.bottom)}", "showarrow": False,
                "font": {"size": 10.5, "color": colours.faint(theme)}, "bgcolor": colours.paper(theme),
            }
        )  # fmt: skip
    for at, (name, size) in enumerate(picture.levels):
        colour = colours.CAPACITY if name != "device memory" else colours.faint(theme)
        shapes.append(
            {
                "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": size, "y1": size,
                "line": {"color": colour, "width": 1, "dash": "dash"}, "layer": "below",
            }
        )  # fmt: skip
        notes.append(
            {
                # Side by side, for one may be close above the other.
                "xref": "paper", "yref": "y", "x": 0.004 + 0.45 * at, "y": size,
                "xanchor": "left", "yanchor": "bottom",
                "text": f"{name}: {format_bytes(size)}", "showarrow": False,
                "font": {"size": 10.5, "color": colours.faint(theme)}, "borderpad": 0,
            }
        )  # fmt: skip
    return shapes, notes
