"""The story of a recording at a glance, from its diagnosis and its replay: plain sentences and rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from oomdoctor.allocator.replay import recorded_outcome
from oomdoctor.diagnosis.model import Remedy
from oomdoctor.diagnosis.run import Case, RunDiagnosis, diagnose_run, diagnose_snapshot
from oomdoctor.diagnosis.state import device_state
from oomdoctor.snapshot import Snapshot
from oomdoctor.snapshot.model import OOM
from oomdoctor.units import format_bytes
from oomdoctor_dashboard.library import Item, Library, Loaded

TITLES = {
    "fragmentation": "fragmentation",
    "capacity": "the memory is really used",
    "other-process": "another process has the memory",
    "limit": "a limit below the device's memory",
    "non-pytorch": "memory outside PyTorch's allocator",
    "impossible-request": "more than the device has",
    "unknown": "the recording does not say why",
}


@dataclass(frozen=True)
class Story:
    """What the top of the page says of one device.

    Attributes:
        failed: whether it ran out of memory, as far as is known.
        word: the same for a person.
        title: who, and what happened.
        sentence: why, in one sentence; empty where there is none.
        figures: peaks and what there was, each with its basis.
        remedy: the first that is worth trying; None where there is none.
        notes: what a reader has to know of the recording.
    """

    failed: bool
    word: str
    title: str
    sentence: str
    figures: tuple[tuple[str, str, str], ...]
    remedy: Optional[Remedy]
    notes: tuple[str, ...]


def diagnosis_of(library: Library, item: Item) -> RunDiagnosis:
    """What ``oomdoctor explain`` says of the run that a snapshot lies in, or of the snapshot; made once.

    Raises:
        InputError: it cannot be read.
    """
    path = item.run or item.source.path

    def work(job: Any) -> RunDiagnosis:
        return diagnose_run(path) if item.run else diagnose_snapshot(path)

    # A folder that grows is understood anew when a dump came.
    dumps = sum(1 for other in library.items() if other.run == item.run) if item.run else 0
    job = library.jobs.start(("diagnosis", path, dumps), f"Explaining {item.group}", work)
    job.wait()
    if job.error is not None:
        raise job.error
    found: RunDiagnosis = job.result
    return found


def case_of(run: RunDiagnosis, item: Item, device: int) -> Optional[Case]:
    """The case of one device of one snapshot; None where the diagnosis has none."""
    for case in run.cases:
        same_dump = not run.is_run or (case.process == item.source.process and case.dump == item.source.dump)
        if same_dump and case.diagnosis.facts.device == device:
            return case
    return None


def story_of(loaded: Loaded, case: Optional[Case]) -> Story:
    """The story of a device; ``case`` where the diagnosis speaks of it."""
    device, item = loaded.device, loaded.item
    who = f"GPU {device.device}" + (f", {_process(item)}" if _process(item) else "")
    outcome = recorded_outcome(loaded.history)
    figures = []
    if device.has_events:
        basis = "recorded" if device.is_as_recorded else "replayed"
        figures.append(("peak allocated", format_bytes(outcome.peak_allocated_bytes), basis))
        figures.append(("peak reserved", format_bytes(outcome.peak_reserved_bytes), basis))
        figures.append(("out-of-memory errors", f"{outcome.num_ooms:,}", "recorded"))
        figures.append(("retries", f"{outcome.num_alloc_retries:,}", basis))
        figures.append(("events", f"{loaded.events:,}", "recorded"))
    else:
        state = loaded.moment(None).fragmentation.device
        figures.append(("allocated", format_bytes(state.allocated_bytes), "recorded"))
        figures.append(("reserved", format_bytes(state.reserved_bytes), "recorded"))
    if device.total_bytes is not None:
        figures.append(("device memory", format_bytes(device.total_bytes), "recorded"))
    is_known = device.has_events or (item.source.dump or "").endswith("-exit")
    failed = outcome.num_ooms > 0 or (case is not None and case.is_oom)
    title, sentence, remedy = f"{who}: no out-of-memory error in this recording", "", None
    if not is_known:
        title = f"{who}: a state without history, which does not say whether memory ran out"
    if failed and case is not None and case.is_oom:
        title = f"{who} ran out of memory: {TITLES[case.diagnosis.verdict]}"
        sentence = next((f.summary for f in case.diagnosis.findings), "")
        remedy = next((r for r in case.diagnosis.remedies if r.command), None)
    elif failed:
        title = f"{who} ran out of memory"
        if outcome.first_oom is not None:
            wanted = format_bytes(outcome.first_oom.requested_bytes)
            sentence = f"{wanted} could not be had at allocation {outcome.first_oom.alloc_index:,}."
    word = "out of memory" if failed else "did not fail" if is_known else "state only"
    return Story(failed, word, title, sentence, tuple(figures), remedy, device.notes)


def _process(item: Item) -> str:
    rank, pid = item.source.rank, item.source.pid
    parts = [f"rank {rank}"] if rank is not None else []
    return ", ".join([*parts, *([f"pid {pid}"] if pid is not None else [])])


def first_oom(loaded: Loaded) -> Optional[int]:
    """After how many events memory had run out first; None where it did not."""
    found = np.flatnonzero(loaded.recording.events.action == OOM)
    return int(found[0]) + 1 if len(found) else None


def rows_of(library: Library, run: RunDiagnosis, item: Item) -> list[dict[str, Any]]:
    """A row per case of the run: OOMs, and the states of what did not fail. Sizes in bytes or None."""
    mine = [other for other in library.items() if other.run == item.run] if item.run else [item]
    keys = {(other.source.process, other.source.dump): other.key for other in mine}
    rows = []
    for case in run.cases:
        facts = case.diagnosis.facts
        key = keys.get((case.process, case.dump)) if run.is_run else item.key
        is_known = run.is_run or _has_events(library.snapshot(item.key), facts.device)
        rows.append(
            {
                "item": key,
                "process": case.where or item.label,
                "rank": facts.rank,
                "device": facts.device,
                "dump": case.dump or "",
                "verdict": case.diagnosis.verdict if case.is_oom else _not_failed(is_known),
                "requested": facts.requested_bytes,
                "allocated": facts.allocated_bytes,
                "reserved": facts.reserved_bytes,
                "free": facts.free_bytes,
                "total": facts.total_bytes,
            }
        )
    rows += _rest(library, item, {(row["item"], row["device"]) for row in rows})
    return rows


def _not_failed(is_known: bool) -> str:
    return "did not fail" if is_known else "not known"


def _has_events(snapshot: Snapshot, device: Optional[int]) -> bool:
    return device is not None and device < len(snapshot.traces) and len(snapshot.traces[device].action) > 0


def _rest(library: Library, item: Item, there: set[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Devices of a snapshot that the diagnosis has nothing to say of: what they held, recorded."""
    rows = []
    snapshot = library.snapshot(item.key)
    for device in snapshot.devices():
        if (item.key, device) in there:
            continue
        state = device_state(snapshot, device)
        rows.append(
            {
                "item": item.key,
                "process": _process(item) or item.label,
                "rank": item.source.rank,
                "device": device,
                "dump": item.source.dump or "",
                "verdict": _not_failed(_has_events(snapshot, device)),
                "requested": None,
                "allocated": state.allocated,
                "reserved": state.reserved,
                "free": None,
                "total": item.source.total_bytes(device),
            }
        )
    return rows
