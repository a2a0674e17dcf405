"""``explain`` for a person: 80 columns, one picture of the device, the arithmetic, what to do."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from oomdoctor.diagnosis.message_accounting import Accounting, Amount, account
from oomdoctor.diagnosis.model import Diagnosis, OomFacts, Remedy, Verdict
from oomdoctor.reporters.ink import Ink
from oomdoctor.units import GIB, MIB, format_bytes

WIDTH = 80
_BAR = 17
_DETAILED = 3
_COLOURS = {"allocated": "blue", "in holes": "yellow", "free": "green"}
_TITLES: dict[Verdict, str] = {
    "fragmentation": "fragmentation",
    "capacity": "not enough memory for it",
    "other-process": "another process has the memory",
    "limit": "a limit was reached",
    "non-pytorch": "memory outside PyTorch's allocator",
    "impossible-request": "more than the device has",
    "unknown": "the text does not say why",
}
_SHOWN_ELSEWHERE = {"verdict", "reserved-unallocated", "unnamed-memory", "own-non-pytorch", "other-process"}

_PRINTED = re.compile(r"(?<![\d.,])(\d{1,15}(?:\.\d{1,6})?) ?([KMGTPE])iB")


def render(diagnoses: Sequence[Diagnosis], ink: Ink) -> str:
    """The whole answer. Several events: a table of all, then the first of each kind in full."""
    if len(diagnoses) == 1:
        return _one(diagnoses[0], ink)
    shown: dict[tuple[str, str], Diagnosis] = {}
    for diagnosis in diagnoses:
        shown.setdefault((diagnosis.verdict, diagnosis.facts.family), diagnosis)
    parts = [_table(diagnoses, ink)]
    parts.extend(_one(diagnosis, ink, where=True) for diagnosis in list(shown.values())[:_DETAILED])
    left = len(shown) - _DETAILED
    if left > 0:
        parts.append(f"{left} more of other kinds: --json has all of them.")
    return "\n\n".join(parts)


def _table(diagnoses: Sequence[Diagnosis], ink: Ink) -> str:
    lines = [ink(f"{len(diagnoses)} out-of-memory errors", "bold"), ""]
    lines.append(f"  {'line':>8}  {'rank':>4}  {'GPU':>3}  {'asked for':>11}  {'free':>11}  verdict")
    shown = diagnoses[:20]
    for diagnosis in shown:
        facts = diagnosis.facts
        lines.append(
            f"  {_or_dash(facts.line):>8}  {_or_dash(facts.rank):>4}  {_or_dash(facts.device):>3}  "
            f"{_size(facts.requested_bytes):>11}  {_size(facts.free_bytes):>11}  {diagnosis.verdict}"
        )
    if len(diagnoses) > len(shown):
        lines.append(f"  ... and {len(diagnoses) - len(shown)} more: --json has all of them")
    return "\n".join(lines)


def _or_dash(value: Optional[int]) -> str:
    return "-" if value is None else str(value)


def _size(value: Optional[int]) -> str:
    return "-" if value is None else format_bytes(value)


def _one(diagnosis: Diagnosis, ink: Ink, where: bool = False) -> str:
    facts = diagnosis.facts
    books = account(facts)
    parts = [_headline(diagnosis, ink, where)]
    picture = _picture(facts, books, ink)
    if picture:
        parts.append(picture)
    parts.append(_explanation(diagnosis, has_picture=bool(picture)))
    remedies = _remedies(diagnosis, ink)
    if remedies:
        parts.append(remedies)
    return "\n\n".join(parts)


def _headline(diagnosis: Diagnosis, ink: Ink, where: bool) -> str:
    facts = diagnosis.facts
    place = f"Line {facts.line}: " if where and facts.line is not None else ""
    rank = f"rank {facts.rank}, " if facts.rank is not None else ""
    device = "GPU" if facts.device is None else f"GPU {facts.device}"
    title = _TITLES[diagnosis.verdict]
    if facts.kind == "refusal":
        what = f"{facts.family.removesuffix('-unbalanced')} refused to start"
    elif facts.family == "triton":
        resource = facts.details.get("resource", "shared memory")
        whose = "device's" if resource == "shared memory" else "device's memory"
        what, title = "Triton", f"a kernel's {resource}, not the {whose}"
    elif facts.kind == "disguised":
        what = f"{'PyTorch' if facts.family == 'disguised' else facts.family}, out of memory in disguise"
    else:
        what = f"{rank}{device} ran out of memory"
    return ink(f"{place}{what}: ", "bold") + ink(title, "bold", "red")


@dataclass(frozen=True)
class _Row:
    name: str
    bytes: int
    label: str
    basis: str


def _picture(facts: OomFacts, books: Accounting, ink: Ink) -> str:
    """A bar for each owner of the device's memory, to one scale."""
    rows = _rows(facts, books)
    if len(rows) < 2:
        return ""
    scale = max(row.bytes for row in rows) or 1
    lines = []
    for row in rows:
        blocks = round(_BAR * row.bytes / scale)
        bar = "█" * (blocks if blocks or not row.bytes else 1)
        head = f"  {row.name:<13}{format_amount(row.bytes):>11}  "
        room = WIDTH - len(head) - len(bar) - len(row.basis)
        basis = row.basis if room > 0 else row.basis.split()[0]
        room = WIDTH - len(head) - len(bar) - len(basis)
        label = f"  {row.label}" if room >= len(row.label) + 4 else ""
        gap = " " * (room - len(label))
        colour = _COLOURS.get(row.name, "cyan")
        lines.append(f"{head}{ink(bar, colour)}{label}{gap}{ink(basis, 'dim')}".rstrip())
    if books.total is not None:
        lines.append(f"  {'capacity':<13}{format_amount(books.total):>11}")
    return "\n".join(lines)


def _rows(facts: OomFacts, books: Accounting) -> list[_Row]:
    rows = []
    if books.allocated is not None and books.allocated.bytes:
        pool = facts.private_pool_bytes
        label = f"{format_bytes(pool)} in private pools" if pool else "live tensors"
        rows.append(_Row("allocated", books.allocated.bytes, label, "stated"))
    if books.holes is not None and books.holes.bytes:
        rows.append(
            _Row("in holes", books.holes.bytes, "reserved, not allocated", _basis(facts, books.holes))
        )
    if books.own is not None and books.own.bytes:
        rows.append(
            _Row("same process", books.own.bytes, "context, NCCL, libraries", _basis(facts, books.own))
        )
    for process in books.others:
        if process.bytes is not None:
            rows.append(_Row(f"pid {process.pid}", process.bytes, "another process", "stated"))
    if books.unnamed is not None:
        whose = "others" if books.own is not None else "context, NCCL, others"
        name = "not PyTorch's"
        if books.reserved is None:
            name, whose = "unaccounted", "pool's cache, context, others"
        rows.append(_Row(name, books.unnamed.bytes, whose, _basis(facts, books.unnamed)))
    if books.free is not None:
        rows.append(_Row("free", books.free, "", "stated"))
    return rows


def _basis(facts: OomFacts, amount: Amount) -> str:
    """``derived 14.21−10.34``: the formula with its numbers, all in one unit."""
    if not amount.formula:
        return amount.basis
    names = amount.formula.split(" - ")
    values = [
        (
            sum(process.bytes or 0 for process in facts.other_processes)
            if name.startswith("other_processes")
            else _named(facts, name)
        )
        for name in names
    ]
    known = [value for value in values if value is not None]
    if len(known) != len(names):
        return amount.basis
    unit = GIB if max(known) >= GIB else MIB
    return f"{amount.basis} " + "−".join(f"{value / unit:.2f}" for value in known)


def _named(facts: OomFacts, name: str) -> Optional[int]:
    value: Optional[int] = getattr(facts, name, None)
    held, holes = facts.allocated_bytes, facts.reserved_unallocated_bytes
    if value is None and name == "reserved_bytes" and held is not None and holes is not None:
        return held + holes
    return value


def format_amount(size_bytes: int) -> str:
    """For a column: GiB from a tenth of one on, so that amounts compare at a glance."""
    return f"{size_bytes / GIB:.2f} GiB" if size_bytes >= GIB // 10 else format_bytes(size_bytes)


def _explanation(diagnosis: Diagnosis, has_picture: bool) -> str:
    """The verdict's reason, then findings that the picture does not show."""
    paragraphs = []
    for finding in diagnosis.findings:
        if finding.id == "verdict" or not has_picture or finding.id not in _SHOWN_ELSEWHERE:
            basis = "" if finding.id == "verdict" else f" ({finding.basis})"
            paragraphs.append(finding.summary + basis)
    if diagnosis.facts.requested_bytes is not None and not has_picture:
        paragraphs.append(
            f"Asked for: {_as_printed(diagnosis.facts, diagnosis.facts.requested_bytes)} (stated)"
        )
    wrapped = [
        textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)
        for paragraph in paragraphs
    ]
    return "\n".join(wrapped)


def _as_printed(facts: OomFacts, size_bytes: int) -> str:
    """A stated size in the unit that the text has it in."""
    for printed in _PRINTED.finditer(facts.text):
        unit = 1 << 10 * ("KMGTPE".index(printed.group(2)) + 1)
        if round(float(printed.group(1)) * unit) == size_bytes:
            return f"{printed.group(1)} {printed.group(2)}iB"
    return format_bytes(size_bytes)


def _remedies(diagnosis: Diagnosis, ink: Ink) -> str:
    """Every line to paste, with why and on what basis."""
    tries = [remedy for remedy in diagnosis.remedies if remedy.id != "record"]
    records = [remedy for remedy in diagnosis.remedies if remedy.id == "record"]
    lines: list[str] = []
    if tries:
        bases = {remedy.basis for remedy in tries}
        title = "Try, in this order" if len(tries) > 1 else "Try"
        common = bases.pop() if len(bases) == 1 else ""
        lines.append(
            ink(title, "bold")
            + " " * max(1, WIDTH - len(title) - len(common)) * bool(common)
            + ink(common, "dim")
        )
        for remedy in tries:
            lines.extend(_remedy(remedy, ink, "" if common else remedy.basis))
    for remedy in records:
        lines.extend(textwrap.wrap(remedy.summary[:1].upper() + remedy.summary[1:], WIDTH))
        lines.append(f"  {ink(remedy.command or '', 'cyan')}")
    return "\n".join(lines)


def _remedy(remedy: Remedy, ink: Ink, basis: str) -> list[str]:
    tail = f" ({basis})" if basis else ""
    if remedy.command is None:
        return textwrap.wrap(
            f"- {remedy.summary}{tail}", WIDTH - 2, initial_indent="  ", subsequent_indent="    "
        )
    return [
        f"  {ink(remedy.command, 'cyan')}",
        *textwrap.wrap(remedy.summary + tail, WIDTH - 6, initial_indent="      ", subsequent_indent="      "),
    ]
