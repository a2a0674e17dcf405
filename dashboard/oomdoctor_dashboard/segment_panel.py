"""The panel beside the memory map: what lies at an address, how it came and went, what pins a hole."""

from __future__ import annotations

import itertools
from typing import Any, Optional

import dash_mantine_components as dmc
import numpy as np
from dash import html

from oomdoctor.allocator.moment import Moment
from oomdoctor.units import format_bytes, format_seconds
from oomdoctor_dashboard.block_life import BlockLife, Lives
from oomdoctor_dashboard.holes import HoleDetails, PinningBlock, hole_details
from oomdoctor_dashboard.segment_map import ALLOCATED, FREE, HOLE, PENDING, STATES, bounds, state_of
from oomdoctor_dashboard.segment_words import (
    age_line,
    event_time,
    pool_line,
    sizes_line,
    stack_lines,
)

_ID = "segments"
_NUMBERS = itertools.count()
_CAUSES = {
    "new": "for a request that found no room",
    "retry": "in a retry after the device had no memory",
    "garbage_collection": "by garbage collection",
    "release_available": "to make room for a large request",
    "empty_cache": "by empty_cache()",
}


def row_at(moment: Moment, address: int) -> Optional[int]:
    """The block that covers an address; None where no memory is reserved there."""
    blocks = moment.layout.blocks
    at = int(blocks["ptr"].searchsorted(address, side="right")) - 1
    if at < 0 or address >= int(blocks["ptr"][at] + blocks["size"][at]):
        return None
    return at


def summary(moment: Moment, basis: str) -> Any:
    """What the whole device holds, in the figures of ``inspect``, and what to click."""
    device = moment.fragmentation.device
    rows = (
        ("allocated", device.allocated_bytes, f"{device.live_blocks:,} live blocks"),
        ("pending free", device.pending_bytes, "waits for another stream"),
        (
            "in holes",
            device.hole_bytes,
            f"{device.holes:,} {'hole' if device.holes == 1 else 'holes'}, inactive splits",
        ),
        ("free segments", device.free_bytes - device.hole_bytes, "nothing live in them"),
        ("reserved", device.reserved_bytes, f"{device.segments:,} segments"),
    )
    return dmc.Stack(
        gap=6,
        children=[
            dmc.Text(f"After {moment.events:,} events", fw=600, size="sm"),
            dmc.Table(
                verticalSpacing=2,
                horizontalSpacing=6,
                fz="xs",
                children=html.Tbody(
                    [
                        html.Tr(
                            [
                                html.Td(name),
                                html.Td(format_bytes(size), style={"textAlign": "right", "paddingRight": 8}),
                                html.Td(dmc.Text(more, size="xs", c="dimmed")),
                            ]
                        )
                        for name, size, more in rows
                    ]
                ),
            ),
            _quiet(f"{basis}; as oomdoctor inspect --event {moment.events}"),
            _quiet("Click a block for its whole life, a hole for what pins it."),
            *_largest_holes(moment),
        ],
    )


def _largest_holes(moment: Moment, most: int = 5) -> list[Any]:
    """The holes to look at first."""
    layout = moment.layout
    rows = np.flatnonzero(layout.in_hole)
    if not len(rows):
        return []
    sizes = layout.blocks["size"][rows]
    rows = rows[np.lexsort((rows, -sizes))[:most]]
    buttons = [
        _button(
            f"{format_bytes(int(layout.blocks['size'][row]))} at {address_of(moment, row):#x}",
            {"type": f"{_ID}-pick", "address": f"{address_of(moment, row):#x}"},
        )
        for row in rows.tolist()
    ]
    return [dmc.Text("Largest holes", size="xs", fw=600), dmc.Stack(buttons, gap=0, align="flex-start")]


def panel(moment: Moment, lives: Lives, address: int, *, alone: bool) -> Any:
    """What lies at an address.

    Args:
        alone: whether only its segment is shown.
    """
    row = row_at(moment, address)
    if row is None:
        return dmc.Stack(
            gap=6,
            children=[
                _title(f"{address:#x}", "not reserved at this moment"),
                *_occupants(moment, lives, address, 1, None),
                *_actions(None, alone),
            ],
        )
    state = int(state_of(moment.layout)[row])
    size = int(moment.layout.blocks["size"][row])
    parts: list[Any] = [_title(f"{_NAMES[state]} of {format_bytes(size)}", f"{address_of(moment, row):#x}")]
    parts.append(_text(pool_line(moment, row)))
    if state in (ALLOCATED, PENDING):
        parts += _block(moment, lives, row)
        birth = int(moment.layout.blocks["alloc_event"][row])
    else:
        birth = None
        if state == HOLE:
            parts += _hole(moment, hole_details(moment, row))
        else:
            parts.append(_text("The whole segment is free: the allocator can give it back."))
    parts += _occupants(moment, lives, address_of(moment, row), size, birth)
    parts += _segment(moment, lives, row)
    parts += _actions(int(bounds(moment.layout)[0][moment.layout.segment[row]]), alone)
    parts.append(_beside(moment, row))
    return dmc.Stack(gap=6, children=parts)


_NAMES = {
    ALLOCATED: "Block",
    PENDING: "Block, free pending,",
    HOLE: "Hole",
    FREE: "Free segment",
}


def address_of(moment: Moment, row: int) -> int:
    """Where a block begins."""
    return int(moment.layout.blocks["ptr"][row])


def _block(moment: Moment, lives: Lives, row: int) -> list[Any]:
    blocks = moment.layout.blocks
    requested, size = int(blocks["requested_size"][row]), int(blocks["size"][row])
    birth = int(blocks["alloc_event"][row])
    parts = [_text(sizes_line(requested, size)), _text(age_line(moment, row))]
    parts += [_stack(moment, int(moment.stack[row]))]
    if not lives.history.recording.events.action.size:
        return [*parts, _quiet("No history was recorded: its life is not known.")]
    try:
        life = lives.life(lives.row(birth))
    except KeyError:
        return [*parts, _quiet("The recording does not tell of its life.")]
    return [*parts, _life(moment, life)]


def _life(moment: Moment, life: BlockLife) -> Any:
    items: list[Any] = []
    if life.allocated is not None:
        text = f"Allocated with {event_time(moment, life.allocated)}"
        if life.segment_event is not None:
            text += f", from memory that was reserved for it (event {life.segment_event:,})"
        if life.remainder_bytes:
            text += (
                f": split from a free block of {format_bytes(life.split_from_bytes or 0)},"
                f" {format_bytes(life.remainder_bytes)} stayed free"
            )
        else:
            text += ": a free block of this size, taken whole"
        items.append(_step(text, life.allocated + 1))
    else:
        items.append(dmc.ListItem("Allocated before the trace began"))
    if life.is_bounded:
        items.append(dmc.ListItem("Its size is the least that it can have."))
    if life.free_requested is None and life.free_completed is None:
        items.append(dmc.ListItem("Live when the trace ends"))
    elif life.free_completed is None:
        items.append(
            _step(
                f"Free requested with {event_time(moment, life.free_requested)}, not complete when the trace"
                " ends: another stream is waited for",
                (life.free_requested or 0) + 1,
            )
        )
    else:
        items.append(_step(_freed(moment, life), life.free_completed + 1))
    return dmc.List(items, size="xs", spacing=4, withPadding=False)


def _freed(moment: Moment, life: BlockLife) -> str:
    text = f"Free complete with {event_time(moment, life.free_completed)}"
    if life.is_deferred and life.free_requested is not None:
        text += f", requested with event {life.free_requested:,}: another stream was waited for"
    if life.lived_events is not None:
        lasted = f", {format_seconds(life.lived_us / 1e6)}" if life.lived_us is not None else ""
        text += f"; it lived {life.lived_events:,} events{lasted}"
    beside = [
        f"{format_bytes(size)} {where} it"
        for size, where in ((life.merged_before_bytes, "before"), (life.merged_after_bytes, "after"))
        if size
    ]
    if beside:
        text += f". Merged with {' and '.join(beside)} into a free block of {format_bytes(life.merged_bytes)}"
    else:
        text += ". No free neighbour to merge with"
    return text


def _hole(moment: Moment, hole: HoleDetails) -> list[Any]:
    of = "its live neighbours" if hole.expandable else "the live blocks of its segment"
    count = f"{hole.pins:,} block" + ("" if hole.pins == 1 else "s")
    parts: list[Any] = [_text(f"Pinned by {count}, {format_bytes(hole.pinning_bytes)}: {of}")]
    parts += [_pin(moment, one) for one in hole.shown]
    if hole.pins > len(hole.shown):
        parts.append(_quiet(f"and {hole.pins - len(hole.shown):,} more"))
    return parts


def _pin(moment: Moment, one: PinningBlock) -> Any:
    would = f"if it alone went: {format_bytes(one.joined_bytes)} free in one piece"
    if one.frees_segment:
        would += ", a whole segment that can be given back"
    return dmc.Paper(
        withBorder=True,
        p=6,
        children=[
            dmc.Group(
                [
                    dmc.Text(format_bytes(one.bytes), size="xs", fw=600),
                    _button("its life", {"type": f"{_ID}-pick", "address": f"{one.address:#x}"}),
                ],
                justify="space-between",
            ),
            _text(age_line(moment, one.block)),
            _stack(moment, int(moment.stack[one.block])),
            _quiet(would),
        ],
    )


def _occupants(moment: Moment, lives: Lives, address: int, size: int, birth: Optional[int]) -> list[Any]:
    """What lay here before and what comes after."""
    if not len(lives.history.recording):
        return []
    began = lives.begun_of(birth) if birth is not None else moment.events
    before = lives.before(address, size, birth, began)
    after = lives.after(address, size, birth, began)
    items = [
        _occupant(moment, lives.life(row), word)
        for row, word in ((before, "Before"), (after, "After"))
        if row is not None
    ]
    if not items:
        return [_quiet("Nothing else lay here in this recording.")]
    return [dmc.Text("At these addresses", size="xs", fw=600), *items]


def _occupant(moment: Moment, life: BlockLife, word: str) -> Any:
    who = " ".join(stack_lines(moment, life.stack, 1))
    text = f"{word}: {format_bytes(life.block_bytes)}"
    if life.allocated is None:
        return html.Div([_text(f"{text}, older than the trace"), _quiet(who)])
    text += f", {event_time(moment, life.allocated)}"
    return html.Div([_step(text, life.allocated + 1, item=False), _quiet(who)])


def _segment(moment: Moment, lives: Lives, row: int) -> list[Any]:
    layout = moment.layout
    starts, sizes = bounds(layout)
    number = int(layout.segment[row])
    kind = "Part of an expandable segment" if layout.expandable[row] else "Segment"
    head = f"{kind} {int(starts[number]):#x}, {format_bytes(int(sizes[number]))}"
    parts: list[Any] = [dmc.Text(head, size="xs", fw=600)]
    if not len(lives.history.recording):
        return parts
    life = lives.segment(address_of(moment, row), moment.events)
    if life.came is None:
        parts.append(_text("Older than the trace"))
    else:
        why = _CAUSES.get(life.came_cause, life.came_cause)
        text = f"Came with {event_time(moment, life.came)} ({format_bytes(life.bytes)}), {why}"
        parts.append(_step(text, life.came + 1, item=False))
    if life.went is None:
        parts.append(_text("Stays until the trace ends"))
    else:
        why = _CAUSES.get(life.went_cause, life.went_cause)
        parts.append(_step(f"Goes with {event_time(moment, life.went)}, {why}", life.went + 1, item=False))
    return parts


def _actions(segment: Optional[int], alone: bool) -> list[Any]:
    buttons = []
    if segment is not None and not alone:
        chosen = {"type": f"{_ID}-alone", "address": f"{segment:#x}"}
        buttons.append(_button("Show this segment alone", chosen, "default"))
    if alone:
        buttons.append(_button("Show all segments", {"type": f"{_ID}-alone", "address": ""}, "default"))
    buttons.append(_button("Deselect", {"type": f"{_ID}-pick", "address": ""}, "default"))
    return [dmc.Group(buttons, gap=6)]


def _beside(moment: Moment, row: int) -> Any:
    """To the neighbours in memory, for blocks that are too narrow to hit."""
    layout = moment.layout
    first, after = layout.first_block[layout.segment[row]], layout.first_block[layout.segment[row] + 1]
    states = state_of(layout)
    buttons = [
        _button(
            f"{sign} {STATES[int(states[beside])]} {format_bytes(int(layout.blocks['size'][beside]))}",
            {"type": f"{_ID}-pick", "address": f"{address_of(moment, beside):#x}"},
        )
        for sign, beside in (("←", row - 1), ("→", row + 1))
        if first <= beside < after
    ]
    return dmc.Group([_quiet("Beside it:"), *buttons], gap=4) if buttons else html.Div()


def _title(text: str, more: str) -> Any:
    return html.Div([dmc.Text(text, fw=600, size="sm"), dmc.Text(more, size="xs", c="dimmed")])


def _text(text: str) -> Any:
    return dmc.Text(text, size="xs", style={"overflowWrap": "anywhere"})


def _quiet(text: str) -> Any:
    return dmc.Text(text, size="xs", c="dimmed", style={"overflowWrap": "anywhere"})


def _stack(moment: Moment, stack: int) -> Any:
    lines = stack_lines(moment, stack, 2) or ["no stack recorded"]
    return html.Div([_mono(line) for line in lines])


def _mono(text: str) -> Any:
    return html.Div(text, className="od-mono", style={"fontSize": 11, "overflowWrap": "anywhere"})


def _step(text: str, event: int, *, item: bool = True) -> Any:
    """A line, and the way to the moment that it speaks of."""
    line = html.Span([text, " ", _button("go there", {"type": f"{_ID}-go", "event": event})])
    return dmc.ListItem(line) if item else dmc.Text(line, size="xs")


def _button(text: str, target: dict[str, Any], variant: str = "subtle") -> Any:
    # Ids have to differ from one another, and two lines may speak of the same event.
    return dmc.Button(text, id={**target, "n": next(_NUMBERS)}, variant=variant, size="compact-xs")
