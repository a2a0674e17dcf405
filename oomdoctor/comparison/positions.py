"""Where one recording is when the other is somewhere: by the requests that were matched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.history import History
from oomdoctor.comparison.matching import Alignment, align
from oomdoctor.snapshot.model import ALLOC, OOM


@dataclass(frozen=True)
class Positions:
    """Two recordings along one another. A state is named by how many events came before it.

    Attributes:
        alignment: which allocations are the same request, by their numbers.
        allocs_a, allocs_b: the event of each allocation.
        events_a, events_b: how many events there are.
    """

    alignment: Alignment
    allocs_a: NDArray[np.int64]
    allocs_b: NDArray[np.int64]
    events_a: int
    events_b: int

    def b_of(self, event: int) -> int:
        """The state of B that belongs to the one of A after so many events."""
        return self.event_b(self.place_a(event))

    def a_of(self, event: int) -> int:
        """The state of A that belongs to the one of B after so many events."""
        return self.event_a(self.place_b(event))

    @cached_property
    def _after_a(self) -> NDArray[np.int64]:
        return self.allocs_a[self.alignment.a] + 1

    @cached_property
    def _after_b(self) -> NDArray[np.int64]:
        return self.allocs_b[self.alignment.b] + 1

    @cached_property
    def axis_a(self) -> NDArray[np.float64]:
        """float64[allocations + 1]: where each allocation of A stands on the common axis; then its end.

        Matched ones stand at the same place. What only one of both has takes up room of its own, so that
        where the requests are the same throughout the places are the numbers of the allocations.
        """
        return self._axis(self.alignment.a, len(self.allocs_a))

    @cached_property
    def axis_b(self) -> NDArray[np.float64]:
        """As ``axis_a``, of B."""
        return self._axis(self.alignment.b, len(self.allocs_b))

    def _axis(self, mine: NDArray[np.int64], count: int) -> NDArray[np.float64]:
        rows_a, rows_b = self.alignment.a, self.alignment.b
        steps = np.maximum(np.diff(rows_a, prepend=-1), np.diff(rows_b, prepend=-1))
        places = np.cumsum(steps) - 1
        last, end = (int(mine[-1]), int(places[-1])) if len(mine) else (-1, -1)
        more = count + 1 - last
        known = np.concatenate([[-1], mine, [last + more]])
        there = np.concatenate([[-1], places, [end + more]])
        out: NDArray[np.float64] = np.interp(np.arange(count + 1), known, there)
        return out

    @cached_property
    def places_a(self) -> NDArray[np.float64]:
        """float64[events + 1]: where each state of A stands on the common axis, ascending.

        Right after an allocation it stands at that; others between two in proportion. -1: before all.
        """
        return _places(self.allocs_a, self.axis_a, self.events_a)

    @cached_property
    def places_b(self) -> NDArray[np.float64]:
        """As ``places_a``, of B."""
        return _places(self.allocs_b, self.axis_b, self.events_b)

    def place_a(self, event: int) -> float:
        """Where the state of A after so many events stands; the nearest there is."""
        return float(self.places_a[max(0, min(event, self.events_a))])

    def place_b(self, event: int) -> float:
        """As ``place_a``, of B."""
        return float(self.places_b[max(0, min(event, self.events_b))])

    def event_a(self, place: float) -> int:
        """The last state of A that is not beyond a place; 0 before all."""
        return _event(place, self.places_a)

    def event_b(self, place: float) -> int:
        """As ``event_a``, of B."""
        return _event(place, self.places_b)

    @property
    def last_common(self) -> tuple[int, int]:
        """The states right after the last request that both have; (0, 0) where there is none."""
        if not self.alignment.matched:
            return 0, 0
        return int(self._after_a[-1]), int(self._after_b[-1])


def positions_of(a: History, b: History) -> Positions:
    """Match the requests of two recordings, by what was asked for, in bytes."""
    events_a, events_b = a.recording.events, b.recording.events
    allocs_a = np.flatnonzero(events_a.action == ALLOC)
    allocs_b = np.flatnonzero(events_b.action == ALLOC)
    return Positions(
        alignment=align(events_a.entry_size[allocs_a], events_b.entry_size[allocs_b]),
        allocs_a=allocs_a,
        allocs_b=allocs_b,
        events_a=len(events_a),
        events_b=len(events_b),
    )


def at_first_oom(positions: Positions, a: History, b: History) -> Optional[tuple[int, int]]:
    """The states of both at the request that failed first in A, else in B; None where none did.

    Of the one that survived, right before it serves that request.
    """
    failed = _first_oom(a)
    if failed is not None:
        return failed, _before_next(failed, positions._after_a, positions._after_b, b, positions.allocs_b)
    failed = _first_oom(b)
    if failed is not None:
        return _before_next(failed, positions._after_b, positions._after_a, a, positions.allocs_a), failed
    return None


def _first_oom(history: History) -> Optional[int]:
    ooms = np.flatnonzero(history.recording.events.action == OOM)
    return int(ooms[0]) if len(ooms) else None


def _before_next(
    failed: int,
    mine: NDArray[np.int64],
    others: NDArray[np.int64],
    other: History,
    allocs: NDArray[np.int64],
) -> int:
    """In the other recording, before the allocation or the error after the last match before ``failed``."""
    done = int(np.searchsorted(mine, failed, side="right"))
    begin = int(others[done - 1]) if done else 0
    at = int(np.searchsorted(allocs, begin))
    stops = [int(allocs[at])] if at < len(allocs) else [len(other.recording)]
    ooms = np.flatnonzero(other.recording.events.action[begin : stops[0]] == OOM)
    return begin + int(ooms[0]) if len(ooms) else stops[0]


def _places(allocs: NDArray[np.int64], axis: NDArray[np.float64], events: int) -> NDArray[np.float64]:
    known, there = allocs + 1, axis[:-1]
    if not len(allocs) or allocs[-1] + 1 < events:
        known, there = np.append(known, events), axis
    out: NDArray[np.float64] = np.interp(np.arange(events + 1), np.append(0, known), np.append(-1, there))
    return out


def _event(place: float, places: NDArray[np.float64]) -> int:
    # Proportions are not exact: what stands a hair beyond is not beyond.
    return max(int(np.searchsorted(places, place + 1e-6, side="right")) - 1, 0)
