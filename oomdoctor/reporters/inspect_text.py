"""``inspect`` for a person: a screen for each device, 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from oomdoctor.allocator.fragmentation import Compartment, Measures
from oomdoctor.diagnosis.inspection import Inspection, PinWithAge
from oomdoctor.diagnosis.last_event import last_event
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.last_event_text import last_event_text
from oomdoctor.reporters.parts import counted, narrow_size, place_lines, size_text
from oomdoctor.reporters.recording_text import called, filled, notes, nothing, problems, release, trust
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor.units import format_seconds

_BAR = 16
_ROWS = 6


def render(inspections: Sequence[Inspection], problems_found: Sequence[str], ink: Ink, path: str = "") -> str:
    """The whole answer."""
    parts = [_device(one, ink) for one in inspections] or [nothing(path)]
    return "\n\n".join(parts + problems(problems_found, ink))


def _device(one: Inspection, ink: Ink) -> str:
    measures = one.moment.fragmentation.device
    parts = [_head(one, ink), filled(trust(one.device)), *_last_event(one), picture(one, ink)]
    if measures.reserved_bytes:
        parts.append(_measures(one, ink))
        parts.append(pools_table(one, ink))
    if one.pins:
        parts.append(pins_table(one, ink))
    listed = notes(one.notes)
    if listed:
        parts.append("\n".join(listed))
    return "\n\n".join(parts)


def _head(one: Inspection, ink: Ink) -> str:
    device, moment = one.device, one.moment
    events = len(moment.history.recording)
    when = (
        "at the end" if moment.events == events else f"after {moment.events:,} of {counted(events, 'event')}"
    )
    about = release(device) + (f", {counted(events, 'event')}" if events else "")
    about += f", snapshot {device.source.dump}" if device.source.dump else ""
    settings = moment.history.settings.text
    about += f", {settings}" if settings and len(about) + len(settings) < 76 else ""
    return ink(f"{called(device)} {when}", "bold") + "\n" + ink(about, "dim")


def _last_event(one: Inspection) -> list[str]:
    """What happened just now: an error always, else where somebody asks for an event."""
    event = last_event(one.moment)
    if event is None or (
        event.device_free is None and one.moment.events == len(one.moment.history.recording)
    ):
        return []
    return [filled(last_event_text(event))]


def picture(one: Inspection, ink: Ink) -> str:
    """Where the device's memory is: a bar for each state."""
    measures = one.moment.fragmentation.device
    whole = measures.free_bytes - measures.hole_bytes
    blocks = "1 live block" if measures.live_blocks == 1 else f"{measures.live_blocks:,} live blocks"
    holes = "1 hole" if measures.holes == 1 else f"{measures.holes:,} holes"
    rows = [("allocated", measures.allocated_bytes, blocks, "blue")]
    if one.under_way_bytes:
        rows.append(("being freed", one.under_way_bytes, "complete with the next event", "cyan"))
    if measures.pending_bytes > one.under_way_bytes:
        waiting = measures.pending_bytes - one.under_way_bytes
        rows.append(("pending", waiting, "freed, other streams wait", "cyan"))
    rows.append(("in holes", measures.hole_bytes, f"{holes}, beside live blocks", "yellow"))
    rows.append(("in whole segments", whole, "nothing live beside", "green"))
    lines = []
    for label, size, note, colour in rows:
        width = round((_BAR - 1) * size / measures.reserved_bytes) if measures.reserved_bytes else 0
        bar = ink("█" * width, colour) + " " * (_BAR - width)
        lines.append(f"  {label:<17} {size_text(size):>11}  {bar}{note}".rstrip())
    over = measures.reserved_over_allocated
    note = f"{over:.2f} × allocated" if over is not None else ""
    lines.append(f"  {'reserved':<17} {size_text(measures.reserved_bytes):>11}  {'':<{_BAR}}{note}".rstrip())
    return "\n".join(_with_basis(lines, one.basis, ink))


def _with_basis(lines: list[str], basis: str, ink: Ink) -> list[str]:
    """The basis at the end of the first line: it holds for all."""
    return [f"{ink('Memory', 'bold')}{ink(f'{basis:>74}', 'dim')}", *lines]


def _measures(one: Inspection, ink: Ink) -> str:
    measures = one.moment.fragmentation.device
    lines = [ink("Fragmentation", "bold") + ink(f"{'derived':>67}", "dim")]
    rows = [
        ("internal", size_text(measures.internal_bytes), "lost to rounding in live blocks"),
        (
            "external",
            f"{100 * measures.external:.1f} %",
            f"is not in the largest free block, {size_text(measures.largest_free_bytes)}",
        ),
        (
            "inactive split",
            size_text(measures.inactive_split_bytes),
            "1 block" if measures.inactive_split == 1 else f"{measures.inactive_split:,} blocks",
        ),
    ]
    if measures.stranded_bytes is not None:
        rows.append(
            ("stranded", size_text(measures.stranded_bytes), "no request of the recorded sizes can use it")
        )
    rows.append(
        ("releasable", size_text(measures.releasable_bytes), "empty_cache() or a retry gives it back")
    )
    return "\n".join([*lines, *(f"  {name:<17} {value:>11}  {note}" for name, value, note in rows)])


def pools_table(one: Inspection, ink: Ink) -> str:
    """A row for each pool and stream."""
    compartments = one.moment.fragmentation.compartments
    head = (
        f"{'Pool, stream':<18}{'reserved':>11}{'live':>11}{'in holes':>11}{'holes':>6}{'largest':>11}"
        f"{'stranded':>12}"
    )
    lines = [ink(head, "bold")]
    lines += [_pool(one, c) for c in compartments[:_ROWS]]
    if len(compartments) > _ROWS:
        rest = sum(c.measures.reserved_bytes for c in compartments[_ROWS:])
        lines.append(f"  {len(compartments) - _ROWS} more: {size_text(rest)} reserved")
    lines += [ink(f"  {line}", "dim") for line in _legend(compartments[:_ROWS])]
    return "\n".join(lines)


def _pool(one: Inspection, c: Compartment) -> str:
    measures: Measures = c.measures
    return (
        f"  {_pool_name(one, c):<16}{narrow_size(measures.reserved_bytes):>11}"
        f"{narrow_size(measures.allocated_bytes + measures.pending_bytes):>11}"
        f"{narrow_size(measures.hole_bytes):>11}{measures.holes:>6,}"
        f"{narrow_size(measures.largest_free_bytes):>11}{size_text(measures.stranded_bytes):>12}"
    )


def _legend(compartments: Sequence[Compartment]) -> list[str]:
    """What the names of pools mean where they say more than large and small."""
    lines = []
    if any(c.measures.expandable_segments for c in compartments):
        lines.append("* expandable segments")
    if any(c.private_pool for c in compartments):
        lines.append("two numbers and a point, 0.2: a private pool, of a CUDA graph or a MemPool")
    return lines


def _pool_name(one: Inspection, c: Compartment) -> str:
    recording = one.moment.history.recording
    handles = sorted({0, *recording.streams.tolist()})
    stream = f", {handles.index(int(recording.streams[c.stream]))}"
    size_class = "small" if c.is_small else "large"
    grow = "*" if c.measures.expandable_segments else ""
    private = ""
    if c.private_pool:
        first, second = recording.pool_id(c.private_pool)
        private = " private" if first == UNKNOWN else f" {first}.{second}"
    return f"{size_class}{grow}{private}"[: 16 - len(stream)] + stream


def pins_table(one: Inspection, ink: Ink) -> str:
    """A row for each place whose blocks keep holes open."""
    head = f"{'Holes kept open by':<37}{'holes':>11}{'alone':>11}{'blocks':>7}{'oldest':>14}"
    lines = [ink(head, "bold")]
    for found in one.pins[:_ROWS]:
        pin = found.pin
        first, *rest = place_lines(pin.place, 34)
        lines.append(
            f"  {first:<35}{narrow_size(pin.keeps_open):>11}{narrow_size(pin.alone):>11}{pin.count:>7,}"
            f"{_age(found):>14}"
        )
        lines += [ink(f"    {line}", "dim") for line in rest]
    if len(one.pins) > _ROWS:
        more = len(one.pins) - _ROWS
        lines.append(f"  {more:,} more place{'s' if more > 1 else ''}: --json has all of them")
    return "\n".join(lines)


def _age(found: PinWithAge) -> str:
    if found.is_older:
        return "before trace"
    if found.age_us != UNKNOWN:
        return f"{found.age_us} µs" if found.age_us < 1000 else format_seconds(found.age_us / 1e6)
    return f"{found.age_events:,} events"
