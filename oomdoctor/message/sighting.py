"""What a grammar finds, before anybody knows which events it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable, Optional

from oomdoctor.diagnosis.model import OomFacts


@dataclass(frozen=True)
class Sighting:
    """One place in a cleaned text that speaks of an out-of-memory event.

    Args:
        start, end: offsets in the cleaned text.
        facts: what it states; line, rank and text are filled in by the reader.
        group: sightings of one group may speak of the same event.
        opens: printed by code that prints once an event, so two of them are two events.
        follows: number of lines; it goes on with what an earlier one of its group began within so many lines,
            and is an event of its own only without one. None: a reprint wherever the numbers agree.
        marks: more that must agree for two sightings to be one event (a shape, a file and line).
        tolerance: how far sizes of one event may differ, as a fraction (a rounded print beside an exact one).
    """

    start: int
    end: int
    facts: OomFacts
    group: str
    opens: bool = False
    follows: Optional[int] = None
    marks: tuple[tuple[str, str], ...] = ()
    tolerance: float = 0.0


@dataclass(frozen=True)
class Grammar:
    """One message family, or a few close ones.

    Args:
        name: for people.
        needles: lower-case texts of which one must occur before ``read`` is worth calling.
        read: finds the sightings in a cleaned text, in order, in linear time.
    """

    name: str
    needles: tuple[str, ...]
    read: Callable[[str], Iterator[Sighting]]
