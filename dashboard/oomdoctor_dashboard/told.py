"""What is only read: sent as a tree, and made into elements of HTML by the browser (assets/told.js).

Dash looks after each of its components at whatever happens on a page, forty to seventy times in a step of
the moment, and once more for each that comes anew. What is told this way is one component. Text stays text: a
file or function of a snapshot is never markup.
"""

from __future__ import annotations

import json
from typing import Any, Union

from dash import html

Told = Union[str, list[Any]]
"""Text, or ``[tag, attributes, child, ...]``."""


def element(tag: str, *children: Told, **attributes: str) -> Told:
    """An element; attributes as HTML names them, ``class_`` and ``data_go`` for class and data-go.

    Which tags and attributes there may be stands in assets/told.js.
    """
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    return [tag, named, *children]


def sent(*told: Told) -> str:
    """For the property ``data-told``."""
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False)


def place(*told: Told, **more: Any) -> Any:
    """A component that shows them."""
    return html.Div(**{"data-told": sent(*told), "disable_n_clicks": True, **more})


def line(*parts: Told, look: str = "") -> Told:
    """A line of small text; ``look`` is bold, quiet, title or mono."""
    return element("div", *parts, class_=f"od-line od-{look}" if look else "od-line")


def button(word: str, *, look: str = "", **more: str) -> Told:
    """A word to click; a script knows it by its id or data. ``look`` is framed, or tool: as high as a box."""
    return element(
        "button", word, class_=f"od-button od-{look}" if look else "od-button", type="button", **more
    )
