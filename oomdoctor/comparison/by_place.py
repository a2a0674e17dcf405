"""The difference between two states by the code that allocated what lives in them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from oomdoctor.allocator.moment import Moment
from oomdoctor.diagnosis.by_stack import Place, places
from oomdoctor.diagnosis.frames import short_path

Change = Literal["new", "gone", "more", "less", "same"]


@dataclass(frozen=True)
class Held:
    """Live blocks of one place in both states; sizes in bytes, rounding included.

    Attributes:
        place: in B, or in A where B has none of it.
        is_moved: the lines differ: the same functions of the same files.
    """

    place: Place
    a_bytes: int
    b_bytes: int
    a_blocks: int
    b_blocks: int
    is_moved: bool = False

    @property
    def difference(self) -> int:
        """B less A, bytes."""
        return self.b_bytes - self.a_bytes

    @property
    def change(self) -> Change:
        if not self.a_blocks:
            return "new"
        if not self.b_blocks:
            return "gone"
        return "more" if self.difference > 0 else "less" if self.difference < 0 else "same"


@dataclass(frozen=True)
class _One:
    place: Place
    bytes: int
    blocks: int


def difference_by_place(a: Moment, b: Moment) -> tuple[Held, ...]:
    """What lives in each, most changed first.

    A place is known again by the names of its functions, their files (below site-packages or the last two
    parts, so that another environment does not matter) and lines; where the lines were edited, by the rest.
    """
    left_a, left_b = _live(a), _live(b)
    found: list[Held] = []
    for key, is_moved in ((_exactly, False), (_without_lines, True)):
        by_key: dict[Hashable, list[_One]] = {}
        for one in left_b:
            by_key.setdefault(key(one.place), []).append(one)
        unmatched = []
        for one in left_a:
            same = by_key.get(key(one.place))
            if same:
                found.append(_both(one, same.pop(0), is_moved))
            else:
                unmatched.append(one)
        left_a, left_b = unmatched, [one for same in by_key.values() for one in same]
    found += [Held(one.place, one.bytes, 0, one.blocks, 0) for one in left_a]
    found += [Held(one.place, 0, one.bytes, 0, one.blocks) for one in left_b]
    return tuple(sorted(found, key=lambda one: (-abs(one.difference), -one.a_bytes, repr(one.place))))


def _both(a: _One, b: _One, is_moved: bool) -> Held:
    return Held(b.place, a.bytes, b.bytes, a.blocks, b.blocks, is_moved)


def _live(moment: Moment) -> list[_One]:
    live = moment.layout.live
    found, index = places(moment.history.recording.snapshot.stacks, moment.stack[live])
    count = np.bincount(index, minlength=len(found))
    total = np.zeros(len(found), np.int64)
    np.add.at(total, index, moment.layout.blocks["size"][live])
    ones = [_One(place, int(total[i]), int(count[i])) for i, place in enumerate(found)]
    return sorted(ones, key=lambda one: -one.bytes)


def _exactly(place: Place) -> Hashable:
    return tuple((f.name, short_path(f.filename), f.line) for f in place.frames)


def _without_lines(place: Place) -> Hashable:
    return tuple((f.name, short_path(f.filename)) for f in place.frames)
