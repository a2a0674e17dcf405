"""A block from its allocation to its free; what lay there before and after; the segment around it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oomdoctor_dashboard.block_life import BlockLife, Lives
from oomdoctor_dashboard.library import Library
from oomdoctor_dashboard.segment_panel import panel, row_at

from oomdoctor.allocator.history import History
from oomdoctor.allocator.layout import Layout, layout_of
from oomdoctor.allocator.moment import moment_of
from oomdoctor.allocator.settings import Settings
from oomdoctor.snapshot.model import ACTIONS, ALLOC, FREE_COMPLETED, FREE_REQUESTED, INACTIVE
from oomdoctor.snapshot.stacks import NO_STACK
from oomdoctor.units import MIB
from tests.allocator.recorded_by_heap import acts, recorded
from tests.allocator.test_conservation import CONFS, history
from tests.allocator.test_fragmentation import of
from tests.snapshot.building import event, hole, live, segment, snapshot

from .test_segments import words

BASE, HALF = 1 << 40, MIB // 2

# One segment of 20 MiB: 4, 6 and 2 MiB are cut from its front, 8 stay.
PROGRAM = [
    ("alloc", 4 * MIB, 0),
    ("alloc", 6 * MIB - 300, 0),
    ("alloc", 2 * MIB, 0),
    ("free", 1),  # 6 MiB, between two live ones
    ("free", 0),  # 4 MiB: joins the 6 behind it
    ("alloc", 17 * HALF, 0),  # 8.5 from the front of these 10; the 8 at the end are too few
    ("free", 0),  # 2 MiB: joins 1.5 before and 8 behind
    ("defer", 0),  # 8.5 MiB
    ("alloc", 20 * MIB, 1),  # a segment of its own
    ("complete",),
]


@pytest.fixture(scope="module")
def known() -> tuple[History, list[BlockLife]]:
    """The history of PROGRAM, and the life of each block in the order of allocations."""
    replayed = history(PROGRAM)
    lives = Lives(replayed)
    return replayed, [lives.life(row) for row in range(len(lives.birth))]


def events(replayed: History) -> list[str]:
    return [ACTIONS[code] for code in replayed.recording.events.action.tolist()]


def test_program_is_what_the_tests_below_take_it_for(known: Any) -> None:
    assert events(known[0]) == [
        "segment_alloc", "alloc", "alloc", "alloc",
        "free_requested", "free_completed", "free_requested", "free_completed",
        "alloc", "free_requested", "free_completed", "free_requested",
        "segment_alloc", "alloc", "free_completed",
    ]  # fmt: skip


def test_splits(known: Any) -> None:
    _, (first, second, third, fourth, fifth) = known
    assert [one.allocated for one in (first, second, third, fourth, fifth)] == [1, 2, 3, 8, 13]
    assert [one.block_bytes // HALF for one in known[1]] == [8, 12, 4, 17, 40]
    assert [(one.split_from_bytes or 0) // MIB for one in known[1]] == [20, 16, 10, 10, 20]
    assert [one.remainder_bytes // HALF for one in known[1]] == [32, 20, 16, 3, 0]
    assert second.requested_bytes == 6 * MIB - 300
    assert [one.segment_event for one in known[1]] == [0, None, None, None, 12]
    assert fourth.address == first.address == second.address - 4 * MIB
    assert [one.stream for one in known[1]] == [0, 0, 0, 0, 1]
    assert not any(one.is_small or one.private_pool or one.is_bounded for one in known[1])


def test_merges(known: Any) -> None:
    _, (first, second, third, fourth, fifth) = known
    assert (second.free_requested, second.free_completed) == (4, 5)
    assert (second.merged_before_bytes, second.merged_after_bytes) == (0, 0)
    assert (first.merged_before_bytes, first.merged_after_bytes) == (0, 6 * MIB)
    assert first.merged_bytes == 10 * MIB
    assert (third.merged_before_bytes, third.merged_after_bytes) == (3 * HALF, 8 * MIB)
    assert third.merged_bytes == 23 * HALF
    assert (fourth.merged_before_bytes, fourth.merged_after_bytes) == (0, 23 * HALF)
    assert fifth.free_requested is fifth.free_completed is fifth.lived_us is fifth.lived_events is None


def test_deferred_frees_and_ages(known: Any) -> None:
    _, (first, _, _, fourth, _) = known
    assert (fourth.free_requested, fourth.free_completed, fourth.is_deferred) == (11, 14, True)
    assert not first.is_deferred
    assert (first.lived_events, first.lived_us) == (6, 6 * 7)


def test_what_lay_there_before_and_after(known: Any) -> None:
    replayed, (first, second, third, fourth, _) = known
    lives = Lives(replayed)

    def births(row: Any) -> Any:
        return None if row is None else int(lives.birth[row])

    def around(one: BlockLife) -> tuple[Any, Any]:
        at = (one.address, one.block_bytes, one.birth, one.allocated)
        return births(lives.before(*at)), births(lives.after(*at))

    assert around(first) == (None, fourth.birth)
    assert around(fourth) == (second.birth, None), "the last of the two"
    assert around(second) == (None, fourth.birth)
    assert around(third) == (None, None)
    # Free memory, 1.5 MiB behind the fourth: the second was the last there.
    assert births(lives.before(fourth.address + 17 * HALF, 3 * HALF, None, 9)) == second.birth
    assert births(lives.after(third.address, 2 * MIB, None, 0)) == third.birth
    # Just before the fourth came: it is next there, not last.
    assert births(lives.before(first.address, 4 * MIB, None, 8)) == first.birth
    assert births(lives.after(first.address, 4 * MIB, None, 8)) == fourth.birth
    with pytest.raises(KeyError):
        lives.row(4)
    with pytest.raises(KeyError):
        lives.row(99)


def test_segments_came_and_went() -> None:
    program = [*PROGRAM, ("empty",)]
    replayed = history(program)
    lives = Lives(replayed)
    whole = lives.life(0).address
    gone = events(replayed).index("segment_free")
    found = lives.segment(whole + 5 * MIB, 5)
    assert (found.came, found.went, found.bytes, found.address) == (0, gone, 20 * MIB, whole)
    assert (found.came_cause, found.went_cause) == ("new", "empty_cache")
    other = lives.life(4).address
    assert lives.segment(other, len(replayed.recording)).went is None
    assert lives.segment(other, len(replayed.recording)).came == 12
    assert lives.segment(other, 12).came is None
    after = lives.segment(whole + 5 * MIB, len(replayed.recording))
    assert (after.came, after.went) == (None, None), "it is gone"
    nowhere = lives.segment(5, 3)
    assert (nowhere.came, nowhere.went, nowhere.bytes) == (None, None, 0)


def test_a_segment_that_came_for_another_request() -> None:
    plain = snapshot(
        segment(BASE, live(4 * MIB), hole(16 * MIB)),
        segment(BASE + 64 * MIB, hole(20 * MIB)),
        traces=[
            [
                event("segment_alloc", 20 * MIB, addr=BASE, time_us=1),
                event("segment_alloc", 20 * MIB, addr=BASE + 64 * MIB, time_us=2),
                event("alloc", 4 * MIB, addr=BASE, time_us=3),
            ]
        ],
    )
    lives = Lives(of(plain).history)
    assert lives.life(lives.row(2)).segment_event is None


def covering(layout: Layout, address: int) -> tuple[int, int, bool]:
    """Start, size and whether it is free, of the block at an address."""
    row = int(layout.blocks["ptr"].searchsorted(address, side="right")) - 1
    block = layout.blocks[row]
    assert block["ptr"] <= address < block["ptr"] + block["size"]
    return int(block["ptr"]), int(block["size"]), bool(layout.state[row] == INACTIVE)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=acts(60), conf=st.sampled_from(CONFS), keep=st.none() | st.integers(0, 60))
def test_lives_are_what_the_layouts_around_them_show(program: Any, conf: str, keep: Any) -> None:
    replayed = history(program, conf, keep)
    recording = replayed.recording
    lives = Lives(replayed)
    layouts = [layout_of(replayed.heap_after(number)) for number in range(len(recording) + 1)]
    action, birth = recording.events.action, recording.birth
    assert (lives.begun >= 0).sum() == (action == ALLOC).sum()
    for row in range(len(lives.birth)):
        one = lives.life(row)
        assert lives.row(one.birth) == row
        mine = [(int(i), int(action[i])) for i in (birth == one.birth).nonzero()[0]]
        assert one.free_requested == next((i for i, what in mine if what == FREE_REQUESTED), None)
        assert one.free_completed == next((i for i, what in mine if what == FREE_COMPLETED), None)
        if one.allocated is not None:
            start, size, free = covering(layouts[one.allocated + 1], one.address)
            assert (start, size, free) == (one.address, one.block_bytes, False)
            assert one.requested_bytes == recording.events.entry_size[one.allocated]
            start, size, free = covering(layouts[one.allocated], one.address)
            assert (start, size, free) == (one.address, one.split_from_bytes, True)
            assert (one.split_from_bytes or 0) - one.remainder_bytes == one.block_bytes
        else:
            assert covering(layouts[0], one.address)[:2] == (one.address, one.block_bytes)
        if one.free_completed is not None:
            start, size, free = covering(layouts[one.free_completed + 1], one.address)
            assert (start, size, free) == (one.address - one.merged_before_bytes, one.merged_bytes, True)
        else:
            assert covering(layouts[-1], one.address) == (one.address, one.block_bytes, False)
        check_occupants(lives, one)


def check_occupants(lives: Lives, one: BlockLife) -> None:
    """As found one by one."""
    began = one.allocated if one.allocated is not None else -1
    others = [
        row
        for row in range(len(lives.birth))
        if lives.birth[row] != one.birth
        and lives.address[row] < one.address + one.block_bytes
        and one.address < lives.address[row] + lives.block_bytes[row]
    ]
    before = [row for row in others if lives.begun[row] < began]
    after = [row for row in others if lives.begun[row] >= began]
    at = (one.address, one.block_bytes, one.birth, lives.begun_of(one.birth))
    assert lives.before(*at) == (before[-1] if before else None)
    assert lives.after(*at) == (after[0] if after else None)


# ---- in words ----


def said(replayed: History, after: int, address: int) -> str:
    return " ".join(words(panel(moment_of(replayed, after), Lives(replayed), address, alone=False)).split())


def test_panel_tells_the_life(known: Any) -> None:
    replayed, (first, second, third, fourth, fifth) = known
    text = said(replayed, 4, second.address)
    assert "Block of 6.00 MiB" in text
    assert "asked for 6.00 MiB (6,291,156 bytes), rounded up by 300 bytes" in text
    assert "split from a free block of 16.00 MiB, 10.00 MiB stayed free" in text
    assert "Free complete with event 5, 0.000 s; it lived 3 events" in text
    assert "No free neighbour to merge with" in text
    assert "After: 8.50 MiB, event 8" in text
    text = said(replayed, 4, first.address)
    assert "from memory that was reserved for it (event 0)" in text
    assert "Merged with 6.00 MiB after it into a free block of 10.00 MiB" in text
    assert "After: 8.50 MiB, event 8" in text
    text = said(replayed, 9, fourth.address)
    assert "Before: 6.00 MiB, event 2" in text
    assert "requested with event 11: another stream was waited for" in text
    text = said(replayed, 9, third.address)
    assert "Merged with 1.50 MiB before it and 8.00 MiB after it into a free block of 11.50 MiB" in text
    assert "Nothing else lay here" in text
    assert "Block, free pending, of 8.50 MiB" in said(replayed, 12, fourth.address)
    text = said(replayed, 14, fifth.address)
    assert "taken whole" in text
    assert "Live when the trace ends" in text
    assert "not reserved at this moment" in said(replayed, 0, fifth.address)
    assert "The whole segment is free" in said(replayed, 15, first.address)


def test_blocks_older_than_the_trace() -> None:
    replayed = history(PROGRAM, keep=11)
    lives = Lives(replayed)
    assert events(replayed)[0] == "free_requested"
    older = [lives.life(row) for row in range(len(lives.birth)) if lives.begun[row] < 0]
    assert sorted(one.block_bytes // MIB for one in older) == [2, 4, 6]
    for one in older:
        assert one.allocated is one.split_from_bytes is one.segment_event is one.lived_us is None
        assert one.stack == NO_STACK
        assert one.free_completed is not None
        text = said(replayed, 0, one.address)
        assert "Allocated before the trace began" in text
        assert "older than the trace" in text


def test_no_history_and_what_does_not_fit_the_recording(tmp_path: Path) -> None:
    moment = of(snapshot(segment(BASE, live(12 * MIB), hole(8 * MIB))))
    lives = Lives(moment.history)
    assert lives.life(0).free_completed is None
    text = words(panel(moment, lives, BASE, alone=False))
    assert "No history was recorded: its life is not known." in text
    assert "go there" not in text
    empty = of(snapshot())
    assert row_at(empty, BASE) is None
    assert "not reserved" in words(panel(empty, Lives(empty.history), BASE, alone=False))
    path = tmp_path / "one.pickle"
    path.write_bytes(pickle.dumps(recorded(PROGRAM, Settings())))
    library = Library()
    (item,) = library.add(str(path))
    found = library.loaded(item.key, 0)
    assert len(Lives(found.history).birth) == 5
