"""How many requests PyTorch's own allocator serves in a second, driven by a compiled loop, history off.

    python benchmarks/real_allocator.py [--requests 1000000] [--repeats 5] [--python PYTHON] [--settings CONF]

The yardstick for replays. ``run_flat`` is for other benchmarks: the same requests through the real allocator.
Needs a C++ compiler and a CUDA build of torch, whose libraries and headers are used; the device is emulated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oomdoctor.emulator.build import built_stubs
from oomdoctor.emulator.drive import DEVICES
from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.torch_build import TorchBuild

HERE = Path(__file__).parent
REQUEST = np.dtype([("bytes", "<i8"), ("id", "<u4"), ("stream", "<u4")])  # a free has -1 bytes
Requests = npt.NDArray[np.void]
CUDA_HEADERS = ("cuda.h", "cuda_runtime.h", "cuda_runtime_api.h")


def flat(ops: Iterable[tuple[Any, ...]]) -> Requests:
    """The requests of a program's operations: ``("alloc", id, bytes, stream)`` and ``("free", id)`` alone."""
    numbers: dict[Any, int] = {}
    rows = []
    for op in ops:
        if op[0] == "alloc":
            rows.append((op[2], numbers.setdefault(op[1], len(numbers)), op[3]))
        elif op[0] == "free":
            rows.append((-1, numbers[op[1]], 0))
        else:
            raise ValueError(f"only allocations and frees can be timed, not {op[0]}")
    return np.array(rows, REQUEST)


def churn(count: int, live: int = 2000, seed: int = 1) -> Requests:
    """Requests of many sizes, some ``live`` at a time, most of them dying young."""
    rng = random.Random(seed)
    ops: list[tuple[Any, ...]] = []
    held: list[int] = []
    for number in range(count):
        if len(held) < live * rng.uniform(0.7, 1.3):
            size = int(rng.lognormvariate(12, 3)) % (64 << 20) + 1
            ops.append(("alloc", number, size, 0))
            held.append(number)
        else:
            ops.append(("free", held.pop(int(len(held) * rng.random() ** 0.5))))
    return flat(ops)


def build(torch: TorchBuild, folder: Path) -> Path:
    """The compiled loop for a torch, in ``folder``."""
    for name in CUDA_HEADERS:
        (folder / name).write_text('#include "cuda_declarations.h"\n')
    program = folder / "real_allocator"
    subprocess.run(
        [
            os.environ.get("CXX", "c++"),
            *("-std=c++20", "-O2", "-w", str(HERE / "real_allocator.cpp"), "-o", str(program)),
            *(f"-I{path}" for path in (folder, HERE, torch.folder / "include")),
            *(f"-L{torch.folder / 'lib'}", "-lc10_cuda", "-lc10", f"-Wl,-rpath,{torch.folder / 'lib'}"),
            *("-Wl,--allow-shlib-undefined", *map(str, built_stubs(torch).libraries)),
        ],
        check=True,
    )
    return program


def run_flat(
    requests: Requests, python: str = sys.executable, settings: str = "", repeats: int = 5
) -> dict[str, Any]:
    """``requests``, the ``seconds`` of each repetition, and ``peak_reserved_bytes``."""
    with (
        tempfile.TemporaryDirectory() as name,
        rehearsal([python], DEVICES, python=python) as ready,
    ):
        path = Path(name) / "program"
        requests.tofile(path)
        done = subprocess.run(
            [build(ready.torch, Path(name)), path, str(repeats)],
            env={
                **os.environ,
                **ready.environment,
                "PYTORCH_CUDA_ALLOC_CONF": settings,
                "TORCH_CPP_LOG_LEVEL": "ERROR",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--settings", default="")
    options = parser.parse_args()
    told = run_flat(churn(options.requests), options.python, options.settings, options.repeats)
    rates = [told["requests"] / seconds / 1e6 for seconds in told["seconds"]]
    print(
        f"real allocator: {statistics.median(rates):.2f} million requests a second (best {max(rates):.2f});"
        f" {told['requests']:,} requests, {told['peak_reserved_bytes'] / 2**30:.2f} GiB reserved at the peak"
    )


if __name__ == "__main__":
    main()
