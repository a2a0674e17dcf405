"""What no setting gives, for a person: what lived when memory ran out, and how much less would have done."""

from __future__ import annotations

import textwrap
from typing import Union

from oomdoctor.advice.growth import Growth
from oomdoctor.advice.shortfall import Holder, Shortfall
from oomdoctor.advice.trend import Trend
from oomdoctor.reporters.parts import counted, place_lines
from oomdoctor.reporters.recording_text import WIDTH, filled
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor.units import format_bytes, format_seconds

_HOLDERS = 6
_BUFFERS = 2
_LARGE = 20  # of what lives, the least part that is a large buffer
_MEANS = {
    "kept": "nothing from there was freed",
    "grows": "step by step",
    "recurs": "freed, and made again",
    "older": "than the trace",
}


def render(lack: Shortfall, name: str) -> str:
    """All of it, for the device of this name."""
    said = (
        f"{name}: {format_bytes(lack.live_bytes)} were live and {format_bytes(lack.requested_bytes)} wanted"
    )
    if lack.missing_bytes:
        said += f", {format_bytes(lack.missing_bytes)} more than there are"
    shown = lack.holders[:_HOLDERS]
    kinds = [f"{kind}: {means}" for kind, means in _MEANS.items() if any(one.kind == kind for one in shown)]
    table = [
        filled(f"{said}.")
        if not shown
        else filled(f"{said}. What lived, by where it was allocated (replayed):"),
        *(_holder(one) for one in shown),
        *textwrap.wrap("; ".join(kinds), WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]
    sentences = (_grown(lack), _copied(lack), _less(lack), _trend(lack), _gone(lack))
    return "\n\n".join(["\n".join(table), *(filled(sentence) for sentence in sentences if sentence)])


def _holder(one: Holder) -> str:
    where = place_lines(one.place, 44)[0]
    return f"  {where:44s} {format_bytes(one.bytes):>11s} {one.blocks:6,d} {one.kind}"


def _where(one: Union[Growth, Holder, Trend]) -> str:
    return " ".join(place_lines(one.place, 60)[0].split())


def _grown(lack: Shortfall) -> str:
    """What grew step by step."""
    if not lack.growths:
        return ""
    step = sum(one.step_bytes for one in lack.growths)
    others = len(lack.growths) - 1
    also = f" and {counted(others, 'other place')}" if others else ""
    said = (
        f"{format_bytes(sum(one.bytes for one in lack.growths))} grew by {format_bytes(step)} a step, for"
        f" {max(one.steps for one in lack.growths):,} steps:"
        f" {counted(sum(one.buffers for one in lack.growths), 'buffer')} of {_where(lack.growths[0])}{also}"
        " (derived from the sizes in their order)."
    )
    if lack.steps_fewer is not None:
        said += (
            f" {counted(lack.steps_fewer, 'step')} fewer would have made the room that is missing:"
            f" {format_bytes(lack.missing_bytes)} ÷ {format_bytes(step)}."
        )
    return said


def _copied(lack: Shortfall) -> str:
    """Growing by a copy takes the old one beside the new one."""
    copied = max((one.copy_bytes for one in lack.growths), default=0)
    if not copied:
        return ""
    failed = " Such a new buffer is what failed here." if lack.wanted_by_growth else ""
    return (
        "In each step the new buffer lies beside the old one until it is copied. Allocated once, at their"
        f" final size (a static cache), they would not, which saves up to {format_bytes(copied)}.{failed}"
    )


def _less(lack: Shortfall) -> str:
    """The share by which all that is not constant had to be smaller."""
    if lack.smaller_by is None or lack.trend is not None:
        return ""
    return (
        f"What grows or recurs and what was wanted come to {format_bytes(lack.varying_bytes)}; with"
        f" {lack.smaller_by:.1%} less of that it fits (derived: missing ÷ that). Where it goes with the batch"
        " or the context, so much smaller has that to be."
    )


def _trend(lack: Shortfall) -> str:
    """How the peak went with the size of a buffer."""
    trend = lack.trend
    if trend is None:
        return ""
    return (
        f"The peak in use grew with the buffer of {_where(trend)}: {format_bytes(trend.base_bytes)} +"
        f" {trend.slope:,.1f} × its size (estimated: a line through {trend.sizes} sizes, missed by"
        f" {trend.missed:.1%} at most). It was {format_bytes(trend.size)} here; up to"
        f" {format_bytes(trend.fits)} fit, {trend.smaller_by:.1%} less. The largest that went well had"
        f" {format_bytes(trend.largest)}."
    )


def _gone(lack: Shortfall) -> str:
    """Large blocks that do not change: one of them gone would do."""
    if not lack.missing_bytes:
        return ""
    enough = [
        one
        for one in lack.holders
        if one.place.is_known
        and one.kind in ("kept", "older")
        and one.blocks == 1
        and one.bytes >= max(lack.missing_bytes, lack.live_bytes // _LARGE)
    ]
    if not enough:
        return ""
    named = "; ".join(
        f"{_where(one)}, {format_bytes(one.largest_bytes)}, {_age(one)}" for one in enough[:_BUFFERS]
    )
    return (
        "One buffer gone would be enough, if it was not needed any more, which a recording does not show:"
        f" {named}."
    )


def _age(one: Holder) -> str:
    if one.oldest_event == UNKNOWN:
        return "older than the trace"
    if one.age_us == UNKNOWN:
        return f"allocated at event {one.oldest_event:,}"
    return f"allocated {format_seconds(one.age_us / 1e6)} before"
