"""Workloads through the real allocator on an emulated device, and what came of it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from oomdoctor.emulator.drive import DEVICES
from oomdoctor.emulator.rehearsal import rehearsal

SERVE = Path(__file__).parent / "serve.py"
TOTAL_MEMORY = DEVICES.memory_bytes[0]


@dataclass(frozen=True)
class Job:
    """A workload of ``workloads.py`` under settings; ``snapshot`` where it is recorded."""

    workload: str
    seed: int = 0
    settings: str = ""
    capacity: Optional[int] = None
    memory_fraction: Optional[float] = None
    snapshot: Optional[str] = None


@dataclass(frozen=True)
class Ran:
    """What the allocator did: ``first_oom`` is the number of allocations before it ran out of memory."""

    figures: dict[str, int]
    first_oom: Optional[int]
    error: Optional[str]


def run_jobs(python: str, jobs: Sequence[Job], *, timeout: float = 3600) -> list[Ran]:
    """Each in a process of its own, under the torch and the transformers of ``python``."""
    with tempfile.TemporaryDirectory(prefix="oomdoctor-serve-") as folder:
        questions, answers = Path(folder) / "jobs.json", Path(folder) / "results.jsonl"
        questions.write_text(json.dumps([{**asdict(job), "total_memory": TOTAL_MEMORY} for job in jobs]))
        answers.write_text("")
        with rehearsal([python], DEVICES, python=python) as ready:
            base = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
            done = subprocess.run(
                [python, str(SERVE), str(questions), str(answers)],
                env={**base, **ready.environment, "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        told: dict[int, dict[str, Any]] = {}
        for line in answers.read_text().splitlines():
            result = json.loads(line)
            told[result.pop("index")] = result
    lost = {"error": f"no result; the server said: {done.stderr[-2000:]}"}
    return [
        Ran(one.get("figures", {}), one.get("first_oom"), one["error"])
        for one in (told.get(index, lost) for index in range(len(jobs)))
    ]


def workloads() -> list[str]:
    """The names of all. ``workloads.py`` is not imported: it needs transformers."""
    tree = ast.parse((SERVE.parent / "workloads.py").read_text())
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(one, ast.Name) and one.id == "workload" for one in node.decorator_list)
    ]
