"""Many boxes as one path.

A path for each box, as plotly draws bars and icicles, takes a browser several times as long. In return plotly
cannot tell which box is pointed at: assets/boxes.js can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def filled(
    line: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64], colour: str, tall: float
) -> dict[str, Any]:
    """A trace of boxes: the line that each lies in, from where to where, and how much of the line is filled.

    Five points are one: its left, right, right, left end, and a gap.
    """
    left, right, gap = low.astype(np.float64), high.astype(np.float64), np.full(len(line), np.nan)
    top, bottom = line - tall / 2, line + tall / 2
    return {
        "type": "scatter",
        "mode": "none",
        "fill": "toself",
        "fillcolor": colour,
        "x": np.stack([left, right, right, left, gap], 1).ravel().astype(np.float32),
        "y": np.stack([top, top, bottom, bottom, gap], 1).ravel().astype(np.float32),
        # What is below a pixel is joined already: every point counts.
        "line": {"simplify": False},
        "hoverinfo": "skip",
    }


def ends(line: NDArray[np.int64], at: NDArray[np.int64], tall: float) -> str:
    """Lines across where boxes end, for :func:`outline`."""
    places = zip(line.tolist(), at.tolist())
    return "".join(f"M{end},{row - tall / 2:g}V{row + tall / 2:g}" for row, end in places)


def outline(path: str, colour: str, thick: float, name: str) -> dict[str, Any]:
    """A shape of lines, however many, in data coordinates."""
    return {"type": "path", "path": path, "name": name, "line": {"color": colour, "width": thick}}
