"""Whether a recording is at one with itself: its segments and blocks, and where its events lead."""

from __future__ import annotations

import numpy as np

from oomdoctor.allocator.history import History
from oomdoctor.allocator.layout import layout_of
from oomdoctor.snapshot.model import INACTIVE, Snapshot
from oomdoctor.units import format_bytes


def agrees_with_snapshot(history: History) -> bool:
    """Whether the replayed end has the snapshot's own live blocks, at their addresses, of their sizes."""
    recording = history.recording
    snapshot = recording.snapshot
    rows = recording.final_segments()
    layout = layout_of(history.last)
    mine = snapshot.segments.device[snapshot.blocks.segment] == recording.device
    theirs = np.flatnonzero(mine & (snapshot.blocks.state != INACTIVE))
    theirs = theirs[np.argsort(snapshot.blocks.address[theirs], kind="stable")]
    ours = layout.blocks[layout.live]
    return (
        layout.phantoms == 0
        and int(snapshot.segments.total_size[rows].sum()) == int(layout.blocks["size"].sum())
        and np.array_equal(snapshot.blocks.address[theirs], ours["ptr"])
        and np.array_equal(snapshot.blocks.block_size[theirs], ours["size"])
        and np.array_equal(snapshot.blocks.state[theirs], layout.state[layout.live])
    )


def disagreement(history: History) -> str:
    """How far the end of the replay is from the state in the snapshot, in a sentence."""
    recording = history.recording
    snapshot = recording.snapshot
    layout = layout_of(history.last)
    mine = snapshot.segments.device[snapshot.blocks.segment] == recording.device
    theirs = mine & (snapshot.blocks.state != INACTIVE)
    ours = layout.blocks["size"][layout.live]
    reserved = int(snapshot.segments.total_size[recording.final_segments()].sum())
    return (
        "the end of the replay is not the state in the snapshot, block by block: the snapshot has"
        f" {_amount(int(theirs.sum()), int(snapshot.blocks.block_size[theirs].sum()))} live in"
        f" {format_bytes(reserved)} reserved, the replay {_amount(len(ours), int(ours.sum()))} in"
        f" {format_bytes(int(layout.blocks['size'].sum()))}; what is shown is the replay's"
    )


def broken_segments(snapshot: Snapshot, device: int) -> list[str]:
    """What cannot be about the segments of a device, a sentence each: PyTorch writes no such file."""
    segments, blocks = snapshot.segments, snapshot.blocks
    mine = segments.device == device
    sizes_out = mine & (segments.total_size <= 0)
    filled = np.zeros(len(segments), np.int64)
    np.add.at(filled, blocks.segment, blocks.block_size)
    untiled = filled != segments.total_size
    firsts = segments.first_block[:-1]
    some = np.diff(segments.first_block) > 0
    untiled[some] |= blocks.address[firsts[some]] != segments.address[some]
    follows = np.flatnonzero(blocks.segment[1:] == blocks.segment[:-1])
    gap = blocks.address[follows] + blocks.block_size[follows] != blocks.address[follows + 1]
    untiled[blocks.segment[follows[gap]]] = True
    untiled &= mine & ~sizes_out
    rows = np.flatnonzero(mine & ~sizes_out)
    rows = rows[np.argsort(segments.address[rows], kind="stable")]
    ends = np.maximum.accumulate(segments.address[rows] + segments.total_size[rows])
    overlapping = int((segments.address[rows][1:] < ends[:-1]).sum())
    found = (
        (int(sizes_out.sum()), "no size that a segment can have"),
        (int(untiled.sum()), "blocks that do not fill it without gaps"),
        (overlapping, "memory that another has as well"),
    )
    return [
        f"{_count(count, 'segment')} of the snapshot {'has' if count == 1 else 'have'} {what}: the file was"
        " edited, or PyTorch did not write it"
        for count, what in found
        if count
    ]


def _amount(blocks: int, size: int) -> str:
    return f"{_count(blocks, 'block')} of {format_bytes(size)}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
