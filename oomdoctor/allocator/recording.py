"""One device's trace, made ready for replay: which block each event speaks of, of which pool and stream.

A trace names blocks by address alone, and an address is used again and again. Here every block gets a number
of its own, its *birth*: the number of the event that allocated it, or, for blocks older than the recording,
one after those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.rules import rules_of
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.snapshot.model import (
    ALLOC,
    ANNOTATE,
    FREE_COMPLETED,
    FREE_REQUESTED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SNAPSHOT,
    UNKNOWN,
    UNKNOWN_ACTION,
    Events,
    Snapshot,
)

DEFAULT_POOL = (0, 0)
# Beyond any device, and far from where sums would overflow.
_MOST = 1 << 50
_HIGHEST = 1 << 58


@dataclass(frozen=True)
class Recording:
    """The trace of a device with what can be told of each event before replaying.

    Attributes:
        snapshot, device: where it is from.
        events: oldest first.
        streams: uint64[s], the stream handles that occur, ascending; ranks refer to it.
        stream: int64[n], rank of each event's stream.
        pools: the ids of the private pools that occur; pool p of the replay is ``pools[p - 1]``.
        private_pool: int64[n], 0 for the default pools.
        pool_known: bool[n], whether the recording tells that, or the default was assumed.
        birth: int64[n], see the module; -1 for events that speak of no block.
        older: int64[k], addresses of the blocks that were there before and are freed in the trace; block k
            has birth n + k.
        notes: what is strange about it.
    """

    snapshot: Snapshot
    device: int
    events: Events
    streams: NDArray[np.uint64]
    stream: NDArray[np.int64]
    pools: tuple[tuple[int, int], ...]
    private_pool: NDArray[np.int64]
    pool_known: NDArray[np.bool_]
    birth: NDArray[np.int64]
    older: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.events)

    def final_segments(self) -> NDArray[np.intp]:
        """Rows of this device's segments in the snapshot."""
        return np.flatnonzero(self.snapshot.segments.device == self.device)

    def stream_rank(self, handles: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.streams, handles.view(np.uint64)).astype(np.int64)

    def pool_id(self, private_pool: int) -> tuple[int, int]:
        """The id of a private pool; (0, 0) of the default pools.

        Before torch 2.12 a recording may show that there was a private pool without naming it
        (``infers_pools`` of the heap): its number is one beyond those named, its id (UNKNOWN, UNKNOWN).
        """
        if not private_pool:
            return DEFAULT_POOL
        named = private_pool <= len(self.pools)
        return self.pools[private_pool - 1] if named else (UNKNOWN, UNKNOWN)

    def pool_name(self, private_pool: int) -> str:
        """``private 0.2``; ``private`` alone where its id is not known; empty for the default pools."""
        first, second = self.pool_id(private_pool)
        if not private_pool:
            return ""
        return "private" if first == UNKNOWN else f"private {first}.{second}"

    def pool_number(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of private pools from their ids, int64[m, 2]."""
        out = np.zeros(len(ids), np.int64)
        for number, (first, second) in enumerate(self.pools, start=1):
            out[(ids[:, 0] == first) & (ids[:, 1] == second)] = number
        return out


def recording_of(snapshot: Snapshot, device: int) -> Recording:
    """Make the trace of a device ready."""
    notes: list[str] = []
    events = snapshot.traces[device] if device < len(snapshot.traces) else _no_events()
    events = _possible(_in_time_order(events, notes), notes)
    rows = np.flatnonzero(snapshot.segments.device == device)
    handles = np.concatenate([events.stream, snapshot.segments.stream[rows]]).view(np.uint64)
    streams = np.unique(handles)
    birth, older = _births(events)
    recording = Recording(
        snapshot=snapshot,
        device=device,
        events=events,
        streams=streams,
        stream=np.searchsorted(streams, events.stream.view(np.uint64)).astype(np.int64),
        pools=_private_pools(events, snapshot.segments.pool[rows]),
        private_pool=np.zeros(len(events), np.int64),
        pool_known=np.zeros(len(events), np.bool_),
        birth=birth,
        older=older,
        notes=tuple(notes),
    )
    private_pool, pool_known = _pools_of_events(recording)
    return replace(recording, private_pool=private_pool, pool_known=pool_known)


def _no_events() -> Events:
    def empty(dtype: Any) -> NDArray[Any]:
        return np.empty(0, dtype)

    return Events(
        action=empty(np.uint8), address=empty(np.int64), entry_size=empty(np.int64),
        stream=empty(np.int64), time_us=empty(np.int64), stack=empty(np.int32),
        pool=np.empty((0, 2), np.int64), label=empty(np.int32), compile_context=empty(np.int32),
    )  # fmt: skip


def _in_time_order(events: Events, notes: list[str]) -> Events:
    """Lowering max_entries without clearing leaves stale entries behind newer ones in the ring."""
    known = events.time_us != UNKNOWN
    if not len(events) or not known.all() or not (np.diff(events.time_us) < 0).any():
        return events
    notes.append("the trace was out of order; its events were sorted by time")
    order = np.argsort(events.time_us, kind="stable")
    return _cause_before_effect(events.take(order))


def _cause_before_effect(events: Events) -> Events:
    """Of two events of one time and address that changed places: a free is asked for before it completes, a
    segment comes before the block in it.
    """
    first, second = events.action[:-1], events.action[1:]
    alike = (events.time_us[:-1] == events.time_us[1:]) & (events.address[:-1] == events.address[1:])
    wrong = (first == FREE_COMPLETED) & (second == FREE_REQUESTED)
    wrong |= (first == ALLOC) & ((second == SEGMENT_ALLOC) | (second == SEGMENT_MAP))
    at = np.flatnonzero(alike & wrong)
    order = np.arange(len(events))
    order[at], order[at + 1] = at + 1, at
    return events.take(order)


def _possible(events: Events, notes: list[str]) -> Events:
    """Events of sizes and addresses that no device has are taken for none."""
    concerned = ~np.isin(events.action, (SNAPSHOT, OOM, ANNOTATE, UNKNOWN_ACTION))
    wrong = concerned & ((events.entry_size < 0) | (events.entry_size > _MOST) | (events.address < 0))
    wrong |= concerned & (events.address > _HIGHEST)
    wrong |= (events.action == OOM) & ((events.entry_size < 0) | (events.entry_size > _MOST))
    if not wrong.any():
        return events
    many = "1 event has" if wrong.sum() == 1 else f"{int(wrong.sum()):,} events have"
    notes.append(f"{many} sizes or addresses that cannot be and were left out")
    return replace(events, action=np.where(wrong, UNKNOWN_ACTION, events.action).astype(np.uint8))


def _births(events: Events) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each alloc and free the birth of its block; and where blocks older than the trace lie."""
    n = len(events)
    birth = np.full(n, -1, np.int64)
    action = events.action
    concerned = np.flatnonzero((action == ALLOC) | (action == FREE_REQUESTED) | (action == FREE_COMPLETED))
    order = concerned[np.argsort(events.address[concerned], kind="stable")]
    if not len(order):
        return birth, np.empty(0, np.int64)
    address = events.address[order]
    position = np.arange(len(order))
    group_starts = np.concatenate([[True], address[1:] != address[:-1]])
    group_start = np.maximum.accumulate(np.where(group_starts, position, 0))
    is_alloc = action[order] == ALLOC
    last_alloc = np.maximum.accumulate(np.where(is_alloc, position, -1))
    known = last_alloc >= group_start
    older = address[group_starts & ~is_alloc]
    older_number = np.cumsum(group_starts & ~is_alloc) - 1
    birth[order] = np.where(known, order[last_alloc], n + older_number)
    return birth, older


def _private_pools(events: Events, segment_pools: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    pairs = np.concatenate([events.pool, segment_pools])
    # Most events have the pool of the one before: sorting them all would take longer than the replay.
    differs = np.append(True, (pairs[1:] != pairs[:-1]).any(axis=1))[: len(pairs)]
    pairs = np.unique(pairs[differs], axis=0)
    unknown = (UNKNOWN, UNKNOWN)
    return tuple(
        (int(first), int(second))
        for first, second in pairs
        if (first, second) != DEFAULT_POOL and (first, second) != unknown
    )


def _pools_of_events(recording: Recording) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The private pool of each event, and whether it is known.

    Stated since 2.12. Before, the final segments tell it of what lies in them, from when each came.
    """
    events = recording.events
    out = recording.pool_number(events.pool)
    known = events.pool[:, 0] != UNKNOWN
    if known.all():
        return out, known
    segments = recording.snapshot.segments
    rows = recording.final_segments()
    rows = rows[np.argsort(segments.address[rows], kind="stable")]
    if not len(rows):
        return out, known
    starts = segments.address[rows]
    at = np.searchsorted(starts, events.address, side="right") - 1
    inside = (at >= 0) & (events.address < (starts + segments.total_size[rows])[at]) & ~known
    # What lay there before the segment came tells nothing of it.
    came = np.full(len(rows), -1, np.int64)
    comes_or_goes = np.flatnonzero(inside & np.isin(events.action, (SEGMENT_ALLOC, SEGMENT_FREE)))
    np.maximum.at(came, at[comes_or_goes], comes_or_goes)
    inside &= np.arange(len(events)) >= came[at]
    out[inside] = recording.pool_number(segments.pool[rows])[at[inside]]
    return out, known | inside


def capturing_pools(recording: Recording, torch: TorchVersion) -> NDArray[np.uint8]:
    """uint8[2 + private pools]: whether a retry for a request to this pool releases nothing.

    So it is while a graph is being captured; before 2.13 whenever any private pool takes requests (pull
    181830). A pool that a capture made for itself has an id of its own kind, (number, 0). One made beforehand
    (``graph_pool_handle``, ``MemPool``) serves both captures and ``use_mem_pool``; but the default stream
    cannot be captured (cudaErrorStreamCaptureUnsupported), so a pool with a request on it is no graph's.
    """
    rules = rules_of(torch)
    out = np.zeros(2 + len(recording.pools), np.uint8)
    out[-1] = 1  # for one that the recording shows without naming it
    on_default = np.zeros(2 + len(recording.pools), np.bool_)
    on_default[recording.private_pool[recording.events.stream == 0]] = True
    for number, (_, second) in enumerate(recording.pools, start=1):
        out[number] = rules.routing_keeps_cache or second == 0 or not on_default[number]
    return out
