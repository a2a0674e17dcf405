"""The memory map as a figure: a trace a state or colour for the legend, and boxes that the browser paints; in
a report, where nobody paints them, bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from oomdoctor.units import format_bytes
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.figures.boxes import ends, outline, painted, seen_through
from oomdoctor_dashboard.figures.drawing import Drawing, drawing
from oomdoctor_dashboard.segment_map import ALLOCATED, FREE, HOLE, PENDING, STATES, SegmentMap, bounds

# What holes and whole free segments look like where the moment is dark or light.
_STATE = {
    ALLOCATED: (colours.ALLOCATED, colours.ALLOCATED),
    PENDING: (colours.PENDING, colours.PENDING),
    HOLE: (colours.HOLE, colours.HOLE),
    FREE: ("#cbd5e0", "#4a5568"),
}
# Above so many lines the addresses at the left would run into one another.
_MARGIN = {"l": 112, "r": 30, "b": 24}
# Names of stacks are long.
_LEGEND_LETTERS = 32
# Columns of the legend in a wide window, and pixels of each; a narrow one has fewer, and plotly makes room.
_SHORT_NAMES, _LONG_NAMES = (4, 165), (2, 300)
# A box narrower than this part of a line has no room for a border.
_BORDERED = 1 / 240
# Of a line's height, what its boxes fill.
_TALL = 0.78


def segment_figure(
    drawn: SegmentMap,
    theme: str,
    *,
    kinds: Sequence[tuple[str, str]] = (("allocated", colours.ALLOCATED),),
    selected: Optional[tuple[int, int]] = None,
    touched: Optional[tuple[int, int]] = None,
    zoom: Optional[tuple[int, int]] = None,
    pans: bool = False,
    hover: Optional[Sequence[str]] = None,
) -> Drawing:
    """The figure of a map.

    ``meta`` of the layout has ``row_bytes``, ``line_bytes``, the range where nothing is zoomed, for each line
    the address of the segment that its label is about, and the boxes to ``paint``; that of bars the numbers
    of their boxes in ``drawn``.

    Args:
        theme: "light" or "dark".
        kinds: name and colour of each ``drawn.kind`` of allocated boxes.
        selected: address and bytes of what a person clicked; it gets a frame.
        touched: address and bytes of what the last event was about; it gets a frame as well.
        zoom: the bytes of a line that are seen; None: all.
        pans: whether a drag moves what is seen; else it zooms.
        hover: a text for each box, which is a bar then; None where texts come from elsewhere.
    """
    looks = _looks(drawn, theme, kinds)
    segments = _segment_parts(drawn)
    frames = []
    if hover is None:
        traces = [_named(drawn, *one) for one in looks]
    else:
        traces = [_bars(drawn, *one, hover) for one in looks]
        frames.append(_borders(drawn, colours.paper(theme)))
        frames.append(_frames(segments, colours.faint(theme), 1, "segment"))
    for where, colour, name in (
        (touched, colours.MOMENT, "last event"),
        (selected, colours.ink(theme), "selected"),
    ):
        least = drawn.row_bytes / 400  # a frame that is narrower is not seen
        parts = [
            (line, float(low), max(high, low + least))
            for line, low, high in (drawn.where(*where) if where and where[1] > 0 else [])
        ]
        if parts:
            frames.append(_frames(parts, colour, 2.5, name))
    columns, wide = _LONG_NAMES if any(len(name) > 15 for name, *_ in looks) else _SHORT_NAMES
    named = sum(trace["showlegend"] for trace in traces)
    layout = _layout(drawn, theme, -(-named // columns), wide, zoom)
    layout["dragmode"] = "pan" if pans else "zoom"
    if hover is None:
        layout["meta"]["paint"] = _paint(drawn, theme, looks, segments)
        layout.update(seen_through(theme))
    return drawing(traces, {**layout, "shapes": [frame for frame in frames if frame["path"]]})


def height_of(lines: int, legend_rows: int = 1) -> int:
    """Pixels that a map of so many lines takes."""
    return _inner_height(lines) + _top(legend_rows) + _MARGIN["b"]


def _inner_height(lines: int) -> int:
    pitch = 22 if lines <= 24 else 17 if lines <= 45 else 13
    return max(pitch * lines, 60)


def _top(legend_rows: int) -> int:
    return 14 + 19 * max(legend_rows, 1)


def _looks(
    drawn: SegmentMap, theme: str, kinds: Sequence[tuple[str, str]]
) -> list[tuple[str, str, np.ndarray[Any, Any]]]:
    """Name, colour and boxes of each trace."""
    out = []
    for number, (name, colour) in enumerate(kinds):
        boxes = np.flatnonzero((drawn.state == ALLOCATED) & (drawn.kind == number))
        out.append((name, colour, boxes))
    for state in (PENDING, HOLE, FREE):
        colour = _STATE[state][theme == "dark"]
        out.append((STATES[state], colour, np.flatnonzero(drawn.state == state)))
    return out


def _label(drawn: SegmentMap, name: str, boxes: np.ndarray[Any, Any]) -> str:
    return f"{_short(name)} {format_bytes(int(drawn.bytes[boxes].sum()))}"


def _paint(
    drawn: SegmentMap,
    theme: str,
    looks: Sequence[tuple[str, str, np.ndarray[Any, Any]]],
    segments: Sequence[tuple[int, float, float]],
) -> dict[str, Any]:
    look = np.zeros(len(drawn), np.int64)
    for number, (_, _, boxes) in enumerate(looks):
        look[boxes] = number
    pairs = [(colour, colours.ink(theme)) for _, colour, _ in looks]
    high = drawn.start + drawn.bytes
    return painted(drawn.line, drawn.start, high, look, pairs, tall=_TALL, theme=theme, outlines=segments)


def _named(drawn: SegmentMap, name: str, colour: str, boxes: np.ndarray[Any, Any]) -> dict[str, Any]:
    """What the legend says of a look, also where it has no box: while one steps nothing else may move."""
    return {
        "type": "scatter",
        "mode": "none",
        "fill": "toself",
        "fillcolor": colour,
        "x": [None],
        "y": [None],
        "name": _label(drawn, name, boxes),
        "showlegend": True,
        "hoverinfo": "skip",
    }


def _bars(
    drawn: SegmentMap, name: str, colour: str, boxes: np.ndarray[Any, Any], hover: Sequence[str]
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": _label(drawn, name, boxes),
        "showlegend": len(boxes) > 0,
        "x": drawn.bytes[boxes].astype(np.float64),
        "base": drawn.start[boxes].astype(np.float64),
        "y": drawn.line[boxes].astype(np.int16),
        "width": _TALL,
        "meta": boxes.tolist(),
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertext": [hover[i] for i in boxes.tolist()],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _segment_parts(drawn: SegmentMap) -> list[tuple[int, float, float]]:
    starts, sizes = bounds(drawn.moment.layout)
    parts: list[tuple[int, float, float]] = []
    columns = drawn.segment, sizes[drawn.segment], drawn.first_line, drawn.left
    for segment, size, line, left in zip(*(column.tolist() for column in columns)):
        if size <= drawn.line_bytes:
            parts.append((line, left, left + size))
        else:
            parts += drawn.where(int(starts[segment]), size)
    return parts


def _frames(
    parts: Sequence[tuple[int, float, float]], colour: str, thick: float, name: str
) -> dict[str, Any]:
    """Rectangles around stretches of lines, as one path."""
    path = "".join(
        f"M{low:.0f},{line - 0.45:g}H{high:.0f}V{line + 0.45:g}H{low:.0f}Z" for line, low, high in parts
    )
    return outline(path, colour, thick, name)


def _borders(drawn: SegmentMap, colour: str) -> dict[str, Any]:
    """Lines at the ends of the boxes that have room for them, as one path."""
    wide = np.flatnonzero(drawn.bytes > drawn.row_bytes * _BORDERED)
    path = ends(drawn.line[wide], drawn.start[wide] + drawn.bytes[wide], _TALL)
    return outline(path, colour, 1, "border")


def _layout(
    drawn: SegmentMap, theme: str, legend_rows: int, entry_px: int, zoom: Optional[tuple[int, int]]
) -> dict[str, Any]:
    whole = [-drawn.row_bytes * 0.002, drawn.line_bytes * 1.002]
    values, texts = colours.byte_ticks_between(*zoom, 8) if zoom else colours.byte_ticks(drawn.row_bytes, 8)
    lines, labels, about = _labels(drawn)
    base = colours.layout(theme)
    small = 10 if drawn.lines <= 45 else 8
    return {
        **base,
        "barmode": "overlay",
        "meta": {
            "row_bytes": drawn.row_bytes,
            "line_bytes": drawn.line_bytes,
            "labels": about,
            "whole": whole,
        },
        "height": height_of(drawn.lines, legend_rows),
        "margin": {**_MARGIN, "t": _top(legend_rows)},
        "hovermode": "closest",
        "legend": {
            **base["legend"],
            "itemclick": False,
            "itemdoubleclick": False,
            # In columns at the very top, where the margin has room for as many lines: plotly's own choice
            # of a place runs into the map.
            "yref": "container",
            "yanchor": "top",
            "y": 1.0,
            "x": 0.0,
            "entrywidth": entry_px,
            "font": {"size": 11},
        },
        "xaxis": {
            **base["xaxis"],
            "range": list(zoom or whole),
            "tickvals": values,
            "ticktext": texts,
            "showgrid": False,
            "fixedrange": False,
        },
        "yaxis": {
            **base["yaxis"],
            "range": [max(drawn.lines, 1) - 0.5, -0.5],
            "tickvals": lines,
            "ticktext": labels,
            "tickfont": {"size": small, "color": colours.faint(theme), "family": "monospace"},
            "showgrid": False,
            "fixedrange": True,
        },
        "annotations": [
            {
                "xref": "x domain",
                "x": 0,
                "y": group.line,
                "xanchor": "left",
                "yanchor": "middle",
                "showarrow": False,
                "text": f"<b>{group.name}</b>  {_segments(group.segments)}, {format_bytes(group.bytes)}",
                "font": {"size": 11, "color": colours.ink(theme)},
            }
            for group in drawn.groups
        ],
        # What is zoomed into is in the view.
        "uirevision": None,
    }


def _labels(drawn: SegmentMap) -> tuple[list[int], list[str], dict[str, str]]:
    """At the left of each line the address of the first segment that begins there, else how far in it is; and
    of each line the address."""
    starts, sizes = bounds(drawn.moment.layout)
    width = drawn.row_bytes
    texts: dict[int, str] = {}
    about: dict[str, str] = {}
    for first, row in zip(drawn.first_line.tolist(), drawn.segment.tolist()):
        address = f"{int(starts[row]):#x}"
        texts.setdefault(first, address)
        about.setdefault(str(first), address)
        turns = (int(sizes[row]) - 1) // width if sizes[row] > drawn.line_bytes else 0
        for turn in range(1, turns + 1):
            texts.setdefault(first + turn, f"+{format_bytes(turn * width)}")
            about.setdefault(str(first + turn), address)
    return list(texts), list(texts.values()), about


def _segments(number: int) -> str:
    return f"{number:,} segment" + ("" if number == 1 else "s")


def _short(name: str) -> str:
    return name if len(name) <= _LEGEND_LETTERS else f"{name[: _LEGEND_LETTERS - 1]}…"
