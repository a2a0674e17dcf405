"""Runs workloads through the allocator of the running torch, each in a fork of one process.

    python serve.py JOBS.json RESULTS.jsonl

A job is ``{"workload": NAME, "seed": N, "settings": TEXT, "capacity": BYTES, "total_memory": BYTES,
"memory_fraction": F, "snapshot": PATH}``. A fork begins before CUDA does, so each has an allocator that nobody
used before; importing is done once. The figures are those at the moment of running out of memory where that
happens: while the error unwinds, frees go on.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import os
import pickle
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from workloads import WORKLOADS, Server

MEASURES = ("allocated_bytes", "active_bytes", "reserved_bytes", "requested_bytes", "inactive_split_bytes")
COUNTERS = ("num_alloc_retries", "num_ooms")


def figures() -> dict[str, int]:
    stats = torch.cuda.memory_stats_as_nested_dict(0)
    return {
        **{f"peak_{name}": stats[name]["all"]["peak"] for name in MEASURES},
        "final_allocated_bytes": stats["allocated_bytes"]["all"]["current"],
        "final_reserved_bytes": stats["reserved_bytes"]["all"]["current"],
        **{name: stats[name] for name in COUNTERS},
        "segments_allocated": stats["segment"]["all"]["allocated"],
        "segments_freed": stats["segment"]["all"]["freed"],
        "allocations": stats["allocation"]["all"]["allocated"],
    }


def load_small_tensors() -> None:
    """What generate() reads back from the device must mean something, as under `oomdoctor rehearse`."""
    spec = importlib.util.spec_from_file_location("small_tensors", os.environ["OOMDOCTOR_PAYLOAD"])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install(torch)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One job, in a process that has not used the device."""
    gc.disable()  # when garbage goes must not depend on what ran before
    if job["settings"]:
        torch.cuda.memory._set_allocator_settings(job["settings"])
    torch.cuda.init()
    # The devices are shared by the forks, so each says anew how much there is.
    capacity = job["total_memory"] if job.get("capacity") is None else job["capacity"]
    if ctypes.CDLL(None).oomdoctor_set_capacity(0, ctypes.c_uint64(capacity)):
        raise ValueError(f"the device does not have {capacity} bytes")
    if job.get("memory_fraction") is not None:
        torch.cuda.set_per_process_memory_fraction(job["memory_fraction"], 0)
    if job.get("snapshot"):
        torch.cuda.memory._record_memory_history("all", context="all", stacks="python")
    at_failure: list[dict[str, int]] = []
    torch._C._cuda_attach_out_of_memory_observer(lambda *_: at_failure.append(figures()))
    result: dict[str, Any] = {"first_oom": None, "error": None}
    server = Server(job["seed"])  # its models stay until after the snapshot
    try:
        WORKLOADS[job["workload"]](server)
    except torch.cuda.OutOfMemoryError:
        result["first_oom"] = at_failure[0]["allocations"]
    result["figures"] = at_failure[0] if at_failure else figures()
    if job.get("snapshot"):
        with open(job["snapshot"], "wb") as file:
            pickle.dump(torch.cuda.memory._snapshot(), file)
    return result


def main(jobs: str, results: str) -> None:
    warnings.simplefilter("ignore")
    load_small_tensors()
    torch.set_num_threads(1)  # threads do not survive a fork
    for index, job in enumerate(json.loads(Path(jobs).read_text())):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        try:
            result = run(job)
        except BaseException:
            result = {"error": traceback.format_exc()[-3000:]}
        with contextlib.suppress(OSError), open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps({"index": index, **result}) + "\n")
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
