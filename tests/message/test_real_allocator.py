"""Messages of PyTorch's own allocator, on emulated devices: what is read agrees with what torch says to the byte printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from oomdoctor.diagnosis.message import diagnose
from oomdoctor.diagnosis.model import Diagnosis
from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.message import read_text
from oomdoctor.units import GIB
from tests.message.formats import printed

pytestmark = pytest.mark.torch

SCRIPT = """
import json, sys, torch
live = [torch.empty(100 << 20, dtype=torch.uint8, device="cuda:0") for _ in range(20)]
holes = [torch.empty(15 << 20, dtype=torch.uint8, device="cuda:0") for _ in range(40)]
del holes[::2]
if "fraction" in sys.argv:
    torch.cuda.set_per_process_memory_fraction(0.5)
device, size = int(sys.argv[1]), int(sys.argv[2])
try:
    torch.empty(size, dtype=torch.uint8, device=f"cuda:{device}")
except RuntimeError as error:
    free, total = torch.cuda.mem_get_info(device)
    stats = torch.cuda.memory_stats(device) if "async" not in sys.argv else {}
    print(json.dumps({"text": f"{type(error).__name__}: {error}", "free": free, "total": total, "size": size,
                      "allocated": stats.get("allocated_bytes.all.current", 0),
                      "reserved": stats.get("reserved_bytes.all.current", 0), "torch": torch.__version__}))
"""


def fail(*arguments: str, conf: str = "") -> dict[str, Any]:
    """Run the script to its error and return what it says of it."""
    try:
        find_torch(sys.executable)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")
    with rehearsal([sys.executable], EmulatedDevices((8 * GIB, 8 * GIB)), python=sys.executable) as ready:
        environment = {**os.environ, **ready.environment, "PYTORCH_CUDA_ALLOC_CONF": conf}
        environment.pop("OOMDOCTOR_PAYLOAD", None)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def explained(told: dict[str, Any]) -> Diagnosis:
    ooms = read_text(told["text"]).ooms
    assert len(ooms) == 1, told["text"]
    return diagnose(ooms[0])


@pytest.mark.parametrize(
    ("device", "size", "more", "verdict"),
    [
        (0, 6 * GIB, "", "capacity"),
        (1, 100 * GIB, "", "impossible-request"),
        (0, 3 * GIB, "fraction", "limit"),
    ],
)
def test_numbers_agree_with_torch(device: int, size: int, more: str, verdict: str) -> None:
    told = fail(str(device), str(size), more)
    diagnosis = explained(told)
    facts = diagnosis.facts
    if facts.family == "torch-2.3-nul":
        pytest.skip("torch 2.3 prints no numbers")
    assert facts.device == device
    assert facts.requested_bytes == printed(told["size"])
    assert facts.total_bytes == printed(told["total"])
    assert facts.free_bytes == printed(told["free"])
    assert facts.allocated_bytes == printed(told["allocated"])
    assert facts.reserved_unallocated_bytes == printed(told["reserved"] - told["allocated"])
    assert diagnosis.verdict == verdict


def test_expandable_segments_make_holes_that_are_stated() -> None:
    told = fail("0", str(6 * GIB), conf="expandable_segments:True")
    facts = explained(told).facts
    assert facts.reserved_unallocated_bytes == printed(told["reserved"] - told["allocated"])
    assert facts.allocated_bytes == printed(told["allocated"])


def test_cuda_malloc_async() -> None:
    told = fail("0", str(6 * GIB), "async", conf="backend:cudaMallocAsync")
    facts = explained(told).facts
    assert facts.family.startswith("cuda-malloc-async")
    if facts.family == "cuda-malloc-async":
        assert facts.requested_bytes == told["size"]
        assert facts.total_bytes == printed(told["total"])


def test_a_segment_reserve_that_is_too_small() -> None:
    version = tuple(int(part) for part in find_torch(sys.executable).version.split("+")[0].split(".")[:2])
    if version < (2, 15):
        pytest.skip("expandable_segments_reserve came with torch 2.15")
    told = fail("0", str(5 * GIB), conf="expandable_segments:True,expandable_segments_reserve:0.5")
    diagnosis = explained(told)
    assert diagnosis.verdict == "limit"
    assert diagnosis.facts.details["expandable_segment_reserve_bytes"] == 4 * GIB


def test_more_than_an_exabyte_is_impossible() -> None:
    diagnosis = explained(fail("0", str(1 << 61)))
    assert diagnosis.facts.requested_bytes is None
    assert diagnosis.verdict == "impossible-request"
