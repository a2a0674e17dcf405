"""The least and the most of each stretch of a column: few points for many without losing a peak.

tsdownsample does this too and is faster, but over irregular positions it left out the largest value of all in
one of a thousand tries (0.1.5), and over regular ones now and then the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.compiled import compiled_entry


def extremes(values: NDArray[Any], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each stretch has its first least and its first most value; ascending, each row once.

    Args:
        values: [n].
        bounds: int64[stretches + 1], ascending, of rows: stretch i is ``bounds[i]:bounds[i + 1]``; empty ones
            have no rows.
    """
    found: NDArray[np.int64] = np.unique(_extremes(np.ascontiguousarray(values), bounds))
    return found


@compiled_entry
def _extremes(values: NDArray[Any], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    rows = np.empty(2 * len(bounds), np.int64)
    count = 0
    for i in range(len(bounds) - 1):
        start, stop = bounds[i], bounds[i + 1]
        if start >= stop:
            continue
        # Without a branch, so that it is done several rows at once.
        low = high = values[start]
        for row in range(start + 1, stop):
            low, high = min(low, values[row]), max(high, values[row])
        least = most = start
        while least < stop - 1 and values[least] != low:
            least += 1
        while most < stop - 1 and values[most] != high:
            most += 1
        rows[count], rows[count + 1] = least, most
        count += 2
    return rows[:count]


def even_bounds(count: int, stretches: int) -> NDArray[np.int64]:
    """The bounds of so many stretches of ``count`` rows, as alike as can be."""
    return np.arange(stretches + 1, dtype=np.int64) * count // stretches


def bounds_by_position(position: NDArray[Any], stretches: int) -> NDArray[np.int64]:
    """The bounds of stretches alike in width, where rows have positions, ascending."""
    inner = np.linspace(position[0], position[-1], stretches + 1)[1:-1]
    return np.concatenate([[0], np.searchsorted(position, inner), [len(position)]]).astype(np.int64)
