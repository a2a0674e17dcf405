"""How fast ``oomdoctor explain`` reads a log: 100 MB with 50 out-of-memory errors in it, beside ``grep -c``.

    python benchmarks/explain_log.py [--megabytes 100] [--errors 50]

Prints MB/s for both, each the best of three, and the peak memory of oomdoctor.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 1 << 20
WORDS = [
    "step",
    "loss",
    "lr",
    "grad_norm",
    "throughput",
    "tokens",
    "epoch",
    "checkpoint",
    "saved",
    "memory",
    "usage",
    "model",
    "layers",
    "attention",
]


def filler(rng: random.Random) -> str:
    words = " ".join(rng.choices(WORDS, k=8))
    clock = f"2025-11-20 12:{rng.randrange(60):02}:{rng.randrange(60):02},{rng.randrange(1000):03}"
    return f"[rank{rng.randrange(8)}]: {clock} INFO trainer.py:1042] loss {rng.random():.4f} {words}\n"


def error(index: int) -> str:
    return (
        f"[rank{index % 8}]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate"
        f" {64 + 2 * index}.00 MiB. GPU {index % 8} has a total capacity of 79.15 GiB of which"
        f" {index % 60}.50 MiB is free. Including non-PyTorch memory, this process has 78.60 GiB memory in"
        " use. Of the allocated memory 70.00 GiB is allocated by PyTorch, and 6.25 GiB is reserved by"
        " PyTorch but unallocated. If reserved but unallocated memory is large try setting"
        " PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.\n"
    )


def write_log(path: Path, size_bytes: int, errors: int) -> None:
    """A log of ``size_bytes``, its errors spread evenly."""
    rng = random.Random(1)
    block = "".join(filler(rng) for _ in range(5000)).encode()
    written, due = 0, 0
    with path.open("wb") as file:
        while written < size_bytes:
            if due < errors and written >= due * size_bytes // errors:
                written += file.write(error(due).encode())
                due += 1
            start = rng.randrange(0, len(block) // 2)
            begin = block.index(b"\n", start) + 1
            written += file.write(block[begin:])


def best_of_three(command: list[str]) -> tuple[float, str]:
    """Seconds and standard output of the fastest of three runs."""
    best, output = float("inf"), ""
    for _ in range(3):
        start = time.perf_counter()
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        best = min(best, time.perf_counter() - start)
    return best, output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--errors", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "train.log"
        write_log(log, options.megabytes * 10**6, options.errors)
        megabytes = log.stat().st_size / 1e6
        seconds, output = best_of_three([sys.executable, "-m", "oomdoctor", "explain", str(log), "--json"])
        print(f"log                 {megabytes:8.1f} MB, {options.errors} errors in it")
        print(
            f"oomdoctor explain   {megabytes / seconds:8.1f} MB/s   {json.loads(output)['count']} found in"
            f" {seconds:.2f} s"
        )
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f"  peak memory       {peak / 1024:8.1f} MiB")
        if shutil.which("grep"):
            seconds, output = best_of_three(["grep", "-c", "out of memory", str(log)])
            print(
                f"grep -c             {megabytes / seconds:8.1f} MB/s   {output.strip()} lines in"
                f" {seconds:.2f} s"
            )


if __name__ == "__main__":
    main()
