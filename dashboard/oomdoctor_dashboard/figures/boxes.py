"""Many boxes, which the browser paints (assets/paint.js) under what plotly draws: axes, legend, frames.

plotly makes an element for each bar or icicle, and reads each command of a path with regular expressions; to
paint a thousand rectangles takes a browser a millisecond. In return plotly can neither tell which box is
pointed at (assets/boxes.js can) nor put them into the picture that a person keeps (assets/paint.js does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor_dashboard.figures import theme as colours

_THROUGH = "rgba(0,0,0,0)"


def seen_through(theme: str) -> dict[str, Any]:
    """Of a layout: boxes are painted behind all else, which must not hide them."""
    paper = colours.faded(colours.paper(theme), 0.8)
    bar = {"bgcolor": paper, "color": colours.faint(theme), "activecolor": colours.ink(theme)}
    return {"paper_bgcolor": _THROUGH, "plot_bgcolor": _THROUGH, "modebar": bar}


def painted(
    line: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    look: NDArray[np.int64],
    looks: Sequence[tuple[str, str]],
    *,
    tall: float,
    theme: str,
    texts: Optional[Sequence[tuple[str, str]]] = None,
    outlines: Sequence[tuple[int, float, float]] = (),
) -> dict[str, Any]:
    """What goes as ``paint`` into the ``meta`` of a layout.

    Args:
        line, low, high: int64[k], where each box lies, in numbers of the axes.
        look: int64[k], index in ``looks``.
        looks: colour of a box, and of what is written in it.
        tall: how much of a line's height a box fills.
        texts: what is written in each box, where it has room, and, where it has more, what goes on in bold.
        outlines: line, low and high of rectangles a little taller than the boxes.
    """
    return {
        "line": line.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "look": look.tolist(),
        "looks": [list(one) for one in looks],
        "tall": tall,
        "texts": [list(one) for one in texts or ()],
        "outlines": [[line, round(low), round(high)] for line, low, high in outlines],
        "outline": colours.faint(theme),
        "paper": colours.paper(theme),
    }


def blended(colour: str, other: str, share: float) -> str:
    """A colour, "#rrggbb", under a veil of another."""
    pairs = zip(colours.channels(colour), colours.channels(other))
    return "#" + "".join(f"{round(one + (two - one) * share):02x}" for one, two in pairs)


def ends(line: NDArray[np.int64], at: NDArray[np.int64], tall: float) -> str:
    """Lines across where boxes end, for :func:`outline`."""
    places = zip(line.tolist(), at.tolist())
    return "".join(f"M{end},{row - tall / 2:g}V{row + tall / 2:g}" for row, end in places)


def outline(path: str, colour: str, thick: float, name: str) -> dict[str, Any]:
    """A shape of lines, however many, in data coordinates."""
    return {"type": "path", "path": path, "name": name, "line": {"color": colour, "width": thick}}
