"""Fragmentation: over time, per pool and stream, and at the moment."""

from __future__ import annotations

from typing import Any, Optional

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from oomdoctor.errors import OomdoctorError
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor_dashboard import by_the_way, graphs, ids
from oomdoctor_dashboard import fragmentation_data as data
from oomdoctor_dashboard import fragmentation_tables as tables
from oomdoctor_dashboard.errors import alert
from oomdoctor_dashboard.figures import fragmentation as figures
from oomdoctor_dashboard.figures.drawing import Drawing, sent
from oomdoctor_dashboard.free_blocks import free_blocks_of
from oomdoctor_dashboard.gates import OVER_FRAGMENTATION, pressed, shown_id
from oomdoctor_dashboard.jobs import Job
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.live_data import basis_of, pool_name, stream_name
from oomdoctor_dashboard.polling import NO_MORE, once_more, order, poll, question
from oomdoctor_dashboard.reading_help import reading_help
from oomdoctor_dashboard.settings_of_page import settings_store, settle_in_browser
from oomdoctor_dashboard.tables import THEME, by_number
from oomdoctor_dashboard.view import View, changed, only_what_changes, options_of

ID, TITLE = "fragmentation", "Fragmentation"

# The view while this page is looked at: what other pages do costs it no way to the server.
_SHOWN = shown_id(ID)

# What a person waits for without being told to.
_AT_ONCE_S = 0.2
_MOST_WINDOWS = 64
_SPLIT = "split"
_MEASURES = ("hole_bytes", "largest_free_bytes", "external", "stranded_bytes", "free_bytes", "pending_bytes",
             "internal_bytes", "reserved_bytes")  # fmt: skip
_LATER = {"1000": "in the next 1,000 events", "10000": "in the next 10,000 events",
          "100000": "in the next 100,000 events", "end": "until the end"}  # fmt: skip

# Until there is something to draw.
_EMPTY = {
    "template": "none",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "xaxis": {"visible": False},
    "yaxis": {"visible": False},
}

# Pixels, and rows of the table of what pins holes that are seen at once.
_GRID_ROW, _GRID_HEADER = 27, 36
_MOST_ROWS = 14

_HELP_OVER = """\
Of what is reserved, what no tensor uses: holes (free blocks in segments that hold a live block, so they
cannot go back to the device), free whole segments, pending (freed, another stream may still use it) and
rounding. Dotted: the largest free block; no larger request fits without new memory. Dashed: stranded, free
memory that no recorded request size may take and that cannot be given back. Below: external fragmentation,
1 − largest free block ÷ free. Free memory serves only requests of its own pool and stream: choose one, or
compare one measure over all. The heap is looked at about 150 times in the stretch that the timeline shows,
each time where most is reserved and not allocated; zoom the timeline for more. Click to go to a moment.
"""
_HELP_BLOCKS = """\
Above: the free blocks of this moment by size, each class from one power of two to the next. Below: the
requests that the recording made after it, by rounded size, on a logarithmic axis. A block is of use if one of
the requests fits into it, were it the only one left: the rules of the allocator hold (pool, stream,
max_split_size_mb, expandable segments). Stranded is as in the table below: no request of the whole recording
fits, before or after, and the memory cannot be given back.
"""
_HELP_TABLES = """\
Measures of this moment, equal to oomdoctor inspect --json. Rest on the head of a column for its meaning. What
pins holes: the live blocks that stand in segments with holes, by the place that allocated them; "alone" is
what moving these blocks alone would join.
"""


def layout() -> Any:
    return html.Div(
        [
            html.Div(id=f"{ID}-problem"),
            html.Div(
                [
                    _heading("Over the timeline's stretch (replayed)", _HELP_OVER, _over_controls()),
                    _progress(),
                    _graph("over", "fragmentation"),
                    _heading("Free blocks and later requests", _HELP_BLOCKS, _block_controls()),
                    dmc.Text(id=f"{ID}-blocks-text", size="sm"),
                    _graph("blocks", "free-blocks"),
                ],
                id=f"{ID}-history",
            ),
            html.Div(
                [
                    _heading(
                        "By pool and stream",
                        _HELP_TABLES,
                        [
                            dmc.Text(id=f"{ID}-basis", size="xs", c="dimmed"),
                            dmc.Button(
                                "Download CSV", id=f"{ID}-pools-csv", variant="default", size="compact-xs"
                            ),
                        ],
                    ),
                    _grid("pools", _columns(tables.COLUMNS, [_column("pool", 130), _column("stream", 70)])),
                    _heading(
                        "What pins the holes",
                        None,
                        [
                            dmc.Text(id=f"{ID}-pins-text", size="xs", c="dimmed"),
                            dmc.Button(
                                "Download CSV", id=f"{ID}-pins-csv", variant="default", size="compact-xs"
                            ),
                        ],
                    ),
                    _grid(
                        "pins",
                        _columns(tables.PIN_COLUMNS, [{**_column("place", 360), "flex": 1, "pinned": None}]),
                        scrolls=True,
                    ),
                ],
                id=f"{ID}-themed",
            ),
            poll(f"{ID}-poll"),
            settings_store(ID, _SETTINGS),
            dcc.Store(id=f"{ID}-job"),
            dcc.Store(id=f"{ID}-stopped"),
            dcc.Download(id=f"{ID}-file"),
        ]
    )


def _heading(title: str, text: Optional[str], right: list[Any]) -> Any:
    help_ = [] if text is None else [reading_help(text, width=480)]
    left = dmc.Group([dmc.Text(title, fw=600), *help_], gap="xs")
    return dmc.Group([left, dmc.Group(right, gap="xs")], justify="space-between", mt="sm", mb=4)


def _select(name: str, label: str, width: int, choices: list[dict[str, str]], value: str) -> Any:
    return dmc.Select(
        id=f"{ID}-{name}", data=choices, value=value, size="xs", w=width, allowDeselect=False,
        **{"aria-label": label},
    )  # fmt: skip


def _over_controls() -> list[Any]:
    what = [{"value": _SPLIT, "label": "what is reserved and not used"}]
    what += [{"value": name, "label": f"{figures.NAMES[name]}, every pool"} for name in _MEASURES]
    return [
        _select("what", "What to draw", 260, what, _SPLIT),
        _select("where", "Pool and stream", 220, [{"value": "device", "label": "the device"}], "device"),
    ]


def _block_controls() -> list[Any]:
    later = [{"value": value, "label": f"requests {text}"} for value, text in _LATER.items()]
    return [
        _select("later", "Which requests are later ones", 255, later, "end"),
        dmc.SegmentedControl(
            id=f"{ID}-unit",
            value="bytes",
            size="xs",
            data=[{"value": "bytes", "label": "Bytes"}, {"value": "count", "label": "Count"}],
        ),
    ]


def _progress() -> Any:
    return html.Div(
        dmc.Group(
            [
                dmc.Progress(id=f"{ID}-done", value=0, w=220, size="sm"),
                dmc.Text(id=f"{ID}-progress", size="xs", c="dimmed"),
                dmc.Button("Stop", id=f"{ID}-stop", variant="default", size="compact-xs"),
            ],
            gap="xs",
        ),
        id=f"{ID}-working",
        style={"display": "none"},
    )


def _graph(name: str, filename: str) -> Any:
    return dcc.Graph(
        id=f"{ID}-{name}",
        figure=go.Figure(layout={**_EMPTY, "height": 330}),
        config=graphs.config(filename),
    )


def _column(name: str, width: int) -> dict[str, Any]:
    return {
        "field": name,
        "headerName": name.capitalize(),
        "width": width,
        "tooltipField": name,
        "pinned": "left",
    }


def _columns(
    described: tuple[tuple[str, str, str], ...], first: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    return [
        *first,
        *(
            {
                "field": f"{name}_text",
                "headerName": head,
                "headerTooltip": text,
                "width": 170 if name == "age" else 98,
                **by_number(name),
            }
            for name, head, text in described
        ),
    ]


def _grid(name: str, columns: list[dict[str, Any]], *, scrolls: bool = False) -> Any:
    """A table; one that scrolls has only the rows in sight in the page."""
    return dag.AgGrid(
        id=f"{ID}-{name}",
        columnDefs=columns,
        rowData=[],
        getRowId="params.data.id",  # rows of another moment are written into those that are there
        defaultColDef={"sortable": True, "resizable": True, "suppressMovable": True},
        dashGridOptions={
            "theme": THEME,
            "rowHeight": _GRID_ROW,
            "headerHeight": _GRID_HEADER - 4,
            "domLayout": "normal" if scrolls else "autoHeight",
            "suppressCellFocus": True,
            "enableCellTextSelection": True,
            "tooltipShowDelay": 300,
        },
        style={"height": None},
    )


# ---- what callbacks stand on ----


def _mine(shown: Any) -> bool:
    return bool(shown) and shown["tab"] == ID and bool(shown["item"])


def _start_us(loaded: Loaded) -> int:
    times = loaded.recording.events.time_us
    return int(times[0]) if len(times) else UNKNOWN


def series_key(shown: View, loaded: Loaded) -> tuple[Any, ...]:
    """What a sampled series is kept by."""
    low, high = data.window_of(shown["low"], shown["high"], loaded.events)
    return (ID, shown["item"], shown["device"], low, high)


def start_series(library: Library, loaded: Loaded, key: tuple[Any, ...]) -> Job:
    """Look at the heap all over a window, in the background."""
    history, (low, high) = loaded.history, key[-2:]

    def work(job: Job) -> data.Series:
        events = data.sample_events(history, low, high)
        return data.sampled_series(history, events, job.progress)

    return library.jobs.start(key, "Measuring fragmentation", work)


def choices_of(loaded: Loaded, series: data.Series) -> dict[data.Where, str]:
    """Names of what a series has rows of."""
    recording = loaded.recording
    return {
        where: "the device"
        if where is None
        else f"{pool_name(recording, where[0], where[1])}, stream {stream_name(recording, where[2])}"
        for where in series.where
    }


def register(app: dash.Dash, library: Library) -> None:
    settle_in_browser(app, ID, _SETTINGS)
    _register_over(app, library)
    _register_moment(app, library)


_SETTINGS = {
    "what": ("value", _SPLIT),
    "where": ("value", "device"),
    "later": ("value", "end"),
    "unit": ("value", "bytes"),
}


def _option(shown: View, name: str) -> str:
    return str(options_of(shown, ID).get(name) or _SETTINGS[name][1])


def _register_over(app: dash.Dash, library: Library) -> None:
    kept: list[Any] = []

    def job_of(shown: View, loaded: Loaded, before: Any, stopped: Any) -> Optional[Job]:
        """The job of the window that is shown; None where a person has stopped it."""
        key = series_key(shown, loaded)
        if before and tuple(before) != key:
            # This page has moved on: what it no longer waits for need not go on.
            old = library.jobs.get(tuple(before))
            if old is not None and old.state == "running":
                old.cancel()
        if stopped and tuple(stopped) == key:
            return None
        if key not in kept:
            kept.append(key)
            while len(kept) > _MOST_WINDOWS:
                library.jobs.forget(kept.pop(0))
        return start_series(library, loaded, key)

    @app.callback(
        Output(f"{ID}-over", "figure"),
        Output(f"{ID}-where", "data"),
        Output(f"{ID}-working", "style"),
        Output(f"{ID}-done", "value"),
        Output(f"{ID}-progress", "children"),
        order(f"{ID}-poll"),
        Output(f"{ID}-job", "data"),
        Output(f"{ID}-problem", "children"),
        Output(f"{ID}-history", "style"),
        # Not with each step: the line of the moment moves in the browser.
        Input(shown_id(OVER_FRAGMENTATION), "data"),
        question(f"{ID}-poll"),
        Input(f"{ID}-stopped", "data"),
        State(_SHOWN, "data"),
        State(f"{ID}-job", "data"),
    )
    def over(_: Any, asked: Any, stopped: Any, shown: Any, before: Any) -> Any:
        hidden: dict[str, Any] = {"display": "none"}
        if not _mine(shown):
            return (*(no_update,) * 5, NO_MORE, *(no_update,) * 3)
        try:
            loaded = library.loaded(shown["item"], shown["device"])
        except OomdoctorError as error:
            return (*(no_update,) * 5, NO_MORE, no_update, alert(error), hidden)
        if not loaded.device.has_events:
            return (*(no_update,) * 2, hidden, 0, "", NO_MORE, None, _no_history(), hidden)
        key = series_key(shown, loaded)
        job = job_of(shown, loaded, before, stopped)
        polled = set(dash.ctx.triggered_prop_ids) == {f"{ID}-poll.n_intervals"}
        is_new = not before or tuple(before) != key
        working = job is not None and job.state == "running" and not job.wait(_AT_ONCE_S if is_new else 0.0)
        done, total = (job.done, job.total) if job else (0, 0)
        share = 100 * done / total if total else 0
        text = f"Looking at moment {done:,} of {total:,} …" if total else "Looking at moments …"
        if working and polled:
            return (*(no_update,) * 2, {}, share, text, once_more(asked), list(key), None, {})
        problem = alert(job.error) if job is not None and job.error is not None else None
        if job is not None and job.result is not None:
            series = job.result
        else:
            low, high = key[-2:]
            series = data.totals_series(loaded.history, low, high)
            if not working and problem is None:
                problem = alert(
                    "Stopped",
                    "These are the device's totals. Move the timeline to look closer.",
                    colour="blue",
                )
        names = choices_of(loaded, series)
        data_ = [{"value": data.where_key(where), "label": name} for where, name in names.items()]
        figure = _drawn(shown, loaded, series, names)
        working_style = {} if working else hidden
        more = once_more(asked) if working else NO_MORE
        return sent(figure), data_, working_style, share, text, more, list(key), problem, {}

    @app.callback(
        Output(f"{ID}-stopped", "data"),
        Input(f"{ID}-stop", "n_clicks"),
        State(f"{ID}-job", "data"),
        prevent_initial_call=True,
    )
    def stop(clicks: Any, key: Any) -> Any:
        if not clicks:
            return no_update
        job = library.jobs.get(tuple(key)) if key else None
        if job is not None:
            job.cancel()
        return key

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-over", "clickData"),
        State(f"{ID}-job", "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def go_to(clicked: Any, key: Any, view: Any) -> Any:
        if not _mine(view) or not clicked or not key:
            return no_update
        loaded = library.loaded(view["item"], view["device"])
        job = library.jobs.get(tuple(key))
        series = job.result if job is not None else None
        if series is None:
            series = data.totals_series(loaded.history, *key[-2:])
        x = float(clicked["points"][0]["x"])
        return changed(view, event=figures.nearest_event(series, view["axis"], _start_us(loaded), x))


def _drawn(shown: View, loaded: Loaded, series: data.Series, names: dict[data.Where, str]) -> Drawing:
    what, where = _option(shown, "what"), data.where_of(_option(shown, "where"))
    common: dict[str, Any] = {
        "axis": shown["axis"],
        "event": loaded.event(shown["event"]),
        "start_us": _start_us(loaded),
        "theme": shown["theme"],
    }
    if what in _MEASURES and (series.is_sampled or what in series.values):
        return figures.by_compartment(series, what, names, **common)
    return figures.over_time(series, where=where if where in series.where else None, **common)


def _no_history() -> Any:
    return alert(
        "No history was recorded",
        "Only the final state is known: the tables below show it. For fragmentation over time, record with"
        " oomdoctor trace -- COMMAND.",
        colour="blue",
    )


def _register_moment(app: dash.Dash, library: Library) -> None:
    @app.callback(
        Output(f"{ID}-blocks", "figure"),
        Output(f"{ID}-blocks-text", "children"),
        Output(f"{ID}-pools", "rowData"),
        Output(f"{ID}-pools", "dashGridOptions"),
        Output(f"{ID}-pins", "rowData"),
        Output(f"{ID}-pins", "style"),
        Output(f"{ID}-pins-text", "children"),
        Output(f"{ID}-basis", "children"),
        Input(_SHOWN, "data"),
        State(f"{ID}-pools", "dashGridOptions"),
        State(f"{ID}-pins", "style"),
        State(f"{ID}-themed", "data-ag-theme-mode"),
        *(State(f"{ID}-{name}", "value") for name in _SETTINGS),
    )
    def draw(shown: Any, options: Any, style: Any, theme: Any, *there: Any) -> Any:
        """All that is of the moment, and what an address asked for in the boxes: one request a step."""
        if not _mine(shown):
            raise PreventUpdate
        wished = [_option(shown, name) for name in _SETTINGS]
        for name, value, now in zip(_SETTINGS, wished, there):
            by_the_way.write((f"{ID}-{name}", "value"), no_update if value == now else value)
        try:
            loaded = library.loaded(shown["item"], shown["device"])
        except OomdoctorError:  # the other callback says why
            return (no_update,) * 8
        moment, inspection = loaded.moment(shown["event"]), loaded.inspection(shown["event"])
        figure, text = no_update, ""
        if loaded.device.has_events:
            drawn, text = _blocks(shown, loaded)
            figure = sent(drawn)
        pins = tables.pin_rows(inspection)
        count = len(inspection.pins)
        said = "" if count else "No hole is pinned at this moment."
        if count > len(pins):
            said = f"the first {len(pins)} of {count:,} places"
        basis = f"after {moment.events:,} events, {basis_of(loaded.device, moment)}"
        if not loaded.device.has_events:
            basis = "the final state, recorded"
        if theme != shown["theme"]:
            by_the_way.write((f"{ID}-themed", "data-ag-theme-mode"), shown["theme"])
        above = {**options, "pinnedTopRowData": [{"id": "device", **tables.device_row(moment)}]}
        height = {"height": _GRID_HEADER + _GRID_ROW * min(max(len(pins), 1), _MOST_ROWS)}
        return (
            figure,
            text,
            _numbered(tables.pool_rows(moment)),
            no_update if above == options else above,
            _numbered(pins),
            no_update if height == style else height,
            said,
            basis,
        )

    @app.callback(
        Output(f"{ID}-file", "data"),
        Input(f"{ID}-pools-csv", "n_clicks"),
        Input(f"{ID}-pins-csv", "n_clicks"),
        State(_SHOWN, "data"),
        prevent_initial_call=True,
    )
    def download(_: Any, __: Any, shown: Any) -> Any:
        if not _mine(shown):
            return no_update
        loaded = library.loaded(shown["item"], shown["device"])
        at = loaded.event(shown["event"])
        if pressed(f"{ID}-pins-csv"):
            content = tables.pins_csv(loaded.inspection(shown["event"]))
            return {"content": content, "filename": f"pins-at-{at}.csv"}
        content = tables.pools_csv(loaded.moment(shown["event"]))
        return {"content": content, "filename": f"fragmentation-at-{at}.csv"}


def _numbered(rows: tables.Rows) -> tables.Rows:
    return [{"id": str(number), **row} for number, row in enumerate(rows)]


def _blocks(shown: View, loaded: Loaded) -> tuple[Drawing, str]:
    """The histogram of the moment, and what it says in a line."""
    later = _option(shown, "later")
    classes, text = free_blocks_of(
        loaded,
        loaded.moment(shown["event"]),
        later=int(later) if later.isdigit() else None,
        where=data.where_of(_option(shown, "where")),
        later_words=_LATER.get(later, _LATER["end"]),
    )
    counts = _option(shown, "unit") == "count"
    return figures.free_blocks(classes, counts=counts, theme=shown["theme"]), text
