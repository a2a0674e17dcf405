"""Which device of one recording is compared with which of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

from oomdoctor.allocator.loading import DeviceHistory

# The first that holds decides: the same rank and device, the same device, what is left by order.
_ALIKE: tuple[Callable[[DeviceHistory], Any], ...] = (
    lambda one: (one.source.rank, one.device),
    lambda one: one.device,
    lambda one: None,
)


def paired(
    a: Sequence[DeviceHistory], b: Sequence[DeviceHistory]
) -> tuple[list[tuple[DeviceHistory, DeviceHistory]], list[DeviceHistory], list[DeviceHistory]]:
    """Pairs, in the order of ``a``, and those of ``a`` and of ``b`` that have no partner."""
    partner: dict[int, int] = {}
    left_b = list(range(len(b)))
    for key in _ALIKE:
        for i, one in enumerate(a):
            if i in partner:
                continue
            found = next((j for j in left_b if key(b[j]) == key(one)), None)
            if found is not None:
                partner[i] = found
                left_b.remove(found)
    pairs = [(a[i], b[partner[i]]) for i in sorted(partner)]
    return pairs, [one for i, one in enumerate(a) if i not in partner], [b[j] for j in left_b]
