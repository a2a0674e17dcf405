"""Pages come when they are first opened, and one that is not looked at hears nothing and asks nothing.

Whatever happens costs a browser the more the more is on the page: Dash looks after each component each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import dash
from dash import ClientsideFunction, Input, Output, State, dcc, html, no_update

from oomdoctor_dashboard import ids

# What does not change with the moment, but for a line that moves in the browser.
OVER_FRAGMENTATION = "fragmentation-over"
_OVER = ("timeline", OVER_FRAGMENTATION)


def shown_id(page: str) -> str:
    """Id of the store that holds what is shown while a page is open."""
    return f"{page}-shown"


def shown_store(page: str) -> Any:
    """That store."""
    return dcc.Store(id=shown_id(page))


def stores(pages: Sequence[str]) -> list[Any]:
    """What has to be there before the pages are."""
    return [
        dcc.Store(id="mounted", data=[]),
        dcc.Store(id="gates", data=list(pages)),
        *map(shown_store, (OVER_FRAGMENTATION, *pages)),  # the timeline brings its own
    ]


def place_of(page: str) -> Any:
    """Where a page comes to stand."""
    return html.Div(id=f"{page}-place", disable_n_clicks=True)


def has_just_come() -> bool:
    """Whether a callback is called since its page was mounted: Dash then tells it of all its inputs at once,
    whatever ``prevent_initial_call`` says, and nobody has chosen anything."""
    return len(dash.ctx.triggered_prop_ids) == len(dash.ctx.inputs) > 1


def pressed(button: str) -> bool:
    """Whether a button was pressed. On a busy page that may come together with other changes."""
    return any(one["prop_id"] == f"{button}.n_clicks" and one["value"] for one in dash.ctx.triggered)


def open_gates(app: dash.Dash, pages: Mapping[str, ModuleType]) -> None:
    """Bring a page that is opened for the first time; and let the browser follow the view that is wanted.

    What is shown goes into the stores: those of the pages, that of what the header speaks of, and those of
    what is drawn over the timeline's stretch, which is drawn anew for anything but another moment; what is
    wanted goes into the address and the controls. One callback for all: each that a browser runs makes Dash
    compare the whole page several times.
    """

    @app.callback(
        *(Output(f"{page}-place", "children") for page in pages),
        Output("mounted", "data"),
        Input("tabs", "value"),
        State("mounted", "data"),
        prevent_initial_call=True,
    )
    def mount(tab: str, mounted: list[str]) -> Any:
        if tab not in pages or tab in mounted:
            return (no_update,) * (len(pages) + 1)
        return *(pages[page].layout() if page == tab else no_update for page in pages), [*mounted, tab]

    # It writes to what changes and to nothing else: Dash draws anew all that a callback may write to, twice.
    app.clientside_callback(
        ClientsideFunction("oomdoctor", "follow"),
        Input(ids.VIEW, "data"),
        Input("come", "data"),
        Input("mounted", "data"),
        Input("moment-play", "n_clicks"),
        Input("moment-speed", "value"),
        State(ids.SHOWN, "data"),
        State("subject", "data"),
        *(State(shown_id(one), "data") for one in (*_OVER, "moment")),
        State("gates", "data"),
        State("default-view", "data"),
        State("moment-info", "data"),
        State("moment-tick", "disabled"),
        State("moment-event", "value"),
        State("tabs", "value"),
        State("theme", "checked"),
        State("timeline-mode", "value"),
        State("timeline-axis", "value"),
        prevent_initial_call=True,
    )
