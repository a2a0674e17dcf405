"""What the recorded requests would have come to under other settings, another capacity, another release."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.configure import Conditions, config_of
from oomdoctor.allocator.heap_layout import CAUSE_EMPTY_CACHE, Heap, grown
from oomdoctor.allocator.history import History
from oomdoctor.allocator.initial import PENDING
from oomdoctor.allocator.recording import capturing_pools
from oomdoctor.allocator.releases import count_retries, deferred_completions
from oomdoctor.allocator.requests import (
    OP_ALLOC,
    OP_EMPTY_CACHE,
    OP_EMPTY_POOL,
    OP_FAILED_ALLOC,
    OP_FREE,
    OP_FREE_COMPLETED,
    OP_FREE_REQUESTED,
    OP_POOL_FREEABLE,
    TOTALS,
    Requests,
    run_requests,
)
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.start import block_rows_of_births, started_heap
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.snapshot.model import (
    ALLOC,
    FREE_COMPLETED,
    FREE_REQUESTED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
)


@dataclass(frozen=True)
class FirstOom:
    """Where memory ran out first.

    Attributes:
        alloc_index: which allocation, counted from 0.
        event: which event of the recording.
        requested_bytes: what was asked for; after rounding, where the recording ran out of memory there as
            well.
    """

    alloc_index: int
    event: int
    requested_bytes: int


@dataclass(frozen=True)
class Outcome:
    """The figures of a replay, in bytes or counts, as ``torch.cuda.memory_stats`` has them.

    ``peak_`` is over all of it, its start included. Segments are those of cudaMalloc; ``num_device_`` counts
    the parts of expandable segments that were mapped and unmapped as well.
    """

    peak_allocated_bytes: int
    peak_active_bytes: int
    peak_requested_bytes: int
    peak_reserved_bytes: int
    peak_inactive_split_bytes: int
    final_allocated_bytes: int
    final_reserved_bytes: int
    num_alloc_retries: int
    num_ooms: int
    segments_allocated: int
    segments_freed: int
    num_device_alloc: int
    num_device_free: int
    first_oom: Optional[FirstOom]


@dataclass(frozen=True)
class Replay:
    """A replay under chosen conditions.

    Attributes:
        outcome: its figures.
        requests: what was replayed.
        totals: TOTALS[m] after each act; rows after an OOM stay zero. Empty where not asked for.
        done: how many acts were replayed.
        heap: the allocator at the end.
        makes_up_addresses: whether segments came that the recording does not have; nobody knows where those
            would have been.
    """

    outcome: Outcome
    requests: Requests
    totals: NDArray[Any]
    done: int
    heap: Heap
    makes_up_addresses: bool = False


def requests_of(history: History, torch: Optional[TorchVersion] = None) -> Requests:
    """What the program asked for, without what the allocator did of itself."""
    recording = history.recording
    events = recording.events
    action = events.action
    n = len(action)
    deferred = deferred_completions(recording)
    op = np.full(n, 255, np.uint8)
    op[action == ALLOC] = OP_ALLOC
    op[action == OOM] = OP_FAILED_ALLOC
    op[action == FREE_REQUESTED] = OP_FREE_REQUESTED
    op[deferred] = OP_FREE_COMPLETED
    at_once = np.flatnonzero((action == FREE_COMPLETED) & ~deferred) - 1
    op[at_once] = OP_FREE
    # Blocks older than the trace whose free was asked for before it are pending; others are freed here.
    lone = np.flatnonzero(deferred)
    asked = set(recording.birth[action == FREE_REQUESTED].tolist())
    pending = set(history.initial.blocks.birth[history.initial.blocks.state == PENDING].tolist())
    for i in lone.tolist():
        birth = int(recording.birth[i])
        if birth not in asked and birth not in pending:
            op[i] = OP_FREE
    kept = np.flatnonzero(op != 255)
    extra_ops: list[tuple[int, int, int]] = []
    for burst in history.bursts:
        if burst.cause == CAUSE_EMPTY_CACHE:
            released = np.flatnonzero(
                (action[burst.start : burst.stop] == SEGMENT_FREE)
                | (action[burst.start : burst.stop] == SEGMENT_UNMAP)
            )
            at = burst.start + int(released[0])
            extra_ops += [(at, OP_POOL_FREEABLE, pool) for pool in burst.private_pools]
            if burst.only_pools:
                extra_ops += [(at, OP_EMPTY_POOL, pool) for pool in burst.private_pools]
            else:
                extra_ops.append((at, OP_EMPTY_CACHE, 0))
    event = np.concatenate([kept, np.array([at for at, _, _ in extra_ops], np.int64)]).astype(np.int64)
    ops = np.concatenate([op[kept], np.array([code for _, code, _ in extra_ops], np.uint8)])
    pool = np.concatenate(
        [history.effects["private_pool"][kept], np.array([p for _, _, p in extra_ops], np.int64)]
    )
    order = np.argsort(event, kind="stable")
    event, ops, pool = event[order], ops[order], pool[order]
    return Requests(
        op=ops,
        event=event,
        birth=recording.birth[event],
        requested_size=events.entry_size[event],
        stream=recording.stream[event],
        private_pool=pool.astype(np.int64),
        capturing=capturing_pools(recording, torch or history.torch)[pool],
    )


def addresses_fall(history: History) -> bool:
    """Whether the recorded segments came at falling addresses, more often than not."""
    events = history.recording.events
    steps = np.diff(events.address[events.action == SEGMENT_ALLOC])
    return bool((steps < 0).sum() > (steps > 0).sum())


def recorded_outcome(history: History) -> Outcome:
    """The figures of the recording itself, from its replay event by event."""
    action = history.recording.events.action
    ooms = np.flatnonzero(action == OOM)
    first = None
    if len(ooms):
        at = int(ooms[0])
        first = FirstOom(
            alloc_index=int((action[:at] == ALLOC).sum()),
            event=at,
            requested_bytes=int(history.recording.events.entry_size[at]),
        )
    return Outcome(
        **_peaks(history.last),
        num_alloc_retries=count_retries(history.recording, history.bursts, history.torch),
        num_ooms=len(ooms),
        segments_allocated=int((action == SEGMENT_ALLOC).sum()),
        segments_freed=int((action == SEGMENT_FREE).sum()),
        num_device_alloc=int(((action == SEGMENT_ALLOC) | (action == SEGMENT_MAP)).sum()),
        num_device_free=int(((action == SEGMENT_FREE) | (action == SEGMENT_UNMAP)).sum()),
        first_oom=first,
    )


def _peaks(heap: Heap) -> dict[str, int]:
    stats = heap.stats[0]
    return {
        "peak_allocated_bytes": int(stats["peak_allocated_bytes"]),
        "peak_active_bytes": int(stats["peak_active_bytes"]),
        "peak_requested_bytes": int(stats["peak_requested_bytes"]),
        "peak_reserved_bytes": int(stats["peak_reserved_bytes"]),
        "peak_inactive_split_bytes": int(stats["peak_inactive_split_bytes"]),
        "final_allocated_bytes": int(stats["allocated_bytes"]),
        "final_reserved_bytes": int(stats["reserved_bytes"]),
    }


def replay(
    history: History,
    settings: Settings,
    conditions: Conditions,
    torch: Optional[TorchVersion] = None,
    *,
    requests: Optional[Requests] = None,
    with_totals: bool = False,
    writes_log: bool = False,
    stops_at_oom: bool = True,
) -> Replay:
    """The requests of a recording under other conditions, from the state that the recording began in.

    Args:
        torch: the release whose rules hold; by default the recorded one.
        requests: those of :func:`requests_of`, where many replays share them.
        with_totals: keep the totals after each act.
        writes_log: keep the segment events, in ``heap.log``.
    """
    version = torch or history.torch
    if requests is None:
        requests = requests_of(history, version)
    if conditions.addresses_fall is None:
        conditions = dataclasses.replace(conditions, addresses_fall=addresses_fall(history))
    config = config_of(settings, version, conditions, writes_log=writes_log)
    heap = started_heap(config, len(history.recording.pools), history.initial, history.ranks)
    heap = heap._replace(recorded_segments=history.recorded_segments)
    if conditions.addresses_fall:
        heap.stats["next_address"] = 0
    first_made_up = int(heap.stats["next_address"][0])
    block_of = block_rows_of_births(heap, history.births)
    totals = np.zeros(requests.acts if with_totals else 0, TOTALS)
    at, failed = 0, False
    while True:
        at, failed = run_requests(heap, requests, block_of, totals, at, stops_at_oom)
        if failed or at >= requests.acts:
            break
        heap = grown(heap)
    first = None
    if failed:
        first = FirstOom(
            alloc_index=int((requests.op[:at] == OP_ALLOC).sum()),
            event=int(requests.event[at]),
            requested_bytes=int(requests.requested_size[at]),
        )
    stats = heap.stats[0]
    return Replay(
        outcome=Outcome(
            **_peaks(heap),
            num_alloc_retries=int(stats["num_alloc_retries"]),
            num_ooms=int(stats["num_ooms"]),
            segments_allocated=int(stats["segments_allocated"]),
            segments_freed=int(stats["segments_freed"]),
            num_device_alloc=int(stats["num_device_alloc"]),
            num_device_free=int(stats["num_device_free"]),
            first_oom=first,
        ),
        requests=requests,
        totals=totals,
        done=at,
        heap=heap,
        makes_up_addresses=int(stats["next_address"]) != first_made_up,
    )
