"""Where no setting helps: how much is missing, what holds the memory, and how much less would have done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.advice.growth import Growth, chains, growths
from oomdoctor.advice.trend import Trend, trend_of
from oomdoctor.allocator.history import History, table_of
from oomdoctor.allocator.replay import FirstOom, recorded_outcome
from oomdoctor.diagnosis.by_stack import Place, places
from oomdoctor.snapshot.model import FREE_REQUESTED, UNKNOWN
from oomdoctor.snapshot.stacks import NO_STACK

# What a recording shows of a live block's stack. Of "kept" nothing was freed by then: weights are so, and
# whatever was made for the first time. "older": it was there before the trace.
KINDS = ("kept", "grows", "recurs", "older")
_WORTH = 100  # of what lives, the least part that is worth a word
_KEPT, _GROWS, _RECURS, _OLDER = range(len(KINDS))


@dataclass(frozen=True)
class Holder:
    """Live blocks of one place in the code, when memory ran out.

    Attributes:
        blocks, bytes: how many, and what they hold; ``largest_bytes`` the largest of them.
        kind: of KINDS, what holds for most of the bytes.
        oldest_event: that allocated the oldest of them; UNKNOWN where it is older than the trace.
        age_us: of that one, microseconds; UNKNOWN where that is not known.
    """

    place: Place
    blocks: int
    bytes: int
    largest_bytes: int
    kind: str
    oldest_event: int
    age_us: int


@dataclass(frozen=True)
class Shortfall:
    """What a device would have needed.

    Attributes:
        event: of the recording, at which memory ran out first.
        live_bytes: held by live blocks then.
        requested_bytes: what was asked for then.
        missing_bytes: how much more memory both together take than there is; 0: it is not capacity alone.
        holders: what lived, most bytes first.
        by_kind: bytes by KINDS.
        growths: buffers that grew step by step until then.
        steps_fewer: how many of these steps less would have made room for what is missing; None where not so
            many were recorded, or nothing is missing.
        wanted_by_growth: whether it was one of these buffers that had no room to grow.
        trend: how the peak in use grew with the size of a buffer; None where the recording does not show it.
    """

    event: int
    live_bytes: int
    requested_bytes: int
    missing_bytes: int
    holders: tuple[Holder, ...]
    by_kind: dict[str, int]
    growths: tuple[Growth, ...]
    steps_fewer: Optional[int]
    wanted_by_growth: bool
    trend: Optional[Trend]

    @property
    def varying_bytes(self) -> int:
        """What grew or recurs, and what was asked for."""
        return self.by_kind["grows"] + self.by_kind["recurs"] + self.requested_bytes

    @property
    def smaller_by(self) -> Optional[float]:
        """By what share that had to be smaller to fit.

        None where nothing is missing, or more than what grew or recurs: then it hangs on something else.
        """
        if not 0 < self.missing_bytes <= self.varying_bytes - self.requested_bytes:
            return None
        return self.missing_bytes / self.varying_bytes


def shortfall(
    history: History, capacity: Optional[int], oom: Optional[FirstOom] = None
) -> Optional[Shortfall]:
    """Where memory ran out, by default at the first recorded out-of-memory error; None where there is none.

    Which blocks live is the program's doing, and the same under every setting; their sizes are the recorded
    ones.

    Args:
        capacity: bytes that PyTorch may reserve; None where not known.
        oom: where a replay under other conditions ran out of memory.
    """
    oom = oom or recorded_outcome(history).first_oom
    if oom is None:
        return None
    recording, at = history.recording, oom.event
    table = table_of(history.heap_after(at))
    live = table[((table["allocated"] == 1) | (table["pending"] == 1))]
    births, size = live["alloc_event"], live["size"]
    found = chains(recording, births, at)
    stacks = _stacks(history, births)
    kind = _kinds(history, births, stacks, at, [chain.birth for chain in found])
    by_kind = {name: int(size[kind == code].sum()) for code, name in enumerate(KINDS)}
    held = int(size.sum())
    missing = max(held + oom.requested_bytes - capacity, 0) if capacity is not None else 0
    # Growth of less is true, and leads nowhere.
    grown = tuple(one for one in growths(recording, found) if one.bytes >= held // _WORTH)
    return Shortfall(
        event=at,
        live_bytes=held,
        requested_bytes=oom.requested_bytes,
        missing_bytes=missing,
        holders=_holders(history, births, size, stacks, kind, at),
        by_kind=by_kind,
        growths=grown,
        steps_fewer=_steps_fewer(grown, missing),
        wanted_by_growth=int(recording.events.stack[at]) in {chain.stack for chain in found},
        trend=None
        if capacity is None
        else trend_of(history, np.append(stacks, recording.events.stack[at]), at, capacity),
    )


def _steps_fewer(grown: tuple[Growth, ...], missing: int) -> Optional[int]:
    """As many as were recorded at most: of what was before them nothing says how it came."""
    step = sum(one.step_bytes for one in grown)
    if not missing or not step:
        return None
    fewer = -(-missing // step)
    return fewer if fewer <= min(one.steps for one in grown) else None


def _kinds(
    history: History, births: NDArray[np.int64], stacks: NDArray[np.int32], at: int, growing: list[int]
) -> NDArray[np.int64]:
    """Codes of KINDS."""
    events, born = history.recording.events, history.recording.birth
    frees = born[:at][events.action[:at] == FREE_REQUESTED]
    freed = events.stack[frees[(frees >= 0) & (frees < len(events))]]
    kind = np.where(np.isin(stacks, freed), _RECURS, _KEPT)
    # Without a stack nothing says what else came from there.
    kind[stacks == NO_STACK] = _RECURS
    kind[np.isin(births, growing)] = _GROWS
    kind[births >= len(events)] = _OLDER
    return kind


def _holders(
    history: History,
    births: NDArray[np.int64],
    size: NDArray[np.int64],
    stacks: NDArray[np.int32],
    kind: NDArray[np.int64],
    at: int,
) -> tuple[Holder, ...]:
    found, index = places(history.recording.snapshot.stacks, stacks)
    times, n = history.recording.events.time_us, len(history.recording)
    out = []
    for number, place in enumerate(found):
        mine = index == number
        of_kind = np.bincount(kind[mine], weights=size[mine], minlength=len(KINDS))
        oldest = int(births[mine].min()) if bool((births[mine] < n).all()) else UNKNOWN
        age = UNKNOWN
        if oldest >= 0 and UNKNOWN not in (int(times[at]), int(times[oldest])):
            age = int(times[at] - times[oldest])
        out.append(
            Holder(
                place=place,
                blocks=int(mine.sum()),
                bytes=int(size[mine].sum()),
                largest_bytes=int(size[mine].max()),
                kind=KINDS[int(of_kind.argmax())],
                oldest_event=oldest,
                age_us=age,
            )
        )
    return tuple(sorted(out, key=lambda one: -one.bytes))


def _stacks(history: History, births: NDArray[np.int64]) -> NDArray[np.int32]:
    """Where blocks were allocated, int32, by their births."""
    n = len(history.recording)
    older = dict(zip(history.initial.blocks.birth.tolist(), history.initial.blocks.stack.tolist()))
    return np.array(
        [
            int(history.recording.events.stack[birth]) if 0 <= birth < n else older.get(birth, NO_STACK)
            for birth in births.tolist()
        ],
        np.int32,
    )
