"""Two recordings compared: the same requests first, then lines, figures and places."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Optional

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import Input, Output, Patch, State, dcc, html, no_update

from oomdoctor.comparison.compare import ByPlace, Pair
from oomdoctor.comparison.points import Point
from oomdoctor.comparison.verdict import room_of, same_requests_text
from oomdoctor.diagnosis.frames import frame_text
from oomdoctor.errors import OomdoctorError
from oomdoctor.reporters.compare_text import common_text, figure_rows, settings_text, signed, when_text
from oomdoctor.reporters.recording_text import called, release
from oomdoctor.units import format_bytes
from oomdoctor_dashboard import graphs, ids
from oomdoctor_dashboard.choosing import item_choices
from oomdoctor_dashboard.compare_data import SERIES, SIDES, Courses, Levels
from oomdoctor_dashboard.errors import alert
from oomdoctor_dashboard.figures import compare as figures
from oomdoctor_dashboard.gates import has_just_come, pressed, shown_id
from oomdoctor_dashboard.jobs import Job
from oomdoctor_dashboard.library import Library
from oomdoctor_dashboard.polling import NO_MORE, once_more, order, poll, question
from oomdoctor_dashboard.reading_help import reading_help
from oomdoctor_dashboard.tables import THEME, by_number
from oomdoctor_dashboard.view import View, changed, elsewhere, only_what_changes, options_of, with_options

ID, TITLE = "compare", "Compare"

_MOST_PAIRS = 4
_MOST_ROWS = 500
_HIDDEN: dict[str, Any] = {"display": "none"}
_SHOWN: dict[str, Any] = {}
_WHENS = [
    {"value": "auto", "label": "Telling"},
    {"value": "moment", "label": "At this moment"},
    {"value": "peak", "label": "Peaks"},
    {"value": "common", "label": "Last common"},
    {"value": "end", "label": "End"},
]
_HELP = (
    "A is the recording chosen at the top, B the one chosen here. Their requests are matched by size, in"
    " order. Only where they ask for the same memory is a difference the doing of a setting, a release or"
    " another capacity.",
    "The lines stand over the allocations that both make: what only one of them makes takes up room of its"
    " own. Drag to zoom, double-click to see all; a click sets the moment, in A and at the same request in"
    " B.",
    "Live by place: the bytes that live in both by the code that allocated them, the most changed first."
    " Telling: at the request that failed, else at each one's peak of allocated. A star: the same functions"
    " at other lines.",
    "oomdoctor compare A B says the same in a terminal.",
)
_COLUMNS = [
    {"field": "place", "headerName": "Place", "flex": 1, "minWidth": 240, "tooltipField": "stack"},
    {"field": "a_text", "headerName": "A", "width": 105, **by_number("a")},
    {"field": "b_text", "headerName": "B", "width": 105, **by_number("b")},
    {"field": "difference_text", "headerName": "Difference", "width": 120, **by_number("difference")},
    {"field": "blocks", "headerName": "Blocks A → B", "width": 120, **by_number("a_blocks")},
    {"field": "change", "headerName": "Change", "width": 90},
]


def layout() -> Any:
    return html.Div(
        [
            _chooser(),
            html.Div(id=f"{ID}-problem"),
            dmc.Group(
                [
                    dmc.Loader(size="sm"),
                    dmc.Text(id=f"{ID}-reading"),
                    dmc.Button("Cancel", id=f"{ID}-cancel", variant="default", size="compact-xs"),
                ],
                id=f"{ID}-waiting",
                style=_HIDDEN,
                my="sm",
            ),
            html.Div(
                [
                    html.Div(id=f"{ID}-verdict"),
                    dcc.Graph(
                        id=f"{ID}-graph",
                        figure=go.Figure(),
                        style={"height": 300},
                        responsive=True,
                        config=graphs.config(
                            "compare",
                            doubleClick="autosize",
                            modeBarButtonsToRemove=["select2d", "lasso2d", "autoScale2d"],
                        ),
                    ),
                    dmc.Grid(
                        [
                            dmc.GridCol([html.Div(id=f"{ID}-moment"), html.Div(id=f"{ID}-figures")], span=5),
                            dmc.GridCol(_places(), span=7),
                        ],
                        gutter="lg",
                        mt="xs",
                    ),
                ],
                id=f"{ID}-body",
                style=_HIDDEN,
            ),
            dcc.Store(id=f"{ID}-drawn"),
            dcc.Store(id=f"{ID}-lines"),
            poll(f"{ID}-poll"),
        ]
    )


def _chooser() -> Any:
    return dmc.Group(
        [
            dmc.Group(
                [
                    dmc.Text("Compare with", size="sm"),
                    dmc.Select(
                        id=f"{ID}-other", placeholder="Choose a recording", w=400, size="sm",
                        searchable=True, clearable=True, maxDropdownHeight=400,
                        nothingFoundMessage="None open",
                        **{"aria-label": "Recording to compare with"},
                    ),
                    dmc.Select(
                        id=f"{ID}-device", w=110, size="sm", allowDeselect=False, data=[],
                        **{"aria-label": "Its device"},
                    ),
                    dmc.Button("Swap A and B", id=f"{ID}-swap", variant="default", size="sm"),
                ],
                gap="xs",
            ),
            reading_help(_HELP, width=480, from_right=True),
        ],
        justify="space-between",
        mb="xs",
    )  # fmt: skip


def _places() -> Any:
    return html.Div(
        [
            dmc.Group(
                [
                    dmc.Text("Live by place", fw=600),
                    dmc.SegmentedControl(id=f"{ID}-when", data=_WHENS, value="auto", size="xs"),
                    dmc.Button("Download CSV", id=f"{ID}-csv", variant="default", size="compact-xs"),
                ],
                justify="space-between",
            ),
            dmc.Text(id=f"{ID}-at", size="xs", c="dimmed", my=4),
            dcc.Graph(
                id=f"{ID}-bars",
                figure=go.Figure(),
                config=graphs.config("by-place"),
                responsive=True,
                style=_HIDDEN,
            ),
            dag.AgGrid(
                id=f"{ID}-table",
                columnDefs=_COLUMNS,
                rowData=[],
                defaultColDef={"sortable": True, "resizable": True, "suppressMovable": True},
                dashGridOptions={
                    "theme": THEME,
                    "rowHeight": 27,
                    "headerHeight": 32,
                    "suppressCellFocus": True,
                    "enableCellTextSelection": True,
                    "tooltipShowDelay": 400,
                },
                csvExportParams={"fileName": "oomdoctor-by-place.csv"},
                style={"height": 300},
            ),
        ]
    )


# ---- what callbacks stand on ----


class Compared:
    """The pairs that were compared last, with their lines; safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, tuple[Pair, Optional[Courses]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> Optional[tuple[Pair, Optional[Courses]]]:
        """What was kept under a key."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Any, found: tuple[Pair, Optional[Courses]]) -> None:
        """Keep it, and let go of the oldest."""
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            while len(self._kept) > _MOST_PAIRS:
                self._kept.popitem(last=False)


def key_of(shown: View) -> Any:
    """Which two are compared; the device of B is None where nobody chose one."""
    device = options_of(shown, ID).get("device")
    return (shown["item"], shown["device"], shown["other"], device if isinstance(device, int) else None)


def compare(library: Library, key: Any) -> tuple[Pair, Optional[Courses]]:
    """Read what is to be read, and match the requests.

    Raises:
        OomdoctorError: one of them cannot be read or has no such device.
    """
    item, device, other, other_device = key
    a = library.loaded(item, device)
    if other_device is None:
        # The same number, where there is one.
        there = library.devices(other)
        other_device = device if device in there or not there else there[0]
    b = library.loaded(other, other_device)
    pair = Pair(a.device, b.device)
    # What takes time is made now, not when the page asks for it.
    _ = pair.figures, pair.verdict, pair.notes
    return pair, Courses(pair, pair.positions) if pair.positions is not None else None


def point_of(pair: Pair, courses: Optional[Courses], shown: View) -> Point:
    """The states whose places are compared."""
    when = options_of(shown, ID).get("when", "auto")
    if when == "moment" and courses is not None:
        event = moment_of(pair, shown)
        return Point("moment", event, courses.positions.b_of(event))
    return pair.point(when if when in ("auto", "peak", "common", "end") else "auto")


def moment_of(pair: Pair, shown: View) -> int:
    """The state of A that is looked at."""
    events = len(pair.a.history.recording)
    return events if shown["event"] is None else max(0, min(int(shown["event"]), events))


def window_of(courses: Courses, shown: View) -> tuple[float, float]:
    """The stretch of the common axis that is looked at."""
    options = options_of(shown, ID)
    return courses.window(_number(options.get("low")), _number(options.get("high")))


def _number(value: Any) -> Optional[float]:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e12 else None


def place_rows(by_place: ByPlace) -> list[dict[str, Any]]:
    """Rows of the table: sizes as text and as numbers to sort by."""
    rows = []
    for one in by_place.held[:_MOST_ROWS]:
        stack = "\n".join(frame_text(frame) for frame in one.place.frames) or "(no stack recorded)"
        rows.append(
            {
                "place": stack.replace("\n", "  ←  "),
                "stack": stack,
                "a": one.a_bytes,
                "b": one.b_bytes,
                "difference": one.difference,
                "a_text": format_bytes(one.a_bytes) if one.a_blocks else "-",
                "b_text": format_bytes(one.b_bytes) if one.b_blocks else "-",
                "difference_text": signed(one.difference),
                "a_blocks": one.a_blocks,
                "blocks": f"{one.a_blocks:,} → {one.b_blocks:,}",
                "change": one.change + (" *" if one.is_moved else ""),
            }
        )
    return rows


def aligned_figure(courses: Courses, pair: Pair, shown: View) -> go.Figure:
    """The lines of both within the stretch that is looked at."""
    low, high = window_of(courses, shown)
    lines = {(side, name): courses.line(side, name, low, high) for side in SIDES for name in SERIES}
    return figures.aligned(
        lines,
        low=low,
        high=high,
        moment=courses.positions.place_a(moment_of(pair, shown)),
        ooms=courses.ooms,
        theme=shown["theme"],
    )


def zoomed(relayout: dict[str, Any], courses: Courses) -> Optional[tuple[Optional[float], Optional[float]]]:
    """The stretch that a change of the axis asks for; (None, None): all; None: it asks for nothing."""
    if relayout.get("xaxis.autorange"):
        return None, None
    ends = relayout.get("xaxis.range") or [relayout.get(f"xaxis.range[{i}]") for i in (0, 1)]
    numbers = [end for end in ends if isinstance(end, (int, float))]
    if len(numbers) != 2:
        return None
    low, high = courses.window(numbers[0], numbers[1])
    if (low, high) == (courses.low, courses.high):
        return None, None
    return round(low, 2), round(high, 2)


# ---- what is shown ----


def verdict_of(pair: Pair, names: tuple[str, str], theme: str) -> Any:
    """The answer, and what the two are."""
    lines: list[Any] = [dmc.Text(pair.verdict.summary, fw=700)]
    if pair.positions is not None:
        text = same_requests_text(pair.positions.alignment)
        lines.append(dmc.Text([text, _basis(" recorded")], size="sm"))
    for side, name, device in zip(SIDES, names, (pair.a, pair.b)):
        about = [called(device), release(device), f"{len(device.history.recording):,} events"]
        room = room_of(device)
        about += [f"{format_bytes(room)} for PyTorch"] if room is not None else []
        lines.append(
            dmc.Text(
                [
                    html.B(f"{side.upper()}  ", style={"color": figures.COLOURS[theme][side]}),
                    f"{name}: {', '.join(about)}; settings: {settings_text(device.history.settings)}",
                ],
                size="sm",
            )
        )
    notes = pair.notes
    if notes:
        listed = dmc.List([dmc.ListItem(note, fz="xs") for note in notes[:20]], size="xs", c="dimmed")
        lines.append(listed)
    return dmc.Paper(lines, withBorder=True, p="sm", mb="xs")


def _basis(text: str) -> Any:
    return dmc.Text(text, span=True, size="xs", c="dimmed")


def moment_table(levels: Optional[Levels]) -> Any:
    """Both at the moment."""
    if levels is None:
        return None
    rows = [
        [name, format_bytes(a), format_bytes(b), signed(b - a)]
        for name, (a, b) in (("allocated", levels.allocated), ("reserved", levels.reserved))
    ]
    title = f"At this moment: after {levels.event_a:,} events of A, {levels.event_b:,} of B"
    return html.Div([dmc.Text(title, fw=600, size="sm"), _table([*rows, _bases("replayed", "replayed")])])


def figures_table(pair: Pair) -> Any:
    """The figures over the whole of each, and as far as both go."""
    whole, common = figure_rows(pair)
    bases = _bases(pair.figures[0].a_basis, pair.figures[0].b_basis)
    parts = [
        dmc.Text("Over the whole of each", fw=600, size="sm", mt="sm"),
        _table([*map(list, whole), bases]),
    ]
    if common:
        text = common_text(pair)
        parts.append(dmc.Text(text[:1].upper() + text[1:], fw=600, size="sm", mt="sm"))
        parts.append(_table([*map(list, common), bases]))
    return html.Div(parts)


def _bases(a: str, b: str) -> list[Any]:
    return [_basis("basis"), _basis(a), _basis(b), _basis("derived")]


def _table(rows: list[list[Any]]) -> Any:
    right = {"textAlign": "right", "fontVariantNumeric": "tabular-nums"}
    head = [dmc.TableTh(name, style={} if not name else right) for name in ("", "A", "B", "Difference")]
    return dmc.Table(
        [
            dmc.TableThead(dmc.TableTr(head)),
            dmc.TableTbody(
                [
                    dmc.TableTr([dmc.TableTd(row[0]), *(dmc.TableTd(cell, style=right) for cell in row[1:])])
                    for row in rows
                ]
            ),
        ],
        fz="xs",
        verticalSpacing=3,
        horizontalSpacing="xs",
        highlightOnHover=True,
    )


def _name(library: Library, key: str) -> str:
    item = library.item(key)
    return f"{item.group} · {item.label}" if item else key


def _mine(shown: Any) -> bool:
    return bool(shown) and shown["tab"] == ID and bool(shown["item"])


# ---- callbacks ----


def register(app: dash.Dash, library: Library) -> None:
    compared = Compared()
    _register_choosing(app, library)
    _register_drawing(app, library, compared)
    _register_places(app, compared)
    _register_moving(app, compared)


def _register_choosing(app: dash.Dash, library: Library) -> None:
    @app.callback(
        Output(f"{ID}-other", "data"),
        Output(f"{ID}-other", "value"),
        Output(f"{ID}-device", "data"),
        Output(f"{ID}-device", "value"),
        Output(f"{ID}-when", "value"),
        Output(f"{ID}-swap", "disabled"),
        Input(shown_id(ID), "data"),
        Input(f"{ID}-drawn", "data"),
    )
    def choices(shown: Any, _: Any) -> Any:
        if not _mine(shown):
            return (no_update,) * 6
        other = shown["other"] if library.item(shown["other"]) else None
        options = options_of(shown, ID)
        chosen = options.get("device")
        devices: list[int] = []
        if other is not None:
            key = key_of(shown)
            try:
                devices = library.devices(other) if _is_read(library, other) else []
            except OomdoctorError:
                devices = []
            if chosen is None and devices:
                chosen = key[1] if key[1] in devices else devices[0]
        data = [{"value": str(one), "label": f"GPU {one}"} for one in devices]
        value = str(chosen) if chosen in devices else None
        return item_choices(library), other, data, value, options.get("when", "auto"), other is None

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-other", "value"),
        Input(f"{ID}-device", "value"),
        Input(f"{ID}-when", "value"),
        Input(f"{ID}-swap", "n_clicks"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def chosen(other: Any, device: Any, when: Any, _: Any, view: Any) -> Any:
        if not _mine(view) or has_just_come():
            return no_update
        trigger = dash.ctx.triggered_id
        if trigger == f"{ID}-swap":
            return swapped(view, device)
        if trigger == f"{ID}-other":
            if other == view["other"]:
                return no_update
            return with_options(changed(view, other=other), ID, device=None, low=None, high=None)
        if trigger == f"{ID}-device":
            now = options_of(view, ID).get("device")
            if device is None or int(device) == (view["device"] if now is None else now):
                return no_update
            return with_options(view, ID, device=int(device), low=None, high=None)
        if when == options_of(view, ID).get("when", "auto"):
            return no_update
        return with_options(view, ID, when=None if when == "auto" else when)


def _is_read(library: Library, key: str) -> bool:
    return any(library.is_loaded(key, device) for device in range(64))


def swapped(view: View, device: Any) -> Any:
    """A becomes B; the moment is the end."""
    if not view["other"] or device is None:
        return no_update
    new = elsewhere(view, item=view["other"], device=int(device), other=view["item"])
    return with_options(new, ID, device=view["device"], low=None, high=None)


def _register_drawing(app: dash.Dash, library: Library, compared: Compared) -> None:
    @app.callback(
        output={
            "problem": Output(f"{ID}-problem", "children"),
            "waiting": Output(f"{ID}-waiting", "style"),
            "reading": Output(f"{ID}-reading", "children"),
            "body": Output(f"{ID}-body", "style"),
            "verdict": Output(f"{ID}-verdict", "children"),
            "figures": Output(f"{ID}-figures", "children"),
            "drawn": Output(f"{ID}-drawn", "data"),
            "poll": order(f"{ID}-poll"),
        },
        inputs={
            "shown": Input(shown_id(ID), "data"),
            "asked": question(f"{ID}-poll"),
            "_cancel": Input(f"{ID}-cancel", "n_clicks"),
            "drawn": State(f"{ID}-drawn", "data"),
        },
    )
    def draw(shown: Any, asked: Any, _cancel: Any, drawn: Any) -> Any:
        out: dict[str, Any] = {
            "problem": None, "waiting": _HIDDEN, "reading": "", "body": _HIDDEN, "verdict": no_update,
            "figures": no_update, "drawn": None, "poll": NO_MORE,
        }  # fmt: skip
        if not _mine(shown):
            return dict.fromkeys(out, no_update)
        if library.item(shown["other"]) is None:
            return {**out, "problem": _nothing_chosen(shown, library)}
        key = key_of(shown)
        mark = [*key, shown["theme"]]
        if drawn == mark and compared.get(key) is not None:
            return dict.fromkeys(out, no_update)
        found = compared.get(key)
        if found is None:
            job = library.jobs.start(
                (ID, *key), "Reading and matching requests", lambda job: _work(library, key, job)
            )
            if pressed(f"{ID}-cancel"):
                job.cancel()
            elif job.state == "running" and not job.wait(0.1):
                text = f"{job.title} … {job.seconds:.0f} s"
                return {**out, "waiting": _SHOWN, "reading": text, "poll": once_more(asked)}
            library.jobs.forget((ID, *key))
            if job.state == "cancelled":
                return {**out, "problem": alert("Comparing was cancelled", "Choose again.", colour="blue")}
            if job.error is not None:
                return {**out, "problem": alert(job.error)}
            found = job.result
            compared.put(key, found)
        pair, _courses = found
        names = _name(library, key[0]), _name(library, key[2])
        return {
            **out,
            "body": _SHOWN,
            "verdict": verdict_of(pair, names, shown["theme"]),
            "figures": figures_table(pair),
            "drawn": mark,
        }

    @app.callback(
        Output(f"{ID}-graph", "figure"),
        Output(f"{ID}-graph", "style"),
        Output(f"{ID}-moment", "children"),
        Output(f"{ID}-lines", "data"),
        Input(shown_id(ID), "data"),
        Input(f"{ID}-drawn", "data"),
        State(f"{ID}-lines", "data"),
    )
    def lines(shown: Any, drawn: Any, there: Any) -> Any:
        found = compared.get(key_of(shown)) if _mine(shown) and drawn else None
        if found is None:
            return (no_update,) * 4
        pair, courses = found
        if courses is None:
            return no_update, _HIDDEN, None, None
        event = moment_of(pair, shown)
        readout = moment_table(courses.levels(event))
        mark = _mark(courses, shown)
        if there == mark:
            # Only the moment moved.
            patch = Patch()
            place = courses.positions.place_a(event)
            patch["layout"]["shapes"][0]["x0"] = place
            patch["layout"]["shapes"][0]["x1"] = place
            return patch, no_update, readout, no_update
        return aligned_figure(courses, pair, shown), {"height": 300}, readout, mark


def _mark(courses: Courses, shown: View) -> str:
    """All that the lines are drawn from but the moment."""
    return repr((key_of(shown), shown["theme"], window_of(courses, shown)))


def _work(library: Library, key: Any, job: Job) -> Any:
    found = compare(library, key)
    job.progress(1, 1)  # where it was cancelled meanwhile, nothing comes of it
    return found


def _nothing_chosen(shown: View, library: Library) -> Any:
    if len(library.items()) < 2:
        text = "Open another one with the button above, or choose this one again for another device."
        return alert("Only one recording is open", text, colour="blue")
    if shown["other"]:
        return alert(
            "That recording is not open here", "Choose another one, or open it above.", colour="blue"
        )
    return alert("Choose what to compare with", "", colour="blue")


def _register_places(app: dash.Dash, compared: Compared) -> None:
    @app.callback(
        Output(f"{ID}-bars", "figure"),
        Output(f"{ID}-bars", "style"),
        Output(f"{ID}-table", "rowData"),
        Output(f"{ID}-at", "children"),
        Input(shown_id(ID), "data"),
        Input(f"{ID}-drawn", "data"),
    )
    def places(shown: Any, drawn: Any) -> Any:
        found = compared.get(key_of(shown)) if _mine(shown) and drawn else None
        if found is None:
            return (no_update,) * 4
        pair, courses = found
        by_place = pair.by_place(point_of(pair, courses, shown))
        point = by_place.point
        differ = sum(1 for one in by_place.held if one.difference)
        text = (
            f"{when_text(point)}: after {point.a:,} events of A ({by_place.a_basis}) and {point.b:,} of B"
            f" ({by_place.b_basis}); {differ:,} of {len(by_place.held):,} places differ"
        )
        height = 46 + 24 * min(differ, 12)
        style = {"height": height} if differ else _HIDDEN
        return figures.by_place(by_place.held, shown["theme"]), style, place_rows(by_place), text

    @app.callback(
        Output(f"{ID}-table", "exportDataAsCsv"), Input(f"{ID}-csv", "n_clicks"), prevent_initial_call=True
    )
    def save(clicks: Any) -> bool:
        return bool(clicks)


def _register_moving(app: dash.Dash, compared: Compared) -> None:
    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-graph", "clickData"),
        State(ids.VIEW, "data"),
        State(shown_id(ID), "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def click(clicked: Any, view: Any, shown: Any) -> Any:
        found = compared.get(key_of(shown)) if _mine(shown) else None
        points = (clicked or {}).get("points") or []
        if found is None or found[1] is None or not view or not points:
            return no_update
        return changed(view, event=found[1].positions.event_a(float(points[0]["x"])))

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-graph", "relayoutData"),
        State(ids.VIEW, "data"),
        State(shown_id(ID), "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def zoom(relayout: Any, view: Any, shown: Any) -> Any:
        found = compared.get(key_of(shown)) if _mine(shown) else None
        if found is None or found[1] is None or not view or not relayout:
            return no_update
        stretch = zoomed(relayout, found[1])
        options = options_of(view, ID)
        if stretch is None or stretch == (options.get("low"), options.get("high")):
            return no_update
        return with_options(view, ID, low=stretch[0], high=stretch[1])
