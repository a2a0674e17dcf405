"""What is said of boxes and blocks in the memory map, in a few short lines."""

from __future__ import annotations

from typing import Optional

from oomdoctor.allocator.moment import Moment
from oomdoctor.diagnosis.frames import frame_text, telling_frames
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor.units import format_bytes, format_seconds
from oomdoctor_dashboard import live_data
from oomdoctor_dashboard.segment_map import PENDING, STATES, SegmentMap


def box_lines(drawn: SegmentMap, box: int) -> list[str]:
    """A box: what it is, its sizes, its age, where it is, where it was allocated."""
    state, count = int(drawn.state[box]), int(drawn.count[box])
    if count > 1:
        blocks = "blocks" if state <= PENDING else "free blocks"
        size = format_bytes(int(drawn.bytes[box]))
        return [f"{count:,} {blocks}, {STATES[state]}, {size} together", "Click to see the segment alone."]
    return block_lines(drawn.moment, int(drawn.block[box]), STATES[state])


def block_lines(moment: Moment, block: int, state: str) -> list[str]:
    """A block of a moment by its row."""
    layout = moment.layout
    row = layout.blocks[block]
    lines = [f"{state}  {format_bytes(int(row['size']))}"]
    if layout.live[block]:
        lines.append(sizes_line(int(row["requested_size"]), int(row["size"])))
        lines.append(age_line(moment, block))
    lines.append(f"{int(row['ptr']):#x}  ·  {pool_line(moment, block)}")
    lines += stack_lines(moment, int(moment.stack[block]))
    return lines


def sizes_line(requested: int, size: int) -> str:
    """What was asked for, and how much more was handed out."""
    more = size - requested
    asked = f"asked for {format_bytes(requested)} ({requested:,} bytes)"
    return f"{asked}, rounded up by {format_bytes(more)}" if more else asked


def age_line(moment: Moment, block: int) -> str:
    """How long a live block has been there."""
    events = int(moment.age_events[block])
    if events == UNKNOWN:
        return "older than the trace"
    age_us = int(moment.age_us[block])
    lasted = f", {format_seconds(age_us / 1e6)}" if age_us != UNKNOWN else ""
    return f"allocated with event {int(moment.birth[block]):,}, {events:,} events ago{lasted}"


def pool_line(moment: Moment, block: int) -> str:
    """The pool and the stream of a block."""
    layout = moment.layout
    stream = int(layout.blocks["stream"][block])
    return pool_name(moment, int(layout.private_pool[block]), bool(layout.is_small[block]), stream)


def pool_name(moment: Moment, private_pool: int, is_small: bool, stream: int) -> str:
    """A pool and a stream in words."""
    recording = moment.history.recording
    pool = live_data.pool_name(recording, private_pool, is_small) + ("" if private_pool else " pool")
    return f"{pool}  ·  stream {live_data.stream_name(recording, stream)}"


def stack_lines(moment: Moment, stack: int, most: int = 2) -> list[str]:
    """The telling frames of a stack."""
    stacks = moment.history.recording.snapshot.stacks
    return [frame_text(frame) for frame in telling_frames(stacks[stack], most)]


def event_time(moment: Moment, event: Optional[int]) -> str:
    """An event by its number and the time since the first one."""
    if event is None:
        return ""
    times = moment.history.recording.events.time_us
    if times[event] == UNKNOWN or times[0] == UNKNOWN:
        return f"event {event:,}"
    return f"event {event:,}, {(int(times[event]) - int(times[0])) / 1e6:,.3f} s"
