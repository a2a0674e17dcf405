"""Stepping: where it stops, the peaks, and the line that says what happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.pages import moment as page
from oomdoctor_dashboard.stepping import KINDS, Stops, what_happened, when

from oomdoctor.allocator.moment import moment_of
from oomdoctor.snapshot.model import OOM
from tests.allocator.test_conservation import history
from tests.allocator.test_fragmentation import of
from tests.snapshot.building import event, hole, live, segment, snapshot

from .test_block_life import PROGRAM

RUN = Path(__file__).parents[2] / "traces" / "llama-4-layers-two-gpus"
BASE, MIB = 1 << 40, 1 << 20


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    library = Library()
    (item,) = library.add(str(RUN))
    return library.loaded(item.key, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_found_one_by_one(loaded: Loaded, kind: str) -> None:
    stops = Stops(loaded.history)
    action = loaded.recording.events.action
    after = [i + 1 for i, what in enumerate(action.tolist()) if not KINDS[kind] or what in KINDS[kind]]
    assert stops.count(kind) == len(after)
    for at in [0, 1, 2, 50, 4000, 7811, loaded.events - 1, loaded.events]:
        on = [stop for stop in after if stop > at]
        back = [stop for stop in after if stop < at]
        if kind == "event":
            back = [0, *back] if at else []
        for steps in (1, 3, 100):
            assert stops.step(kind, at, steps) == (on[min(steps, len(on)) - 1] if on else at)
            assert stops.step(kind, at, -steps) == (back[max(len(back) - steps, 0)] if back else at)


def test_peaks_and_errors(loaded: Loaded) -> None:
    stops = Stops(loaded.history)
    for name in ("allocated", "reserved"):
        series = loaded.history.effects[f"{name}_bytes"]
        after = stops.peaks[name]
        measured = getattr(loaded.moment(after).fragmentation.device, f"{name}_bytes")
        assert measured == int(series.max())
        assert int(series[: after - 1].max(initial=0)) < measured
    (oom,) = np.flatnonzero(loaded.recording.events.action == OOM).tolist()
    assert stops.next_oom(0) == stops.next_oom(oom) == stops.next_oom(loaded.events) == oom + 1
    assert Stops(history(PROGRAM)).next_oom(3) is None
    twice = [
        event(action, MIB, addr=5, time_us=i)
        for i, action in enumerate(["oom", "snapshot", "oom", "snapshot"])
    ]
    stops = Stops(of(snapshot(traces=[twice])).history)
    assert [stops.next_oom(after) for after in range(5)] == [1, 3, 3, 1, 1], "from the first again"


def test_a_peak_before_the_first_event() -> None:
    assert Stops(history(PROGRAM, keep=6)).peaks["reserved"] == 4, "after the second segment came"
    falling = history([("alloc", 9 * MIB, 0), ("free", 0)], keep=2)
    assert Stops(falling).peaks == {"allocated": 0, "reserved": 0}


def test_the_line_says_what_happened(loaded: Loaded) -> None:
    replayed = history(PROGRAM)
    address = int(replayed.recording.events.address[1])

    def line(after: int) -> str:
        return what_happened(moment_of(replayed, after))

    assert line(0) == "before the first event"
    assert line(1) == f"event 0  new segment of 20.00 MiB at {address:#x}"
    assert line(2) == (
        f"event 1  alloc 4.00 MiB at {address:#x}, split from 20.00 MiB, 16.00 MiB left free, for which"
        " 20.00 MiB were reserved"
    )
    assert line(3).startswith("event 2  alloc 6.00 MiB")
    assert line(8).endswith(
        "free completed, 4.00 MiB at " + f"{address:#x}, merged with free neighbours into 10.00 MiB"
    )
    oom = Stops(loaded.history).next_oom(0)
    assert oom is not None
    text = what_happened(loaded.moment(oom))
    assert f"event {oom - 1:,}  out of memory, asked for 32.00 MiB, the device had 16.00 MiB free" in text
    assert "transformers/" in text
    state = of(snapshot(segment(BASE, live(12 * MIB), hole(8 * MIB))))
    assert "no history was recorded" in what_happened(state)
    assert when(state) == ""


def test_time_is_since_the_first_event(loaded: Loaded) -> None:
    times = loaded.recording.events.time_us
    text = when(loaded.moment(4000))
    assert text.startswith(f"{(int(times[3999]) - int(times[0])) / 1e6:,.3f} s")
    assert text.endswith(" UTC")
    assert when(loaded.moment(0)) == ""


def test_every_button_is_one_that_the_script_knows() -> None:
    script = (Path(page.__file__).parents[1] / "assets" / "moment.js").read_text()
    for name in ("first", "back", "previous", "next", "on", "last", "oom", "play"):
        assert f'"{name}"' in script or f"{name}:" in script, name
    assert [name for name, _, _ in page._BUTTONS] == ["first", "back", "previous", "next", "on", "last"]
