"""What the real allocator does with a program under every setting, to hold advice against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from oomdoctor.advice.advise import Advice, advise
from oomdoctor.advice.evaluate import Place
from oomdoctor.advice.search import local_map
from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import read_snapshot

from ..allocator.comparing import record
from ..allocator.reference.program import Program
from ..allocator.reference.run import TOTAL_MEMORY, Outcome, Policy, run_programs, torch_version
from ..allocator.reference.settings import Version, settings_for

POLICY = Policy("rising", fresh_addresses=True)
MIB_2 = 2 << 20


@dataclass(frozen=True)
class Case:
    """A program, what it took with memory to spare, and what it has to live with.

    Attributes:
        program: the requests.
        generous: what the real allocator came to by default settings and without an end of memory.
        device: the recording of that.
        place: where it lies.
        capacity: bytes.
    """

    program: Program
    generous: Outcome
    device: DeviceHistory
    place: Place
    capacity: int

    def at(self, capacity: int) -> Case:
        return replace(self, capacity=capacity >> 21 << 21)

    def between(self, share: float) -> Case:
        """A capacity between what was in use at the peak (0) and what was reserved (1); above it, more."""
        active = self.generous.figures["peak_active_bytes"]
        reserved = self.generous.figures["peak_reserved_bytes"]
        # Small programs need a segment of each pool at least.
        return self.at(max(int(active + share * (reserved - active)), 2 * MIB_2))


def recorded_cases(python: str, programs: Sequence[Program], folder: Path) -> list[Case]:
    """Each program recorded by the real allocator with memory to spare."""
    version = torch_version(python)
    cases = []
    for one in record(python, programs, POLICY, folder):
        assert one.real.snapshot is not None
        path = str(one.real.snapshot)
        # Fractions, and the address space of expandable segments, are of the memory that all these devices have.
        source = SnapshotSource(path, document={"devices": [{"device": 0, "total_bytes": TOTAL_MEMORY}]})
        device = load_device(read_snapshot(path), source, 0, version)
        cases.append(Case(one.program, one.real, device, Place(path, 0, version), 0).between(1))
    return cases


def advised(case: Case) -> Advice:
    """The advice for the recording at the capacity."""
    recordings = [(case.place, case.device)]
    with local_map(recordings, workers=1) as mapped:
        return advise(recordings, mapped, capacity=case.capacity)


def listed_settings(version: Version) -> list[str]:
    """The settings that the tests of the heap know, without those that come with a memory fraction."""
    return [setting.text for setting in settings_for(version) if setting.fraction_of_peak is None]


def asked(case: Case, text: str, capacity: Optional[int] = None) -> Program:
    """The program under a setting. A fraction in it is read when a process starts, so it is set by hand."""
    capacity = case.capacity if capacity is None else capacity
    fraction = parse_settings(text, case.device.history.torch).settings.per_process_memory_fraction
    return case.program.under(
        text,
        capacity=capacity,
        memory_fraction=fraction if fraction < 1.0 else None,
    )


def driven(python: str, wanted: Sequence[tuple[Case, str]]) -> list[Outcome]:
    """What the real allocator does with each, in as few processes as can be."""
    outcomes = run_programs(python, [asked(case, text) for case, text in wanted], POLICY)
    for (case, text), outcome in zip(wanted, outcomes):
        trouble = outcome.error or outcome.unsupported
        assert trouble is None, (case.program.name, text, trouble)
    return outcomes


def brute_force(
    python: str, cases: Sequence[Case], texts: Sequence[Sequence[str]]
) -> list[dict[str, Outcome]]:
    """For each case the outcome under each of its texts."""
    wanted = [(case, text) for case, several in zip(cases, texts) for text in dict.fromkeys(several)]
    out: list[dict[str, Outcome]] = [{} for _ in cases]
    number = {id(case): at for at, case in enumerate(cases)}
    for (case, text), outcome in zip(wanted, driven(python, wanted)):
        out[number[id(case)]][text] = outcome
    return out


def reached(outcome: Outcome) -> int:
    """Index of the allocation that failed; large where none did."""
    return 1 << 62 if outcome.first_oom is None else outcome.first_oom["event_alloc_index"]


def differences(case: Case, advice: Advice, text: str, real: Outcome) -> dict[str, object]:
    """Where the replay that the advice stands on is not what the real allocator did."""
    (one,) = [tried for tried in advice.tried if tried.alloc_conf == text]
    ours = one.outcomes[0]
    names = ("peak_reserved_bytes", "num_alloc_retries", "num_ooms", "segments_allocated", "segments_freed")
    out: dict[str, object] = {
        name: (getattr(ours, name), real.figures[name])
        for name in names
        if getattr(ours, name) != real.figures[name]
    }
    if reached(real) != (1 << 62 if ours.first_oom is None else ours.first_oom.alloc_index):
        out["first_oom"] = (ours.first_oom, real.first_oom)
    return out


def is_quick(text: str) -> bool:
    """Whether one process can try it among others: some settings stay with a process once they are made."""
    sticky = ("large_segment_size_mb", "max_non_split_rounding_mb", "per_process_memory_fraction")
    return not any(word in text for word in sticky)
