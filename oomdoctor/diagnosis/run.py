"""A recorded run, understood: every OOM of every process, or the state at exit where there was none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Optional

from oomdoctor.diagnosis.device_report import DeviceReport, report_device
from oomdoctor.diagnosis.model import Diagnosis, Finding, OomFacts, OtherProcess, Remedy
from oomdoctor.diagnosis.request import Request
from oomdoctor.diagnosis.run_account import Account
from oomdoctor.diagnosis.run_remedies import Program, exact_size, next_command, remedies_for
from oomdoctor.diagnosis.run_verdict import judge
from oomdoctor.diagnosis.settings_lint import lint_settings
from oomdoctor.diagnosis.state import DEFAULT_POOL
from oomdoctor.errors import InputError
from oomdoctor.run.documents import integer, mapping, number, objects, text, texts
from oomdoctor.run.folder import Dump, Process, RunFolder
from oomdoctor.snapshot import Snapshot, read_snapshot
from oomdoctor.units import MIB

Json = dict[str, Any]

_WORTH_A_POOL = 32 * MIB
"""Snapshots that together are smaller than this are read before other processes have started."""

_MOST_WORKERS = 8
"""Reading takes eight times a snapshot's size in memory while it lasts."""


@dataclass(frozen=True)
class Case:
    """One OOM, or the state of one device at exit.

    Attributes:
        diagnosis: facts, verdict, findings, remedies.
        report: the state from the snapshot; None for an OOM of which no snapshot was kept.
        is_oom: False for a state at exit.
        where: "rank 1, pid 4711" as a person calls the process.
        process: name of the process's folder; empty for a bare snapshot.
        dump: name of the dump; None where none was kept.
        reason: why it was dumped.
        sequence, of_process: this is the nth of so many OOMs of the process.
        next: the next command.
        beside: the process's other devices in the same snapshot.
    """

    diagnosis: Diagnosis
    report: Optional[DeviceReport]
    is_oom: bool
    where: str
    process: str
    dump: Optional[str]
    reason: str
    torch_version: Optional[str]
    sequence: int = 1
    of_process: int = 1
    next: Optional[str] = None
    beside: tuple[DeviceReport, ...] = ()


@dataclass(frozen=True)
class RunDiagnosis:
    """Everything that a run folder or a single snapshot tells.

    Attributes:
        path: the folder or file.
        is_run: False for a single snapshot.
        cases: OOMs, by process and time; where a process had none, its state at exit.
        problems: what could not be read, or what the recorder said.
        processes: how many were recorded.
        command: what was run; empty where nobody knows.
        next: the next command where no OOM names one.
    """

    path: str
    is_run: bool
    cases: tuple[Case, ...]
    problems: tuple[str, ...]
    processes: int
    command: tuple[str, ...] = ()

    @property
    def ooms(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.is_oom)

    @property
    def states(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if not case.is_oom)


def diagnose_run(path: str) -> RunDiagnosis:
    """Read a run folder and understand it.

    Raises:
        InputError: it is no run folder, or empty (see :meth:`RunFolder.open`).
    """
    run = RunFolder.open(path)
    problems = list(run.problems)
    cases: list[Case] = []
    for process, (found, its_problems) in zip(run.processes, _of_each_process(run)):
        cases += found
        problems += its_problems
        if process.log.strip():
            lines = process.log.strip().splitlines()
            problems.append(f"the recorder of {_called(process)} says: {lines[0]}")
    launchers = [launcher for launcher in run.launchers if launcher.command]
    for launcher in run.launchers:
        problems += [f"the launcher says: {note}" for note in texts(launcher.document, "notes")]
        why = text(mapping(launcher.document, "nvml"), "why")
        if why:
            problems.append(f"no NVML samples: {why}")
    return RunDiagnosis(
        path=path,
        is_run=True,
        cases=tuple(cases),
        problems=tuple(dict.fromkeys(problems)),
        processes=len(run.processes),
        command=tuple(launchers[0].command) if launchers else (),
    )


def diagnose_snapshot(path: str) -> RunDiagnosis:
    """Understand a single snapshot, with nothing beside it.

    Raises:
        InputError: it cannot be read (see :func:`oomdoctor.snapshot.read_snapshot`).
    """
    snapshot = read_snapshot(path, event_stacks=False)
    in_effect = snapshot.settings
    conf = (in_effect or {}).get("PYTORCH_CUDA_ALLOC_CONF")
    asked = {"PYTORCH_CUDA_ALLOC_CONF": conf} if isinstance(conf, str) and conf else {}
    program = Program(asked=asked, expandable=(in_effect or {}).get("expandable_segments"))
    cases = []
    for device in snapshot.devices():
        report = report_device(snapshot, device, sidecar={}, oom={}, sample=None, pid=None, time_unix=None)
        findings = (
            *report.findings,
            *lint_settings(asked, in_effect, None),
            *_about_history(snapshot, device, {}),
        )
        cases.append(_case(report, findings, program, None, None))
    return RunDiagnosis(path=path, is_run=False, cases=tuple(cases), problems=(), processes=1)


def _of_each_process(run: RunFolder) -> Iterable[tuple[list[Case], list[str]]]:
    """Each process's cases and problems: a map over processes, side by side where that is worth it."""
    task = partial(_of_process, run)
    sizes = [sum(_size(dump) for dump in process.dumps) for process in run.processes]
    workers = min(len(sizes), os.cpu_count() or 1, _MOST_WORKERS)
    if workers < 2 or sum(sizes) < _WORTH_A_POOL:
        return map(task, run.processes)
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(task, run.processes))


def _size(dump: Dump) -> int:
    try:
        return os.path.getsize(dump.snapshot) if dump.snapshot else 0
    except OSError:
        return 0


def _of_process(run: RunFolder, process: Process) -> tuple[list[Case], list[str]]:
    problems: list[str] = []
    return list(_cases_of(run, process, problems)), problems


def _cases_of(run: RunFolder, process: Process, problems: list[str]) -> Iterator[Case]:
    """The OOMs of a process; where it had none, its devices at the newest dump."""
    dumps = {dump.name: dump for dump in process.dumps}
    lines = list(process.ooms)
    of_lines = {_stem(text(line, "snapshot")) for line in lines}
    # A process killed between the snapshot and the line has the snapshot only.
    lines += [
        {**mapping(dump.document, "oom"), "t": dump.time_unix, "snapshot": dump.name + ".pickle"}
        for dump in process.dumps
        if dump.reason == "oom" and dump.name not in of_lines
    ]
    total = max([len(lines), *(integer(line, "count") or 0 for line in lines)])
    for index, line in enumerate(lines):
        dump = dumps.get(_stem(text(line, "snapshot")) or "")
        snapshot = _read(dump, problems) if dump is not None else None
        sequence = integer(line, "count") or index + 1
        if dump is None or snapshot is None:
            case = _oom_without_snapshot(run, process, line, dump is not None)
        else:
            device = integer(mapping(dump.document, "oom"), "device")
            if device is None:
                device = integer(line, "device") or 0
            case = _at_dump(run, process, dump, snapshot, device)
            others = [other for other in _devices(dump, snapshot) if other != device]
            beside = tuple(_report(run, process, dump, snapshot, other, {}) for other in others)
            case = replace(case, beside=beside)
        yield replace(case, sequence=sequence, of_process=total)
    if lines:
        return
    for dump in reversed(process.dumps):
        snapshot = _read(dump, problems)
        if snapshot is None:
            continue
        for device in _devices(dump, snapshot):
            yield _at_dump(run, process, dump, snapshot, device)
        return


def _stem(snapshot: Optional[str]) -> Optional[str]:
    return None if snapshot is None else os.path.basename(snapshot).rsplit(".", 1)[0]


def _read(dump: Dump, problems: list[str]) -> Optional[Snapshot]:
    if dump.snapshot is None:
        return None
    try:
        return read_snapshot(dump.snapshot, event_stacks=False)
    except InputError as error:
        problems.append(str(error).splitlines()[0])
        return None


def _devices(dump: Dump, snapshot: Snapshot) -> list[int]:
    """The devices that the process used, as the sidecar says, else as the snapshot shows."""
    of_sidecar = [integer(entry, "device") for entry in objects(dump.document, "devices")]
    return [device for device in of_sidecar if device is not None] or snapshot.devices()


def _report(
    run: RunFolder, process: Process, dump: Dump, snapshot: Snapshot, device: int, oom: Json
) -> DeviceReport:
    return report_device(
        snapshot,
        device,
        # A dump whose sidecar is missing is still none that was made after the fact.
        sidecar=dump.device(device) or {"device": device},
        oom=oom,
        sample=_nvml_sample(run, process, dump, device),
        pid=process.pid,
        time_unix=dump.time_unix,
    )


def _at_dump(run: RunFolder, process: Process, dump: Dump, snapshot: Snapshot, device: int) -> Case:
    document = dump.document
    oom = mapping(document, "oom")
    if dump.reason == "oom" and not oom:
        oom = {"device": device}  # killed before the sidecar: the trace still has the request
    report = _report(run, process, dump, snapshot, device, oom)
    program = _program(run, process, dump, snapshot)
    settings = mapping(document, "settings")
    fractions = mapping(settings, "memory_fraction")
    fraction = number(fractions, str(device))
    findings = (
        *report.findings,
        *lint_settings(
            program.asked,
            snapshot.settings or mapping(settings, "in_effect") or None,
            program.torch_version,
            is_hip=program.is_hip,
            has_fraction=fraction < 1.0
            if fraction is not None
            else (True if report.account.has_limit else None),
            backend=text(settings, "backend"),
        ),
        *_about_history(snapshot, device, mapping(document, "history")),
    )
    case = _case(report, findings, program, process, dump)
    return replace(case, next=next_command(run.path, case.diagnosis, program))


def _case(
    report: DeviceReport,
    findings: tuple[Finding, ...],
    program: Program,
    process: Optional[Process],
    dump: Optional[Dump],
) -> Case:
    account, request = report.account, report.request
    private = any(c.is_private for c in report.compartments)
    facts = OomFacts(
        family="recording",
        rank=process.rank if process else None,
        device=report.device,
        requested_bytes=request.segment_bytes if request else None,
        total_bytes=account.total,
        free_bytes=account.free,
        allocated_bytes=account.allocated,
        reserved_bytes=account.reserved,
        reserved_unallocated_bytes=account.reserved - account.allocated,
        process_in_use_bytes=account.process_in_use,
        private_pool_bytes=account.free_private if private else None,
        allowed_bytes=account.limit if account.has_limit else None,
        other_processes=account.others,
    )
    remedies: tuple[Remedy, ...] = ()
    if request is not None:
        holey = None if report.counted_back else report.holey_segments
        remedies = remedies_for(report.verdict, account, request, program, report.device, holey)
    return Case(
        diagnosis=Diagnosis(facts, report.verdict, findings, remedies),
        report=report,
        is_oom=request is not None,
        where=_called(process) if process else "",
        process=process.name if process else "",
        dump=dump.name if dump else None,
        reason=dump.reason if dump else "snapshot",
        torch_version=program.torch_version,
    )


def _oom_without_snapshot(run: RunFolder, process: Process, line: Json, had_one: bool) -> Case:
    """An OOM of which only a line was kept: the numbers of the line, and a verdict where they allow one."""
    device = integer(line, "device")
    newest = process.dumps[-1] if process.dumps else None
    total = integer(newest.device(device), "total_bytes") if newest and device is not None else None
    reserved, allocated = integer(line, "reserved_bytes"), integer(line, "allocated_bytes")
    requested, free = integer(line, "requested_bytes"), integer(line, "free_bytes")
    unallocated = reserved - allocated if reserved is not None and allocated is not None else None
    account = Account(
        total=total,
        free=free,
        limit=integer(line, "limit_bytes"),
        reserved=reserved or 0,
        allocated=allocated or 0,
        pending=0,
        free_default=unallocated or 0,
        free_private=0,
    )
    request = Request(requested, None, None, DEFAULT_POOL, free)
    verdict, why = judge(account, request)
    facts = OomFacts(
        family="recording",
        rank=process.rank,
        device=device,
        requested_bytes=requested,
        total_bytes=total,
        free_bytes=free,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        reserved_unallocated_bytes=unallocated,
        allowed_bytes=account.limit if account.has_limit else None,
    )
    reason = text(line, "skipped")
    if reason is None:
        reason = "it cannot be read" if had_one else "the first ones and the last are kept"
    kept = Finding("no-snapshot", f"There is no snapshot of this one: {reason}.", "recorded")
    program = _program(run, process, newest, None)
    remedies = remedies_for(verdict, account, request, program, device or 0)
    return Case(
        diagnosis=Diagnosis(facts, verdict, (why, kept), remedies),
        report=None,
        is_oom=True,
        where=_called(process),
        process=process.name,
        dump=None,
        reason="oom",
        torch_version=program.torch_version,
    )


def _program(run: RunFolder, process: Process, dump: Optional[Dump], snapshot: Optional[Snapshot]) -> Program:
    who = {**process.document, **(mapping(dump.document, "process") if dump else {})}
    asked = mapping(who, "environment")
    if dump:
        asked = {**asked, **mapping(mapping(dump.document, "settings"), "asked")}
    launcher = run.launcher_of(process)
    emulated = launcher.document.get("emulated") if launcher else None
    expandable = (snapshot.settings or {}).get("expandable_segments") if snapshot else None
    return Program(
        torch_version=text(who, "torch_version"),
        is_hip=text(who, "hip_version") is not None,
        asked={name: value for name, value in asked.items() if isinstance(value, str)},
        command=tuple(launcher.command) if launcher else (),
        verb=_verb(emulated),
        expandable=expandable if isinstance(expandable, bool) else None,
    )


def _verb(emulated: Any) -> tuple[str, ...]:
    """The command that recorded: rehearse, where devices were emulated, with what its settings say."""
    if not isinstance(emulated, dict):
        return ("trace",)
    memory = emulated.get("memory_bytes")
    sizes = [size for size in memory if isinstance(size, int)] if isinstance(memory, list) else []
    words = ["rehearse"]
    if sizes:
        same = sizes[:1] if len(set(sizes)) == 1 else sizes
        words += ["--gpus", str(len(sizes)), "--memory", ",".join(map(exact_size, same))]
    for option, key, usual in (
        ("--context", "context_bytes", 500 * MIB),
        ("--other-process", "other_bytes", 0),
        ("--event-latency", "event_latency", 0),
    ):
        value = integer(emulated, key)
        if value is not None and value != usual:
            words += [option, str(value) if key == "event_latency" else exact_size(value)]
    return tuple(words)


def _called(process: Process) -> str:
    rank = f"rank {process.rank}, " if process.rank is not None else ""
    return f"{rank}pid {process.pid}" if process.pid is not None else rank + process.name


def _nvml_sample(run: RunFolder, process: Process, dump: Dump, device: int) -> Optional[Json]:
    """The sample of this device nearest in time to the dump, from a launcher on the same host.

    One that lists the process is preferred: before its context is there, NVML does not know it.
    """
    entry = dump.device(device)
    uuid, index = text(entry, "uuid"), integer(entry, "nvml_index")
    when = dump.time_unix
    if when is None or (uuid is None and index is None):
        return None
    best: Optional[tuple[bool, float, Json]] = None
    for launcher in run.launchers:
        if text(launcher.document, "host") not in (None, process.host):
            continue
        for sample in launcher.nvml:
            named = text(sample, "uuid")
            same = _bare(named) == _bare(uuid) if named and uuid else integer(sample, "device") == index
            taken = number(sample, "t")
            if not same or taken is None:
                continue
            stranger = all(integer(p, "pid") != process.pid for p in objects(sample, "processes"))
            if best is None or (stranger, abs(taken - when)) < best[:2]:
                best = (stranger, abs(taken - when), sample)
    return best[2] if best else None


def _bare(uuid: Optional[str]) -> Optional[str]:
    """torch leaves out the "GPU-" that NVML writes."""
    return uuid.replace("GPU-", "").lower() if uuid else uuid


def _about_history(snapshot: Snapshot, device: int, history: Json) -> list[Finding]:
    entries = len(snapshot.traces[device]) if device < len(snapshot.traces) else 0
    wrapped = history.get("wrapped")
    if isinstance(wrapped, list) and device < len(wrapped) and wrapped[device] is True:
        limit = integer(history, "max_entries")
        return [
            Finding(
                "history-wrapped",
                f"The history holds the newest {entries:,} events only: what came before is lost. "
                "Record with a larger --max-entries to have it all.",
                "recorded",
                None,
                {"entries": entries, "max_entries": limit},
            )
        ]
    if entries <= 1:
        return [
            Finding(
                "no-history",
                "The snapshot holds no history: the state is known, how it came about is not.",
                "recorded",
                None,
                {"entries": entries},
            )
        ]
    return []


__all__ = ["Case", "OtherProcess", "RunDiagnosis", "diagnose_run", "diagnose_snapshot"]
