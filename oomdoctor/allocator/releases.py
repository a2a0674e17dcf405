"""Why segments went: the allocator's own retry or garbage collection, or the program's ``empty_cache()``.

The trace does not say. A release within a malloc is followed at once by what the malloc came to: a segment,
or an oom. So may be an ``empty_cache()`` before a large request; the call stacks tell them apart, since both
carry the stack of whoever asked (``release_block`` of CUDACachingAllocator.cpp passes on the context of the
malloc or of the ``emptyCache``). Without stacks the memory reserved does: a retry takes an allocation that
found no room, and room for as much was found elsewhere in the recording if this much was ever reserved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.constants import UNLIMITED
from oomdoctor.allocator.heap_layout import (
    CAUSE_EMPTY_CACHE,
    CAUSE_GARBAGE_COLLECTION,
    CAUSE_NEW,
    CAUSE_NONE,
    CAUSE_RELEASE_AVAILABLE,
    CAUSE_RETRY,
)
from oomdoctor.allocator.recording import Recording, capturing_pools
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.snapshot.model import (
    FREE_COMPLETED,
    FREE_REQUESTED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
)
from oomdoctor.snapshot.stacks import NO_STACK


@dataclass(frozen=True)
class Burst:
    """Releases that happened as one: events ``start`` to ``stop``, some of them perhaps completions of frees.

    Attributes:
        cause: one of the CAUSE_ numbers of :mod:`oomdoctor.allocator.heap_layout`.
        private_pools: numbers of the private pools that gave back memory.
        only_pools: whether no other pool was emptied: the end of a ``MemPool`` empties that one.
    """

    start: int
    stop: int
    cause: int
    private_pools: tuple[int, ...]
    only_pools: bool


def deferred_completions(recording: Recording) -> NDArray[np.bool_]:
    """Which free_completed events do not follow their free_requested: another stream was waited for."""
    events = recording.events
    completed: NDArray[np.bool_] = events.action == FREE_COMPLETED
    at_once = np.zeros(len(events), np.bool_)
    at_once[1:] = (events.action[:-1] == FREE_REQUESTED) & (recording.birth[:-1] == recording.birth[1:])
    return completed & ~at_once


def release_bursts(
    recording: Recording,
    settings: Settings,
    reserved_bytes: NDArray[np.int64],
    private_pool: NDArray[np.int64],
    request: NDArray[np.int64],
) -> list[Burst]:
    """The releases of a recording and why each happened.

    Args:
        settings: the recorded ones.
        reserved_bytes: int64[n], reserved after each event.
        private_pool: int64[n], of each event.
        request: int64[n], the alloc or oom that follows each event; -1 after the last.
    """
    action = recording.events.action
    releases = (action == SEGMENT_FREE) | (action == SEGMENT_UNMAP)
    if not releases.any():
        return []
    joined = releases | deferred_completions(recording)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], joined, [False]]).astype(np.int8)))
    asked = _stacks_of_empty_cache(recording)
    most = int(reserved_bytes.max(initial=0))
    bursts = []
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist()):
        of = np.flatnonzero(releases[start:stop]) + start
        if not len(of):
            continue
        before = int(reserved_bytes[of[0]] + recording.events.entry_size[of[0]])
        cause = _cause(recording, settings, of, stop, before, most, asked, request)
        pools = np.unique(private_pool[of])
        stack = int(recording.events.stack[of[0]])
        only_pools = bool((pools > 0).all()) and not (stack != NO_STACK and asked[stack])
        bursts.append(Burst(start, stop, cause, tuple(pools[pools > 0].tolist()), only_pools))
    return bursts


def _stacks_of_empty_cache(recording: Recording) -> NDArray[np.bool_]:
    """bool[stacks]: which stacks go through ``torch.cuda.empty_cache`` (or the C++ function under it)."""
    stacks = recording.snapshot.stacks
    named = np.array(
        [frame.name == "empty_cache" or "emptyCache" in frame.name for frame in stacks.frames], np.bool_
    )
    out = np.zeros(len(stacks), np.bool_)
    if named.any():
        hits = np.flatnonzero(named[stacks.flat])
        out[np.searchsorted(stacks.starts, hits, side="right") - 1] = True
    return out


def _cause(
    recording: Recording,
    settings: Settings,
    releases: NDArray[np.intp],
    stop: int,
    reserved_before: int,
    most_reserved: int,
    asked: NDArray[np.bool_],
    request: NDArray[np.int64],
) -> int:
    events = recording.events
    following = int(events.action[stop]) if stop < len(events) else -1
    if following not in (SEGMENT_ALLOC, SEGMENT_MAP, OOM):
        return CAUSE_EMPTY_CACHE
    stack = int(events.stack[releases[0]])
    if stack != NO_STACK:
        if asked[stack]:
            return CAUSE_EMPTY_CACHE
        if stack not in (int(events.stack[stop]), int(events.stack[request[stop]])):
            return CAUSE_EMPTY_CACHE
    elif following != OOM and reserved_before + int(events.entry_size[stop]) <= most_reserved:
        return CAUSE_EMPTY_CACHE
    sizes = events.entry_size[releases]
    # Garbage collection leaves expandable segments alone.
    unmapped = bool((events.action[releases] == SEGMENT_UNMAP).any())
    collects = settings.garbage_collection_threshold > 0 and not unmapped
    if collects and following != OOM and not _reaches_small(sizes):
        return CAUSE_GARBAGE_COLLECTION
    if settings.max_split_size != UNLIMITED and bool((sizes >= settings.max_split_size).all()):
        return CAUSE_RELEASE_AVAILABLE
    return CAUSE_RETRY


def _reaches_small(sizes: NDArray[np.int64]) -> bool:
    """Garbage collection looks at the large pool only; a retry releases small segments as well."""
    return bool((sizes <= 2 << 20).any())


def segment_causes(recording: Recording, bursts: list[Burst]) -> NDArray[np.uint8]:
    """For each event why a segment came or went; CAUSE_NONE for other events."""
    action = recording.events.action
    out = np.full(len(action), CAUSE_NONE, np.uint8)
    out[(action == SEGMENT_ALLOC) | (action == SEGMENT_MAP)] = CAUSE_NEW
    for burst in bursts:
        inside = slice(burst.start, burst.stop)
        released = (action[inside] == SEGMENT_FREE) | (action[inside] == SEGMENT_UNMAP)
        out[inside][released] = burst.cause
        if burst.cause in (CAUSE_RETRY, CAUSE_RELEASE_AVAILABLE):
            at = burst.stop
            while at < len(action) and action[at] in (SEGMENT_ALLOC, SEGMENT_MAP):
                out[at] = burst.cause
                at += 1
    return out


def count_retries(recording: Recording, bursts: list[Burst], torch: TorchVersion) -> int:
    """``num_alloc_retries`` as far as the trace shows: releases in a malloc, and one before every oom."""
    action = recording.events.action
    helped = sum(
        burst.cause == CAUSE_RETRY and burst.stop < len(action) and action[burst.stop] != OOM
        for burst in bursts
    )
    # An allocation for a capture fails without a retry.
    failed = recording.private_pool[action == OOM]
    return int(helped + (capturing_pools(recording, torch)[failed] == 0).sum())
