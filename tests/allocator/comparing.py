"""A program through the real allocator and through ours: what is compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.history import History, history_of, table_of
from oomdoctor.allocator.replay import Outcome, recorded_outcome, replay
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.snapshot import read_snapshot
from oomdoctor.snapshot.model import ACTIVE_ALLOCATED, ACTIVE_PENDING_FREE

from .reference.program import Program
from .reference.run import TOTAL_MEMORY, Policy, run_programs, torch_version
from .reference.run import Outcome as Real

FIGURES = (
    "peak_allocated_bytes",
    "peak_active_bytes",
    "peak_requested_bytes",
    "peak_reserved_bytes",
    "peak_inactive_split_bytes",
    "final_allocated_bytes",
    "final_reserved_bytes",
    "num_alloc_retries",
    "num_ooms",
    "segments_allocated",
    "segments_freed",
)
# The two that a recording cannot always tell: whether a release was a retry, of a capture say.
RECORDED_FIGURES = tuple(name for name in FIGURES if name != "num_alloc_retries")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A program, what the real allocator did with it, and the recording of that, replayed."""

    program: Program
    real: Real
    history: History
    policy: Policy


def visible(program: Program) -> Program:
    """The program with what leaves a trace in a recording: a graph's end shows when the cache is emptied next."""
    ops: list[Any] = []
    for op in program.ops:
        ops.append(op)
        if op[0] == "pool_drop":
            ops.append(("empty_cache",))
    return dataclasses.replace(program, ops=tuple(ops))


def record(
    python: str, programs: Sequence[Program], policy: Policy, folder: Path, *, settings: str = ""
) -> list[Recorded]:
    """Record each program under ``settings``, without calls of ``empty_cache`` that did nothing there.

    Programs that this torch cannot run are left out.
    """
    shown = [dataclasses.replace(visible(program), settings=settings) for program in programs]
    # Twice, since a call that released nothing may have waited for pending frees.
    for _ in range(2):
        first = run_programs(python, shown, policy, timeline=True)
        shown = [
            program.without_idle_empty_cache(outcome.timeline)
            for program, outcome in zip(shown, first)
            if not outcome.unsupported
        ]
    version = torch_version(python)
    parsed = parse_settings(settings, version).settings
    done = run_programs(python, shown, policy, snapshots=folder, max_entries=1_000_000, stacks=True)
    out = []
    for program, real in zip(shown, done):
        assert real.error is None, (program.name, real.error)
        assert real.snapshot is not None
        history = history_of(read_snapshot(real.snapshot), 0, parsed, version)
        out.append(Recorded(program, real, history, policy))
    return out


def differences_in_recording(recorded: Recorded) -> dict[str, Any]:
    """Where the replay of a recording is not what happened: nothing, that is."""
    history = recorded.history
    out: dict[str, Any] = {}
    check = history.check
    if check.matching != check.compared or check.conflicts:
        out["self_check"] = check
    if check.compared != recorded.real.figures["allocations"]:
        out["compared"] = (check.compared, recorded.real.figures["allocations"])
    if final_blocks(history) != snapshot_blocks(history):
        out["final_state"] = "other blocks"
    ours = recorded_outcome(history)
    return {**out, **_figures(ours, recorded.real, RECORDED_FIGURES)}


def final_blocks(history: History) -> list[tuple[int, ...]]:
    """Address, size, whether allocated, whether pending, of each mapped block at the end of the replay."""
    table = table_of(history.last)
    table = table[table["mapped"] == 1]
    columns = (table["ptr"], table["size"], table["allocated"], table["pending"])
    return list(zip(*(column.tolist() for column in columns)))


def snapshot_blocks(history: History) -> list[tuple[int, ...]]:
    """The same, as the snapshot has them."""
    snapshot = history.recording.snapshot
    mine = snapshot.segments.device[snapshot.blocks.segment] == history.recording.device
    rows = np.flatnonzero(mine)
    rows = rows[np.argsort(snapshot.blocks.address[rows], kind="stable")]
    state = snapshot.blocks.state[rows]
    columns = (
        snapshot.blocks.address[rows],
        snapshot.blocks.block_size[rows],
        (state == ACTIVE_ALLOCATED).astype(int),
        (state == ACTIVE_PENDING_FREE).astype(int),
    )
    return list(zip(*(column.tolist() for column in columns)))


def differences_in_replay(recorded: Recorded, asked: Program, real: Real) -> dict[str, Any]:
    """Where our replay of the recording under other conditions is not what the real allocator did under them."""
    version = recorded.history.torch
    conditions = Conditions(
        capacity=asked.capacity,
        total_memory=TOTAL_MEMORY,
        memory_fraction=asked.memory_fraction,
    )
    settings = parse_settings(asked.settings, version).settings
    ours = replay(recorded.history, settings, conditions).outcome
    out = _figures(ours, real, FIGURES)
    failed = real.first_oom and real.first_oom["event_alloc_index"]
    ours_failed: Optional[int] = ours.first_oom and ours.first_oom.alloc_index
    if failed != ours_failed:
        out["first_oom"] = (ours_failed, failed)
    return out


def _figures(ours: Outcome, real: Real, names: Sequence[str]) -> dict[str, Any]:
    return {
        name: (getattr(ours, name), real.figures[name])
        for name in names
        if getattr(ours, name) != real.figures[name]
    }


def capacities(recorded: Recorded) -> list[Optional[int]]:
    """Without end; between what was active and what was reserved at the peak; hardly enough; not enough."""
    active = recorded.real.figures["peak_active_bytes"]
    reserved = recorded.real.figures["peak_reserved_bytes"]
    tight = (active + (reserved - active) // 2, active * 102 // 100, active * 9 // 10)
    return [None, *(size >> 21 << 21 for size in tight)]
