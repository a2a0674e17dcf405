"""At which two states two recordings are set beside one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

from oomdoctor.allocator.history import History
from oomdoctor.comparison.positions import Positions, at_first_oom

WHENS = ("auto", "oom", "peak", "common", "end")
"""What a person may ask for; see :func:`point_of`."""


@dataclass(frozen=True)
class Point:
    """Two states, each named by the events before it.

    Attributes:
        when: "oom", "peak", "common", "end", or "moment" where somebody chose the states.
    """

    when: str
    a: int
    b: int


def point_of(when: str, positions: Optional[Positions], a: History, b: History) -> Point:
    """The states that a person asks for.

    - ``oom``: the request that failed first in A, else in B, and the same one of the other;
    - ``peak``: where each had the most allocated;
    - ``common``: after the last request that both have;
    - ``end``: as each was left;
    - ``auto``: the first of ``oom``, ``peak`` and ``end`` that there is.

    What there is not is the end: without history nothing else is known.
    """
    if positions is not None:
        failed = at_first_oom(positions, a, b) if when in ("auto", "oom") else None
        if failed is not None:
            return Point("oom", *failed)
        if when in ("auto", "peak"):
            return Point("peak", peak_state(a), peak_state(b))
        if when == "common" and positions.alignment.matched:
            return Point("common", *positions.last_common)
    return Point("end", len(a.recording), len(b.recording))


def peak_state(history: History) -> int:
    """The first state with the most allocated bytes."""
    allocated = history.effects["allocated_bytes"]
    start = int(history.heap_after(0).stats["allocated_bytes"][0])
    return int(np.argmax(allocated)) + 1 if len(allocated) and allocated.max() > start else 0
