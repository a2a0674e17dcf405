"""Live blocks gathered by where they were allocated."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from oomdoctor.diagnosis.frames import telling_frames
from oomdoctor.snapshot.stacks import NO_STACK, Frame, Stacks


@dataclass(frozen=True)
class Place:
    """A place in the code where memory was allocated: the telling frames of one or several stacks."""

    frames: tuple[Frame, ...]

    @property
    def is_known(self) -> bool:
        return bool(self.frames)


class KeptPlaces:
    """The places of a recording's stacks, told when they are asked for: one moment after another is, and most
    stacks are the same."""

    def __init__(self, stacks: Stacks) -> None:
        self.places: list[Place] = []  # those met so far; it only grows
        # The last one is of blocks without stack, so that NO_STACK finds it.
        self.of_stack = np.full(len(stacks) + 1, -1, np.int64)
        self._numbers: dict[Place, int] = {}
        self._lock = threading.Lock()

    def of(self, stacks: Stacks, numbers: NDArray[np.int32]) -> NDArray[np.int64]:
        """The place of each of some of the stacks: index in ``places``."""
        with self._lock:
            for stack in np.unique(numbers[self.of_stack[numbers] < 0]).tolist():
                place = Place(() if stack == NO_STACK else telling_frames(stacks[stack]))
                number = self._numbers.setdefault(place, len(self.places))
                if number == len(self.places):
                    self.places.append(place)
                self.of_stack[stack] = number
        found: NDArray[np.int64] = self.of_stack[numbers]
        return found


def kept_places(stacks: Stacks) -> KeptPlaces:
    """Those of a recording, which holds them as long as it is there."""
    return _KEPT.get(stacks) or _KEPT.setdefault(stacks, KeptPlaces(stacks))


_KEPT: WeakKeyDictionary[Stacks, KeptPlaces] = WeakKeyDictionary()


def places(stacks: Stacks, numbers: NDArray[np.int32]) -> tuple[list[Place], NDArray[np.int64]]:
    """The places of stacks, and for each of ``numbers`` (stacks, may repeat) the index of its place.

    They are in the order of their first stacks.
    """
    known, inverse = np.unique(numbers, return_inverse=True)
    kept = kept_places(stacks)
    there, first, of_known = np.unique(kept.of(stacks, known), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return [kept.places[number] for number in there[order].tolist()], rank[of_known[inverse]]
