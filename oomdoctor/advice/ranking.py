"""Which of several settings is better: what users care about, in this order.

Does the job survive; if not, how far does it come. How much room is left at the worst moment, in fiftieths
of the capacity. What it costs: retries, then calls of the driver, each of which synchronizes. Then what
changes less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

from oomdoctor.advice.candidates import count_of_keys, mildness
from oomdoctor.allocator.replay import Outcome

# In how many halvings the least capacity is looked for, between what is in use and what is reserved.
HALVINGS = 7


@dataclass(frozen=True)
class Tried:
    """A setting and what it comes to, on each recording of the job.

    Attributes:
        alloc_conf: the text; "" for the defaults.
        outcomes: one for each recording.
        capacities: of each, bytes; None: without end.
        needs: of each the least capacity that it survives, as far as that was looked for; empty: it was not.
    """

    alloc_conf: str
    outcomes: tuple[Outcome, ...]
    capacities: tuple[Optional[int], ...]
    needs: tuple[int, ...] = ()

    @property
    def survives(self) -> bool:
        return all(outcome.first_oom is None for outcome in self.outcomes)

    @property
    def reached(self) -> int:
        """The event at which the first of them ran out of memory; large where none did."""
        return min((o.first_oom.event for o in self.outcomes if o.first_oom is not None), default=1 << 62)

    @property
    def headroom(self) -> int:
        """The least room left on any of them, bytes; without an end, what is needed, negative."""
        needs = self.needs or tuple(outcome.peak_reserved_bytes for outcome in self.outcomes)
        return min((capacity or 0) - need for need, capacity in zip(needs, self.capacities))

    @property
    def retries(self) -> int:
        return sum(outcome.num_alloc_retries for outcome in self.outcomes)

    @property
    def driver_calls(self) -> int:
        return sum(outcome.num_device_alloc + outcome.num_device_free for outcome in self.outcomes)


def scale_of(tried: Sequence[Tried]) -> int:
    """What differences of headroom are told in: a fiftieth of the smallest capacity or peak."""
    sizes = [size for one in tried for size in one.capacities if size]
    sizes = sizes or [outcome.peak_reserved_bytes for one in tried for outcome in one.outcomes]
    return max(min(sizes, default=1) // 50, 1)


def key(tried: Tried, scale: int, most_room: int) -> tuple[float, ...]:
    """Smaller is better.

    Args:
        scale: what differences of headroom are told in, bytes.
        most_room: the headroom of the setting that has most; within ``scale`` of it all count alike.
    """
    if not tried.survives:
        # How far it came, and nothing else: what was reserved when it died says little.
        return (1, -tried.reached, count_of_keys(tried.alloc_conf))
    return (
        0,
        not tried.needs,
        (most_room - tried.headroom) // scale,
        tried.retries,
        count_of_keys(tried.alloc_conf),
        tried.driver_calls,
        -tried.headroom,
    )


def ranked(tried: Sequence[Tried], always: Sequence[str] = ()) -> list[Tried]:
    """Best first. Of settings with the same outcomes only the simplest stays, or the one of ``always``."""
    scale = scale_of(tried)
    kept: dict[tuple[Outcome, ...], Tried] = {}

    def simplicity(one: Tried) -> tuple[object, ...]:
        text = one.alloc_conf
        return text not in always, count_of_keys(text), mildness(text), len(text), text

    for one in sorted(tried, key=simplicity):
        kept.setdefault(one.outcomes, one)
    most_room = max((one.headroom for one in tried if one.survives and one.needs), default=None)
    if most_room is None:
        most_room = max((one.headroom for one in tried if one.survives), default=0)
    return sorted(kept.values(), key=lambda one: key(one, scale, most_room))


def is_better(one: Tried, other: Tried) -> bool:
    """Whether a setting is worth changing to.

    It survives, comes further, leaves a fiftieth more room, or retries less and needs no more.
    """
    scale = scale_of((one, other))
    if bool(one.needs) != bool(other.needs):
        one, other = replace(one, needs=()), replace(other, needs=())
    if one.survives != other.survives:
        return one.survives
    if not one.survives:
        return one.reached > other.reached
    if abs(one.headroom - other.headroom) > scale:
        return one.headroom > other.headroom
    if one.needs and one.headroom + _exactness((one, other)) < other.headroom:
        return False  # fewer retries are no reason to need more
    return one.retries < other.retries


def _exactness(tried: Sequence[Tried]) -> int:
    """To how many bytes the least capacities are known: they were found by halving."""
    widths = (o.peak_reserved_bytes - o.peak_active_bytes for one in tried for o in one.outcomes)
    return max(max(widths, default=0), 0) >> HALVINGS


def frontier(tried: Sequence[Tried]) -> list[Tried]:
    """Settings that no other beats in both room left and calls of the driver, most room first."""
    out: list[Tried] = []
    for one in sorted((t for t in tried if t.survives), key=lambda t: (-t.headroom, t.driver_calls)):
        if not out or one.driver_calls < out[-1].driver_calls:
            out.append(one)
    return out
