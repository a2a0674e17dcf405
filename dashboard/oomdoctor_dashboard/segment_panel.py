"""The panel beside the memory map: what lies at an address, how it came and went, what pins a hole."""

from __future__ import annotations

from typing import Optional

import numpy as np

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
from oomdoctor_dashboard.told import Told, button, element, line

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


def summary(moment: Moment, basis: str) -> list[Told]:
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
    lines = [
        element(
            "tr",
            element("td", name),
            element("td", format_bytes(size), class_="od-number"),
            element("td", more, class_="od-quiet"),
        )
        for name, size, more in rows
    ]
    return [
        line(f"After {moment.events:,} events", look="title"),
        element("table", element("tbody", *lines), class_="od-rows"),
        line(f"{basis}; as oomdoctor inspect --event {moment.events}", look="quiet"),
        line("Click a block for its whole life, a hole for what pins it.", look="quiet"),
        *_largest_holes(moment),
    ]


def _largest_holes(moment: Moment, most: int = 5) -> list[Told]:
    """The holes to look at first."""
    layout = moment.layout
    rows = np.flatnonzero(layout.in_hole)
    if not len(rows):
        return []
    sizes = layout.blocks["size"][rows]
    rows = rows[np.lexsort((rows, -sizes))[:most]]
    buttons = [
        line(
            _pick(
                f"{format_bytes(int(layout.blocks['size'][row]))} at {address_of(moment, row):#x}",
                address_of(moment, row),
            )
        )
        for row in rows.tolist()
    ]
    return [line("Largest holes", look="bold"), *buttons]


def panel(moment: Moment, lives: Lives, address: int, *, alone: bool) -> list[Told]:
    """What lies at an address.

    Args:
        alone: whether only its segment is shown.
    """
    row = row_at(moment, address)
    if row is None:
        return [
            *_title(f"{address:#x}", "not reserved at this moment"),
            *_occupants(moment, lives, address, 1, None),
            _actions(None, alone),
        ]
    state = int(state_of(moment.layout)[row])
    size = int(moment.layout.blocks["size"][row])
    parts = _title(f"{_NAMES[state]} of {format_bytes(size)}", f"{address_of(moment, row):#x}")
    parts.append(line(pool_line(moment, row)))
    if state in (ALLOCATED, PENDING):
        parts += _block(moment, lives, row)
        birth = int(moment.layout.blocks["alloc_event"][row])
    else:
        birth = None
        if state == HOLE:
            parts += _hole(moment, hole_details(moment, row))
        else:
            parts.append(line("The whole segment is free: the allocator can give it back."))
    parts += _occupants(moment, lives, address_of(moment, row), size, birth)
    parts += _segment(moment, lives, row)
    parts.append(_actions(int(bounds(moment.layout)[0][moment.layout.segment[row]]), alone))
    return [*parts, *_beside(moment, row)]


_NAMES = {
    ALLOCATED: "Block",
    PENDING: "Block, free pending,",
    HOLE: "Hole",
    FREE: "Free segment",
}


def address_of(moment: Moment, row: int) -> int:
    """Where a block begins."""
    return int(moment.layout.blocks["ptr"][row])


def _block(moment: Moment, lives: Lives, row: int) -> list[Told]:
    blocks = moment.layout.blocks
    requested, size = int(blocks["requested_size"][row]), int(blocks["size"][row])
    birth = int(blocks["alloc_event"][row])
    parts = [line(sizes_line(requested, size)), line(age_line(moment, row))]
    parts += _stack(moment, int(moment.stack[row]))
    if not lives.history.recording.events.action.size:
        return [*parts, line("No history was recorded: its life is not known.", look="quiet")]
    try:
        life = lives.life(lives.row(birth))
    except KeyError:
        return [*parts, line("The recording does not tell of its life.", look="quiet")]
    return [*parts, _life(moment, life)]


def _life(moment: Moment, life: BlockLife) -> Told:
    items: list[Told] = []
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
        items.append(element("li", "Allocated before the trace began"))
    if life.is_bounded:
        items.append(element("li", "Its size is the least that it can have."))
    if life.free_requested is None and life.free_completed is None:
        items.append(element("li", "Live when the trace ends"))
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
    return element("ul", *items, class_="od-line od-list")


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


def _hole(moment: Moment, hole: HoleDetails) -> list[Told]:
    of = "its live neighbours" if hole.expandable else "the live blocks of its segment"
    count = f"{hole.pins:,} block" + ("" if hole.pins == 1 else "s")
    parts: list[Told] = [line(f"Pinned by {count}, {format_bytes(hole.pinning_bytes)}: {of}")]
    parts += [_pin(moment, one) for one in hole.shown]
    if hole.pins > len(hole.shown):
        parts.append(line(f"and {hole.pins - len(hole.shown):,} more", look="quiet"))
    return parts


def _pin(moment: Moment, one: PinningBlock) -> Told:
    would = f"if it alone went: {format_bytes(one.joined_bytes)} free in one piece"
    if one.frees_segment:
        would += ", a whole segment that can be given back"
    return element(
        "div",
        line(element("b", format_bytes(one.bytes)), " ", _pick("its life", one.address)),
        line(age_line(moment, one.block)),
        *_stack(moment, int(moment.stack[one.block])),
        line(would, look="quiet"),
        class_="od-box",
    )


def _occupants(moment: Moment, lives: Lives, address: int, size: int, birth: Optional[int]) -> list[Told]:
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
        return [line("Nothing else lay here in this recording.", look="quiet")]
    return [line("At these addresses", look="bold"), *items]


def _occupant(moment: Moment, life: BlockLife, word: str) -> Told:
    who = line(" ".join(stack_lines(moment, life.stack, 1)), look="quiet")
    text = f"{word}: {format_bytes(life.block_bytes)}"
    if life.allocated is None:
        return element("div", line(f"{text}, older than the trace"), who)
    text += f", {event_time(moment, life.allocated)}"
    return element("div", _step(text, life.allocated + 1, item=False), who)


def _segment(moment: Moment, lives: Lives, row: int) -> list[Told]:
    layout = moment.layout
    starts, sizes = bounds(layout)
    number = int(layout.segment[row])
    kind = "Part of an expandable segment" if layout.expandable[row] else "Segment"
    head = f"{kind} {int(starts[number]):#x}, {format_bytes(int(sizes[number]))}"
    parts: list[Told] = [line(head, look="bold")]
    if not len(lives.history.recording):
        return parts
    life = lives.segment(address_of(moment, row), moment.events)
    if life.came is None:
        parts.append(line("Older than the trace"))
    else:
        why = _CAUSES.get(life.came_cause, life.came_cause)
        text = f"Came with {event_time(moment, life.came)} ({format_bytes(life.bytes)}), {why}"
        parts.append(_step(text, life.came + 1, item=False))
    if life.went is None:
        parts.append(line("Stays until the trace ends"))
    else:
        why = _CAUSES.get(life.went_cause, life.went_cause)
        parts.append(_step(f"Goes with {event_time(moment, life.went)}, {why}", life.went + 1, item=False))
    return parts


def _actions(segment: Optional[int], alone: bool) -> Told:
    buttons: list[Told] = []
    if segment is not None and not alone:
        buttons.append(_alone("Show this segment alone", segment))
    if alone:
        buttons.append(_alone("Show all segments", None))
    buttons.append(_pick("Deselect", None, look="framed"))
    return line(*buttons)


def _beside(moment: Moment, row: int) -> list[Told]:
    """To the neighbours in memory, for blocks that are too narrow to hit."""
    layout = moment.layout
    first, after = layout.first_block[layout.segment[row]], layout.first_block[layout.segment[row] + 1]
    states = state_of(layout)
    buttons = [
        _pick(
            f"{sign} {STATES[int(states[beside])]} {format_bytes(int(layout.blocks['size'][beside]))}",
            address_of(moment, beside),
        )
        for sign, beside in (("←", row - 1), ("→", row + 1))
        if first <= beside < after
    ]
    return [line("Beside it:", *buttons, look="quiet")] if buttons else []


def _title(what: str, more: str) -> list[Told]:
    return [line(what, look="title"), line(more, look="quiet")]


def _stack(moment: Moment, stack: int) -> list[Told]:
    lines = stack_lines(moment, stack, 2) or ["no stack recorded"]
    return [line(one, look="mono") for one in lines]


def _step(what: str, event: int, *, item: bool = True) -> Told:
    """A line, and the way to the moment that it speaks of."""
    way = button("go there", data_event=str(event))
    return element("li", what, " ", way) if item else line(what, " ", way)


def _pick(word: str, address: Optional[int], *, look: str = "") -> Told:
    """To what lies at an address; None: to nothing."""
    return button(word, look=look, data_block="" if address is None else f"{address:#x}")


def _alone(word: str, segment: Optional[int]) -> Told:
    """To one segment alone; None: to all."""
    return button(word, look="framed", data_alone="" if segment is None else f"{segment:#x}")
