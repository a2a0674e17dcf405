"""Free blocks of a moment against the requests that came later, and what that says in a line."""

from __future__ import annotations

from typing import Optional

from oomdoctor.allocator.moment import Moment
from oomdoctor.units import format_bytes
from oomdoctor_dashboard import fragmentation_data as data
from oomdoctor_dashboard.library import Loaded
from oomdoctor_dashboard.live_data import basis_of


def free_blocks_of(
    loaded: Loaded,
    moment: Moment,
    *,
    later: Optional[int] = None,
    where: data.Where = None,
    later_words: str = "until the end",
) -> tuple[data.Classes, str]:
    """The size classes, and their sums with what they stand on.

    Args:
        later: of how many events after the moment the requests count; None: of all.
        where: the compartment; None: the device.
        later_words: says what ``later`` is.
    """
    demand = loaded.made("fragmentation-demand", lambda one: data.demand_of(one.history))
    until = loaded.events if later is None else min(loaded.events, moment.events + later)
    classes = data.classes_of(moment.layout, demand, moment.events, until, where)
    if not len(classes.lower):
        return classes, "Nothing is free at this moment, and nothing was asked for later."
    by_fate = classes.free_bytes.sum(axis=1).tolist()
    blocks = int(classes.free_count.sum())
    count = "1 block" if blocks == 1 else f"{blocks:,} blocks"
    parts = [f"{format_bytes(sum(by_fate))} free in {count} ({basis_of(loaded.device, moment)})"]
    parts += [f"{name}: {format_bytes(size)}" for name, size in zip(data.FATES, by_fate) if size]
    requests = int(classes.asked_count.sum())
    return classes, " · ".join([*parts, f"{requests:,} requests {later_words}"])
