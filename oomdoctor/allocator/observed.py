"""Which sizes a recording asked for, by the pool and stream that have to serve them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.constants import SMALL_SIZE
from oomdoctor.allocator.heap_layout import FIRST_PRIVATE, LARGE_BLOCKS, SMALL_BLOCKS
from oomdoctor.allocator.recording import Recording
from oomdoctor.allocator.rounding import rounded_sizes
from oomdoctor.allocator.rules import rules_of
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.snapshot.model import ALLOC, OOM

# Rounded sizes in bytes, ascending, by row of ``Heap.pools`` and rank of the stream.
ObservedSizes = dict[tuple[int, int], NDArray[np.int64]]


@dataclass(frozen=True)
class Requests:
    """All that a recording asked for, in order; requests that failed count.

    Attributes:
        event: int64[k], number of the event.
        size: int64[k], bytes, rounded as the allocator rounds them.
        pool: int64[k], row of ``Heap.pools``.
        stream: int64[k], rank of the handle.
    """

    event: NDArray[np.int64]
    size: NDArray[np.int64]
    pool: NDArray[np.int64]
    stream: NDArray[np.int64]


def requests_of(recording: Recording, settings: Settings, torch: TorchVersion) -> Requests:
    """What was asked for, and of which pool and stream."""
    events = recording.events
    asked = np.flatnonzero((events.action == ALLOC) | (events.action == OOM))
    sizes = events.entry_size[asked].copy()
    allocs = events.action[asked] == ALLOC  # an oom states the rounded size
    sizes[allocs] = rounded_sizes(
        sizes[allocs],
        settings.roundup_power2_divisions,
        unrounded_division_of_one=rules_of(torch).unrounded_division_of_one,
    )
    is_large = (sizes > SMALL_SIZE).astype(np.int64)
    private = recording.private_pool[asked].astype(np.int64)
    pool = np.where(private > 0, FIRST_PRIVATE + 2 * (private - 1), SMALL_BLOCKS) + is_large * LARGE_BLOCKS
    return Requests(asked.astype(np.int64), sizes, pool, recording.stream[asked])


def observed_sizes(recording: Recording, settings: Settings, torch: TorchVersion) -> ObservedSizes:
    """The distinct sizes that were asked for in the whole recording, rounded as the allocator rounds them.

    Requests that failed count. Before and after the moment looked at alike: a program repeats itself.
    """
    asked = requests_of(recording, settings, torch)
    return {
        key: np.unique(asked.size[mine]) for key, mine in by_pool_and_stream(asked.pool, asked.stream).items()
    }


def by_pool_and_stream(
    pool: NDArray[np.int64], stream: NDArray[np.int64]
) -> dict[tuple[int, int], NDArray[np.intp]]:
    """The rows of each pair that occurs, in the order of the pairs."""
    if not len(pool):
        return {}
    streams = int(stream.max()) + 1
    pair = pool * streams + stream
    order = np.argsort(pair, kind="stable")
    pairs, starts = np.unique(pair[order], return_index=True)
    keys = [(int(one) // streams, int(one) % streams) for one in pairs]
    return dict(zip(keys, np.split(order, starts[1:])))
