"""What a page shows, as a file: its CSV button."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import dash
from dash import Input, Output, State, no_update

from oomdoctor_dashboard import ids
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.view import View


def register_csv(
    app: dash.Dash, library: Library, page: str, write: Callable[[Loaded, View], Optional[tuple[str, str]]]
) -> None:
    """Let the button ``PAGE-csv`` send a file through ``PAGE-file``.

    Args:
        write: makes its name and text; None: there is nothing to send.
    """

    @app.callback(
        Output(f"{page}-file", "data"),
        Input(f"{page}-csv", "n_clicks"),
        State(ids.SHOWN, "data"),
        prevent_initial_call=True,
    )
    def download(_: Any, shown: Optional[View]) -> Any:
        if shown is None:
            return no_update
        made = write(library.loaded(shown["item"], shown["device"]), shown)
        return no_update if made is None else {"filename": made[0], "content": made[1]}
