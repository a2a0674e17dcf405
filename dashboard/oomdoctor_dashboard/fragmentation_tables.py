"""The tables of the fragmentation page: measures by pool and stream, and what pins holes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Optional

import pandas as pd

from oomdoctor.allocator.fragmentation import Compartment, Measures
from oomdoctor.allocator.moment import Moment
from oomdoctor.diagnosis.frames import frame_text
from oomdoctor.diagnosis.inspection import Inspection, PinWithAge
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor.units import format_bytes
from oomdoctor_dashboard.live_data import NO_PLACE, age_text, pool_name, stream_name

Rows = list[dict[str, Any]]

MOST_PINS = 100

# Name of the measure, head of the column, what it means: docs/explanation/fragmentation.md in short.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("reserved_bytes", "Reserved", "All segments: allocated + pending + free."),
    ("allocated_bytes", "Allocated", "Blocks in use."),
    ("pending_bytes", "Pending", "Blocks freed by the program while another stream may still use them."),
    ("free_bytes", "Free", "Reserved, neither allocated nor pending."),
    (
        "internal_bytes",
        "Internal",
        "Internal fragmentation: allocated and pending blocks, less what was asked for (rounding, and"
        " remainders too small to split off).",
    ),
    (
        "hole_bytes",
        "In holes",
        "Free blocks in a segment that holds a live block: they cannot go back to the device.",
    ),
    ("holes", "Holes", "How many free blocks lie in segments that hold a live block."),
    ("largest_free_bytes", "Largest free", "The largest free block: what is free serves no larger request."),
    (
        "external",
        "External",
        "External fragmentation: 1 − largest free block ÷ free. 0 where all free memory is one block.",
    ),
    (
        "inactive_split_bytes",
        "Inactive split",
        "Free blocks that are a part of a cudaMalloc'd segment, as torch.cuda.memory_stats has it.",
    ),
    (
        "releasable_bytes",
        "Releasable",
        "Free memory that a retry or empty_cache() gives back: whole segments, and whole handles of"
        " expandable ones.",
    ),
    (
        "stranded_bytes",
        "Stranded",
        "Free memory that no request of the recorded sizes may take, and that cannot be given back. Not known"
        " where no history was recorded.",
    ),
    ("reserved_over_allocated", "Res. ÷ alloc.", "Reserved bytes for each byte allocated."),
    ("segments", "Segments", "cudaMalloc calls, or stretches of expandable segments mapped without a gap."),
    ("live_blocks", "Live blocks", "Blocks allocated or pending."),
)  # fmt: skip

PIN_COLUMNS: tuple[tuple[str, str, str], ...] = (
    (
        "hole_bytes",
        "Hole bytes",
        "Bytes of holes that blocks of this place hold open. Several places may hold the same hole: the"
        " figures do not add up.",
    ),
    ("alone", "Alone", "Bytes of holes that nothing else holds open: moving these blocks would join them."),
    ("blocks", "Blocks", "Live blocks of this place that stand in segments with holes."),
    ("bytes", "Their bytes", "What these blocks take themselves."),
    ("segments", "Segments", "In how many segments with holes they stand."),
    ("age", "Oldest", "Since the oldest of them was allocated."),
)  # fmt: skip


def device_row(moment: Moment) -> dict[str, Any]:
    """The sums, shown above the compartments."""
    return {"pool": "device", "stream": "all", **_measured(moment.fragmentation.device)}


def pool_rows(moment: Moment) -> Rows:
    """A row per pool and stream, by descending reserved bytes; each number also as text, ``name_text``."""
    return [{**_named(moment, c), **_measured(c.measures)} for c in moment.fragmentation.compartments]


def _named(moment: Moment, c: Compartment) -> dict[str, Any]:
    recording = moment.history.recording
    return {
        "pool": pool_name(recording, c.private_pool, c.is_small),
        "stream": stream_name(recording, c.stream),
    }


def _measured(measures: Measures) -> dict[str, Any]:
    values = {name: getattr(measures, name) for name, _, _ in COLUMNS}
    return {**values, **{f"{name}_text": measure_text(name, value) for name, value in values.items()}}


def measure_text(name: str, value: Optional[float]) -> str:
    """One measure as a person reads it."""
    if value is None:
        return "unknown" if name == "stranded_bytes" else ""
    if name.endswith("_bytes"):
        return format_bytes(int(value))
    if name == "external":
        return f"{value:.1%}"
    return f"{value:.2f}" if name == "reserved_over_allocated" else f"{value:,}"


def pools_csv(moment: Moment) -> str:
    """All measures of the device and its compartments, in bytes."""
    names = [f.name for f in fields(Measures)]

    def row(head: dict[str, Any], measures: Measures) -> dict[str, Any]:
        return {
            **head,
            **{name: getattr(measures, name) for name in names},
            "external_fragmentation": measures.external,
            "reserved_over_allocated": measures.reserved_over_allocated,
        }

    rows = [row({"pool": "device", "stream": "all"}, moment.fragmentation.device)]
    rows += [row(_named(moment, c), c.measures) for c in moment.fragmentation.compartments]
    text: str = pd.DataFrame(rows).astype({"stranded_bytes": "Int64"}).to_csv(index=False)
    return text


def pin_rows(inspection: Inspection, most: Optional[int] = MOST_PINS) -> Rows:
    """A row per place that holds holes open, the most bytes first."""
    return [_pin(one) for one in inspection.pins[:most]]


def _pin(one: PinWithAge) -> dict[str, Any]:
    pin = one.pin
    values = {
        "hole_bytes": pin.keeps_open,
        "alone": pin.alone,
        "blocks": pin.count,
        "bytes": pin.bytes,
        "segments": pin.segments,
        "age": _age(one),
    }
    return {
        "place": " ← ".join(map(frame_text, pin.place.frames)) or NO_PLACE,
        **values,
        "hole_bytes_text": format_bytes(pin.keeps_open),
        "alone_text": format_bytes(pin.alone),
        "blocks_text": f"{pin.count:,}",
        "bytes_text": format_bytes(pin.bytes),
        "segments_text": f"{pin.segments:,}",
        "age_text": age_text(one.age_events, one.age_us, one.is_older),
    }


def _age(one: PinWithAge) -> int:
    """To sort by: older than the trace is older than anything; exact in a browser."""
    return (1 << 53) if one.is_older else one.age_events


def pins_csv(inspection: Inspection) -> str:
    """All places that hold holes open."""
    rows = [
        {
            "place": row["place"],
            "hole_bytes": row["hole_bytes"],
            "hole_bytes_alone": row["alone"],
            "blocks": row["blocks"],
            "bytes": row["bytes"],
            "segments": row["segments"],
            "oldest_age_events": None if one.age_events == UNKNOWN else one.age_events,
            "oldest_age_us": None if one.age_us == UNKNOWN else one.age_us,
            "older_than_trace": one.is_older,
        }
        for row, one in zip(pin_rows(inspection, None), inspection.pins)
    ]
    names = ("oldest_age_events", "oldest_age_us")
    columns = ["place", "hole_bytes", "hole_bytes_alone", "blocks", "bytes", "segments", *names]
    frame = pd.DataFrame(rows, columns=[*columns, "older_than_trace"])
    text: str = frame.astype(dict.fromkeys(names, "Int64")).to_csv(index=False)
    return text
