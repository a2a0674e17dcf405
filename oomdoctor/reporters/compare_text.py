"""``compare`` for a person: a screen for each pair of devices, 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.settings import Settings
from oomdoctor.comparison.compare import Pair
from oomdoctor.comparison.figures import Figure
from oomdoctor.comparison.points import Point
from oomdoctor.comparison.verdict import FIGURE_NAMES, room_of, same_requests_text
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.parts import counted, place_lines, size_text
from oomdoctor.reporters.recording_text import called, filled, notes, problems, release, trust
from oomdoctor.units import format_bytes

_ROWS = 8
# Of all figures these; --json has the others.
_SHOWN = (
    "peak_allocated_bytes",
    "peak_active_bytes",
    "peak_reserved_bytes",
    "peak_inactive_split_bytes",
    "final_allocated_bytes",
    "final_reserved_bytes",
    "num_alloc_retries",
    "num_ooms",
    "first_oom_alloc_index",
    "segments_allocated",
    "segments_freed",
    "num_device_alloc",
    "num_device_free",
)
_WHEN = {
    "oom": "at the request that failed",
    "peak": "at each one's peak of allocated",
    "common": "after the last common request",
    "end": "at the end",
    "moment": "at this moment",
}


def render(
    pairs: Sequence[Pair],
    unmatched: Sequence[tuple[str, DeviceHistory]],
    problems_found: Sequence[str],
    when: str,
    ink: Ink,
) -> str:
    """The whole answer; arguments as of :func:`oomdoctor.reporters.compare_json.document`."""
    parts = [_pair(one, when, ink) for one in pairs]
    if not pairs:
        parts.append("Nothing to compare: no device of A has a partner in B.")
    if unmatched:
        lines = [f"  {called(device)}, only in {side.upper()}" for side, device in unmatched]
        parts.append("\n".join([ink("Without a partner", "bold"), *lines]))
    return "\n\n".join(parts + problems(problems_found, ink))


def when_text(point: Point) -> str:
    """At which states places are compared, for a heading."""
    return _WHEN[point.when]


def _pair(pair: Pair, when: str, ink: Ink) -> str:
    a, b = called(pair.a), called(pair.b)
    head = a if a == b else f"A {a}; B {b}"
    parts = [
        ink(head, "bold") + "\n" + ink(filled(pair.verdict.summary), "bold"),
        "\n".join([*_side("A", pair.a), *_side("B", pair.b)]),
    ]
    if pair.positions is not None:
        parts.append(filled(same_requests_text(pair.positions.alignment)))
    parts.append(_figures(pair, ink))
    parts.append(_places(pair, when, ink))
    listed = notes(pair.notes)
    if listed:
        parts.append("\n".join(listed))
    return "\n\n".join(parts)


def _side(name: str, device: DeviceHistory) -> list[str]:
    path = device.source.path
    path = path if len(path) <= 76 else "…" + path[-75:]
    about = [release(device), counted(len(device.history.recording), "event")]
    room = room_of(device)
    about += [f"{format_bytes(room)} for PyTorch"] if room is not None else []
    settings = settings_text(device.history.settings)
    lines = [f"{name}  {path}", *_hung(", ".join(about)), *_hung(f"settings: {settings}")]
    check = device.history.check
    if check.matching != check.compared or not device.has_events:
        lines += _hung(trust(device))
    return lines


def settings_text(settings: Settings) -> str:
    """As they were written; where they were set otherwise, what differs from the defaults."""
    usual = Settings()
    differs = [
        f"{field.name}={getattr(settings, field.name)}"
        for field in fields(Settings)
        if field.name != "text" and getattr(settings, field.name) != getattr(usual, field.name)
    ]
    return settings.text or ", ".join(differs) or "the defaults"


def _hung(text: str) -> list[str]:
    return ["   " + line.strip() for line in filled("   " + text).splitlines()]


def _figures(pair: Pair, ink: Ink) -> str:
    lines = [ink(f"{'':<24}{'A':>18}{'B':>18}{'difference':>20}", "bold")]
    whole, common = figure_rows(pair)
    lines += [_row(*one) for one in whole]
    if common:
        lines += [ink(f"  {common_text(pair)}", "dim"), *(_row(*one) for one in common)]
    bases = pair.figures[0].a_basis, pair.figures[0].b_basis
    lines.append(ink(_row("basis", *bases, "derived"), "dim"))
    return "\n".join(lines)


def _row(name: str, a: str, b: str, difference: str) -> str:
    return f"  {name:<22}{a:>18}{b:>18}{difference:>20}".rstrip()


FigureRow = tuple[str, str, str, str]
"""A figure as a person reads it: its name, of A, of B, and the difference."""


def figure_rows(pair: Pair) -> tuple[list[FigureRow], list[FigureRow]]:
    """The figures over the whole of each; and until the last common request, where those are others."""
    named = {one.name: one for one in pair.figures}
    shown = _SHOWN if _maps(named) else _SHOWN[:-2]
    whole = [_told(named[name], pair) for name in shown if _says_something(named[name])]
    differ = any((one.a, one.b) != (named[one.name].a, named[one.name].b) for one in pair.common)
    common = [_told(one, pair) for one in pair.common if _says_something(one)] if differ else []
    return whole, common


def common_text(pair: Pair) -> str:
    """What the second part of :func:`figure_rows` is over."""
    assert pair.positions is not None
    alignment = pair.positions.alignment
    return f"until their last common request: {alignment.a[-1]:,} of A, {alignment.b[-1]:,} of B"


def _maps(named: dict[str, Figure]) -> bool:
    """Whether parts of expandable segments were mapped: else these figures are those of segments again."""
    segments, parts = named["segments_allocated"], named["num_device_alloc"]
    return (segments.a, segments.b) != (parts.a, parts.b)


def _says_something(figure: Figure) -> bool:
    """Errors that nobody had are no news."""
    if figure.name in ("num_ooms", "first_oom_alloc_index"):
        return bool(figure.a or figure.b)
    return figure.a is not None or figure.b is not None


def _told(figure: Figure, pair: Pair) -> FigureRow:
    # Without an error there is none that was the first; without history nobody knows.
    never = figure.name == "first_oom_alloc_index"
    a, b = (
        ("none" if never and one.has_events else "unknown")
        if value is None
        else size_text(value)
        if figure.is_bytes
        else f"{value:,}"
        for value, one in ((figure.a, pair.a), (figure.b, pair.b))
    )
    difference = figure.difference
    if difference is None:
        return FIGURE_NAMES[figure.name], a, b, ""
    count = f"{difference:+,}".replace("-", "−") if difference else "0"
    return FIGURE_NAMES[figure.name], a, b, signed(difference) if figure.is_bytes else count


def signed(size: int) -> str:
    """A difference of sizes: ``+1.20 GiB``, ``−512 bytes``, ``0``."""
    return f"+{size_text(size)}" if size > 0 else size_text(size) if size else "0"


def _places(pair: Pair, when: str, ink: Ink) -> str:
    by_place = pair.by_place(pair.point(when))
    point = by_place.point
    title = f"Live by place, {when_text(point)}"
    lines = [ink(title, "bold")]
    lines.append(ink(f"  states after {point.a:,} events of A and {point.b:,} of B", "dim"))
    changed = [one for one in by_place.held if one.difference]
    if not changed:
        what = "the same bytes from the same places" if by_place.held else "nothing lives"
        return "\n".join([*lines, f"  no difference: {what}"])
    lines.append(ink(f"{'':<33}{'A':>11}{'B':>11}{'difference':>13}{'':>3}change", "bold"))
    for one in changed[:_ROWS]:
        first, *rest = place_lines(one.place, 31)
        change = one.change + ("*" if one.is_moved else "")
        sizes = f"{_short(one.a_bytes):>11}{_short(one.b_bytes):>11}{_short_signed(one.difference):>13}"
        lines.append(f"  {first:<31}{sizes}   {change}")
        lines += [ink(f"    {line}", "dim") for line in rest]
    if any(one.is_moved for one in changed[:_ROWS]):
        lines.append(ink("  * the same functions, at other lines", "dim"))
    if len(changed) > _ROWS:
        left = sum(one.difference for one in changed[_ROWS:])
        lines.append(f"  {len(changed) - _ROWS:,} more: {signed(left)} together; --json has all of them")
    lines.append(ink(f"  {'basis':<31}{by_place.a_basis:>11}{by_place.b_basis:>11}{'derived':>13}", "dim"))
    return "\n".join(lines)


def _short(size: int) -> str:
    """In ten characters, "1022.0 MiB" instead of "1022.00 MiB"."""
    text = size_text(size) if size else "-"
    return text if len(text) <= 10 else text[:-5] + text[-4:]


def _short_signed(size: int) -> str:
    return f"+{_short(size)}" if size > 0 else f"−{_short(-size)}"
