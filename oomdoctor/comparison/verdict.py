"""What the comparison comes to, in a sentence or two; and what has to be known beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from oomdoctor.allocator.history import History
from oomdoctor.allocator.loading import NO_HISTORY, DeviceHistory
from oomdoctor.allocator.what_if import capacity_at_oom
from oomdoctor.comparison.figures import Figure
from oomdoctor.comparison.matching import Alignment
from oomdoctor.comparison.positions import Positions, at_first_oom
from oomdoctor.diagnosis.model import Basis
from oomdoctor.snapshot.model import ALLOC, OOM
from oomdoctor.units import format_bytes

MUCH_ALIKE = 0.9
"""The part of the shorter one's requests from which two recordings count as one program."""


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        id: "a-dies", "b-dies", "both-die", "too-short", "less", "more", "other-program", "other-figures",
            "no-difference" or "states-only".
        summary: for a person.
    """

    id: str
    summary: str
    basis: Basis = "derived"


def are_alike(alignment: Alignment) -> bool:
    """Whether a difference between the two can be laid to something else than the program's requests."""
    return alignment.share >= MUCH_ALIKE


def same_requests_text(alignment: Alignment) -> str:
    """How far both asked for the same, in a sentence."""
    matched, a, b = alignment.matched, alignment.count_a, alignment.count_b
    if not matched:
        return "No request of the one is a request of the other."
    if alignment.is_all:
        return f"The same requests: all {a:,} allocations, of the same sizes in the same order."
    if alignment.prefix == min(a, b):
        shorter = "A" if a < b else "B"
        return (
            f"Same requests for the first {alignment.prefix:,} of {max(a, b):,} allocations;"
            f" {shorter} ends there."
        )
    begin = (
        f"Same requests for the first {alignment.prefix:,} allocations, then not all"
        if alignment.prefix
        else "Not the same requests from the first one on"
    )
    return f"{begin}: {matched:,} of A's {a:,} and B's {b:,} are the same, in the same order."


def verdict_of(
    a: DeviceHistory,
    b: DeviceHistory,
    positions: Optional[Positions],
    figures: Sequence[Figure],
    common: Sequence[Figure],
) -> Verdict:
    """The answer.

    Args:
        figures: over the whole of each.
        common: until the last request that both have.
    """
    if positions is None:
        return _states_only(a, b, figures)
    if not are_alike(positions.alignment):
        return _other_program(a.history, b.history, positions.alignment)
    died = _deaths(positions, a.history, b.history)
    return died if died is not None else _of_figures(figures, common, positions.alignment)


def _other_program(a: History, b: History, alignment: Alignment) -> Verdict:
    """No before and after: each for itself."""
    said = (
        f"The requests differ, {100 * alignment.share:.0f} % of the shorter one's are the same: this is no"
        " before and after of one program, and what differs in memory may be the program's doing."
    )
    dies = {"A": _dies(a), "B": _dies(b)}
    ends = [f"{name} runs out of memory at allocation {at:,}" for name, at in dies.items() if at is not None]
    ends += [f"{name} does not" for name, at in dies.items() if at is None and ends]
    return Verdict("other-program", f"{said} {', '.join(ends)}." if ends else said)


def _states_only(a: DeviceHistory, b: DeviceHistory, figures: Sequence[Figure]) -> Verdict:
    without = " and ".join(name for name, one in (("A", a), ("B", b)) if not one.has_events)
    has = "have" if len(without) > 1 else "has"
    reserved = next(one for one in figures if one.name == "final_reserved_bytes")
    allocated = next(one for one in figures if one.name == "final_allocated_bytes")
    what = [
        f"B {_less(figure.difference)} {what}"
        for figure, what in ((allocated, "allocated"), (reserved, "reserved"))
        if figure.difference
    ]
    found = " and ".join(what) if what else "the same allocated and reserved"
    return Verdict(
        "states-only", f"{without} {has} no history, so only the states at the end are compared: {found}."
    )


def _less(difference: Optional[int]) -> str:
    """``has 1.20 GiB less``."""
    size = difference or 0
    return f"has {format_bytes(abs(size))} {'less' if size < 0 else 'more'}"


def _deaths(positions: Positions, a: History, b: History) -> Optional[Verdict]:
    """Who ran out of memory, and how the other fared at that request."""
    states = at_first_oom(positions, a, b)
    if states is None:
        return None
    dies_a, dies_b = _dies(a), _dies(b)
    if dies_a is not None and dies_b is not None:
        if dies_a == dies_b:
            return Verdict("both-die", f"Both run out of memory at allocation {dies_a:,}.")
        return Verdict(
            "both-die", f"Both run out of memory: A at allocation {dies_a:,}, B at allocation {dies_b:,}."
        )
    if dies_a is not None:
        return _one_dies("A", "B", dies_a, states[1] < len(b.recording))
    assert dies_b is not None
    return _one_dies("B", "A", dies_b, states[0] < len(a.recording))


def _one_dies(dead: str, other: str, at: int, gets_there: bool) -> Verdict:
    if not gets_there:
        return Verdict(
            "too-short",
            f"{dead} ran out of memory at allocation {at:,}; the recording of {other} ends before that"
            " request, so it does not show whether it would have been served.",
        )
    if dead == "A":
        return Verdict("a-dies", f"B survives where A died at allocation {at:,}.")
    return Verdict("b-dies", f"B dies at allocation {at:,}, where A survives.")


def _dies(history: History) -> Optional[int]:
    """The number of the allocation that fails first."""
    action = history.recording.events.action
    ooms = np.flatnonzero(action == OOM)
    return int((action[: ooms[0]] == ALLOC).sum()) if len(ooms) else None


def _of_figures(figures: Sequence[Figure], common: Sequence[Figure], alignment: Alignment) -> Verdict:
    """Both survive: what differs for the same requests."""
    named = {one.name: one for one in common}
    whole = {one.name: one for one in figures}
    stretch = "for the same requests" if alignment.is_all else "as far as the requests go together"
    for name, verb in (("reserved", "reserves"), ("allocated", "has allocated")):
        difference = named[f"peak_{name}_bytes"].difference
        if difference:
            word = "less" if difference < 0 else "more"
            return Verdict(word, f"B {verb} {format_bytes(abs(difference))} {word} at the peak, {stretch}.")
    others = [one for one in (*common, *(figures if alignment.is_all else ())) if one.difference]
    if others:
        what = ", ".join(dict.fromkeys(FIGURE_NAMES.get(one.name, one.name) for one in others))
        return Verdict(
            "other-figures", f"The same peaks allocated and reserved, {stretch}; what differs: {what}."
        )
    if alignment.is_all:
        return Verdict("no-difference", "No difference.")
    reserved = whole["peak_reserved_bytes"].difference
    end = f"; over all, B {_less(reserved)} reserved at its peak" if reserved else ""
    return Verdict("no-difference", f"No difference as far as the requests go together{end}.")


FIGURE_NAMES = {
    "peak_allocated_bytes": "peak allocated",
    "peak_active_bytes": "peak active",
    "peak_requested_bytes": "peak requested",
    "peak_reserved_bytes": "peak reserved",
    "peak_inactive_split_bytes": "peak inactive split",
    "final_allocated_bytes": "allocated at the end",
    "final_reserved_bytes": "reserved at the end",
    "num_alloc_retries": "retries",
    "num_ooms": "out-of-memory errors",
    "first_oom_alloc_index": "first one, at allocation",
    "segments_allocated": "cudaMalloc",
    "segments_freed": "cudaFree",
    "num_device_alloc": "with map",
    "num_device_free": "with unmap",
}
"""What a person calls each figure."""


def notes_of(a: DeviceHistory, b: DeviceHistory) -> tuple[str, ...]:
    """What else differs between the two, and what their recordings have to be known for."""
    notes = []
    if a.source.path == b.source.path and a.device == b.device:
        notes.append("A and B are the same recording")
    if a.total_bytes is not None and b.total_bytes is not None and a.total_bytes != b.total_bytes:
        notes.append(
            f"the devices differ: {format_bytes(a.total_bytes)} in all for A, {format_bytes(b.total_bytes)}"
            " for B"
        )
    room_a, room_b = room_of(a), room_of(b)
    if room_a is not None and room_b is not None and abs(room_a - room_b) > max(room_a, room_b) // 100:
        notes.append(
            f"PyTorch could have {format_bytes(room_a)} in A and {format_bytes(room_b)} in B: that may"
            " decide who survives"
        )
    for name, one in (("A", a), ("B", b)):
        if one.has_events and not one.is_complete:
            notes.append(f"the history of {name} began late: its peaks are those since then")
        notes += [f"{name}: {note}" for note in one.notes if note != NO_HISTORY]
    return tuple(notes)


def room_of(device: DeviceHistory) -> Optional[int]:
    """What PyTorch could have, in bytes: at the first out-of-memory error, else at the snapshot."""
    at_oom = capacity_at_oom(device.history) if device.has_events else None
    return at_oom if at_oom is not None else device.source.capacity(device.device)
