"""Heaps are sound after every event; and what is unsound is found."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oomdoctor.allocator.agreement import agrees_with_snapshot
from oomdoctor.allocator.conservation import violations
from oomdoctor.allocator.heap_layout import Heap, copied
from oomdoctor.allocator.history import History, history_of
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.snapshot import snapshot_from_plain

from .recorded_by_heap import RELEASE, acts, recorded

CONFS = ("", "max_split_size_mb:32", "expandable_segments:True", "roundup_power2_divisions:8")


def history(program: Any, conf: str = "", keep: Any = None) -> History:
    chosen = parse_settings(conf, RELEASE).settings
    return history_of(snapshot_from_plain(recorded(program, chosen, keep=keep)), 0, chosen, RELEASE)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=acts(), conf=st.sampled_from(CONFS), keep=st.none() | st.integers(0, 60))
def test_heaps_are_sound_after_every_event(program: Any, conf: str, keep: Any) -> None:
    replayed = history(program, conf, keep)
    for events in range(len(replayed.recording) + 1):
        assert violations(replayed.heap_after(events)) == [], f"after {events} events"
    assert agrees_with_snapshot(replayed)
    assert replayed.check.matching == replayed.check.compared
    assert replayed.check.conflicts == 0


PROGRAM = [
    ("alloc", 5 << 20, 0),
    ("alloc", 3 << 20, 0),
    ("alloc", 700, 0),
    ("alloc", 2000, 1),
    ("alloc", 900, 0),
    ("free", 0),
    ("defer", 1),
    ("alloc", 12 << 20, 0),
]


def _set(field: str, change: Callable[[Any], Any], *, of: str) -> Callable[[Heap], None]:
    def damage(heap: Heap) -> None:
        blocks = heap.blocks
        rows = {
            "live": (blocks["used"] == 1) & (blocks["allocated"] == 1),
            "free": (blocks["used"] == 1) & (blocks["allocated"] == 0) & (blocks["pending"] == 0),
            "linked": (blocks["used"] == 1) & (blocks["next"] >= 0),
        }[of]
        row = int(np.flatnonzero(rows)[0])
        blocks[field][row] = change(blocks[field][row])

    return damage


def _stat(name: str) -> Callable[[Heap], None]:
    def damage(heap: Heap) -> None:
        heap.stats[name] += 512

    return damage


def _swap_free(heap: Heap) -> None:
    heap.free_blocks[[0, 1]] = heap.free_blocks[[1, 0]]


def _wrong_key(heap: Heap) -> None:
    heap.free_blocks["key"][int(heap.stats["free"][0]) - 1] += 1


def _drop(count: str) -> Callable[[Heap], None]:
    def damage(heap: Heap) -> None:
        heap.stats[count] -= 1

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_set("size", lambda size: size + 512, of="linked"), "overlaps the block before it"),
        (_set("size", lambda size: size - 512, of="linked"), "next does not begin where the block ends"),
        (_set("ptr", lambda ptr: ptr + 512, of="live"), "next does not begin where the block ends"),
        (_set("prev", lambda prev: -1 if prev >= 0 else 0, of="linked"), "prev"),
        (_set("pending", lambda _: 1, of="live"), "allocated and pending"),
        (_set("allocated", lambda _: 1, of="free"), "wrongly in free_blocks"),
        (_set("allocated", lambda _: 0, of="live"), "missing in free_blocks"),
        (_set("mapped", lambda _: 0, of="live"), "in use and unmapped"),
        (_set("mapped", lambda _: 0, of="free"), "missing in unmapped"),
        (_set("requested_size", lambda _: 1 << 40, of="live"), "less than was asked for"),
        (_stat("allocated_bytes"), "allocated_bytes is"),
        (_stat("active_bytes"), "active_bytes is"),
        (_stat("reserved_bytes"), "reserved_bytes is"),
        (_stat("inactive_split_bytes"), "inactive_split_bytes is"),
        (_swap_free, "free_blocks is not in the order of"),
        (_wrong_key, "free_blocks has keys that are not"),
        (_drop("free"), "missing in free_blocks"),
        (_drop("pending_count"), "missing in pending"),
        (_drop("spares"), "rows are neither used nor spare"),
    ],
)
def test_unsound_heaps_are_told(damage: Callable[[Heap], None], said: str) -> None:
    heap = copied(history(PROGRAM).last)
    assert violations(heap) == []
    damage(heap)
    assert any(said in one for one in violations(heap)), violations(heap)


def test_free_neighbours_that_were_not_merged_are_told() -> None:
    heap = copied(history(PROGRAM).last)
    blocks = heap.blocks
    live = np.flatnonzero((blocks["used"] == 1) & (blocks["allocated"] == 1) & (blocks["next"] >= 0))
    after = blocks["next"][live]
    row = int(live[(blocks["allocated"][after] == 0) & (blocks["pending"][after] == 0)][0])
    blocks["allocated"][row] = 0
    assert any("not merged" in one for one in violations(heap))
