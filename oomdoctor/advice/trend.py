"""How the peak of memory in use grew with the size of one buffer, each time the program came by.

It is the recording's own answer to how much smaller a batch or a context has to be: some stack asks for a
buffer whose size goes with the input (token ids, embeddings), pass after pass. The passes are told apart by
its size alone: one lasts until the stack asks for another size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.history import History
from oomdoctor.diagnosis.by_stack import Place, places
from oomdoctor.snapshot.model import ALLOC
from oomdoctor.snapshot.stacks import NO_STACK

# A line through fewer sizes than these, or one that a peak misses by more than this share, tells nothing.
_SIZES, _MISSED = 4, 0.03
# Sizes below this share of the last are of another kind of pass: a single token after a prompt.
_ALIKE = 8


@dataclass(frozen=True)
class Trend:
    """A line through the peaks in use of earlier passes, over the size of a buffer of theirs.

    Attributes:
        place: where the buffer is allocated.
        size: of the pass that failed, bytes; ``largest`` the largest of those that did not.
        fits: up to which size the peak stays within the capacity, by the line.
        sizes: how many different ones the line goes through.
        base_bytes, slope: the peak is ``base_bytes + slope × size``; of passes of one size the highest
            counts.
        missed: by what share of its peak the worst of them misses the line.
    """

    place: Place
    size: int
    largest: int
    fits: int
    sizes: int
    base_bytes: int
    slope: float
    missed: float

    @property
    def smaller_by(self) -> float:
        """The share by which the size had to be smaller."""
        return 1 - self.fits / self.size


def trend_of(history: History, stacks: NDArray[np.int32], at: int, capacity: int) -> Optional[Trend]:
    """The line that fits best, of the buffers of these stacks; None where none does.

    Args:
        stacks: of what lives when memory runs out, and of what was asked for.
        at: the event at which it does.
    """
    events = history.recording.events
    allocs = np.flatnonzero(events.action[:at] == ALLOC)
    order = np.argsort(events.stack[allocs], kind="stable")
    by_stack, of_stack = allocs[order], events.stack[allocs][order]
    active = history.effects["active_bytes"][:at]
    best: Optional[Trend] = None
    for stack in np.unique(stacks[stacks != NO_STACK]).tolist():
        low, high = np.searchsorted(of_stack, [stack, stack + 1])
        found = _line(by_stack[low:high], events.entry_size, active, capacity)
        if found is not None and (best is None or found.missed < best.missed):
            (place,), _ = places(history.recording.snapshot.stacks, np.array([stack], np.int32))
            best = replace(found, place=place)
    return best


def _line(
    rows: NDArray[np.intp], entry_size: NDArray[np.int64], active: NDArray[np.int64], capacity: int
) -> Optional[Trend]:
    """The line of one stack's allocations ``rows``; the place is left to the caller."""
    if len(rows) <= _SIZES:
        return None
    size = entry_size[rows]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(size)) + 1])
    peaks = np.maximum.reduceat(active, rows[starts])
    passes = size[starts]
    failed = int(passes[-1])
    right = (passes < failed) & (passes * _ALIKE > failed)
    distinct, which = np.unique(passes[right], return_inverse=True)
    if len(distinct) < _SIZES:
        return None
    highest = np.zeros(len(distinct), np.int64)
    np.maximum.at(highest, which.reshape(-1), peaks[right])
    slope, base = np.polyfit(distinct.astype(np.float64), highest.astype(np.float64), 1)
    missed = float(np.max(np.abs(base + slope * distinct - highest) / highest))
    if missed > _MISSED or slope <= 0:
        return None
    fits = int((capacity - base) / slope)
    largest = int(distinct[-1])
    # What went well has to lie below, what failed above.
    if not largest <= fits < failed:
        return None
    return Trend(Place(()), failed, largest, fits, len(distinct), int(base), float(slope), missed)
