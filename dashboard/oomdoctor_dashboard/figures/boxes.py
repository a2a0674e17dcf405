"""Many boxes as one path.

A path for each box, as plotly draws bars and icicles, takes a browser several times as long. In return plotly
cannot tell which box is pointed at: assets/boxes.js can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A narrower box has no room for a border.
_ROOMY_PX = 4


def known(line: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]) -> dict[str, Any]:
    """A trace that draws nothing: it tells assets/boxes.js of each box where it begins and ends (``x``), and
    in which line (``y``, twice)."""
    return {
        "type": "scatter",
        "mode": "none",
        "x": np.stack([low, high], 1).ravel().astype(np.float32),
        "y": np.repeat(line, 2).astype(np.float32),
        "name": "boxes",
        "hoverinfo": "skip",
        "showlegend": False,
    }


def filled(
    line: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    colour: str,
    *,
    high_px: float,
    pixel: float,
) -> dict[str, Any]:
    """A shape of boxes: the line that each lies in, and from where to where.

    Each is one thick line: plotly looks at each command of a path, and a rectangle has five where a line has
    two. A trace with an area for each would do as well, but of it plotly makes an element for each box, and
    takes that away again, at each drawing.

    Args:
        high_px: pixels that a box is high.
        pixel: how wide a pixel is, in units of the axis. A box with room for it ends one pixel earlier, so
            that neighbours can be told apart.
    """
    end = np.where(high - low > _ROOMY_PX * pixel, high - pixel, high).astype(np.int64)
    places = zip(line.tolist(), low.tolist(), end.tolist())
    path = "".join(f"M{left},{row}H{right}" for row, left, right in places)
    return {"type": "path", "path": path, "line": {"color": colour, "width": high_px}, "layer": "below"}


def ends(line: NDArray[np.int64], at: NDArray[np.int64], tall: float) -> str:
    """Lines across where boxes end, for :func:`outline`."""
    places = zip(line.tolist(), at.tolist())
    return "".join(f"M{end},{row - tall / 2:g}V{row + tall / 2:g}" for row, end in places)


def outline(path: str, colour: str, thick: float, name: str) -> dict[str, Any]:
    """A shape of lines, however many, in data coordinates."""
    return {"type": "path", "path": path, "name": name, "line": {"color": colour, "width": thick}}
