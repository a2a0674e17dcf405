"""Two recordings over one another: lines on the common axis of their requests, few points for many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.history import History
from oomdoctor.comparison.compare import Pair
from oomdoctor.comparison.positions import Positions
from oomdoctor.snapshot.model import OOM
from oomdoctor_dashboard.extremes import bounds_by_position, extremes

SIDES = ("a", "b")
SERIES = ("allocated", "reserved")


@dataclass(frozen=True)
class Line:
    """One line: places on the common axis, float64[m], and bytes, int64[m]."""

    x: NDArray[np.float64]
    y: NDArray[np.int64]


@dataclass(frozen=True)
class Levels:
    """What both had at states that belong together, in bytes."""

    event_a: int
    event_b: int
    allocated: tuple[int, int]
    reserved: tuple[int, int]


class Courses:
    """The lines of a pair whose requests were matched.

    Attributes:
        positions: where each state stands.
        low, high: the ends of the axis.
        ooms: where memory ran out: the side and the place, that of the request that failed.
    """

    def __init__(self, pair: Pair, positions: Positions) -> None:
        self.positions = positions
        histories = (pair.a.history, pair.b.history)
        self._places = dict(zip(SIDES, (positions.places_a, positions.places_b)))
        self._series = {side: _series(history) for side, history in zip(SIDES, histories)}
        self.low = -1.0
        self.high = max(float(places[-1]) for places in self._places.values())
        self.ooms = tuple(
            (side, float(self._places[side][event + 1]))
            for side, history in zip(SIDES, histories)
            for event in np.flatnonzero(history.recording.events.action == OOM).tolist()[:100]
        )

    def window(self, low: Optional[float], high: Optional[float]) -> tuple[float, float]:
        """A stretch that was asked for, made to fit; never narrower than four requests."""
        if low is None or high is None or not low < high:
            return self.low, self.high
        low, high = max(low, self.low), min(high, self.high)
        if high - low < 4:
            middle = (low + high) / 2
            low, high = max(middle - 2, self.low), min(middle + 2, self.high)
        return (low, high) if low < high else (self.low, self.high)

    def line(self, side: str, name: str, low: float, high: float, most: int = 1200) -> Line:
        """One line within a stretch, with the state that holds at its beginning.

        Args:
            side: of SIDES.
            name: of SERIES.
            most: points; of what lies in a pixel the least and the most are kept.
        """
        places, values = self._places[side], self._series[side][name]
        first = max(int(np.searchsorted(places, low, side="right")) - 1, 0)
        stop = int(np.searchsorted(places, high, side="right"))
        x, y = places[first:stop], values[first:stop]
        if len(x) > most:
            kept = extremes(y, bounds_by_position(x, most // 2))
            kept = np.unique(np.concatenate([[0], kept, [len(x) - 1]]))
            x, y = x[kept], y[kept]
        return Line(x, y)

    def levels(self, event_a: int) -> Levels:
        """What both had when A had so many events behind it."""
        event_b = self.positions.b_of(event_a)
        states = dict(zip(SIDES, (event_a, event_b)))
        allocated, reserved = (
            tuple(int(self._series[side][name][states[side]]) for side in SIDES) for name in SERIES
        )
        return Levels(event_a, event_b, (allocated[0], allocated[1]), (reserved[0], reserved[1]))


def _series(history: History) -> dict[str, NDArray[np.int64]]:
    """int64[n + 1] each: after so many events."""
    start = history.heap_after(0).stats
    return {
        name: np.concatenate([start[f"{name}_bytes"][:1], history.effects[f"{name}_bytes"]])
        for name in SERIES
    }
