"""Two devices compared: how far they are the same program, figures, places, the verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from oomdoctor.allocator.loading import load_device
from oomdoctor.allocator.replay import recorded_outcome
from oomdoctor.allocator.settings import Settings
from oomdoctor.comparison.compare import Pair
from oomdoctor.comparison.figures import Figure, until
from oomdoctor.comparison.pairing import paired
from oomdoctor.comparison.points import WHENS
from oomdoctor.comparison.verdict import same_requests_text
from oomdoctor.diagnosis.inspection import inspect_device
from oomdoctor.reporters.compare_text import settings_text
from oomdoctor.run.sources import SnapshotSource, snapshot_sources
from oomdoctor.snapshot import read_snapshot, snapshot_from_plain
from oomdoctor.snapshot.model import ALLOC
from oomdoctor.units import MIB
from tests.allocator.recorded_by_heap import recorded
from tests.comparison.building import PROGRAM, device, died, pair, program, without_history
from tests.snapshot.building import USER, event, frame, hole, live, segment, snapshot


def named(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {one.name: one for one in figures}


def test_the_same_recording_shows_no_difference() -> None:
    found = pair(program(), program())
    assert found.verdict.id == "no-difference"
    assert found.verdict.summary == "No difference."
    assert not any(one.difference for one in (*found.figures, *found.common))
    for when in WHENS:
        by_place = found.by_place(found.point(when))
        assert not any(one.difference for one in by_place.held)


def test_a_setting_that_reserves_less_says_so() -> None:
    found = pair(program(), program(expandable_segments=True))
    figure = named(found.figures)["peak_reserved_bytes"]
    assert figure.difference is not None
    assert figure.difference < 0
    assert (found.verdict.id, found.verdict.basis) == ("less", "derived")
    assert found.verdict.summary == "B reserves 10.00 MiB less at the peak, for the same requests."
    other_way = pair(program(expandable_segments=True), program())
    assert other_way.verdict.summary == "B reserves 10.00 MiB more at the peak, for the same requests."


def test_figures_are_those_of_replay_and_their_difference() -> None:
    found = pair(program(), program(expandable_segments=True))
    for one in found.figures:
        if one.name == "first_oom_alloc_index":
            continue
        assert one.a == getattr(recorded_outcome(found.a.history), one.name)
        assert one.b == getattr(recorded_outcome(found.b.history), one.name)
        assert one.difference == one.b - one.a


def test_figures_until_the_end_are_those_of_the_whole() -> None:
    """Two ways to the same numbers: the heap's own peaks, and those of the totals after each event."""
    found = pair(recorded([*PROGRAM, ("empty",), ("alloc", 3 * MIB, 0)], Settings()), program())
    for one in (found.a, found.b):
        whole = named(Pair(one, one).figures)
        for name, value in until(one.history, len(one.history.recording)).items():
            assert value == whole[name].a, name


def test_one_that_died_is_told_beside_one_that_survived() -> None:
    found = pair(died(7, 40 * MIB), program())
    assert found.verdict.id == "a-dies"
    assert found.verdict.summary == "B survives where A died at allocation 5."
    assert named(found.figures)["first_oom_alloc_index"].a == 5
    assert found.positions is not None
    assert (
        same_requests_text(found.positions.alignment)
        == "Same requests for the first 5 of 6 allocations; A ends there."
    )
    assert pair(program(), died(7, 40 * MIB)).verdict.summary == "B dies at allocation 5, where A survives."


def test_one_whose_recording_ends_before_shows_nothing_of_it() -> None:
    shorter = recorded(PROGRAM[:7], Settings())
    assert pair(died(7, 40 * MIB), shorter).verdict.id == "too-short"
    assert pair(shorter, died(7, 40 * MIB)).verdict.id == "too-short"


def test_both_that_died() -> None:
    assert (
        pair(died(7, 40 * MIB), died(7, 41 * MIB)).verdict.summary
        == "Both run out of memory at allocation 5."
    )
    other = pair(died(7, 40 * MIB), died(8, 40 * MIB))
    assert other.verdict.summary == "Both run out of memory: A at allocation 5, B at allocation 6."


def test_the_figures_of_a_longer_run_are_compared_as_far_as_both_go() -> None:
    found = pair(recorded(PROGRAM[:5], Settings()), program())
    whole, common = named(found.figures)["peak_reserved_bytes"], named(found.common)["peak_reserved_bytes"]
    assert whole.difference != 0
    assert common.difference == 0
    assert found.verdict.id == "no-difference"
    assert "as far as the requests go together" in found.verdict.summary


def test_another_program_is_not_taken_for_an_after() -> None:
    other = recorded([("alloc", size * MIB, 0) for size in (3, 4, 6, 50)], Settings())
    found = pair(program(), other)
    assert found.verdict.id == "other-program"
    assert "no before and after" in found.verdict.summary
    assert "B" not in pair(program(), other).verdict.summary.split(":")[0]
    dead = pair(died(7, 40 * MIB), other)
    assert "A runs out of memory at allocation 5, B does not" in dead.verdict.summary


def test_without_history_states_are_compared() -> None:
    found = pair(without_history(program()), program(expandable_segments=True))
    assert found.positions is None
    assert found.verdict.id == "states-only"
    assert "A has no history" in found.verdict.summary
    assert "B has 10.00 MiB less reserved" in found.verdict.summary
    assert named(found.figures)["peak_reserved_bytes"].a is None
    assert named(found.figures)["peak_reserved_bytes"].difference is None
    assert named(found.figures)["final_reserved_bytes"].difference == -10 * MIB
    assert found.point("auto").when == "end"
    assert found.by_place(found.point("oom")).held[0].a_bytes == 85 * MIB
    both = pair(without_history(program()), without_history(program()))
    assert "A and B have no history" in both.verdict.summary


def held_by(*blocks: Any) -> Any:
    return snapshot(segment(1 << 40, *blocks))


def test_places_new_gone_and_moved() -> None:
    mine, gone, new = frame("kv", "/a/model.py", 10), frame("old", "/a/x.py"), frame("fresh", "/a/y.py")
    moved = frame("kv", "/elsewhere/a/model.py", 14)
    a = held_by(live(4 * MIB, stack=[mine]), live(2 * MIB, stack=[gone]), live(MIB, stack=[USER]))
    b = held_by(live(9 * MIB, stack=[moved]), live(3 * MIB, stack=[new]), live(MIB, stack=[USER]), hole(MIB))
    found = pair(a, b)
    held = found.by_place(found.point("end")).held
    told = [(one.place.frames[0].name, one.change, one.difference, one.is_moved) for one in held]
    assert told == [
        ("kv", "more", 5 * MIB, True),
        ("fresh", "new", 3 * MIB, False),
        ("old", "gone", -2 * MIB, False),
        ("main", "same", 0, False),
    ]
    assert sum(one.a_bytes for one in held) == 7 * MIB
    assert sum(one.b_bytes for one in held) == 13 * MIB


def test_an_exact_line_is_not_given_to_a_moved_one() -> None:
    at = [frame("kv", "/a/model.py", line) for line in (10, 20)]
    a = held_by(live(4 * MIB, stack=[at[0]]), live(2 * MIB, stack=[at[1]]))
    b = held_by(live(5 * MIB, stack=[at[1]]))
    found = pair(a, b)
    held = found.by_place(found.point("end")).held
    assert [(one.place.frames[0].line, one.change) for one in held] == [(10, "gone"), (20, "more")]


# ---- positions ----


def test_states_after_the_same_request_belong_together() -> None:
    found = pair(program(), program(expandable_segments=True)).positions
    assert found is not None
    for a, b in zip(found.allocs_a.tolist(), found.allocs_b.tolist()):
        assert found.b_of(a + 1) == b + 1
        assert found.a_of(b + 1) == a + 1
    assert found.b_of(0) == 0
    assert found.b_of(10**9) == found.events_b
    assert found.axis_a.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert [found.event_b(found.place_a(event)) for event in (0, found.events_a)] == [0, found.events_b]


def test_what_only_one_has_takes_up_room_of_its_own() -> None:
    acts = [("alloc", size * MIB, 0) for size in range(2, 30)]
    extra = [("alloc", 50 * MIB, 0), ("alloc", 51 * MIB, 0)]
    found = pair(recorded(acts, Settings()), recorded([*acts[:10], *extra, *acts[10:]], Settings())).positions
    assert found is not None
    assert found.axis_b.tolist() == list(range(31))
    assert found.axis_a[:10].tolist() == list(range(10))
    assert found.axis_a[10:].tolist() == list(range(12, 31))
    assert found.place_b(int(found.allocs_b[10]) + 1) == 10
    # A is between two allocations meanwhile.
    assert int(found.allocs_a[9]) + 1 <= found.event_a(10.5) <= int(found.allocs_a[10])


def test_places_ascend_with_events_and_lead_back() -> None:
    found = pair(died(7, 40 * MIB), program(expandable_segments=True)).positions
    assert found is not None
    for places, event_of, events in (
        (found.places_a, found.event_a, found.events_a),
        (found.places_b, found.event_b, found.events_b),
    ):
        assert (np.diff(places) > 0).all()
        assert [event_of(place) for place in places] == list(range(events + 1))
    # A ended where its sixth allocation would have been.
    assert found.places_a[-1] == 5


# ---- which with which ----


def side(rank: Any, number: int) -> Any:
    plain = {**program(), "segments": []}
    source = SnapshotSource("x", rank=rank)
    made = device({**plain, "device_traces": [[event("alloc", 512, addr=1)]]}, source)
    object.__setattr__(made, "device", number)
    return made


def test_devices_are_matched_by_rank_and_number_then_by_order() -> None:
    a, b = [side(0, 0), side(1, 0)], [side(1, 0), side(0, 0)]
    assert paired(a, b) == ([(a[0], b[1]), (a[1], b[0])], [], [])
    a, b = [side(0, 0)], [side(1, 0)]
    assert paired(a, b) == ([(a[0], b[0])], [], [])
    a, b = [side(None, 0), side(None, 1)], [side(None, 1)]
    assert paired(a, b) == ([(a[1], b[0])], [a[0]], [])
    a, b = [side(None, 0)], [side(None, 1), side(None, 2)]
    assert paired(a, b) == ([(a[0], b[0])], [], [b[1]])


# ---- words ----


def test_settings_that_nobody_wrote_are_told() -> None:
    assert settings_text(Settings()) == "the defaults"
    assert settings_text(Settings(expandable_segments=True)) == "expandable_segments=True"
    assert settings_text(Settings(text="max_split_size_mb:64")) == "max_split_size_mb:64"


def test_notes_tell_of_other_devices_and_late_starts() -> None:
    sources = [
        SnapshotSource("x", document={"devices": [{"device": 0, "total_bytes": size * MIB}]})
        for size in (100, 200)
    ]
    late = device(recorded(PROGRAM, Settings(), keep=8), sources[0])
    other = device(program(), sources[1])
    notes = " ".join(Pair(late, other).notes)
    assert "the devices differ: 100.00 MiB in all for A, 200.00 MiB for B" in notes
    assert "the history of A began late" in notes


# ---- a real recording ----


@pytest.fixture(scope="module")
def two_gpus() -> Pair:
    (source,), _ = snapshot_sources("traces/llama-4-layers-two-gpus")
    snapshot_read = read_snapshot(source.path)
    return Pair(load_device(snapshot_read, source, 0), load_device(snapshot_read, source, 1))


def test_real_states_sum_to_what_inspect_says(two_gpus: Pair) -> None:
    point = two_gpus.point("auto")
    assert point.when == "oom"
    held = two_gpus.by_place(point).held
    for one, event_, mine in (
        (two_gpus.a, point.a, [h.a_bytes for h in held]),
        (two_gpus.b, point.b, [h.b_bytes for h in held]),
    ):
        measures = inspect_device(one, event_).moment.fragmentation.device
        assert sum(mine) == measures.allocated_bytes + measures.pending_bytes


def test_the_peak_is_where_most_is_allocated(two_gpus: Pair) -> None:
    point = two_gpus.point("peak")
    for one, state in ((two_gpus.a, point.a), (two_gpus.b, point.b)):
        assert (
            one.history.effects["allocated_bytes"][state - 1] == one.history.effects["allocated_bytes"].max()
        )


def test_a_shuffled_snapshot_is_another_program() -> None:
    plain = recorded([("alloc", (1 + i) * 3 * MIB, 0) for i in range(40)], Settings())
    back = recorded([("alloc", (40 - i) * 3 * MIB, 0) for i in range(40)], Settings())
    found = Pair(device(plain), device(back))
    assert found.positions is not None
    assert found.positions.alignment.matched <= 1
    assert found.verdict.id == "other-program"
    assert snapshot_from_plain(plain).devices() == [0]
    assert np.isfinite(found.positions.axis_a).all()


def test_the_survivor_is_looked_at_right_before_the_request_that_failed() -> None:
    dead = pair(died(7, 40 * MIB), program())
    assert dead.positions is not None
    trace = dead.b.history.recording.events.action
    point = dead.point("oom")
    assert point.a == len(dead.a.history.recording) - 1
    # The segment for it has come; the block is not handed out yet.
    assert point.b == int(dead.positions.allocs_b[5])
    assert trace[point.b] == ALLOC
    both = pair(died(7, 40 * MIB), died(7, 41 * MIB)).point("oom")
    assert (both.a, both.b) == (12, 12)
    turned = pair(program(), died(7, 40 * MIB)).point("oom")
    assert (turned.a, turned.b) == (point.b, point.a)
