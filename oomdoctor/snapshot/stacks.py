"""Call stacks, each kept once.

A recording repeats a few thousand stacks a million times. Here a frame is a number, a stack is a run of frame
numbers, and whatever was allocated points to its stack by number; :data:`NO_STACK` where none was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_STACK = -1


class Frame(NamedTuple):
    """One line of a call stack, as PyTorch recorded it (innermost first in a stack)."""

    name: str
    filename: str
    line: int


@dataclass(frozen=True, eq=False)
class Stacks:
    """All stacks of a snapshot.

    Attributes:
        frames: the distinct frames.
        starts: int64[number of stacks + 1], where each stack begins in ``flat``.
        flat: int32[...], numbers of frames, stack after stack, innermost frame first.
    """

    frames: tuple[Frame, ...]
    starts: NDArray[np.int64]
    flat: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, stack: int) -> tuple[Frame, ...]:
        """The frames of a stack, innermost first; none for :data:`NO_STACK`."""
        if stack == NO_STACK:
            return ()
        return tuple(self.frames[i] for i in self.flat[self.starts[stack] : self.starts[stack + 1]].tolist())
