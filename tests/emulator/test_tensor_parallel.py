"""transformers' tensor parallelism under torchrun: DTensors over two emulated devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import MIB

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("end-to-end")]
pytest.importorskip("transformers")

SCRIPT = """
import json, os, sys, torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], tp_plan="auto", dtype=torch.float16)
device = torch.device("cuda", int(os.environ["RANK"]))
weights = torch.cuda.memory_allocated()
kind = type(model.model.layers[0].self_attn.q_proj.weight).__name__
tokens = torch.randint(3, 32000, (2, 64), generator=torch.Generator().manual_seed(0)).to(device)
answer = model.generate(tokens, max_new_tokens=10, do_sample=False, pad_token_id=0)
told = {"kind": kind, "weights": weights, "shape": list(answer.shape), "answer": answer[0, -10:].tolist()}
open(os.environ["RANK"] + ".json", "w").write(json.dumps(told))
if device.index == 1:  # one rank dies; torchrun ends the other with SIGTERM
    hold = [torch.empty(1 << 30, dtype=torch.uint8, device=device) for _ in range(10)]
torch.distributed.barrier()
"""
MAKE = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8, vocab_size=32000)
LlamaForCausalLM(config).half().save_pretrained(sys.argv[1])
"""


def test_two_ranks_one_runs_out_of_memory(tmp_path: Path) -> None:
    try:
        find_torch(sys.executable)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")
    (tmp_path / "tp.py").write_text(SCRIPT)
    (tmp_path / "make.py").write_text(MAKE)

    def rehearse(*command: str) -> subprocess.CompletedProcess[str]:
        options = ["--gpus", "2", "--memory", "4GiB", "-o", "run", "--"]
        return subprocess.run(
            [sys.executable, "-m", "oomdoctor", "rehearse", *options, *command],
            cwd=tmp_path,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            capture_output=True,
            text=True,
            timeout=250,
        )

    assert rehearse(sys.executable, "make.py", "model").returncode == 0
    done = rehearse(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "tp.py", "model")
    assert done.returncode == 1, done.stderr[-3000:]
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0]["kind"] == "DTensor"
    assert told[0]["shape"] == [2, 74]
    assert told[0]["weights"] < 60 * MIB  # a half of each matrix that is split

    explained = subprocess.run(
        [sys.executable, "-m", "oomdoctor", "explain", "run", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    (oom,) = json.loads(explained.stdout)["ooms"]
    assert (oom["rank"], oom["device"], oom["verdict"]) == (1, 1, "capacity")
    reasons = {}
    for sidecar in (tmp_path / "run" / "processes").glob("*/*-*.json"):
        dump = json.loads(sidecar.read_text())
        reasons.setdefault(dump["process"]["rank"], set()).add(dump["reason"])
    assert reasons == {0: {"sigterm"}, 1: {"oom", "exit"}}
