"""The story of a run: what happened on which rank and device, and what ``oomdoctor explain`` says of it."""

from __future__ import annotations

import contextlib
from typing import Any, Optional

import dash
import dash_ag_grid as dag
import dash_mantine_components as dmc
from dash import Input, Output, State, html, no_update

from oomdoctor.errors import OomdoctorError
from oomdoctor.reporters import run_text
from oomdoctor.reporters.ink import Ink
from oomdoctor.units import format_bytes
from oomdoctor_dashboard import ids
from oomdoctor_dashboard.errors import alert
from oomdoctor_dashboard.library import Library
from oomdoctor_dashboard.pages.whatif import searched
from oomdoctor_dashboard.reading_help import reading_help
from oomdoctor_dashboard.story import Story, case_of, diagnosis_of, first_oom, rows_of, story_of
from oomdoctor_dashboard.tables import THEME, by_number
from oomdoctor_dashboard.told import Told, button, element, line, place, sent
from oomdoctor_dashboard.view import changed, elsewhere, only_what_changes

ID, TITLE = "overview", "Overview"

_SIZES = ("requested", "allocated", "reserved", "free", "total")
_COLUMNS = [
    {"field": "process", "headerName": "Process", "flex": 2, "minWidth": 150},
    {"field": "device", "headerName": "GPU", "width": 80},
    {"field": "dump", "headerName": "Snapshot", "width": 130},
    {"field": "verdict", "headerName": "Verdict", "flex": 1, "minWidth": 130},
    *(
        {
            "field": f"{name}_text",
            "headerName": {"requested": "Asked for", "total": "Capacity"}.get(name, name.capitalize()),
            "width": 120,
            **by_number(name),
        }
        for name in _SIZES
    ),
]


def layout() -> Any:
    return html.Div(
        [
            dmc.Group(
                [
                    dmc.Text("Every out-of-memory error, and what did not fail", fw=600),
                    dmc.Group(
                        [
                            dmc.Button("Download CSV", id=f"{ID}-csv", variant="default", size="compact-xs"),
                            reading_help(_HELP, from_right=True),
                        ],
                        gap="xs",
                    ),
                ],
                justify="space-between",
            ),
            html.Div(id=f"{ID}-problem"),
            dag.AgGrid(
                id=f"{ID}-table",
                columnDefs=_plain(_COLUMNS),
                rowData=[],
                dashGridOptions={
                    "theme": THEME,
                    "domLayout": "autoHeight",
                    "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
                    "suppressCellFocus": True,
                },
            ),
            dmc.Group(
                [
                    dmc.Text("What oomdoctor explain says", fw=600),
                    place(button("copy", title="Copy the text", data_from=f"{ID}-text")),
                ],
                mt="lg",
            ),
            dmc.Paper(
                html.Pre(id=f"{ID}-text", className="od-mono"),
                withBorder=True,
                p="md",
                className="od-explain",
            ),
        ]
    )


_HELP = """\
One row for each out-of-memory error that was recorded, by rank and device; of a device that did not fail,
its state at the end. Sizes are those of the moment of the error. Choose a row to look at its snapshot:
everything on this page then speaks of it. The verdict says where the memory was: fragmentation (enough was
free, in pieces), capacity (it was really used), another process, a limit, or memory outside PyTorch.
"""


def _plain(columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sizes are sent as text and number; sorting goes by the number."""
    out = []
    for column in columns:
        column = dict(column)
        column.pop("comparator", None)
        name = column["field"].removesuffix("_text")
        if name in _SIZES:
            column["comparator"] = {"function": f"oomdoctorByField('{name}')"}
        out.append(column)
    return out


def register(app: dash.Dash, library: Library) -> None:
    @app.callback(
        Output("story", "data-told"),
        Input("subject", "data"),
        Input("whatif-drawn", "data"),
        prevent_initial_call=True,
    )
    def story(shown: Any, _: Any) -> Any:
        item = library.item(shown["item"]) if shown else None
        if item is None:
            return ""
        loaded = library.loaded(shown["item"], shown["device"])
        case = None
        with contextlib.suppress(OomdoctorError):  # the page below says why
            case = case_of(diagnosis_of(library, item), item, shown["device"])
        return _told(story_of(loaded, case), searched(library, loaded))

    @app.callback(
        Output(f"{ID}-table", "rowData"),
        Output(f"{ID}-text", "children"),
        Output(f"{ID}-problem", "children"),
        Output(f"{ID}-table", "selectedRows"),
        Input("subject", "data"),
        Input("tabs", "value"),
        State(f"{ID}-table", "rowData"),
        prevent_initial_call=True,
    )
    def fill(shown: Any, tab: str, there: Any) -> Any:
        item = library.item(shown["item"]) if shown else None
        if item is None or tab != ID:
            return (no_update,) * 4
        try:
            run = diagnosis_of(library, item)
        except OomdoctorError as error:
            return [], "", alert(error), []
        rows = rows_of(library, run, item)
        for number, row in enumerate(rows):
            row["id"] = number
            for name in _SIZES:
                row[f"{name}_text"] = "" if row[name] is None else format_bytes(row[name])
        chosen = [row for row in rows if row["item"] == shown["item"] and row["device"] == shown["device"]][
            :1
        ]
        if rows == there:
            return no_update, no_update, None, chosen
        return rows, run_text.render(run, Ink(False)), None, chosen

    app.clientside_callback(
        "clicks => Boolean(clicks)",
        Output(f"{ID}-table", "exportDataAsCsv"),
        Input(f"{ID}-csv", "n_clicks"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-table", "cellClicked"),
        State(f"{ID}-table", "rowData"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def choose(cell: Any, rows: Any, view: Any) -> Any:
        if not cell or not rows or view is None:
            return no_update
        row = next((row for row in rows if str(row["id"]) == str(cell["rowId"])), None)
        if row is None or not row["item"]:
            return no_update
        if (row["item"], row["device"]) == (view["item"], view["device"]):
            failed = first_oom(library.loaded(row["item"], row["device"]))
            return no_update if failed is None else changed(view, event=failed)
        return elsewhere(view, item=row["item"], device=row["device"])


_COLOURS = {"out of memory": "bad", "did not fail": "good"}


def _told(story: Story, found: Optional[dict[str, Any]]) -> str:
    """The story; ``found`` is the recommendation of a search, where What if has made one."""
    badge = element("span", story.word, class_=f"od-badge od-{_COLOURS.get(story.word, 'plain')}")
    parts = [element("div", badge, element("b", story.title, class_="od-head"), class_="od-parts")]
    if story.sentence:
        parts.append(line(story.sentence))
    figures = [
        element(
            "span", element("span", name, class_="od-quiet"), " ", element("b", value), " ", _basis(basis)
        )
        for name, value, basis in story.figures
    ]
    parts.append(element("div", *figures, class_="od-line od-parts"))
    first = story.remedy.command if story.remedy is not None else None
    command = found["line"] if found else first
    if command:
        basis = found["basis"] if found else story.remedy.basis if story.remedy else ""
        more = "best of those that What if searched" if found else "What if tries it on the recording"
        parts.append(
            element(
                "div",
                element("span", "Try first", class_="od-quiet"),
                element("code", command, class_="od-mono od-command"),
                button("copy", title="Copy the line", data_copy=command),
                _basis(basis),
                element("span", more, class_="od-quiet"),
                class_="od-line od-parts od-close",
            )
        )
    if story.notes:
        count = "1 note" if len(story.notes) == 1 else f"{len(story.notes)} notes"
        parts.append(
            element(
                "details",
                element("summary", f"{count} on this recording"),
                element("ul", *(element("li", note) for note in story.notes), class_="od-line od-list"),
                class_="od-notes",
            )
        )
    return sent(*parts)


def _basis(text: str) -> Told:
    return element("i", text, class_="od-quiet")
