"""What pins a hole, and what would come free if each of these blocks went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oomdoctor.allocator.moment import Moment
from oomdoctor.snapshot.model import INACTIVE


@dataclass(frozen=True)
class PinningBlock:
    """A live block that keeps a hole open.

    Attributes:
        block: its row in ``moment.layout.blocks``.
        address, bytes: of it.
        joined_bytes: the free block that would be there if it alone went: itself and its free neighbours.
        frees_segment: whether it is the only live block of its segment, so that all of that would be free.
    """

    block: int
    address: int
    bytes: int
    joined_bytes: int
    frees_segment: bool


@dataclass(frozen=True)
class HoleDetails:
    """A hole and the blocks that pin it.

    Attributes:
        block: its row in ``moment.layout.blocks``.
        address, bytes: of it.
        pins, pinning_bytes: all blocks that pin it: the live ones of its segment; of an expandable segment,
            its live neighbours.
        shown: the first of them, by address, no more than asked for.
        expandable: whether its segment is.
    """

    block: int
    address: int
    bytes: int
    pins: int
    pinning_bytes: int
    shown: tuple[PinningBlock, ...]
    expandable: bool


def hole_details(moment: Moment, block: int, most: int = 16) -> HoleDetails:
    """What pins the hole in a row of ``moment.layout.blocks``.

    Raises:
        KeyError: there is no hole.
    """
    layout = moment.layout
    holes = moment.holes_frame()
    row = holes.index[holes["block"] == block]
    if not len(row):
        raise KeyError(f"block {block} is no hole")
    hole = holes.loc[row[0]]
    live = np.flatnonzero(layout.live)
    low, high = np.searchsorted(live, [int(hole["first_pin"]), int(hole["last_pin"]) + 1])
    return HoleDetails(
        block=block,
        address=int(hole["address"]),
        bytes=int(hole["block_size"]),
        pins=int(hole["pins"]),
        pinning_bytes=int(hole["pinning_bytes"]),
        shown=tuple(_pin(moment, one) for one in live[low : min(high, low + most)].tolist()),
        expandable=bool(layout.expandable[block]),
    )


def _pin(moment: Moment, block: int) -> PinningBlock:
    layout = moment.layout
    segment = int(layout.segment[block])
    first, after = int(layout.first_block[segment]), int(layout.first_block[segment + 1])
    size = layout.blocks["size"]
    joined = int(size[block])
    for beside in (block - 1, block + 1):
        if first <= beside < after and layout.state[beside] == INACTIVE:
            joined += int(size[beside])
    return PinningBlock(
        block=block,
        address=int(layout.blocks["ptr"][block]),
        bytes=int(size[block]),
        joined_bytes=joined,
        frees_segment=int(layout.live[first:after].sum()) == 1,
    )
