"""Colours and layout that all figures share. One meaning, one colour, on every page."""

from __future__ import annotations

from typing import Any

from oomdoctor.units import format_bytes

# By meaning. Chosen to differ in lightness too, so that they hold in print and for colour-blind readers.
ALLOCATED, PENDING, HOLE, FREE = "#2b6cb0", "#b7791f", "#dd6b20", "#a0aec0"
ACTIVE, RESERVED, DEVICE, CAPACITY = "#2c7a7b", "#4a5568", "#805ad5", "#c53030"
SMALL_POOL, PRIVATE_POOL = "#38a169", "#b83280"
OOM, RETRY, GARBAGE_COLLECTION, EMPTY_CACHE, ANNOTATION = (
    "#c53030",
    "#dd6b20",
    "#805ad5",
    "#3182ce",
    "#718096",
)
BEFORE, AFTER = "#718096", "#2b6cb0"
MOMENT = "#d53f8c"

# For things that have no colour of their own: stacks, categories, ranks.
SERIES = (
    "#2b6cb0", "#dd6b20", "#38a169", "#805ad5", "#d69e2e", "#319795", "#b83280", "#4a5568",
    "#63b3ed", "#f6ad55", "#68d391", "#b794f4",
)  # fmt: skip
OTHERS = "#a0aec0"

STATE = {"active_allocated": ALLOCATED, "active_pending_free": PENDING, "inactive": FREE}

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_MODE = {
    "light": {"ink": "#1a202c", "faint": "#718096", "grid": "#e2e8f0", "paper": "#ffffff"},
    "dark": {"ink": "#e2e8f0", "faint": "#a0aec0", "grid": "#2d3748", "paper": "#242424"},
}


def ink(theme: str) -> str:
    """The colour of text."""
    return _MODE[theme]["ink"]


def faint(theme: str) -> str:
    """The colour of what is beside the point."""
    return _MODE[theme]["faint"]


def paper(theme: str) -> str:
    """The colour behind everything."""
    return _MODE[theme]["paper"]


def channels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of "#rrggbb", each from 0 to 255."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def faded(colour: str, share: float) -> str:
    """A colour, "#rrggbb", that lets through what is behind it: all of it at 0, nothing at 1."""
    red, green, blue = channels(colour)
    return f"rgba({red},{green},{blue},{share:g})"


def layout(theme: str, **more: Any) -> dict[str, Any]:
    """Arguments of ``go.Figure.update_layout`` that every figure begins with."""
    mode = _MODE[theme]
    axis = {
        "gridcolor": mode["grid"],
        "linecolor": mode["grid"],
        "zeroline": False,
        # Else plotly measures every label at every drawing, to hide those that reach beyond the figure.
        "ticklabeloverflow": "allow",
        "tickfont": {"color": mode["faint"]},
        "title": {"font": {"color": mode["faint"]}},
    }
    return {
        "template": "none",
        "paper_bgcolor": mode["paper"],
        "plot_bgcolor": mode["paper"],
        "font": {"family": _FONT, "size": 12, "color": mode["ink"]},
        "margin": {"l": 64, "r": 16, "t": 8, "b": 36},
        "hoverlabel": {"font": {"family": _FONT, "size": 12}, "align": "left"},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0.0},
        "xaxis": axis,
        "yaxis": axis,
        "uirevision": "kept",
        **more,
    }


def byte_ticks(largest: float, count: int = 5) -> tuple[list[int], list[str]]:
    """Tick values and texts of an axis in bytes, from 0 to ``largest``: round numbers of KiB, MiB or GiB."""
    largest = max(float(largest), 1.0)
    unit, name = next(
        (
            (1 << shift, name)
            for shift, name in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))
            if largest >= 1 << shift
        ),
        (1, "B"),
    )
    top = largest / unit
    steps = [m * 10.0**e for e in range(-2, 4) for m in (1, 2, 5)]
    step = next((s for s in steps if top / s <= count), steps[-1])
    values = [i * step for i in range(int(top / step) + 1)]
    return [round(v * unit) for v in values], [f"{v:g} {name}" for v in values]


def byte_ticks_between(low: int, high: int, count: int = 5) -> tuple[list[int], list[str]]:
    """The same of an axis that does not begin at 0."""
    steps, _ = byte_ticks(high - low, count)
    step = max(steps[1] if len(steps) > 1 else high - low, 1)
    values = list(range(-(-low // step) * step, high + 1, step))
    return values, [format_bytes(value) for value in values]
