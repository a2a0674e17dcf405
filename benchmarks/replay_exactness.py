"""Whether replays of real inference are exact: every figure beside what the real allocator did, in numbers.

    python benchmarks/replay_exactness.py [--seeds N] [--share F] [--workloads NAME,...] [--details N]

For each workload of ``tests/allocator/inference`` (generate() of transformers in several ways) it

- records the program under every setting, with memory to spare;
- runs it under settings and capacities, plenty and too little, and notes what the allocator came to;
- replays each recording under the conditions of each such run, and compares.

The recorded requests are then given to the real allocator of every torch named by ``OOMDOCTOR_TEST_PYTHONS``
(interpreters, separated by colons), recorded there, and compared in the same way. Interpreters that have
transformers as well run the programs themselves. All on an emulated device; no GPU is used.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from oomdoctor.allocator.history import History
from oomdoctor.allocator.replay import recorded_outcome
from tests.allocator.inference.compare import (
    as_program,
    differences,
    final_state_differs,
    history_at,
    replayed,
)
from tests.allocator.inference.run import TOTAL_MEMORY, Job, run_jobs, workloads
from tests.allocator.reference.program import Program
from tests.allocator.reference.run import run_programs, torch_version
from tests.allocator.reference.settings import Setting, settings_for

PYTHONS = [one for one in os.environ.get("OOMDOCTOR_TEST_PYTHONS", "").split(":") if one]
Name = tuple[str, int]  # workload and seed


@dataclasses.dataclass(frozen=True)
class Case:
    """A program under a setting and a capacity, and what the real allocator did."""

    setting: Setting
    capacity: Optional[int]
    memory_fraction: Optional[float]
    figures: dict[str, int]
    first_oom: Optional[int]


class Tally:
    """What was compared, by interpreter and way."""

    def __init__(self, details: int) -> None:
        self.counts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )
        self.kinds: collections.Counter[tuple[str, ...]] = collections.Counter()
        self.details = details

    def note(
        self, torch: str, way: str, what: str, difference: object, *, case: Optional[Case] = None
    ) -> None:
        count = self.counts[torch, way]
        count["compared"] += 1
        count["exact"] += not difference
        if case is not None:
            count["ooms"] += case.first_oom is not None
            count["survived after retries"] += (
                case.first_oom is None and case.figures["num_alloc_retries"] > 0
            )
        if difference:
            self.kinds[(torch, way, *what.split(" | "))] += 1
            if self.details > 0:
                self.details -= 1
                print(f"differs: torch {torch}, {way}, {what}: {difference}", flush=True)

    def show(self) -> None:
        """What was noted since it was last shown."""
        print("\n| torch | comparison | compared | exact | ran out of memory | survived after retries |")
        print("|---|---|---|---|---|---|")
        for (torch, way), count in self.counts.items():
            cells = [count[key] for key in ("compared", "exact", "ooms", "survived after retries")]
            print(f"| {torch} | {way} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
        for kind, number in self.kinds.most_common(40):
            print(number, *kind)
        sys.stdout.flush()
        self.counts.clear()
        self.kinds.clear()


def words_of(setting: Setting) -> str:
    limit = f" within {setting.fraction_of_peak} of its peak" if setting.fraction_of_peak else ""
    return (setting.text or "default") + limit


def fraction_of(setting: Setting, figures: dict[str, int]) -> Optional[float]:
    return setting.apply(Program(()), figures["peak_reserved_bytes"], TOTAL_MEMORY).memory_fraction


def capacities(figures: dict[str, int]) -> list[Optional[int]]:
    """Plenty, between what lived and what was reserved, hardly what lived, and less."""
    active, reserved = figures["peak_active_bytes"], figures["peak_reserved_bytes"]
    tight = (active + (reserved - active) // 2, active * 102 // 100, active * 9 // 10)
    return [None, *(bytes_ >> 21 << 21 for bytes_ in tight)]


def has_transformers(python: str) -> bool:
    """torch itself may need the emulated device to be imported, so asking is running something."""
    (ran,) = run_jobs(python, [Job(workloads()[0])])
    return ran.error is None


def compare_all(
    tally: Tally,
    way: str,
    version: tuple[int, int],
    name: Name,
    recordings: dict[Setting, tuple[History, dict[str, int]]],
    cases: list[Case],
) -> None:
    torch = ".".join(map(str, version))
    for setting, (history, figures) in recordings.items():
        text = f"{name[0]} {name[1]} | recorded under {words_of(setting)}"
        check = history.check
        wrong = check.compared - check.matching + check.conflicts
        tally.note(torch, f"{way}: self-check, addresses", text, wrong)
        tally.note(torch, f"{way}: blocks at the end", text, final_state_differs(history))
        tally.note(
            torch,
            f"{way}: figures of the recording",
            text,
            differences(recorded_outcome(history), figures, None),
        )
        default = not setting.text and setting.fraction_of_peak is None
        for case in cases:
            outcome = replayed(
                history,
                case.setting.text,
                version,
                capacity=case.capacity,
                memory_fraction=case.memory_fraction,
            )
            told = (
                f"{text} | as {words_of(case.setting)}"
                f" | {'tight' if case.capacity else 'plenty'} {case.capacity} {case.memory_fraction}"
            )
            tally.note(
                torch,
                f"{way}: replay of {'the default' if default else 'another'} recording",
                told,
                differences(outcome, case.figures, case.first_oom),
                case=case,
            )


def run_scripts(
    python: str, tally: Tally, names: list[Name], share: float, folder: Path
) -> dict[Name, tuple[Program, dict[tuple[str, Optional[int], Optional[float]], Case]]]:
    """The programs themselves. Returns their requests, and what came of each under which conditions."""
    version = torch_version(python)
    settings = settings_for(version)
    base = run_jobs(python, [Job(*name) for name in names])
    for name, ran in zip(names, base):
        if ran.error:
            raise SystemExit(f"{name}: {ran.error}")
    chance = random.Random(5)
    jobs: list[Job] = []
    meaning: list[tuple[Name, Setting, bool]] = []
    for name, ran in zip(names, base):
        for number, setting in enumerate(settings):
            fraction = fraction_of(setting, ran.figures)
            if number == 0 or chance.random() < share:
                path = str(folder / f"{name[0]}-{name[1]}-{number}.pickle")
                jobs.append(Job(*name, setting.text, None, fraction, path))
                meaning.append((name, setting, True))
            for capacity in capacities(ran.figures):
                if number == 0 or chance.random() < share:
                    jobs.append(Job(*name, setting.text, capacity, fraction))
                    meaning.append((name, setting, False))
    began = time.perf_counter()
    done = run_jobs(python, jobs)
    print(f"torch {version}: {len(jobs)} runs of programs in {time.perf_counter() - began:.0f} s", flush=True)
    out = {}
    for name in names:
        recordings: dict[Setting, tuple[History, dict[str, int]]] = {}
        cases = []
        for job, ran, (whose, setting, recorded) in zip(jobs, done, meaning):
            if whose != name:
                continue
            if ran.error:
                tally.note(".".join(map(str, version)), "could not be run", f"{name} {job}", ran.error[-300:])
            elif not recorded:
                cases.append(Case(setting, job.capacity, job.memory_fraction, ran.figures, ran.first_oom))
            elif ran.first_oom is None and job.snapshot:
                recordings[setting] = (history_at(job.snapshot, setting.text, version), ran.figures)
        compare_all(tally, "generate()", version, name, recordings, cases)
        try:
            program = as_program(recordings[settings[0]][0], f"{name[0]} {name[1]}")
        except ValueError:
            continue
        out[name] = (program, {(c.setting.text, c.capacity, c.memory_fraction): c for c in cases})
    return out


def run_requests(
    python: str, tally: Tally, programs: dict[Name, Program], share: float, folder: Path
) -> dict[Name, list[Case]]:
    """The recorded requests through the allocator of another torch."""
    version = torch_version(python)
    settings = settings_for(version)
    chance = random.Random(6)
    base = run_programs(python, list(programs.values()))
    jobs, meaning = [], []
    recorded_jobs, recorded_meaning = [], []
    for (name, program), ran in zip(programs.items(), base):
        for number, setting in enumerate(settings):
            under = setting.apply(program, ran.figures["peak_reserved_bytes"], TOTAL_MEMORY)
            if number == 0 or chance.random() < share:
                recorded_jobs.append(under)
                recorded_meaning.append((name, setting))
            for capacity in capacities(ran.figures):
                if number == 0 or chance.random() < 3 * share:  # cheaper than programs
                    jobs.append(dataclasses.replace(under, capacity=capacity))
                    meaning.append((name, setting))
    began = time.perf_counter()
    done = run_programs(python, jobs)
    kept = run_programs(python, recorded_jobs, snapshots=folder, max_entries=1_000_000, stacks=True)
    seconds = time.perf_counter() - began
    print(f"torch {version}: {len(jobs) + len(kept)} programs of requests in {seconds:.0f} s", flush=True)
    all_cases: dict[Name, list[Case]] = collections.defaultdict(list)
    for job, ran, (name, setting) in zip(jobs, done, meaning):
        if ran.error or ran.unsupported:
            tally.note(".".join(map(str, version)), "could not be run", f"{name} {setting}", ran.error)
            continue
        first = ran.first_oom["event_alloc_index"] if ran.first_oom else None
        all_cases[name].append(Case(setting, job.capacity, job.memory_fraction, ran.figures, first))
    for name in programs:
        recordings = {
            setting: (history_at(ran.snapshot, setting.text, version), ran.figures)
            for ran, (whose, setting) in zip(kept, recorded_meaning)
            if whose == name and ran.snapshot and ran.first_oom is None
        }
        compare_all(tally, "requests", version, name, recordings, all_cases[name])
    return all_cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--share", type=float, default=0.3, help="of settings and capacities, taken by chance"
    )
    parser.add_argument("--workloads", default="")
    parser.add_argument("--details", type=int, default=20, help="differences that are shown in full")
    options = parser.parse_args()
    chosen = options.workloads.split(",") if options.workloads else workloads()
    names = [(name, seed) for name in chosen for seed in range(options.seeds)]
    tally = Tally(options.details)
    programs: dict[Name, Program] = {}
    ran_before = {}
    for at, python in enumerate([sys.executable, *PYTHONS]):
        with tempfile.TemporaryDirectory() as folder:
            if at == 0 or has_transformers(python):
                told = run_scripts(python, tally, names, options.share, Path(folder))
                if at == 0:
                    programs = {name: program for name, (program, _) in told.items()}
                    ran_before = {name: cases for name, (_, cases) in told.items()}
        with tempfile.TemporaryDirectory() as folder:
            driven = run_requests(python, tally, programs, options.share, Path(folder))
        if at == 0:  # the driver against the programs
            for name, cases in driven.items():
                for case in cases:
                    same = ran_before[name].get((case.setting.text, case.capacity, case.memory_fraction))
                    if same is not None:
                        ours = {key: case.figures[key] for key in same.figures if key in case.figures}
                        theirs = {key: same.figures[key] for key in ours}
                        difference = (
                            "" if ours == theirs and case.first_oom == same.first_oom else (case, same)
                        )
                        tally.note(
                            "driver", "requests driven = program run", f"{name}", difference, case=case
                        )
        tally.show()


if __name__ == "__main__":
    main()
