"""Buffers that grow step by step: made anew a little larger, the old one freed once the new one is there.

``torch.cat([old, new])`` does so, and with it every cache that is not allocated once (``DynamicCache`` of
transformers, ``update`` in cache_utils.py). A recording does not know what a step is; it shows that one stack
allocated a block, that the block before it from the same stack was freed before that stack allocated again,
and that sizes rose by the same amount each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.recording import Recording
from oomdoctor.diagnosis.by_stack import Place, places
from oomdoctor.snapshot.model import ALLOC, FREE_REQUESTED
from oomdoctor.snapshot.stacks import NO_STACK

# Fewer equal steps than these may be chance.
_STEPS = 4


@dataclass(frozen=True)
class Growth:
    """Live buffers of one place that grew by the same amount again and again, up to a moment.

    Attributes:
        place: where they are allocated.
        buffers: how many there are; ``bytes`` what they hold together then.
        step_bytes: by how much all of them grow in a step.
        steps: in how many steps on end the longest of them grew so.
        copy_bytes: the largest old buffer that lived on beside the new one while it was copied.
    """

    place: Place
    buffers: int
    bytes: int
    step_bytes: int
    steps: int
    copy_bytes: int


@dataclass(frozen=True)
class Chain:
    """One such buffer: its newest block.

    Attributes:
        birth: the event that allocated it.
        stack: where.
        size: bytes asked for; ``before`` those of the block that it replaced.
        steps: equal steps on end.
    """

    birth: int
    stack: int
    size: int
    before: int
    steps: int


def chains(recording: Recording, live: NDArray[np.int64], until: int) -> list[Chain]:
    """Of the blocks that are live after ``until`` events, by birth, those that are the newest of a chain.

    Args:
        live: int64[m], births; those older than the trace are passed over.
    """
    events = recording.events
    allocs = np.flatnonzero(events.action[:until] == ALLOC)
    allocs = allocs[events.stack[allocs] != NO_STACK]
    previous = _replaced(recording, allocs, until)
    size = events.entry_size
    found = []
    for birth in live.tolist():
        before = previous.get(birth)
        if before is None:
            continue
        step, steps, at = int(size[birth] - size[before]), 0, birth
        while (earlier := previous.get(at)) is not None and int(size[at] - size[earlier]) == step:
            steps, at = steps + 1, earlier
        if steps >= _STEPS:
            found.append(Chain(birth, int(events.stack[birth]), int(size[birth]), int(size[before]), steps))
    return found


def _replaced(recording: Recording, allocs: NDArray[np.intp], until: int) -> dict[int, int]:
    """Births of blocks, to those of the blocks that each took the place of."""
    events = recording.events
    freed = np.full(len(recording), -1, np.int64)
    frees = np.flatnonzero(events.action[:until] == FREE_REQUESTED)
    born = recording.birth[frees]
    known = (born >= 0) & (born < len(recording))
    freed[born[known]] = frees[known]
    # The allocations of each stack in their order, as one ascending column.
    place = events.stack[allocs].astype(np.int64) * (until + 1)
    order = np.argsort(place + allocs, kind="stable")
    ascending, ordered = (place + allocs)[order], allocs[order]
    old = allocs[freed[allocs] >= 0]
    wanted = events.stack[old].astype(np.int64) * (until + 1) + freed[old]
    # The last of the same stack before the block was freed. Where none came between it is the block itself.
    new = ordered[np.searchsorted(ascending, wanted) - 1]
    size = events.entry_size
    right = (size[new] > size[old]) & (size[new] <= 2 * size[old])
    return dict(zip(new[right].tolist(), old[right].tolist()))


def growths(recording: Recording, found: list[Chain]) -> tuple[Growth, ...]:
    """Chains gathered by place, the most bytes first."""
    stacks = np.array([chain.stack for chain in found], np.int32)
    known, index = places(recording.snapshot.stacks, stacks)
    out = []
    for number, place in enumerate(known):
        mine = [chain for chain, at in zip(found, index.tolist()) if at == number]
        out.append(
            Growth(
                place=place,
                buffers=len(mine),
                bytes=sum(chain.size for chain in mine),
                step_bytes=sum(chain.size - chain.before for chain in mine),
                steps=max(chain.steps for chain in mine),
                copy_bytes=max(chain.before for chain in mine),
            )
        )
    return tuple(sorted(out, key=lambda one: -one.bytes))
