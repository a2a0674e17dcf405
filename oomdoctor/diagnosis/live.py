"""What lives: the biggest allocations by where they were made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oomdoctor.diagnosis.by_stack import Place, places
from oomdoctor.diagnosis.state import DeviceState
from oomdoctor.snapshot.model import INACTIVE


@dataclass(frozen=True)
class Live:
    """Live blocks of one place: how many, and their bytes (blocks, rounding included)."""

    place: Place
    count: int
    bytes: int


def live_by_place(state: DeviceState) -> list[Live]:
    """Live and pending blocks of a device by place, the most bytes first."""
    blocks = state.snapshot.blocks
    rows = state.blocks & (blocks.state != INACTIVE)
    found, index = places(state.snapshot.stacks, blocks.stack[rows])
    count = np.bincount(index, minlength=len(found))
    total = np.zeros(len(found), dtype=np.int64)
    np.add.at(total, index, blocks.block_size[rows])
    order = sorted(range(len(found)), key=lambda i: (-int(total[i]), i))
    return [Live(found[i], int(count[i]), int(total[i])) for i in order]
