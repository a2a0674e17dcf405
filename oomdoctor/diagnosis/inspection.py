"""The state of a device at any event of its recording, with what a person asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.moment import Moment, moment_of
from oomdoctor.diagnosis.by_stack import places
from oomdoctor.diagnosis.model import Basis
from oomdoctor.diagnosis.pinning import BlockColumns, Pin, pins_of
from oomdoctor.errors import UsageError
from oomdoctor.snapshot.model import ACTIVE_PENDING_FREE, FREE_COMPLETED, UNKNOWN


@dataclass(frozen=True)
class PinWithAge:
    """What pins holes, by place, and the age of its oldest block.

    Attributes:
        age_events, age_us: since it was allocated; UNKNOWN where a block is older than the trace, and for
            ``age_us`` where no times were recorded.
        is_older: whether one of the blocks is older than the trace.
    """

    pin: Pin
    age_events: int
    age_us: int
    is_older: bool


@dataclass(frozen=True)
class Inspection:
    """One device at one moment.

    Attributes:
        basis: "recorded" where the state is that of the snapshot itself, else "replayed".
        pins: what keeps holes open, the most bytes first.
        notes: those of the recording and of this state.
        under_way_bytes: of a block whose free is requested here and complete with the very next event; its
            bytes count as pending, and it waits for nothing.
    """

    device: DeviceHistory
    moment: Moment
    basis: Basis
    pins: tuple[PinWithAge, ...]
    notes: tuple[str, ...]
    under_way_bytes: int = 0


def event_number(asked: Optional[int], events: int, device: int, where: str) -> int:
    """How many events have happened: ``asked``, from the end where negative; all where None.

    Raises:
        UsageError: there are not so many.
    """
    if asked is None:
        return events
    after = asked + events if asked < 0 else asked
    if not 0 <= after <= events:
        counted = "1 event" if events == 1 else f"{events:,} events"
        there = f"it has {counted}: give 0 to {events}, or -1 to -{events} from the end"
        if not events:
            there = "no history was recorded, so only the final state is known; leave --event out"
        what = f"after {asked}" if asked >= 0 else f"before the last {-asked}"
        raise UsageError(f"device {device} has no state {what} events", where=where, next_step=there)
    return after


def inspect_device(device: DeviceHistory, event: Optional[int] = None) -> Inspection:
    """The state after ``event`` events; see :func:`event_number`.

    Raises:
        UsageError: there are not so many.
    """
    history = device.history
    after = event_number(event, len(history.recording), device.device, device.source.path)
    return inspection_of(device, moment_of(history, after))


def inspection_of(device: DeviceHistory, moment: Moment) -> Inspection:
    """What is to be said of a moment of a device."""
    notes = list(device.notes)
    if moment.layout.phantoms:
        notes.append(
            f"{moment.layout.phantoms:,} bytes of live blocks lie in no segment that the recording knows;"
            " they are left out here"
        )
    at_end = moment.events == len(device.history.recording) and device.agrees
    return Inspection(
        device=device,
        moment=moment,
        basis="recorded" if at_end else "replayed",
        pins=_pins(moment),
        notes=tuple(notes),
        under_way_bytes=_under_way(moment),
    )


def _under_way(moment: Moment) -> int:
    recording, layout = moment.history.recording, moment.layout
    after = moment.events
    if after >= len(recording) or recording.events.action[after] != FREE_COMPLETED:
        return 0
    here = layout.blocks["ptr"] == recording.events.address[after]
    # One that was requested earlier had something to wait for.
    if not after or recording.birth[after - 1] != recording.birth[after]:
        return 0
    return int(layout.blocks["size"][here & (layout.state == ACTIVE_PENDING_FREE)].sum())


def _pins(moment: Moment) -> tuple[PinWithAge, ...]:
    layout = moment.layout
    hole = layout.in_hole
    stacks = moment.history.recording.snapshot.stacks
    columns = BlockColumns(
        segment=layout.segment,
        block_size=layout.blocks["size"],
        stack=moment.stack,
        live=layout.live,
        hole=hole,
        expandable=layout.expandable,
        segments=layout.segments,
    )
    rows = _standing(columns)
    found, index = places(stacks, moment.stack[rows])
    is_older, has_no_time = np.zeros(len(found), np.bool_), np.zeros(len(found), np.bool_)
    is_older[index[moment.birth[rows] == UNKNOWN]] = True
    has_no_time[index[moment.age_us[rows] == UNKNOWN]] = True
    age_events, age_us = np.full(len(found), UNKNOWN, np.int64), np.full(len(found), UNKNOWN, np.int64)
    np.maximum.at(age_events, index, moment.age_events[rows])
    np.maximum.at(age_us, index, moment.age_us[rows])
    # Of a place with a block older than the trace the age is not known.
    age_events[is_older] = age_us[is_older | has_no_time] = UNKNOWN
    number = {id(place): i for i, place in enumerate(found)}
    pins = pins_of(columns, stacks)
    at = [number[id(pin.place)] for pin in pins]
    columns_of = (age_events[at].tolist(), age_us[at].tolist(), is_older[at].tolist()) if at else ((), (), ())
    return tuple(PinWithAge(*one) for one in zip(pins, *columns_of))


def _standing(blocks: BlockColumns) -> NDArray[np.intp]:
    """Rows of the live blocks that pin a hole: see :mod:`oomdoctor.diagnosis.pinning`."""
    has_hole = np.zeros(blocks.segments, np.bool_)
    has_hole[blocks.segment[blocks.hole]] = True
    beside = np.zeros(len(blocks.live), np.bool_)
    beside[:-1] |= blocks.hole[1:] & (blocks.segment[1:] == blocks.segment[:-1])
    beside[1:] |= blocks.hole[:-1] & (blocks.segment[1:] == blocks.segment[:-1])
    pinning = np.where(blocks.expandable, beside, has_hole[blocks.segment])
    return np.flatnonzero(blocks.live & pinning)
