"""What pins segments that have holes.

A segment goes back to the device only when every block in it is free; one live block keeps all the holes of
its segment from being given back or joined (``release_blocks`` frees unsplit blocks only,
c10/cuda/CUDACachingAllocator.cpp). An expandable segment can give back the middle of a hole
(``unmap_block``, whole handles); there a hole is held by the live blocks on either side of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.diagnosis.by_stack import Place, places
from oomdoctor.diagnosis.state import DeviceState
from oomdoctor.snapshot.model import INACTIVE
from oomdoctor.snapshot.stacks import Stacks


@dataclass(frozen=True)
class Pin:
    """Live blocks of one place that stand in segments with holes.

    Attributes:
        place: where they were allocated.
        count, bytes: the blocks, and their own bytes.
        segments: how many segments with holes they stand in.
        keeps_open: bytes of holes that they hold open. Several places may hold the same hole, so figures of
            different places do not add up.
        alone: bytes of holes that nothing else holds open: what moving these blocks alone would join.
    """

    place: Place
    count: int
    bytes: int
    segments: int
    keeps_open: int
    alone: int


@dataclass(frozen=True)
class BlockColumns:
    """Blocks in the order of their segments and, within one, of addresses, whatever table they are from.

    Attributes:
        segment: int[n], from 0 to ``segments`` - 1.
        block_size: int64[n], bytes.
        stack: int32[n], where it was allocated.
        live, hole: bool[n]; a hole is a free block in a segment that holds a live one.
        expandable: bool[n], of an expandable segment.
        segments: how many.
    """

    segment: NDArray[Any]
    block_size: NDArray[np.int64]
    stack: NDArray[np.int32]
    live: NDArray[np.bool_]
    hole: NDArray[np.bool_]
    expandable: NDArray[np.bool_]
    segments: int


def pins(state: DeviceState) -> list[Pin]:
    """Who keeps holes open on a device, the most bytes of holes first.

    The default pool and private ones alike; blocks that wait for another stream pin as live ones do.
    """
    blocks = state.snapshot.blocks
    columns = BlockColumns(
        segment=blocks.segment,
        block_size=blocks.block_size,
        stack=blocks.stack,
        live=state.blocks & (blocks.state != INACTIVE),
        hole=state.blocks & (blocks.state == INACTIVE) & state.in_use[blocks.segment],
        expandable=state.snapshot.segments.is_expandable[blocks.segment],
        segments=len(state.snapshot.segments),
    )
    return pins_of(columns, state.snapshot.stacks)


def pins_of(blocks: BlockColumns, stacks: Stacks) -> list[Pin]:
    """As :func:`pins`, from any table of blocks."""
    hole_bytes, cell, rows = _cells(blocks)
    found, index = places(stacks, blocks.stack[rows])
    pairs = np.unique(np.stack([cell, index], axis=1), axis=0) if len(rows) else np.empty((0, 2), np.int64)
    places_in_cell = np.bincount(pairs[:, 0], minlength=len(hole_bytes))
    keeps_open = np.zeros(len(found), dtype=np.int64)
    alone = np.zeros(len(found), dtype=np.int64)
    np.add.at(keeps_open, pairs[:, 1], hole_bytes[pairs[:, 0]])
    only = places_in_cell[pairs[:, 0]] == 1
    np.add.at(alone, pairs[only, 1], hole_bytes[pairs[only, 0]])
    # A block between two holes of an expandable segment stands in two cells, and counts once.
    rows, first = np.unique(rows, return_index=True)
    index = index[first]
    total = np.zeros(len(found), dtype=np.int64)
    np.add.at(total, index, blocks.block_size[rows])
    count = np.bincount(index, minlength=len(found))
    held = np.unique(np.stack([blocks.segment[rows], index], axis=1), axis=0) if len(rows) else pairs
    in_segments = np.bincount(held[:, 1], minlength=len(found))
    order = sorted(range(len(found)), key=lambda i: (-int(keeps_open[i]), -int(alone[i]), i))
    return [
        Pin(found[i], int(count[i]), int(total[i]), int(in_segments[i]), int(keeps_open[i]), int(alone[i]))
        for i in order
    ]


def _cells(blocks: BlockColumns) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What live blocks hold open together: a whole segment, or one hole of an expandable segment.

    Returns:
        bytes of holes by cell; and, in parallel, cells and the live blocks (rows) that stand in them.
    """
    expandable, live, hole = blocks.expandable, blocks.live, blocks.hole
    segments = blocks.segments
    of_segment = np.zeros(segments, dtype=np.int64)
    plain = hole & ~expandable
    np.add.at(of_segment, blocks.segment[plain], blocks.block_size[plain])
    standing = np.flatnonzero(live & ~expandable & (of_segment[blocks.segment] > 0))
    single = np.flatnonzero(hole & expandable)
    cells, rows = [blocks.segment[standing].astype(np.int64)], [standing]
    for step in (-1, 1):
        beside = np.clip(single + step, 0, max(len(live) - 1, 0))
        same = live[beside] & (blocks.segment[beside] == blocks.segment[single])
        cells.append(np.flatnonzero(same) + segments)
        rows.append(beside[same])
    sizes = np.concatenate([of_segment, blocks.block_size[single]])
    return sizes, np.concatenate(cells), np.concatenate(rows)
