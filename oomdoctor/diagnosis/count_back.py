"""From a snapshot taken after an OOM back to the sums at the OOM.

A recorder dumps inside the out-of-memory observer, where state and OOM are of one moment. A snapshot that
somebody dumped from an exception handler shows what was left when the stack had unwound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot.model import (
    ALLOC,
    FREE_COMPLETED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    SNAPSHOT,
    Snapshot,
)

_ROUNDING = 512
"""``kMinBlockSize``: trace entries have requested sizes, blocks are multiples of this."""


def events_after_oom(snapshot: Snapshot, device: int) -> int:
    """How many events of a device follow its newest ``oom`` entry; 0 where there is none."""
    if device >= len(snapshot.traces):
        return 0
    action = snapshot.traces[device].action
    rows = np.flatnonzero(action == OOM)
    return int((action[rows[-1] + 1 :] != SNAPSHOT).sum()) if len(rows) else 0


def sums_at_oom(snapshot: Snapshot, device: int, reserved: int, active: int) -> tuple[int, int]:
    """Reserved and active bytes at the newest ``oom`` entry, from those at the end.

    Reserved bytes are exact. Active bytes are exact unless ``roundup_power2_divisions`` rounds further.
    """
    trace = snapshot.traces[device]
    after = slice(int(np.flatnonzero(trace.action == OOM)[-1]) + 1, None)
    action, size = trace.action[after], trace.entry_size[after]
    rounded = -(-size // _ROUNDING) * _ROUNDING

    def total(of: int, sizes: NDArray[np.int64]) -> int:
        return int(sizes[action == of].sum())

    reserved -= total(SEGMENT_ALLOC, size) + total(SEGMENT_MAP, size)
    reserved += total(SEGMENT_FREE, size) + total(SEGMENT_UNMAP, size)
    active -= total(ALLOC, rounded)
    active += total(FREE_COMPLETED, rounded)
    return reserved, active
