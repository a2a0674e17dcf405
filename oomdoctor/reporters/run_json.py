"""``explain RUN_FOLDER --json``: the contract ``oomdoctor.explain/1``, with the recorded state added.

Sizes are bytes. Added to each entry of ``ooms``: ``state``, ``process``, ``dump``, ``torch_version``,
``next``. Added at the top: ``run``, ``problems``, and ``states``, entries of the same form for processes
without an OOM (their ``kind`` is "state"), and ``ended``: processes that left no snapshot of their end.
"""

from __future__ import annotations

import json
from typing import Any, Optional

from oomdoctor.diagnosis.by_stack import Place
from oomdoctor.diagnosis.device_report import DeviceReport
from oomdoctor.diagnosis.run import Case, RunDiagnosis
from oomdoctor.diagnosis.run_ended import Ended
from oomdoctor.diagnosis.state import Compartment
from oomdoctor.reporters import explain_json

Json = dict[str, Any]


def document(run: RunDiagnosis) -> Json:
    """The document as plain values."""
    ooms = explain_json.document([case.diagnosis for case in run.ooms])
    states = explain_json.document([case.diagnosis for case in run.states])
    return {
        **ooms,
        "ooms": [{**entry, **_added(case)} for entry, case in zip(ooms["ooms"], run.ooms)],
        "states": [{**entry, **_added(case)} for entry, case in zip(states["ooms"], run.states)],
        "run": {"path": run.path, "processes": run.processes, "command": list(run.command)},
        "problems": list(run.problems),
        "ended": [_ended(one) for one in run.ended],
    }


def nothing(path: str) -> Json:
    """The document of a run folder in which nothing was recorded."""
    run = {"path": path, "processes": 0, "command": []}
    return {**explain_json.document([]), "states": [], "run": run, "problems": [], "ended": []}


def _ended(one: Ended) -> Json:
    return {
        "process": one.process,
        "pid": one.pid,
        "rank": one.rank,
        "host": one.host,
        "returncode": one.returncode,
        "runs": one.runs,
        "findings": [
            {"id": f.id, "summary": f.summary, "basis": f.basis, "bytes": f.bytes, "evidence": f.evidence}
            for f in one.findings
        ],
        "next": one.next,
    }


def render(run: RunDiagnosis) -> str:
    """The document as text."""
    return json.dumps(document(run), indent=2, ensure_ascii=False)


def _added(case: Case) -> Json:
    return {
        "process": case.process,
        "where": case.where,
        "dump": case.dump,
        "reason": case.reason,
        "sequence": case.sequence,
        "of_process": case.of_process,
        "torch_version": case.torch_version,
        "state": _state(case.report),
        "other_devices": [{"device": report.device, **(_state(report) or {})} for report in case.beside],
        "next": case.next,
    }


def _state(report: Optional[DeviceReport]) -> Optional[Json]:
    if report is None:
        return None
    request = report.request
    return {
        "requested_block_bytes": request.block_bytes if request else None,
        "largest_free_block_bytes": report.largest_free,
        "hole_bytes": report.hole_bytes,
        "holes": report.holes,
        "total_bytes": report.account.total,
        "free_bytes": report.account.free,
        "reserved_bytes": report.account.reserved,
        "allocated_bytes": report.account.allocated,
        "not_pytorch_bytes": report.account.not_pytorch,
        "pools": [_pool(c) for c in report.compartments],
        "streams": _streams(report),
        "pinning": [
            {
                **_place(pin.place),
                "blocks": pin.count,
                "bytes": pin.bytes,
                "segments": pin.segments,
                "hole_bytes": pin.keeps_open,
                "hole_bytes_alone": pin.alone,
            }
            for pin in report.pins
        ],
        "top_stacks": [
            {**_place(live.place), "blocks": live.count, "bytes": live.bytes} for live in report.live
        ],
    }


def _place(place: Place) -> Json:
    return {"frames": [{"name": f.name, "filename": f.filename, "line": f.line} for f in place.frames]}


def _pool(c: Compartment) -> Json:
    return {
        "pool": list(c.pool),
        "kind": "private" if c.is_private else "default",
        "size_class": "small" if c.is_small else "large",
        "stream": c.stream,
        "segments": c.segments,
        "expandable_segments": c.expandable_segments,
        "reserved_bytes": c.reserved,
        "allocated_bytes": c.allocated,
        "active_bytes": c.allocated + c.pending,
        "inactive_bytes": c.free,
        "inactive_whole_segments_bytes": c.free_whole,
        "holes": c.holes,
        "largest_free_block_bytes": c.largest_free,
        "rounding_bytes": c.rounding,
    }


def _streams(report: DeviceReport) -> list[Json]:
    compartments = report.compartments
    streams = []
    for stream in sorted({c.stream for c in compartments}):
        mine = [c for c in compartments if c.stream == stream]
        streams.append(
            {
                "stream": stream,
                "name": report.stream_name(stream),
                "reserved_bytes": sum(c.reserved for c in mine),
                "allocated_bytes": sum(c.allocated for c in mine),
                "active_bytes": sum(c.allocated + c.pending for c in mine),
                "inactive_bytes": sum(c.free for c in mine),
                "largest_free_block_bytes": max(c.largest_free for c in mine),
            }
        )
    return streams
