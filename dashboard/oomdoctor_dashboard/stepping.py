"""Where stepping through a recording stops, and what to say there. A stop is a number of events happened."""

from __future__ import annotations

import datetime
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.history import History
from oomdoctor.allocator.moment import Moment
from oomdoctor.diagnosis.frames import frame_text, telling_frames
from oomdoctor.diagnosis.last_event import LastEvent, last_event
from oomdoctor.snapshot.model import (
    ALLOC,
    FREE_COMPLETED,
    FREE_REQUESTED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    UNKNOWN,
)
from oomdoctor.units import format_bytes

KINDS: dict[str, tuple[int, ...]] = {
    "event": (),
    "alloc": (ALLOC,),
    "free": (FREE_REQUESTED, FREE_COMPLETED),
    "segment": (SEGMENT_ALLOC, SEGMENT_FREE, SEGMENT_MAP, SEGMENT_UNMAP),
    "oom": (OOM,),
}
"""What one can step by, and the actions that count; none: all."""

_WORDS = {
    "segment_alloc": "new segment of",
    "segment_free": "segment given back,",
    "segment_map": "mapped",
    "segment_unmap": "unmapped",
    "free_requested": "free requested,",
    "free_completed": "free completed,",
    "oom": "out of memory, asked for",
}


class Stops:
    """The stops of each kind in one recording; made once."""

    def __init__(self, history: History) -> None:
        action = history.recording.events.action
        self.events = len(action)
        self._after: dict[str, NDArray[np.intp]] = {
            kind: np.flatnonzero(np.isin(action, actions)) + 1 for kind, actions in KINDS.items() if actions
        }
        start = history.heap_after(0).stats[0]
        self.peaks = {
            name: _peak(history.effects[f"{name}_bytes"], int(start[f"{name}_bytes"]))
            for name in ("allocated", "reserved")
        }
        """How many events had happened when most was allocated, and reserved; the first time."""

    def count(self, kind: str) -> int:
        """How many there are."""
        return self.events if kind == "event" else len(self._after[kind])

    def step(self, kind: str, event: int, steps: int) -> int:
        """The stop so many further on, or back where negative; where there is none, the same."""
        if kind == "event":
            return max(0, min(event + steps, self.events))
        after = self._after[kind]
        if steps > 0:
            at = int(np.searchsorted(after, event, side="right")) + steps - 1
            at = min(at, len(after) - 1)
            return max(int(after[at]), event) if len(after) else event
        at = max(int(np.searchsorted(after, event, side="left")) + steps, 0)
        return min(int(after[at]), event) if len(after) else event

    def next_oom(self, event: int) -> Optional[int]:
        """The next out-of-memory error, from the first again after the last; None where there is none."""
        after = self._after["oom"]
        if not len(after):
            return None
        return int(after[int(np.searchsorted(after, event, side="right")) % len(after)])


def _peak(values: NDArray[np.int64], start: int) -> int:
    return int(values.argmax()) + 1 if len(values) and int(values.max()) > start else 0


def what_happened(moment: Moment) -> str:
    """One line on the event that a moment is the result of."""
    found = last_event(moment)
    if found is None:
        if not len(moment.history.recording):
            return "no history was recorded: this is the state that the snapshot holds"
        return "before the first event"
    parts = [f"event {found.event:,}  {_what(found)}"]
    stacks = moment.history.recording.snapshot.stacks
    frames = telling_frames(stacks[found.stack], 1)
    parts += [frame_text(frame) for frame in frames]
    return "  ·  ".join(parts)


def _what(event: LastEvent) -> str:
    words = _WORDS.get(event.action, event.action)
    if event.action in ("snapshot", "annotate", "unknown"):
        return event.action
    text = f"{words} {format_bytes(event.bytes)}"
    if event.device_free is not None:
        return f"{text}, the device had {format_bytes(event.device_free)} free"
    if event.address is not None:
        text += f" at {event.address:#x}"
    if event.block_bytes and event.block_bytes != event.bytes:
        text += f" (block {format_bytes(event.block_bytes)})"
    if event.split_remainder_bytes and event.block_bytes:
        whole = event.block_bytes + event.split_remainder_bytes
        text += f", split from {format_bytes(whole)}, {format_bytes(event.split_remainder_bytes)} left free"
    merged = event.merged_before_bytes + event.merged_after_bytes
    if merged and event.block_bytes:
        text += f", merged with free neighbours into {format_bytes(event.block_bytes + merged)}"
    causes = {change.cause.replace("_", " ") for change in event.segments} - {"new"}
    if causes:
        text += f" ({', '.join(sorted(causes))})"
    if event.action == "alloc":
        came = sum(change.bytes for change in event.segments if change.came)
        text += f", for which {format_bytes(came)} were reserved" if came else ""
    return text


def when(moment: Moment) -> str:
    """The time of a moment: seconds since the first event, and the clock (UTC); empty where not recorded."""
    times = moment.history.recording.events.time_us
    if moment.time_us == UNKNOWN or not len(times):
        return ""
    since = (moment.time_us - int(times[0])) / 1e6
    clock = datetime.datetime.fromtimestamp(moment.time_us / 1e6, datetime.timezone.utc)
    return f"{since:,.3f} s  ·  {clock:%H:%M:%S}.{clock.microsecond // 1000:03d} UTC"
