"""How fragmented the allocator is at one moment, in numbers whose meaning is fixed.

The definitions stand in ``docs/explanation/fragmentation.md``; each is a field of :class:`Measures`. Free
memory serves only requests of its own pool, size class and stream (``get_pool`` and ``get_free_block``,
c10/cuda/CUDACachingAllocator.cpp), so all are taken per such compartment, and for the device as their sums.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.heap_layout import NULL
from oomdoctor.allocator.layout import Layout
from oomdoctor.allocator.observed import ObservedSizes, by_pool_and_stream
from oomdoctor.snapshot.model import ACTIVE_ALLOCATED, ACTIVE_PENDING_FREE, INACTIVE

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Measures:
    """Of one compartment, or of a device. Sizes in bytes.

    Attributes:
        segments, expandable_segments: how many, and how many of them are (parts of) expandable ones.
        live_blocks: blocks allocated or pending.
        reserved_bytes: all segments; ``reserved = allocated + pending + free``.
        allocated_bytes: blocks in use.
        pending_bytes: blocks freed and waiting for another stream.
        free_bytes: the rest.
        internal_bytes: internal fragmentation: live blocks, less what was asked for.
        hole_bytes, holes: free blocks in segments that hold a live block.
        largest_free_bytes: the largest free block.
        inactive_split_bytes, inactive_split: free blocks split from a segment that is not expandable, as
            ``torch.cuda.memory_stats`` counts them.
        releasable_bytes: free memory that the allocator can give back as it is: whole segments, and whole
            handles of expandable ones.
        stranded_bytes: free memory that no request of the observed sizes may take, and that the allocator
            cannot give back either; None where no requests were recorded.
    """

    segments: int
    expandable_segments: int
    live_blocks: int
    reserved_bytes: int
    allocated_bytes: int
    pending_bytes: int
    free_bytes: int
    internal_bytes: int
    hole_bytes: int
    holes: int
    largest_free_bytes: int
    inactive_split_bytes: int
    inactive_split: int
    releasable_bytes: int
    stranded_bytes: Optional[int]

    @property
    def external(self) -> float:
        """External fragmentation: the part of the free memory that is not the largest free block, 0 to 1."""
        return 1.0 - self.largest_free_bytes / self.free_bytes if self.free_bytes else 0.0

    @property
    def reserved_over_allocated(self) -> Optional[float]:
        """Reserved bytes for each byte allocated; None where nothing is."""
        return self.reserved_bytes / self.allocated_bytes if self.allocated_bytes else None


@dataclass(frozen=True)
class Compartment:
    """The measures of one pool and stream.

    Attributes:
        private_pool: its number, 0 for the default pools.
        is_small: requests up to 1 MiB.
        stream: rank of the handle.
    """

    private_pool: int
    is_small: bool
    stream: int
    measures: Measures


@dataclass(frozen=True)
class Fragmentation:
    """A device at one moment: its sums, and its compartments by descending reserved bytes."""

    device: Measures
    compartments: tuple[Compartment, ...]

    def to_pandas(self) -> pd.DataFrame:
        """A row per compartment: where it is, its measures, and the two ratios."""
        import pandas as pd

        rows = [
            {
                "private_pool": c.private_pool,
                "is_small": c.is_small,
                "stream": c.stream,
                **vars(c.measures),
                "external": c.measures.external,
                "reserved_over_allocated": c.measures.reserved_over_allocated,
            }
            for c in self.compartments
        ]
        kinds = {f.name: "int64" for f in fields(Measures)} | {
            "private_pool": "int32", "is_small": "bool", "stream": "int32", "stranded_bytes": "Int64",
            "external": "float64", "reserved_over_allocated": "float64",
        }  # fmt: skip
        columns = [*("private_pool", "is_small", "stream"), *(f.name for f in fields(Measures))]
        frame = pd.DataFrame(rows, columns=[*columns, "external", "reserved_over_allocated"])
        typed: pd.DataFrame = frame.astype(kinds)
        return typed


def usable(layout: Layout, observed: ObservedSizes) -> NDArray[np.bool_]:
    """bool[m]: which free blocks some request of an observed size may take, were it the only one left.

    It has to fit; with ``max_split_size`` the blocks of that size and more serve only requests of that size
    and more, and of these only such as leave less than ``max_non_split_rounding`` (``get_free_block``). Free
    memory beside unmapped memory of an expandable segment serves whatever fits both
    (``try_allocate_expandable_block``); with expandable segments switched off, what lies in them serves none.
    """
    blocks = layout.blocks
    config = layout.heap.config[0]
    limit, rounding = int(config["max_split_size"]), int(config["max_non_split_rounding"])
    expandable_active = bool(config["expandable_segments"])
    out = np.zeros(len(blocks), np.bool_)
    free = layout.state == INACTIVE
    for (pool, stream), sizes in observed.items():
        rows = np.flatnonzero(free & (blocks["pool"] == pool) & (blocks["stream"] == stream))
        size = blocks["size"][rows]
        fits = size >= sizes[0]
        # The largest request that goes into each oversize block.
        below = np.searchsorted(sizes, size, side="right") - 1
        best = np.where(below >= 0, sizes[np.maximum(below, 0)], -1)
        oversize = size >= limit
        fits = np.where(oversize, (best >= limit) & (size - best < rounding), fits)
        of_expandable = blocks["expandable_segment"][rows] != NULL
        if expandable_active:
            fits |= of_expandable & (layout.room[rows] >= sizes[0])
        else:
            fits &= ~of_expandable
        out[rows] = fits
    return out


def fragmentation(layout: Layout, observed: Optional[ObservedSizes] = None) -> Fragmentation:
    """The measures of a layout.

    Args:
        observed: see :mod:`oomdoctor.allocator.observed`; None where no requests were recorded.

    Raises:
        ValueError: the blocks do not add up to what the heap counts as reserved.
    """
    columns = _columns(layout, observed)
    blocks = layout.blocks
    firsts = layout.first_block[:-1]
    compartments = []
    for (pool, stream), rows in by_pool_and_stream(blocks["pool"], blocks["stream"]).items():
        mine = np.zeros(len(blocks), np.bool_)
        mine[rows] = True
        compartments.append(
            Compartment(
                private_pool=int(layout.heap.pools["private_pool"][pool]),
                is_small=bool(layout.heap.pools["is_small"][pool]),
                stream=int(stream),
                measures=_measures(layout, columns, mine, mine[firsts]),
            )
        )
    compartments.sort(key=lambda c: -c.measures.reserved_bytes)
    everything = np.ones(len(blocks), np.bool_)
    device = _measures(layout, columns, everything, everything[firsts])
    _check_sums(device, layout)
    return Fragmentation(device, tuple(compartments))


@dataclass(frozen=True)
class _Columns:
    """Over the blocks: masks by what they count for, and sizes."""

    size: NDArray[np.int64]
    free: NDArray[np.bool_]
    live: NDArray[np.bool_]
    hole: NDArray[np.bool_]
    split: NDArray[np.bool_]
    stranded: Optional[NDArray[np.int64]]


def _columns(layout: Layout, observed: Optional[ObservedSizes]) -> _Columns:
    blocks = layout.blocks
    free = layout.state == INACTIVE
    split = free & ~layout.expandable & ((blocks["prev"] != NULL) | (blocks["next"] != NULL))
    stranded = None
    if observed is not None:
        stranded = np.where(free & ~usable(layout, observed), blocks["size"] - layout.releasable, 0)
    return _Columns(blocks["size"], free, layout.live, layout.in_hole, split, stranded)


def _measures(
    layout: Layout, columns: _Columns, mine: NDArray[np.bool_], segments: NDArray[np.bool_]
) -> Measures:
    size, live = columns.size, columns.live & mine

    def total(mask: NDArray[np.bool_]) -> int:
        return int(size[mask & mine].sum())

    firsts = layout.first_block[:-1][segments]
    return Measures(
        segments=int(segments.sum()),
        expandable_segments=int(layout.expandable[firsts].sum()),
        live_blocks=int(live.sum()),
        reserved_bytes=int(size[mine].sum()),
        allocated_bytes=total(layout.state == ACTIVE_ALLOCATED),
        pending_bytes=total(layout.state == ACTIVE_PENDING_FREE),
        free_bytes=total(columns.free),
        internal_bytes=int((size[live] - layout.blocks["requested_size"][live]).sum()),
        hole_bytes=total(columns.hole),
        holes=int((columns.hole & mine).sum()),
        largest_free_bytes=int(size[columns.free & mine].max(initial=0)),
        inactive_split_bytes=total(columns.split),
        inactive_split=int((columns.split & mine).sum()),
        releasable_bytes=int(layout.releasable[mine].sum()),
        stranded_bytes=None if columns.stranded is None else int(columns.stranded[mine].sum()),
    )


def _check_sums(device: Measures, layout: Layout) -> None:
    parts = device.allocated_bytes + device.pending_bytes + device.free_bytes
    reserved = int(layout.heap.stats["reserved_bytes"][0])
    if parts != reserved:
        raise ValueError(f"blocks of {parts} bytes in {reserved} bytes reserved")
