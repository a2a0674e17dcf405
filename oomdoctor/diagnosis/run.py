"""A recorded run, understood: every OOM of every process, or the state at exit where there was none."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Optional

from oomdoctor.diagnosis.device_report import DeviceReport, report_device
from oomdoctor.diagnosis.model import Diagnosis, Finding, OomFacts, OtherProcess, Remedy, Verdict
from oomdoctor.diagnosis.request import Request
from oomdoctor.diagnosis.run_account import Account, account_without_snapshot
from oomdoctor.diagnosis.run_ended import Ended, ended
from oomdoctor.diagnosis.run_remedies import Program, exact_size, next_command, remedies_for
from oomdoctor.diagnosis.run_verdict import judge
from oomdoctor.diagnosis.settings_lint import lint_settings
from oomdoctor.diagnosis.state import DEFAULT_POOL
from oomdoctor.errors import EmptyInput, InputError
from oomdoctor.run.device_samples import samples_of
from oomdoctor.run.documents import integer, mapping, number, objects, text, texts
from oomdoctor.run.folder import Dump, Process, RunFolder
from oomdoctor.snapshot import Snapshot, read_snapshot
from oomdoctor.storage import size_of
from oomdoctor.units import MIB

Json = dict[str, Any]

_WORTH_A_POOL = 32 * MIB
"""Snapshots that together are smaller than this are read before other processes have started."""

_NOT_ASKED = "not asked yet"
"""What a launcher that was killed early left as the reason why there are no samples: no reason."""

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
        account: where the memory was; without a report from torch's counters, None where these are missing.
        device_name: as CUDA calls the device.
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
    account: Optional[Account] = None
    device_name: Optional[str] = None


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
        ended: processes without a snapshot of their end, and what is known of it.
    """

    path: str
    is_run: bool
    cases: tuple[Case, ...]
    problems: tuple[str, ...]
    processes: int
    command: tuple[str, ...] = ()
    ended: tuple[Ended, ...] = ()

    @property
    def ooms(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.is_oom)

    @property
    def states(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if not case.is_oom)


def diagnose_run(path: str) -> RunDiagnosis:
    """Read a run folder and understand it.

    Raises:
        InputError: it is no run folder, or no process was recorded (see :meth:`RunFolder.open`).
    """
    run = RunFolder.open(path)
    if not run.processes:
        raise _no_process(run)
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
        if why and why != _NOT_ASKED:
            problems.append(f"no NVML samples: {why}")
    return RunDiagnosis(
        path=path,
        is_run=True,
        cases=tuple(cases),
        problems=tuple(dict.fromkeys(problems)),
        processes=len(run.processes),
        command=tuple(launchers[0].command) if launchers else (),
        ended=tuple(filter(None, (ended(run, process, _called(process)) for process in run.processes))),
    )


def _no_process(run: RunFolder) -> EmptyInput:
    """Why there is nothing to explain: what the launchers said, else how their commands ended."""
    said = [note for launcher in run.launchers for note in texts(launcher.document, "notes")]
    for launcher in [] if said else run.launchers:
        code = integer(launcher.document, "returncode")
        command = shlex.join(launcher.command) or launcher.name
        said.append(
            f"`{command}` " + (f"ended with {code}" if code is not None else "has not ended, or was killed")
        )
    return EmptyInput(
        "no process was recorded",
        where=run.path,
        why="; ".join(dict.fromkeys(said))
        + ". Only a Python process that uses CUDA through torch is recorded.",
        next_step="check that the command does, and inherits PYTHONPATH (sudo, containers and `python -I` "
        "drop it): oomdoctor env",
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
        return size_of(dump.snapshot) if dump.snapshot else 0
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
            case = _without_snapshot(run, process, dump, line, integer(line, "device"))
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
    for dump in reversed(process.dumps):
        devices = [integer(entry, "device") for entry in objects(dump.document, "devices")]
        for known in devices:
            yield _without_snapshot(run, process, dump, {}, known)
        if devices:
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
        kind="oom" if request is not None else "state",
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
        account=account,
        device_name=report.name,
    )


def _without_snapshot(
    run: RunFolder, process: Process, dump: Optional[Dump], line: Json, device: Optional[int]
) -> Case:
    """An OOM, or a state, whose snapshot cannot be had: torch's counters, and a verdict as far as they go.

    Args:
        dump: whose sidecar is there; None where only a line was kept.
        line: of ``ooms.jsonl``; empty for a state.
    """
    is_oom = bool(line)
    document = dump.document if dump else {}
    oom = {**line, **mapping(document, "oom")}
    figures = dump.device(device) if dump and device is not None else {}
    newest = process.dumps[-1] if process.dumps else None
    if not figures and newest is not None and device is not None:
        # The size and name of a device stay as they are; its counters do not.
        kept = newest.device(device)
        figures = {
            key: kept[key] for key in ("device", "name", "uuid", "nvml_index", "total_bytes") if key in kept
        }
    limit = integer(oom, "limit_bytes")
    totals = {integer(sample, "total_bytes") for launcher in run.launchers for sample in launcher.nvml}
    if "total_bytes" not in figures and limit is not None and limit in totals:
        figures = {**figures, "total_bytes": limit}  # no fraction: a device of this size is there
    when = dump.time_unix if dump else number(line, "t")
    sample = _sample_near(run, process, figures, when)
    account = account_without_snapshot(figures, oom, sample=sample, pid=process.pid, time_unix=when)
    program = _program(run, process, dump or newest, None)
    requested = integer(oom, "requested_bytes")
    request = Request(requested, None, None, DEFAULT_POOL, integer(oom, "free_bytes"))
    verdict: Verdict = "unknown"
    findings: list[Finding] = []
    remedies: tuple[Remedy, ...] = ()
    if is_oom:
        judged = account or Account(
            integer(figures, "total_bytes"), integer(oom, "free_bytes"), None, 0, 0, 0, 0, 0
        )
        if account is None and judged.free is not None:
            judged = replace(judged, free=None)  # without the counters nothing follows from it
        verdict, why = judge(judged, request)
        findings.append(why)
        remedies = remedies_for(verdict, judged, request, program, device or 0)
    findings.append(_no_snapshot(dump, line))
    settings = mapping(document, "settings")
    if dump:
        findings += lint_settings(
            program.asked,
            mapping(settings, "in_effect") or None,
            program.torch_version,
            is_hip=program.is_hip,
            has_fraction=True if account and account.has_limit else None,
            backend=text(settings, "backend"),
        )
    facts = OomFacts(
        family="recording",
        kind="oom" if is_oom else "state",
        rank=process.rank,
        device=device,
        requested_bytes=requested,
        total_bytes=account.total if account else integer(figures, "total_bytes"),
        free_bytes=account.free if account else integer(oom, "free_bytes"),
        allocated_bytes=account.allocated if account else None,
        reserved_bytes=account.reserved if account else None,
        reserved_unallocated_bytes=account.reserved - account.allocated if account else None,
        process_in_use_bytes=account.process_in_use if account else None,
        allowed_bytes=account.limit if account and account.has_limit else None,
        other_processes=account.others if account else (),
    )
    diagnosis = Diagnosis(facts, verdict, tuple(findings), remedies)
    return Case(
        diagnosis=diagnosis,
        report=None,
        is_oom=is_oom,
        where=_called(process),
        process=process.name,
        dump=dump.name if dump else None,
        reason=dump.reason if dump else "oom",
        torch_version=program.torch_version,
        next=next_command(run.path, diagnosis, program) if is_oom else None,
        account=account,
        device_name=text(figures, "name"),
    )


def _no_snapshot(dump: Optional[Dump], line: Json) -> Finding:
    """Why there is none, and what is not known for it."""
    reason = text(line, "skipped")
    if dump is not None:
        missing = "it is missing" if text(dump.document, "snapshot") else "torch gave none"
        reason = text(dump.document, "snapshot_error") or (
            "it cannot be read" if dump.snapshot is not None else missing
        )
    elif reason is None:
        reason = "the first ones and the last are kept"
    return Finding(
        "no-snapshot",
        f"There is no snapshot of this one: {_first_sentence(reason)}. The figures are torch's counters; "
        "which pools and holes the free memory lies in is not known.",
        "recorded",
        None,
        {"reason": reason},
    )


def _first_sentence(reason: str) -> str:
    return reason.splitlines()[0].split(". ")[0][:160].rstrip(".") if reason.strip() else "nobody knows why"


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
        cwd=text(launcher.document, "cwd") if launcher else None,
        verb=recorded_with(emulated),
        expandable=expandable if isinstance(expandable, bool) else None,
        backend=text(mapping(dump.document, "settings"), "backend") if dump else None,
    )


def recorded_with(emulated: Any) -> tuple[str, ...]:
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
    order, seed, capability = (emulated.get(key) for key in ("address_order", "seed", "compute_capability"))
    if isinstance(order, str) and order != "rising":
        words += ["--addresses", order]
    if isinstance(seed, int) and seed:
        words += ["--seed", str(seed)]
    if isinstance(capability, list) and len(capability) == 2 and capability != [9, 0]:
        words += ["--compute-capability", ".".join(map(str, capability))]
    return tuple(words)


def _called(process: Process) -> str:
    rank = f"rank {process.rank}, " if process.rank is not None else ""
    return f"{rank}pid {process.pid}" if process.pid is not None else rank + process.name


def _nvml_sample(run: RunFolder, process: Process, dump: Dump, device: int) -> Optional[Json]:
    """The sample of this device nearest in time to the dump, from a launcher on the same host.

    One that lists the process is preferred: before its context is there, NVML does not know it.
    """
    return _sample_near(run, process, dump.device(device), dump.time_unix)


def _sample_near(run: RunFolder, process: Process, entry: Json, when: Optional[float]) -> Optional[Json]:
    if when is None:
        return None
    best: Optional[tuple[bool, float, Json]] = None
    for taken, sample in samples_of(run, process, entry):
        stranger = all(integer(p, "pid") != process.pid for p in objects(sample, "processes"))
        if best is None or (stranger, abs(taken - when)) < best[:2]:
            best = (stranger, abs(taken - when), sample)
    return best[2] if best else None


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
