"""What is live, as a flame graph: the root at the top, a box as wide as its bytes."""

from __future__ import annotations

import html
import zlib
from typing import Any

import numpy as np

from oomdoctor.units import format_bytes
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.figures.boxes import blended, painted, seen_through
from oomdoctor_dashboard.figures.drawing import Drawing, drawing
from oomdoctor_dashboard.live_flame import Flame, boxes_of

_LEVEL_PX = 23
# Of a level's height, what a box fills.
_TALL = 0.94
# How far what leads to a node that was zoomed to stands back.
_VEIL = 0.45
_LEAST_PX = 120
# Above and below, pixels.
_MARGIN = 4
# Of deep stacks the box scrolls.
_MOST_PX = 2400


def flame(tree: Flame, total_bytes: int, *, theme: str = "light") -> Drawing:
    """The tree; ``total_bytes`` is what shares are of: all that is live."""
    # What a snapshot calls a frame is text, never markup.
    labels = [_escaped(label) for label in tree.labels]
    sizes = [format_bytes(one) for one in tree.bytes]
    blocks = list(map(_counted, tree.blocks))
    shares = [f"{one / total_bytes:.1%}" if total_bytes else "" for one in tree.bytes]
    fills = [_colour(*node) for node in zip(tree.parents, tree.files)]
    trace = {
        "type": "icicle",
        "ids": tree.ids,
        "parents": tree.parents,
        "labels": labels,
        "values": tree.bytes,
        "branchvalues": "total",
        "sort": True,
        "text": sizes,
        "customdata": list(zip(map(_escaped, tree.details), blocks, shares)),
        "texttemplate": "%{label}  <b>%{text}</b>",
        "hovertemplate": "<b>%{label}</b><br>%{customdata[0]}<br>%{text} in %{customdata[1]},"
        " %{customdata[2]} of all that is live<extra></extra>",
        "tiling": {"orientation": "v", "pad": 1},
        "marker": {"colors": fills, "line": {"width": 0.5, "color": colours.paper(theme)}},
        "textposition": "middle left",
        "textfont": {"size": 12, "color": [_readable(fill) for fill in fills]},
        "leaf": {"opacity": 1.0},
        "pathbar": {"visible": True, "side": "top", "thickness": 20},
        "root": {"color": colours.paper(theme)},
    }
    height = min(max(_LEAST_PX, _LEVEL_PX * tree.depth + 30), _MOST_PX)
    return drawing([trace], _layout(theme, height))


def boxes(tree: Flame, total_bytes: int, *, theme: str = "light") -> Drawing:
    """The same as boxes that the browser paints: plotly takes half a second to draw an icicle of so many
    nodes with their labels.

    ``meta`` of the layout has of each of the ``nodes`` its path and the lines to show of it, and how to
    ``paint`` them.
    """
    laid = boxes_of(tree)
    whole = max(int(laid.high[tree.above]), 1) if tree.ids else 1
    paper = colours.paper(theme)
    looks: dict[tuple[str, str], int] = {}
    look = []
    for i, fill in enumerate(_colour(*node) for node in zip(tree.parents, tree.files)):
        pair = fill, _readable(fill)
        if i < tree.above:
            # What leads to what was zoomed to stands back.
            pair = blended(fill, paper, _VEIL), colours.ink(theme)
        look.append(looks.setdefault(pair, len(looks)))
    hidden = {"visible": False, "fixedrange": True}
    layout = {
        **_layout(theme, min(max(_LEAST_PX, _LEVEL_PX * tree.depth + 2 * _MARGIN), _MOST_PX)),
        **seen_through(theme),
        "xaxis": {**hidden, "range": [0, whole]},
        "yaxis": {**hidden, "range": [tree.depth - 0.5, -0.5]},
        "dragmode": False,
        "meta": {
            "nodes": [[path, *lines] for path, lines in zip(tree.paths, _said(tree, total_bytes))],
            "paint": painted(
                laid.level,
                laid.low,
                laid.high,
                np.array(look, np.int64),
                list(looks),
                tall=_TALL,
                theme=theme,
                texts=list(zip(tree.labels, map(format_bytes, tree.bytes))),
            ),
        },
    }
    return drawing([], layout)


def _said(tree: Flame, total_bytes: int) -> list[list[str]]:
    """What is said of each node where a pointer rests on it."""
    out = []
    for label, detail, size, blocks in zip(tree.labels, tree.details, tree.bytes, tree.blocks):
        share = f", {size / total_bytes:.1%} of all that is live" if total_bytes else ""
        told = f"{format_bytes(size)} in {_counted(blocks)}{share}"
        out.append([label, *([detail] if detail else []), told])
    return out


def _counted(blocks: int) -> str:
    return "1 block" if blocks == 1 else f"{blocks:,} blocks"


def nothing(theme: str = "light") -> Drawing:
    """No flame graph: there is nothing to show, and what was shown before is not it."""
    hidden = {"visible": False}
    return drawing([], {**_layout(theme, 40), "xaxis": hidden, "yaxis": hidden})


def _layout(theme: str, height: int) -> dict[str, Any]:
    base = colours.layout(theme, height=height, margin={"l": 0, "r": 0, "t": _MARGIN, "b": _MARGIN})
    # Text that does not fit in a size that can be read is left to the hover.
    base["uniformtext"] = {"minsize": 10, "mode": "hide"}
    # Of axes it has none.
    return {key: value for key, value in base.items() if key not in ("xaxis", "yaxis", "legend")}


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


def _colour(parent: str, file: str) -> str:
    if file:
        return colours.SERIES[zlib.crc32(file.encode()) % len(colours.SERIES)]
    return colours.OTHERS if parent else colours.RESERVED


def _readable(fill: str) -> str:
    """Ink for text in a box, dark on what is light."""
    red, green, blue = colours.channels(fill)
    return colours.ink("light") if 299 * red + 587 * green + 114 * blue > 135_000 else "#ffffff"
