"""Whether a heap is sound: what must hold after every event, whatever the rules of the release.

The lists of violations are for tests and for a person in doubt; nothing here runs in a replay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.heap import key_of
from oomdoctor.allocator.heap_layout import NULL, Heap

_MOST_NAMED = 4


def violations(heap: Heap) -> list[str]:
    """What does not hold, a sentence each; empty for a sound heap.

    Checked: blocks tile their segments without gaps or overlaps; ``prev`` and ``next`` agree with the
    addresses; allocated + pending + free = reserved, and the statistics say the same; each list holds exactly
    the blocks that belong in it, in the order of its comparator; no two free neighbours are left that the
    allocator would have merged.

    Blocks that contradict the recording's own segments (``phantom``) belong to no segment and are left out.
    """
    blocks = heap.blocks
    used = np.flatnonzero((blocks["used"] == 1) & (blocks["phantom"] == 0))
    return [
        *_links(blocks, used),
        *_overlaps(blocks, used),
        *_flags(blocks, used),
        *_sums(heap, used),
        *_lists(heap, used),
        *_unmerged(blocks, used),
        *_rows(heap),
    ]


def is_free(blocks: NDArray[Any]) -> NDArray[np.bool_]:
    """bool[m]: which blocks of BLOCK[m] are mapped and in no use."""
    free: NDArray[np.bool_] = (blocks["mapped"] == 1) & (blocks["allocated"] == 0) & (blocks["pending"] == 0)
    return free


def _say(what: str, rows: NDArray[Any], heap_rows: NDArray[Any]) -> list[str]:
    """A violation with the addresses of the first blocks that it concerns."""
    if not len(rows):
        return []
    named = ", ".join(hex(int(heap_rows["ptr"][row])) for row in rows[:_MOST_NAMED].tolist())
    more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
    return [f"{what}: {named}{more}"]


def _links(blocks: NDArray[Any], used: NDArray[np.intp]) -> list[str]:
    """Neighbours name each other, touch, and belong to the same segment."""
    found: list[str] = []
    for forward, backward in (("next", "prev"), ("prev", "next")):
        rows = used[blocks[forward][used] != NULL]
        other = blocks[forward][rows]
        found += _say(f"{forward} is no block", rows[blocks["used"][other] == 0], blocks)
        found += _say(
            f"{backward} of {forward} is another block", rows[blocks[backward][other] != rows], blocks
        )
        for name in ("pool", "stream", "expandable_segment"):
            differs = rows[blocks[name][other] != blocks[name][rows]]
            found += _say(f"{forward} is of another {name}", differs, blocks)
    rows = used[blocks["next"][used] != NULL]
    after = blocks["next"][rows]
    touch = blocks["ptr"][rows] + blocks["size"][rows] == blocks["ptr"][after]
    return found + _say("next does not begin where the block ends", rows[~touch], blocks)


def _overlaps(blocks: NDArray[Any], used: NDArray[np.intp]) -> list[str]:
    """No two blocks share a byte; within a segment the links leave no gap (see ``_links``)."""
    order = used[np.argsort(blocks["ptr"][used], kind="stable")]
    ends = blocks["ptr"][order] + blocks["size"][order]
    overlap = order[1:][ends[:-1] > blocks["ptr"][order][1:]]
    empty = order[blocks["size"][order] <= 0]
    return _say("overlaps the block before it", overlap, blocks) + _say("has no bytes", empty, blocks)


def _flags(blocks: NDArray[Any], used: NDArray[np.intp]) -> list[str]:
    both = used[(blocks["allocated"][used] == 1) & (blocks["pending"][used] == 1)]
    in_use = (blocks["allocated"][used] == 1) | (blocks["pending"][used] == 1)
    unmapped = blocks["mapped"][used] == 0
    plain = blocks["expandable_segment"][used] == NULL
    return (
        _say("allocated and pending", both, blocks)
        + _say("in use and unmapped", used[in_use & unmapped], blocks)
        + _say("unmapped, and of no expandable segment", used[unmapped & plain], blocks)
        + _say(
            "handed out with less than was asked for",
            used[in_use & (blocks["requested_size"][used] > blocks["size"][used])],
            blocks,
        )
    )


def _sums(heap: Heap, used: NDArray[np.intp]) -> list[str]:
    """The statistics say what the blocks add up to."""
    blocks = heap.blocks[used]
    phantom = heap.blocks[(heap.blocks["used"] == 1) & (heap.blocks["phantom"] == 1)]
    mapped, free = blocks["mapped"] == 1, is_free(blocks)
    allocated, pending = blocks["allocated"] == 1, blocks["pending"] == 1
    split = (blocks["prev"] != NULL) | (blocks["next"] != NULL)
    # A segment that came for a request now underway is in no list, and not split.
    inactive = free & split & (blocks["expandable_segment"] == NULL)
    active = int(blocks["size"][allocated | pending].sum() + phantom["size"].sum())
    requested = int(blocks["requested_size"][allocated | pending].sum() + phantom["requested_size"].sum())
    sums = {
        "allocated_bytes": int(
            blocks["size"][allocated].sum() + phantom["size"][phantom["allocated"] == 1].sum()
        ),
        "active_bytes": active,
        "requested_bytes": requested,
        "reserved_bytes": int(blocks["size"][mapped].sum()),
        "inactive_split_bytes": int(blocks["size"][inactive].sum()),
        "inactive_split": int(inactive.sum()),
        "total_allocated_memory": int(blocks["size"][mapped].sum()),
    }
    stats = heap.stats[0]
    found = [
        f"{name} is {int(stats[name]):,} in the statistics, {value:,} in the blocks"
        for name, value in sums.items()
        if int(stats[name]) != value
    ]
    parts = int(blocks["size"][allocated].sum() + blocks["size"][pending].sum() + blocks["size"][free].sum())
    if parts != sums["reserved_bytes"]:
        found.append(f"allocated + pending + free = {parts:,}, reserved = {sums['reserved_bytes']:,}")
    return found


def _lists(heap: Heap, used: NDArray[np.intp]) -> list[str]:
    """Each list holds what belongs in it, once, in order."""
    stats, blocks = heap.stats[0], heap.blocks
    fresh = int(stats["fresh"])
    free = used[is_free(blocks[used]) & (used != fresh)]
    unmapped = used[blocks["mapped"][used] == 0]
    pending = used[blocks["pending"][used] == 1]
    found = []
    for name, rows, count, belongs in (
        ("free_blocks", heap.free_blocks["block"], "free", free),
        ("unmapped", heap.unmapped, "unmapped_count", unmapped),
        ("pending", heap.pending, "pending_count", pending),
    ):
        listed = rows[: int(stats[count])]
        found += _say(f"missing in {name}", np.setdiff1d(belongs, listed), blocks)
        found += _say(f"wrongly in {name}", np.setdiff1d(listed, belongs), blocks)
        if len(np.unique(listed)) != len(listed):
            found.append(f"{name} holds a block twice")
    in_order = heap.free_blocks["block"][: int(stats["free"])]
    found += _out_of_order(blocks, "free_blocks", in_order, ("pool", "stream", "size", "counter", "ptr"))
    keys = heap.free_blocks["key"][: len(in_order)].tolist()
    named = zip(*(blocks[field][in_order].tolist() for field in ("pool", "stream", "size")))
    if keys != [key_of.py_func(*one) for one in named]:  # type: ignore[attr-defined]
        found.append("free_blocks has keys that are not of its blocks")
    in_order = heap.unmapped[: int(stats["unmapped_count"])]
    found += _out_of_order(blocks, "unmapped", in_order, ("pool", "stream", "ptr"))
    return found


def _out_of_order(blocks: NDArray[Any], name: str, rows: NDArray[Any], key: tuple[str, ...]) -> list[str]:
    columns = [blocks[field][rows] for field in key]
    order = np.lexsort(columns[::-1])
    return (
        [] if (order == np.arange(len(rows))).all() else [f"{name} is not in the order of {', '.join(key)}"]
    )


def _unmerged(blocks: NDArray[Any], used: NDArray[np.intp]) -> list[str]:
    """``try_merge_blocks``: neighbours in no use, both mapped or both not, are one block."""
    idle = (blocks["allocated"] == 0) & (blocks["pending"] == 0)
    rows = used[(blocks["next"][used] != NULL) & idle[used]]
    after = blocks["next"][rows]
    same = idle[after] & (blocks["mapped"][after] == blocks["mapped"][rows])
    return _say("free, and not merged with the free block after it", rows[same], blocks)


def _rows(heap: Heap) -> list[str]:
    """Every row is a block or spare."""
    stats = heap.stats[0]
    spare = heap.spare[: int(stats["spares"])]
    found = []
    if int((heap.blocks["used"] == 1).sum()) + len(spare) != int(stats["rows"]):
        found.append("rows are neither used nor spare")
    if len(np.unique(spare)) != len(spare) or (heap.blocks["used"][spare] == 1).any():
        found.append("spare rows are in use, or spare twice")
    return found
