"""What the tables of all pages share."""

from __future__ import annotations

from typing import Any

# assets/dashAgGridFunctions.js
THEME = {"function": "oomdoctorTheme(themeQuartz)"}
# Numbers, to the right. Not the type "rightAligned" nor a cellClass: AG Grid takes a class away and gives it
# again with each value that changes, and the browser finds the style of each cell anew.
RIGHT: dict[str, Any] = {
    "headerClass": "ag-right-aligned-header",
    "cellStyle": {"textAlign": "right", "fontVariantNumeric": "tabular-nums"},
}
MONO: dict[str, Any] = {"cellStyle": {"fontFamily": "var(--od-mono)"}}


def by_number(field: str) -> dict[str, Any]:
    """A column of texts that sorts by the number behind them, ``field`` of the row."""
    return {"comparator": {"function": f"oomdoctorByField('{field}')"}, **RIGHT}
