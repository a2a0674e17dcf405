"""Errors as a person sees them on the page: what, why, what next; never a traceback."""

from __future__ import annotations

import logging
from typing import Any, Union

import dash_mantine_components as dmc

from oomdoctor.errors import OomdoctorError

_LOG = logging.getLogger("oomdoctor.dashboard")


def alert(
    error: Union[BaseException, str],
    text: str = "",
    *,
    colour: str = "red",
    more: str = "",
    closes: bool = False,
) -> Any:
    """A box with an error, or with a title and a text.

    Args:
        more: a line after it.
        closes: whether a person can close it.
    """
    if isinstance(error, OomdoctorError):
        title, *lines = str(error).splitlines()
    elif isinstance(error, BaseException):
        _LOG.error("a callback failed", exc_info=error)
        title = "This is a defect of oomdoctor"
        lines = [f"{type(error).__name__}: {error}", "The traceback is where the dashboard was started."]
    else:
        title, lines = error, [text]
    return dmc.Alert(
        title=title,
        color=colour,
        variant="light",
        className="od-alert",
        withCloseButton=closes,
        children=[dmc.Text(line.strip(), size="sm") for line in [*lines, more] if line.strip()],
    )
