"""The last event before a state, for a person, in a sentence or two."""

from __future__ import annotations

from oomdoctor.diagnosis.last_event import LastEvent, SegmentChange
from oomdoctor.reporters.parts import counted
from oomdoctor.units import format_bytes

_WHY = {
    "new": "no cached block would do",
    "retry": "a retry: cudaMalloc had failed",
    "garbage_collection": "garbage collection",
    "release_available": "cached blocks given back for a large request",
    "empty_cache": "empty_cache()",
}


def last_event_text(event: LastEvent) -> str:
    """What it did."""
    said = f"Event {event.event:,}, the last here: {event.action} of {format_bytes(event.bytes)}"
    if event.device_free is not None:
        said = f"Out of memory at this event: {format_bytes(event.bytes)} were needed in one piece"
        if event.device_free >= 0:
            said += f", and the device had {format_bytes(event.device_free)} free"
    elif event.address is not None:
        said += f" at {event.address:#x}"
    what = []
    if event.block_bytes is not None and event.block_bytes != event.bytes:
        what.append(f"a block of {format_bytes(event.block_bytes)}")
    if event.split_remainder_bytes:
        what.append(f"{format_bytes(event.split_remainder_bytes)} split off behind it stay free")
    merged = ((event.merged_before_bytes, "before"), (event.merged_after_bytes, "after"))
    with_free = [f"{format_bytes(size)} free {where} it" for size, where in merged if size]
    if with_free:
        what.append(f"merged with {' and '.join(with_free)}")
    if event.block_bytes is None and event.device_free is None and event.segments:
        what.append(_WHY.get(event.segments[0].cause, "why is not known"))
        return f"{said}; {', '.join(what)}."
    said = f"{said}; {', '.join(what)}." if what else f"{said}."
    return " ".join([said, *_changes(event.segments)])


def _changes(segments: tuple[SegmentChange, ...]) -> list[str]:
    """What came and went for its sake, gathered by why."""
    out = []
    for came, verb in ((False, "went"), (True, "came")):
        for cause in dict.fromkeys(one.cause for one in segments if one.came == came):
            mine = [one for one in segments if (one.came, one.cause) == (came, cause)]
            total = format_bytes(sum(one.bytes for one in mine))
            why = _WHY.get(cause, "why is not known")
            out.append(f"For it {counted(len(mine), 'segment')} of {total} {verb} ({why}).")
    return out
