"""The real allocator told its settings, one forked process a text, and what it makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from oomdoctor.allocator.torch_version import TorchVersion, parse_torch_version
from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.emulator.torch_build import TorchBuild
from oomdoctor.units import GIB

PYTHONS = [p for p in os.environ.get("OOMDOCTOR_TEST_PYTHONS", sys.executable).split(":") if p]
DEVICES = EmulatedDevices((24 * GIB,))

# torch is imported once; each job runs in a fork, where CUDA starts with the variables that the job sets. (The
# backend is chosen at import: jobs about it need a process of their own.)
WORKER = r"""
import json, os, sys
import torch

def settle(job):
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        os.environ.pop(name, None)
    os.environ.update(job["environment"])
    held, told = {}, {"blocks": []}
    torch.empty(1, device="cuda")
    for text in job["then"]:
        torch.cuda.memory._set_allocator_settings(text)
    for name, size in job["steps"]:
        if size is None:
            del held[name]
        else:
            held[name] = torch.empty(size, dtype=torch.uint8, device="cuda")
    told["backend"] = torch.cuda.get_allocator_backend()
    if told["backend"] == "native":
        snapshot = torch.cuda.memory._snapshot()
        sizes = {b["address"]: b["size"] for s in snapshot["segments"] for b in s["blocks"]}
        told["blocks"] = {name: sizes[t.data_ptr()] for name, t in held.items()}
        told["segments"] = [[s["segment_type"], s["total_size"], s["is_expandable"]] for s in snapshot["segments"]]
        told["settings"] = snapshot["allocator_settings"]
    return told

for line in sys.stdin:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            told = settle(json.loads(line))
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}".split("\nException raised")[0]}
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    print("TOLD " + (answer or '{"error": "the process died"}'), flush=True)
"""

Steps = Sequence[tuple[str, "int | None"]]


class RealAllocator:
    """One torch, asked about many texts."""

    def __init__(self, build: TorchBuild, process: subprocess.Popen[str]) -> None:
        self.version: TorchVersion = parse_torch_version(build.version)
        self._process = process

    def settle(
        self, environment: Mapping[str, str], *, then: Sequence[str] = (), steps: Steps = ()
    ) -> dict[str, Any]:
        """Starts CUDA under these variables; allocates and frees by name; tells settings and blocks.

        ``error`` holds what torch said where it refused.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"environment": dict(environment), "then": list(then), "steps": [list(s) for s in steps]}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("TOLD "):
                told: dict[str, Any] = json.loads(line[5:])
                return told
        raise AssertionError("the interpreter ended")


@contextmanager
def real_allocator(build: TorchBuild, environment: Mapping[str, str] = {}) -> Iterator[RealAllocator]:
    """A torch on an emulated device; ``environment`` is there when it is imported."""
    command = [build.python, "-c", WORKER]
    with rehearsal(command, DEVICES, python=build.python) as ready:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ready.environment, **environment},
        )
        try:
            yield RealAllocator(build, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
