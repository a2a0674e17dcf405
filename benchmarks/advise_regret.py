"""How good advice is: what it recommends beside the best of all settings, tried by the real allocator.

    python benchmarks/advise_regret.py [--programs N] [--length N] [--keep FILE] [--minutes M] [--details N]

Seeded programs of many shapes are recorded by the real allocator with memory to spare. For each of several
capacities, at which the default dies or has hardly the room, ``advise`` recommends a setting by replay. The
real allocator then runs the program under a dense list of settings, those that the tests know and those that
were considered. Left out are those that a process keeps, with large_segment_size_mb or
max_non_split_rounding_mb, where they were not recommended. Regret is what the recommendation takes beyond the
best of them, of those that survive:

- in the bytes reserved at the peak, at that capacity;
- in the least capacity that the program survives, which is what settings are ranked by.

With ``--keep`` what is done stands in a file, and is not done again; with ``--minutes`` no more is begun
after that time. All on an emulated device; no GPU is used.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from oomdoctor.advice.advise import Advice
from tests.advice.brute_force import (
    Case,
    advised,
    brute_force,
    differences,
    driven,
    is_quick,
    listed_settings,
    reached,
    recorded_cases,
)
from tests.advice.shapes import converted_layers
from tests.allocator.reference.program import Program
from tests.allocator.reference.programs import NEEDS, SHAPES, make_program
from tests.allocator.reference.run import Outcome, torch_version

# Between what is in use at the peak (0) and what the default reserves (1).
SHARES = (0.15, 0.5, 1.1)
# For the least capacities: of how many settings beside, and in how many halvings.
_FEWEST, _HALVINGS = 6, 5


# How many programs the real allocator is given at once: few calls, since each starts processes.
_AT_ONCE = 25
DENSE = (
    *(f"max_split_size_mb:{size}" for size in (20, 22, 24, 28, 40, 48, 56, 80, 96, 160, 200, 256)),
    "roundup_power2_divisions:16",
    *(f"expandable_segments:True,max_split_size_mb:{size}" for size in (20, 32, 128)),
    *(f"expandable_segments:True,roundup_power2_divisions:{divisions}" for divisions in (2, 8)),
    *(f"max_split_size_mb:{size},roundup_power2_divisions:8" for size in (32, 128)),
)


def stays(text: str) -> bool:
    """Whether a process keeps the setting, so that each value takes one of its own."""
    return any(word in text for word in ("large_segment_size_mb", "max_non_split_rounding_mb"))


@dataclass(frozen=True)
class Ran:
    """What the real allocator came to: where it died (None: nowhere), its peaks and retries."""

    died_at: Optional[int]
    reserved: int
    active: int
    retries: int

    @property
    def reached(self) -> int:
        return 1 << 62 if self.died_at is None else self.died_at


@dataclass(frozen=True)
class Judged:
    """One program at one capacity.

    Attributes:
        chosen: what is recommended; "" where nothing beats the defaults.
        real: what the real allocator came to, by settings.
        needs: the least capacity that it survives, of some of them, bytes.
        compared: of how many settings the replay was held against it.
        differing: those in which they differ.
        considered: all that advice tried.
    """

    program: str
    share: float
    capacity: int
    chosen: str
    real: dict[str, Ran]
    needs: dict[str, int]
    compared: int
    differing: dict[str, str]
    considered: list[str]

    @property
    def survivors(self) -> list[str]:
        return [text for text, ran in self.real.items() if ran.died_at is None]

    @property
    def survives(self) -> bool:
        return self.chosen in self.survivors

    @property
    def peak_regret_bytes(self) -> int:
        """Beyond the least peak reserved."""
        return self.real[self.chosen].reserved - min(self.real[text].reserved for text in self.survivors)

    @property
    def peak_regret(self) -> float:
        return self.peak_regret_bytes / (self.real[self.chosen].reserved - self.peak_regret_bytes)

    @property
    def regret(self) -> float:
        """Beyond the least of the least capacities."""
        return self.needs[self.chosen] / min(self.needs.values()) - 1


def judged(python: str, programs: Sequence[Program], end: float) -> list[Judged]:
    """Programs recorded, advised on and tried; nothing of it where the time is up."""
    if time.time() > end:
        return []
    with tempfile.TemporaryDirectory() as folder:
        recorded = recorded_cases(python, programs, Path(folder))
        cases = [(case.between(share), share) for case in recorded for share in SHARES]
        advice = [advised(case) for case, _ in cases]
    listed = [*(text for text in listed_settings(torch_version(python)) if not stays(text)), *DENSE]
    chosen = [(one.best or one.current).alloc_conf for one in advice]
    texts = [
        [*listed, *(text for text in tried_by(one) if not stays(text)), text_]
        for one, text_ in zip(advice, chosen)
    ]
    real = brute_force(python, [case for case, _ in cases], texts)
    needed = needs(python, [case for case, _ in cases], chosen, real)
    out = []
    for (case, share), one, text_, told, need in zip(cases, advice, chosen, real, needed):
        both = [text for text in tried_by(one) if text in told]
        differing = {text: differences(case, one, text, told[text]) for text in both}
        out.append(
            Judged(
                case.program.name,
                share,
                case.capacity,
                text_,
                {text: _ran(outcome) for text, outcome in told.items()},
                need,
                len(both),
                {text: str(found) for text, found in differing.items() if found},
                tried_by(one),
            )
        )
    return out


def tried_by(advice: Advice) -> list[str]:
    return [one.alloc_conf for one in advice.tried]


def _ran(outcome: Outcome) -> Ran:
    figures = outcome.figures
    return Ran(
        None if outcome.first_oom is None else reached(outcome),
        figures["peak_reserved_bytes"],
        figures["peak_active_bytes"],
        figures["num_alloc_retries"],
    )


def needs(
    python: str, cases: Sequence[Case], chosen: Sequence[str], real: Sequence[dict[str, Outcome]]
) -> list[dict[str, int]]:
    """The least capacity at which the real allocator survives, within a 32nd of what it reserved, bytes.

    Of what was recommended, of the default, and of those that reserve least of all, where one process can try
    them all.
    """
    low, high = {}, {}
    for at, told in enumerate(real):
        survivors = [text for text, outcome in told.items() if outcome.first_oom is None]
        quick = [text for text in survivors if is_quick(text)]
        least = sorted(quick, key=lambda text: told[text].figures["peak_reserved_bytes"])[:_FEWEST]
        for text in {*least, *{chosen[at], ""}.intersection(survivors)}:
            low[at, text] = told[text].figures["peak_active_bytes"]
            high[at, text] = told[text].figures["peak_reserved_bytes"]
    for _ in range(_HALVINGS):
        middles = {key: (low[key] + high[key]) // 2 >> 21 << 21 for key in low}
        outcomes = driven(python, [(cases[at].at(size), text) for (at, text), size in middles.items()])
        for (key, size), outcome in zip(middles.items(), outcomes):
            (high if outcome.first_oom is None else low)[key] = size
    out: list[dict[str, int]] = [{} for _ in cases]
    for (at, text), size in high.items():
        out[at][text] = size
    return out


# ---- what is kept ----


def kept(path: Optional[Path]) -> list[Judged]:
    if path is None or not path.exists():
        return []
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Judged(**{**one, "real": {text: Ran(*ran) for text, ran in one["real"].items()}}) for one in documents
    ]


def keep(path: Optional[Path], done: Sequence[Judged]) -> None:
    if path is None:
        return
    with path.open("a") as file:
        for one in done:
            real = {text: list(vars(ran).values()) for text, ran in one.real.items()}
            file.write(json.dumps({**vars(one), "real": real}) + "\n")


# ---- what comes of it ----


def table(title: str, found: Sequence[Judged]) -> None:
    died = [one for one in found if one.real[""].died_at is not None]
    could = [one for one in died if one.survivors]
    worse = [one for one in found if one.real[one.chosen].reached < one.real[""].reached]
    alive = [one for one in found if one.survives]
    rows = [
        ("programs at a capacity", len(found)),
        ("the default dies", len(died)),
        ("of those, some setting survives", len(could)),
        ("of those, the recommendation survives", sum(one.survives for one in could)),
        ("recommendation dies earlier than the default", len(worse)),
        ("recommendation survives, regret looked at", len(alive)),
    ]
    if alive:
        for name, values in (
            ("least capacity", [100 * one.regret for one in alive]),
            ("peak reserved", [100 * one.peak_regret for one in alive]),
        ):
            rows += [
                (f"{name}: regret in %, median", f"{statistics.median(values):.2f}"),
                (f"{name}: regret in %, mean", f"{statistics.mean(values):.2f}"),
                (f"{name}: regret in %, worst", f"{max(values):.2f}"),
            ]
        both = [one for one in alive if "" in one.survivors]
        rows.append(
            (
                "default survives too: recommendation needs more than it",
                f"{sum(needs_more(one) for one in both)} of {len(both)}",
            )
        )
    print(f"\n| {title} | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def needs_more(one: Judged) -> bool:
    """Whether the recommendation needs more than the default, by more than the search for it is exact to."""
    exact = max(one.real[text].reserved - one.real[text].active for text in ("", one.chosen)) >> _HALVINGS
    return one.needs[one.chosen] > one.needs[""] + exact + (2 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--length", type=int, default=200, help="operations of a program")
    parser.add_argument("--keep", type=Path, help="a file for what is done, and that is not done again")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after these")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--details", type=int, default=12, help="of the worst, shown in full")
    options = parser.parse_args()
    python = sys.executable
    version = torch_version(python)
    shapes = [shape for shape in SHAPES if NEEDS.get(shape, (0, 0)) <= version]
    seeds = [(shapes[at % len(shapes)], 100 + at // len(shapes)) for at in range(options.programs)]
    programs = [converted_layers(), *(make_program(*one, options.length) for one in seeds)]
    found = kept(options.keep)
    known = {one.program for one in found}
    missing = [program for program in programs if program.name not in known]
    began = time.perf_counter()
    end = time.time() + 60 * options.minutes
    parts = [missing[at : at + _AT_ONCE] for at in range(0, len(missing), _AT_ONCE)]
    with ProcessPoolExecutor(options.workers) as pool:
        for done in as_completed([pool.submit(judged, python, part, end) for part in parts]):
            keep(options.keep, done.result())
            found += done.result()
            seconds = time.perf_counter() - began
            print(f"{len(found) // len(SHARES)} of {len(programs)} programs, {seconds:.0f} s", flush=True)
    runs = sum(len(one.real) for one in found)
    compared, differ = sum(one.compared for one in found), sum(len(one.differing) for one in found)
    print(f"\n{runs:,} runs by the real allocator")
    print(f"replays that it confirms in every figure: {compared - differ:,} of {compared:,}")
    for share in SHARES:
        table(f"capacity at {share:g}", [one for one in found if one.share == share])
    table("all", found)
    print("\nrecommended:", Counter(one.chosen for one in found).most_common(15))
    details(found, options.details)


def details(found: Sequence[Judged], most: int) -> None:
    """What was not as it should be, and the worst regret."""
    for one in found:
        for text, what in list(one.differing.items())[:most]:
            print("differs:", one.program, one.capacity, text, what)
        if one.survivors and not one.survives:
            print("dies:", one.program, one.share, repr(one.chosen), "survive:", one.survivors[:5])
        if one.real[one.chosen].reached < one.real[""].reached:
            print("dies earlier than the default:", one.program, one.share, repr(one.chosen))
        if one.survives and "" in one.survivors and needs_more(one):
            print("needs more:", one.program, one.share, repr(one.chosen), one.needs)
    for one in sorted((one for one in found if one.survives), key=lambda one: -one.regret)[:most]:
        best = min(one.needs, key=lambda text: one.needs[text])
        print(
            f"{one.program} at {one.share:g}: {one.chosen!r} needs {one.needs[one.chosen] >> 20} MiB,"
            f" {best!r} {one.needs[best] >> 20} MiB{'' if best in one.considered else ' (not considered)'}"
        )


if __name__ == "__main__":
    main()
