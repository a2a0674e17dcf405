"""``How to read this``: words of help that open beside a view's title.

An element of HTML itself. A Mantine popover makes Dash compare everything on the page with what it was at
each answer of the server: it took 190 of the 600 ms that a step of the moment kept the browser busy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

from oomdoctor_dashboard import told


def reading_help(text: Union[str, Sequence[str]], *, width: int = 460, from_right: bool = False) -> Any:
    """A word to click, and the paragraphs that it shows over what lies below it.

    Args:
        width: of the paragraphs, pixels.
        from_right: whether they end where the word ends, for one at the right edge of the page.
    """
    paragraphs = [text] if isinstance(text, str) else text
    opened = told.element(
        "details",
        told.element("summary", "How to read this"),
        told.element("div", *(told.element("p", one) for one in paragraphs)),
        class_="od-help",
    )
    return told.place(
        opened,
        className="od-helps od-helps-right" if from_right else "od-helps",
        style={"--od-wide": f"{width}px"},
    )
