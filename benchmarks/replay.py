"""How fast the heap replays, beside PyTorch's own allocator given the same requests.

    python benchmarks/replay.py [--requests 500000] [--repeats 5] [--python PYTHON]

Prints requests a second of both, side by side in one run; then, for a recording of the same requests made by
the real
allocator: reading the recording event by event with all effects (:class:`History`), the state at any event,
forward and back, and how long the first use compiles. Needs a C++ compiler and a CUDA build of torch; the
device is emulated.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from real_allocator import Requests as Flat
from real_allocator import churn, run_flat

from oomdoctor.allocator.configure import config_of
from oomdoctor.allocator.heap_layout import Heap, grown, new_heap
from oomdoctor.allocator.history import History, history_of
from oomdoctor.allocator.recorded import EFFECT, run_recorded
from oomdoctor.allocator.requests import OP_ALLOC, OP_FREE, TOTALS, Requests, run_requests
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.start import block_rows_of_births, started_heap
from oomdoctor.emulator.drive import drive
from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.snapshot import read_snapshot

_COMPILE = """
import time
start = time.perf_counter()
import oomdoctor.allocator.history, oomdoctor.allocator.replay
from oomdoctor.snapshot import snapshot_from_plain
imported = time.perf_counter()
from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.settings import Settings
plain = {"segments": [], "device_traces": [[{"action": "oom", "device_free": 0, "size": 512, "stream": 0}]]}
history = oomdoctor.allocator.history.history_of(snapshot_from_plain(plain), 0, Settings(), (2, 15))
oomdoctor.allocator.replay.replay(history, Settings(), Conditions())
print(time.perf_counter() - imported)
"""


def requests_from(flat: Flat) -> Requests:
    """The same requests for our heap."""
    count = len(flat)
    is_alloc = flat["bytes"] >= 0
    birth = np.zeros(count, np.int64)
    birth[:] = flat["id"]
    zeros = np.zeros(count, np.int64)
    return Requests(
        op=np.where(is_alloc, OP_ALLOC, OP_FREE).astype(np.uint8),
        event=np.arange(count, dtype=np.int64),
        birth=birth,
        requested_size=flat["bytes"].astype(np.int64),
        stream=flat["stream"].astype(np.int64),
        private_pool=zeros,
        capturing=np.zeros(count, np.uint8),
    )


def replayed(requests: Requests, version: tuple[int, int], *, with_totals: bool = False) -> Heap:
    heap = new_heap(config_of(Settings(), version), 0)
    block_of = np.full(int(requests.birth.max()) + 1, -1, np.int64)
    totals = np.zeros(requests.acts if with_totals else 0, TOTALS)
    at, _ = run_requests(heap, requests, block_of, totals, 0, True)
    while at < requests.acts:
        heap = grown(heap)
        at, _ = run_requests(heap, requests, block_of, totals, at, True)
    return heap


def event_by_event(made: History) -> None:
    """What :class:`History` does in compiled code: follow each event, and write down what it did."""
    config = config_of(made.settings, made.torch)
    heap = started_heap(config, len(made.recording.pools), made.initial, made.ranks)
    block_of = block_rows_of_births(heap, made.births)
    effects, events = np.zeros(len(made.recording), EFFECT), len(made.recording)
    at = run_recorded(heap, made.steps, block_of, effects, 0, events, True)
    while at < events:
        heap = grown(heap)
        at = run_recorded(heap, made.steps, block_of, effects, at, events, True)


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def release(python: str) -> tuple[int, int]:
    major, minor = find_torch(python).version.split(".")[:2]
    return int(major), int(minor)


def against_the_real_one(flat: Flat, python: str, repeats: int) -> float:
    version = release(python)
    requests = requests_from(flat)
    heap = replayed(requests, version)
    real = run_flat(flat, python, repeats=repeats)
    ours = timed(lambda: replayed(requests, version), repeats)
    in_full = timed(lambda: replayed(requests, version, with_totals=True), repeats)
    theirs = [float(seconds) for seconds in real["seconds"]]
    same = int(heap.stats["peak_reserved_bytes"][0]) == int(real["peak_reserved_bytes"])
    peaks = "equal" if same else "DIFFERENT"
    print(f"{len(flat):,} requests, torch {version[0]}.{version[1]}, peaks reserved {peaks}")
    for name, seconds in (
        ("PyTorch's allocator, compiled loop", theirs),
        ("our heap", ours),
        ("with totals after each", in_full),
    ):
        median, best = len(flat) / statistics.median(seconds) / 1e6, len(flat) / min(seconds) / 1e6
        print(f"  {name:36s}{median:6.2f} M requests/s  (median of {len(seconds)}, best {best:.2f})")
    ratio, best = statistics.median(ours) / statistics.median(theirs), min(ours) / min(theirs)
    print(f"  ours takes {ratio:.2f} of the time (best against best {best:.2f})")
    return min(theirs)


def of_a_recording(flat: Flat, python: str, folder: Path, real: float) -> None:
    ops = [
        ["alloc", number, size, 0] if size >= 0 else ["free", number]
        for number, size in zip(flat["id"].tolist(), flat["bytes"].tolist())
    ]
    path = folder / "recording.pickle"
    history = {"max_entries": 4 * len(ops), "stacks": False}
    (result,) = drive(python, [{"program": {"ops": ops}, "history": history, "snapshot": str(path)}])
    assert result["error"] is None, result
    snapshot = read_snapshot(path)
    kept: list[History] = []
    seconds = timed(lambda: kept.append(history_of(snapshot, 0, Settings(), release(python))), 3)
    made = kept[-1]
    events, best = len(made.recording), min(seconds)
    print(f"A recording of {events:,} events: {made.check.matching:,} of {made.check.compared:,} addresses")
    print(f"  read into a history in {best:.2f} s ({events / best / 1e6:.2f} M events/s), of which the heap")
    alone = min(timed(lambda: event_by_event(made), 5))
    print(
        f"  with all effects {alone:.2f} s ({events / alone / 1e6:.2f} M events/s),"
        f" {alone / real:.2f} of the time of PyTorch's allocator"
    )
    rng = random.Random(1)
    states = []
    for _ in range(40):
        start = time.perf_counter()
        made.heap_after(rng.randint(0, events))
        states.append(1000 * (time.perf_counter() - start))
    print(f"  state at any event: median {statistics.median(states):.1f} ms, worst {max(states):.1f} ms")
    print(f"  kept for that: {made.keyframe_bytes / 2**20:.0f} MiB")


def first_use(folder: Path) -> None:
    for name in ("first use, compiling", "later uses"):
        done = subprocess.run(
            [sys.executable, "-c", _COMPILE],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(folder)},
        )
        print(f"  {name:24s}{float(done.stdout):6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", default=sys.executable, help="of the torch to compare with")
    options = parser.parse_args()
    flat = churn(options.requests)
    real = against_the_real_one(flat, options.python, options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        of_a_recording(flat, options.python, Path(folder), real)
        print("Numba")
        first_use(Path(folder) / "cache")


if __name__ == "__main__":
    main()
