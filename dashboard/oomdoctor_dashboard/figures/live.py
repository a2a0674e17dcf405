"""What is live, as a flame graph: the root at the top, a box as wide as its bytes."""

from __future__ import annotations

import html
import zlib
from typing import Any

import plotly.graph_objects as go

from oomdoctor.units import format_bytes
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.live_flame import Flame

_LEVEL_PX = 23
_LEAST_PX = 120
# Of deep stacks the box scrolls.
_MOST_PX = 2400


def flame(tree: Flame, total_bytes: int, *, theme: str = "light") -> go.Figure:
    """The tree; ``total_bytes`` is what shares are of: all that is live."""
    # What a snapshot calls a frame is text, never markup.
    labels = [_escaped(label) for label in tree.labels]
    sizes = [format_bytes(one) for one in tree.bytes]
    blocks = ["1 block" if one == 1 else f"{one:,} blocks" for one in tree.blocks]
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
    return go.Figure([trace], _layout(theme, height))


def nothing(theme: str = "light") -> go.Figure:
    """No flame graph: there is nothing to show, and what was shown before is not it."""
    hidden = {"visible": False}
    return go.Figure(layout={**_layout(theme, 40), "xaxis": hidden, "yaxis": hidden})


def _layout(theme: str, height: int) -> dict[str, Any]:
    base = colours.layout(theme, height=height, margin={"l": 0, "r": 0, "t": 4, "b": 4})
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
    red, green, blue = (int(fill[at : at + 2], 16) for at in (1, 3, 5))
    return colours.ink("light") if 299 * red + 587 * green + 114 * blue > 135_000 else "#ffffff"
