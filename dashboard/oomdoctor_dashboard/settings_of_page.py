"""What is chosen on a page goes into the view in the browser, and so at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import dash
from dash import ClientsideFunction, Input, Output, State, dcc

from oomdoctor_dashboard import ids

Controls = Mapping[str, tuple[str, Optional[str]]]
"""By the name that a setting has in the view: the control's property, and the value that is its default; that
is left out of the view, as are None, False and an empty text."""


def id_of(page: str, name: str) -> str:
    """Id of the control of a setting."""
    return f"{page}-{name}"


def settings_store(page: str, controls: Controls, numbers: tuple[str, ...] = ()) -> Any:
    """What the browser has to know of a page's controls; ``numbers``: settings that are whole numbers."""
    defaults = {name: default for name, (_, default) in controls.items()}
    return dcc.Store(
        id=f"{page}-settings", data={"page": page, "defaults": defaults, "numbers": list(numbers)}
    )


def settle_in_browser(app: dash.Dash, page: str, controls: Controls) -> None:
    """Take what is chosen into the options of the page; see ``settle`` in assets/app.js."""
    app.clientside_callback(
        ClientsideFunction("oomdoctor", "settle"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        *(Input(id_of(page, name), prop) for name, (prop, _) in controls.items()),
        State(ids.VIEW, "data"),
        State(f"{page}-settings", "data"),
        prevent_initial_call=True,
    )
