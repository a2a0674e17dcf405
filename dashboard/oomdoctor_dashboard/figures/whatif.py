"""What if: two courses over one another, and all tried settings by what they need and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional, Protocol

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from oomdoctor.units import MIB, format_bytes
from oomdoctor_dashboard.figures.theme import (
    AFTER,
    BEFORE,
    CAPACITY,
    MOMENT,
    OOM,
    byte_ticks,
    faint,
    ink,
    layout,
    paper,
)

_AFTER = {"light": AFTER, "dark": "#63b3ed"}
_BEFORE = {"light": BEFORE, "dark": "#a0aec0"}
_UNITS = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}


class Drawn(Protocol):
    """A line: what had happened, and bytes, of the same length."""

    @property
    def x(self) -> NDArray[np.int64]: ...

    @property
    def y(self) -> NDArray[np.int64]: ...


def courses(
    recorded: Mapping[str, Drawn],
    replayed: Optional[Mapping[str, Drawn]],
    *,
    low: int,
    high: int,
    event: int,
    limit: Optional[int],
    died: Sequence[tuple[str, Optional[int]]],
    theme: str,
) -> go.Figure:
    """The recording and a replay over one another.

    Args:
        recorded, replayed: "allocated" and "reserved" of each; None: there is no replay.
        low, high: the stretch that is drawn, in events that had happened.
        event: the moment that is looked at.
        limit: bytes at which memory ends in the replay; None: not known.
        died: who ran out of memory, "recorded" or "replayed", and after how many events; None: not.
    """
    lines = [*recorded.values(), *(replayed.values() if replayed else ())]
    largest = max([int(one.y.max(initial=0)) for one in lines] + [limit or 0, 1])
    values, texts = byte_ticks(largest * 1.1)
    unit = texts[-1].split()[-1]
    scale = _UNITS[unit]
    figure = go.Figure()
    both = (("recorded", recorded, _BEFORE[theme]), ("replayed", replayed, _AFTER[theme]))
    for what, sides, colour in both:
        if sides is None:
            continue
        for name, dash, width in (("reserved", "solid", 1.8), ("allocated", "dot", 1.2)):
            figure.add_scatter(
                x=sides[name].x,
                y=sides[name].y / scale,
                name=f"{name}, {what}",
                mode="lines",
                line={"color": colour, "width": width, "dash": dash, "shape": "hv"},
                hovertemplate=f"%{{y:.2f}} {unit}",
            )
    for what, at in died:
        side = recorded if what == "recorded" else replayed
        if at is None or side is None or not low <= at <= high or not len(side["reserved"].x):
            continue
        row = max(int(np.searchsorted(side["reserved"].x, at, side="right")) - 1, 0)
        figure.add_scatter(
            x=[at],
            y=[int(side["reserved"].y[row]) / scale],
            name=f"out of memory, {what}",
            mode="markers",
            marker={
                "symbol": "x",
                "size": 11,
                "color": OOM if what == "replayed" else _BEFORE[theme],
                "line": {"width": 1, "color": paper(theme)},
            },
            hovertemplate=f"out of memory at event {at:,}",
        )
    figure.update_layout(**layout(theme, hovermode="x unified", showlegend=True))
    figure.update_layout(shapes=[moment_shape(event)], dragmode="zoom", margin={"t": 28, "r": 20, "b": 40})
    if limit is not None:
        figure.add_hline(
            y=limit / scale,
            line={"color": CAPACITY, "width": 1, "dash": "dash"},
            annotation={
                "text": f"capacity {format_bytes(limit)}",
                "font": {"color": CAPACITY if theme == "light" else "#fc8181", "size": 11},
                "bgcolor": paper(theme),
            },
            annotation_position="top left",
        )
    figure.update_xaxes(
        title={"text": "events that have happened", "font": {"size": 11}, "standoff": 6},
        range=[low, high], tickformat=",d", hoverformat=",d", uirevision=f"{low} {high}",
    )  # fmt: skip
    top = largest * (1.14 if limit is not None else 1.06)  # the word on the limit stands above it
    figure.update_yaxes(
        tickvals=[value / scale for value in values], ticktext=texts, range=[0, top / scale], fixedrange=True
    )
    return figure


def nothing() -> dict[str, Any]:
    """A figure before there is one: no axes, and the colour of the page."""
    axis = {"visible": False}
    clear = "rgba(0,0,0,0)"
    return {"layout": {"xaxis": axis, "yaxis": axis, "paper_bgcolor": clear, "plot_bgcolor": clear}}


def moment_shape(event: int) -> dict[str, Any]:
    """The upright line of the moment that is looked at: always the first shape of :func:`courses`."""
    return {
        "type": "line", "x0": event, "x1": event, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": MOMENT, "width": 1.5},
    }  # fmt: skip


def trade_off(
    rows: Sequence[Mapping[str, Any]],
    *,
    capacity: Optional[int],
    theme: str,
) -> go.Figure:
    """Memory against calls of the driver, for all settings that a recording survives.

    Args:
        rows: of the table of settings; those that die are left out, what they reserved says little.
        capacity: bytes that PyTorch may reserve; None: not known.
    """
    alive = [row for row in rows if not row["survives"].startswith("dies")]
    sizes = [_memory(row) for row in alive]
    largest, least = max([*sizes, capacity or 0, 1]), min(sizes, default=0)
    figure = go.Figure()
    edge = sorted((row for row in alive if row["on_frontier"]), key=lambda row: int(row["calls"]))
    figure.add_scatter(
        x=[row["calls"] for row in edge],
        y=[_memory(row) for row in edge],
        mode="lines",
        line={"color": faint(theme), "width": 1, "dash": "dot"},
        hoverinfo="skip",
        name="best of both",
    )
    groups = (
        ("least it needs", "circle", _AFTER[theme], [r for r in alive if r["needs"] is not None]),
        ("peak reserved", "circle-open", _AFTER[theme], [r for r in alive if r["needs"] is None]),
        ("as recorded", "diamond", _BEFORE[theme], [r for r in alive if r["current"]]),
        ("recommended", "star", "#38a169", [r for r in alive if r["best"]]),
    )
    taken: set[str] = set()
    for name, symbol, colour, group in reversed(groups):
        group = [row for row in group if row["id"] not in taken]
        taken |= {row["id"] for row in group}
        if not group:
            continue
        special = symbol in ("star", "diamond")
        figure.add_scatter(
            x=[row["calls"] for row in group],
            y=[_memory(row) for row in group],
            customdata=[row["id"] for row in group],
            text=[_words(row) for row in group],
            mode="markers",
            marker={"symbol": symbol, "size": 15 if special else 8, "color": colour},
            hovertemplate="%{text}<extra></extra>",
            name=name,
        )
    figure.update_layout(**layout(theme, hovermode="closest"))
    figure.update_layout(margin={"t": 28, "l": 76}, dragmode="pan")
    if capacity is not None:
        figure.add_hline(y=capacity, line={"color": CAPACITY, "width": 1, "dash": "dash"})
        figure.add_annotation(
            xref="paper", x=1, y=capacity, text=f"capacity {format_bytes(capacity)}", showarrow=False,
            xanchor="right", yanchor="bottom", font={"color": CAPACITY if theme == "light" else "#fc8181"},
        )  # fmt: skip
    spread = max(largest - least, largest // 200, 1)
    low, high = max(least - spread * 0.12, 0), largest + spread * 0.15
    ticks = np.linspace(low, high, 5)
    texts = [format_bytes(int(tick)) for tick in ticks]
    if len(set(texts)) < len(texts):
        texts = [f"{tick / MIB:,.1f} MiB" for tick in ticks]
    figure.update_xaxes(
        title={"text": "calls of the driver", "font": {"size": 11}, "standoff": 6},
        tickformat=",d", rangemode="tozero", uirevision=f"{low} {high}",
    )  # fmt: skip
    figure.update_yaxes(
        uirevision=f"{low} {high}",
        tickvals=ticks, ticktext=texts, range=[low, high],
    )  # fmt: skip
    if not alive:
        figure.add_annotation(
            text="No setting survives.", xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False,
            font={"color": ink(theme), "size": 14},
        )  # fmt: skip
    return figure


def _memory(row: Mapping[str, Any]) -> int:
    return int(row["reserved"] if row["needs"] is None else row["needs"])


def _words(row: Mapping[str, Any]) -> str:
    needs = f"needs {row['needs_text']}" if row["needs"] is not None else f"reserves {row['reserved_text']}"
    cost = f"{row['retries']:,} retries, {row['calls']:,} calls of the driver"
    return f"<b>{row['setting']}</b><br>{needs}<br>{cost}"
