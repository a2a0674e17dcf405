"""What a page begins with goes along with the page: the view that its address asks for, and whether the
recording is at hand. Asked for by the page, it would come after everything that a browser has to set up."""

from __future__ import annotations

import html
import json
from typing import Any, Optional

import dash
from flask import request

from oomdoctor_dashboard.library import Library
from oomdoctor_dashboard.view import View, changed, from_query, within

META = "oomdoctor-start"
"""Name of the element that holds it; ``start`` in assets/app.js reads it."""


def start_of(library: Library, first: Optional[str], query: str) -> tuple[View, bool]:
    """The view that an address asks for, and whether its recording is at hand.

    Args:
        first: key of the item where the address names none; where there is no such item, the library's first.
    """
    view = from_query(query)
    items = library.items()
    if view["item"] is None and items:
        view = changed(view, item=first if library.item(first) else items[0].key)
    device = library.at_hand(view["item"], view["device"])
    if device is None:
        return view, False
    return within(changed(view, device=device), library.loaded(view["item"], device).events), True


def begin_with_view(app: dash.Dash, library: Library, first: Optional[str]) -> None:
    """Put it into the page that is served."""
    plain = app.interpolate_index

    def with_view(**parts: Any) -> str:
        library.refresh()
        view, is_at_hand = start_of(library, first, request.query_string.decode("utf-8", "replace"))
        text = html.escape(json.dumps({"view": view, "at_hand": is_at_hand}))
        parts["metas"] = f'{parts.get("metas", "")}<meta name="{META}" content="{text}">'
        return str(plain(**parts))

    app.interpolate_index = with_view
