"""Two recordings over one another, and what lives in both by place."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Optional, Protocol

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from oomdoctor.comparison.by_place import Held
from oomdoctor.diagnosis.frames import frame_text, short_path
from oomdoctor.units import format_bytes
from oomdoctor_dashboard.figures.theme import AFTER, BEFORE, MOMENT, OOM, byte_ticks, faint, layout, paper

COLOURS = {
    "light": {"a": BEFORE, "b": AFTER},
    "dark": {"a": "#a0aec0", "b": "#63b3ed"},
}
MORE, LESS = "#dd6b20", "#319795"
_UNITS = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_MOST_PLACES = 12
_LABEL = 44


class Drawn(Protocol):
    """A line: places on the axis, and bytes, of the same length."""

    @property
    def x(self) -> NDArray[np.float64]: ...

    @property
    def y(self) -> NDArray[np.int64]: ...


def aligned(
    lines: Mapping[tuple[str, str], Drawn],
    *,
    low: float,
    high: float,
    moment: Optional[float],
    ooms: Sequence[tuple[str, float]],
    theme: str,
) -> go.Figure:
    """The lines of both over the requests that they have in common.

    Args:
        lines: by side ("a", "b") and name ("allocated", "reserved").
        low, high: the stretch that is drawn.
        moment: where the moment looked at stands; None: not shown.
        ooms: where memory ran out, by side.
    """
    largest = max([int(line.y.max(initial=0)) for line in lines.values()] + [1])
    values, texts = byte_ticks(largest * 1.05)
    unit = texts[-1].split()[-1]
    scale = _UNITS[unit]
    figure = go.Figure()
    for side in ("a", "b"):
        for name, dash, width in (("reserved", "solid", 1.8), ("allocated", "dot", 1.3)):
            line = lines[side, name]
            figure.add_scatter(
                x=line.x,
                y=line.y / scale,
                name=f"{side.upper()}: {name}",
                mode="lines",
                line={"color": COLOURS[theme][side], "width": width, "dash": dash, "shape": "hv"},
                hovertemplate=f"%{{y:.2f}} {unit}",
            )
    for side in ("a", "b"):
        here = [place for who, place in ooms if who == side and low <= place <= high]
        if here:
            reserved = lines[side, "reserved"]
            at = np.maximum(np.searchsorted(reserved.x, here, side="right") - 1, 0)
            figure.add_scatter(
                x=here,
                y=reserved.y[at] / scale,
                name=f"{side.upper()}: out of memory",
                mode="markers",
                cliponaxis=False,
                marker={
                    "symbol": "x",
                    "size": 11,
                    "color": OOM,
                    "line": {"width": 1.5, "color": COLOURS[theme][side]},
                },
                hovertemplate="out of memory",
            )
    figure.update_layout(
        **layout(
            theme,
            hovermode="x unified",
            showlegend=True,
            dragmode="zoom",
            shapes=[moment_shape(moment)],
            margin={"l": 70, "r": 16, "t": 26, "b": 40},
        )
    )
    figure.update_layout(legend={"y": 1.01})
    figure.update_xaxes(
        title={
            "text": "allocations, matched by what both asked for",
            "standoff": 2,
            "font": {"size": 11, "color": faint(theme)},
        },
        range=[low, high],
        tickformat=",d",
        hoverformat=",.0f",
        uirevision=f"{low} {high}",
    )
    top = largest * 1.05 / scale
    figure.update_yaxes(
        tickvals=[value / scale for value in values], ticktext=texts, range=[0, top], fixedrange=True
    )
    return figure


def moment_shape(moment: Optional[float]) -> dict[str, object]:
    """The line of the moment looked at, the figure's only shape."""
    at = 0.0 if moment is None else moment
    return {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": at,
        "x1": at,
        "y0": 0,
        "y1": 1,
        "line": {"color": MOMENT, "width": 2},
        "visible": moment is not None,
    }


def by_place(held: Sequence[Held], theme: str) -> go.Figure:
    """The places that differ most, as bars from zero: what B has more to the right."""
    shown = [one for one in held if one.difference][:_MOST_PLACES]
    figure = go.Figure()
    differences = [one.difference for one in shown]
    largest = max([abs(size) for size in differences] + [1])
    figure.add_bar(
        orientation="h",
        y=list(range(len(shown))),
        x=differences,
        marker={"color": [MORE if size > 0 else LESS for size in differences], "line": {"width": 0}},
        text=[f"{'+' if size > 0 else ''}{format_bytes(size)}" for size in differences],
        textposition="outside",
        cliponaxis=False,
        customdata=[_hover(one) for one in shown],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    values, _ = byte_ticks(largest, 2)
    ticks = sorted({-value for value in values} | set(values))
    figure.update_layout(
        **layout(theme, bargap=0.35, margin={"l": 8, "r": 24, "t": 4, "b": 28}, dragmode=False)
    )
    figure.update_xaxes(
        range=[-1.7 * largest, 1.7 * largest],
        tickvals=ticks,
        ticktext=[f"{'+' if tick > 0 else ''}{format_bytes(tick) if tick else '0'}" for tick in ticks],
        fixedrange=True,
        zeroline=True,
        zerolinecolor=faint(theme),
    )
    figure.update_yaxes(
        tickvals=list(range(len(shown))),
        ticktext=[label(one) for one in shown],
        range=[len(shown) - 0.5, -0.5],
        automargin=True,
        showgrid=False,
        fixedrange=True,
    )
    figure.update_layout(hoverlabel={"bgcolor": paper(theme)})
    return figure


def label(one: Held) -> str:
    """The innermost telling frame, short; what comes from a recording is no markup."""
    if not one.place.is_known:
        return "(no stack recorded)"
    frame = one.place.frames[0]
    end = f"  {short_path(frame.filename).split('/')[-1]}:{frame.line}"
    name = frame.name
    room = max(_LABEL - len(end), 8)
    name = name if len(name) <= room else name[: room - 1] + "…"
    return html.escape((name + end)[:80], quote=False)


def _hover(one: Held) -> str:
    lines = [html.escape(frame_text(frame)[:160], quote=False) for frame in one.place.frames]
    lines = lines or ["(no stack recorded)"]
    lines.append(f"A: {format_bytes(one.a_bytes)} in {one.a_blocks:,} blocks")
    lines.append(f"B: {format_bytes(one.b_bytes)} in {one.b_blocks:,} blocks")
    return "<br>".join(lines)
