"""What allocated blocks of the memory map are coloured by: state, stream, age or stack."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.moment import Moment
from oomdoctor.diagnosis.by_stack import places
from oomdoctor.diagnosis.frames import short_path
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor_dashboard.figures.theme import ALLOCATED, OTHERS, SERIES
from oomdoctor_dashboard.live_data import stream_name

BY = ("state", "stream", "age", "stack")

Kinds = tuple[NDArray[np.int64], list[tuple[str, str]]]
"""For each block a number from 0, and for each number a name and a colour."""

# Events since the allocation; young is light, old is dark.
_AGES = (100, 1_000, 10_000, 100_000)
_AGE_COLOURS = ("#f6e05e", "#68d391", "#38b2ac", "#3182ce", "#4c51bf", "#702459")
# Holes are orange, and nothing else may be.
_COLOURS = tuple(colour for colour in SERIES if colour not in ("#dd6b20", "#f6ad55", "#d69e2e"))


def kinds_of(moment: Moment, by: str, ranking: list[str]) -> Kinds:
    """The kinds of the blocks of a moment.

    Args:
        by: one of :data:`BY`.
        ranking: for "stack" the places that get a colour of their own, see :func:`ranked_places`.
    """
    blocks = moment.layout.blocks
    if by == "stream":
        handles = moment.history.recording.streams.tolist()
        recording = moment.history.recording
        streams = [
            (f"stream {stream_name(recording, i)}", _COLOURS[i % len(_COLOURS)]) for i in range(len(handles))
        ]
        return blocks["stream"].astype(np.int64), streams
    if by == "age":
        kind = np.searchsorted(_AGES, moment.age_events, side="right").astype(np.int64)
        kind[moment.age_events == UNKNOWN] = len(_AGES) + 1
        texts = [
            *(f"below {one:,} events" for one in _AGES), f"{_AGES[-1]:,} and more", "older than the trace"
        ]  # fmt: skip
        return kind, list(zip(texts, _AGE_COLOURS))
    if by == "stack":
        names, of = _places(moment)
        numbers = {name: i for i, name in enumerate(ranking)}
        of_name = np.array([numbers.get(name, len(ranking)) for name in names], np.int64)
        kind = of_name[of] if len(names) else np.zeros(len(of), np.int64)
        return kind, [*zip(ranking, _COLOURS), ("others", OTHERS)]
    return np.zeros(len(blocks), np.int64), [("allocated", ALLOCATED)]


def ranked_places(moment: Moment) -> list[str]:
    """The places in the code with the most live bytes at a moment, as many as there are colours."""
    names, of = _places(moment)
    live = moment.layout.live
    total = np.bincount(of[live], moment.layout.blocks["size"][live], minlength=len(names))
    bytes_of: dict[str, float] = {}
    for name, size in zip(names, total.tolist()):
        if size:
            bytes_of[name] = bytes_of.get(name, 0.0) + size
    return sorted(bytes_of, key=lambda name: (-bytes_of[name], name))[: len(_COLOURS)]


def _places(moment: Moment) -> tuple[list[str], NDArray[np.int64]]:
    """Short names of places, and for each block the number of its place."""
    found, of = places(moment.history.recording.snapshot.stacks, moment.stack)
    names = []
    for place in found:
        frame = place.frames[0] if place.frames else None
        where = f"{short_path(frame.filename).split('/')[-1]}:{frame.line}" if frame else ""
        names.append(f"{frame.name} {where}" if frame else "no stack recorded")
    return names, of
