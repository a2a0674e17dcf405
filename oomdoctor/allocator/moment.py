"""The allocator at one moment of a recording: its blocks, how old they are, where they were allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.fragmentation import Fragmentation, fragmentation
from oomdoctor.allocator.history import History
from oomdoctor.allocator.layout import Layout, layout_of
from oomdoctor.snapshot.model import ACTIVE_PENDING_FREE, INACTIVE, STATES, UNKNOWN

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Moment:
    """A device after the first ``events`` events of its recording.

    Attributes:
        time_us: of the last of these events, microseconds since the epoch; UNKNOWN before the first, and
            where the recording has no times.
        layout: segments and blocks.
        fragmentation: the measures.
        birth: int64[m], the event that allocated each live block; UNKNOWN for free blocks and for live ones
            older than the trace.
        age_events: int64[m], events since that one; UNKNOWN likewise.
        age_us: int64[m], microseconds since then; UNKNOWN likewise, and where no times were recorded.
        stack: int32[m], where each live block was allocated; NO_STACK where not known.
    """

    history: History
    events: int
    time_us: int
    layout: Layout
    fragmentation: Fragmentation
    birth: NDArray[np.int64]
    age_events: NDArray[np.int64]
    age_us: NDArray[np.int64]
    stack: NDArray[np.int32]

    def blocks_frame(self) -> pd.DataFrame:
        """A row per block, by address: sizes in bytes, the state as a categorical, stream handles.

        ``pool_0`` and ``pool_1`` are UNKNOWN for a private pool that the recording does not name.
        """
        import pandas as pd

        layout, recording = self.layout, self.history.recording
        numbers = range(len(recording.pools) + 2)
        ids = np.array([recording.pool_id(number) for number in numbers], np.int64)[layout.private_pool]
        return pd.DataFrame(
            {
                "address": layout.blocks["ptr"],
                "block_size": layout.blocks["size"],
                "requested_size": np.where(layout.live, layout.blocks["requested_size"], UNKNOWN),
                "state": pd.Categorical.from_codes(layout.state, STATES),
                "segment": layout.segment,
                "stream": recording.streams[layout.blocks["stream"]].view(np.int64),
                "pool_0": ids[:, 0],
                "pool_1": ids[:, 1],
                "is_small": layout.is_small,
                "is_expandable": layout.expandable,
                "in_hole": layout.in_hole,
                "birth": self.birth,
                "age_events": self.age_events,
                "age_us": self.age_us,
                "stack": self.stack,
            }
        )

    def segments_frame(self) -> pd.DataFrame:
        """A row per segment, by address: what lies in it, sizes in bytes."""
        layout = self.layout
        blocks = self.blocks_frame()
        firsts = layout.first_block[:-1]
        frame = blocks.loc[
            firsts, ["address", "stream", "pool_0", "pool_1", "is_small", "is_expandable"]
        ].reset_index(drop=True)
        size, free = layout.blocks["size"], layout.state == INACTIVE
        pending = layout.state == ACTIVE_PENDING_FREE
        frame.insert(1, "total_size", layout.per_segment(size))
        frame.insert(2, "allocated_size", layout.per_segment(np.where(layout.live & ~pending, size, 0)))
        frame.insert(3, "pending_size", layout.per_segment(np.where(pending, size, 0)))
        frame.insert(4, "free_size", layout.per_segment(np.where(free, size, 0)))
        frame.insert(5, "blocks", np.diff(layout.first_block))
        frame.insert(6, "live_blocks", layout.per_segment(layout.live.astype(np.int64)))
        return frame

    def holes_frame(self) -> pd.DataFrame:
        """A row per hole, by address: its bytes, its segment, and what pins it.

        ``first_pin`` and ``last_pin`` are the first and last row of ``blocks_frame`` among which the pinning
        blocks are: the live ones of the segment; of an expandable segment, the live neighbours alone.
        ``pins`` is how many these are, ``pinning_bytes`` their bytes.
        """
        import pandas as pd

        layout = self.layout
        holes = np.flatnonzero(layout.in_hole)
        expandable = layout.expandable[holes]
        segment = layout.segment[holes]
        first, last = layout.first_block[segment], layout.first_block[segment + 1] - 1
        first = np.where(expandable, np.maximum(first, holes - 1), first)
        last = np.where(expandable, np.minimum(last, holes + 1), last)
        count = np.concatenate([[0], np.cumsum(layout.live)])
        size = np.concatenate([[0], np.cumsum(np.where(layout.live, layout.blocks["size"], 0))])
        return pd.DataFrame(
            {
                "address": layout.blocks["ptr"][holes],
                "block_size": layout.blocks["size"][holes],
                "block": holes.astype(np.int64),
                "segment": segment,
                "first_pin": first.astype(np.int64),
                "last_pin": last.astype(np.int64),
                "pins": (count[last + 1] - count[first]).astype(np.int64),
                "pinning_bytes": (size[last + 1] - size[first]).astype(np.int64),
            }
        )


def moment_of(history: History, events: int) -> Moment:
    """A device after the first ``events`` events.

    Raises:
        IndexError: there are not so many.
    """
    recording = history.recording
    layout = layout_of(history.heap_after(events))
    n = len(recording)
    observed = history.observed if n else None
    born = np.where(layout.live, layout.blocks["alloc_event"], -1)
    birth = np.where(born < n, born, UNKNOWN)
    known = birth >= 0
    age_events = np.full(len(birth), UNKNOWN, np.int64)
    age_events[known] = events - 1 - birth[known]
    age_us = np.full(len(birth), UNKNOWN, np.int64)
    times = recording.events.time_us
    now = int(times[events - 1]) if events else UNKNOWN
    if now != UNKNOWN:
        then = times[birth[known]]
        age_us[known] = np.where(then == UNKNOWN, UNKNOWN, now - then)
    return Moment(
        history=history,
        events=events,
        time_us=now,
        layout=layout,
        fragmentation=fragmentation(layout, observed),
        birth=birth,
        age_events=age_events,
        age_us=age_us,
        stack=history.stack_of_birth[born],
    )
