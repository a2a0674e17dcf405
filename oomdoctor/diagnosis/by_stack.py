"""Live blocks gathered by where they were allocated."""

from __future__ import annotations

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


# One moment after another is asked for, and most stacks are the same.
_KEPT: WeakKeyDictionary[Stacks, dict[int, Place]] = WeakKeyDictionary()


def _place(stacks: Stacks, stack: int, kept: dict[int, Place]) -> Place:
    place = kept.get(stack)
    if place is None:
        place = kept[stack] = Place(() if stack == NO_STACK else telling_frames(stacks[stack]))
    return place


def places(stacks: Stacks, numbers: NDArray[np.int32]) -> tuple[list[Place], NDArray[np.int64]]:
    """The places of stacks, and for each of ``numbers`` (stacks, may repeat) the index of its place."""
    known, inverse = np.unique(numbers, return_inverse=True)
    found: dict[Place, int] = {}
    kept = _KEPT.setdefault(stacks, {})
    of_known = np.array(
        [found.setdefault(_place(stacks, stack, kept), len(found)) for stack in known.tolist()],
        dtype=np.int64,
    )
    return list(found), of_known[inverse] if len(known) else np.empty(0, np.int64)
