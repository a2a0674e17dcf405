"""A page that is not looked at asks the server nothing: it hears of the view only while it is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash
from dash import ClientsideFunction, Input, Output, State, dcc

from oomdoctor_dashboard import ids


def shown_id(page: str) -> str:
    """Id of the store that holds what is shown while a page is open."""
    return f"{page}-shown"


def shown_store(page: str) -> Any:
    """That store, for the page's layout."""
    return dcc.Store(id=shown_id(page))


def open_gates(app: dash.Dash, pages: Sequence[str]) -> None:
    """Fill the stores, in the browser; that of what the header speaks of; and that of the timeline, which is
    drawn anew for anything but another moment.

    One callback for all: each that a browser runs makes Dash compare the whole page several times.
    """
    app.clientside_callback(
        ClientsideFunction("oomdoctor", "gates"),
        Output("subject", "data"),
        Output(shown_id("timeline"), "data"),
        *(Output(shown_id(page), "data") for page in pages),
        Input(ids.SHOWN, "data"),
        State("subject", "data"),
        State(shown_id("timeline"), "data"),
        State("gates", "data"),
    )
