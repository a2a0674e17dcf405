"""State at any event, and before a trace that began late, against whole recordings of the real allocator."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from oomdoctor.allocator import history as history_module
from oomdoctor.allocator.conservation import violations
from oomdoctor.allocator.heap_layout import Heap
from oomdoctor.allocator.history import History, history_of, table_of
from oomdoctor.allocator.rules import TIE_BLOCK_COUNTER, rules_of
from oomdoctor.snapshot.model import Snapshot

from ..emulator.conftest import PYTHONS
from .comparing import final_blocks, record, snapshot_blocks
from .reference.program import Program
from .reference.programs import SHAPES, make_program
from .reference.run import Policy
from .test_differential import python  # noqa: F401 - a fixture

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("differential")]

__all__ = ["PYTHONS"]


@pytest.fixture(scope="module")
def histories(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, History]:  # noqa: F811
    folder = tmp_path_factory.mktemp("recordings")
    drawn: list[Program] = [
        dataclasses.replace(make_program(shape, 7, 200), name=shape)
        for shape in SHAPES
        if shape not in ("pools", "graphs")
    ]
    out = {}
    for text in ("", "expandable_segments:True", "max_split_size_mb:32"):
        place = folder / (text.split(":")[0] or "default")
        place.mkdir()
        for one in record(python, drawn, Policy("random", seed=3), place, settings=text):
            out[f"{one.program.name} {text}"] = one.history
    return out


def state(heap: Heap) -> list[tuple[int, ...]]:
    """Address, size, state of every mapped block, and what the live ones asked for."""
    table = table_of(heap)
    table = table[table["mapped"] == 1]
    live = (table["allocated"] | table["pending"]).astype(bool)
    columns = (
        table["ptr"],
        table["size"],
        table["allocated"],
        table["pending"],
        np.where(live, table["requested_size"], 0),
    )
    return list(zip(*(column.tolist() for column in columns)))


def test_heap_is_sound_after_every_event(histories: dict[str, History]) -> None:
    for name, history in histories.items():
        for events in range(0, len(history.recording) + 1, 5):
            assert violations(history.heap_after(events)) == [], (name, events)


def test_state_at_an_event_does_not_depend_on_the_way_there(
    histories: dict[str, History], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = histories["everything "]
    monkeypatch.setattr(history_module, "KEYFRAME_EVENTS", 64)
    often = History(whole.recording, whole.settings, whole.torch)
    places = list(range(len(whole.recording) + 1))
    random.Random(1).shuffle(places)
    for events in places[:150]:
        heap = often.heap_after(events)
        assert state(heap) == state(whole.heap_after(events))
        if events:
            effect = whole.effects[events - 1]
            assert int(heap.stats["reserved_bytes"][0]) == int(effect["reserved_bytes"])
            assert int(heap.stats["allocated_bytes"][0]) == int(effect["allocated_bytes"])
    with pytest.raises(IndexError):
        whole.heap_after(len(whole.recording) + 1)


def cut(snapshot: Snapshot, first: int) -> Snapshot:
    """The snapshot with only the events from ``first`` on, as a ring that wrapped leaves it."""
    events = snapshot.traces[0]
    return dataclasses.replace(snapshot, traces=(events.take(np.arange(first, len(events))),))


@pytest.mark.parametrize("text", ["", "expandable_segments:True", "max_split_size_mb:32"])
def test_trace_that_began_late_leads_back_to_the_state_it_began_in(
    histories: dict[str, History], text: str
) -> None:
    guessed = compared = 0
    for shape in SHAPES:
        whole = histories.get(f"{shape} {text}")
        if whole is None:
            continue
        events = len(whole.recording)
        for first in range(1, events, max(1, events // 25)):
            late = history_of(cut(whole.recording.snapshot, first), 0, whole.settings, whole.torch)
            assert late.initial.notes == (), (shape, first)
            assert late.check.conflicts == 0, (shape, first)
            assert final_blocks(late) == snapshot_blocks(late), (shape, first)
            guessed += late.initial.blocks.guessed
            # In 2.12 the age of older Blocks decides, and nothing tells all of it.
            if rules_of(whole.torch).tie_break != TIE_BLOCK_COUNTER:
                assert late.check.matching == late.check.compared, (shape, first)
            if late.initial.blocks.guessed == 0:
                assert state(late.heap_after(0)) == state(whole.heap_after(first)), (shape, first)
                compared += 1
    assert compared > 40
    print(f"{compared} states compared, {guessed} block sizes bounded only")
