"""Run folders made by hand, as docs/reference/run-folder.md describes them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, Optional

from oomdoctor.diagnosis.state import device_state
from oomdoctor.snapshot import snapshot_from_plain

Json = dict[str, Any]
HOST = "node1"
GIB = 1 << 30


def write(path: Path, document: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def make_run(path: Path) -> Path:
    write(path / "run.json", {"schema": "oomdoctor.run/1", "created_unix": 1.0, "oomdoctor_version": "0.1.0"})
    return path


def add_launcher(
    run: Path,
    *,
    command: tuple[str, ...] = ("python", "infer.py"),
    nvml: tuple[Json, ...] = (),
    **more: Any,
) -> str:
    name = f"{HOST}-10-abc"
    folder = run / "launchers" / name
    write(
        folder / "launcher.json",
        {
            "schema": "oomdoctor.launcher/1",
            "host": HOST,
            "pid": 10,
            "command": list(command),
            "returncode": 1,
            "emulated": None,
            "nvml": {"available": True, "why": None, "samples": len(nvml)},
            "notes": [],
            **more,
        },
    )
    (folder / "nvml.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in nvml))
    return name


def sample(t: float, total: int, processes: dict[int, Optional[int]], device: int = 0) -> Json:
    used = sum(size or 0 for size in processes.values())
    return {
        "t": t,
        "device": device,
        "uuid": f"GPU-{device}",
        "total_bytes": total,
        "used_bytes": used,
        "free_bytes": total - used,
        "processes": [{"pid": pid, "bytes": size} for pid, size in processes.items()],
    }


def add_process(run: Path, pid: int, *, rank: Optional[int] = None, **more: Any) -> Path:
    folder = run / "processes" / f"{HOST}-{pid}-def"
    write(
        folder / "process.json",
        {
            "schema": "oomdoctor.process/1",
            "host": HOST,
            "pid": pid,
            "rank": rank,
            "argv": ["infer.py"],
            "torch_version": "2.9.1+cu128",
            "hip_version": None,
            "launcher": None,
            "environment": {},
            **more,
        },
    )
    return folder


def add_dump(
    folder: Path,
    plain: Json,
    *,
    reason: str = "oom",
    sequence: int = 1,
    total: int = 24 * GIB,
    free: int = GIB,
    device: int = 0,
    requested: Optional[int] = None,
    limit: Optional[int] = None,
    asked: Optional[dict[str, str]] = None,
    figures: Optional[Json] = None,
    line: bool = True,
    **more: Any,
) -> None:
    """A snapshot and its sidecar, whose figures are the snapshot's own sums unless others are given."""
    name = f"{sequence:04d}-{reason}"
    (folder / f"{name}.pickle").write_bytes(pickle.dumps(plain, 4))
    state = device_state(snapshot_from_plain(plain), device)
    sums = {
        "reserved_bytes": state.reserved,
        "allocated_bytes": state.allocated,
        "active_bytes": state.allocated + state.pending,
    }
    document: Json = {
        "schema": "oomdoctor.dump/1",
        "reason": reason,
        "sequence": sequence,
        "snapshot": f"{name}.pickle",
        "time_unix": 100.0 + sequence,
        "process": json.loads((folder / "process.json").read_text()),
        "settings": {
            "asked": asked or {},
            "in_effect": plain.get("allocator_settings"),
            "backend": "native",
            "memory_fraction": {},
        },
        "history": {"max_entries": 1000, "entries": [5], "wrapped": [False], "stacks": "python"},
        "devices": [
            {
                "device": device,
                "name": "a device",
                "uuid": f"{device}",
                "nvml_index": device,
                "total_bytes": total,
                "free_bytes": free,
                **sums,
                **(figures or {}),
            }
        ],
        **more,
    }
    if reason == "oom":
        oom = {
            "device": device,
            "requested_bytes": requested,
            "limit_bytes": total if limit is None else limit,
            "free_bytes": free,
            "count": sequence,
        }
        document["oom"] = oom
        if line:
            add_oom_line(folder, {"t": 100.0 + sequence, **oom, **sums, "snapshot": f"{name}.pickle"})
    write(folder / f"{name}.json", document)


def add_oom_line(process: Path, line: Json) -> None:
    with open(process / "ooms.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
