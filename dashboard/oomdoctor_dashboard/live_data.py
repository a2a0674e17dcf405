"""What is live at one moment: blocks and places, sorted, counted, and as rows of a table."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.moment import Moment
from oomdoctor.allocator.recording import Recording
from oomdoctor.diagnosis.by_stack import kept_places
from oomdoctor.diagnosis.frames import frame_text
from oomdoctor.errors import UsageError
from oomdoctor.snapshot.model import ACTIVE_ALLOCATED, ACTIVE_PENDING_FREE, STATES, UNKNOWN
from oomdoctor.snapshot.stacks import NO_STACK, Stacks
from oomdoctor.units import format_bytes, format_seconds
from oomdoctor_dashboard.library import Loaded
from oomdoctor_dashboard.live_filter import Age, Bounds, Wanted, pool_key
from oomdoctor_dashboard.stack_tree import Trie

NO_PLACE = "stack not recorded"
OLDER = "older than the trace"
PLACE_COLUMNS = {
    "place": "Place", "blocks": "Blocks", "block_size": "Bytes", "share": "Share of all live",
    "rounding": "Rounding", "age": "Oldest",
}  # fmt: skip
"""Heads of a table of places, by name in the rows of :func:`page_of`."""
# Sorts above every age that is known.
_OLDEST = np.iinfo(np.int64).max


class Places:
    """The places of a recording's stacks as text, told when they are asked for and kept.

    Attributes:
        texts: of each place, a line: the telling frames, innermost first.
    """

    def __init__(self, stacks: Stacks) -> None:
        self.stacks = stacks
        self.texts: list[str] = []
        self._kept = kept_places(stacks)
        self._tries = {all_frames: Trie(stacks, all_frames) for all_frames in (False, True)}
        self._frames_as_text: Optional[list[str]] = None
        self._lock = threading.Lock()

    def of(self, numbers: NDArray[np.int32]) -> NDArray[np.int64]:
        """The place of each of some stacks: index in ``texts``."""
        found = self._kept.of(self.stacks, numbers)
        with self._lock:
            for place in self._kept.places[len(self.texts) :]:
                self.texts.append(" ← ".join(map(frame_text, place.frames)) or NO_PLACE)
        return found

    def trie(self, all_frames: bool) -> Trie:
        """The stacks as a tree, of all frames or of those that tell."""
        return self._tries[all_frames]

    def with_text(self, text: str) -> NDArray[np.bool_]:
        """bool[stacks + 1]: which stacks have a frame with this text, lower case, in its name or file."""
        with self._lock:
            if self._frames_as_text is None:
                # In full, and as the table shows it.
                self._frames_as_text = [
                    f"{f.name} {f.filename}:{f.line}\n{frame_text(f)}".lower() for f in self.stacks.frames
                ]
        has = np.fromiter((text in one for one in self._frames_as_text), np.bool_, len(self._frames_as_text))
        # Sums, for a stack may be empty.
        before = np.concatenate([[0], np.cumsum(has[self.stacks.flat], dtype=np.int64)])
        out = np.zeros(len(self.stacks) + 1, np.bool_)
        out[:-1] = before[self.stacks.starts[1:]] > before[self.stacks.starts[:-1]]
        return out


def places_of(loaded: Loaded) -> Places:
    """Those of a recording, made once."""
    return loaded.made("live-places", lambda one: Places(one.recording.snapshot.stacks))


@dataclass(frozen=True)
class Live:
    """The live blocks of a moment, or some of them, by address.

    Attributes:
        moment, places: what they are of.
        rows: int64[k], in the blocks of ``moment.layout``.
        place: int64[k], index in ``places.texts``.
        total_bytes, total_blocks: of all that is live, also where these are some.
    """

    moment: Moment
    places: Places
    rows: NDArray[np.int64]
    place: NDArray[np.int64]
    total_bytes: int
    total_blocks: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def block_size(self) -> NDArray[np.int64]:
        """int64[k], bytes."""
        sizes: NDArray[np.int64] = self.moment.layout.blocks["size"][self.rows]
        return sizes

    @property
    def requested_size(self) -> NDArray[np.int64]:
        """int64[k], bytes."""
        sizes: NDArray[np.int64] = self.moment.layout.blocks["requested_size"][self.rows]
        return sizes

    @property
    def address(self) -> NDArray[np.int64]:
        """int64[k]."""
        addresses: NDArray[np.int64] = self.moment.layout.blocks["ptr"][self.rows]
        return addresses

    @property
    def stack(self) -> NDArray[np.int32]:
        """int32[k], where each was allocated."""
        return self.moment.stack[self.rows]

    @property
    def bytes(self) -> int:
        """All their bytes."""
        return int(self.block_size.sum())

    def take(self, mask: NDArray[np.bool_]) -> Live:
        """Some of them."""
        return Live(
            self.moment, self.places, self.rows[mask], self.place[mask], self.total_bytes, self.total_blocks
        )


def live_of(moment: Moment, places: Places) -> Live:
    """All that is live."""
    rows = np.flatnonzero(moment.layout.live).astype(np.int64)
    total = int(moment.layout.blocks["size"][rows].sum())
    return Live(moment, places, rows, places.of(moment.stack[rows]), total, len(rows))


def chosen(live: Live, wanted: Wanted) -> Live:
    """The blocks that are asked for.

    Raises:
        UsageError: an age in time, where no times were recorded.
    """
    layout, rows = live.moment.layout, live.rows
    mask = np.ones(len(rows), np.bool_)
    if wanted.text:
        mask &= _has_text(live, wanted.text)
    if wanted.size:
        mask &= _within(live.block_size, wanted.size)
    if wanted.age:
        mask &= _of_age(live.moment, rows, wanted.age)
    if wanted.stream is not None:
        mask &= layout.blocks["stream"][rows] == wanted.stream
    if wanted.state:
        state = ACTIVE_PENDING_FREE if wanted.state == "pending" else ACTIVE_ALLOCATED
        mask &= layout.state[rows] == state
    if wanted.pool:
        private, small = layout.private_pool[rows], layout.is_small[rows]
        number, _, size_class = wanted.pool.partition(":")
        mask &= (private.astype(str) == number) & (small == (size_class == "small"))
    return live.take(mask)


def _has_text(live: Live, text: str) -> NDArray[np.bool_]:
    if text.startswith("0x"):
        try:
            address = int(text, 16)
        except ValueError:
            return np.zeros(len(live), np.bool_)
        address = min(address, int(_OLDEST))
        inside: NDArray[np.bool_] = (live.address <= address) & (address < live.address + live.block_size)
        return inside
    return live.places.with_text(text)[live.stack]


def _within(values: NDArray[np.int64], bounds: Bounds) -> NDArray[np.bool_]:
    mask = np.ones(len(values), np.bool_)
    # Numbers beyond 64 bits can be typed.
    if bounds.low is not None:
        mask &= values >= min(bounds.low, int(_OLDEST))
    if bounds.high is not None:
        mask &= values <= min(bounds.high, int(_OLDEST))
    return mask


def _of_age(moment: Moment, rows: NDArray[np.int64], age: Age) -> NDArray[np.bool_]:
    """Blocks older than the trace are older than any age."""
    is_older = moment.birth[rows] == UNKNOWN
    if age.unit == "older":
        mask: NDArray[np.bool_] = is_older
        return mask
    if age.unit == "us" and moment.events and moment.time_us == UNKNOWN:
        raise UsageError("no times were recorded", next_step="give the age in events: 1000 events")
    ages = np.where(is_older, _OLDEST, (moment.age_us if age.unit == "us" else moment.age_events)[rows])
    return _within(ages, age.bounds)


# ---- names ----


def pool_name(recording: Recording, private_pool: int, is_small: bool) -> str:
    """``large``, or ``large, private 0.2``."""
    size_class = "small" if is_small else "large"
    if not private_pool:
        return size_class
    return f"{size_class}, {recording.pool_name(private_pool)}"


def stream_name(recording: Recording, stream: int) -> str:
    """Streams are numbered as ``oomdoctor inspect`` does, 0 is the default one; the handle says little."""
    return str(sorted({0, *recording.streams.tolist()}).index(int(recording.streams[stream])))


def pool_choices(moment: Moment) -> list[dict[str, str]]:
    """The pools that hold something, the most reserved bytes first, as choices of a box."""
    recording = moment.history.recording
    seen: dict[str, str] = {}
    for c in moment.fragmentation.compartments:
        seen.setdefault(
            pool_key(c.private_pool, c.is_small), pool_name(recording, c.private_pool, c.is_small)
        )
    return [{"value": key, "label": name} for key, name in seen.items()]


def stream_choices(moment: Moment) -> list[dict[str, str]]:
    """The streams that occur, as choices of a box."""
    recording = moment.history.recording
    return [
        {"value": str(rank), "label": f"stream {stream_name(recording, rank)}"}
        for rank in range(len(recording.streams))
    ]


def basis_of(device: DeviceHistory, moment: Moment) -> str:
    """What the state stands on, as :func:`oomdoctor.diagnosis.inspection.inspect_device` says it."""
    return "recorded" if moment.events == len(moment.history.recording) and device.agrees else "replayed"


def age_text(age_events: int, age_us: int, is_older: bool) -> str:
    """``1,200 events, 3.4 s``."""
    if is_older:
        return OLDER
    if age_events == UNKNOWN:
        return ""
    events = "1 event" if age_events == 1 else f"{age_events:,} events"
    if age_us == UNKNOWN:
        return events
    return f"{events}, {f'{age_us} µs' if age_us < 1000 else format_seconds(age_us / 1e6)}"


# ---- tables ----


@dataclass(frozen=True)
class Table:
    """Rows that can be sorted by any column, of which a page is sent.

    Attributes:
        columns: numbers (or texts) to sort by, by name of the column.
        frame: the same for people and other programs, a row each.
        has_history: whether ages can be known at all.
    """

    columns: dict[str, NDArray[Any]]
    frame: pd.DataFrame
    ids: list[str]
    has_history: bool

    def __len__(self) -> int:
        return len(self.ids)

    def order(self, column: str = "block_size", descending: bool = True) -> NDArray[np.intp]:
        """The rows in the order of a column; as they are where there is no such column."""
        values = self.columns.get(column)
        if values is None:
            return np.arange(len(self))
        _, rank = np.unique(values, return_inverse=True)
        return np.argsort(-rank if descending else rank, kind="stable")


def blocks_table(live: Live) -> Table:
    """A row per block; sizes in bytes, times in microseconds, -1 where not known."""
    moment, rows = live.moment, live.rows
    layout, recording = moment.layout, moment.history.recording
    born = moment.birth[rows]
    is_older = born == UNKNOWN
    size, requested = live.block_size, live.requested_size
    private, small, stream = layout.private_pool[rows], layout.is_small[rows], layout.blocks["stream"][rows]
    pools, pool = np.unique(2 * private.astype(np.int64) + small, return_inverse=True)
    names = np.array([pool_name(recording, one // 2, one % 2 == 1) for one in pools.tolist()], object)
    streams = np.array([stream_name(recording, rank) for rank in range(len(recording.streams))], object)
    texts = np.array(live.places.texts or [""], object)
    frame = pd.DataFrame(
        {
            "place": texts[live.place],
            "block_size": size,
            "requested_size": requested,
            "rounding": size - requested,
            "age_events": moment.age_events[rows],
            "age_us": moment.age_us[rows],
            "older_than_trace": is_older,
            "alloc_event": born,
            "state": np.array(STATES, object)[layout.state[rows]],
            "pool": names[pool] if len(rows) else np.empty(0, object),
            "stream": streams[stream] if len(rows) else np.empty(0, object),
            "address": live.address,
        }
    )
    columns = {name: frame[name].to_numpy() for name in frame.columns if name not in ("place", "pool")}
    columns["place"] = _ranks_of_texts(live.places.texts)[live.place] if len(rows) else live.place
    columns["pool"] = pool
    columns["state"] = layout.state[rows]
    columns["stream"] = stream
    columns["age"] = np.where(is_older, _OLDEST, moment.age_events[rows])
    return Table(columns, frame, [str(address) for address in live.address.tolist()], len(recording) > 0)


def places_table(live: Live) -> Table:
    """A row per place, the most bytes first; the share is of all that is live."""
    moment = live.moment
    count = np.bincount(live.place, minlength=len(live.places.texts))
    bytes_of = np.zeros(len(count), np.int64)
    np.add.at(bytes_of, live.place, live.block_size)
    asked = np.zeros(len(count), np.int64)
    np.add.at(asked, live.place, live.requested_size)
    is_older = np.zeros(len(count), np.bool_)
    is_older[live.place[moment.birth[live.rows] == UNKNOWN]] = True
    age_events = np.full(len(count), UNKNOWN, np.int64)
    np.maximum.at(age_events, live.place, moment.age_events[live.rows])
    age_us = np.full(len(count), UNKNOWN, np.int64)
    np.maximum.at(age_us, live.place, moment.age_us[live.rows])
    # Of a place with a block older than the trace the age is not known.
    age_events[is_older] = UNKNOWN
    age_us[is_older] = UNKNOWN
    there = np.flatnonzero(count)
    there = there[np.argsort(-bytes_of[there], kind="stable")]
    frame = pd.DataFrame(
        {
            "place": np.array(live.places.texts or [""], object)[there],
            "blocks": count[there],
            "block_size": bytes_of[there],
            "rounding": (bytes_of - asked)[there],
            "share": bytes_of[there] / max(live.total_bytes, 1),
            "age_events": age_events[there],
            "age_us": age_us[there],
            "older_than_trace": is_older[there],
        }
    )
    columns = {name: frame[name].to_numpy() for name in frame.columns if name != "place"}
    columns["place"] = _ranks_of_texts(live.places.texts)[there] if len(there) else there
    columns["age"] = np.where(is_older[there], _OLDEST, age_events[there])
    has_history = len(moment.history.recording) > 0
    return Table(columns, frame, [f"place:{number}" for number in there.tolist()], has_history)


def _ranks_of_texts(texts: list[str]) -> NDArray[np.int64]:
    rank = np.empty(len(texts), np.int64)
    rank[np.argsort(np.array(texts, object), kind="stable")] = np.arange(len(texts))
    return rank


def page_of(table: Table, order: NDArray[np.intp], start: int, stop: int) -> list[dict[str, Any]]:
    """Rows of the table as they are shown: texts, and the number of the event to go to."""
    rows = order[max(start, 0) : stop]
    frame = table.frame.iloc[rows]
    shown: list[dict[str, Any]] = []
    for row, one in zip(rows.tolist(), frame.to_dict("records")):
        record = {
            "id": table.ids[row],
            "place": one["place"],
            "block_size": format_bytes(one["block_size"]),
            "rounding": format_bytes(one["rounding"]),
            "age": age_text(one["age_events"], one["age_us"], one["older_than_trace"] and table.has_history),
        }
        if "blocks" in one:
            record |= {"blocks": f"{one['blocks']:,}", "share": f"{one['share']:.1%}"}
        else:
            record |= {
                "requested_size": format_bytes(one["requested_size"]),
                "alloc_event": "" if one["alloc_event"] == UNKNOWN else f"{one['alloc_event']:,}",
                "state": "pending" if one["state"] == STATES[ACTIVE_PENDING_FREE] else "allocated",
                "pool": one["pool"],
                "stream": one["stream"],
                "address": f"{one['address']:#x}",
            }
        shown.append(record)
    return shown


def csv_of(table: Table) -> str:
    """All rows, the largest first; empty where a number is not known."""
    frame = table.frame.iloc[table.order()].copy()
    for name in ("age_events", "age_us", "alloc_event"):
        if name in frame:
            frame[name] = frame[name].astype("Int64").where(frame[name] != UNKNOWN)
    if "address" in frame:
        frame["address"] = [hex(address) for address in frame["address"]]
    text: str = frame.to_csv(index=False)
    return text


def stack_to_show(live: Live, row_id: str) -> tuple[int, NDArray[np.int64]]:
    """The stack of a row, the one of the most bytes for a place, and the blocks that it stands for.

    Returns:
        number of the stack, NO_STACK where not known; positions in ``live``, none where it is not live.
    """
    if row_id.startswith("place:"):
        number = row_id[len("place:") :]
        mine = np.flatnonzero(live.place == int(number)) if number.isdigit() else np.empty(0, np.int64)
    else:
        mine = np.flatnonzero(live.address == int(row_id)) if row_id.isdigit() else np.empty(0, np.int64)
    if not len(mine):
        return NO_STACK, mine
    stacks, of = np.unique(live.stack[mine], return_inverse=True)
    sums = np.bincount(of, weights=live.block_size[mine])
    return int(stacks[np.argmax(sums)]), mine
