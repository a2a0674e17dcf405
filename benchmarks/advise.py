"""How long a search for settings takes: one process, all cores, a Dask cluster, PyTorch's own allocator.

    python benchmarks/advise.py [--events 1000000] [--on one cores cluster real] [--python PYTHON]

The recording is made by the real allocator on an emulated device, with memory to spare and no stacks. Each
way searches for the same and has to find the same. The real allocator is given the requests once, by a
compiled loop, and the time multiplied by the number of replays: reading, its start and its statistics are
left out in its favour. ``cluster`` is a scheduler and two workers on this machine, and needs Dask.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from real_allocator import Requests, churn, run_flat
from replay import release

from oomdoctor.advice.advise import Advice, advise
from oomdoctor.advice.cluster import cluster_map
from oomdoctor.advice.evaluate import Place, Task
from oomdoctor.advice.search import Map, local_map
from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.replay import Outcome
from oomdoctor.emulator.drive import drive
from oomdoctor.reporters.advise_json import document
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import read_snapshot

CLUSTER_WORKERS = 2
# Every request but the last ones is freed, and a free is two events.
EVENTS_OF_REQUEST = 1.5


@dataclass
class Counted:
    """A map that counts what it is given."""

    mapped: Map
    tasks: int = 0

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        self.tasks += len(tasks)
        return self.mapped(tasks)


def record(flat: Requests, python: str, path: Path) -> None:
    """The snapshot that the real allocator leaves of the requests."""
    ops = [
        ["alloc", number, size, 0] if size >= 0 else ["free", number]
        for number, size in zip(flat["id"].tolist(), flat["bytes"].tolist())
    ]
    history = {"max_entries": 4 * len(ops), "stacks": False}
    (result,) = drive(python, [{"program": {"ops": ops}, "history": history, "snapshot": str(path)}])
    assert result["error"] is None, result


def cpu_seconds() -> float:
    """Of this process and of those that it waited for: not those of a cluster."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def search(
    name: str, recording: tuple[Place, DeviceHistory], opened: AbstractContextManager[Map]
) -> tuple[str, int]:
    """The answer, as JSON, and how many replays it took."""
    start, cpu = time.perf_counter(), cpu_seconds()
    with opened as mapped:
        counted = Counted(mapped)
        advice: Advice = advise([recording], counted)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    print(
        f"  {name:34s}{seconds:8.1f} s ({cpu:.1f} s of CPU)  {len(advice.tried):,} settings that differ,"
        f" {counted.tasks:,} replays, {counted.tasks / seconds:.1f} a second",
        flush=True,
    )
    return json.dumps(document(advice)), counted.tasks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = ("one", "cores", "cluster", "real")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--on", nargs="+", choices=ways, default=ways)
    parser.add_argument("--python", default=sys.executable, help="of the torch to compare with")
    options = parser.parse_args()
    flat = churn(int(options.events / EVENTS_OF_REQUEST))
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.pickle"
        record(flat, options.python, path)
        start = time.perf_counter()
        device = load_device(read_snapshot(path), SnapshotSource(str(path)), 0, release(options.python))
        recording = (Place(str(path), 0, device.history.torch), device)
        print(
            f"{len(device.history.recording):,} events of {len(flat):,} requests, read and checked in"
            f" {time.perf_counter() - start:.1f} s; {cores} cores, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        answers: dict[str, str] = {}
        replays = 0
        if "one" in options.on:
            answers["one"], replays = search("one process", recording, local_map([recording], 1))
        if "cores" in options.on:
            answers["cores"], replays = search(f"{cores} processes", recording, local_map([recording]))
        if "cluster" in options.on:
            from dask.distributed import LocalCluster

            with LocalCluster(
                n_workers=CLUSTER_WORKERS,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                local_directory=folder,
            ) as cluster:
                name = f"Dask, {CLUSTER_WORKERS} workers"
                # The second search finds the recording gone from the workers, and their code compiled.
                for which in ("first", "again"):
                    answers[f"cluster {which}"], replays = search(
                        f"{name}, {which}", recording, cluster_map(cluster.scheduler_address)
                    )
        if len(answers) > 1:
            print(f"  answers: {'the same' if len(set(answers.values())) == 1 else 'DIFFERENT'}")
    if "real" in options.on:
        once = statistics.median(run_flat(flat, options.python, repeats=3)["seconds"])
        told = f"  PyTorch's allocator, compiled loop: {once:.2f} s a run"
        if replays:
            told += (
                f"; {replays:,} runs would take {once * replays:.1f} s on one core,"
                f" {once * replays / cores:.1f} s on {cores}"
            )
        print(told)


if __name__ == "__main__":
    main()
