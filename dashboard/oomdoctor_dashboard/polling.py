"""Asking again and again how far work in the background is.

Each answer orders the next question. An interval that ran by itself would ask anew before a slow server has
answered; Dash then drops the answer, and the page would wait for ever.
"""

from __future__ import annotations

from typing import Any, Optional

from dash import Input, Output, dcc

NO_MORE = 0


def poll(id_: str, pause_ms: int = 250) -> Any:
    """What asks, once for each order and so long after it."""
    return dcc.Interval(id=id_, interval=pause_ms, n_intervals=0, max_intervals=NO_MORE)


def question(id_: str) -> Input:
    """What a callback hears when it is asked: how often it was."""
    return Input(id_, "n_intervals")


def order(id_: str) -> Output:
    """What it answers: :func:`once_more`, or :data:`NO_MORE`."""
    return Output(id_, "max_intervals")


def once_more(asked: Optional[int]) -> int:
    """One question more than there were."""
    return (asked or 0) + 1
