"""In which order the segments older than a trace were made.

From 2.13 on that decides between free blocks of one size (``BlockComparatorSize``, pull 183591), and nothing
records it. Each time the allocator chose between two such segments, though, it shows which is older.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Optional

from oomdoctor.allocator.initial import Piece


def by_address(pieces: Sequence[Piece]) -> list[int]:
    """The order to begin with: the rank of each piece is its place by address."""
    return list(range(len(pieces)))


def piece_at(pieces: Sequence[Piece], starts: Sequence[int], address: int) -> Optional[int]:
    """Which piece covers an address; ``starts`` are theirs, ascending."""
    at = bisect_right(starts, address) - 1
    return at if at >= 0 and address < pieces[at].end else None


def ordered(pieces: int, older: Iterable[tuple[int, int]]) -> Optional[list[int]]:
    """Ranks of the pieces such that of each pair the first is older; by address where nothing is known.

    None where the pairs contradict one another.
    """
    after: list[set[int]] = [set() for _ in range(pieces)]
    waits = [0] * pieces
    for first, second in older:
        if second not in after[first]:
            after[first].add(second)
            waits[second] += 1
    ready = [piece for piece in range(pieces) if not waits[piece]]
    heapq.heapify(ready)
    ranks = [0] * pieces
    placed = 0
    while ready:
        piece = heapq.heappop(ready)
        ranks[piece] = placed
        placed += 1
        for later in after[piece]:
            waits[later] -= 1
            if not waits[later]:
                heapq.heappush(ready, later)
    return ranks if placed == pieces else None
