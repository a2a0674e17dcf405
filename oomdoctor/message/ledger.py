"""Which sightings are one event: reprints once, ranks apart, in the order of their first print.

Two sightings are one event where nothing that both state differs, the rank included, and

- they agree in three things or more, however far apart they are (a launcher repeats at the end what a rank
  said hours before), or
- they agree in fewer and stand within ``NEAR_LINES`` of each other, or
- one of them states nothing at all and stands within ``NEXT_LINES`` (a layer that says only "out of memory").

Code that prints once an event (a logger of the allocator itself) opens a new one with every print, and so
does what comes after a message that was swallowed ("ignoring ...", "skipping batch").
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field, fields, replace
from typing import Any, Optional

from oomdoctor.diagnosis.model import SIZE_FIELDS, OomFacts
from oomdoctor.message.sighting import Sighting

NEAR_LINES = 2000
NEXT_LINES = 200
_DIGITS = re.compile(r"\d+")
_RECENT = 64
"""Events a group keeps for comparison by parts; whole ones are found by their key however old."""

_COMPARED = (
    "device",
    *SIZE_FIELDS,
)


@dataclass
class _Event:
    facts: OomFacts
    marks: dict[str, str]
    last_line: int
    index: int
    tolerance: float
    source: str = ""
    closed: bool = False
    stated: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Takes sightings in the order of the text and gives events."""

    def __init__(self) -> None:
        self._events: list[_Event] = []
        self._recent: dict[str, deque[_Event]] = {}
        self._whole: dict[tuple[Any, ...], _Event] = {}

    def __len__(self) -> int:
        return len(self._events)

    @property
    def facts(self) -> tuple[OomFacts, ...]:
        """The events so far."""
        return tuple(event.facts for event in self._events)

    def add(self, sighting: Sighting, swallowed: bool = False, source: str = "") -> None:
        """Enter a sighting whose facts carry line, rank and text.

        Args:
            swallowed: the text says that the program went on after it.
            source: who speaks there (a process, a container, a host), "" where it is not said.
        """
        event = None if sighting.opens else self._find(sighting, source)
        if event is None:
            event = self._open(sighting, source)
        else:
            event.last_line = sighting.facts.line or event.last_line
            _merge(event, sighting)
        event.closed = event.closed or swallowed
        self._remember(sighting.group, event)

    def _open(self, sighting: Sighting, source: str) -> _Event:
        facts = sighting.facts
        event = _Event(facts, dict(sighting.marks), facts.line or 0, len(self._events), sighting.tolerance)
        event.stated, event.source = stated_by(facts), source
        self._events.append(event)
        self._recent.setdefault(sighting.group, deque(maxlen=_RECENT)).append(event)
        return event

    def _remember(self, group: str, event: _Event) -> None:
        if len(event.stated) >= 3:
            for rank in {event.facts.rank, None}:
                self._whole[(group, rank, *sorted(event.stated.items()))] = event

    def _find(self, sighting: Sighting, source: str) -> Optional[_Event]:
        facts, line = sighting.facts, sighting.facts.line or 0
        stated = stated_by(facts)
        near = [
            event
            for event in reversed(self._recent.get(sighting.group, ()))
            if not event.closed and _agree(event, sighting, stated) and not _apart(event.source, source)
        ]
        for event in near:
            shared = len(stated.keys() & event.stated.keys()) + len(
                event.marks.keys() & dict(sighting.marks).keys()
            )
            distance = line - event.last_line
            if sighting.follows is not None:
                if distance <= sighting.follows:
                    return event
            elif shared >= 3 or (shared and distance <= NEAR_LINES) or distance <= NEXT_LINES:
                return event
        if len(stated) >= 3:
            event_of_old = self._whole.get((sighting.group, facts.rank, *sorted(stated.items())))
            if (
                event_of_old is not None
                and not event_of_old.closed
                and _agree(event_of_old, sighting, stated)
                and not _apart(event_of_old.source, source)
            ):
                return event_of_old
        return None


def stated_by(facts: OomFacts) -> dict[str, int]:
    """The numbers that facts state."""
    return {name: value for name in _COMPARED if (value := getattr(facts, name)) is not None}


def _apart(one: str, other: str) -> bool:
    """Whether two of a kind speak who are not one: another worker, not a launcher that repeats one."""
    return one != other and _DIGITS.sub("", one) == _DIGITS.sub("", other)


def _agree(event: _Event, sighting: Sighting, stated: dict[str, int]) -> bool:
    """Whether nothing that both state differs."""
    one, other = event.facts.rank, sighting.facts.rank
    if one is not None and other is not None and one != other:
        return False
    tolerance = max(event.tolerance, sighting.tolerance)
    for name, value in stated.items():
        known = event.stated.get(name)
        if known is None or known == value:
            continue
        if name == "device" or abs(known - value) > tolerance * max(known, value):
            return False
    pids = {process.pid: process.bytes for process in event.facts.other_processes}
    if any(
        pids.get(process.pid, process.bytes) != process.bytes for process in sighting.facts.other_processes
    ):
        return False
    return all(event.marks.get(key, value) == value for key, value in sighting.marks)


def _merge(event: _Event, sighting: Sighting) -> None:
    """Fill what the event did not state with what this print of it does; the more telling family stays."""
    facts, more = event.facts, sighting.facts
    if len(stated_by(more)) > len(event.stated):
        facts, more = replace(more, line=facts.line), facts
    updates: dict[str, Any] = {
        item.name: getattr(more, item.name)
        for item in fields(facts)
        if item.name not in ("family", "kind", "line", "text", "details")
        and getattr(facts, item.name) in (None, ())
        and getattr(more, item.name) not in (None, ())
    }
    updates["details"] = {**more.details, **facts.details}
    event.facts = replace(facts, **updates)
    event.stated = stated_by(event.facts)
    for key, value in sighting.marks:
        event.marks.setdefault(key, value)
