"""Colour for a terminal, by hand: importing a library for it would take longer than all the rest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


@dataclass(frozen=True)
class Ink:
    """Writes styles where ``on``, plain text elsewhere."""

    on: bool = False

    def __call__(self, text: str, *styles: str) -> str:
        if not self.on or not styles:
            return text
        return f"\x1b[{';'.join(_CODES[style] for style in styles)}m{text}\x1b[0m"


def ink_for(stream: TextIO) -> Ink:
    """Colour only on a terminal that wants it (https://no-color.org)."""
    wants = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Ink(wants and stream.isatty())
