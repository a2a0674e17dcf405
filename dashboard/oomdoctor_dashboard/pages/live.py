"""What is live at the moment: a flame graph by stack, and a table by block or by place."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Optional

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
import plotly.graph_objects as go
from dash import ClientsideFunction, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate

from oomdoctor.diagnosis.frames import telling_frames
from oomdoctor.errors import OomdoctorError
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor.snapshot.stacks import NO_STACK
from oomdoctor.units import format_bytes
from oomdoctor_dashboard import by_the_way, graphs, ids, live_data, told
from oomdoctor_dashboard.choosing import with_chosen
from oomdoctor_dashboard.errors import alert
from oomdoctor_dashboard.figures import live as figures
from oomdoctor_dashboard.figures.drawing import sent
from oomdoctor_dashboard.gates import shown_id
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.live_filter import Wanted, wanted_of
from oomdoctor_dashboard.live_flame import flame_of
from oomdoctor_dashboard.reading_help import reading_help
from oomdoctor_dashboard.settings_of_page import id_of, settings_store, settle_in_browser
from oomdoctor_dashboard.tables import MONO, RIGHT, THEME
from oomdoctor_dashboard.view import View, changed, only_what_changes, options_of

ID, TITLE = "live", "What is live"

# The view while this page is looked at: what other pages do costs it no way to the server.
_SHOWN = shown_id(ID)

_PAGE = 100
_KEPT_TABLES = 8
_TEXTS = ("text", "size", "age")
_CHOICES = ("pool", "stream", "state")
# Who types is left to finish a word; Enter asks at once.
_TYPING_MS = 80
_CONTROLS = {
    **dict.fromkeys((*_TEXTS, *_CHOICES), ("value", None)),
    "group": ("value", "block"),
    "frames": ("checked", None),
}

# Until there is something to draw.
_EMPTY = {
    "template": "none",
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "xaxis": {"visible": False},
    "yaxis": {"visible": False},
}

_HELP = """\
Every block that is allocated, or freed and waiting for another stream (pending), at the moment chosen above.
The flame graph gathers them by call stack: the program's own lines at the top, what they called below, each
as wide as its bytes; click a box to zoom in, one above it to zoom out. The table has a row for each
block, or for each place in the code: the innermost line of a library and the innermost one of your program.
What is typed or chosen above holds for both.
Size: 1 MiB (and more), < 1 MiB, 1 MiB - 2 MiB. Age: 1000 events (and more), 2 s, < 5 ms, or "older than the
trace": allocated before recording began. Such blocks count as older than any age. Rounding is what the
allocator added to the request.
"""

_BLOCK_COLUMNS = [
    {"field": "place", "headerName": "Place", "flex": 1, "minWidth": 200, "tooltipField": "place"},
    {"field": "block_size", "headerName": "Size", "width": 88, **RIGHT},
    {"field": "requested_size", "headerName": "Requested", "width": 90, **RIGHT},
    {"field": "rounding", "headerName": "Rounding", "width": 86, **RIGHT},
    {"field": "age", "headerName": "Age", "width": 140, **RIGHT},
    {"field": "alloc_event", "headerName": "Alloc event", "width": 92, **RIGHT},
    {"field": "state", "headerName": "State", "width": 78},
    {"field": "pool", "headerName": "Pool", "width": 62},
    {"field": "stream", "headerName": "Stream", "width": 68},
    {"field": "address", "headerName": "Address", "width": 132, **MONO},
]
_PLACE_LOOKS: dict[str, dict[str, Any]] = {
    "place": {"flex": 1, "minWidth": 260, "tooltipField": "place"},
    "blocks": {"width": 90, **RIGHT},
    "block_size": {"width": 110, **RIGHT},
    "share": {"width": 130, **RIGHT},
    "rounding": {"width": 110, **RIGHT},
    "age": {"width": 170, **RIGHT},
}
_PLACE_COLUMNS = [
    {"field": name, "headerName": head, **_PLACE_LOOKS[name]}
    for name, head in live_data.PLACE_COLUMNS.items()
]


def layout() -> Any:
    return html.Div(
        [
            _controls(),
            html.Div(id=f"{ID}-problem"),
            dmc.Text(id=f"{ID}-totals", size="sm", my=6),
            _flame(),
            dmc.Group(
                [
                    dmc.SegmentedControl(
                        id=f"{ID}-group",
                        value="block",
                        size="xs",
                        data=[
                            {"value": "block", "label": "By block"},
                            {"value": "place", "label": "By place"},
                        ],
                    ),
                    dmc.Button("Download CSV", id=f"{ID}-csv", variant="default", size="compact-xs"),
                ],
                my=8,
                justify="space-between",
            ),
            dmc.Grid(
                [
                    dmc.GridCol(html.Div(_table(), id=f"{ID}-themed"), span=9),
                    dmc.GridCol(_details(), span=3),
                ],
                gutter="sm",
            ),
            settings_store(ID, _CONTROLS),
            dcc.Store(id=f"{ID}-refreshed"),
            dcc.Store(id=f"{ID}-picked"),
            dcc.Store(id=f"{ID}-born"),
            dcc.Download(id=f"{ID}-file"),
        ]
    )


def _flame() -> Any:
    graph = dcc.Graph(
        id=f"{ID}-flame",
        figure=go.Figure(layout=_EMPTY),
        config=graphs.config("live", doubleClick=False, modeBarButtons=[["toImage"]]),
    )
    # What is said of a box may reach beyond what scrolls.
    scrolls = html.Div(graph, style={"maxHeight": 420, "overflowY": "auto"})
    tip = dcc.Tooltip(id=f"{ID}-tooltip", direction="bottom")
    return html.Div([scrolls, tip], style={"position": "relative"})


def _controls() -> Any:
    def choice(name: str, placeholder: str, width: int, data: Optional[list[Any]] = None) -> Any:
        return dmc.Select(
            id=f"{ID}-{name}", placeholder=placeholder, data=data or [], clearable=True, size="xs", w=width,
            **{"aria-label": placeholder},
        )  # fmt: skip

    return dmc.Group(
        [
            dmc.TextInput(
                id=f"{ID}-text", placeholder="Search frames and files", debounce=_TYPING_MS, size="xs", w=230,
                **{"aria-label": "Search in frames and files"},
            ),
            dmc.TextInput(
                id=f"{ID}-size", placeholder="Size: 1 MiB, < 1 MiB", debounce=_TYPING_MS, size="xs", w=150,
                **{"aria-label": "Size"},
            ),
            dmc.Autocomplete(
                id=f"{ID}-age", placeholder="Age: 1000 events, < 2 s", debounce=_TYPING_MS, size="xs", w=185,
                data=["older than the trace", "1000 events", "1 s", "< 10 ms"], **{"aria-label": "Age"},
            ),
            choice("pool", "Any pool", 130),
            choice("stream", "Any stream", 120),
            choice(
                "state", "Any state", 120,
                [{"value": "allocated", "label": "allocated"}, {"value": "pending", "label": "pending"}],
            ),
            dmc.Switch(id=f"{ID}-frames", label="All frames", size="xs"),
            reading_help(_HELP, width=480, from_right=True),
        ],
        gap="xs",
    )  # fmt: skip


def _table() -> Any:
    return dag.AgGrid(
        id=f"{ID}-table",
        rowModelType="infinite",
        columnDefs=_BLOCK_COLUMNS,
        defaultColDef={"sortable": True, "resizable": True, "suppressMovable": True},
        getRowId="params.data.id",
        dashGridOptions={
            "theme": THEME,
            "rowHeight": 27,
            "headerHeight": 32,
            "cacheBlockSize": _PAGE,
            "maxBlocksInCache": 10,
            "maxConcurrentDatasourceRequests": 1,
            "infiniteInitialRowCount": 1,
            "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
            "suppressCellFocus": True,
            "enableCellTextSelection": True,
            "tooltipShowDelay": 400,
        },
        style={"height": 430},
    )


def _details() -> Any:
    return dmc.Paper(
        [
            told.place(_HINT, id=f"{ID}-details"),
            dmc.Button(
                "Go to its allocation",
                id=f"{ID}-jump",
                size="compact-sm",
                variant="light",
                mt=8,
                style={"display": "none"},
            ),
        ],
        withBorder=True,
        p="sm",
        style={"height": 430, "overflow": "auto"},
    )


# ---- what callbacks stand on ----


def live_of(loaded: Loaded, event: Optional[int]) -> live_data.Live:
    """All that is live at an event; the places of a recording's stacks are kept."""
    places = live_data.places_of(loaded)
    return live_data.live_of(loaded.moment(event), places)


def table_of(loaded: Loaded, shown: View) -> live_data.Table:
    """The table that a view asks for; the last few are kept, for it is sent page by page.

    Raises:
        UsageError: a size or an age that cannot be read.
    """
    options = options_of(shown, ID)
    wanted, by_place = wanted_of(options), options.get("group") == "place"
    key = (loaded.event(shown["event"]), wanted, by_place)
    kept: OrderedDict[Any, live_data.Table] = loaded.made("live-tables", lambda _: OrderedDict())
    table = kept.get(key)
    if table is None:
        live = live_data.chosen(live_of(loaded, shown["event"]), wanted)
        table = (live_data.places_table if by_place else live_data.blocks_table)(live)
        kept[key] = table
        while len(kept) > _KEPT_TABLES:
            kept.popitem(last=False)
    return table


def totals_text(loaded: Loaded, live: live_data.Live, wanted: Wanted) -> str:
    """``43 blocks, 8.79 GiB of 8.79 GiB live``, and what that stands on."""
    moment = live.moment
    basis = live_data.basis_of(loaded.device, moment)
    count = "1 block" if len(live) == 1 else f"{len(live):,} blocks"
    if not wanted.is_all:
        count += f" of {live.total_blocks:,}"
    rounding = int((live.block_size - live.requested_size).sum())
    older = int((moment.birth[live.rows] == UNKNOWN).sum())
    parts = [
        f"{count}, {format_bytes(live.bytes)} of {format_bytes(live.total_bytes)} live ({basis})",
        f"{format_bytes(rounding)} of it rounding",
    ]
    if not loaded.device.has_events:
        parts.append("no history was recorded: ages are not known")
    elif older:
        parts.append(f"{older:,} older than the trace")
    return " · ".join(parts)


def _mine(shown: Any) -> bool:
    return bool(shown) and shown["tab"] == ID and bool(shown["item"])


def register(app: dash.Dash, library: Library) -> None:
    _register_choosing(app)
    _register_drawing(app, library)
    _register_details(app, library)

    @app.callback(
        Output(f"{ID}-file", "data"),
        Output(ids.MESSAGES, "sendNotifications", allow_duplicate=True),
        Input(f"{ID}-csv", "n_clicks"),
        State(_SHOWN, "data"),
        prevent_initial_call=True,
    )
    def download(clicks: Any, shown: Any) -> Any:
        if not clicks or not _mine(shown):
            return no_update, no_update
        try:
            loaded = library.loaded(shown["item"], shown["device"])
            text = live_data.csv_of(table_of(loaded, shown))
        except OomdoctorError as error:
            return no_update, [{"action": "show", "message": str(error), "color": "red"}]
        return {"content": text, "filename": f"live-at-{loaded.event(shown['event'])}.csv"}, no_update


def _boxes(options: dict[str, Any], there: Any) -> list[Any]:
    """What an address or another page asked for stands in the boxes, in the order of the controls."""
    wished = []
    for (name, (prop, default)), now in zip(_CONTROLS.items(), there):
        value = options.get(name, default) or ("" if name in _TEXTS else None)
        same = (value or None) == (now or None)
        wished.append(no_update if same else bool(value) if prop == "checked" else value)
    return wished


def _register_choosing(app: dash.Dash) -> None:
    """What is typed, chosen or zoomed to goes into the view in the browser."""
    settle_in_browser(app, ID, _CONTROLS)
    app.clientside_callback(
        ClientsideFunction("oomdoctor_live", "zoom"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-picked", "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )


def _register_drawing(app: dash.Dash, library: Library) -> None:
    choices = [(f"{ID}-{name}", "data") for name in ("pool", "stream")]

    @app.callback(
        {
            "totals": Output(f"{ID}-totals", "children"),
            "figure": Output(f"{ID}-flame", "figure"),
            "problem": Output(f"{ID}-problem", "children"),
        },
        {
            "shown": Input(_SHOWN, "data"),
            "columns": State(f"{ID}-table", "columnDefs"),
            "theme": State(f"{ID}-themed", "data-ag-theme-mode"),
            "boxes": [State(id_of(ID, name), prop) for name, (prop, _) in _CONTROLS.items()],
            "choices_": [State(*one) for one in choices],
            "rows": State(f"{ID}-table", "selectedRows"),
        },
        prevent_initial_call=True,
    )
    def draw(shown: Any, columns: Any, theme: Any, boxes: Any, choices_: Any, rows: Any) -> Any:
        """All of the page but the table at once: one request for each step, and in the answer only what is
        new."""
        if not _mine(shown):
            raise PreventUpdate
        options = options_of(shown, ID)
        wished = _PLACE_COLUMNS if options.get("group") == "place" else _BLOCK_COLUMNS
        loaded = library.loaded(shown["item"], shown["device"])
        moment = loaded.moment(shown["event"])
        offered = [
            with_chosen(choices, chosen, str(chosen))
            for choices, chosen in (
                (live_data.pool_choices(moment), options.get("pool")),
                (live_data.stream_choices(moment), options.get("stream")),
            )
        ]
        if not columns or len(columns) != len(wished):
            by_the_way.write((f"{ID}-table", "columnDefs"), wished)
        if theme != shown["theme"]:
            by_the_way.write((f"{ID}-themed", "data-ag-theme-mode"), shown["theme"])
        for place, new, old in zip(choices, offered, choices_):
            if new != old:
                by_the_way.write(place, new)
        for (name, (prop, _)), new in zip(_CONTROLS.items(), _boxes(options, boxes)):
            by_the_way.write((id_of(ID, name), prop), new)
        if rows:
            for place, new in zip(_DETAILS, _details_of(loaded, shown, rows)):
                by_the_way.write(place, new)
        totals, figure, problem = _drawn(loaded, shown)
        return {"totals": totals, "figure": sent(figure), "problem": problem}

    app.clientside_callback(
        ClientsideFunction("oomdoctor_live", "refresh"),
        Output(f"{ID}-refreshed", "data"),
        Input(_SHOWN, "data"),
        State(f"{ID}-refreshed", "data"),
    )

    @app.callback(
        Output(f"{ID}-table", "getRowsResponse"),
        Input(f"{ID}-table", "getRowsRequest"),
        State(_SHOWN, "data"),
    )
    def rows(asked: Any, shown: Any) -> Any:
        if asked is None:
            return no_update
        nothing: dict[str, Any] = {"rowData": [], "rowCount": 0}
        if not _mine(shown):
            return nothing
        try:
            table = table_of(library.loaded(shown["item"], shown["device"]), shown)
        except OomdoctorError:  # the page says why
            return nothing
        sort = (asked.get("sortModel") or [{"colId": "block_size", "sort": "desc"}])[0]
        order = table.order(sort["colId"], sort["sort"] == "desc")
        start = int(asked["startRow"])
        stop = min(int(asked["endRow"]), start + _PAGE)
        return {"rowData": live_data.page_of(table, order, start, stop), "rowCount": len(table)}


def _drawn(loaded: Loaded, shown: View) -> tuple[Any, ...]:
    """Totals, flame graph and what there is to say in their place."""
    options = options_of(shown, ID)
    try:
        live = live_of(loaded, shown["event"])
        wanted = wanted_of(options)
        some = live_data.chosen(live, wanted)
    except OomdoctorError as error:
        # Nothing of what was shown before: it is not what the boxes ask for.
        return "", figures.nothing(shown["theme"]), alert(error)
    if not some.bytes:
        return totals_text(loaded, some, wanted), figures.nothing(shown["theme"]), _nothing(live, some)
    tree = flame_of(some, all_frames=bool(options.get("frames")), zoom=str(options.get("zoom", "")))
    figure = figures.boxes(tree, live.total_bytes, theme=shown["theme"])
    return totals_text(loaded, some, wanted), figure, _nothing(live, some)


def _nothing(live: live_data.Live, some: live_data.Live) -> Any:
    if not len(live):
        return alert(
            "Nothing is live at this moment", "Move the moment on the timeline above.", colour="blue"
        )
    if not len(some):
        return alert("No live block is like that", "Ask for less: clear a box above.", colour="blue")
    return None


_HINT = told.line("Choose a row to see the call stack of its allocation.", look="quiet")
_GONE = told.line("It is not live at this moment, or not among what is chosen.", look="quiet")
_DETAILS = tuple(
    (f"{ID}-{name}", prop)
    for name, prop in (("details", "data-told"), ("born", "data"), ("jump", "style"), ("jump", "children"))
)


def _details_of(loaded: Loaded, shown: View, rows: Any) -> Any:
    """The stack of what was chosen in the table, when it was allocated, and the way there."""
    hidden = {"display": "none"}
    if not rows:
        return told.sent(_HINT), None, hidden, no_update
    try:
        live = live_data.chosen(live_of(loaded, shown["event"]), wanted_of(options_of(shown, ID)))
    except OomdoctorError as error:
        return told.sent(*map(told.line, str(error).splitlines())), None, hidden, no_update
    stack, mine = live_data.stack_to_show(live, str(rows[0].get("id")))
    if not len(mine):
        return told.sent(_GONE), None, hidden, no_update
    births = live.moment.birth[live.rows[mine]]
    born = int(births.min())
    word = "Go to its allocation" if len(mine) == 1 else "Go to its oldest allocation"
    panel = told.sent(*_stack_panel(loaded, live, mine, stack))
    if born == UNKNOWN:
        return panel, None, hidden, no_update
    return panel, born, {}, f"{word}, event {born:,}"


def _register_details(app: dash.Dash, library: Library) -> None:
    @app.callback(
        [Output(*place) for place in _DETAILS],
        Input(f"{ID}-table", "selectedRows"),
        State(_SHOWN, "data"),
    )
    def details(rows: Any, shown: Any) -> Any:
        if not _mine(shown):
            return (no_update,) * 4
        return _details_of(library.loaded(shown["item"], shown["device"]), shown, rows)

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-jump", "n_clicks"),
        State(f"{ID}-born", "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def jump(_: Any, born: Any, view: Any) -> Any:
        # What event N did is seen after N + 1 events.
        return no_update if born is None or view is None else changed(view, event=int(born) + 1)


def _stack_panel(loaded: Loaded, live: live_data.Live, mine: Any, stack: int) -> list[told.Told]:
    count = "1 block" if len(mine) == 1 else f"{len(mine):,} blocks"
    size = int(live.block_size[mine].sum())
    head = f"{count}, {format_bytes(size)}"
    if len(mine) == 1:
        head += f" at {int(live.address[mine[0]]):#x}"
    parts = [told.line(head, look="title")]
    stacks = live.places.stacks
    different = len(set(live.stack[mine].tolist()))
    if different > 1:
        parts.append(told.line(f"{different} call stacks; this one has the most bytes.", look="quiet"))
    if (live.moment.birth[live.rows[mine]] == UNKNOWN).any() and loaded.device.has_events:
        parts.append(told.line("Older than the trace: when it was allocated is not known."))
    frames = stacks[stack]
    if stack == NO_STACK or not frames:
        return [*parts, told.line("No call stack was recorded for it.", look="quiet")]
    telling = set(telling_frames(frames))
    lines = [
        told.element(
            "div",
            told.line(frame.name, look="mono"),
            told.line(f"{frame.filename}:{frame.line}", look="mono"),
            class_="od-frame od-telling" if frame in telling else "od-frame",
        )
        for frame in frames
    ]
    return [*parts, *lines]
