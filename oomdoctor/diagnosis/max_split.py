"""Whether ``max_split_size_mb`` could have helped, from the segments that a snapshot shows.

A block of ``max_split_size`` or more is not split, and smaller requests do not take it
(``DeviceCachingAllocator::should_split``, ``get_free_block``; c10/cuda/CUDACachingAllocator.cpp). So a value
changes nothing about segments smaller than itself: their holes are there under every value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from oomdoctor.diagnosis.model import Finding
from oomdoctor.diagnosis.state import DeviceState
from oomdoctor.diagnosis.torch_settings import first_max_split_size_mb
from oomdoctor.snapshot.model import INACTIVE
from oomdoctor.units import MIB, format_bytes

_SMALLEST = 32
"""MiB: the smallest power of two that ``parseMaxSplitSize`` takes (more than kLargeBuffer, 20 MiB)."""


@dataclass(frozen=True)
class HoleySegments:
    """Segments of one size with holes: what splitting made of them.

    Attributes:
        segment_bytes: the size of each.
        count: how many there are.
        hole_bytes: of all of them together.
    """

    segment_bytes: int
    count: int
    hole_bytes: int


def holey_segments(state: DeviceState) -> tuple[HoleySegments, ...]:
    """The segments with holes of a device's default large pool by size, the largest first.

    Expandable segments are left out: the setting does not shape them.
    """
    segments, blocks = state.snapshot.segments, state.snapshot.blocks
    right = state.segments & ~segments.is_small & ~segments.is_expandable & state.in_use
    right &= (segments.pool[:, 0] == 0) & (segments.pool[:, 1] == 0)
    holes = np.zeros(len(segments), dtype=np.int64)
    free = right[blocks.segment] & (blocks.state == INACTIVE)
    np.add.at(holes, blocks.segment[free], blocks.block_size[free])
    found = []
    for size in sorted(set(segments.total_size[holes > 0].tolist()), reverse=True):
        mine = (holes > 0) & (segments.total_size == size)
        found.append(HoleySegments(int(size), int(mine.sum()), int(holes[mine].sum())))
    return tuple(found)


def proposed_mb(segments: tuple[HoleySegments, ...], need: int, room: int) -> Optional[int]:
    """The largest power of two, in MiB, below half the request, at which enough holes could have been saved.

    Only holes in segments of at least this size could; with what the device has free they must reach the
    request. None where no value does that.
    """
    value = first_max_split_size_mb(need)
    while value is not None and value >= _SMALLEST:
        if room + within_reach(segments, value) >= need:
            return value
        value //= 2
    return None


def within_reach(segments: tuple[HoleySegments, ...], value_mb: int) -> int:
    """Bytes of holes in segments of at least ``value_mb``: those that this value could have kept whole."""
    return sum(one.hole_bytes for one in segments if one.segment_bytes >= value_mb * MIB)


def mildest_mb(segments: tuple[HoleySegments, ...]) -> Optional[int]:
    """Where no request is known: the largest power of two, in MiB, that reaches nearly all there is to reach.

    Nearly all is nine tenths of what the smallest value reaches. None where that reaches nothing.
    """
    most = within_reach(segments, _SMALLEST)
    if not most:
        return None
    value = _SMALLEST
    while within_reach(segments, 2 * value) >= 0.9 * most:
        value *= 2
    return value


def why_nothing_in_reach(segments: tuple[HoleySegments, ...], *, expandable: bool) -> str:
    """Why no value could have kept a segment whole, where :func:`mildest_mb` has none.

    Args:
        expandable: whether the device has expandable segments, which the setting does not shape.
    """
    if segments:
        return (
            f"no value can matter: no segment with holes is larger than"
            f" {format_bytes(segments[0].segment_bytes)}, and the least value to try is {_SMALLEST}"
        )
    if expandable:
        return "no value can matter: expandable segments are split at any value"
    return "no value can matter: no segment of the large pool has holes"


def why_no_value(segments: tuple[HoleySegments, ...], need: int, room: int) -> Optional[Finding]:
    """Why no value helps; None where one may, or where the request is too small for a first value."""
    if first_max_split_size_mb(need) is None or proposed_mb(segments, need, room) is not None:
        return None
    within = [s for s in segments if s.segment_bytes >= _SMALLEST * MIB]
    saved = within_reach(segments, _SMALLEST)
    largest = segments[0].segment_bytes if segments else 0
    if not segments:
        why = "no segment of the large pool that it would have shaped has holes"
    elif not within:
        why = f"no segment with holes is larger than {format_bytes(largest)}"
    else:
        why = (
            f"the segments that it could have kept whole hold {format_bytes(saved)} of holes, and with the "
            f"{format_bytes(room)} that could be had from the device that is less than {format_bytes(need)}"
        )
    return Finding(
        "max-split-size-does-not-help",
        f"No value of max_split_size_mb helps here: {why}.",
        "recorded" if not within else "derived",
        largest or None,
        {
            "formula": "room + holes in segments ≥ max_split_size < requested",
            "largest_segment_with_holes_bytes": largest,
            "hole_bytes_within_reach": saved,
            "smallest_value_mb": _SMALLEST,
            "room_bytes": room,
            "requested_bytes": need,
        },
    )
