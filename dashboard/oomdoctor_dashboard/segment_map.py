"""The address space of a device at one moment, as boxes in rows: a memory map drawn to scale.

Every row is equally many bytes wide. A segment longer than a row goes on in the next ones; several short ones
share a row, in the order of their addresses, with a gap between them that means nothing. What lies below a
pixel is joined per state, so that the bytes of each state stay what they are; who looks nearer sees it apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.layout import Layout
from oomdoctor.allocator.moment import Moment
from oomdoctor.snapshot.model import ACTIVE_ALLOCATED, INACTIVE

MIB = 1 << 20

STATES = ("allocated", "pending free", "hole", "free")
"""What a box is: in use; freed, another stream is waited for; an inactive split, free in a segment with a
live block; free in a segment without any."""
ALLOCATED, PENDING, HOLE, FREE = range(4)

# So many rows fill a laptop's screen twice.
MOST_ROWS = 60
# So many go over the wire at each step; who zooms is sent twice as many.
MOST_BOXES = 3000
# A row on the screen; what is less than one of these wide cannot be seen.
PIXELS = 1200
# Between segments that share a row, in rows.
_GAP = 1 / 250


@dataclass(frozen=True)
class Filter:
    """Which segments to show.

    Attributes:
        pool: "large", "small", "private", or "" for all.
        stream: rank of the stream; None for all.
        only_holes: only those with free and live blocks.
        segment: address of the only one to show; None for all.
    """

    pool: str = ""
    stream: Optional[int] = None
    only_holes: bool = False
    segment: Optional[int] = None


@dataclass(frozen=True)
class Group:
    """Segments of one kind of pool, under a heading.

    Attributes:
        name: of the pool.
        line: where its heading stands; its rows follow.
        segments, bytes: how many, and how large together.
    """

    name: str
    line: int
    segments: int
    bytes: int


@dataclass(frozen=True)
class SegmentMap:
    """Boxes in lines. A line is a row of memory or a heading, from 0 at the top.

    Attributes:
        moment: what is drawn.
        row_bytes: where a long segment goes on in the next line.
        line_bytes: of each line: a little more, so that short ones that fill a row fit with their gaps.
        lines: how many.
        groups: the headings.
        segment: int64[s], the segments shown, as numbered in ``moment.layout``, in the order drawn.
        first_line, left: int64[s], the line that each begins in, and how many bytes from its left.
        line, start, bytes: int64[k], of each box: its line, bytes from the left, its length.
        state: uint8[k], index in :data:`STATES`.
        kind: int64[k], what it was asked to be coloured by.
        block: int64[k], row of the layout's blocks: the box's block, or the first of several.
        count: int64[k], blocks (parts of blocks, where they go on in the next line) in the box.
    """

    moment: Moment
    row_bytes: int
    lines: int
    groups: tuple[Group, ...]
    segment: NDArray[np.int64]
    first_line: NDArray[np.int64]
    left: NDArray[np.int64]
    line: NDArray[np.int64]
    start: NDArray[np.int64]
    bytes: NDArray[np.int64]
    state: NDArray[np.uint8]
    kind: NDArray[np.int64]
    block: NDArray[np.int64]
    count: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.line)

    def where(self, address: int, size: int) -> list[tuple[int, int, int]]:
        """Line, start and end of each part of a stretch of memory; none where it is not shown."""
        starts, sizes = bounds(self.moment.layout)
        at = int(np.searchsorted(starts, address, side="right")) - 1
        if at < 0 or address >= starts[at] + sizes[at]:
            return []
        drawn = np.flatnonzero(self.segment == at)
        if not len(drawn):
            return []
        line, left = int(self.first_line[drawn[0]]), int(self.left[drawn[0]])
        low = int(address - starts[at])
        high = min(low + size, int(sizes[at]))
        width = self.row_bytes if sizes[at] > self.line_bytes else self.line_bytes
        return [
            (line + i, left + max(low - i * width, 0), left + min(high - i * width, width))
            for i in range(low // width, (high - 1) // width + 1)
        ]

    @property
    def line_bytes(self) -> int:
        """See above."""
        return line_bytes(self.row_bytes)


def line_bytes(row_bytes: int) -> int:
    """Bytes of a line whose row has so many."""
    return row_bytes + row_bytes // 50


def bounds(layout: Layout) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Addresses and sizes of the segments."""
    starts: NDArray[np.int64] = layout.blocks["ptr"][layout.first_block[:-1]]
    return starts, layout.per_segment(layout.blocks["size"])


def state_of(layout: Layout) -> NDArray[np.uint8]:
    """uint8[m]: for each block the index in :data:`STATES`."""
    out = np.where(layout.in_hole, HOLE, FREE).astype(np.uint8)
    live = layout.state != INACTIVE
    out[live] = np.where(layout.state[live] == ACTIVE_ALLOCATED, ALLOCATED, PENDING)
    return out


def pool_of(layout: Layout) -> NDArray[np.int64]:
    """int64[s]: of each segment 0 for the large pool, 1 for the small one, 1 + p for private pool p."""
    firsts = layout.first_block[:-1]
    private = layout.private_pool[firsts].astype(np.int64)
    return np.where(private > 0, 1 + private, layout.is_small[firsts].astype(np.int64))


def chosen(layout: Layout, only: Filter) -> NDArray[np.int64]:
    """The segments that a filter lets through, by pool and then by address."""
    firsts = layout.first_block[:-1]
    pool = pool_of(layout)
    mask = np.ones(layout.segments, np.bool_)
    if only.pool:
        kind = {"large": pool == 0, "small": pool == 1, "private": pool > 1}
        mask &= kind.get(only.pool, mask)
    if only.stream is not None:
        mask &= layout.blocks["stream"][firsts] == only.stream
    if only.only_holes:
        mask &= layout.per_segment(layout.in_hole.astype(np.int64)) > 0
    if only.segment is not None:
        mask &= layout.blocks["ptr"][firsts] == only.segment
    rows = np.flatnonzero(mask)
    return rows[np.argsort(pool[rows], kind="stable")]


def row_bytes_for(layout: Layout, only: Filter, most_rows: int = MOST_ROWS) -> int:
    """The shortest round row in which the chosen segments take at most so many."""
    rows = chosen(layout, only)
    if not len(rows):
        return 2 * MIB
    _, sizes = bounds(layout)
    pool = pool_of(layout)[rows]
    largest = int(sizes[rows].max())
    if only.segment is not None:
        return _round(-(-largest // 12), 4096)
    # A small segment is 2 MiB, and most large ones are 20: no row need be shorter.
    width = _round(max(2 * MIB, min(largest, 20 * MIB), int(sizes[rows].sum()) // most_rows), MIB)
    while _packed(sizes[rows], pool, width)[2] > most_rows:
        width = _round(width + 1, MIB)
    return width


def _round(size: int, least: int) -> int:
    """The next 2^k or 3 × 2^k of units."""
    unit = least
    while unit < size:
        if unit * 3 // 2 >= size and unit > least:
            return unit * 3 // 2
        unit *= 2
    return unit


def _packed(
    sizes: NDArray[np.int64], pool: NDArray[np.int64], row_bytes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, list[tuple[int, int, int, int]]]:
    """First line and left of segments, how many lines; and per pool: line, first and last segment, number."""
    first_line, lefts = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
    gap, whole = max(int(row_bytes * _GAP), 1), line_bytes(row_bytes)
    line, left = -1, 0
    groups: list[tuple[int, int, int, int]] = []
    for i, (size, number) in enumerate(zip(sizes.tolist(), pool.tolist())):
        if not groups or groups[-1][3] != number:
            line, left = line + 1, whole  # its heading; the first segment begins a line
            groups.append((line, i, i, number))
        groups[-1] = (*groups[-1][:2], i + 1, number)
        if left + size > whole:
            line, left = line + 1, 0
        first_line[i], lefts[i] = line, left
        if size > whole:
            line, left = line + (size - 1) // row_bytes, (size - 1) % row_bytes + 1
        else:
            left += size
        left += gap
    return first_line, lefts, line + 1, groups


def segment_map(
    moment: Moment,
    only: Optional[Filter] = None,
    *,
    kind: Optional[NDArray[np.int64]] = None,
    row_bytes: Optional[int] = None,
    seen: Optional[tuple[int, int]] = None,
    most_boxes: int = MOST_BOXES,
) -> SegmentMap:
    """Lay a moment out.

    Args:
        only: which segments; all by default.
        kind: int64[m], what live blocks are told apart by beside their state, from 0.
        row_bytes: of each line; as many as fit by default. A longer row is taken where it needs more than
            twice :data:`MOST_ROWS` lines.
        seen: the stretch of the lines that is looked at, if not all: it is drawn finer. It is about lines as
            long as ``row_bytes`` says.
        most_boxes: more are joined, beyond what is below a pixel.
    """
    only = only or Filter()
    layout = moment.layout
    rows = chosen(layout, only)
    starts, sizes = bounds(layout)
    pool = pool_of(layout)[rows]
    width = row_bytes or row_bytes_for(layout, only)
    first_line, left, lines, groups = _packed(sizes[rows], pool, width)
    while lines > 2 * MOST_ROWS and only.segment is None:
        width = _round(width + 1, MIB)
        first_line, left, lines, groups = _packed(sizes[rows], pool, width)
    counts = layout.first_block[rows + 1] - layout.first_block[rows]
    home = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(home)) - np.repeat(np.cumsum(counts) - counts, counts)
    block = layout.first_block[rows][home] + within
    within = layout.blocks["ptr"][block] - starts[rows][home]
    wrap = np.where(sizes[rows] > line_bytes(width), width, line_bytes(width))[home]
    state = state_of(layout)[block]
    kinds = np.zeros(len(block), np.int64) if kind is None else np.where(state <= PENDING, kind[block], 0)
    pieces = _cut(first_line[home], left[home], within, layout.blocks["size"][block], wrap)
    seen = seen if width == row_bytes else None
    boxes = _boxes(pieces, line_bytes(width), home, state, kinds, block, most_boxes, seen)
    names = {0: "large pool", 1: "small pool"}
    recording = moment.history.recording
    return SegmentMap(
        moment=moment,
        row_bytes=width,
        lines=lines,
        groups=tuple(
            Group(
                names.get(number) or recording.pool_name(number - 1),
                line,
                after - first,
                int(sizes[rows[first:after]].sum()),
            )
            for line, first, after, number in groups
        ),
        segment=rows,
        first_line=first_line,
        left=left,
        **boxes,
    )


@dataclass(frozen=True)
class _Pieces:
    """Blocks cut where lines end: which block each piece is of, its line, bytes from the left, length."""

    of: NDArray[np.int64]
    line: NDArray[np.int64]
    left: NDArray[np.int64]
    length: NDArray[np.int64]


def _cut(
    first_line: NDArray[np.int64],
    left: NDArray[np.int64],
    within: NDArray[np.int64],
    size: NDArray[np.int64],
    wrap: NDArray[np.int64],
) -> _Pieces:
    """Blocks by where their segment begins, how far in it they begin, and after how many bytes it goes on."""
    first = within // wrap
    cuts = (within + size - 1) // wrap - first + 1
    of = np.repeat(np.arange(len(size)), cuts)
    turn = first[of] + np.arange(len(of)) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    low = np.maximum(within[of] - turn * wrap[of], 0)
    high = np.minimum((within + size)[of] - turn * wrap[of], wrap[of])
    return _Pieces(of=of, line=first_line[of] + turn, left=left[of] + low, length=high - low)


def _boxes(
    pieces: _Pieces,
    width: int,
    segment: NDArray[np.int64],
    state: NDArray[np.uint8],
    kind: NDArray[np.int64],
    block: NDArray[np.int64],
    most: int,
    seen: Optional[tuple[int, int]],
) -> dict[str, NDArray[Any]]:
    """What is too short to see joined; columns of a :class:`SegmentMap`."""
    of, line, left, length = pieces.of, pieces.line, pieces.left, pieces.length
    # The state and what it is coloured by as one number.
    look = kind[of] * len(STATES) + state[of]
    # Where it lies: 0 before what is looked at, 1 there, 2 behind; and what is too short there.
    part = np.zeros(len(of), np.int64)
    shortest = np.full(3, max(width // PIXELS, 1))

    def tried() -> tuple[NDArray[np.bool_], tuple[NDArray[np.int64], ...]]:
        cell = shortest[part]
        short = length < cell
        columns = (column[short] for column in (line, left, length, segment[of], look, part, cell))
        return short, _joined(*columns)

    short, joined = tried()
    while int((~short).sum()) + len(joined[0]) > most and shortest[0] < width:
        shortest *= 2
        short, joined = tried()
    if seen is not None:
        part = 1 + (left >= seen[1]).astype(np.int64) - (left + length <= seen[0])
        shortest[1] = max((seen[1] - seen[0]) // PIXELS, 1)
        short, joined = tried()
        while int((~short).sum()) + len(joined[0]) > 2 * most and shortest[1] < shortest[0]:
            shortest[1] *= 2
            short, joined = tried()
    at = np.flatnonzero(short)[joined[4]]
    long = np.flatnonzero(~short)
    looks = np.concatenate([look[long], joined[3]])
    return {
        "line": np.concatenate([line[long], joined[0]]),
        "start": np.concatenate([left[long], joined[1]]),
        "bytes": np.concatenate([length[long], joined[2]]),
        "state": (looks % len(STATES)).astype(np.uint8),
        "kind": looks // len(STATES),
        "block": block[of[np.concatenate([long, at])]],
        "count": np.concatenate([np.ones(len(long), np.int64), joined[5]]),
    }


def _joined(
    line: NDArray[np.int64],
    left: NDArray[np.int64],
    length: NDArray[np.int64],
    segment: NDArray[np.int64],
    look: NDArray[np.int64],
    part: NDArray[np.int64],
    cell: NDArray[np.int64],
) -> tuple[NDArray[np.int64], ...]:
    """Short pieces that begin in the same cell of a line, joined by look, side by side.

    All that begin in one cell lie there without a gap: what is longer than a cell ends in another.

    Returns:
        line, start, length, look, the first of the pieces, and how many.
    """
    if not len(line):
        empty = np.empty(0, np.int64)
        return (empty,) * 6
    new = np.ones(len(line), np.bool_)
    for column in (line, segment, part, left // cell):
        new[1:] &= column[1:] == column[:-1]
    new[0] = False
    run = np.cumsum(~new) - 1
    looks = int(look.max()) + 1
    key, first, inverse, count = np.unique(
        run * looks + look, return_index=True, return_inverse=True, return_counts=True
    )
    total = np.zeros(len(key), np.int64)
    np.add.at(total, inverse.reshape(-1), length)
    of_run = key // looks
    begins = np.flatnonzero(~new)
    before = np.cumsum(total) - total
    start = left[begins][of_run] + before - before[np.searchsorted(of_run, of_run)]
    return line[begins][of_run], start, total, key % looks, first, count
