"""What makes up the allocated memory at any time: bands that sum to it.

Every block that the recording saw come belongs to one band, by where it was allocated, how long it lives, or
which pool it lies in. Blocks that were there before are a band of their own.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.constants import SMALL_SIZE
from oomdoctor.allocator.history import History
from oomdoctor.diagnosis.by_stack import Place, places
from oomdoctor.diagnosis.frames import frame_text
from oomdoctor.snapshot.model import ALLOC, FREE_REQUESTED
from oomdoctor.snapshot.stacks import NO_STACK, Frame
from oomdoctor_dashboard.live_data import stream_name

MOST_BANDS = 10
"""By their peak; what is not among them is one band more."""

OLDER, OTHERS = "older than the trace", "others"

_LIFETIMES = (100, 10_000)
_LONGEST_LABEL = 38


@dataclass(frozen=True)
class Bands:
    """Bands from the bottom up.

    Attributes:
        labels: short, for the legend.
        titles: in full.
        start: of each the bytes before the first event.
        after: of each int64[m], the states from which on its bytes differ, ascending.
        bytes: of each int64[m], its bytes from then on.
    """

    labels: tuple[str, ...]
    titles: tuple[str, ...]
    start: tuple[int, ...]
    after: tuple[NDArray[np.int64], ...]
    bytes: tuple[NDArray[np.int64], ...]

    def at(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[bands, len(states)]: the bytes of each band after so many events."""
        out = np.empty((len(self.labels), len(states)), np.int64)
        for band, start in enumerate(self.start):
            row = np.searchsorted(self.after[band], states, side="right")
            out[band] = np.concatenate([[start], self.bytes[band]])[row]
        return out


def by_stack(history: History) -> Bands:
    """By where memory was allocated: the telling frames of its stack."""
    recording = history.recording
    stack = recording.events.stack
    stacks = recording.snapshot.stacks
    used = np.flatnonzero(np.bincount(stack + 1, minlength=len(stacks) + 1)).astype(np.int32) - 1
    found, index = places(stacks, used)
    group_of_stack = np.zeros(len(stacks) + 1, np.int64)
    group_of_stack[used - NO_STACK] = index
    return _bands(history, group_of_stack[stack - NO_STACK], _labels(found), [_title(one) for one in found])


def by_lifetime(history: History) -> Bands:
    """By how many events pass between a block's allocation and the call that frees it."""
    recording = history.recording
    n = len(recording)
    freed = np.full(n, -1, np.int64)
    frees = np.flatnonzero(
        (recording.events.action == FREE_REQUESTED) & (recording.birth >= 0) & (recording.birth < n)
    )
    freed[recording.birth[frees]] = frees
    lived = freed - np.arange(n)
    few, many = _LIFETIMES
    group = np.select([freed < 0, lived >= many, lived >= few], [0, 1, 2], 3)
    labels = [
        "never freed", f"{many:,} events or more", f"{few:,} to {many:,} events", f"less than {few:,} events"
    ]  # fmt: skip
    titles = ["not freed within the recording", *(f"freed after {one}" for one in labels[1:])]
    return _bands(history, group, labels, titles, sorts=False)


def by_pool(history: History) -> Bands:
    """By private pool, size class and stream."""
    recording = history.recording
    small = recording.events.entry_size <= SMALL_SIZE
    streams = max(len(recording.streams), 1)
    key = (history.effects["private_pool"] * 2 + small) * streams + recording.stream
    is_alloc = recording.events.action == ALLOC
    keys, inverse = np.unique(key[is_alloc], return_inverse=True)
    group = np.zeros(len(key), np.int64)
    group[is_alloc] = inverse
    labels = []
    for one in keys.tolist():
        private, stream = one // (2 * streams), one % streams
        label = "small pool" if one // streams % 2 else "large pool"
        if private:
            label += f" of {recording.pool_name(private)}"
        name = stream_name(recording, stream)
        labels.append(label + (f", stream {name}" if name != "0" else ""))
    return _bands(history, group, labels, list(labels))


MAKERS = {"stack": by_stack, "lifetime": by_lifetime, "pool": by_pool}


def _bands(
    history: History, group: NDArray[np.int64], labels: list[str], titles: list[str], *, sorts: bool = True
) -> Bands:
    """The bands of groups that every event's block belongs to.

    Args:
        group: int64[n], of the block that each event would allocate; only those of allocations count.
        sorts: the groups by their peak, the largest first, and makes those beyond MOST_BANDS one.
    """
    recording = history.recording
    n = len(recording)
    allocated = history.effects["allocated_bytes"]
    start = int(history.heap_after(0).stats["allocated_bytes"][0])
    delta = np.diff(allocated, prepend=start)
    at = np.flatnonzero(delta)
    born = recording.birth[at]
    older, groups = len(labels), len(labels) + 1
    # What no block explains (a recording that contradicts itself) goes with the older ones: the sum holds.
    known = (born >= 0) & (born < n)
    mine = np.where(known, group[np.where(known, born, 0)] if n else 0, older)
    after, values, bounds = _running(mine, at, delta[at], groups)
    values[bounds[older] : bounds[older + 1]] += start
    peak = [max(int(values[bounds[g] : bounds[g + 1]].max(initial=0)), 0) for g in range(older)]
    order = [g for g in range(older) if bounds[g] < bounds[g + 1]]
    rest: list[int] = []
    if sorts:
        order.sort(key=lambda g: -peak[g])
        order, rest = order[:MOST_BANDS], order[MOST_BANDS:]
    shown = ([older] if start or bounds[older] < bounds[older + 1] else []) + order
    named = [*zip(labels, titles), (OLDER, "allocated before the recording began")]
    parts = [(after[bounds[g] : bounds[g + 1]], values[bounds[g] : bounds[g + 1]]) for g in shown]
    names = [named[g] for g in shown]
    if rest:
        of_rest = np.isin(mine, rest)
        parts.append((at[of_rest] + 1, np.cumsum(delta[at][of_rest])))
        names.append((OTHERS, f"{len(rest):,} others"))
    return Bands(
        labels=tuple(label for label, _ in names),
        titles=tuple(title for _, title in names),
        start=tuple(start if label == OLDER else 0 for label, _ in names),
        after=tuple(when.copy() for when, _ in parts),
        bytes=tuple(much.copy() for _, much in parts),
    )


def _running(
    group: NDArray[np.int64], at: NDArray[np.intp], delta: NDArray[np.int64], groups: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Group after group: the states in which it changed, its bytes then, and where each group begins."""
    # Narrow keys sort in linear time.
    keys = group.astype(np.uint16 if groups <= 1 << 16 else np.int64)
    order = np.argsort(keys, kind="stable")
    total = np.cumsum(delta[order])
    bounds = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))])
    before = np.concatenate([[0], total])[bounds[:-1]]
    values = total - np.repeat(before, np.diff(bounds))
    return at[order].astype(np.int64) + 1, values, bounds


def _title(place: Place) -> str:
    return " ← ".join(frame_text(frame) for frame in place.frames) or "no stack recorded"


def _labels(found: list[Place]) -> list[str]:
    """Function, file and line of the innermost telling frame; where that is not enough, of the next too."""
    firsts = [_short(one.frames[0]) if one.frames else "no stack recorded" for one in found]
    often = Counter(firsts)
    return [
        f"{first} ← :{place.frames[1].line}" if often[first] > 1 and len(place.frames) > 1 else first
        for first, place in zip(firsts, found)
    ]


def _short(frame: Frame) -> str:
    """``forward modeling_llama.py:123``; of a long one the name is cut, the line tells more."""
    where = f"{os.path.basename(frame.filename)}:{frame.line}"
    room = max(_LONGEST_LABEL - len(where) - 1, 6)
    name = frame.name if len(frame.name) <= room else frame.name[: room - 1] + "…"
    return f"{name} {where}"
