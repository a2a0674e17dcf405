"""Replays beside what the real allocator did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.history import History, history_of, table_of
from oomdoctor.allocator.replay import Outcome, replay, requests_of
from oomdoctor.allocator.requests import (
    OP_ALLOC,
    OP_EMPTY_CACHE,
    OP_FREE,
    OP_FREE_COMPLETED,
    OP_FREE_REQUESTED,
)
from oomdoctor.allocator.rules import TorchVersion
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.snapshot import read_snapshot
from oomdoctor.snapshot.model import ACTIVE_ALLOCATED, ACTIVE_PENDING_FREE

from ..reference.program import Program
from .run import TOTAL_MEMORY

FIGURES = (
    "peak_allocated_bytes",
    "peak_active_bytes",
    "peak_reserved_bytes",
    "peak_requested_bytes",
    "peak_inactive_split_bytes",
    "num_alloc_retries",
    "num_ooms",
    "segments_allocated",
    "segments_freed",
)
Differences = dict[str, tuple[Any, Any]]  # name of a figure: ours, PyTorch's


def history_at(path: Path | str, settings: str, torch: TorchVersion) -> History:
    return history_of(read_snapshot(path), 0, parse_settings(settings, torch).settings, torch)


def differences(
    outcome: Outcome, real: Mapping[str, int], first_oom: Optional[int], *, only: tuple[str, ...] = FIGURES
) -> Differences:
    """What is not equal; ``oom`` is after how many allocations memory ran out."""
    out: Differences = {
        name: (getattr(outcome, name), real[name]) for name in only if getattr(outcome, name) != real[name]
    }
    ours = outcome.first_oom.alloc_index if outcome.first_oom else None
    if ours != first_oom:
        out["oom"] = (ours, first_oom)
    return out


def replayed(
    history: History,
    settings: str,
    torch: TorchVersion,
    *,
    capacity: Optional[int] = None,
    memory_fraction: Optional[float] = None,
) -> Outcome:
    conditions = Conditions(capacity=capacity, total_memory=TOTAL_MEMORY, memory_fraction=memory_fraction)
    return replay(history, parse_settings(settings, torch).settings, conditions, torch).outcome


def final_state_differs(history: History) -> str:
    """How the blocks at the end of the replay differ from the snapshot's; empty where they do not."""
    snapshot = history.recording.snapshot
    rows = np.flatnonzero(snapshot.segments.device[snapshot.blocks.segment] == history.recording.device)
    state = snapshot.blocks.state[rows]
    recorded = np.stack(
        [
            snapshot.blocks.address[rows],
            snapshot.blocks.block_size[rows],
            state == ACTIVE_ALLOCATED,
            state == ACTIVE_PENDING_FREE,
        ],
        axis=1,
    )
    recorded = recorded[np.argsort(recorded[:, 0])]
    table = table_of(history.last)
    table = table[table["mapped"] == 1]
    ours = np.stack([table["ptr"], table["size"], table["allocated"], table["pending"]], axis=1)
    if ours.shape != recorded.shape:
        return f"{len(ours)} blocks, {len(recorded)} in the snapshot"
    unequal = np.flatnonzero((ours != recorded).any(axis=1))
    return f"{ours[unequal[0]]}, in the snapshot {recorded[unequal[0]]}" if len(unequal) else ""


def as_program(history: History, name: str = "") -> Program:
    """The recorded requests as operations for the real allocator's driver.

    Raises:
        ValueError: the recording holds what operations cannot say: private pools.
    """
    requests = requests_of(history)
    if requests.private_pool.any():
        raise ValueError("requests to private pools")
    ops: list[tuple[Any, ...]] = []
    streams = len(history.recording.streams)
    for act in range(requests.acts):
        op, birth = int(requests.op[act]), int(requests.birth[act])
        stream = int(requests.stream[act])
        if op == OP_ALLOC:
            ops.append(("alloc", birth, int(requests.requested_size[act]), stream))
        elif op == OP_FREE:
            ops.append(("free", birth))
        elif op == OP_FREE_REQUESTED:
            # Which other stream used it is not recorded; that one did is why its free waited.
            ops += [("record_stream", birth, (stream + 1) % max(streams, 2)), ("free", birth)]
        elif op == OP_EMPTY_CACHE:
            ops.append(("empty_cache",))
        elif op != OP_FREE_COMPLETED:
            raise ValueError(f"operation {op}")
    return Program(tuple(ops), name=name)
