"""``explain RUN_FOLDER`` for a person: a screen for each rank that failed, 80 columns."""

from __future__ import annotations

import re
import textwrap
from typing import Optional

from oomdoctor.diagnosis.device_report import DeviceReport
from oomdoctor.diagnosis.model import Basis, Finding, Verdict
from oomdoctor.diagnosis.run import Case, RunDiagnosis
from oomdoctor.diagnosis.run_ended import Ended
from oomdoctor.diagnosis.state import Compartment
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.parts import place_lines, size_text

WIDTH = 80
_BAR = 16
_NOTE = 25
_ROWS = 4
_SCREENS = 8
_TITLES: dict[Verdict, str] = {
    "fragmentation": "fragmentation",
    "capacity": "the memory is really used",
    "other-process": "another process has the memory",
    "limit": "a limit below the device's memory",
    "non-pytorch": "memory outside PyTorch's allocator",
    "impossible-request": "more than the device has",
    "unknown": "the recording does not say why",
}
# Findings whose numbers stand in the picture or the tables already.
_IN_TABLES = {"free-in-holes", "largest-free-block", "not-pytorch", "no-history"}


def render(run: RunDiagnosis, ink: Ink) -> str:
    """The whole answer."""
    parts = []
    shown = _worth_showing(run)
    if not run.ooms:
        parts.append(_nothing_failed(run, ink))
    elif len(run.ooms) > 1:
        parts.append(_table(run, ink))
    alike = _alike(shown)
    for first, *others in alike[:_SCREENS]:
        parts.append(_screen(first, ink))
        if others:
            parts.append(_others_alike(others, ink))
    if len(alike) > _SCREENS:
        parts.append(f"{sum(map(len, alike[_SCREENS:]))} more: --json has all of them.")
    parts += [_ended(one, ink) for one in run.ended[:_SCREENS]]
    if len(run.ended) > _SCREENS:
        parts.append(f"{len(run.ended) - _SCREENS} more left no snapshot: --json has all of them.")
    if run.problems:
        parts.append(_problems(run.problems, ink))
    return "\n\n".join(parts)


def _ended(one: Ended, ink: Ink) -> str:
    first, *more = one.findings
    parts = [textwrap.fill(first.summary, WIDTH), *(_bullet(f.summary, f.basis) for f in more)]
    if one.next:
        parts += ["", ink("Next", "bold"), _pasteable(one.next)]
    return "\n".join(parts)


def _worth_showing(run: RunDiagnosis) -> list[Case]:
    """Of each process and device the last OOM, with a snapshot if any has one; states if none failed."""
    if not run.ooms:
        return list(run.states)
    last: dict[tuple[str, Optional[int]], Case] = {}
    for case in run.ooms:
        key = (case.process, case.diagnosis.facts.device)
        if case.report is not None or key not in last or last[key].report is None:
            last[key] = case
    return list(last.values())


def _alike(cases: list[Case]) -> list[list[Case]]:
    """The cases by kind: same verdict, same device class, same places in the code. Ranks fail alike."""
    kinds: dict[object, list[Case]] = {}
    for number, case in enumerate(cases):
        report = case.report
        kind: object = (case.is_oom, case.diagnosis.verdict, case.device_name)
        if report is not None:
            places = tuple(sorted(repr(live.place) for live in report.live[:_ROWS]))
            kind = (kind, places, tuple(sorted(repr(pin.place) for pin in report.pins[:_ROWS])))
        elif not case.is_oom:
            kind = number
        kinds.setdefault(kind, []).append(case)
    return list(kinds.values())


def _others_alike(cases: list[Case], ink: Ink) -> str:
    """A line for each case that would only repeat the screen above it."""
    most = 64
    what = "the same verdict, from the same places" if cases[0].report else "the same verdict"
    head = f"{len(cases)} more with {what}"
    is_oom = cases[0].is_oom
    lines = [ink(head, "bold")]
    for case in cases[:most]:
        facts = case.diagnosis.facts
        figures = f"{size_text(facts.allocated_bytes)} allocated, {size_text(facts.free_bytes)} free"
        if is_oom:
            figures = f"{size_text(facts.requested_bytes)} wanted, {figures}"
        who = f"GPU {'-' if facts.device is None else facts.device}, {case.where}"
        lines.append(f"  {who[: 78 - len(figures) - 2]}: {figures}")
    if len(cases) > most:
        lines.append(f"  {len(cases) - most} more: --json has all of them.")
    return "\n".join(line.rstrip() for line in lines)


def _nothing_failed(run: RunDiagnosis, ink: Ink) -> str:
    if not run.is_run:
        return ink("No out-of-memory error in this snapshot; this is the state that it holds.", "bold")
    if not run.states:
        return ink("No out-of-memory error was recorded, and no snapshot.", "bold")
    last = "snapshot" if any(case.report for case in run.states) else "dump"
    return ink(f"No out-of-memory error was recorded; this is the state at the last {last}.", "bold")


def _table(run: RunDiagnosis, ink: Ink) -> str:
    lines = [ink(f"{len(run.ooms)} out-of-memory errors", "bold"), ""]
    lines.append(f"  {'process':<26} {'GPU':>3}  {'asked for':>11} {'free':>11}  verdict")
    most = 12
    shown = list(run.ooms) if len(run.ooms) <= most else [*run.ooms[: most - 1], run.ooms[-1]]
    for index, case in enumerate(shown):
        if index == most - 1 and len(run.ooms) > most:
            lines.append(f"  ... {len(run.ooms) - most} more ...")
        facts = case.diagnosis.facts
        device = "-" if facts.device is None else str(facts.device)
        lines.append(
            f"  {case.where[:26]:<26} {device:>3}  {size_text(facts.requested_bytes):>11} "
            f"{size_text(facts.free_bytes):>11}  {case.diagnosis.verdict}"
        )
    return "\n".join(lines)


def _screen(case: Case, ink: Ink) -> str:
    parts = [_head(case, ink)]
    report = case.report
    picture = _picture(case, ink)
    if picture:
        parts.append(picture)
    sentences = _sentences(case)
    if sentences:
        parts.append(sentences)
    if report is not None:
        if report.compartments:
            parts.append(_pools(report, ink))
        if report.pins and report.hole_bytes:
            parts.append(_pins(report, ink))
        if report.live:
            parts.append(_live(report, ink))
    others = case.diagnosis.findings[1 if case.is_oom else 0 :]
    also = [finding for finding in others if _worth_a_line(finding)]
    if also:
        parts.append("\n".join(_bullet(finding.summary, finding.basis) for finding in also))
    if case.beside:
        parts.append("\n".join(_beside(other) for other in case.beside))
    parts += _what_to_do(case, ink)
    return "\n\n".join(parts)


def _head(case: Case, ink: Ink) -> str:
    device = case.diagnosis.facts.device
    who = f"GPU {device}" + (f", {case.where}" if case.where else "")
    if case.is_oom:
        why = ink(_TITLES[case.diagnosis.verdict], "bold", "red")
        title = ink(f"{who} ran out of memory: ", "bold") + why
    else:
        title = ink(who, "bold")
    facts = []
    if case.device_name:
        facts.append(case.device_name)
    if case.torch_version:
        facts.append(f"torch {case.torch_version}")
    if case.dump:
        facts.append(f"{'snapshot' if case.report else 'dump'} {case.dump}")
    if case.of_process > 1:
        facts.append(f"OOM {case.sequence} of {case.of_process}")
    return title + ("\n" + ink(", ".join(facts), "dim") if facts else "")


def _picture(case: Case, ink: Ink) -> str:
    """The device's memory by owner. Rows sum to the capacity, where it is known."""
    report, account = case.report, case.account
    if account is None:
        return ""
    whole = account.total or account.reserved
    in_use = account.allocated + account.pending
    unallocated = account.free_default + account.free_private
    basis: Basis = "derived" if report is not None and report.counted_back else "recorded"
    rows: list[tuple[str, int, str, Basis, str]] = [
        ("allocated", in_use, "live tensors", basis, "blue"),
    ]
    if unallocated:
        note = "reserved, not allocated"
        if report is not None:
            holes = "1 hole" if report.holes == 1 else f"{report.holes:,} holes"
            largest = max(c.largest_free for c in report.compartments)
            note = f"{holes if report.hole_bytes else 'cached'}, max {size_text(largest)}"
            note = "" if report.counted_back else note
        rows.append(("free in pools", unallocated, note, basis, "yellow"))
    if account.not_pytorch is not None:
        note = "context, NCCL, others"
        if account.others_listed:
            others = account.others_known or 0
            note = f"others {size_text(others)}" if others else "context, NCCL"
            if len(account.others) == 1 and others:
                note = f"pid {account.others[0].pid} {size_text(others)}"
        label = "not PyTorch's"
        if _is_uncached(case):
            label, note = "not cached", "tensors, context, others"
        rows.append((label, account.not_pytorch, note, "derived", "cyan"))
    if account.free is not None:
        rows.append(("free", account.free, "", "recorded", "green"))
    lines = []
    for label, size, note, basis, colour in rows:
        bar = ink("█" * _bar(size, whole), colour)
        # Colour codes take no room on the screen: pad by what is seen.
        gap = " " * (_BAR - _bar(size, whole))
        text = f"  {label:<13} {size_text(size):>11}  {bar}{gap}{note[:_NOTE]:<{_NOTE}}"
        lines.append(text + ink(f"{basis:>10}", "dim"))
    if account.total is not None:
        lines.append(f"  {'capacity':<13} {size_text(account.total):>11}")
    if account.has_limit:
        lines.append(f"  {'allowed':<13} {size_text(account.limit):>11}")
    return "\n".join(lines)


def _is_uncached(case: Case) -> bool:
    """Whether tensors lie outside the caching allocator, and so in what is not its own."""
    ids = {finding.id for finding in case.diagnosis.findings}
    return bool(ids & {"caching-switched-off", "other-backend"}) and not case.diagnosis.facts.reserved_bytes


def _bar(size: int, whole: int) -> int:
    return max(0, min(_BAR - 1, round((_BAR - 1) * size / whole))) if whole else 0


def _sentences(case: Case) -> str:
    """Why, in the verdict's own words, and what the largest free block was."""
    findings = case.diagnosis.findings
    if not case.is_oom or not findings:
        return ""
    said = [findings[0].summary]
    said += [finding.summary for finding in findings if finding.id == "largest-free-block"]
    return textwrap.fill(" ".join(said), WIDTH)


def _pools(report: DeviceReport, ink: Ink) -> str:
    head = f"{'Pool, stream':<24}{'reserved':>12}{'in use':>12}{'free':>12}{'holes':>7}{'largest':>12}"
    lines = [ink(head, "bold")]
    shown = report.compartments[:_ROWS]
    for c in shown:
        lines.append(
            f"  {_pool_name(report, c):<22}{size_text(c.reserved):>12}"
            f"{size_text(c.allocated + c.pending):>12}{size_text(c.free):>12}"
            f"{c.holes:>7,}{size_text(c.largest_free):>12}"
        )
    if len(report.compartments) > len(shown):
        rest = report.compartments[len(shown) :]
        lines.append(f"  {len(rest)} more: {size_text(sum(c.reserved for c in rest))} reserved")
    return "\n".join(lines)


def _pool_name(report: DeviceReport, c: Compartment) -> str:
    size_class = "small" if c.is_small else "large"
    private = f" private {c.pool[0]}.{c.pool[1]}" if c.is_private else ""
    grow = "*" if c.expandable_segments else ""
    stream = f", {report.stream_name(c.stream)}"
    return f"{size_class}{grow}{private}"[: 22 - len(stream)] + stream


def _pins(report: DeviceReport, ink: Ink) -> str:
    lines = [ink(f"{'Holes kept open by':<49}{'holes':>12}{'alone':>12}{'blocks':>7}", "bold")]
    for pin in report.pins[:_ROWS]:
        first, *rest = place_lines(pin.place, 46)
        lines.append(f"  {first:<47}{size_text(pin.keeps_open):>12}{size_text(pin.alone):>12}{pin.count:>7,}")
        lines += [ink(f"    {line}", "dim") for line in rest]
    return "\n".join(lines)


def _live(report: DeviceReport, ink: Ink) -> str:
    lines = [ink(f"{'Live, by where it was allocated':<61}{'bytes':>12}{'blocks':>7}", "bold")]
    for live in report.live[:_ROWS]:
        first, *rest = place_lines(live.place, 58)
        lines.append(f"  {first:<59}{size_text(live.bytes):>12}{live.count:>7,}")
        lines += [ink(f"    {line}", "dim") for line in rest]
    if report.places > _ROWS:
        left = report.account.allocated + report.account.pending
        left -= sum(live.bytes for live in report.live[:_ROWS])
        more = "1 more place" if report.places == _ROWS + 1 else f"{report.places - _ROWS:,} more places"
        lines.append(f"  {more:<59}{size_text(left):>12}")
    return "\n".join(lines)


def _worth_a_line(finding: Finding) -> bool:
    return finding.id not in _IN_TABLES or finding.id == "no-history"


def _bullet(summary: str, basis: Basis) -> str:
    tail = "" if basis == "recorded" else f" ({basis})"
    return textwrap.fill(f"- {summary}{tail}", WIDTH, subsequent_indent="  ")


def _beside(report: DeviceReport) -> str:
    """Another device of the process, in a sentence: a model spread badly shows here."""
    account = report.account
    said = (
        f"- GPU {report.device} at that moment: {size_text(account.allocated + account.pending)} allocated, "
    )
    said += f"{size_text(account.free_default + account.free_private)} free in pools"
    if account.free is not None and account.total is not None:
        said += f", {size_text(account.free)} of {size_text(account.total)} free"
    return textwrap.fill(said + ".", WIDTH, subsequent_indent="  ")


def _what_to_do(case: Case, ink: Ink) -> list[str]:
    parts = []
    remedies = case.diagnosis.remedies
    if remedies:
        title = "Try, in this order" if len(remedies) > 1 else "Try"
        lines = [ink(f"{title:<71}", "bold") + ink(f"{remedies[0].basis:>9}", "dim")]
        for remedy in remedies:
            if remedy.command:
                lines += [ink(line, "green") for line in _pasteable(remedy.command).split("\n")]
                lines.append(_indented(remedy.summary, 6))
            else:
                lines.append(_indented(remedy.summary, 2))
        parts.append("\n".join(lines))
    if case.next:
        helps = any((remedy.command or "").startswith("export ") for remedy in remedies)
        purpose = "to see whether the first of them helps" if helps else "to see how much it would need"
        parts.append(ink(f"Next, {purpose}", "bold") + "\n" + _pasteable(case.next))
    return parts


_WORD = re.compile(r"""(?:[^\s'"\\]|'[^']*'|"(?:[^"\\]|\\.)*"|\\.)+""")


def _pasteable(command: str) -> str:
    """A command for the shell, broken with a backslash where it is longer than a line."""
    lines, line = [], " "
    for match in _WORD.finditer(command):
        if len(line) + 1 + len(match.group()) > WIDTH - 2 and line.strip():
            lines.append(line + " \\")
            line = "   "
        line += " " + match.group()
    return "\n".join([*lines, line])


def _indented(text: str, by: int) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=" " * by, subsequent_indent=" " * by)


def _problems(problems: tuple[str, ...], ink: Ink) -> str:
    lines = [ink("About the recording", "bold")]
    lines += [textwrap.fill(f"- {problem}", WIDTH, subsequent_indent="  ") for problem in problems[:8]]
    if len(problems) > 8:
        lines.append(f"  {len(problems) - 8} more: --json has all of them.")
    return "\n".join(lines)
