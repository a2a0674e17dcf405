"""What reading costs: our full read, our read without the stacks of events, and a bare ``pickle.load``, which
is also taken with the cycle collector off.

A recording of a million events is generated, as torch 2.15 writes one (``_dump_snapshot``, stacks of Python,
of free events too): each allocation has a list of frames of its own, each pair of free events another, frames
are shared. Each reader runs in a process of its own, in turn, so that a busy machine slows all alike;
taken are the seconds of the read alone, and of the process its peak memory, and what is still held after the
read, both less what the process held before (which is without Numba). The
first line shows the very first read, which compiles.

    python benchmarks/read_snapshot.py [--events 1000000] [--rounds 5] [--protocol 4] [--file SNAPSHOT]
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
from typing import Any

READERS = ("pickle.load", "pickle.load, no gc", "read_snapshot", "without event stacks")
CHILD = """
import ctypes, gc, json, pickle, sys, time
def held(what="VmRSS"):  # getrusage's peak would begin with that of the process that started this one
    return int(next(l for l in open("/proc/self/status") if l.startswith(what)).split()[1]) >> 10
path, reader = sys.argv[1:]
import numpy
from oomdoctor.snapshot import read_snapshot
before, start = held(), time.perf_counter()
if reader.startswith("pickle.load"):
    if reader != "pickle.load":
        gc.disable()
    with open(path, "rb") as file:
        kept = pickle.load(file)
else:
    kept = read_snapshot(path, event_stacks=reader == "read_snapshot")
seconds = time.perf_counter() - start
peak = held("VmHWM")
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
traces = kept["device_traces"] if type(kept) is dict else kept.traces
print(json.dumps({
    "seconds": seconds, "peak": peak - before, "kept": held() - before, "events": sum(map(len, traces))
}))
"""


def recording(events: int, seed: int = 1) -> dict[str, Any]:
    """A snapshot of about ``events`` events on one device: rings of tensors allocated and freed."""
    rng = random.Random(seed)
    frames = [
        {
            "name": rng.choice(("forward", "_call_impl", "linear", "__torch_dispatch__", "apply"))
            + str(i % 97),
            "filename": f"/env/lib/python3.11/site-packages/transformers/models/model_{i % 211}/modeling.py",
            "line": rng.randrange(1, 3000),
        }
        for i in range(2500)
    ]
    shapes = [[rng.choice(frames) for _ in range(rng.randrange(8, 32))] for _ in range(4000)]
    trace: list[dict[str, Any]] = []
    live: list[tuple[int, int]] = []
    time_us = 1_795_256_895_914_493

    def add(action: str, addr: int, size: int, stack: list[dict[str, Any]]) -> None:
        nonlocal time_us
        time_us += rng.randrange(1, 40)
        trace.append(
            {
                "action": action,
                "addr": addr,
                "size": size,
                "stream": 0,
                "time_us": time_us,
                # Texts of their own each time, as pybind makes them.
                "compile_context": b"N/A".decode(),
                "user_metadata": bytes(0).decode(),
                "pool_id": (int("0"), 0),
                "frames": stack,
            }
        )

    while len(trace) < events:
        addr, size = 0x7F0000000000 + 512 * rng.randrange(1 << 26), rng.randrange(1, 1 << 26)
        add("alloc", addr, size, list(rng.choice(shapes)))
        live.append((addr, size))
        if len(live) > 500:
            addr, size = live.pop(rng.randrange(len(live)))
            stack = list(rng.choice(shapes))
            add("free_requested", addr, size, stack)
            add("free_completed", addr, size, stack)
    address, segments = 0x7F0000000000, []
    for _ in range(300):
        blocks = []
        for _ in range(20):
            size = 512 * rng.randrange(1, 4096)
            blocks.append(
                {
                    "address": address + sum(b["size"] for b in blocks),
                    "size": size,
                    "requested_size": size - rng.randrange(512),
                    "state": rng.choice(("active_allocated", "inactive")),
                    "frames": list(rng.choice(shapes)),
                }
            )
        total = sum(b["size"] for b in blocks)
        segments.append(
            {
                "device": 0,
                "address": address,
                "total_size": total,
                "allocated_size": total,
                "active_size": total,
                "requested_size": total,
                "stream": 0,
                "segment_type": "large",
                "segment_pool_id": (0, 0),
                "is_expandable": False,
                "frames": [],
                "blocks": blocks,
            }
        )
        address += total
    return {
        "segments": segments,
        "device_traces": [trace],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1},
        "external_annotations": [],
    }


def measure(path: str, reader: str, environment: dict[str, str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path, reader],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, **environment},
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--protocol", type=int, default=4)
    parser.add_argument("--file", help="a recording to read instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or os.path.join(folder, "recording.pickle")
        if not arguments.file:
            with open(path, "wb") as file:
                pickle.dump(recording(arguments.events), file, arguments.protocol)
        # An empty folder for what Numba compiles makes the first read one that compiles.
        cold = measure(path, "read_snapshot", {"NUMBA_CACHE_DIR": os.path.join(folder, "compiled")})
        print(f"{cold['events']:,} events, {os.path.getsize(path) / 1e6:.0f} MB")
        print(f"{'the very first read':<22} {cold['seconds']:6.2f} s")
        figures: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
        for _ in range(arguments.rounds):
            for reader in READERS:
                figures[reader].append(measure(path, reader, {}))
        base: dict[str, float] = {}
        for reader, rounds in figures.items():
            middle = {key: statistics.median(r[key] for r in rounds) for key in ("seconds", "peak", "kept")}
            base = base or middle
            ratio = {key: value / base[key] for key, value in middle.items()}
            spread = f"({min(r['seconds'] for r in rounds):.2f} to {max(r['seconds'] for r in rounds):.2f})"
            print(
                f"{reader:<22} {middle['seconds']:6.2f} s {spread:<15} {ratio['seconds']:5.2f} x"
                f"   peak {middle['peak']:6,.0f} MiB {ratio['peak']:5.2f} x"
                f"   kept {middle['kept']:6,.0f} MiB {ratio['kept']:5.2f} x"
            )


if __name__ == "__main__":
    main()
