"""Whether the snapshot and torch's own counters agree, to the byte."""

from __future__ import annotations

from typing import Any

import numpy as np

from oomdoctor.diagnosis.model import Finding
from oomdoctor.diagnosis.state import DeviceState
from oomdoctor.snapshot.model import ACTIVE_ALLOCATED
from oomdoctor.units import format_bytes


def disagreements(state: DeviceState, sidecar_device: dict[str, Any]) -> list[Finding]:
    """Findings where blocks do not sum to ``torch.cuda.memory_stats``, or do not fill a segment."""
    found = []
    for what, ours in (
        ("reserved", state.reserved),
        ("allocated", state.allocated),
        ("active", state.allocated + state.pending),
    ):
        theirs = sidecar_device.get(f"{what}_bytes")
        if isinstance(theirs, int) and theirs != ours:
            found.append(
                Finding(
                    f"{what}-differs",
                    f"The snapshot's blocks sum to {format_bytes(ours)} {what}, "
                    f"torch.cuda.memory_stats says {format_bytes(theirs)}.",
                    "recorded",
                    abs(theirs - ours),
                    {"snapshot_bytes": ours, "memory_stats_bytes": theirs},
                )
            )
    broken = _broken_segments(state)
    if broken:
        found.append(
            Finding(
                "blocks-do-not-fill-segments",
                f"In {broken} segments the blocks do not add up to the segment: "
                "this file was edited, or is not PyTorch's.",
                "recorded",
                None,
                {"segments": broken},
            )
        )
    return found


def _broken_segments(state: DeviceState) -> int:
    """Segments whose blocks leave gaps, overlap, or disagree with the segment's own sums."""
    segments, blocks = state.snapshot.segments, state.snapshot.blocks
    count = len(segments)
    filled = np.zeros(count, dtype=np.int64)
    np.add.at(filled, blocks.segment, blocks.block_size)
    allocated = np.zeros(count, dtype=np.int64)
    live = blocks.state == ACTIVE_ALLOCATED
    np.add.at(allocated, blocks.segment[live], blocks.block_size[live])
    wrong = (filled != segments.total_size) | (allocated != segments.allocated_size)
    follows = np.flatnonzero(blocks.segment[1:] == blocks.segment[:-1])
    gap = blocks.address[follows] + blocks.block_size[follows] != blocks.address[follows + 1]
    wrong[blocks.segment[follows[gap]]] = True
    return int((wrong & state.segments).sum())
