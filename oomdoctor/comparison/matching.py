"""Which element of one long sequence is which of another: the requests of two programs, by their sizes.

Programs repeat themselves, so hardly any stretch is unique. What begins and ends alike is matched as such.
Then both are walked from the start: where they part, the nearest place is looked for where they go on alike.
Where that is far off, runs of k elements are matched by their hash and by which of its kind each is, longest
runs first; of runs that cross, those stay that match the most together. A million elements take a second or
a few, where ``difflib`` would take hours.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

# Length of runs (powers of two), and the longest gap in which such short ones still mean something.
_LEVELS = ((64, None), (16, None), (4, None), (1, 24))
# The walk: what has to be alike for going on there, how far ahead it looks, and how often at most.
_ALIKE, _NEAR, _FAR = 16, 32, 1024
_MOST_STEPS, _MOST_FAR = 40_000, 400
_ODD = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


@dataclass(frozen=True)
class Alignment:
    """What of two sequences is the same.

    Attributes:
        a, b: int64[k], positions that were matched with one another, both ascending.
        count_a, count_b: how long the sequences are.
        prefix: so many are the same from the start.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    count_a: int
    count_b: int
    prefix: int

    @property
    def matched(self) -> int:
        """How many have a partner."""
        return len(self.a)

    @property
    def is_all(self) -> bool:
        """Whether both are the same throughout."""
        return self.prefix == self.count_a == self.count_b

    @property
    def share(self) -> float:
        """The matched part of the shorter one, 0 to 1; 0 where it is empty."""
        shorter = min(self.count_a, self.count_b)
        return self.matched / shorter if shorter else 0.0


def align(a: NDArray[np.int64], b: NDArray[np.int64]) -> Alignment:
    """Match two sequences of numbers, in order."""
    prefix = _common(a, b)
    suffix = _common(a[prefix:][::-1], b[prefix:][::-1])
    stop_a, stop_b = len(a) - suffix, len(b) - suffix
    mate = np.full(len(a), -1, np.int64)
    mate[:prefix] = np.arange(prefix)
    mate[stop_a:] = np.arange(stop_b, len(b))
    if stop_a > prefix and stop_b > prefix:
        middle = _middle(a[prefix:stop_a], b[prefix:stop_b])
        mate[prefix:stop_a] = np.where(middle >= 0, middle + prefix, -1)
    rows = np.flatnonzero(mate >= 0)
    return Alignment(rows, mate[rows], len(a), len(b), prefix)


def _common(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """How many are equal from the start."""
    shorter = min(len(a), len(b))
    differs = a[:shorter] != b[:shorter]
    return int(differs.argmax()) if differs.any() else shorter


def _middle(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[len(a)]: the partner of each in ``b``; -1 for none."""
    mate = _walked(a, b)
    for length, longest in _LEVELS:
        if min(len(a), len(b)) < length:
            continue
        taken = np.zeros(len(b), np.bool_)
        taken[mate[mate >= 0]] = True
        if taken.all() or (mate >= 0).all():
            break
        key_a, rows_a = _keys(a, mate >= 0, length, longest)
        key_b, rows_b = _keys(b, taken, length, longest)
        _, in_a, in_b = np.intersect1d(key_a, key_b, assume_unique=False, return_indices=True)
        order = np.argsort(rows_a[in_a])
        found_a, found_b = _chained(rows_a[in_a][order], rows_b[in_b][order], length)
        same = a[found_a] == b[found_b]  # hashes may collide
        mate[found_a[same]] = found_b[same]
    return mate


def _walked(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """As :func:`_middle`, as far as both go on alike after each difference."""
    mate = np.full(len(a), -1, np.int64)
    if min(len(a), len(b)) < _ALIKE:
        return mate
    hash_a, hash_b = _hashed(a, _ALIKE), _hashed(b, _ALIKE)
    i = j = far = 0
    for _ in range(_MOST_STEPS):
        found = _nearest(hash_a[i : i + _NEAR], hash_b[j : j + _NEAR])
        if found is None and far < _MOST_FAR:
            far += 1
            found = _nearest(hash_a[i : i + _FAR], hash_b[j : j + _FAR])
        if found is None:
            break
        i, j = i + found[0], j + found[1]
        length, step = 0, 64
        while True:
            here = _common(a[i + length : i + length + step], b[j + length : j + length + step])
            length += here
            if here < step:
                break
            step *= 4
        mate[i : i + length] = np.arange(j, j + length)
        i, j = i + length, j + length
    return mate


def _nearest(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> Optional[tuple[int, int]]:
    """The first pair of equal ones: the fewest passed over in both together."""
    at_a, at_b = np.nonzero(a[:, None] == b[None, :])
    if not len(at_a):
        return None
    best = int((at_a + at_b).argmin())
    return int(at_a[best]), int(at_b[best])


def _hashed(values: NDArray[np.int64], length: int) -> NDArray[np.uint64]:
    """A hash of each run of so many elements (a power of two)."""
    hashed = _mixed(values.astype(np.uint64), 0)
    step = 1
    while step < length:
        hashed = _mixed(hashed[:-step] * np.uint64(_ODD[1]) + hashed[step:], step)
        step *= 2
    return hashed


def _keys(
    values: NDArray[np.int64], matched: NDArray[np.bool_], length: int, longest: Optional[int]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A key for each run of unmatched elements, and where it begins.

    Equal keys: the same elements, between the same matched ones, the same one of its kind there.
    """
    gap = np.cumsum(matched)
    free = ~matched
    if longest is not None:
        size = np.bincount(gap[free], minlength=int(gap[-1]) + 1)
        free &= size[gap] <= longest
    whole = np.concatenate([[0], np.cumsum(free)])
    rows = np.flatnonzero(whole[length:] - whole[:-length] == length)
    kind = _mixed(_hashed(values, length)[rows] ^ (gap[rows].astype(np.uint64) * np.uint64(_ODD[2])), 1)
    return _mixed(kind + _occurrence(kind).astype(np.uint64) * np.uint64(_ODD[1]), 2), rows


def _mixed(values: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Spread over all 64 bits (the finalizer of MurmurHash3)."""
    mixed = (values + np.uint64(salt + 1)) * np.uint64(_ODD[0])
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(_ODD[1])
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _occurrence(kind: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Of each element, how many like it come before."""
    order = np.argsort(kind, kind="stable")
    position = np.arange(len(kind))
    begins = np.append(True, kind[order][1:] != kind[order][:-1])[: len(kind)]
    out = np.empty(len(kind), np.int64)
    out[order] = position - np.maximum.accumulate(np.where(begins, position, 0))
    return out


def _chained(
    a: NDArray[np.int64], b: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of runs that begin at ``a`` and ``b``, those that are in order in both; element by element.

    Args:
        a: ascending.
    """
    if not len(a):
        return a, b
    # Runs that begin one after another in both are one.
    begins = np.append(True, (np.diff(a) != 1) | (np.diff(b) != 1))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(a)) - 1
    kept = _heaviest(b[first], b[last], last - first + 1)
    first, last = first[kept], last[kept]
    stop_a, stop_b = a[last] + length, b[last] + length
    # Where one run reaches into the next, that begins later.
    over = np.maximum(stop_a[:-1] - a[first[1:]], stop_b[:-1] - b[first[1:]])
    late = np.concatenate([[0], np.maximum(over, 0)])
    start_a, start_b = a[first] + late, b[first] + late
    sizes = stop_a - start_a
    offset = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(start_a, sizes) + offset, np.repeat(start_b, sizes) + offset


def _heaviest(low: NDArray[np.int64], high: NDArray[np.int64], weight: NDArray[np.int64]) -> NDArray[Any]:
    """Which stretches [low, high] to keep so that they ascend, with the largest sum of weights."""
    if (low[1:] > high[:-1]).all():
        return np.arange(len(low))
    # Ends of the best chains so far, ascending, and their weights, ascending too.
    ends: list[int] = []
    sums: list[int] = []
    tails: list[int] = []
    before = [-1] * len(low)
    for i, (begin, end, mine) in enumerate(zip(low.tolist(), high.tolist(), weight.tolist())):
        at = bisect_left(ends, begin)
        total = mine
        if at:
            before[i] = tails[at - 1]
            total += sums[at - 1]
        at = bisect_left(ends, end)
        if at and sums[at - 1] >= total:
            continue
        stop = at
        while stop < len(ends) and sums[stop] <= total:
            stop += 1
        ends[at:stop], sums[at:stop], tails[at:stop] = [end], [total], [i]
    chain = []
    at = tails[-1]
    while at >= 0:
        chain.append(at)
        at = before[at]
    return np.array(chain[::-1], np.int64)
