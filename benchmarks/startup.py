"""How long a person waits for ``oomdoctor --help`` and ``oomdoctor explain TEXT``, beside ``python -c pass``.

    python benchmarks/startup.py [--runs 15]

Prints the median of the runs in ms, taken in turn so that a busy machine slows all alike. Both must stay
under 300 ms.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

TEXT = (
    "CUDA out of memory. Tried to allocate 1.24 GiB (GPU 0; 15.78 GiB total capacity; 10.34 GiB already"
    " allocated; 456.50 MiB free; 14.21 GiB reserved in total by PyTorch)"
)
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "oomdoctor --help": ["-m", "oomdoctor", "--help"],
    "oomdoctor explain TEXT": ["-m", "oomdoctor", "explain", TEXT],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, values in times.items():
        print(f"{name:<24} {statistics.median(values):6.1f} ms   (fastest {min(values):.1f})")


if __name__ == "__main__":
    main()
