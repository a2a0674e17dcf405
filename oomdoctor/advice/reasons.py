"""What is said of a setting beside the current ones, by the figures of the table that it stands above."""

from __future__ import annotations

from collections.abc import Sequence

from oomdoctor.advice.ranking import Tried, scale_of
from oomdoctor.units import format_bytes


def nothing_better(current: Tried, others: Sequence[Tried], noun: str) -> str:
    """That no other is worth changing to, and how near the nearest comes; for current settings that survive.

    Args:
        noun: "setting" or "value".
    """
    alike = [one for one in others if one.survives and bool(one.needs) == bool(current.needs)]
    most = max(alike, key=lambda one: one.headroom, default=current)
    more = most.headroom - current.headroom
    than = "than the current settings"
    fewer = any(one.retries < current.retries for one in alike)
    retries = ", and those that retry less need more memory" if fewer else ", or retries less"
    if more <= 0 and not fewer:
        return f"no {noun} leaves more room, or retries less, {than}"
    if more <= 0:
        return f"no {noun} leaves more room {than}{retries}"
    there = "there is" if all(size is not None for size in current.capacities) else "is reserved"
    return (
        f"no {noun} leaves {format_bytes(scale_of((most, current)))} more room, a fiftieth of what {there},"
        f" {than}{retries}; the most is {format_bytes(more)}, with {most.alloc_conf}"
    )


def fewer_retries(best: Tried, current: Tried) -> str:
    """How many, and what else is to be known of it."""
    fewer = current.retries - best.retries
    return f"{fewer:,} {'retry' if fewer == 1 else 'retries'} fewer{higher_peak(best, current)}"


def higher_peak(one: Tried, current: Tried) -> str:
    """That a setting reserves more than the current ones, though it may need less; else ""."""
    more = _reserved(one) - _reserved(current)
    if more <= scale_of((one, current)):
        return ""
    known = all(size is not None for size in current.capacities)
    there = "with this much memory" if known else "with memory to spare"
    return f"; {there} its peak reserved is {format_bytes(more)} higher"


def how_worse(several: Sequence[Tried], current: Tried) -> str:
    """How many values do worse than the current settings, and in what; "" where none does."""
    scale = scale_of((current,))
    sooner = {one.alloc_conf for one in several if one.reached < current.reached}
    both = [one for one in several if one.survives and current.survives]
    reserving = {one.alloc_conf: _reserved(one) - _reserved(current) for one in both}
    reserving = {text: more for text, more in reserving.items() if more > scale}
    retrying = {
        one.alloc_conf: one.retries - current.retries for one in both if one.retries > current.retries
    }
    needing = {
        one.alloc_conf: current.headroom - one.headroom
        for one in both
        if one.needs and current.needs and current.headroom - one.headroom > scale
    }
    ways = []
    if sooner:
        ways.append("memory runs out" if current.survives else "memory runs out sooner")
    if reserving:
        ways.append(f"the peak reserved is up to {format_bytes(max(reserving.values()))} higher")
    if needing:
        ways.append(f"up to {format_bytes(max(needing.values()))} more is needed")
    if retrying:
        most = max(retrying.values())
        ways.append(f"up to {most:,} more {'retry' if most == 1 else 'retries'}")
    count = len({*sooner, *reserving, *needing, *retrying})
    if not count:
        return ""
    make = "value makes" if len(several) == 1 else "values makes" if count == 1 else "values make"
    return f" {count} of {len(several)} {make} it worse: {'; '.join(ways)}."


def _reserved(one: Tried) -> int:
    return sum(outcome.peak_reserved_bytes for outcome in one.outcomes)
