"""From the plain values of a snapshot, any era, to columns.

The eras are those of torch 2.0 to 2.15; a missing field takes its default, an unknown one is ignored:

- 2.0: blocks have no address and no frames but a ``history`` with the size asked for; 9 keys a segment.
- 2.1: block addresses, pool ids, expandable segments. 2.2: times. 2.3: allocator_settings.
- 2.5: external_annotations. 2.7: compile_context. 2.9: graph_capture_record_stream_reuse among the settings.
- 2.10: user_metadata. 2.12: pool_id on events. 2.14: host segments and traces beside the device's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot.intern import StackTable, TextTable
from oomdoctor.snapshot.model import (
    ACTIONS,
    ACTIVE_PENDING_FREE,
    INACTIVE,
    STATES,
    UNKNOWN,
    UNKNOWN_ACTION,
    Annotation,
    Blocks,
    Events,
    Segments,
    Snapshot,
)
from oomdoctor.snapshot.rows import Row, Source, codes, flags, integers, pairs, values
from oomdoctor.snapshot.stacks import NO_STACK

_CHUNK = 1 << 16
_ACTION_CODES = {name: code for code, name in enumerate(ACTIONS)}
_STATE_CODES = {name: code for code, name in enumerate(STATES)}
# The documented name (torch/cuda/memory.py); files say active_pending_free.
_STATE_CODES["active_awaiting_free"] = ACTIVE_PENDING_FREE
_LINEAR_SETTINGS = (str, int, float, bool)


def to_snapshot(
    plain: Any, source: Source, *, consume: bool = False, shared: bool = True, event_stacks: bool = True
) -> Snapshot:
    """Convert the dict of ``torch.cuda.memory._snapshot()`` or the list of ``torch.cuda.memory_snapshot()``.

    Args:
        plain: nested plain values.
        source: where they come from.
        event_stacks: whether events keep their stacks; without them reading takes half of the time.
        shared: whether frames named twice are one object (a pickle) rather than copies (JSON).
        consume: empty the lists of events while converting, so that both forms never exist in full.

    Raises:
        ForeignInput: it is no snapshot, or a field is of a wrong type.
    """
    top = {"segments": plain} if type(plain) is list else plain
    if type(top) is not dict or "segments" not in top:
        found = "no segments in it" if type(top) is dict else f"a {type(top).__name__}, not a dict"
        source.refuse(f"there is {found}")
    stacks = StackTable(source, shared=shared)
    segment_rows = source.rows(top["segments"], "segments")
    segments, blocks = _segments(segment_rows, stacks, source)
    traces = _traces(top.get("device_traces"), stacks if event_stacks else None, source, consume)
    settings = _settings(top.get("allocator_settings"))
    annotations = _annotations(top.get("external_annotations"), source)
    return Snapshot(
        segments=segments,
        blocks=blocks,
        traces=tuple(trace for trace, _ in traces),
        stacks=stacks.stacks(),
        settings=settings,
        annotations=annotations,
        since=_since(top, segment_rows, settings, set().union(*(keys for _, keys in traces))),
        source=source.name,
    )


def _segments(rows: list[Row], stacks: StackTable, source: Source) -> tuple[Segments, Blocks]:
    blocks_of = [source.rows(row.get("blocks", []), "blocks") for row in rows]
    if rows and not any(key in rows[0] for key in ("address", "total_size")):
        source.refuse("its segments have no address and no size")
    counts = np.array([len(blocks) for blocks in blocks_of], dtype=np.int64)
    segments = Segments(
        device=integers(values(rows, "device", 0), "segment device", source).astype(np.int16),
        address=integers(values(rows, "address", 0), "segment address", source),
        total_size=integers(values(rows, "total_size", 0), "segment total_size", source),
        allocated_size=integers(values(rows, "allocated_size", 0), "segment allocated_size", source),
        active_size=integers(values(rows, "active_size", 0), "segment active_size", source),
        requested_size=integers(
            values(rows, "requested_size", None), "segment requested_size", source, default=UNKNOWN
        ),
        stream=integers(values(rows, "stream", 0), "segment stream", source),
        is_small=np.array([kind == "small" for kind in values(rows, "segment_type", "large")], np.bool_),
        pool=pairs(values(rows, "segment_pool_id", (0, 0)), "segment_pool_id", source, (0, 0)),
        is_expandable=flags(values(rows, "is_expandable", False)),
        stack=stacks.column(values(rows, "frames", None)),
        first_block=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )
    flat = [block for blocks in blocks_of for block in blocks]
    owner = np.repeat(np.arange(len(rows), dtype=np.int32), counts)
    sizes = integers(values(flat, "size", 0), "block size", source)
    return segments, Blocks(
        segment=owner,
        address=_block_addresses(flat, sizes, segments, owner, source),
        block_size=sizes,
        requested_size=integers(
            [_requested(block) for block in flat], "block requested_size", source, default=UNKNOWN
        ),
        state=codes(values(flat, "state", "inactive"), _STATE_CODES, INACTIVE, "block state", source),
        stack=stacks.column([_block_frames(block) for block in flat]),
    )


def _block_addresses(
    flat: list[Row], sizes: NDArray[np.int64], segments: Segments, owner: NDArray[np.int32], source: Source
) -> NDArray[np.int64]:
    """Recorded since 2.1; before, blocks follow one another from the segment's address on."""
    if all("address" in block for block in flat):
        return integers(values(flat, "address", 0), "block address", source)
    before = np.cumsum(sizes) - sizes
    # A segment without blocks owns none of the rows, so what stands for its first block does not matter.
    before_segment = np.append(before, 0)[segments.first_block[:-1]]
    return np.asarray((segments.address - before_segment)[owner] + before, dtype=np.int64)


def _latest(block: Row) -> Row:
    history = block.get("history")
    latest = history[0] if type(history) is list and history else None
    return latest if type(latest) is dict else {}


def _requested(block: Row) -> Any:
    requested = block.get("requested_size")
    return _latest(block).get("real_size") if requested is None else requested


def _block_frames(block: Row) -> Any:
    frames = block.get("frames")
    return _latest(block).get("frames") if frames is None else frames


def _traces(
    value: Any, stacks: Optional[StackTable], source: Source, consume: bool
) -> list[tuple[Events, set[str]]]:
    """One :class:`Events` a device, with the names of the fields that its entries have."""
    if value is None:
        return []
    if type(value) is not list:
        source.refuse("device_traces should be a list")
    source.count(len(value))
    return [_events(source.rows(trace, "a device's trace"), stacks, source, consume) for trace in value]


def _events(
    trace: list[Row], stacks: Optional[StackTable], source: Source, consume: bool
) -> tuple[Events, set[str]]:
    labels, contexts = TextTable(), TextTable(("", "N/A"))
    keys: set[str] = set()
    parts: list[dict[str, NDArray[Any]]] = []
    for rows in _chunks(trace, consume):
        keys.update(key for row in (rows[0], rows[-1]) for key in row if type(key) is str)
        actions = values(rows, "action", "unknown")
        parts.append(
            {
                "action": codes(actions, _ACTION_CODES, UNKNOWN_ACTION, "action", source),
                "address": integers(_addresses(rows), "addr", source),
                "entry_size": integers(values(rows, "size", 0), "size", source),
                "stream": integers(values(rows, "stream", 0), "stream", source),
                "time_us": integers(values(rows, "time_us", UNKNOWN), "time_us", source, default=UNKNOWN),
                "stack": (
                    stacks.column(values(rows, "frames", None))
                    if stacks is not None
                    else np.full(len(rows), NO_STACK, np.int32)
                ),
                "pool": pairs(
                    values(rows, "pool_id", (UNKNOWN, UNKNOWN)), "pool_id", source, (UNKNOWN, UNKNOWN)
                ),
                "label": labels.column(values(rows, "user_metadata", "")),
                "compile_context": contexts.column(values(rows, "compile_context", "")),
            }
        )
        del rows
    empty = {"pool": np.empty((0, 2), np.int64)}
    joined: dict[str, NDArray[Any]] = {
        name: np.concatenate([part[name] for part in parts]) if parts else empty.get(name, np.empty(0, dtype))
        for name, dtype in _EVENT_TYPES.items()
    }
    shift = len(labels.texts())
    joined["compile_context"] = np.where(
        joined["compile_context"] >= 0, joined["compile_context"] + shift, UNKNOWN
    ).astype(np.int32)
    return Events(**joined, labels=labels.texts() + contexts.texts()), keys


_EVENT_TYPES: dict[str, Any] = {
    "action": np.uint8,
    "address": np.int64,
    "entry_size": np.int64,
    "stream": np.int64,
    "time_us": np.int64,
    "stack": np.int32,
    "pool": np.int64,
    "label": np.int32,
    "compile_context": np.int32,
}


def _chunks(trace: list[Row], consume: bool) -> Iterator[list[Row]]:
    """The trace, oldest first, a chunk at a time; ``consume`` empties it behind the reader."""
    if not consume:
        for start in range(0, len(trace), _CHUNK):
            yield trace[start : start + _CHUNK]
        return
    trace.reverse()
    while trace:
        chunk = trace[-_CHUNK:]
        del trace[-_CHUNK:]
        chunk.reverse()
        yield chunk


def _addresses(rows: list[Row]) -> list[Any]:
    try:
        return [row["addr"] for row in rows]
    except KeyError:
        # An oom entry has no addr but device_free.
        return [row.get("addr", row.get("device_free", 0)) for row in rows]


def _settings(value: Any) -> Optional[dict[str, Any]]:
    """Settings are plain values by name, and one table of rounding divisions."""
    if type(value) is not dict:
        return None
    kept: dict[str, Any] = {}
    for key, setting in value.items():
        if type(key) is not str:
            continue
        if type(setting) in _LINEAR_SETTINGS:
            kept[key] = setting
        elif type(setting) is dict:
            kept[key] = {k: v for k, v in setting.items() if type(k) is str and type(v) in _LINEAR_SETTINGS}
    return kept


def _annotations(value: Any, source: Source) -> tuple[Annotation, ...]:
    if value is None:
        return ()
    kept = []
    for row in source.rows(value, "external_annotations"):
        name, stage = row.get("name", ""), row.get("stage", "")
        device, time_us = row.get("device", UNKNOWN), row.get("time_us", UNKNOWN)
        if type(name) is str and type(stage) is str and type(device) is int and type(time_us) is int:
            kept.append(Annotation(name, stage, device, time_us))
    return tuple(kept)


def _since(
    top: dict[str, Any], segments: list[Row], settings: Optional[dict[str, Any]], event_keys: set[str]
) -> str:
    """The oldest release that writes all these fields."""
    known = settings or {}
    first_blocks: list[Row] = next((row["blocks"] for row in segments if row.get("blocks")), [])
    for release, has in (
        ("2.14", "host_segments" in top or "host_traces" in top),
        ("2.13", "max_round_threshold" in known or "pinned_max_round_threshold" in known),
        ("2.12", "pool_id" in event_keys),
        ("2.10", "user_metadata" in event_keys),
        ("2.9", "graph_capture_record_stream_reuse" in known),
        ("2.7", "compile_context" in event_keys),
        ("2.5", "external_annotations" in top),
        ("2.3", "allocator_settings" in top),
        ("2.2", "time_us" in event_keys),
        ("2.1", any("address" in block for block in first_blocks[:1])),
    ):
        if has:
            return release
    return "2.0"
