"""What the graphs of all pages share."""

from __future__ import annotations

from typing import Any


def config(filename: str, **more: Any) -> dict[str, Any]:
    """plotly's configuration of a graph.

    Args:
        filename: of the picture that the camera writes, after ``oomdoctor-``.
        more: what this graph has of its own, by plotly's names.
    """
    return {
        "displaylogo": False,
        # plotly.js has a button that uploads what is drawn; nothing leaves this machine.
        "showSendToCloud": False,
        "toImageButtonOptions": {"filename": f"oomdoctor-{filename}", "scale": 2},
        **more,
    }
