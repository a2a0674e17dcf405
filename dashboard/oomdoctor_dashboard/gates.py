"""A page that is not looked at asks the server nothing: it hears of the view only while it is open."""

from __future__ import annotations

from typing import Any

import dash
from dash import Input, Output, dcc

from oomdoctor_dashboard import ids


def shown_id(page: str) -> str:
    """Id of the store that holds what is shown while a page is open."""
    return f"{page}-shown"


def shown_store(page: str) -> Any:
    """That store, for the page's layout."""
    return dcc.Store(id=shown_id(page))


def open_gate(app: dash.Dash, page: str) -> None:
    """Fill the store, in the browser."""
    app.clientside_callback(
        f"shown => shown && shown.tab === {page!r} ? shown : window.dash_clientside.no_update",
        Output(shown_id(page), "data"),
        Input(ids.SHOWN, "data"),
    )
