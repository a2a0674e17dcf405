"""The event that a state is the result of: its block, what was split and merged, which segments came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from oomdoctor.allocator.heap_layout import CAUSE_NONE, CAUSES
from oomdoctor.allocator.moment import Moment
from oomdoctor.snapshot.model import (
    ACTIONS,
    ALLOC,
    FREE_COMPLETED,
    FREE_REQUESTED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
)

_OF_SEGMENTS = (SEGMENT_ALLOC, SEGMENT_FREE, SEGMENT_MAP, SEGMENT_UNMAP)


@dataclass(frozen=True)
class SegmentChange:
    """A segment, or a part of an expandable one, that came or went.

    Attributes:
        event: number of the event, from 0.
        came: it was allocated or mapped; else freed or unmapped.
        address, bytes: of the segment or the part.
        cause: why, one of ``CAUSES`` of :mod:`oomdoctor.allocator.heap_layout`.
    """

    event: int
    came: bool
    address: int
    bytes: int
    cause: str


@dataclass(frozen=True)
class LastEvent:
    """The event that a state is the result of.

    Attributes:
        event: its number, from 0.
        action: its name, as in the trace.
        bytes: requested, or of the segment.
        device_free: of an out-of-memory error, what the device had free.
        stack: number of its call stack; NO_STACK.
        address: of the block or the segment; None for other events.
        block_bytes: of the block handed out or freed; None for other events.
        split_remainder_bytes: split off behind it and kept free.
        merged_before_bytes, merged_after_bytes: of the free neighbours that it became one with.
        segments: what came and went with it: of a segment event that one alone, of an allocation or an error
            what preceded it for its sake.
    """

    event: int
    action: str
    bytes: int
    device_free: Optional[int]
    stack: int
    address: Optional[int]
    block_bytes: Optional[int]
    split_remainder_bytes: int
    merged_before_bytes: int
    merged_after_bytes: int
    segments: tuple[SegmentChange, ...]


def last_event(moment: Moment) -> Optional[LastEvent]:
    """What happened last; None before the first event."""
    if not moment.events:
        return None
    history, at = moment.history, moment.events - 1
    events, effect = history.recording.events, history.effects[at]
    action = int(events.action[at])
    of_block = action in (ALLOC, FREE_REQUESTED, FREE_COMPLETED)
    return LastEvent(
        event=at,
        action=ACTIONS[action],
        bytes=int(events.entry_size[at]),
        device_free=int(events.address[at]) if action == OOM else None,
        stack=int(events.stack[at]),
        address=int(events.address[at]) if of_block or action in _OF_SEGMENTS else None,
        block_bytes=int(effect["block_size"]) if of_block else None,
        split_remainder_bytes=int(effect["split_remainder"]),
        merged_before_bytes=int(effect["merged_before"]),
        merged_after_bytes=int(effect["merged_after"]),
        segments=_segments(moment, at),
    )


def _segments(moment: Moment, at: int) -> tuple[SegmentChange, ...]:
    history = moment.history
    events = history.recording.events
    rows = [at] if events.action[at] in _OF_SEGMENTS else []
    if events.action[at] in (ALLOC, OOM):
        # Segment events right before it; a release is for its sake unless the program asked for that.
        row = at - 1
        while row >= 0 and events.action[row] in _OF_SEGMENTS:
            if CAUSES[history.causes[row]] == "empty_cache":
                break
            rows.append(row)
            row -= 1
    return tuple(
        SegmentChange(
            event=row,
            came=int(events.action[row]) in (SEGMENT_ALLOC, SEGMENT_MAP),
            address=int(events.address[row]),
            bytes=int(events.entry_size[row]),
            cause=CAUSES[history.causes[row]],
        )
        for row in reversed(rows)
        if history.causes[row] != CAUSE_NONE
    )
