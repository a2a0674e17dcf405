"""Real messages from public issues, where the collection lies beside the checkout; it is not part of the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomdoctor.message import read_text

COLLECTION = Path(__file__).resolve().parents[3] / "shared" / "data" / "oom_messages.jsonl"
FIELDS = (
    "device",
    "requested_bytes",
    "total_bytes",
    "free_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "reserved_unallocated_bytes",
    "process_in_use_bytes",
    "private_pool_bytes",
    "allowed_bytes",
)


def entries() -> list[dict[str, Any]]:
    if not COLLECTION.exists():
        return []
    return [json.loads(line) for line in COLLECTION.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(
    not COLLECTION.exists(), reason="the collection of real messages is not beside this checkout"
)
def test_real_messages() -> None:
    wrong = {}
    for entry in entries():
        expected = entry["expected"]
        ooms = read_text(entry["text"]).ooms
        if len(ooms) != expected["count"]:
            wrong[entry["id"]] = f"{len(ooms)} events, not {expected['count']}"
        elif ooms:
            found = {name: getattr(ooms[0], name) for name in FIELDS}
            found["others"] = sorted((process.pid, process.bytes) for process in ooms[0].other_processes)
            wanted = {name: expected[name] for name in FIELDS}
            wanted["others"] = sorted(
                (process["pid"], process["bytes"]) for process in expected["other_processes"] or []
            )
            if found != wanted:
                wrong[entry["id"]] = f"{found} is not {wanted}"
    assert wrong == {}
