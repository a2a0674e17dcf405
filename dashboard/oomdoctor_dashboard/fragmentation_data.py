"""Fragmentation over a stretch of a recording, and what free blocks a later request can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.fragmentation import Measures, fragmentation, usable
from oomdoctor.allocator.heap_layout import FIRST_PRIVATE
from oomdoctor.allocator.history import History
from oomdoctor.allocator.layout import Layout, layout_of
from oomdoctor.allocator.observed import ObservedSizes, by_pool_and_stream, requests_of
from oomdoctor.allocator.recording import Recording
from oomdoctor.snapshot.model import (
    FREE_COMPLETED,
    FREE_REQUESTED,
    INACTIVE,
    SEGMENT_ALLOC,
    SEGMENT_MAP,
    UNKNOWN,
)

MOST_SAMPLES = 150

# (number of the private pool, of the small pool, rank of the stream); None is the device.
Where = Optional[tuple[int, bool, int]]

MEASURES = (
    "reserved_bytes", "allocated_bytes", "pending_bytes", "internal_bytes", "hole_bytes", "whole_bytes",
    "free_bytes", "largest_free_bytes", "stranded_bytes", "external",
)  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Measures after some numbers of events.

    Attributes:
        events: int64[k], how many have happened, ascending.
        time_us: int64[k], of the last of these; UNKNOWN.
        where: what each row speaks of: the device first, then the compartments by descending reserved bytes.
        values: by name of the measure, float64[len(where), k]: bytes, and ``external`` from 0 to 1. NaN where
            not known.
        is_sampled: whether the heap was looked at; else these are the totals that the replay noted after each
            event, which tell holes from free segments and pools from one another no further.
    """

    events: NDArray[np.int64]
    time_us: NDArray[np.int64]
    where: tuple[Where, ...]
    values: dict[str, NDArray[np.float64]]
    is_sampled: bool

    def of(self, measure: str, where: Where) -> Optional[NDArray[np.float64]]:
        """float64[k]; None where there is no such measure, or no such compartment."""
        if measure not in self.values or where not in self.where:
            return None
        row: NDArray[np.float64] = self.values[measure][self.where.index(where)]
        return row


def window_of(low: Optional[int], high: Optional[int], events: int) -> tuple[int, int]:
    """The states that a view looks at: from after ``low`` events to after ``high``."""
    first = 0 if low is None else max(0, min(int(low), events))
    last = events if high is None else max(0, min(int(high), events))
    return (first, last) if first < last else (0, events)


def sample_events(history: History, low: int, high: int, count: int = MOST_SAMPLES) -> NDArray[np.int64]:
    """Numbers of events to look at: the ends, and of each stretch between the one after which the most was
    reserved and not allocated. All where there are few.
    """
    # After event i it is state i + 1.
    effects = history.effects[low:high]
    unused = effects["reserved_bytes"] - effects["allocated_bytes"]
    unused[_is_under_way(history.recording, low, high)] = -1
    edges = np.linspace(0, high - low, count - 1).astype(np.int64)
    worst = [
        low + 1 + a + int(np.argmax(unused[a:b]))
        for a, b in zip(edges[:-1].tolist(), edges[1:].tolist())
        if a < b
    ]
    return np.unique(np.array([low, *worst, high], np.int64))


def _is_under_way(recording: Recording, low: int, high: int) -> NDArray[np.bool_]:
    """bool[high - low]: after which events the allocator is in the middle of an allocation or a free: a
    segment has come and is not used yet, or the next event completes what this one requested.
    """
    action, birth = recording.events.action[low : high + 1], recording.birth[low : high + 1]
    mask = np.isin(action[: high - low], (SEGMENT_ALLOC, SEGMENT_MAP))
    completed = (action[:-1] == FREE_REQUESTED) & (action[1:] == FREE_COMPLETED) & (birth[:-1] == birth[1:])
    mask[: len(completed)] |= completed
    return mask


def totals_series(history: History, low: int, high: int, count: int = MOST_SAMPLES) -> Series:
    """What the replay noted after each event, of the device; at once."""
    events = sample_events(history, low, high, count)
    events = events[events > 0]
    after = history.effects[events - 1]
    active, allocated = after["active_bytes"], after["allocated_bytes"]
    values = {
        "reserved_bytes": after["reserved_bytes"],
        "allocated_bytes": allocated,
        "pending_bytes": active - allocated,
        "internal_bytes": active - after["requested_bytes"],
        "free_bytes": after["reserved_bytes"] - active,
    }
    return Series(
        events=events,
        time_us=_times(history, events),
        where=(None,),
        values={name: column.astype(np.float64)[None, :] for name, column in values.items()},
        is_sampled=False,
    )


def sampled_series(
    history: History,
    events: NDArray[np.int64],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Series:
    """All measures of the device and its compartments at these moments; some milliseconds each.

    What ``progress`` raises goes through.
    """
    observed = history.observed if len(history.recording) else None
    found: dict[Where, dict[int, Measures]] = {None: {}}
    for at, after in enumerate(events.tolist()):
        progress(at, len(events))
        now = fragmentation(layout_of(history.heap_after(after)), observed)
        found[None][at] = now.device
        for c in now.compartments:
            found.setdefault((c.private_pool, c.is_small, c.stream), {})[at] = c.measures
    progress(len(events), len(events))
    # A compartment that is not there at a moment holds nothing then.
    most = {key: max((m.reserved_bytes for m in one.values()), default=0) for key, one in found.items()}
    others = sorted((key for key in found if key is not None), key=lambda key: -most[key])
    where: tuple[Where, ...] = (None, *others)
    values = {name: np.zeros((len(where), len(events))) for name in MEASURES}
    for row, key in enumerate(where):
        for at, measures in found[key].items():
            for name in MEASURES:
                values[name][row, at] = measure_of(measures, name)
    return Series(events, _times(history, events), where, values, True)


def measure_of(measures: Measures, name: str) -> float:
    """One of ``MEASURES``; ``whole_bytes`` is free memory that lies in no hole."""
    if name == "whole_bytes":
        return measures.free_bytes - measures.hole_bytes
    value = getattr(measures, name)
    return np.nan if value is None else float(value)


def _times(history: History, events: NDArray[np.int64]) -> NDArray[np.int64]:
    times = history.recording.events.time_us
    if not len(times):
        return np.full(len(events), UNKNOWN, np.int64)
    return np.where(events > 0, times[np.maximum(events - 1, 0)], times[0])


# ---- free blocks and the requests that came later ----


@dataclass(frozen=True)
class Demand:
    """The distinct requests of a recording, and which of them each one was.

    Attributes:
        event: int64[k], of each request, ascending.
        kind: int64[k], row of the following.
        pool, stream, size: int64[d], as in :class:`oomdoctor.allocator.observed.Requests`.
    """

    event: NDArray[np.int64]
    kind: NDArray[np.int64]
    pool: NDArray[np.int64]
    stream: NDArray[np.int64]
    size: NDArray[np.int64]

    def counts(self, low: int, high: int) -> NDArray[np.int64]:
        """int64[d]: how often each was asked for by the events from ``low`` to before ``high``."""
        first, last = np.searchsorted(self.event, [low, high])
        return np.bincount(self.kind[first:last], minlength=len(self.size))

    def observed(self, counts: NDArray[np.int64]) -> ObservedSizes:
        """The sizes that occur, by pool and stream."""
        there = np.flatnonzero(counts)
        pairs = by_pool_and_stream(self.pool[there], self.stream[there])
        return {key: np.sort(self.size[there[mine]]) for key, mine in pairs.items()}


def demand_of(history: History) -> Demand:
    """The requests of a recording, made ready to be counted over any stretch."""
    asked = requests_of(history.recording, history.settings, history.torch)
    kinds = np.empty(len(asked.size), np.int64)
    pools, streams, sizes, made = [], [], [], 0
    for (pool, stream), mine in by_pool_and_stream(asked.pool, asked.stream).items():
        distinct, kind = np.unique(asked.size[mine], return_inverse=True)
        kinds[mine] = made + kind
        made += len(distinct)
        pools.append(np.full(len(distinct), pool, np.int64))
        streams.append(np.full(len(distinct), stream, np.int64))
        sizes.append(distinct)
    none = [np.empty(0, np.int64)]
    return Demand(
        event=asked.event,
        kind=kinds,
        pool=np.concatenate(pools or none),
        stream=np.concatenate(streams or none),
        size=np.concatenate(sizes or none),
    )


# What becomes of a free block, the best first.
LATER, EARLIER, RELEASABLE, STRANDED = range(4)
FATES = (
    "a later request fits",
    "only earlier requests fit",
    "none fits, can be given back",
    "stranded: none fits",
)


@dataclass(frozen=True)
class Classes:
    """Free blocks and requests by size class: a class holds sizes from a power of two to before the next.

    Attributes:
        lower: int64[b], the smallest size of each class, bytes.
        free_bytes, free_count: int64[4, b], by ``FATES``. A block that is given back in part counts among the
            stranded, where the rest of it is.
        asked_bytes, asked_count: int64[b], the requests that came later.
        has_requests: whether the recording has any.
    """

    lower: NDArray[np.int64]
    free_bytes: NDArray[np.int64]
    free_count: NDArray[np.int64]
    asked_bytes: NDArray[np.int64]
    asked_count: NDArray[np.int64]
    has_requests: bool


def classes_of(layout: Layout, demand: Demand, after: int, until: int, where: Where = None) -> Classes:
    """The free blocks of a layout against the requests that came after it.

    Args:
        after: how many events have happened.
        until: requests of the events before this one count as later.
        where: the compartment; None for the device.
    """
    blocks = layout.blocks
    counts = demand.counts(after, until)
    everything = np.ones(len(demand.size), np.int64)
    rows = np.flatnonzero((layout.state == INACTIVE) & _in_compartment(layout, where))
    size = blocks["size"][rows]
    fits_later = usable(layout, demand.observed(counts))[rows]
    fits_ever = usable(layout, demand.observed(everything))[rows]
    back = np.where(fits_ever, 0, layout.releasable[rows])
    asked = np.flatnonzero(counts)
    asked = asked[_demand_in(demand, where)[asked]]
    bits = _class_of(np.concatenate([size, demand.size[asked]]))
    if not len(bits):
        none = np.empty(0, np.int64)
        return Classes(none, np.empty((4, 0), np.int64), np.empty((4, 0), np.int64), none, none, False)
    first, many = int(bits.min()), int(bits.max() - bits.min()) + 1
    of_block, of_request = bits[: len(size)] - first, bits[len(size) :] - first
    fate = np.where(
        fits_later, LATER, np.where(fits_ever, EARLIER, np.where(back < size, STRANDED, RELEASABLE))
    )
    free_bytes, free_count = np.zeros((4, many), np.int64), np.zeros((4, many), np.int64)
    np.add.at(free_count, (fate, of_block), 1)
    np.add.at(free_bytes, (fate, of_block), size - np.where(fate == STRANDED, back, 0))
    partly = fate == STRANDED
    np.add.at(free_bytes, (RELEASABLE, of_block[partly]), back[partly])
    asked_count, asked_bytes = np.zeros(many, np.int64), np.zeros(many, np.int64)
    np.add.at(asked_count, of_request, counts[asked])
    np.add.at(asked_bytes, of_request, counts[asked] * demand.size[asked])
    return Classes(
        lower=np.int64(1) << np.arange(first, first + many, dtype=np.int64),
        free_bytes=free_bytes,
        free_count=free_count,
        asked_bytes=asked_bytes,
        asked_count=asked_count,
        has_requests=bool(len(demand.size)),
    )


def _class_of(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[m]: the power of two below; exact up to 2^53."""
    return np.frexp(np.maximum(sizes, 1).astype(np.float64))[1].astype(np.int64) - 1


def _in_compartment(layout: Layout, where: Where) -> NDArray[np.bool_]:
    if where is None:
        return np.ones(len(layout.blocks), np.bool_)
    private, is_small, stream = where
    mask: NDArray[np.bool_] = (
        (layout.private_pool == private) & (layout.is_small == is_small) & (layout.blocks["stream"] == stream)
    )
    return mask


def _demand_in(demand: Demand, where: Where) -> NDArray[np.bool_]:
    if where is None:
        return np.ones(len(demand.size), np.bool_)
    private, is_small, stream = where
    row = (FIRST_PRIVATE + 2 * (private - 1) if private else 0) + (not is_small)
    mask: NDArray[np.bool_] = (demand.pool == row) & (demand.stream == stream)
    return mask


# ---- names in an address ----


def where_key(where: Where) -> str:
    """``device``, or ``0:large:1``."""
    if where is None:
        return "device"
    private, is_small, stream = where
    return f"{private}:{'small' if is_small else 'large'}:{stream}"


def where_of(text: Any) -> Where:
    """What :func:`where_key` wrote; the device for anything else."""
    parts: Sequence[str] = str(text or "").split(":")
    if len(parts) != 3 or parts[1] not in ("small", "large"):
        return None
    if not (parts[0].isdigit() and parts[2].isdigit() and len(parts[0]) < 9 and len(parts[2]) < 9):
        return None
    return int(parts[0]), parts[1] == "small", int(parts[2])
