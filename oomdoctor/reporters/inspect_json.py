"""``inspect --json``: the state of each device at one event, ``oomdoctor.inspect/1``. Sizes are bytes.

``blocks`` names stacks by number in ``stacks``, and ``segments``, ``blocks`` and ``holes`` name one another
by address. What is not known is null.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Optional

import numpy as np

from oomdoctor.allocator.fragmentation import Measures
from oomdoctor.diagnosis.inspection import Inspection, PinWithAge
from oomdoctor.diagnosis.last_event import last_event
from oomdoctor.reporters.recording_json import about
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor.snapshot.stacks import NO_STACK, Stacks

Json = dict[str, Any]
# Of a hole in a segment of thousands of blocks, the first few.
_MOST_PINS = 16


def render(inspections: Sequence[Inspection], problems: Sequence[str] = ()) -> str:
    """The document as text; rows of tables stand in a line each."""
    return json.dumps(document(inspections, problems), ensure_ascii=False, indent=2)


def document(inspections: Sequence[Inspection], problems: Sequence[str] = ()) -> Json:
    """The document as plain values."""
    return {
        "schema": "oomdoctor.inspect/1",
        "devices": [_device(one) for one in inspections],
        "problems": list(problems),
    }


def _device(one: Inspection) -> Json:
    moment = one.moment
    recording = moment.history.recording
    stacks = recording.snapshot.stacks
    blocks, numbers = _blocks(one)
    return {
        "device": one.device.device,
        "alloc_conf": moment.history.settings.text,
        "events": len(recording),
        "at_event": moment.events,
        "time_us": _known(moment.time_us),
        "last_event": _last_event(one),
        "basis": one.basis,
        **about(one.device),
        "state": state_json(one),
        "free_under_way_bytes": one.under_way_bytes,
        "pools": pools_json(one),
        "segments": _segments(one),
        "blocks": blocks,
        "holes": _holes(one),
        "pinning": [pin_json(pin) for pin in one.pins],
        "stacks": [_frames(stacks, number) for number in numbers],
        "notes": list(one.notes),
    }


def state_json(one: Inspection) -> Json:
    """The measures of the device."""
    return _measures(one.moment.fragmentation.device)


def pools_json(one: Inspection) -> list[Json]:
    """The measures of each pool and stream."""
    return [
        {
            "pool": _pool_id(one.moment.history.recording.pool_id(c.private_pool)),
            "kind": "private" if c.private_pool else "default",
            "size_class": "small" if c.is_small else "large",
            "stream": _stream(one, c.stream),
            **_measures(c.measures),
        }
        for c in one.moment.fragmentation.compartments
    ]


def _last_event(one: Inspection) -> Optional[Json]:
    event = last_event(one.moment)
    if event is None:
        return None
    return {
        "event": event.event,
        "action": event.action,
        "bytes": event.bytes,
        "address": event.address,
        "block_bytes": event.block_bytes,
        "split_remainder_bytes": event.split_remainder_bytes,
        "merged_before_bytes": event.merged_before_bytes,
        "merged_after_bytes": event.merged_after_bytes,
        "segments": [asdict(change) for change in event.segments],
        "device_free_bytes": event.device_free,
        "frames": _frames(one.moment.history.recording.snapshot.stacks, event.stack),
    }


def _known(value: int) -> Optional[int]:
    return None if value == UNKNOWN else int(value)


def _pool_id(pool: tuple[int, int]) -> Optional[list[int]]:
    """None for a private pool that the recording does not name."""
    return None if pool[0] == UNKNOWN else [int(number) for number in pool]


def _stream(one: Inspection, rank: int) -> int:
    return int(one.moment.history.recording.streams[rank])


def _measures(measures: Measures) -> Json:
    return {
        **vars(measures),
        "active_bytes": measures.allocated_bytes + measures.pending_bytes,
        "external_fragmentation": measures.external,
        "reserved_over_allocated": measures.reserved_over_allocated,
    }


def _segments(one: Inspection) -> list[Json]:
    frame = one.moment.segments_frame()
    streams = frame["stream"].to_numpy().view(np.uint64).tolist()
    return [
        {
            "address": row.address,
            "total_bytes": row.total_size,
            "allocated_bytes": row.allocated_size,
            "pending_bytes": row.pending_size,
            "free_bytes": row.free_size,
            "blocks": row.blocks,
            "live_blocks": row.live_blocks,
            "stream": stream,
            "pool": _pool_id((row.pool_0, row.pool_1)),
            "size_class": "small" if row.is_small else "large",
            "is_expandable": row.is_expandable,
        }
        for row, stream in zip(frame.itertuples(index=False), streams)
    ]


def _blocks(one: Inspection) -> tuple[list[Json], list[int]]:
    """The blocks, and the stacks that they name by position in this list."""
    moment = one.moment
    frame = moment.blocks_frame()
    numbers = np.unique(moment.stack[moment.stack != NO_STACK])
    place = np.where(moment.stack == NO_STACK, UNKNOWN, np.searchsorted(numbers, moment.stack))
    addresses = moment.layout.blocks["ptr"][moment.layout.first_block[:-1]]
    segment = addresses[moment.layout.segment].tolist()
    streams = frame["stream"].to_numpy().view(np.uint64).tolist()
    rows = []
    for row, home, stream, stack in zip(frame.itertuples(index=False), segment, streams, place.tolist()):
        is_live = row.state != "inactive"
        rows.append(
            {
                "address": row.address,
                "bytes": row.block_size,
                "requested_bytes": row.requested_size if is_live else None,
                "state": row.state,
                "segment": home,
                "stream": stream,
                "pool": _pool_id((row.pool_0, row.pool_1)),
                "size_class": "small" if row.is_small else "large",
                "alloc_event": _known(row.birth),
                "older_than_trace": bool(is_live and row.birth == UNKNOWN),
                "age_events": _known(row.age_events),
                "age_us": _known(row.age_us),
                "stack": _known(stack),
            }
        )
    return rows, numbers.tolist()


def _holes(one: Inspection) -> list[Json]:
    moment = one.moment
    blocks = moment.layout.blocks
    firsts = blocks["ptr"][moment.layout.first_block[:-1]]
    live = np.flatnonzero(moment.layout.live)
    rows = []
    for hole in moment.holes_frame().itertuples(index=False):
        low, high = np.searchsorted(live, [hole.first_pin, hole.last_pin + 1])
        pins = live[low : min(high, low + _MOST_PINS)]
        rows.append(
            {
                "address": hole.address,
                "bytes": hole.block_size,
                "segment": int(firsts[hole.segment]),
                "pinned_by_blocks": hole.pins,
                "pinned_by_bytes": hole.pinning_bytes,
                "pinned_by": blocks["ptr"][pins].tolist(),
            }
        )
    return rows


def pin_json(one: PinWithAge) -> Json:
    """What pins holes, by place."""
    pin = one.pin
    return {
        "frames": [{"name": f.name, "filename": f.filename, "line": f.line} for f in pin.place.frames],
        "blocks": pin.count,
        "bytes": pin.bytes,
        "segments": pin.segments,
        "hole_bytes": pin.keeps_open,
        "hole_bytes_alone": pin.alone,
        "oldest_age_events": _known(one.age_events),
        "oldest_age_us": _known(one.age_us),
        "older_than_trace": one.is_older,
    }


def _frames(stacks: Stacks, number: int) -> list[Json]:
    return [{"name": f.name, "filename": f.filename, "line": f.line} for f in stacks[number]]
