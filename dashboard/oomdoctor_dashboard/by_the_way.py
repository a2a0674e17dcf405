"""What a callback writes seldom. Dash draws all that a callback may write to anew, twice for each call; what
it writes to by the way is drawn when it is written."""

from __future__ import annotations

from typing import Any

import dash
from dash import no_update

Place = tuple[str, str]
"""Id of a component and the property."""


def write(place: Place, value: Any) -> None:
    """Within a callback: set a property that is none of its outputs; ``no_update`` leaves it as it is."""
    if value is not no_update:
        dash.set_props(place[0], {place[1]: value})
