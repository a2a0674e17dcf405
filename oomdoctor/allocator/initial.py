"""The allocator's state when the trace begins, recovered from its end.

A trace seldom starts with the process. The final segments are known; undoing the events, last first, leads
back: a segment that came in the trace was not there, one that went was; a block freed in the trace and never
allocated in it was there from the start. One thing is not written anywhere: how many bytes more than it asked
for such a block got, where its remainder was not split off. It is bounded by what lay behind it while it
lived.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.constants import SMALL_BUFFER, SMALL_SIZE
from oomdoctor.allocator.recording import Recording
from oomdoctor.allocator.rounding import rounded_sizes
from oomdoctor.allocator.settings import Settings
from oomdoctor.snapshot.model import (
    ACTIVE_PENDING_FREE,
    ALLOC,
    FREE_COMPLETED,
    INACTIVE,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    UNKNOWN,
)
from oomdoctor.snapshot.stacks import NO_STACK

# An expandable segment reserves more addresses than the device has memory; where the recording shows no
# neighbour above it, this much.
RESERVE = 1 << 45

FREE, ALLOCATED, PENDING, UNMAPPED = range(4)


@dataclass(frozen=True)
class Piece:
    """A stretch of addresses: a cudaMalloc'd segment, or a mapped part of an expandable one."""

    start: int
    end: int
    stream: int  # rank
    private_pool: int
    is_small: bool
    expandable: bool


@dataclass(frozen=True)
class OlderBlocks:
    """The blocks that were live before the first event, by address.

    Attributes:
        address, block_size, requested_size: int64[k], the sizes in bytes.
        birth: int64[k], see :mod:`oomdoctor.allocator.recording`.
        state: uint8[k], ALLOCATED or PENDING.
        stack: int32[k], where it was allocated; known of those that are there at the end.
        piece: int64[k], where it lies, index in ``InitialState.pieces``.
        uncertain: bool[k], whether the size is bounded only: it may be up to SMALL_SIZE more than asked for.
    """

    address: NDArray[np.int64]
    block_size: NDArray[np.int64]
    requested_size: NDArray[np.int64]
    birth: NDArray[np.int64]
    state: NDArray[np.uint8]
    stack: NDArray[np.int32]
    piece: NDArray[np.int64]
    uncertain: NDArray[np.bool_]

    @property
    def guessed(self) -> int:
        """Of how many blocks the size is bounded only."""
        return int(self.uncertain.sum())

    def __len__(self) -> int:
        return len(self.address)


@dataclass(frozen=True)
class InitialState:
    """What was there before the first event.

    Attributes:
        pieces: cudaMalloc'd segments and mapped parts of expandable ones, by address.
        blocks: the live blocks in them.
        reserves: start and end of the address range of each expandable segment, ascending.
        notes: what could not be recovered.
    """

    pieces: tuple[Piece, ...]
    blocks: OlderBlocks
    reserves: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]

    def is_empty(self) -> bool:
        """Whether the allocator held nothing: the recording began before its first segment."""
        return not self.pieces


def request_of_segment_events(recording: Recording) -> NDArray[np.int64]:
    """For each event the next alloc or oom, which a segment that comes now serves; -1 after the last."""
    action = recording.events.action
    n = len(action)
    following = np.where((action == ALLOC) | (action == OOM), np.arange(n), n)
    following = np.minimum.accumulate(following[::-1])[::-1]
    return np.where(following < n, following, -1).astype(np.int64)


def small_segment_events(recording: Recording, request: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the segment of each segment event is of the small pool.

    Small segments are SMALL_BUFFER, large ones at least twice that. Parts of expandable segments are told by
    the request they are mapped for; several small ones may be unmapped as one.
    """
    events = recording.events
    small: NDArray[np.bool_] = events.entry_size == SMALL_BUFFER
    mapped = (events.action == SEGMENT_MAP) & (request >= 0)
    small[mapped] = events.entry_size[request[mapped]] <= SMALL_SIZE
    return small


def initial_state(recording: Recording, settings: Settings, small: NDArray[np.bool_]) -> InitialState:
    """Undo the events from the final segments.

    Args:
        settings: the recorded ones, which say how requests were rounded.
        small: see :func:`small_segment_events`.
    """
    notes: list[str] = []
    pieces = sorted(
        _cuda_malloc_pieces(recording, small) + _expandable_pieces(recording, small, notes),
        key=lambda p: p.start,
    )
    pieces = _without_overlaps(pieces, notes)
    blocks = _live_blocks(recording, pieces, settings, notes)
    came = recording.events.address[recording.events.action == SEGMENT_ALLOC]
    return InitialState(
        pieces=tuple(pieces),
        blocks=blocks,
        reserves=_reserves(pieces, came),
        notes=tuple(notes),
    )


def _cuda_malloc_pieces(recording: Recording, small: NDArray[np.bool_]) -> list[Piece]:
    events, segments = recording.events, recording.snapshot.segments
    concerned = np.flatnonzero((events.action == SEGMENT_ALLOC) | (events.action == SEGMENT_FREE))
    _, first = np.unique(events.address[concerned], return_index=True)
    firsts = concerned[first]
    went = firsts[events.action[firsts] == SEGMENT_FREE]
    pieces = [
        Piece(
            start=int(events.address[i]),
            end=int(events.address[i] + events.entry_size[i]),
            stream=int(recording.stream[i]),
            private_pool=int(recording.private_pool[i]),
            is_small=bool(small[i]),
            expandable=False,
        )
        for i in went.tolist()
    ]
    named = set(events.address[firsts].tolist())
    rows = recording.final_segments()
    streams = recording.stream_rank(segments.stream[rows])
    pools = recording.pool_number(segments.pool[rows])
    for at, row in enumerate(rows.tolist()):
        start = int(segments.address[row])
        if not segments.is_expandable[row] and start not in named:
            pieces.append(
                Piece(
                    start=start,
                    end=start + int(segments.total_size[row]),
                    stream=int(streams[at]),
                    private_pool=int(pools[at]),
                    is_small=bool(segments.is_small[row]),
                    expandable=False,
                )
            )
    return pieces


def _expandable_pieces(recording: Recording, small: NDArray[np.bool_], notes: list[str]) -> list[Piece]:
    events, segments = recording.events, recording.snapshot.segments
    rows = recording.final_segments()
    streams = recording.stream_rank(segments.stream[rows])
    pools = recording.pool_number(segments.pool[rows])
    pieces = [
        Piece(
            start=int(segments.address[row]),
            end=int(segments.address[row] + segments.total_size[row]),
            stream=int(streams[at]),
            private_pool=int(pools[at]),
            is_small=bool(segments.is_small[row]),
            expandable=True,
        )
        for at, row in enumerate(rows.tolist())
        if segments.is_expandable[row]
    ]
    concerned = np.flatnonzero((events.action == SEGMENT_MAP) | (events.action == SEGMENT_UNMAP))
    missing = 0
    for i in concerned[::-1].tolist():
        start, end = int(events.address[i]), int(events.address[i] + events.entry_size[i])
        if events.action[i] == SEGMENT_MAP:
            pieces, found = _minus(pieces, start, end)
            missing += not found
        else:
            pieces.append(
                Piece(
                    start, end, int(recording.stream[i]), int(recording.private_pool[i]), bool(small[i]), True
                )
            )
    if missing:
        notes.append(
            f"{missing} segment_map events speak of memory that is neither unmapped nor there at the end"
        )
    return _joined(pieces)


def _minus(pieces: list[Piece], start: int, end: int) -> tuple[list[Piece], bool]:
    """The pieces without a range of addresses, and whether they covered all of it."""
    kept: list[Piece] = []
    covered = 0
    for p in pieces:
        if p.end <= start or end <= p.start:
            kept.append(p)
            continue
        covered += min(p.end, end) - max(p.start, start)
        for left, right in ((p.start, start), (end, p.end)):
            if left < right:
                kept.append(Piece(left, right, p.stream, p.private_pool, p.is_small, p.expandable))
    return kept, covered == end - start


def _joined(pieces: list[Piece]) -> list[Piece]:
    out: list[Piece] = []
    for p in sorted(pieces, key=lambda p: p.start):
        if (
            out
            and out[-1].end == p.start
            and (out[-1].stream, out[-1].private_pool) == (p.stream, p.private_pool)
        ):
            last = out.pop()
            # An unmapped range may have held several small handles: its neighbour knows better.
            p = Piece(last.start, p.end, p.stream, p.private_pool, last.is_small or p.is_small, True)
        out.append(p)
    return out


def _without_overlaps(pieces: list[Piece], notes: list[str]) -> list[Piece]:
    out: list[Piece] = []
    dropped = 0
    for p in pieces:
        if p.start >= p.end or (out and p.start < out[-1].end):
            dropped += 1
        else:
            out.append(p)
    if dropped:
        notes.append(
            f"{dropped} segments that are empty or overlap others at the start of the trace were left out"
        )
    return out


def _live_blocks(
    recording: Recording, pieces: list[Piece], settings: Settings, notes: list[str]
) -> OlderBlocks:
    events = recording.events
    n = len(events)
    final = _final_active(recording)
    # Freed in the trace, not allocated in it: from the first event at their address.
    first_free: dict[int, int] = {}
    freed_at: dict[int, int] = {}
    older = set(recording.older.tolist())
    for i in np.flatnonzero(recording.birth >= n).tolist():
        address = int(events.address[i])
        first_free.setdefault(address, i)
        if events.action[i] == FREE_COMPLETED:
            freed_at.setdefault(address, i)
    found: list[tuple[int, int, int, int, int, int, int]] = []
    for number, address in enumerate(recording.older.tolist()):
        i = first_free[address]
        state = PENDING if events.action[i] == FREE_COMPLETED and _is_deferred(recording, i) else ALLOCATED
        size = final[address][0] if address in final and address not in freed_at else UNKNOWN
        found.append(
            (address, size, int(events.entry_size[i]), n + number, state, NO_STACK, freed_at.get(address, n))
        )
    # Never spoken of in the trace, and there at the end.
    born = set(events.address[events.action == ALLOC].tolist())
    number = len(recording.older)
    for address, (size, requested, state, stack) in final.items():
        if address not in older and address not in born:
            found.append((address, size, requested, n + number, state, stack, n))
            number += 1
    found.sort()
    return _with_sizes(recording, found, pieces, settings, notes)


def _is_deferred(recording: Recording, i: int) -> bool:
    """Whether a free_completed stands alone: its request came before the trace."""
    return recording.birth[i - 1] != recording.birth[i] if i else True


def _final_active(recording: Recording) -> dict[int, tuple[int, int, int, int]]:
    """Of each block that is active at the end, by address: size, size requested, state, stack."""
    blocks = recording.snapshot.blocks
    mine = recording.snapshot.segments.device[blocks.segment] == recording.device
    rows = np.flatnonzero(mine & (blocks.state != INACTIVE))
    return {
        int(blocks.address[row]): (
            int(blocks.block_size[row]),
            max(int(blocks.requested_size[row]), 0),
            PENDING if blocks.state[row] == ACTIVE_PENDING_FREE else ALLOCATED,
            int(blocks.stack[row]),
        )
        for row in rows.tolist()
    }


def _with_sizes(
    recording: Recording,
    found: list[tuple[int, int, int, int, int, int, int]],
    pieces: list[Piece],
    settings: Settings,
    notes: list[str],
) -> OlderBlocks:
    events = recording.events
    allocs = np.flatnonzero(events.action == ALLOC)
    allocs = allocs[np.argsort(events.address[allocs], kind="stable")]
    alloc_addresses = events.address[allocs]
    starts = [p.start for p in pieces]
    kept: list[tuple[int, int, int, int, int, int, int]] = []
    uncertain: list[bool] = []
    homeless = 0
    for at, (address, size, requested, birth, state, stack, freed_at) in enumerate(found):
        piece = bisect_right(starts, address) - 1
        if piece < 0 or address >= pieces[piece].end:
            homeless += 1
            continue
        if kept and kept[-1][0] + kept[-1][1] > address:
            homeless += 1
            continue
        if size > pieces[piece].end - address:
            homeless += 1  # of a damaged snapshot: it reaches beyond its segment
            continue
        sure = True
        if size == UNKNOWN:
            limit = pieces[piece].end
            if at + 1 < len(found):
                limit = min(limit, found[at + 1][0])
            # Whatever was allocated above it while it lived lay behind it.
            low = int(np.searchsorted(alloc_addresses, address, side="right"))
            high = int(np.searchsorted(alloc_addresses, limit, side="left"))
            above = alloc_addresses[low:high][allocs[low:high] < freed_at]
            if len(above):
                limit = min(limit, int(above[0]))
            size, sure = _size_of(requested, limit - address, pieces[piece], settings)
        if size <= 0:
            homeless += 1
            continue
        requested = min(requested, size)  # more only in a damaged recording
        kept.append((address, size, requested, birth, state, stack, piece))
        uncertain.append(not sure)
    if homeless:
        many = (
            "1 block older than the trace lies"
            if homeless == 1
            else f"{homeless:,} blocks older than the trace lie"
        )
        notes.append(f"{many} in no segment that it knows")
    columns: list[tuple[int, ...]] = list(zip(*kept)) if kept else [()] * 7
    return OlderBlocks(
        address=np.array(columns[0], np.int64),
        block_size=np.array(columns[1], np.int64),
        requested_size=np.array(columns[2], np.int64),
        birth=np.array(columns[3], np.int64),
        state=np.array(columns[4], np.uint8),
        stack=np.array(columns[5], np.int32),
        piece=np.array(columns[6], np.int64),
        uncertain=np.array(uncertain, np.bool_),
    )


def _size_of(requested: int, room: int, piece: Piece, settings: Settings) -> tuple[int, bool]:
    """The size of an older block from what it asked for and the room up to what lay behind it.

    In the large pool, whatever lies free behind a block that was split is larger than SMALL_SIZE: the
    remainder was, and so is any block made of it (should_split). Less than that is part of the block itself.
    """
    rounded = int(rounded_sizes(np.array([requested], np.int64), settings.roundup_power2_divisions)[0])
    if rounded >= room:
        return room, rounded == room
    if piece.is_small or piece.expandable:
        return rounded, True
    if rounded >= settings.max_split_size:
        return room, True
    if room - rounded <= SMALL_SIZE:
        return room, True
    return rounded, False


def _reserves(pieces: list[Piece], others: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Address ranges of expandable segments: neighbouring parts of one stream and pool belong together.

    Args:
        others: addresses of segments that came later, which lie in none of them.
    """
    others = np.sort(others)
    out: list[list[int]] = []
    last: tuple[int, ...] = ()
    for p in pieces:
        owner = (p.stream, p.private_pool, int(p.is_small)) if p.expandable else ()
        if not owner or owner != last or p.end > out[-1][1]:
            if last:
                out[-1][1] = min(out[-1][1], p.start)
            if owner:
                above = others[np.searchsorted(others, p.end) :][:1].tolist()
                out.append([p.start, min([p.start + RESERVE, *above])])
        last = owner
    return tuple((start, end) for start, end in out)
