"""From the plain values of a snapshot, any era, to columns.

The eras are those of torch 2.0 to 2.15; a missing field takes its default, an unknown one is ignored:

- 2.0: blocks have no address and no frames but a ``history`` with the size asked for; 9 keys a segment.
- 2.1: block addresses, pool ids, expandable segments. 2.2: times. 2.3: allocator_settings.
- 2.5: external_annotations. 2.7: compile_context. 2.9: graph_capture_record_stream_reuse among the settings.
- 2.10: user_metadata. 2.11: forward_frames. 2.12: pool_id on events. 2.14: host segments and traces beside
  the device's, and the action annotate. 2.15: internal_metadata.
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
    STATES,
    UNKNOWN,
    Annotation,
    Blocks,
    Events,
    Segments,
    Snapshot,
)
from oomdoctor.snapshot.rows import Row, Source, codes, flags, integers, pairs, values
from oomdoctor.snapshot.stacks import NO_STACK
from oomdoctor.snapshot.surprises import Surprises
from oomdoctor.snapshot.tables import RowTable, Table

_CHUNK = 1 << 16
_ACTION_CODES = {name: code for code, name in enumerate(ACTIONS)}
_STATE_CODES = {name: code for code, name in enumerate(STATES)}
# The documented name (torch/cuda/memory.py); files say active_pending_free.
_STATE_CODES["active_awaiting_free"] = ACTIVE_PENDING_FREE
_LINEAR_SETTINGS = (str, int, float, bool)
TOP_LEVEL = frozenset(
    (
        "segments", "device_traces", "allocator_settings", "external_annotations",
        "host_segments", "host_traces",
    )
)  # fmt: skip


def to_snapshot(
    plain: Any, source: Source, *, consume: bool = False, shared: bool = True, event_stacks: bool = True
) -> Snapshot:
    """Convert the dict of ``torch.cuda.memory._snapshot()`` or the list of ``torch.cuda.memory_snapshot()``.

    Args:
        plain: nested plain values; a trace may also be a :class:`~oomdoctor.snapshot.tables.Table`.
        source: where they come from.
        event_stacks: whether events keep their stacks.
        shared: whether frames named twice are one object (a pickle) rather than copies (JSON).
        consume: empty the lists of events while converting, so that both forms never exist in full.

    Raises:
        ForeignInput: it is no snapshot, or a field is of a wrong type.
    """
    top = {"segments": plain} if type(plain) is list else plain
    if type(top) is not dict or "segments" not in top:
        source.refuse(
            "it has no segments" if type(top) is dict else f"it is of type {type(top).__name__}, not a dict"
        )
    stacks, unknown = StackTable(source, shared=shared), Surprises()
    segment_rows = source.rows(top["segments"], "segments")
    segments, blocks = _segments(segment_rows, stacks, source, unknown)
    host_rows = source.rows(top.get("host_segments") or [], "host_segments")
    host_segments, host_blocks = _segments(host_rows, stacks, source, unknown)
    reader = _TraceReader(stacks if event_stacks else None, source, consume, unknown)
    traces = reader.traces(top.get("device_traces"))
    host_traces = reader.host_traces(top.get("host_traces"))
    settings = _settings(top.get("allocator_settings"))
    annotations = _annotations(top.get("external_annotations"), source)
    unknown.top_level(set(top) - TOP_LEVEL)
    return Snapshot(
        segments=segments,
        blocks=blocks,
        traces=traces,
        stacks=stacks.stacks(),
        settings=settings,
        annotations=annotations,
        since=_since(top, segment_rows, settings, reader.keys),
        source=source.name,
        notes=unknown.notes(reader.keys),
        host_segments=host_segments,
        host_blocks=host_blocks,
        host_traces=host_traces,
    )


def _segments(
    rows: list[Row], stacks: StackTable, source: Source, unknown: Surprises
) -> tuple[Segments, Blocks]:
    blocks_of = [source.rows(row.get("blocks", []), "blocks") for row in rows]
    if rows and not any(key in rows[0] for key in ("address", "total_size")):
        source.refuse("its segments have no address and no size")
    counts = np.array([len(blocks) for blocks in blocks_of], dtype=np.int64)
    segments = Segments(
        device=_devices(rows, source),
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
        state=codes(values(flat, "state", "inactive"), _STATE_CODES, unknown.states, "block state", source),
        stack=stacks.column([_block_frames(block) for block in flat]),
    )


def _devices(rows: list[Row], source: Source) -> NDArray[np.int16]:
    devices = integers(values(rows, "device", 0), "segment device", source)
    if ((devices < -1) | (devices > np.iinfo(np.int16).max)).any():
        source.refuse("a segment's device has no such number")
    return devices.astype(np.int16)


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


class _TraceReader:
    """Turns traces into :class:`Events`; ``keys`` are the names of the fields that any entry had."""

    def __init__(
        self, stacks: Optional[StackTable], source: Source, consume: bool, unknown: Surprises
    ) -> None:
        self._stacks, self._source, self._consume, self._unknown = stacks, source, consume, unknown
        self.keys: set[str] = set()

    def traces(self, value: Any) -> tuple[Events, ...]:
        """One :class:`Events` a device."""
        if value is None:
            return ()
        if type(value) is not list:
            self._source.refuse("device_traces should be a list")
        self._source.count(len(value))
        return tuple(self._events(trace) for trace in value)

    def host_traces(self, value: Any) -> tuple[Events, ...]:
        """Host memory has one trace, not one a device (torch 2.14 and 2.15)."""
        return () if value is None else (self._events(value),)

    def _events(self, trace: Any) -> Events:
        labels = _Labels()
        if isinstance(trace, list):
            tables = self._tables(self._source.rows(trace, "a device's trace"))
        elif trace is None or isinstance(trace, (dict, str, bytes, int, float, tuple)):
            self._source.refuse(f"a device's trace is of type {type(trace).__name__}, not a list")
        else:
            tables = iter((trace,))
        parts = [self._columns(table, labels) for table in tables]
        joined: dict[str, NDArray[Any]] = {
            name: _join([part[name] for part in parts], dtype) for name, dtype in _EVENT_TYPES.items()
        }
        return Events(**labels.joined(joined), labels=labels.texts())

    def _tables(self, trace: list[Row]) -> Iterator[Table]:
        for rows in _chunks(trace, self._consume):
            yield RowTable(rows, self._source)

    def _columns(self, table: Table, labels: _Labels) -> dict[str, NDArray[Any]]:
        self.keys |= table.keys()
        nothing = np.full(len(table), NO_STACK, np.int32)
        return {
            "action": table.codes("action", _ACTION_CODES, self._unknown.actions),
            # An oom entry has no addr but device_free.
            "address": table.integers("addr", 0, instead="device_free"),
            "entry_size": table.integers("size", 0),
            "stream": table.integers("stream", 0),
            "time_us": table.integers("time_us", UNKNOWN),
            "stack": nothing if self._stacks is None else table.stacks("frames", self._stacks),
            "pool": table.pairs("pool_id", (UNKNOWN, UNKNOWN)),
            **{name: table.texts(key, labels.tables[name]) for name, key in _LABELS.items()},
        }


# column -> the field that it holds
_LABELS = {
    "label": "user_metadata", "compile_context": "compile_context",
    "forward": "forward_frames", "internal": "internal_metadata",
}  # fmt: skip


class _Labels:
    """The texts of a trace: one numbering for each column while reading, one for all in the end."""

    def __init__(self) -> None:
        self.tables = {
            name: TextTable(("", "N/A") if name == "compile_context" else ("",)) for name in _LABELS
        }

        self._numbers: dict[str, int] = {}

    def joined(self, columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The columns with the numbers of :meth:`texts`."""
        for name, table in self.tables.items():
            numbers = [self._numbers.setdefault(text, len(self._numbers)) for text in table.texts()]
            # The last is where NO_TEXT, which is -1, points to.
            columns[name] = np.array([*numbers, UNKNOWN], np.int32)[columns[name]]
        return columns

    def texts(self) -> tuple[str, ...]:
        return tuple(self._numbers)


def _join(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(dtype[0], dtype[1])


_EVENT_TYPES: dict[str, Any] = {
    "action": (0, np.uint8),
    "address": (0, np.int64),
    "entry_size": (0, np.int64),
    "stream": (0, np.int64),
    "time_us": (0, np.int64),
    "stack": (0, np.int32),
    "pool": ((0, 2), np.int64),
    **dict.fromkeys(_LABELS, (0, np.int32)),
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
        ("2.15", "internal_metadata" in event_keys),
        ("2.14", "host_segments" in top or "host_traces" in top),
        ("2.13", "max_round_threshold" in known or "pinned_max_round_threshold" in known),
        ("2.12", "pool_id" in event_keys),
        ("2.11", "forward_frames" in event_keys),
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
