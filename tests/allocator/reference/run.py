"""Programs through the real allocator of some torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from oomdoctor.emulator.drive import DEVICES, drive
from oomdoctor.emulator.torch_build import find_torch

from .program import Program
from .settings import Version

TOTAL_MEMORY = DEVICES.memory_bytes[0]


@dataclass(frozen=True)
class Policy:
    """What a device decides by itself: addresses, and when an event is done."""

    address_order: str = "rising"
    fresh_addresses: bool = False
    seed: int = 0
    event_latency: int = 0

    def document(self) -> dict[str, Any]:
        return vars(self).copy()


POLICIES = (
    Policy("rising"),
    Policy("falling"),
    Policy("random", seed=1),
    Policy("rising", fresh_addresses=True),
    Policy("falling", event_latency=7),
    Policy("random", seed=2, event_latency=40),
)


@dataclass(frozen=True)
class Outcome:
    """What the allocator did with a program.

    Attributes:
        error: what ended the program other than a lack of memory, or None.
        unsupported: what this torch lacks for the program, or None.
        first_oom: ``alloc_index`` among the program's allocations, ``event_alloc_index`` among the allocator's,
            ``op_index``, ``requested_bytes``; or None.
        figures: peaks, counts and what was held at the end, by the names of ``replay --json``.
        timeline: reserved bytes after each operation, where asked for.
        addresses: of each allocation, None where it failed or asked for nothing; where asked for.
        snapshot: the file with the recording, where asked for.
        seconds: for the operations alone.
        leftover: what kept its process from running another program, or None.
    """

    error: Optional[str]
    unsupported: Optional[str]
    first_oom: Optional[dict[str, int]]
    figures: dict[str, int]
    timeline: tuple[int, ...] = ()
    addresses: tuple[Optional[int], ...] = ()
    snapshot: Optional[Path] = None
    seconds: float = 0.0
    leftover: Optional[str] = None


_FIGURES = {
    **{
        f"peak_{name}": f"peak_{name}"
        for name in (
            "allocated_bytes",
            "active_bytes",
            "reserved_bytes",
            "requested_bytes",
            "inactive_split_bytes",
        )
    },
    "final_allocated_bytes": "current_allocated_bytes",
    "final_active_bytes": "current_active_bytes",
    "final_reserved_bytes": "current_reserved_bytes",
    "num_alloc_retries": "num_alloc_retries",
    "num_ooms": "num_ooms",
    "segments_allocated": "segments_allocated",
    "segments_freed": "segments_freed",
    "allocations": "allocations",
}


def _outcome(result: dict[str, Any], snapshot: Optional[Path]) -> Outcome:
    ran = not result["error"] and not result["unsupported"]
    return Outcome(
        error=result["error"],
        unsupported=result["unsupported"],
        first_oom=result.get("first_oom"),
        figures={name: result[key] for name, key in _FIGURES.items()} if ran else {},
        timeline=tuple(result.get("timeline", ())),
        addresses=tuple(result.get("addresses", ())),
        snapshot=snapshot if ran else None,
        seconds=result.get("seconds") or 0.0,
        leftover=result.get("leftover"),
    )


def run_programs(
    python: str,
    programs: Sequence[Program],
    policy: Policy | Sequence[Policy] = POLICIES[0],
    *,
    timeline: bool = False,
    addresses: bool = False,
    snapshots: Optional[Path] = None,
    max_entries: Optional[int] = None,
    stacks: bool = False,
    fresh_process: bool = False,
) -> list[Outcome]:
    """What the allocator of the torch of ``python`` does with each of ``programs``.

    ``policy`` is one for all, or one for each. With ``snapshots`` (a folder) each is recorded, and its snapshot
    written there as ``0.pickle``, ``1.pickle`` and so on.
    """
    policies = [policy] * len(programs) if isinstance(policy, Policy) else list(policy)
    jobs = []
    paths: list[Optional[Path]] = []
    for index, (program, one) in enumerate(zip(programs, policies)):
        path = snapshots / f"{index}.pickle" if snapshots else None
        paths.append(path)
        job: dict[str, Any] = {
            "program": program.document(),
            "timeline": timeline,
            "addresses": addresses,
            "fresh_process": fresh_process,
            **one.document(),
        }
        if path:
            history = {"stacks": stacks}
            job["history"] = history if max_entries is None else {**history, "max_entries": max_entries}
            job["snapshot"] = str(path.resolve())
        jobs.append(job)
    return [_outcome(result, path) for result, path in zip(drive(python, jobs), paths)]


@functools.cache
def torch_version(python: str) -> Version:
    """The release of the torch of ``python``: (2, 15)."""
    major, minor = find_torch(python).version.split(".")[:2]
    return int(major), int(minor)
