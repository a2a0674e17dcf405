"""torchrun with an nccl process group: communicators form, and small collectives give what they should."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.emulator.torch_build import TorchBuild
from oomdoctor.units import GIB

pytestmark = pytest.mark.torch

SCRIPT = """
import importlib.util, json, os, sys, torch, torch.distributed as dist
spec = importlib.util.spec_from_file_location("small_tensors", os.environ["OOMDOCTOR_PAYLOAD"])
module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); module.install(torch)
rank = int(os.environ["LOCAL_RANK"])
torch.cuda.set_device(rank)
dist.init_process_group("nccl")
out = {}
x = torch.full((4,), float(rank + 1), device="cuda"); dist.all_reduce(x); out["sum"] = x.tolist()
x = torch.full((2,), rank + 1, device="cuda"); dist.all_reduce(x, op=dist.ReduceOp.MAX); out["max"] = x.tolist()
x = torch.full((3,), 1.5 + rank, device="cuda", dtype=torch.bfloat16); dist.all_reduce(x); out["bf16"] = x.tolist()
x = torch.full((3,), 0.25 + rank, device="cuda", dtype=torch.half); dist.all_reduce(x, op=dist.ReduceOp.AVG)
out["half"] = x.tolist()
x = torch.full((2,), rank, device="cuda"); dist.broadcast(x, 1); out["broadcast"] = x.tolist()
parts = [torch.zeros(2, device="cuda") for _ in range(2)]
dist.all_gather(parts, torch.full((2,), float(rank), device="cuda")); out["gather"] = [p.tolist() for p in parts]
whole = torch.arange(4., device="cuda"); part = torch.zeros(2, device="cuda")
dist.reduce_scatter_tensor(part, whole); out["scatter"] = part.tolist()
objects = [None, None]; dist.all_gather_object(objects, {"rank": rank}); out["objects"] = objects
if rank == 0:
    dist.send(torch.tensor([42, 43], device="cuda"), 1)
else:
    x = torch.zeros(2, dtype=torch.long, device="cuda"); dist.recv(x, 0); out["letter"] = x.tolist()
dist.barrier()
group = dist.new_group([0, 1]); x = torch.ones(1, device="cuda"); dist.all_reduce(x, group=group); out["group"] = x.item()
big = torch.zeros(1 << 26, device="cuda"); dist.all_reduce(big)
out["free"] = torch.cuda.mem_get_info()[0]
open(os.path.join(sys.argv[1], f"{rank}.json"), "w").write(json.dumps(out))
dist.destroy_process_group()
"""


def test_two_ranks(torch_build: TorchBuild, tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    command = [
        torch_build.python,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        str(script),
        str(tmp_path),
    ]
    with rehearsal(command, EmulatedDevices((8 * GIB, 8 * GIB)), python=torch_build.python) as ready:
        done = subprocess.run(
            command, env={**os.environ, **ready.environment}, capture_output=True, text=True, timeout=200
        )
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[1].pop("letter") == [42, 43]
    assert ranks[0].pop("scatter") == [0, 2]
    assert ranks[1].pop("scatter") == [4, 6]
    assert ranks[0].pop("free") == ranks[1].pop("free")
    for told in ranks:
        assert told == {
            "sum": [3.0] * 4,
            "max": [2, 2],
            "bf16": [4.0] * 3,
            "half": [0.75] * 3,
            "broadcast": [1, 1],
            "gather": [[0.0, 0.0], [1.0, 1.0]],
            "objects": [{"rank": 0}, {"rank": 1}],
            "group": 2.0,
        }
