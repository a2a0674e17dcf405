"""``explain --json``: the contract, ``oomdoctor.explain/1``. Sizes are bytes; null is what the text does not
state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from oomdoctor.diagnosis.model import SIZE_FIELDS, Diagnosis

SCHEMA = "oomdoctor.explain/1"
_STATED = (
    "family",
    "kind",
    "rank",
    "device",
    "line",
    "text",
    *SIZE_FIELDS,
)


def document(diagnoses: Sequence[Diagnosis]) -> dict[str, Any]:
    """The document as plain values."""
    return {"schema": SCHEMA, "count": len(diagnoses), "ooms": [_oom(diagnosis) for diagnosis in diagnoses]}


def render(diagnoses: Sequence[Diagnosis]) -> str:
    """The document as text."""
    return json.dumps(document(diagnoses), indent=2, ensure_ascii=False)


def _oom(diagnosis: Diagnosis) -> dict[str, Any]:
    facts = diagnosis.facts
    return {
        **{name: getattr(facts, name) for name in _STATED},
        "other_processes": [
            {"pid": process.pid, "bytes": process.bytes} for process in facts.other_processes
        ],
        "details": facts.details,
        "verdict": diagnosis.verdict,
        "findings": [
            {
                "id": finding.id,
                "summary": finding.summary,
                "basis": finding.basis,
                "bytes": finding.bytes,
                "evidence": finding.evidence,
            }
            for finding in diagnosis.findings
        ],
        "remedies": [
            {"id": remedy.id, "summary": remedy.summary, "command": remedy.command, "basis": remedy.basis}
            for remedy in diagnosis.remedies
        ],
    }
