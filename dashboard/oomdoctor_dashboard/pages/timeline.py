"""The timeline above all pages: what is looked at, and how one gets elsewhere."""

from __future__ import annotations

from typing import Any, Optional

import dash
import dash_mantine_components as dmc
from dash import ClientsideFunction, Input, Output, State, dcc, html, no_update

from oomdoctor.errors import OomdoctorError
from oomdoctor.reporters.recording_json import basis_of
from oomdoctor.units import format_bytes
from oomdoctor_dashboard import graphs, ids
from oomdoctor_dashboard.downloads import register_csv
from oomdoctor_dashboard.errors import alert
from oomdoctor_dashboard.figures.drawing import sent
from oomdoctor_dashboard.figures.timeline import timeline_figure
from oomdoctor_dashboard.gates import shown_id, shown_store
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.reading_help import reading_help
from oomdoctor_dashboard.timeline_bands import MAKERS, Bands
from oomdoctor_dashboard.timeline_data import SERIES, Timeline
from oomdoctor_dashboard.timeline_marks import Marks, marks_of
from oomdoctor_dashboard.timeline_picture import POINTS, Picture, picture
from oomdoctor_dashboard.view import View, options_of

ID, TITLE = "timeline", "Timeline"

_HEIGHT = 232
_MODES = [
    {"value": "lines", "label": "Lines"},
    {"value": "stack", "label": "By stack"},
    {"value": "lifetime", "label": "By lifetime"},
    {"value": "pool", "label": "By pool"},
]
_NO_TIMES = "torch before 2.2 records no times"

_HELP = (
    "Memory of this device after so many events, or over time. Allocated: blocks in use. Active: with those"
    " that were freed and wait for another stream. Reserved: all segments. Device in use: sampled by NVML,"
    " all processes together.",
    "The bands sum to allocated. By stack: where blocks were allocated, the ten places of the highest peak."
    " By lifetime: how many events pass between a block's allocation and the call that frees it. By pool:"
    " size class, private pool and stream.",
    "Drag to zoom, scroll to zoom in and out, double-click to see all; what is drawn is computed anew for"
    " each window, and no peak is lost. A click sets the moment for all pages. Marks above the lines are"
    " what happened once: click one to look at it.",
    "Figures are replayed from the recorded events; they are called recorded where every allocation falls"
    " where it was recorded. Whether a release was a retry, garbage collection or"
    " empty_cache() is inferred from the order of events and their stacks.",
)


def layout() -> Any:
    return html.Div(
        id=ID,
        children=[
            dmc.Group(
                justify="space-between",
                gap="sm",
                wrap="nowrap",
                mih=36,
                children=[
                    dmc.Text(id=f"{ID}-summary", size="xs", lineClamp=2),
                    dmc.Group(
                        gap="xs",
                        wrap="nowrap",
                        style={"flexShrink": 0},
                        children=[
                            dmc.Button("Show all", id=f"{ID}-all", variant="subtle", size="compact-xs"),
                            dmc.Button(
                                "CSV",
                                id=f"{ID}-csv",
                                variant="default",
                                size="compact-xs",
                                **{"aria-label": "Download what is drawn as CSV"},
                            ),
                            dmc.SegmentedControl(id=f"{ID}-mode", data=_MODES, value="lines", size="xs"),
                            dmc.SegmentedControl(
                                id=f"{ID}-axis", data=_axes(True), value="events", size="xs"
                            ),
                            reading_help(_HELP, from_right=True),
                        ],
                    ),
                ],
            ),
            html.Div(id=f"{ID}-none"),
            dcc.Graph(
                id=f"{ID}-graph",
                style={"height": _HEIGHT, "visibility": "hidden"},
                responsive=True,
                config=graphs.config(
                    "timeline",
                    scrollZoom=True,
                    doubleClick="autosize",
                    showTips=False,
                    modeBarButtonsToRemove=["select2d", "lasso2d", "autoScale2d", "resetScale2d"],
                ),
            ),
            shown_store(ID),
            dcc.Store(id=f"{ID}-drawn"),
            dcc.Store(id=f"{ID}-asked"),
            dcc.Store(id=f"{ID}-relaid"),
            dcc.Download(id=f"{ID}-file"),
        ],
    )


def _axes(has_times: bool, why: str = "") -> list[dict[str, Any]]:
    """The choices of the axis; why time is none, where it is not."""
    return [
        {"value": "events", "label": "Events"},
        {"value": "time", "label": f"Time ({why})" if why else "Time", "disabled": not has_times},
    ]


def register(app: dash.Dash, library: Library) -> None:
    _register_switches(app)
    register_csv(app, library, ID, csv_of)

    @app.callback(
        Output(f"{ID}-graph", "figure"),
        Output(f"{ID}-graph", "style"),
        Output(f"{ID}-drawn", "data"),
        Output(f"{ID}-summary", "children"),
        Output(f"{ID}-axis", "data"),
        Output(f"{ID}-all", "disabled"),
        Output(f"{ID}-none", "children"),
        Input(shown_id(ID), "data"),
    )
    def draw(shown: Optional[View]) -> Any:
        if shown is None:
            return (no_update,) * 7
        hidden = {"height": _HEIGHT, "display": "none"}
        try:
            loaded = library.loaded(shown["item"], shown["device"])
            if not loaded.events:
                return no_update, hidden, key_of(shown), "", _axes(False), True, _no_history(loaded)
            seen = picture_of(loaded, shown)
            timeline = _timeline(loaded)
        except OomdoctorError as error:
            return no_update, hidden, None, "", no_update, True, alert(error)
        return (
            sent(timeline_figure(seen, shown["theme"])),
            {"height": _HEIGHT},
            key_of(shown),
            summary(loaded, shown, seen),
            _axes(timeline.has_times, "" if timeline.has_times else _NO_TIMES),
            shown["low"] is None,
            None,
        )

    @app.callback(
        Output(f"{ID}-asked", "data"),
        Input(f"{ID}-relaid", "data"),
        State(ids.SHOWN, "data"),
        prevent_initial_call=True,
    )
    def zoom(relayout: Optional[dict[str, Any]], shown: Optional[View]) -> Any:
        if not relayout or shown is None:
            return no_update
        try:
            loaded = library.loaded(shown["item"], shown["device"])
        except OomdoctorError:
            return no_update
        asked = asked_for(loaded, shown, relayout)
        return no_update if asked is None else {"item": shown["item"], "device": shown["device"], **asked}


def _register_switches(app: dash.Dash) -> None:
    def client(function: str, *arguments: Any) -> None:
        name = ClientsideFunction("oomdoctor_timeline", function)
        app.clientside_callback(name, *arguments, prevent_initial_call=True)

    view = Output(ids.VIEW, "data", allow_duplicate=True)
    now, drawn = State(ids.VIEW, "data"), State(f"{ID}-drawn", "data")
    mode, axis = (f"{ID}-mode", "value"), (f"{ID}-axis", "value")
    for function, inputs in (
        ("chosen", [Input(*mode), Input(*axis), now]),
        ("zoomed", [Input(f"{ID}-asked", "data"), now]),
        ("clicked", [Input(f"{ID}-graph", "clickData"), now, drawn]),
        ("all", [Input(f"{ID}-all", "n_clicks"), now]),
    ):
        client(function, view, *inputs)
    client("relaid", view, Output(f"{ID}-relaid", "data"), Input(f"{ID}-graph", "relayoutData"), now,
           State("moment-info", "data"))  # fmt: skip


# ---- what callbacks do, without Dash ----


def key_of(shown: View) -> list[Any]:
    """All that the figure is drawn from but the moment, which moves within it."""
    return [
        shown["item"],
        shown["device"],
        shown["low"],
        shown["high"],
        shown["axis"],
        _mode(shown),
        shown["theme"],
    ]


def picture_of(loaded: Loaded, shown: View) -> Picture:
    """What a view shows of the timeline."""
    timeline = _timeline(loaded)
    mode = _mode(shown)
    return picture(
        loaded.history,
        timeline,
        loaded.made("timeline marks", _marks),
        timeline.window(shown["low"], shown["high"]),
        loaded.event(shown["event"]),
        over_time=shown["axis"] == "time",
        bands=loaded.made(("timeline bands", mode), lambda one: _bands(one, mode))
        if mode in MAKERS
        else None,
    )


def asked_for(loaded: Loaded, shown: View, relayout: dict[str, Any]) -> Optional[dict[str, Optional[int]]]:
    """The window that a change of the axis asks for, ``low`` and ``high`` as a view has them.

    None where the change is none of the horizontal axis, or the window is the one that is shown: what the
    figure itself sets comes back as a change too. A double click is the browser's affair.
    """
    timeline = _timeline(loaded)
    ends = relayout.get("xaxis.range") or [relayout.get(f"xaxis.range[{i}]") for i in (0, 1)]
    if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, (int, float)) for end in ends):
        return None
    over_time = shown["axis"] == "time" and timeline.has_times
    window = timeline.window_between(float(ends[0]), float(ends[1]), over_time)
    if window == timeline.window(shown["low"], shown["high"]):
        return None
    if window == (0, timeline.events):
        return {"low": None, "high": None}
    return {"low": window[0], "high": window[1]}


def summary(loaded: Loaded, shown: View, seen: Picture) -> str:
    """The peaks in words, of the recording and of the window; levels that are too high to be drawn."""
    timeline = _timeline(loaded)
    top, most = timeline.peaks["allocated"], timeline.peaks["reserved"]
    parts = [
        f"Peak allocated {format_bytes(top.bytes)} after {top.after:,} events,"
        f" reserved {format_bytes(most.bytes)} ({basis_of(loaded.device)})"
    ]
    low, high = timeline.window(shown["low"], shown["high"])
    if (low, high) != (0, timeline.events):
        here = timeline.peak("allocated", low, high)
        parts.append(f"in view {format_bytes(here.bytes)} after {here.after:,} events")
    parts += [f"{name}: {format_bytes(size)}" for name, size in seen.beyond]
    return " · ".join(parts)


def csv_of(loaded: Loaded, shown: View) -> Optional[tuple[str, str]]:
    """A file of what is drawn, a row per state: events that have happened, time, bytes of each line."""
    import numpy as np
    import pandas as pd

    if not loaded.events:
        return None

    timeline = _timeline(loaded)
    low, high = timeline.window(shown["low"], shown["high"])
    states = np.unique(
        np.concatenate([timeline.kept_around(name, low, high, POINTS, False) for name in SERIES])
    )
    states = states[(states >= low) & (states <= high)]
    times = loaded.recording.events.time_us
    columns = {"events": states}
    if timeline.has_times:
        columns["time_us"] = times[np.maximum(states - 1, 0)]
    columns.update({f"{name}_bytes": timeline.series[name][states] for name in SERIES})
    return "timeline.csv", str(pd.DataFrame(columns).to_csv(index=False))


def seconds_of(loaded: Loaded, event: int) -> Optional[float]:
    """Where a moment lies on the axis of time; None where there is none."""
    timeline = _timeline(loaded)
    return float(timeline.positions(_one(event), True)[0]) if timeline.has_times else None


def _one(event: int) -> Any:
    import numpy as np

    return np.array([event], np.int64)


def _mode(shown: View) -> str:
    mode = options_of(shown, ID).get("mode")
    return mode if mode in MAKERS else "lines"


def _timeline(loaded: Loaded) -> Timeline:
    return loaded.made("timeline", lambda one: Timeline(one.device, one.item.run))


def _marks(loaded: Loaded) -> tuple[Marks, ...]:
    return marks_of(loaded.history, _timeline(loaded))


def _bands(loaded: Loaded, mode: str) -> Bands:
    return MAKERS[mode](loaded.history)


def _no_history(loaded: Loaded) -> Any:
    device = f"GPU {loaded.device.device}"
    return alert(
        "No history was recorded",
        f"The snapshot has the final state of {device} and no events that led to it: there is no timeline,"
        " and the only moment is the end. Record with oomdoctor trace -- COMMAND, or call"
        " torch.cuda.memory._record_memory_history() before the part to look at.",
        colour="blue",
    )
