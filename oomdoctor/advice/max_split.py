"""The question that everybody asks: which ``max_split_size_mb``? Answered by name, also where none helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from oomdoctor.advice.candidates import max_split_values
from oomdoctor.advice.ranking import Tried, is_better, ranked, scale_of
from oomdoctor.advice.reasons import fewer_retries, higher_peak, how_worse, nothing_better
from oomdoctor.allocator.constants import LARGE_BUFFER, SMALL_SIZE
from oomdoctor.allocator.history import History
from oomdoctor.allocator.layout import Layout
from oomdoctor.allocator.replay import Outcome
from oomdoctor.snapshot.model import ALLOC
from oomdoctor.units import format_bytes

_KEY = "max_split_size_mb:"


@dataclass(frozen=True)
class MaxSplitAnswer:
    """What is to be said of max_split_size_mb alone.

    Attributes:
        helps: whether some value is better than the current settings.
        best: the best value, MiB; None where the release or the recording has none to try.
        tried: that value's outcome.
        why: in words.
    """

    helps: bool
    best: Optional[int]
    tried: Optional[Tried]
    why: str


def answer(
    tried: Sequence[Tried],
    current: Tried,
    histories: Sequence[History],
    layouts: Sequence[Optional[Layout]] = (),
) -> MaxSplitAnswer:
    """Of the settings tried, what those say that set max_split_size_mb and nothing else.

    Args:
        layouts: of each recording, the heap where memory ran out under the current settings; None where it
            did not.
    """
    alone = ranked([one for one in tried if one.alloc_conf.startswith(_KEY) and "," not in one.alloc_conf])
    if not alone and max_split_values(histories):
        # All there are do what the current settings do, and are not told from them.
        return MaxSplitAnswer(False, None, None, _why_not(current, current, layouts, ()))
    if not alone:
        return MaxSplitAnswer(False, None, None, _nothing_to_split(histories))
    best = alone[0]
    value = int(best.alloc_conf[len(_KEY) :])
    if is_better(best, current):
        return MaxSplitAnswer(True, value, best, _how_it_helps(best, current, alone))
    why = _why_not(best, current, layouts, alone) + how_worse(alone, current)
    return MaxSplitAnswer(False, value, best, why)


def _how_it_helps(best: Tried, current: Tried, alone: Sequence[Tried]) -> str:
    # Where one survives, to come a little further is no help beside it.
    others = [
        one.alloc_conf[len(_KEY) :]
        for one in alone
        if one.survives == best.survives and is_better(one, current)
    ]
    also = (
        f" {len(others)} of the {len(alone)} values that differ here help: {', '.join(others[:8])}."
        if len(others) > 1
        else ""
    )
    if best.survives and not current.survives:
        retries = {0: "without a retry", 1: "with 1 retry"}.get(best.retries, f"with {best.retries} retries")
        return f"the run survives, {retries}, and {_left(best)}.{also}"
    if not best.survives:
        return f"it comes further: to allocation {_failed(best):,} instead of {_failed(current):,}.{also}"
    saved = sum(o.peak_reserved_bytes for o in current.outcomes) - sum(
        o.peak_reserved_bytes for o in best.outcomes
    )
    room = best.headroom - current.headroom
    if room <= scale_of((best, current)):
        return f"{fewer_retries(best, current)}.{also}"
    # At a tight capacity the peak may be much the same or higher, and yet less be needed.
    if saved > scale_of((best, current)):
        return f"the peak reserved is {format_bytes(saved)} lower.{also}"
    return f"the run survives with {format_bytes(room)} less{higher_peak(best, current)}.{also}"


def _left(one: Tried) -> str:
    if any(capacity is None for capacity in one.capacities):
        return f"reserves {format_bytes(max(o.peak_reserved_bytes for o in one.outcomes))} at most"
    return f"leaves {format_bytes(max(one.headroom, 0))} at the worst moment"


def _failed(one: Tried) -> int:
    return min(o.first_oom.alloc_index for o in one.outcomes if o.first_oom is not None)


def _nothing_to_split(histories: Sequence[History]) -> str:
    largest = max((_largest_request(history) for history in histories), default=0)
    if largest <= SMALL_SIZE:
        return "no value can matter: every request is of the small pool, which it leaves alone"
    return (
        f"no value can matter: the largest request is {format_bytes(largest)}, and blocks below"
        f" {format_bytes(LARGE_BUFFER)} are split at any value"
    )


def _largest_request(history: History) -> int:
    asked = history.recording.events.entry_size[history.recording.events.action == ALLOC]
    return int(asked.max(initial=0))


def _why_not(best: Tried, current: Tried, layouts: Sequence[Optional[Layout]], alone: Sequence[Tried]) -> str:
    """Why no value is better, from the recording that ran out of memory first."""
    failed = [
        (outcome.first_oom.event, number)
        for number, outcome in enumerate(current.outcomes)
        if outcome.first_oom is not None and current.capacities[number] is not None
    ]
    for _, number in sorted(failed):
        outcome, capacity = current.outcomes[number], current.capacities[number]
        layout = layouts[number] if number < len(layouts) else None
        assert outcome.first_oom is not None
        assert capacity is not None
        wanted = outcome.first_oom.requested_bytes
        found = _why_not_here(outcome, wanted, capacity, layout)
        too_little = outcome.final_reserved_bytes - outcome.final_allocated_bytes < wanted
        if found is None and too_little and best.reached == current.reached:
            found = "the holes together are smaller than the request that failed"
        if found is not None:
            return f"no value helps: {found}."
    if current.survives:
        return f"{nothing_better(current, alone, 'value')}."
    return (
        "no value helps: the holes lie in segments that the setting leaves as they are, or between blocks"
        " that live on."
    )


def _why_not_here(outcome: Outcome, wanted: int, capacity: int, layout: Optional[Layout]) -> Optional[str]:
    live = outcome.final_allocated_bytes
    if live + wanted > capacity:
        return (
            f"it is capacity. {format_bytes(live)} were live and {format_bytes(wanted)} wanted, more than the"
            f" {format_bytes(capacity)} there are"
        )
    if wanted <= SMALL_SIZE:
        return "the request that failed is of the small pool, which it leaves alone"
    if layout is None or not layout.segments:
        return None
    giant = int(layout.blocks["size"][layout.live].max(initial=0))
    if 2 * giant >= capacity:
        return (
            f"one live block has {format_bytes(giant)} of the {format_bytes(capacity)}, and what is left"
            " beside it is no larger under any value"
        )
    return _of_small_segments(layout)


def _of_small_segments(layout: Layout) -> Optional[str]:
    """Where all holes of the large pool lie in segments that every value splits."""
    hole = layout.in_hole & ~layout.is_small & (layout.private_pool == 0)
    size = layout.per_segment(layout.blocks["size"])[layout.segment[hole]]
    if len(size) and int(size.max()) <= LARGE_BUFFER and not layout.expandable[hole].any():
        held = int(layout.blocks["size"][hole].sum())
        return (
            f"the {format_bytes(held)} of holes lie in segments of {format_bytes(LARGE_BUFFER)} and less,"
            " which are split at any value above 20, and stranded at 20"
        )
    return None
