"""The memory map as a figure: a bar a box, a trace a state or colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import plotly.graph_objects as go

from oomdoctor.units import format_bytes
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.segment_map import ALLOCATED, FREE, HOLE, PENDING, STATES, SegmentMap, bounds

# What holes and whole free segments look like where the moment is dark or light.
_STATE = {
    ALLOCATED: (colours.ALLOCATED, colours.ALLOCATED),
    PENDING: (colours.PENDING, colours.PENDING),
    HOLE: (colours.HOLE, colours.HOLE),
    FREE: ("#cbd5e0", "#4a5568"),
}
# Above so many lines the addresses at the left would run into one another.
_MARGIN = {"l": 112, "r": 12, "b": 24}
# Names of stacks are long.
_LEGEND_LETTERS = 44
# A box narrower than this part of a line has no room for a border.
_BORDERED = 1 / 240


def segment_figure(
    drawn: SegmentMap,
    theme: str,
    *,
    kinds: Sequence[tuple[str, str]] = (("allocated", colours.ALLOCATED),),
    selected: Optional[tuple[int, int]] = None,
    touched: Optional[tuple[int, int]] = None,
    hover: Optional[Sequence[str]] = None,
) -> go.Figure:
    """The figure of a map.

    ``customdata`` of each bar is its box's number in ``drawn``.

    Args:
        theme: "light" or "dark".
        kinds: name and colour of each ``drawn.kind`` of allocated boxes.
        selected: address and bytes of what a person clicked; it gets a frame.
        touched: address and bytes of what the last event was about; it gets a frame as well.
        hover: a text for each box; None where texts come from elsewhere.
    """
    traces = []
    for name, colour, boxes in _looks(drawn, theme, kinds):
        traces.append(_bars(drawn, name, colour, boxes, theme, hover))
    traces.append(_frames(_segment_parts(drawn), colours.faint(theme), 1, "segment"))
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
            traces.append(_frames(parts, colour, 2.5, name))
    named = [trace.name for trace in traces if trace.showlegend]
    columns = 2 if any(len(name) > 30 for name in named) else 3
    # All at once: adding traces and layout one by one takes a multiple of the time.
    return go.Figure(data=traces, layout=_layout(drawn, theme, -(-len(named) // columns), columns))


def height_of(lines: int, legend_rows: int = 1) -> int:
    """Pixels that a map of so many lines takes."""
    pitch = 22 if lines <= 24 else 17 if lines <= 45 else 13
    return max(pitch * lines, 60) + _top(legend_rows) + _MARGIN["b"]


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


def _bars(
    drawn: SegmentMap,
    name: str,
    colour: str,
    boxes: np.ndarray[Any, Any],
    theme: str,
    hover: Optional[Sequence[str]],
) -> go.Bar:
    total = int(drawn.bytes[boxes].sum())
    more: dict[str, Any] = {"hoverinfo": "none"}
    if hover is not None:
        more = {
            "hovertext": [hover[i] for i in boxes.tolist()],
            "hovertemplate": "%{hovertext}<extra></extra>",
        }
    return go.Bar(
        orientation="h",
        name=f"{_short(name)} {format_bytes(total)}",
        showlegend=len(boxes) > 0,
        x=drawn.bytes[boxes].astype(np.float64),
        base=drawn.start[boxes].astype(np.float64),
        y=drawn.line[boxes].astype(np.int16),
        width=0.78,
        # A list: of packed arrays Dash does not tell which number was pointed at.
        customdata=boxes.tolist(),
        marker={
            "color": colour,
            "line": {
                "color": colours.paper(theme),
                "width": (drawn.bytes[boxes] > drawn.row_bytes * _BORDERED).astype(np.uint8),
            },
        },
        **more,
    )


def _segment_parts(drawn: SegmentMap) -> list[tuple[int, float, float]]:
    starts, sizes = bounds(drawn.moment.layout)
    return [
        (line, float(low), float(high))
        for segment in drawn.segment.tolist()
        for line, low, high in drawn.where(int(starts[segment]), int(sizes[segment]))
    ]


def _frames(parts: Sequence[tuple[int, float, float]], colour: str, thick: float, name: str) -> go.Scatter:
    """Rectangles around stretches of lines, as one path."""
    table = np.array(parts, np.float64).reshape(-1, 3)
    line, low, high = table.T
    top, bottom, gap = line - 0.45, line + 0.45, np.full(len(line), np.nan)
    return go.Scatter(
        x=np.stack([low, high, high, low, low, gap], 1).ravel(),
        y=np.stack([top, top, bottom, bottom, top, gap], 1).ravel(),
        mode="lines",
        name=name,
        line={"color": colour, "width": thick},
        hoverinfo="skip",
        showlegend=False,
    )


def _layout(drawn: SegmentMap, theme: str, legend_rows: int, columns: int) -> dict[str, Any]:
    values, texts = colours.byte_ticks(drawn.row_bytes, 8)
    lines, labels = _labels(drawn)
    base = colours.layout(theme)
    small = 10 if drawn.lines <= 45 else 8
    return {
        **base,
        "barmode": "overlay",
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
            "entrywidth": 0.94 / columns,
            "entrywidthmode": "fraction",
            "font": {"size": 11},
        },
        "xaxis": {
            **base["xaxis"],
            "range": [-drawn.row_bytes * 0.002, drawn.line_bytes * 1.002],
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
        # Another scale is another picture: what a person had zoomed into is gone.
        "uirevision": f"{drawn.row_bytes}",
    }


def _labels(drawn: SegmentMap) -> tuple[list[int], list[str]]:
    """At the left of each line the address of the first segment that begins there, else how far in it is."""
    starts, sizes = bounds(drawn.moment.layout)
    width = drawn.row_bytes
    texts: dict[int, str] = {}
    for first, row in zip(drawn.first_line.tolist(), drawn.segment.tolist()):
        texts.setdefault(first, f"{int(starts[row]):#x}")
        turns = (int(sizes[row]) - 1) // width if sizes[row] > drawn.line_bytes else 0
        for turn in range(1, turns + 1):
            texts.setdefault(first + turn, f"+{format_bytes(turn * width)}")
    return list(texts), list(texts.values())


def _segments(number: int) -> str:
    return f"{number:,} segment" + ("" if number == 1 else "s")


def _short(name: str) -> str:
    return name if len(name) <= _LEGEND_LETTERS else f"{name[: _LEGEND_LETTERS - 1]}…"
