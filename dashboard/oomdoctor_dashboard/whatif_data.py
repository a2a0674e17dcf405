"""One replay beside its recording: the courses of both, reduced to what is drawn, and the figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.history import History
from oomdoctor.allocator.replay import Replay
from oomdoctor.allocator.requests import OP_FAILED_ALLOC
from oomdoctor.allocator.what_if import Asked, Comparison, compare
from oomdoctor.reporters.recording_json import basis_of
from oomdoctor.reporters.recording_text import trust
from oomdoctor.reporters.replay_text import ROWS, headline, said
from oomdoctor.snapshot.model import OOM
from oomdoctor_dashboard.extremes import bounds_by_position, extremes
from oomdoctor_dashboard.library import Loaded

Sizes = NDArray[np.int64]


@dataclass(frozen=True)
class Course:
    """How much was allocated and reserved, over the recording.

    Attributes:
        after: int64[m], ascending: the number of events that had happened, as the moment counts.
        allocated, reserved: int64[m], bytes from then on.
        died: how many events had happened when memory ran out first; None where it did not.
    """

    after: Sizes
    allocated: Sizes
    reserved: Sizes
    died: Optional[int] = None


@dataclass(frozen=True)
class Line:
    """One line to draw: int64 of the same length, at most as many points as were asked for."""

    x: Sizes
    y: Sizes


@dataclass(frozen=True)
class Answer:
    """What a form comes to.

    Attributes:
        comparison: its figures and notes.
        course: of the replay; None where nothing was asked for, or it could not begin.
    """

    comparison: Comparison
    course: Optional[Course]


def answer(loaded: Loaded, asked: Asked) -> Answer:
    """Replay a device under what was asked.

    Raises:
        SettingsError: that release of torch rejects the settings.
        UsageError: they switch to another allocator.
    """
    found = compare(loaded.device, asked, with_totals=True)
    if found.replay is None:
        return Answer(found, None)
    course = replayed_course(loaded.history, found.replay)
    # The heap and the totals are some hundred bytes for each event.
    return Answer(replace(found, replay=None), course)


def recorded_course(history: History) -> Course:
    """That of the recording, event by event."""
    effects = history.effects
    died = np.flatnonzero(history.recording.events.action == OOM)
    allocated, reserved = _with_start(history, effects)
    return Course(
        after=np.arange(len(effects) + 1, dtype=np.int64),
        allocated=allocated,
        reserved=reserved,
        died=int(died[0]) if len(died) else None,
    )


def replayed_course(history: History, replay: Replay) -> Course:
    """That of a replay, act by act, until memory ran out."""
    done = replay.done
    oom = replay.outcome.first_oom
    after = np.concatenate([[0], replay.requests.event[:done] + 1]).astype(np.int64)
    allocated, reserved = _with_start(history, replay.totals[:done])
    # A request that failed in the recording and does not here is gone again within its act: the totals after
    # the acts do not show what the heap's peak does.
    failed = np.flatnonzero(replay.requests.op[:done] == OP_FAILED_ALLOC)
    peak = replay.outcome.peak_allocated_bytes
    if len(failed) and len(allocated) and peak > int(allocated.max()):
        largest = failed[np.argmax(allocated[failed] + replay.requests.requested_size[failed])]
        at = int(largest) + 1
        after = np.insert(after, at, after[at])
        allocated = np.insert(allocated, at, peak)
        reserved = np.insert(reserved, at, reserved[at])
    if oom is None:
        return Course(after, allocated, reserved)
    # The attempt that failed gave back what was cached.
    return Course(
        after=np.append(after, oom.event),
        allocated=np.append(allocated, replay.outcome.final_allocated_bytes),
        reserved=np.append(reserved, replay.outcome.final_reserved_bytes),
        died=oom.event,
    )


def _with_start(history: History, totals: NDArray[Any]) -> tuple[Sizes, Sizes]:
    """What was allocated and reserved: before the first event, then as in the totals."""
    start = history.heap_after(0).stats
    allocated, reserved = (
        np.concatenate([start[name], totals[name]]).astype(np.int64)
        for name in ("allocated_bytes", "reserved_bytes")
    )
    return allocated, reserved


def line(after: Sizes, values: Sizes, low: int, high: int, points: int) -> Line:
    """The part of a course between two moments, with its extremes kept; ends are drawn to the edges.

    Args:
        low, high: numbers of events, both included.
        points: of the line, at most; two make a pixel.
    """
    first = max(int(np.searchsorted(after, low, side="right")) - 1, 0)
    last = int(np.searchsorted(after, high, side="right"))
    x, y = after[first:last], values[first:last]
    if len(x) > points:
        kept = extremes(y, bounds_by_position(x, max(points // 2, 1)))
        x, y = x[kept], y[kept]
    return Line(np.maximum(x, low), y)


def timeline(course: Course, low: int, high: int, points: int) -> dict[str, Line]:
    """The lines of a course by what they are: "allocated" and "reserved"."""
    return {
        "allocated": line(course.after, course.allocated, low, high, points),
        "reserved": line(course.after, course.reserved, low, high, points),
    }


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table of figures as ``oomdoctor replay`` prints it: names, one or two values; the basis last."""
    outcomes = [(comparison.recorded, basis_of(comparison.device))]
    if comparison.simulated is not None:
        outcomes.append((comparison.simulated, "replayed"))
    table = [(name, *(shown(outcome) for outcome, _ in outcomes)) for name, shown in ROWS]
    return [*table, ("basis", *(basis for _, basis in outcomes))]


def sentences(comparison: Comparison) -> tuple[str, str, list[str]]:
    """In words: how it ends, what is to be said of that; how far to trust the replay, and the notes."""
    notes = [f"{note[:1].upper()}{note[1:].rstrip('.')}." for note in comparison.notes]
    return headline(comparison), said(comparison), [trust(comparison.device), *notes]
