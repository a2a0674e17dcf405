"""How good advice is: what it recommends beside the best of all settings, tried by the real allocator.

    python benchmarks/advise_regret.py [--programs N] [--length N] [--details N]

Seeded programs of many shapes are recorded by the real allocator with memory to spare. For each of several
capacities, at which the default dies or has hardly the room, ``advise`` recommends a setting by replay. The
real allocator then runs the program under every setting that the tests know and every one that was
considered. Regret is what the recommendation takes beyond the best of them, of those that survive:

- in the bytes reserved at the peak, at that capacity;
- in the least capacity that the program survives, which is what settings are ranked by.

All on an emulated device; no GPU is used.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

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
from tests.allocator.reference.programs import NEEDS, SHAPES, make_program
from tests.allocator.reference.run import Outcome, torch_version

# Between what is in use at the peak (0) and what the default reserves (1).
SHARES = (0.15, 0.5, 1.1)
# For the least capacities: of how many settings beside, and in how many halvings.
_FEWEST, _HALVINGS = 8, 5


@dataclass(frozen=True)
class Judged:
    """One program at one capacity."""

    case: Case
    share: float
    advice: Advice
    real: dict[str, Outcome]

    @property
    def chosen(self) -> str:
        return (self.advice.best or self.advice.current).alloc_conf

    @property
    def survivors(self) -> list[str]:
        return [text for text, outcome in self.real.items() if outcome.first_oom is None]

    @property
    def peak_regret(self) -> float:
        """Of the best peak reserved."""
        peaks = {text: self.real[text].figures["peak_reserved_bytes"] for text in self.survivors}
        return peaks[self.chosen] / min(peaks.values()) - 1

    @property
    def peak_regret_bytes(self) -> int:
        peaks = {text: self.real[text].figures["peak_reserved_bytes"] for text in self.survivors}
        return peaks[self.chosen] - min(peaks.values())


def needs(python: str, judged: list[Judged]) -> list[dict[str, int]]:
    """The least capacity at which the real allocator survives, within a 32nd of what it reserved, bytes.

    Of what was recommended, of the default, and of those that reserve least of all, where one process can try
    them all.
    """
    low, high = {}, {}
    for at, one in enumerate(judged):
        quick = [text for text in one.survivors if is_quick(text)]
        least = sorted(quick, key=lambda text: one.real[text].figures["peak_reserved_bytes"])[:_FEWEST]
        for text in {*least, *{one.chosen, ""}.intersection(one.survivors)}:
            low[at, text] = one.real[text].figures["peak_active_bytes"]
            high[at, text] = one.real[text].figures["peak_reserved_bytes"]
    for _ in range(_HALVINGS):
        middles = {key: (low[key] + high[key]) // 2 >> 21 << 21 for key in low}
        outcomes = driven(python, [(judged[at].case.at(size), text) for (at, text), size in middles.items()])
        for (key, size), outcome in zip(middles.items(), outcomes):
            (high if outcome.first_oom is None else low)[key] = size
    out: list[dict[str, int]] = [{} for _ in judged]
    for (at, text), size in high.items():
        out[at][text] = size
    return out


def table(title: str, judged: list[Judged], needed: list[dict[str, int]]) -> None:
    died = [one for one in judged if one.real[""].first_oom is not None]
    could = [one for one in died if one.survivors]
    did = [one for one in could if one.chosen in one.survivors]
    worse = [one for one in judged if reached(one.real[one.chosen]) < reached(one.real[""])]
    alive = [(one, need) for one, need in zip(judged, needed) if one.chosen in one.survivors]
    rows = [
        ("programs at a capacity", len(judged)),
        ("the default dies", len(died)),
        ("of those, some setting survives", len(could)),
        ("of those, the recommendation survives", len(did)),
        ("recommendation dies earlier than the default", len(worse)),
        ("recommendation survives, regret looked at", len(alive)),
    ]
    if alive:
        peak = [100 * one.peak_regret for one, _ in alive]
        least = [100 * (need[one.chosen] / min(need.values()) - 1) for one, need in alive]
        both = [(one, need) for one, need in alive if "" in one.survivors]
        more = [one for one, need in both if need[one.chosen] > need[""] * 1.001]
        rows += [
            ("least capacity: regret in %, median", f"{statistics.median(least):.2f}"),
            ("least capacity: regret in %, mean", f"{statistics.mean(least):.2f}"),
            ("least capacity: regret in %, worst", f"{max(least):.2f}"),
            ("peak reserved: regret in %, median", f"{statistics.median(peak):.2f}"),
            ("peak reserved: regret in %, mean", f"{statistics.mean(peak):.2f}"),
            ("peak reserved: regret in %, worst", f"{max(peak):.2f}"),
            ("peak reserved: worst, MiB", max(one.peak_regret_bytes for one, _ in alive) >> 20),
            ("default survives too: recommendation needs more than it", f"{len(more)} of {len(both)}"),
        ]
    print(f"\n| {title} | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=80)
    parser.add_argument("--length", type=int, default=300, help="operations of a program")
    parser.add_argument("--details", type=int, default=12, help="of the worst, shown in full")
    options = parser.parse_args()
    python = sys.executable
    version = torch_version(python)
    shapes = [shape for shape in SHAPES if NEEDS.get(shape, (0, 0)) <= version]
    seeds = [(shapes[at % len(shapes)], 100 + at // len(shapes)) for at in range(options.programs)]
    programs = [converted_layers(), *(make_program(*one, options.length) for one in seeds)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        recorded = recorded_cases(python, programs, Path(folder))
        print(f"{len(recorded)} programs recorded in {time.perf_counter() - began:.0f} s", flush=True)
        began = time.perf_counter()
        cases = [(case.between(share), share) for case in recorded for share in SHARES]
        advice = [advised(case) for case, _ in cases]
        print(f"{len(cases)} times advised in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    listed = listed_settings(version)
    texts = [[*listed, *(tried.alloc_conf for tried in one.tried)] for one in advice]
    real = brute_force(python, [case for case, _ in cases], texts)
    judged = [Judged(case, share, one, told) for (case, share), one, told in zip(cases, advice, real)]
    seconds = time.perf_counter() - began
    print(f"{sum(map(len, real)):,} runs by the real allocator in {seconds:.0f} s", flush=True)
    exactness(judged, options.details)
    began = time.perf_counter()
    needed = needs(python, judged)
    print(f"least capacities looked for in {time.perf_counter() - began:.0f} s", flush=True)
    for share in SHARES:
        chosen = [at for at, one in enumerate(judged) if one.share == share]
        table(f"capacity at {share:g}", [judged[at] for at in chosen], [needed[at] for at in chosen])
    table("all", judged, needed)
    print("\nrecommended:", Counter(one.chosen for one in judged).most_common(15))
    worst(judged, needed, options.details)


def exactness(judged: list[Judged], details: int) -> None:
    """Of all that was considered, how much of it the real allocator did as replayed."""
    compared = exact = 0
    for one in judged:
        for tried in one.advice.tried:
            compared += 1
            found = differences(one.case, one.advice, tried.alloc_conf, one.real[tried.alloc_conf])
            exact += not found
            if found and details > 0:
                details -= 1
                print("differs:", one.case.program.name, one.case.capacity, tried.alloc_conf, found)
    print(
        f"\nreplays that the real allocator confirms in every figure: {exact:,} of {compared:,}", flush=True
    )


def worst(judged: list[Judged], needed: list[dict[str, int]], details: int) -> None:
    for one in judged:
        if one.survivors and one.chosen not in one.survivors:
            print("dies:", one.case.program.name, one.share, repr(one.chosen), "survive:", one.survivors[:5])
    alive = [(one, need) for one, need in zip(judged, needed) if one.chosen in one.survivors]
    alive.sort(key=lambda pair: -pair[1][pair[0].chosen] / min(pair[1].values()))
    for one, need in alive[:details]:
        best = min(need, key=lambda text: need[text])
        considered = best in {tried.alloc_conf for tried in one.advice.tried}
        print(
            f"{one.case.program.name} at {one.share:g}: {one.chosen!r} needs {need[one.chosen] >> 20} MiB,"
            f" {best!r} {need[best] >> 20} MiB{'' if considered else ' (not considered)'}"
        )


if __name__ == "__main__":
    main()
