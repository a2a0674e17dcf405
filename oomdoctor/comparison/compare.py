"""Two devices compared: the value that reporters and the dashboard show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Optional

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.moment import moment_of
from oomdoctor.comparison.by_place import Held, difference_by_place
from oomdoctor.comparison.figures import Figure, basis_of, figures_of, figures_until
from oomdoctor.comparison.points import Point, point_of
from oomdoctor.comparison.positions import Positions, positions_of
from oomdoctor.comparison.verdict import Verdict, notes_of, verdict_of
from oomdoctor.diagnosis.model import Basis


class Pair:
    """A device of A and one of B.

    What takes time is made when it is first asked for, and kept.

    Attributes:
        a, b: the two.
        positions: their requests matched; None where one of them has no history.
    """

    def __init__(self, a: DeviceHistory, b: DeviceHistory) -> None:
        self.a = a
        self.b = b
        known = a.has_events and b.has_events
        self.positions: Optional[Positions] = positions_of(a.history, b.history) if known else None

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """Over the whole of each."""
        return figures_of(self.a, self.b)

    @cached_property
    def common(self) -> tuple[Figure, ...]:
        """Until the last request that both have; empty where there is none."""
        if self.positions is None or not self.positions.alignment.matched:
            return ()
        return figures_until(self.a, self.b, *self.positions.last_common)

    @cached_property
    def verdict(self) -> Verdict:
        """The answer in a sentence or two."""
        return verdict_of(self.a, self.b, self.positions, self.figures, self.common)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know beside it."""
        return notes_of(self.a, self.b)

    def point(self, when: str) -> Point:
        """Two states to set beside one another; see :func:`oomdoctor.comparison.points.point_of`."""
        return point_of(when, self.positions, self.a.history, self.b.history)

    def by_place(self, point: Point) -> ByPlace:
        """What lives in both at these states, by the code that allocated it."""
        moments = moment_of(self.a.history, point.a), moment_of(self.b.history, point.b)
        return ByPlace(
            point=point,
            a_basis=_basis(self.a, point.a),
            b_basis=_basis(self.b, point.b),
            held=difference_by_place(*moments),
        )


@dataclass(frozen=True)
class ByPlace:
    """The difference between two states by place.

    Attributes:
        point: the states.
        a_basis, b_basis: "recorded" where a state is that of the snapshot itself, else "replayed".
        held: the places, most changed first; of each side they sum to what is live.
    """

    point: Point
    a_basis: Basis
    b_basis: Basis
    held: tuple[Held, ...]


def _basis(device: DeviceHistory, state: int) -> Basis:
    at_end = state == len(device.history.recording) and device.agrees
    return "recorded" if at_end else "replayed"


__all__ = ["ByPlace", "Pair", "basis_of"]
