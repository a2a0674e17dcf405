"""Which of the live blocks a person wants to see: by text, size, age, pool, stream and state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

from oomdoctor.errors import UsageError
from oomdoctor.units import parse_size

_NUMBER = re.compile(r"^\s*([\d,]+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*$")
_UNIT = re.compile(r"[A-Za-zµ]+\s*$")
_MICROSECONDS = {"us": 1, "µs": 1, "ms": 10**3, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6}
_EVENTS = ("", "event", "events")
_OLDER = ("older", "older than the trace")


@dataclass(frozen=True)
class Bounds:
    """Whole numbers from ``low`` to ``high``, both included; None: no bound."""

    low: Optional[int] = None
    high: Optional[int] = None


@dataclass(frozen=True)
class Age:
    """How old: in "events" or in "us" (microseconds), or "older" than the trace."""

    unit: str
    bounds: Bounds = Bounds()


@dataclass(frozen=True)
class Wanted:
    """What is asked for; a block has to meet all of it.

    Attributes:
        text: in the name or file of any frame of its stack, in whatever case; "0x…": an address inside it.
        size: of the block, bytes.
        pool: ``private pool:size class``, as :func:`pool_key` writes it.
        stream: rank of its handle.
        state: "allocated" or "pending".
    """

    text: str = ""
    size: Optional[Bounds] = None
    age: Optional[Age] = None
    pool: Optional[str] = None
    stream: Optional[int] = None
    state: Optional[str] = None

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return self == Wanted()


def pool_key(private_pool: int, is_small: bool) -> str:
    """A pool in an address: ``0:large``."""
    return f"{private_pool}:{'small' if is_small else 'large'}"


def wanted_of(options: Mapping[str, Any]) -> Wanted:
    """What the settings of the page ask for.

    Raises:
        UsageError: a size or an age that cannot be read.
    """
    stream = str(options.get("stream") or "")
    return Wanted(
        text=str(options.get("text") or "").strip().lower(),
        size=size_bounds(str(options.get("size") or "")),
        age=age_bounds(str(options.get("age") or "")),
        pool=str(options["pool"]) if options.get("pool") else None,
        stream=int(stream) if stream.isdigit() and len(stream) < 10 else None,
        state=options["state"] if options.get("state") in ("allocated", "pending") else None,
    )


def size_bounds(text: str) -> Optional[Bounds]:
    """``1 MiB`` and more, ``< 1 MiB``, ``1 MiB - 2 MiB``; None for nothing.

    Raises:
        UsageError: it is none of these.
    """
    return _bounds(text, parse_size) if text.strip() else None


def age_bounds(text: str) -> Optional[Age]:
    """``1000 events`` and more, ``< 2 s``, ``older than the trace``; None for nothing.

    Raises:
        UsageError: it is none of these, or mixes events and time.
    """
    if not text.strip():
        return None
    if text.strip().lower() in _OLDER:
        return Age("older")
    units: set[str] = set()

    def number(part: str) -> int:
        value, unit = _age(part)
        units.add(unit)
        return value

    bounds = _bounds(text, number)
    if len(units) != 1:
        raise UsageError(f"an age in events and in time: {text!r}", next_step="give both ends in one of them")
    return Age(units.pop(), bounds)


def _age(text: str) -> tuple[int, str]:
    match = _NUMBER.match(text)
    unit = match.group(2).lower() if match else None
    if match is None or not (unit in _EVENTS or unit in _MICROSECONDS):
        raise UsageError(
            f"not an age: {text.strip()!r}",
            next_step="write 1000 events, 2 s, < 5 ms or older than the trace",
        )
    number = float(match.group(1).replace(",", ""))
    if unit in _EVENTS:
        return int(number), "events"
    return round(number * _MICROSECONDS[unit or "us"]), "us"


def _bounds(text: str, number: Callable[[str], int]) -> Bounds:
    text = text.strip()
    for sign, step in (("<=", 0), ("≤", 0), ("<", -1)):
        if text.startswith(sign):
            return Bounds(high=number(text[len(sign) :]) + step)
    for sign, step in ((">=", 0), ("≥", 0), (">", 1)):
        if text.startswith(sign):
            return Bounds(low=number(text[len(sign) :]) + step)
    low, _, high = text.replace("–", "-").replace("..", "-").partition("-")
    if not high or not low.strip():
        return Bounds(low=number(text))  # of "-1" it says that "-1" is none
    unit = _UNIT.search(high)
    if unit and low.strip() and not _UNIT.search(low):
        low += unit.group()  # "1 - 2 MiB"
    bounds = Bounds(low=number(low), high=number(high))
    if (bounds.low or 0) > (bounds.high or 0):
        raise UsageError(
            f"nothing lies in the range {text!r}", next_step="give the smaller end first: 1 MiB - 2 MiB"
        )
    return bounds
