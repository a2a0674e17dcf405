"""Advice where no request was recorded: read off the final segments and blocks, and estimated throughout.

Nothing can be replayed then. The rules are those that explain an out-of-memory error
(:mod:`oomdoctor.diagnosis.run_remedies`); here each remedy gets the bytes that it could save at most.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

from oomdoctor.advice.conflicts import conflicts
from oomdoctor.advice.verify import program_of
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.diagnosis.device_report import DeviceReport, report_device
from oomdoctor.diagnosis.inspection import Inspection, inspect_device
from oomdoctor.diagnosis.max_split import (
    HoleySegments,
    mildest_mb,
    proposed_mb,
    why_no_value,
    why_nothing_in_reach,
    within_reach,
)
from oomdoctor.diagnosis.model import Remedy
from oomdoctor.diagnosis.request import Request
from oomdoctor.diagnosis.run_account import Account
from oomdoctor.diagnosis.run_remedies import Program, remedies_for
from oomdoctor.diagnosis.state import device_state
from oomdoctor.diagnosis.unmappable import unmappable_bytes
from oomdoctor.run.documents import integer, mapping, objects
from oomdoctor.snapshot.model import ALLOC, OOM
from oomdoctor.units import format_bytes

# What could be saved is worth a change from this part of what is reserved on.
_WORTH = 50
WHY_UNPROVABLE = "no request was recorded, so there is nothing to drive through the real allocator"


@dataclass(frozen=True)
class Estimate:
    """A setting and what it could save.

    Attributes:
        alloc_conf: the text.
        line: what to paste into a shell.
        saves: of each device the bytes of holes that it could have kept whole, or given back, at most.
        how: in words.
        formula: of ``saves``.
    """

    alloc_conf: str
    line: str
    saves: tuple[int, ...]
    how: str
    formula: str


@dataclass(frozen=True)
class StateAdvice:
    """Advice for one job from its final state; tuples are in the order of ``devices``.

    Attributes:
        inspections: the state of each, with what pins the holes.
        capacities: what each has to live with, bytes; None where not known.
        current: the settings text that the first was recorded with.
        estimates: the most saved first.
        best: what to try first; None where nothing is worth it.
        why: of that, or of there being none.
        max_split_mb: the value of max_split_size_mb to try; None where none can matter.
        max_split_helps: whether it could keep as much whole as is worth a change.
        max_split_why: in words.
        notes: what a reader has to know.
    """

    devices: tuple[DeviceHistory, ...]
    inspections: tuple[Inspection, ...]
    capacities: tuple[Optional[int], ...]
    current: str
    estimates: tuple[Estimate, ...]
    best: Optional[Estimate]
    why: str
    max_split_mb: Optional[int]
    max_split_helps: bool
    max_split_why: str
    notes: tuple[str, ...]


def has_requests(device: DeviceHistory) -> bool:
    """Whether anything was recorded that settings can be tried on."""
    action = device.history.recording.events.action
    return bool(((action == ALLOC) | (action == OOM)).any())


def advise_from_state(devices: Sequence[DeviceHistory], capacity: Optional[int] = None) -> StateAdvice:
    """What the final state of a job's devices suggests.

    Args:
        devices: at least one, none of which has requests.
        capacity: bytes that PyTorch may reserve on each; by default what the recording shows it had.
    """
    inspections = tuple(inspect_device(device) for device in devices)
    reports = [_report(device) for device in devices]
    failed = next((report for report in reports if report.request is not None), None)
    holey = _together([report.holey_segments for report in (reports if failed is None else [failed])])
    account = _sum([report.account for report in reports]) if failed is None else failed.account
    request = failed.request if failed is not None else None
    program = program_of(devices[0])
    remedies = remedies_for(
        "fragmentation" if failed is None else failed.verdict,
        account,
        request,
        program,
        devices[0].device,
        holey,
    )
    against = conflicts([device.history for device in devices])
    if against:
        remedies = tuple(remedy for remedy in remedies if remedy.id != "expandable-segments")
    value = _value(holey, account, request) if program.expandable is not True else None
    estimates = [
        found for remedy in remedies if (found := _estimate(remedy, devices, reports, value)) is not None
    ]
    reserved = sum(report.account.reserved for report in reports)
    # The likeliest of them or none: what max_split_size_mb costs a state does not show.
    best = estimates[0] if estimates and _is_worth_it(estimates[0], reserved) else None
    return StateAdvice(
        devices=tuple(devices),
        inspections=inspections,
        capacities=tuple(
            capacity if capacity is not None else device.source.capacity(device.device) for device in devices
        ),
        current=devices[0].history.settings.text,
        estimates=tuple(sorted(estimates, key=lambda one: -sum(one.saves))),
        best=best,
        why=_why(best, estimates, reports, failed, program),
        max_split_mb=value,
        max_split_helps=value is not None and _may_help(value, holey, account, request),
        max_split_why=_max_split_why(value, holey, account, request, program),
        notes=(
            *_notes(remedies, reports),
            *(f"{conflict.key} is left out: {conflict.why}" for conflict in against),
        ),
    )


def _is_worth_it(estimate: Estimate, reserved: int) -> bool:
    """Whether it could save as much as is worth a change."""
    return sum(estimate.saves) > 0 and sum(estimate.saves) >= reserved // _WORTH


def _report(device: DeviceHistory) -> DeviceReport:
    document = device.source.document
    entry = next((e for e in objects(document, "devices") if integer(e, "device") == device.device), {})
    oom = mapping(document, "oom")
    return report_device(
        device.history.recording.snapshot,
        device.device,
        sidecar=entry,
        oom=oom if oom.get("device") == device.device else {},
        sample=None,
        pid=device.source.pid,
        time_unix=None,
    )


def _together(several: Sequence[tuple[HoleySegments, ...]]) -> tuple[HoleySegments, ...]:
    count: Counter[int] = Counter()
    held: Counter[int] = Counter()
    for segments in several:
        for one in segments:
            count[one.segment_bytes] += one.count
            held[one.segment_bytes] += one.hole_bytes
    return tuple(HoleySegments(size, count[size], held[size]) for size in sorted(count, reverse=True))


def _sum(accounts: Sequence[Account]) -> Account:
    """Of all devices; what limits them does not add up, and is left out."""
    return replace(
        Account(None, None, None, 0, 0, 0, 0, 0),
        reserved=sum(one.reserved for one in accounts),
        allocated=sum(one.allocated for one in accounts),
        pending=sum(one.pending for one in accounts),
        free_default=sum(one.free_default for one in accounts),
        free_private=sum(one.free_private for one in accounts),
    )


def _value(holey: tuple[HoleySegments, ...], account: Account, request: Optional[Request]) -> Optional[int]:
    need = request.segment_bytes if request is not None else None
    return mildest_mb(holey) if need is None else proposed_mb(holey, need, account.room or 0)


def _estimate(
    remedy: Remedy, devices: Sequence[DeviceHistory], reports: Sequence[DeviceReport], value: Optional[int]
) -> Optional[Estimate]:
    """A remedy that is a setting, with what it could save on each device; None for others."""
    if remedy.id == "expandable-segments":
        saves = tuple(
            unmappable_bytes(
                device_state(device.history.recording.snapshot, device.device),
                device.history.settings.large_segment_size,
            )
            for device in devices
        )
        formula = "whole granules (20 MiB, 2 MiB in the small pool) inside holes, blocks lying as they lie"
    elif remedy.id == "max-split-size" and value is not None:
        saves = tuple(within_reach(report.holey_segments, value) for report in reports)
        formula = "holes in segments ≥ max_split_size"
    else:
        return None
    line = remedy.command or ""
    # "export NAME='text'"
    text = shlex.split(line)[1].partition("=")[2]
    return Estimate(text, line, saves, remedy.summary, formula)


def _why(
    best: Optional[Estimate],
    estimates: Sequence[Estimate],
    reports: Sequence[DeviceReport],
    failed: Optional[DeviceReport],
    program: Program,
) -> str:
    reserved = sum(report.account.reserved for report in reports)
    held = sum(report.hole_bytes for report in reports)
    of_all = f"{format_bytes(held)} of {format_bytes(reserved)} reserved lie in holes"
    if best is not None:
        return (
            f"{best.how}. {of_all}, and it could save {format_bytes(sum(best.saves))} of them, as the state"
            " stands"
        )
    if failed is not None and failed.verdict not in ("fragmentation", "unknown"):
        return failed.findings[0].summary.rstrip(".")
    if not held:
        return f"nothing to gain: of {format_bytes(reserved)} reserved nothing lies in holes"
    if held < reserved // _WORTH:
        return f"little to gain: only {of_all}, less than a fiftieth"
    if program.expandable:
        return f"{of_all}, with expandable segments on already, the setting that closes most"
    if not estimates:
        return f"{of_all}, and no setting of this release bears on them"
    if not any(sum(one.saves) for one in estimates):
        return f"{of_all}, in pieces too small for a setting to matter"
    likeliest, *others = estimates
    said = (
        f"{of_all}. {likeliest.alloc_conf} could save {format_bytes(sum(likeliest.saves))} of them at most,"
        f" less than {format_bytes(reserved // _WORTH)}, a fiftieth of what is reserved"
    )
    for one in others:
        if _is_worth_it(one, reserved):
            said += (
                f". {one.alloc_conf} could keep segments with {format_bytes(sum(one.saves))} of them whole,"
                " at a cost that a state does not show"
            )
    return said


def _may_help(
    value: int, holey: tuple[HoleySegments, ...], account: Account, request: Optional[Request]
) -> bool:
    """Of a request that failed the room for it counts, whatever its share."""
    return request is not None or within_reach(holey, value) >= account.reserved // _WORTH


def _max_split_why(
    value: Optional[int],
    holey: tuple[HoleySegments, ...],
    account: Account,
    request: Optional[Request],
    program: Program,
) -> str:
    need = request.segment_bytes if request is not None else None
    if value is None:
        if program.expandable or not holey:
            return why_nothing_in_reach(holey, expandable=bool(program.expandable))
        known = why_no_value(holey, need, account.room or 0) if need is not None else None
        return why_nothing_in_reach(holey, expandable=False) if known is None else known.summary.rstrip(".")
    count = sum(one.count for one in holey if one.segment_bytes >= value << 20)
    what = "1 segment" if count == 1 else f"{count:,} segments"
    may = (
        "may help"
        if _may_help(value, holey, account, request)
        else f"would do little, in {format_bytes(account.reserved)} reserved"
    )
    return (
        f"{may}. It could have kept {what} of that size or more whole, with"
        f" {format_bytes(within_reach(holey, value))} of holes; what lives in them would have needed room"
        " elsewhere, which a state does not show"
    )


def _notes(remedies: Sequence[Remedy], reports: Sequence[DeviceReport]) -> tuple[str, ...]:
    """Remedies that are no settings, and what an empty_cache() gives back by itself."""
    notes = [
        remedy.summary for remedy in remedies if remedy.id not in ("expandable-segments", "max-split-size")
    ]
    whole = sum(c.free_whole for report in reports for c in report.compartments if not c.is_private)
    if whole:
        notes.append(
            f"{format_bytes(whole)} are cached in segments that hold nothing live; a retry gives them back by"
            " itself, and so does torch.cuda.empty_cache()"
        )
    return tuple(notes)
