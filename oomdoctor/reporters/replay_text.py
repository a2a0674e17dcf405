"""``replay`` for a person: a table for each device, 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Optional

from oomdoctor.allocator.release_bounds import named
from oomdoctor.allocator.replay import FirstOom, Outcome
from oomdoctor.allocator.what_if import Comparison, capacity_at_oom
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.parts import counted, size_text
from oomdoctor.reporters.recording_json import basis_of
from oomdoctor.reporters.recording_text import called, filled, notes, nothing, problems, release, trust
from oomdoctor.units import format_bytes

ROWS: tuple[tuple[str, Callable[[Outcome], str]], ...] = (
    ("peak allocated", lambda o: size_text(o.peak_allocated_bytes)),
    ("peak active", lambda o: size_text(o.peak_active_bytes)),
    ("peak reserved", lambda o: size_text(o.peak_reserved_bytes)),
    ("peak inactive split", lambda o: size_text(o.peak_inactive_split_bytes)),
    ("allocated at the end", lambda o: size_text(o.final_allocated_bytes)),
    ("reserved at the end", lambda o: size_text(o.final_reserved_bytes)),
    ("retries", lambda o: f"{o.num_alloc_retries:,}"),
    ("out of memory", lambda o: _survives(o.first_oom)),
    ("cudaMalloc, cudaFree", lambda o: f"{o.segments_allocated:,}, {o.segments_freed:,}"),
    ("with map and unmap", lambda o: f"{o.num_device_alloc:,}, {o.num_device_free:,}"),
)


def render(comparisons: Sequence[Comparison], problems_found: Sequence[str], ink: Ink, path: str = "") -> str:
    """The whole answer."""
    parts = [_device(one, ink) for one in comparisons] or [nothing(path)]
    return "\n\n".join(parts + problems(problems_found, ink))


def _device(one: Comparison, ink: Ink) -> str:
    device = one.device
    head = f"{called(device)}: {headline(one)}"
    about = f"{release(device)}, {counted(len(device.history.recording), 'event')}"
    if device.source.dump:
        about += f", snapshot {device.source.dump}"
    lines = [ink(head, "bold"), ink(about, "dim"), "", filled(trust(device)), "", *_table(one, ink)]
    sentences = said(one)
    if sentences:
        lines += ["", filled(sentences)]
    listed = notes(one.notes)
    lines += ["", *listed] if listed else []
    return "\n".join(lines)


def headline(one: Comparison) -> str:
    """How it ends, in a few words."""
    if not one.device.has_events:
        return f"{format_bytes(one.recorded.final_reserved_bytes)} reserved"
    if not one.fits_at_start:
        return "does not fit when the trace begins"
    oom = one.outcome.first_oom
    if oom is not None:
        return f"out of memory at allocation {oom.alloc_index:,}"
    reserved = format_bytes(one.outcome.peak_reserved_bytes)
    if one.simulated is None or one.limit_bytes is None:
        return f"{reserved} reserved at the peak"
    return f"survives, {reserved} reserved at the peak"


def _table(one: Comparison, ink: Ink) -> list[str]:
    columns = [("as recorded", one.recorded, basis_of(one.device))]
    if one.simulated is not None:
        columns.append(("as asked", one.simulated, "replayed"))
    lines = []
    if one.simulated is not None or not one.fits_at_start:
        lines += [*_asked(one), ""]
    lines.append(ink(" " * 24 + "".join(f"{name:>24}" for name, _, _ in columns), "bold"))
    for name, shown in ROWS:
        # A snapshot without history states what is there, and nothing of what was.
        known = one.device.has_events or name.endswith("at the end")
        values = (shown(outcome) if known else "unknown" for _, outcome, _ in columns)
        lines.append(f"  {name:<22}" + "".join(f"{value:>24}" for value in values))
    basis = "".join(f"{basis:>24}" for _, _, basis in columns)
    return [*lines, ink(f"  {'basis':<22}{basis}", "dim")]


def _asked(one: Comparison) -> list[str]:
    """What the second column is."""
    asked = one.asked
    recorded = one.device.history.settings.text or "the defaults"
    lines = []
    if asked.alloc_conf is not None:
        lines.append(f"settings  {asked.alloc_conf.strip() or 'the defaults'}  (recorded: {recorded})")
    if asked.capacity is not None:
        lines.append(f"capacity  {format_bytes(asked.capacity)} for PyTorch")
    fraction = one.memory_fraction
    if fraction is not None and (asked.memory_fraction is not None or fraction < 1.0):
        line = f"fraction  {fraction:g}"
        if one.fraction_of is not None:
            limit = format_bytes(int(fraction * one.fraction_of))
            line += f" of {format_bytes(one.fraction_of)}: at most {limit}"
        lines.append(line)
    if asked.torch is not None:
        lines.append(f"rules of  torch {named(asked.torch)}")
    return [
        filled(f"As asked: {line}") if index == 0 else filled(f"          {line}")
        for index, line in enumerate(lines)
    ]


def _survives(oom: Optional[FirstOom]) -> str:
    return "no" if oom is None else f"at allocation {oom.alloc_index:,}"


def _without_end(one: Comparison) -> str:
    """Where retries show that memory was short, figures of endless memory are not comparable."""
    retries = counted(one.recorded.num_alloc_retries, "retry", "retries")
    peak = one.recorded.peak_reserved_bytes
    return (
        "Memory has no end here, since no --capacity was given; the recording met the end of it in"
        f" {retries}, with {format_bytes(peak)} reserved at the most. --capacity {peak} says what would have"
        " come of this with as much."
    )


def _past_the_error(one: Comparison) -> list[str]:
    if one.limit_bytes is not None:
        return [
            "It gets past the recorded out-of-memory error; what the program would have asked for then is not"
            " in the recording."
        ]
    capacity = capacity_at_oom(one.device.history) or 0
    return [
        "Memory has no end here, since no --capacity was given. At the recorded out-of-memory error PyTorch"
        f" could have had {format_bytes(capacity)}, reserved and free: --capacity {capacity} says whether"
        " it would have been enough."
    ]


def said(one: Comparison) -> str:
    """What is to be said of the figures, in sentences; "" for nothing."""
    oom = one.outcome.first_oom if one.fits_at_start else None
    sentences = []
    if one.device.has_events and not one.device.is_complete:
        sentences.append("The trace began late: the peaks are those since then.")
    if oom is not None:
        shown = (
            f" (inspect --event {oom.event + 1} shows it)"
            if one.simulated is None
            else f" (inspect --event {oom.event} shows the recording there)"
        )
        sentences.append(
            f"Out of memory at event {oom.event:,}{shown}, where {format_bytes(oom.requested_bytes)} were"
            " asked for."
        )
        if one.simulated is not None:
            sentences.append("The replay ends there; its peaks are those until then.")
    if one.simulated is not None and oom is None and one.recorded.first_oom is None:
        less = one.recorded.peak_reserved_bytes - one.simulated.peak_reserved_bytes
        if one.limit_bytes is None and one.recorded.num_alloc_retries:
            sentences.append(_without_end(one))
        elif less:
            word = "less" if less > 0 else "more"
            sentences.append(f"{format_bytes(abs(less))} {word} reserved at the peak than recorded.")
    if one.simulated is not None and oom is None and one.recorded.first_oom is not None:
        sentences += _past_the_error(one)
    return " ".join(sentences)
