"""Options that several commands take, written once."""

from __future__ import annotations

import math
from typing import Any, Callable, Optional, TypeVar

import click

from oomdoctor.recorder import DEFAULT_MAX_ENTRIES, STACKS

_F = TypeVar("_F", bound=Callable[..., Any])


def max_entries_option(help_text: str) -> Callable[[_F], _F]:
    """``--max-entries N``: the ring of each device."""
    return click.option(
        "--max-entries",
        type=click.IntRange(min=1),
        default=DEFAULT_MAX_ENTRIES,
        show_default=True,
        metavar="N",
        help=help_text,
    )


def stacks_option(help_text: str) -> Callable[[_F], _F]:
    """``--stacks python|all|none``."""
    return click.option(
        "--stacks", type=click.Choice(STACKS), default="python", show_default=True, help=help_text
    )


class Finite(click.FloatRange):
    """A number that is one: float() takes "nan" and "inf" as well, and no bound keeps "nan" out."""

    what = "a number"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not {self.what}", param, ctx)
        return number


class Seconds(Finite):
    """A time that ends."""

    what = "a number of seconds"
