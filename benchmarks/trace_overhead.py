"""What recording costs: a transformers ``generate()``, untraced, recorded by hand, and under ``oomdoctor
trace``.

The three take turns, so that whatever else the machine does falls on all of them alike. By hand means what
PyTorch's documentation says: ``torch.cuda.memory._record_memory_history(stacks="python", max_entries=...)``
before the model is made, ``_dump_snapshot`` at the end. Nothing is taken out of either figure: by hand
includes its one snapshot, ``trace`` includes starting the launcher, the snapshot at exit and everything said
at the end.

    python benchmarks/trace_overhead.py [--rounds 7] [--tokens 96] [--layers 32]

With a CUDA device it runs there; without, on an emulated one, where kernels take no time and the host's
share, which is what recording adds to, is all there is: the ratio on a device can only be nearer to one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WORKLOAD = """
import os, sys, time
import torch
from transformers import LlamaConfig, LlamaForCausalLM
payload = os.environ.get("BENCHMARK_PAYLOAD")
if payload:
    namespace = {"__name__": "payload"}
    exec(compile(open(payload).read(), payload, "exec"), namespace)
    namespace["install"](torch)
print("imported", time.time(), flush=True)
layers, tokens, entries, snapshot = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if snapshot:
    torch.cuda.memory._record_memory_history(stacks="python", max_entries=entries)
config = LlamaConfig(num_hidden_layers=layers)  # the default is Llama-2-7B
torch.set_default_dtype(torch.float16)
with torch.device("cuda"):
    model = LlamaForCausalLM(config).eval()
ids = torch.zeros(1, 128, dtype=torch.long, device="cuda")
began = time.perf_counter()
out = model.generate(
    ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
    pad_token_id=0,
)
assert out.shape == (1, 128 + tokens), out.shape
print("generated", time.perf_counter() - began, flush=True)
if snapshot:
    torch.cuda.memory._dump_snapshot(snapshot)
"""
MODES = ("untraced", "by hand", "trace")


@contextlib.contextmanager
def device_environment() -> Iterator[dict[str, str]]:
    """What the workload needs in its environment: nothing with a CUDA device, else an emulated one."""
    probe = subprocess.run(
        [sys.executable, "-c", "import torch; assert torch.cuda.is_available()"], capture_output=True
    )
    if probe.returncode == 0:
        yield {}
        return
    from oomdoctor.emulator.rehearsal import rehearsal
    from oomdoctor.emulator.state import EmulatedDevices
    from oomdoctor.units import GIB

    with rehearsal([sys.executable], EmulatedDevices(memory_bytes=(80 * GIB,))) as ready:
        environment = dict(ready.environment)
        # Installed by the workload itself, in all three modes alike.
        environment["BENCHMARK_PAYLOAD"] = environment.pop("OOMDOCTOR_PAYLOAD")
        yield environment


def measure(
    mode: str, arguments: argparse.Namespace, folder: Path, environment: dict[str, str]
) -> dict[str, float]:
    """One run: seconds in all, of CPU, after the imports, and in ``generate`` alone."""
    script = folder / "workload.py"
    script.write_text(WORKLOAD)
    snapshot = str(folder / "by-hand.pickle") if mode == "by hand" else ""
    # The variables are for the workload only: the launcher is not preloaded with anything.
    command = ["env", *(f"{k}={v}" for k, v in environment.items()), sys.executable, str(script)]
    command += [str(arguments.layers), str(arguments.tokens), str(arguments.max_entries), snapshot]
    if mode == "trace":
        run = folder / f"run-{time.time_ns()}"
        command = [sys.executable, "-m", "oomdoctor", "trace", "-o", str(run), "--", *command]
    spent, began = os.times(), time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    ended, now = time.time(), os.times()
    if done.returncode != 0:
        sys.exit(f"{mode}: the workload failed\n{done.stderr}")
    if mode == "trace" and "recorded 1 process, 1 snapshot" not in done.stderr:
        sys.exit(f"nothing was recorded\n{done.stderr}")
    told = dict(
        line.split() for line in done.stdout.splitlines() if line.startswith(("imported", "generated"))
    )
    return {
        "whole run": ended - began,
        "CPU time": now.children_user + now.children_system - spent.children_user - spent.children_system,
        "after imports": ended - float(told["imported"]),
        "generate()": float(told["generated"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--max-entries", type=int, default=1_000_000)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with device_environment() as environment, tempfile.TemporaryDirectory() as folder:
        print("device:", "emulated" if environment else "CUDA")
        measure("untraced", arguments, Path(folder), environment)  # files into the page cache
        for number in range(arguments.rounds):
            for mode in MODES[number % 3 :] + MODES[: number % 3]:
                found[mode].append(measure(mode, arguments, Path(folder), environment))
        sizes = [os.path.getsize(p) for p in Path(folder).glob("run-*/processes/*/*.pickle")]
        print(f"snapshot: {statistics.median(sizes) / 1e6:.1f} MB; medians of {arguments.rounds} rounds")
    print(f"{'':15}" + "".join(f"{mode:>12}" for mode in MODES) + f"{'trace/hand':>12}{'trace/none':>12}")
    for part in ("whole run", "CPU time", "after imports", "generate()"):
        seconds = {mode: statistics.median(run[part] for run in found[mode]) for mode in MODES}
        ratios = [
            statistics.median(t[part] / o[part] for t, o in zip(found["trace"], found[other]))
            for other in ("by hand", "untraced")
        ]
        print(
            f"{part:15}"
            + "".join(f"{seconds[mode]:10.3f} s" for mode in MODES)
            + "".join(f"{ratio:12.3f}" for ratio in ratios)
        )


if __name__ == "__main__":
    main()
