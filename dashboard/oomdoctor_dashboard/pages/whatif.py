"""What if: other settings and another capacity on the same requests, and a search for the best."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import Any, Optional

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import ClientsideFunction, Input, Output, Patch, State, dcc, html, no_update

from oomdoctor.advice.state_only import has_requests
from oomdoctor.allocator.release_bounds import named
from oomdoctor_dashboard import graphs, ids, told, whatif_advice, whatif_data, whatif_form
from oomdoctor_dashboard.errors import alert
from oomdoctor_dashboard.figures import whatif as figures
from oomdoctor_dashboard.gates import has_just_come, pressed, shown_id
from oomdoctor_dashboard.jobs import Job
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.polling import NO_MORE, once_more, order, poll, question
from oomdoctor_dashboard.reading_help import reading_help
from oomdoctor_dashboard.tables import RIGHT, THEME
from oomdoctor_dashboard.view import changed, only_what_changes, options_of, with_options
from oomdoctor_dashboard.whatif_form import EXPANDABLE, KEYS, RELEASES, ROUNDUP, Wanted

ID, TITLE = "whatif", "What if"

_POINTS = 2000
_AT_ONCE = 0.15  # seconds that a page waits for an answer before it says that it is being worked on
_KEPT = 6  # answers and searches; an answer takes 24 bytes for each request of the recording
_HIDDEN, _SHOWN = {"display": "none"}, {"display": "block"}
# Fields that are options of their own; the others are parts of the settings text.
_OWN = ("conf", "capacity", "torch", "fraction")
_HELP = """\
The same requests, frees and empty_cache() of the program are replayed under other settings; segments, splits,
merges and retries are then the allocator's. Change a field or the text, which is what one would put into
PYTORCH_CUDA_ALLOC_CONF. Solid lines are reserved memory, dotted ones allocated; grey is the recording, blue
the replay. A replay ends where it runs out of memory. The search tries settings that differ in what they do
to the sizes in this recording, and looks for the least memory that the best of them survive with. A row or a
point puts its setting into the form.
"""
_COLUMNS = [
    {"field": "mark", "headerName": "", "width": 42, "sortable": False, "resizable": False,
     "cellStyle": {"color": "#38a169", "fontSize": 17, "padding": 0, "textAlign": "center"}},
    {"field": "setting", "headerName": "Setting", "flex": 1, "minWidth": 230, "tooltipField": "setting"},
    {"field": "survives", "headerName": "Survives", "width": 126},
    {"field": "everywhere", "headerName": "All survive", "width": 104},
    {"field": "reserved", "headerName": "Reserved", "width": 116, **RIGHT,
     "valueFormatter": {"function": "params.data.reserved_text"},
     "headerTooltip": "The most that is reserved"},
    {"field": "retries", "headerName": "Retries", "width": 80, **RIGHT},
    {"field": "needs", "headerName": "Needs", "width": 116, **RIGHT,
     "valueFormatter": {"function": "params.data.needs_text"},
     "headerTooltip": "The least memory for PyTorch that these requests survive with"},
    {"field": "basis", "headerName": "Basis", "width": 90},
]  # fmt: skip


# ---- layout ----


def layout() -> Any:
    return html.Div(
        [
            poll(f"{ID}-poll"),
            poll(f"{ID}-advice-poll"),
            dcc.Store(id=f"{ID}-advice-drawn"),
            dcc.Store(id=f"{ID}-settled"),
            html.Div(id=f"{ID}-nothing"),
            html.Div(
                id=f"{ID}-page",
                children=[
                    dmc.Grid(
                        [
                            dmc.GridCol(_form(), span=4),
                            dmc.GridCol(_result(), span=8),
                        ],
                        gutter="md",
                    ),
                    dmc.Divider(my="md"),
                    _advice(),
                ],
            ),
        ]
    )


def _form() -> Any:
    small: dict[str, Any] = {"size": "xs"}
    number: dict[str, Any] = {**small, "debounce": 700, "min": 0, "allowNegative": False}
    fields = {
        "max_split_size_mb": dmc.NumberInput(
            id=f"{ID}-max_split_size_mb", label="max_split_size_mb", placeholder="unlimited",
            step=32, allowDecimal=False, **number,
        ),
        ROUNDUP: dmc.Autocomplete(
            id=f"{ID}-{ROUNDUP}", label=ROUNDUP, placeholder="none", debounce=True,
            data=["1", "2", "4", "8", "16", "[256:1,512:2,1024:4,>:8]", "[1:8,16:4,64:2,>:1]"], **small,
        ),
        "garbage_collection_threshold": dmc.NumberInput(
            id=f"{ID}-garbage_collection_threshold", label="garbage_collection_threshold", placeholder="off",
            step=0.1, **number,
        ),
        "large_segment_size_mb": dmc.NumberInput(
            id=f"{ID}-large_segment_size_mb", label="large_segment_size_mb", placeholder="20",
            step=4, allowDecimal=False, **number,
        ),
        "max_non_split_rounding_mb": dmc.NumberInput(
            id=f"{ID}-max_non_split_rounding_mb", label="max_non_split_rounding_mb", placeholder="20",
            step=4, allowDecimal=False, **number,
        ),
        EXPANDABLE: dmc.Switch(id=f"{ID}-{EXPANDABLE}", label=EXPANDABLE, size="xs", pt=28),
    }  # fmt: skip
    return html.Div(
        [
            dmc.Group(
                [
                    dmc.Text("Settings and capacity", fw=600),
                    dmc.Group(
                        [
                            reading_help(_HELP),
                            dmc.Button(
                                "Reset", id=f"{ID}-reset", variant="default", size="compact-xs"
                            ),
                        ],
                        gap="xs",
                    ),
                ],
                justify="space-between",
            ),
            dmc.TextInput(
                id=f"{ID}-conf",
                label="PYTORCH_CUDA_ALLOC_CONF",
                placeholder="the defaults",
                debounce=True,
                spellCheck=False,
                className="od-mono",
                **small,
            ),
            dmc.SimpleGrid(
                [html.Div(one, id=f"{ID}-{key}-field") for key, one in fields.items()],
                cols=2, spacing="sm", verticalSpacing=4, mt=6,
            ),
            dmc.Divider(my="xs"),
            dmc.Grid(
                [
                    dmc.GridCol(
                        dmc.TextInput(
                            id=f"{ID}-capacity", label="Capacity for PyTorch", debounce=True,
                            spellCheck=False, **small,
                        ),
                        span=4.6,
                    ),
                    dmc.GridCol(
                        dmc.NumberInput(
                            id=f"{ID}-fraction", label="Memory fraction", step=0.05, max=1, **number
                        ),
                        span=3.4,
                    ),
                    dmc.GridCol(
                        dmc.Select(
                            id=f"{ID}-torch", label="Rules of torch", clearable=True, searchable=True,
                            data=[named(release) for release in reversed(RELEASES)], **small,
                        ),
                        span=4,
                    ),
                ],
                gutter="xs",
            ),
            html.Div(id=f"{ID}-warnings"),
        ]
    )  # fmt: skip


def _result() -> Any:
    return html.Div(
        [
            dmc.Group(
                [
                    dmc.Text("As recorded", id=f"{ID}-headline", fw=600),
                    html.Div(
                        dmc.Group(
                            [
                                dmc.Loader(size="xs"),
                                dmc.Text("", id=f"{ID}-running-text", size="sm"),
                                dmc.Button("Cancel", id=f"{ID}-cancel", variant="default", size="compact-xs"),
                            ],
                            gap="xs",
                        ),
                        id=f"{ID}-running",
                        style=_HIDDEN,
                    ),
                    dmc.Button(
                        "Replay again", id=f"{ID}-again", variant="light", size="compact-xs", style=_HIDDEN
                    ),
                ],
                gap="sm",
                h=24,
            ),
            html.Div(id=f"{ID}-problem"),
            dcc.Graph(
                id=f"{ID}-graph",
                figure=figures.nothing(),
                style={"height": "300px"},
                config=graphs.config("what-if", responsive=True),
            ),
            dmc.Grid(
                [
                    dmc.GridCol(html.Div(id=f"{ID}-figures"), span=5.7),
                    dmc.GridCol(html.Div(id=f"{ID}-words"), span=6.3),
                ]
            ),
        ]
    )


def _advice() -> Any:
    return html.Div(
        [
            dmc.Group(
                [
                    dmc.Text("Which settings would have helped", fw=600),
                    dmc.Button("Search settings", id=f"{ID}-search", size="xs"),
                    html.Div(
                        dmc.Switch(
                            id=f"{ID}-everywhere", label="all ranks and devices of the run", size="sm"
                        ),
                        id=f"{ID}-everywhere-field",
                    ),
                    html.Div(
                        dmc.Group(
                            [
                                dmc.Progress(id=f"{ID}-advice-progress", value=0, w=220, animated=True),
                                dmc.Text("", id=f"{ID}-advice-running-text", size="sm"),
                                dmc.Button(
                                    "Cancel", id=f"{ID}-advice-cancel", variant="default", size="compact-xs"
                                ),
                            ],
                            gap="xs",
                        ),
                        id=f"{ID}-advice-running",
                        style=_HIDDEN,
                    ),
                ]
            ),
            html.Div(id=f"{ID}-advice-problem"),
            html.Div(
                id=f"{ID}-advice",
                style=_HIDDEN,
                children=[
                    html.Div(id=f"{ID}-conclusion"),
                    dmc.Grid(
                        [
                            dmc.GridCol(
                                [
                                    dag.AgGrid(
                                        id=f"{ID}-table",
                                        columnDefs=_COLUMNS,
                                        rowData=[],
                                        getRowId="params.data.id",
                                        defaultColDef={"sortable": True, "resizable": True},
                                        dashGridOptions={
                                            "theme": THEME,
                                            "suppressCellFocus": True,
                                            "rowHeight": 30,
                                            "headerHeight": 34,
                                            "tooltipShowDelay": 300,
                                        },
                                        csvExportParams={"fileName": "oomdoctor-settings.csv"},
                                        style={"height": "340px"},
                                    ),
                                    dmc.Group(
                                        [
                                            dmc.Text(
                                                "Click a row to replay it. Needs: the least memory for"
                                                " PyTorch that these requests survive with.",
                                                size="xs",
                                                c="dimmed",
                                            ),
                                            dmc.Button(
                                                "CSV", id=f"{ID}-csv", variant="subtle", size="compact-xs"
                                            ),
                                        ],
                                        justify="space-between",
                                        mt=4,
                                    ),
                                ],
                                span=8,
                            ),
                            dmc.GridCol(
                                dcc.Graph(
                                    id=f"{ID}-trade-off",
                                    figure=figures.nothing(),
                                    style={"height": "360px"},
                                    config=graphs.config("settings", responsive=True),
                                ),
                                span=4,
                            ),
                        ],
                        mt="xs",
                    ),
                    html.Div(id=f"{ID}-advice-words"),
                ],
            ),
        ]
    )


# ---- callbacks ----


class _Kept:
    """Keys of jobs whose results are kept, the last used last."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._keys: OrderedDict[Any, None] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, key: Any, title: str, work: Any, *, again: bool) -> Job:
        """The job of a key. One that failed or was stopped begins again only if that is asked for."""
        jobs = self._library.jobs
        job = jobs.get(key)
        if job is None or again:
            job = jobs.start(key, title, work)
        with self._lock:
            self._keys[key] = None
            self._keys.move_to_end(key)
            for old in list(self._keys)[:-_KEPT]:
                known = jobs.get(old)
                if known is None or known.state != "running":
                    jobs.forget(old)
                    del self._keys[old]
        return job


def register(app: dash.Dash, library: Library) -> None:
    kept = _Kept(library)
    _register_form(app, library)
    _register_replay(app, library, kept)
    _register_advice(app, library, kept)


def _current(shown: Any, library: Library) -> Optional[Loaded]:
    """What is shown, where this page is open."""
    if not shown or shown["tab"] != ID or not shown["item"]:
        return None
    return library.loaded(shown["item"], shown["device"])


def _register_form(app: dash.Dash, library: Library) -> None:
    fields = (*_OWN, *KEYS)
    prop = {key: "checked" if key == EXPANDABLE else "value" for key in fields}

    # The form is drawn for other settings, not for another moment.
    app.clientside_callback(
        ClientsideFunction("oomdoctor", "settled"),
        Output(f"{ID}-settled", "data"),
        Input(shown_id(ID), "data"),
        State(f"{ID}-settled", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        output={
            "values": {key: Output(f"{ID}-{key}", prop[key]) for key in fields},
            "errors": {key: Output(f"{ID}-{key}", "error") for key in fields},
            "styles": {key: Output(f"{ID}-{key}-field", "style") for key in KEYS},
            "placeholders": {
                key: Output(f"{ID}-{key}", "placeholder") for key in ("capacity", "torch", "fraction")
            },
            "warnings": Output(f"{ID}-warnings", "children"),
            "nothing": Output(f"{ID}-nothing", "children"),
            "page": Output(f"{ID}-page", "style"),
        },
        inputs={"shown": Input(f"{ID}-settled", "data")},
        state={"there": {key: State(f"{ID}-{key}", prop[key]) for key in fields}},
    )
    def fill(shown: Any, there: dict[str, Any]) -> Any:
        loaded = _current(shown, library)
        if loaded is None:
            return dash.no_update
        if not _has_requests(loaded):
            return {**_same(fields), "nothing": _no_history(loaded), "page": _HIDDEN}
        options = options_of(shown, ID)
        form = whatif_form.wanted(loaded.device, options)
        values = {
            "conf": form.text,
            "capacity": options.get("capacity", ""),
            "torch": options.get("torch"),
            "fraction": whatif_form.field_value(f"f:{options.get('fraction', '')}", "f"),
            **{key: whatif_form.field_value(form.text, key) for key in KEYS},
        }
        recorded = loaded.device.memory_fraction
        return {
            "values": {key: no_update if there[key] == values[key] else values[key] for key in fields},
            "errors": {key: form.errors.get(key) for key in fields},
            "styles": {key: {} if form.knows(key) else _HIDDEN for key in KEYS},
            "placeholders": {
                "capacity": whatif_form.capacity_words(form.capacity),
                "torch": f"{named(loaded.history.torch)} (recorded)",
                "fraction": "none" if recorded is None else f"{recorded:g} (recorded)",
            },
            "warnings": [dmc.Text(one, size="xs", c="orange", mt=4) for one in form.warnings],
            "nothing": None,
            "page": _SHOWN,
        }

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        inputs={
            "given": {key: Input(f"{ID}-{key}", prop[key]) for key in fields},
            "_": Input(f"{ID}-reset", "n_clicks"),
            "view": State(ids.VIEW, "data"),
            "shown": State(shown_id(ID), "data"),
        },
        prevent_initial_call=True,
    )
    @only_what_changes
    def take(given: dict[str, Any], _: Any, view: Any, shown: Any) -> Any:
        loaded = _current(shown, library)
        if loaded is None or not view or view["tab"] != ID or has_just_come():
            return no_update
        triggered = {
            str(one).rpartition(".")[0].removeprefix(f"{ID}-") for one in dash.ctx.triggered_prop_ids
        }
        if pressed(f"{ID}-reset"):
            return with_options(view, ID, **dict.fromkeys(_OWN))
        options = options_of(view, ID)
        new = whatif_form.taken(
            options, {key: given[key] for key in fields if key in triggered}, loaded.history.settings.text
        )
        return no_update if new == options else with_options(view, ID, **{**dict.fromkeys(_OWN), **new})

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-table", "cellClicked"),
        Input(f"{ID}-trade-off", "clickData"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def choose(cell: Any, point: Any, view: Any) -> Any:
        if dash.ctx.triggered_id == f"{ID}-table":
            row = (cell or {}).get("rowId")
        else:
            row = ((point or {}).get("points") or [{}])[0].get("customdata")
        if not row or not view:
            return no_update
        return with_options(view, ID, conf=whatif_advice.conf_of_row(str(row)))

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-everywhere", "checked"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def widen(checked: bool, view: Any) -> Any:
        if not view or bool(options_of(view, ID).get("all")) == bool(checked):
            return no_update
        return with_options(view, ID, all=1 if checked else None)

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-graph", "clickData"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def go_to(click: Any, view: Any) -> Any:
        points = (click or {}).get("points") or []
        if not points or not view:
            return no_update
        return changed(view, event=max(int(points[0]["x"]), 0))

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-graph", "relayoutData"),
        State(ids.VIEW, "data"),
        State(shown_id(ID), "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def zoom(relayout: Any, view: Any, shown: Any) -> Any:
        loaded = _current(shown, library)
        if loaded is None or not view or not relayout:
            return no_update
        stretch = _stretch(relayout, loaded.events)
        if stretch is None or stretch == (view["low"], view["high"]):
            return no_update
        return changed(view, low=stretch[0], high=stretch[1])

    @app.callback(
        Output(f"{ID}-table", "exportDataAsCsv"),
        Input(f"{ID}-csv", "n_clicks"),
        prevent_initial_call=True,
    )
    def save(clicks: Any) -> bool:
        return bool(clicks)


def _stretch(relayout: dict[str, Any], events: int) -> Optional[tuple[Optional[int], Optional[int]]]:
    """The events that a change of the axis asks for; (None, None): all of them; None: it asks for nothing."""
    if relayout.get("xaxis.autorange"):
        return None, None
    ends = relayout.get("xaxis.range") or [relayout.get(f"xaxis.range[{i}]") for i in (0, 1)]
    numbers = [end for end in ends if isinstance(end, (int, float))]
    if len(numbers) != 2:
        return None
    # What the figure itself sets may come back: whole numbers stay what they are.
    low, high = max(math.floor(numbers[0]), 0), min(math.ceil(numbers[1]), events)
    return (low, high) if 0 <= low < high and (low, high) != (0, events) else (None, None)


def _same(fields: tuple[str, ...]) -> dict[str, Any]:
    return {
        "values": dict.fromkeys(fields, no_update),
        "errors": dict.fromkeys(fields, no_update),
        "styles": dict.fromkeys(KEYS, no_update),
        "placeholders": dict.fromkeys(("capacity", "torch", "fraction"), no_update),
        "warnings": no_update,
    }


def _has_requests(loaded: Loaded) -> bool:
    """Whether there is anything to replay."""
    return loaded.made(f"{ID}-requests", lambda one: has_requests(one.device))


def _no_history(loaded: Loaded) -> Any:
    words = loaded.made(f"{ID}-state", lambda one: whatif_advice.state_words(one.device))
    return [
        alert(
            "There is nothing to replay",
            "No request was recorded for this device: its state is all there is. Record the program with"
            " oomdoctor trace -- COMMAND.",
            colour="blue",
        ),
        html.Pre(words, className="od-mono", style={"fontSize": "12px"}),
    ]


def _register_replay(app: dash.Dash, library: Library, kept: _Kept) -> None:
    @app.callback(
        output={
            "graph": Output(f"{ID}-graph", "figure"),
            "headline": Output(f"{ID}-headline", "children"),
            "figures": Output(f"{ID}-figures", "children"),
            "words": Output(f"{ID}-words", "children"),
            "problem": Output(f"{ID}-problem", "children"),
            "running": Output(f"{ID}-running", "style"),
            "text": Output(f"{ID}-running-text", "children"),
            "again": Output(f"{ID}-again", "style"),
            "poll": order(f"{ID}-poll"),
            "drawn": Output(f"{ID}-drawn", "data"),
        },
        inputs={
            "shown": Input(shown_id(ID), "data"),
            "times": question(f"{ID}-poll"),
            "_cancel": Input(f"{ID}-cancel", "n_clicks"),
            "_again": Input(f"{ID}-again", "n_clicks"),
            "drawn": State(f"{ID}-drawn", "data"),
        },
    )
    def show(shown: Any, times: Any, _cancel: Any, _again: Any, drawn: Any) -> Any:
        loaded = _current(shown, library)
        if loaded is None or not _has_requests(loaded):
            return no_update
        form = whatif_form.wanted(loaded.device, options_of(shown, ID))
        out: dict[str, Any] = {
            "graph": no_update, "headline": no_update, "figures": no_update, "words": no_update,
            "problem": None, "running": _HIDDEN, "text": "", "again": _HIDDEN, "poll": NO_MORE,
            "drawn": no_update,
        }  # fmt: skip
        if form.asked is None:
            return {**out, "problem": _rejected(form, drawn is not None)}
        asked = form.asked
        key = (ID, shown["item"], shown["device"], asked)
        job = kept.start(
            key,
            f"Replaying {loaded.events:,} events",
            lambda job: whatif_data.answer(loaded, asked),
            again=pressed(f"{ID}-again"),
        )
        if pressed(f"{ID}-cancel"):
            job.cancel()
        job.wait(_AT_ONCE)
        if job.state == "running":
            text = f"{job.title} … {job.seconds:.0f} s"
            return {**out, "running": _SHOWN, "text": text, "poll": once_more(times)}
        if job.state == "cancelled":
            return {**out, "problem": alert("The replay was stopped", "", colour="gray"), "again": _SHOWN}
        if job.error is not None:
            return {**out, "problem": alert(job.error), "again": _SHOWN}
        return {**out, **_answered(loaded, job.result, shown, form, [*map(str, key)], drawn)}


def _rejected(form: Wanted, has_before: bool) -> Any:
    title = "A field is not understood"
    if "conf" in form.errors:
        title = f"torch {named(form.torch)} rejects these settings"
    before = " What is shown below was asked for before." if has_before else ""
    return alert(title, f"The field says why.{before}")


def _answered(
    loaded: Loaded, found: whatif_data.Answer, shown: Any, form: Wanted, key: list[str], drawn: Any
) -> dict[str, Any]:
    """What changes on the page with an answer."""
    low = 0 if shown["low"] is None else int(shown["low"])
    high = loaded.events if shown["high"] is None else min(int(shown["high"]), loaded.events)
    event = loaded.event(shown["event"])
    now = [*key, low, high, shown["theme"]]
    if drawn == now:
        patch = Patch()
        patch["layout"]["shapes"][0] = figures.moment_shape(event)
        return {"graph": patch}
    recorded = loaded.made(f"{ID}-course", lambda one: whatif_data.recorded_course(one.history))
    comparison = found.comparison
    graph = figures.courses(
        whatif_data.timeline(recorded, low, high, _POINTS),
        None if found.course is None else whatif_data.timeline(found.course, low, high, _POINTS),
        low=low,
        high=high,
        event=event,
        limit=comparison.limit_bytes,
        died=[("recorded", recorded.died), ("replayed", found.course.died if found.course else None)],
        theme=shown["theme"],
    )
    headline, said, notes = whatif_data.sentences(comparison)
    assert form.asked is not None
    changes = form.asked.changes_something
    path = loaded.item.group if loaded.item.is_upload else loaded.item.source.path
    command = whatif_form.replay_command(path, loaded.device.device, form.asked)
    return {
        "graph": graph,
        "headline": f"{'As asked' if changes else 'As recorded'}: {headline}",
        "figures": _figures_table(comparison),
        "words": [
            dmc.Text(said, size="sm", mb=4) if said else None,
            *(dmc.Text(note, size="xs", c="dimmed", mb=4) for note in notes),
            _line("The same in a terminal", command),
        ],
        "drawn": now,
    }


def _figures_table(comparison: Any) -> Any:
    found = whatif_data.rows(comparison)
    heads = ["", "as recorded", "as asked"][: len(found[0])]
    right = {"textAlign": "right", "whiteSpace": "nowrap"}
    return dmc.Table(
        [
            dmc.TableThead(dmc.TableTr([dmc.TableTh(one, style=right if one else {}) for one in heads])),
            dmc.TableTbody(
                [
                    dmc.TableTr(
                        [
                            dmc.TableTd(name, style={"whiteSpace": "nowrap"}),
                            *(dmc.TableTd(value, style=right) for value in values),
                        ]
                    )
                    for name, *values in found
                ]
            ),
        ],
        id=f"{ID}-figures-table",
        verticalSpacing=2,
        fz="xs",
        tabularNums=True,
        withRowBorders=True,
    )


def _line(title: str, text: str, name: Optional[str] = None) -> Any:
    """Something to paste."""
    name = name or f"{ID}-{title.lower().replace(' ', '-')}"
    return dmc.Group(
        [
            dmc.Text(title, size="xs", c="dimmed", style={"whiteSpace": "nowrap"}),
            dmc.Code(text, id=name, className="od-mono", style={"overflowWrap": "anywhere"}),
            told.place(told.button("copy", title="Copy the line", data_copy=text)),
        ],
        gap="xs",
        mt=4,
        wrap="nowrap",
    )


def _register_advice(app: dash.Dash, library: Library, kept: _Kept) -> None:
    @app.callback(
        output={
            "rows": Output(f"{ID}-table", "rowData"),
            "columns": Output(f"{ID}-table", "columnDefs"),
            "graph": Output(f"{ID}-trade-off", "figure"),
            "conclusion": Output(f"{ID}-conclusion", "children"),
            "words": Output(f"{ID}-advice-words", "children"),
            "section": Output(f"{ID}-advice", "style"),
            "problem": Output(f"{ID}-advice-problem", "children"),
            "running": Output(f"{ID}-advice-running", "style"),
            "text": Output(f"{ID}-advice-running-text", "children"),
            "value": Output(f"{ID}-advice-progress", "value"),
            "search": Output(f"{ID}-search", "disabled"),
            "poll": order(f"{ID}-advice-poll"),
            "everywhere": Output(f"{ID}-everywhere", "checked"),
            "field": Output(f"{ID}-everywhere-field", "style"),
            "drawn": Output(f"{ID}-advice-drawn", "data"),
        },
        inputs={
            "shown": Input(shown_id(ID), "data"),
            "times": question(f"{ID}-advice-poll"),
            "_search": Input(f"{ID}-search", "n_clicks"),
            "_cancel": Input(f"{ID}-advice-cancel", "n_clicks"),
            "drawn": State(f"{ID}-advice-drawn", "data"),
        },
    )
    def show(shown: Any, times: Any, _search: Any, _cancel: Any, drawn: Any) -> Any:
        loaded = _current(shown, library)
        if loaded is None or not _has_requests(loaded):
            return no_update
        item, options = loaded.item, options_of(shown, ID)
        everywhere = bool(options.get("all")) and item.run is not None
        form = whatif_form.wanted(loaded.device, options)
        out: dict[str, Any] = {
            "rows": no_update, "columns": no_update, "graph": no_update, "conclusion": no_update,
            "words": no_update, "section": _HIDDEN, "problem": None, "running": _HIDDEN, "text": "",
            "value": 0, "search": False, "poll": NO_MORE, "everywhere": everywhere,
            "field": {} if item.run else _HIDDEN, "drawn": no_update,
        }  # fmt: skip
        if "capacity" in form.errors:
            return {**out, "search": True}
        capacity = form.asked.capacity if form.asked is not None and "capacity" in options else None
        dump = loaded.made(f"{ID}-dump", lambda one: whatif_advice.dump_option(one.item))
        which = (item.run, dump) if everywhere else (item.key, shown["device"])
        key = (ID, "search", which, capacity)
        job = library.jobs.get(key)
        if pressed(f"{ID}-search"):
            job = kept.start(
                key,
                "Searching",
                lambda job: whatif_advice.search(
                    library, item, shown["device"], everywhere=everywhere, capacity=capacity, job=job
                ),
                again=True,
            )
        if job is None:
            return out
        if pressed(f"{ID}-advice-cancel"):
            job.cancel()
        if pressed(f"{ID}-search"):
            job.wait(_AT_ONCE)
        if job.state == "running":
            value = 100 * job.done / whatif_advice.WHOLE
            text, more = f"{job.title} · {job.seconds:.0f} s", once_more(times)
            return {**out, "running": _SHOWN, "text": text, "value": value, "search": True, "poll": more}
        if job.state == "cancelled":
            return {**out, "problem": alert("The search was stopped", "", colour="gray")}
        if job.error is not None:
            return {**out, "problem": alert(job.error)}
        now = [*map(str, key), shown["device"], shown["theme"]]
        if drawn == now:
            return {**out, "section": _SHOWN}
        return {
            **out,
            "section": _SHOWN,
            "drawn": now,
            **_advised(loaded, job.result, shown, everywhere, capacity, dump),
        }


def _advised(
    loaded: Loaded,
    found: whatif_advice.Searched,
    shown: Any,
    everywhere: bool,
    capacity: Optional[int],
    dump: Optional[str],
) -> dict[str, Any]:
    number = found.which.get((loaded.item.source.path, loaded.device.device), 0)
    one = found.document["devices"][number]
    rows = whatif_advice.rows(found, number)
    several = len(found.names) > 1
    return {
        "rows": rows,
        "columns": [column for column in _COLUMNS if several or column["field"] != "everywhere"],
        "graph": figures.trade_off(rows, capacity=one["capacity_bytes"], theme=shown["theme"]),
        "conclusion": _conclusion(loaded, found, number, everywhere, capacity, dump),
        "words": _advice_words(found, number),
    }


def searched(library: Library, loaded: Loaded) -> Optional[dict[str, Any]]:
    """The recommendation of a search for this recording at its own capacity, as JSON has it; None: none."""
    item = loaded.item
    dump = loaded.made(f"{ID}-dump", lambda one: whatif_advice.dump_option(one.item))
    for which in ((item.key, loaded.device.device), (item.run, dump)):
        job = library.jobs.get((ID, "search", which, None))
        if job is not None and job.state == "done":
            found: whatif_advice.Searched = job.result
            number = found.which.get((item.source.path, loaded.device.device))
            if number is not None:
                best: Optional[dict[str, Any]] = found.document["devices"][number]["recommendation"]
                return best
    return None


def _conclusion(
    loaded: Loaded,
    found: whatif_advice.Searched,
    number: int,
    everywhere: bool,
    capacity: Optional[int],
    dump: Optional[str],
) -> Any:
    item = loaded.item
    one = found.document["devices"][number]
    best = one["recommendation"]
    path = item.group if item.is_upload else item.source.path
    only: Optional[int] = loaded.device.device
    if everywhere and item.run is not None:
        path, only = item.run, None
    prove = whatif_advice.advise_command(path, only, capacity, dump if everywhere else None)
    parts: list[Any] = []
    if best is None:
        parts.append(dmc.Text(f"No setting to change: {one['why']}.", size="sm", mt="xs"))
    else:
        parts.append(
            dmc.Group(
                [
                    dmc.Text(f"Best: {best['why']}.", size="sm"),
                    dmc.Badge(best["basis"], variant="light", size="sm"),
                ],
                gap="xs",
                mt="xs",
            )
        )
        parts.append(_line("Paste", best["line"], f"{ID}-line"))
        for title, command in zip(("To see that it helps", "And compare"), best.get("verify", ())):
            parts.append(_line(title, command))
    parts.append(_line("The real allocator's word", prove, f"{ID}-prove"))
    if found.shortfalls[number] is not None:
        parts.append(html.Pre(found.shortfalls[number], className="od-mono", style={"fontSize": "12px"}))
    return parts


def _advice_words(found: whatif_advice.Searched, number: int) -> Any:
    document = found.document
    said = [*document["problems"], *document["notes"], *document["devices"][number]["notes"]]
    names = f"Over {len(found.names)} recordings: {'; '.join(found.names)}." if len(found.names) > 1 else ""
    return [
        dmc.Text(
            [html.B("max_split_size_mb: "), whatif_advice.max_split_words(found, number)],
            id=f"{ID}-max-split",
            size="sm",
            mt="xs",
        ),
        *(
            dmc.Text(f"{one[:1].upper()}{one[1:].rstrip('.')}.", size="xs", c="dimmed", mt=4)
            for one in [names, *dict.fromkeys(said)]
            if one
        ),
    ]
