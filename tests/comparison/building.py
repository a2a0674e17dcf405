"""Recordings to compare, made by the heap itself."""

from __future__ import annotations

from typing import Any, Optional

from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.settings import Settings
from oomdoctor.comparison.compare import Pair
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import snapshot_from_plain
from oomdoctor.units import MIB
from tests.allocator.recorded_by_heap import recorded
from tests.snapshot.building import event

Json = dict[str, Any]
PROGRAM = [
    ("alloc", 30 * MIB, 0),
    ("alloc", 5 * MIB, 0),
    ("alloc", 12 * MIB, 0),
    ("free", 0),
    ("alloc", 26 * MIB, 0),
    ("free", 0),
    ("alloc", 7 * MIB, 0),
    ("alloc", 40 * MIB, 0),
]


def died(before: int, size: int, **settings: Any) -> Json:
    """The program as far as its act number ``before``, where it asks for ``size`` bytes and fails."""
    plain = recorded(PROGRAM[:before], Settings(**settings))
    (trace,) = plain["device_traces"]
    return {**plain, "device_traces": [[*trace, event("oom", size, addr=0, time_us=10**6)]]}


def without_history(plain: Json) -> Json:
    return {**plain, "device_traces": []}


def device(plain: Json, source: Optional[SnapshotSource] = None, number: int = 0) -> DeviceHistory:
    return load_device(snapshot_from_plain(plain), source or SnapshotSource("one.pickle"), number)


def pair(a: Json, b: Json) -> Pair:
    return Pair(device(a, SnapshotSource("a.pickle")), device(b, SnapshotSource("b.pickle")))


def program(**settings: Any) -> Json:
    return recorded(PROGRAM, Settings(**settings))
