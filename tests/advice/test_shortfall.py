"""What no setting gives: what lived, what grew step by step, how the peak went with a size; from recordings alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import pytest

from oomdoctor.advice.shortfall import Shortfall, shortfall
from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.replay import replay
from oomdoctor.allocator.settings import Settings
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import snapshot_from_plain
from oomdoctor.units import MIB
from tests.allocator.recorded_by_heap import Act, recorded
from tests.snapshot.building import frame

from .test_advise import ask, flowing, save, text

TRACE = Path(__file__).parent.parent.parent / "traces" / "llama-2-layers-to-the-end"


class Program:
    """Allocations by name of the place, and frees by number."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.names: list[str] = []
        self._live: list[int] = []

    def alloc(self, name: str, size: int) -> int:
        self.acts.append(("alloc", size, 0))
        self.names.append(name)
        self._live.append(len(self.names) - 1)
        return self._live[-1]

    def free(self, number: int) -> None:
        self.acts.append(("free", self._live.index(number)))
        self._live.remove(number)

    def plain(self, keep: Optional[int] = None) -> Any:
        plain = recorded(self.acts, Settings(), keep=keep)
        (trace,) = plain["device_traces"]
        allocs = [entry for entry in trace if entry["action"] == "alloc"]
        for entry, name in zip(allocs, self.names[len(self.names) - len(allocs) :]):
            entry["frames"] = [frame(name, "/home/me/work/serve.py", 1 + len(name))]
        return plain

    def device(self, keep: Optional[int] = None) -> DeviceHistory:
        return load_device(snapshot_from_plain(self.plain(keep)), SnapshotSource("nowhere"), 0)

    def lack(self, capacity: int, keep: Optional[int] = None) -> Shortfall:
        history = self.device(keep).history
        outcome = replay(history, history.settings, Conditions(capacity=capacity)).outcome
        found = shortfall(history, capacity, outcome.first_oom)
        assert found is not None
        return found


def growing(steps: int = 12, buffers: int = 3, step: int = 2 * MIB, first: int = 20 * MIB) -> Program:
    """Weights, and buffers that are copied into larger ones step by step."""
    program = Program()
    program.alloc("load", 60 * MIB)
    cache = [program.alloc("update", first) for _ in range(buffers)]
    for number in range(1, steps + 1):
        scratch = program.alloc("forward", 20 * MIB)
        for which, old in enumerate(cache):
            cache[which] = program.alloc("update", first + number * step)
            program.free(old)
        program.free(scratch)
    return program


def test_what_grew_step_by_step_is_told_from_what_stayed() -> None:
    # Weights, scratch, buffers and a copy: 80 + 3 × 38 + 40 fit, one step further they do not.
    lack = growing().lack(234 * MIB)
    (grown,) = lack.growths
    assert [one.name for one in grown.place.frames] == ["update"]
    assert (grown.buffers, grown.step_bytes) == (3, 6 * MIB)
    assert grown.steps in (9, 10)
    assert lack.by_kind == {"kept": 60 * MIB, "grows": grown.bytes, "recurs": 20 * MIB, "older": 0}
    assert [one.kind for one in lack.holders] == ["grows", "kept", "recurs"]
    assert lack.wanted_by_growth
    assert grown.copy_bytes == 38 * MIB
    assert lack.live_bytes + lack.requested_bytes - 234 * MIB == lack.missing_bytes > 0


def test_so_many_steps_fewer_would_have_fitted() -> None:
    lack = growing().lack(200 * MIB)
    assert lack.missing_bytes > 0
    assert lack.steps_fewer is not None
    held = lack.live_bytes + lack.requested_bytes
    (grown,) = lack.growths
    assert (
        held - lack.steps_fewer * grown.step_bytes
        <= 200 * MIB
        < held - (lack.steps_fewer - 1) * grown.step_bytes
    )
    # More than was recorded nobody can take back.
    assert growing(steps=5, step=512 * 1024).lack(100 * MIB).steps_fewer is None


@pytest.mark.parametrize(
    "program",
    [growing(steps=3), growing(step=-MIB), growing(first=MIB // 2, step=MIB, steps=4)],
    ids=["few-steps", "shrinking", "from-nothing"],
)
def test_what_may_be_chance_is_no_growth(program: Program) -> None:
    program.alloc("load", 500 * MIB)
    lack = program.lack(400 * MIB)
    assert lack.growths == ()
    assert lack.by_kind["grows"] == 0


def test_buffers_that_are_freed_before_the_next_do_not_grow_by_a_copy() -> None:
    program = Program()
    for number in range(10):
        program.free(program.alloc("forward", (20 + 2 * number) * MIB))
    program.alloc("forward", 60 * MIB)
    program.alloc("load", 500 * MIB)
    lack = program.lack(400 * MIB)
    assert lack.growths == ()
    assert lack.by_kind["recurs"] == 60 * MIB


def test_growth_that_hardly_matters_is_not_told() -> None:
    program = growing(step=512, first=64 * 1024)
    program.alloc("load", 500 * MIB)
    assert program.lack(400 * MIB).growths == ()


def test_of_blocks_older_than_the_trace_nothing_else_is_known() -> None:
    lack = growing().lack(234 * MIB, keep=40)
    assert lack.by_kind["older"] >= 60 * MIB
    (older,) = [one for one in lack.holders if one.kind == "older" and one.place.is_known is False]
    assert (older.oldest_event, older.age_us) == (-1, -1)


# ---- how the peak went with a size ----

BASE, TIMES = 64 * MIB, 20


def serving(sizes: list[int], bump: int = 0) -> Program:
    """Requests, each with a prompt and activations of 20 times its size beside weights."""
    program = Program()
    program.alloc("load", BASE)
    for number, size in enumerate(sizes):
        prompt = program.alloc("encode", size)
        one = program.alloc("forward", TIMES * size // 2 + bump * (number % 2))
        two = program.alloc("attend", TIMES * size // 2)
        for block in (one, two, prompt):
            program.free(block)
        program.free(program.alloc("encode", 8))
    return program


def test_the_peak_is_read_off_earlier_requests() -> None:
    lack = serving([4 * MIB, 8 * MIB, 6 * MIB, 10 * MIB, 5 * MIB, 20 * MIB]).lack(BASE + 300 * MIB)
    trend = lack.trend
    assert trend is not None
    assert (trend.size, trend.largest, trend.sizes) == (
        {"encode": 20, "forward": 200, "attend": 200}[trend.place.frames[0].name] * MIB,
        trend.size // 2,
        5,
    )
    # In truth 21 × the prompt beside the base.
    assert trend.base_bytes == pytest.approx(BASE, rel=0.01)
    assert trend.smaller_by == pytest.approx(1 - 300 / 21 / 20, rel=0.01)
    assert trend.missed < 0.001


def test_what_would_have_fitted_by_the_line_does_fit() -> None:
    sizes = [4 * MIB, 8 * MIB, 6 * MIB, 10 * MIB, 5 * MIB]
    trend = serving([*sizes, 20 * MIB]).lack(BASE + 300 * MIB).trend
    assert trend is not None
    share = trend.fits / trend.size
    for factor, survives in ((0.98, True), (1.02, False)):
        history = serving([*sizes, int(20 * MIB * share * factor) >> 18 << 18]).device().history
        peak = replay(history, history.settings, Conditions()).outcome.peak_active_bytes
        assert (peak <= BASE + 300 * MIB) == survives


@pytest.mark.parametrize(
    "program",
    [
        serving([4 * MIB, 8 * MIB, 6 * MIB, 20 * MIB]),
        serving([4 * MIB, 8 * MIB, 6 * MIB, 10 * MIB, 5 * MIB, 20 * MIB], bump=70 * MIB),
        serving([10 * MIB] * 6 + [20 * MIB]),
    ],
    ids=["few-sizes", "no-line", "one-size"],
)
def test_where_no_line_goes_through_the_peaks_nothing_is_said(program: Program) -> None:
    assert program.lack(BASE + 300 * MIB).trend is None


# ---- as it is told ----


def test_json_has_all_of_it(tmp_path: Path) -> None:
    path = save(tmp_path / "one.pickle", growing().plain())
    (device,) = ask(path, "--capacity", "200MiB")["devices"]
    said = device["shortfall"]
    assert said["basis"] == "replayed"
    assert said["missing_bytes"] == said["live_bytes"] + said["requested_bytes"] - 200 * MIB
    assert said["growth"]["basis"] == said["varying"]["basis"] == "derived"
    (grown,) = said["growth"]["buffers"]
    assert grown["frames"][0]["name"] == "update"
    assert grown["step_bytes"] == 6 * MIB
    assert said["growth"]["steps_fewer"] >= 1
    assert 0 < said["varying"]["smaller_by"] < 1
    assert {one["kind"] for one in said["holders"]} <= {"kept", "grows", "recurs", "older"}
    (device,) = ask(path, "--capacity", "1GiB")["devices"]
    assert device["shortfall"] is None


def test_a_person_is_told_what_grew_and_how_much_less_would_do(tmp_path: Path) -> None:
    said = text(save(tmp_path / "one.pickle", growing().plain()), "--capacity", "200MiB")
    # The line to paste is one, however long.
    assert max(len(line) for line in said.splitlines() if "export" not in line) <= 80
    flows = flowing(said)
    assert "grew by 6.00 MiB a step" in flows
    assert "3 buffers of update work/serve.py:7" in flows
    assert "steps fewer would have made the room" in flows or "1 step fewer would" in flows
    assert "the new buffer lies beside the old one" in flows
    assert "Such a new buffer is what failed here." in flows
    assert "less of that it fits (derived" in flows


def test_a_large_buffer_that_could_go_is_named_with_its_age(tmp_path: Path) -> None:
    program = Program()
    program.alloc("warm_up", 80 * MIB)
    for _ in range(4):
        program.alloc("load", 30 * MIB)
    said = flowing(text(save(tmp_path / "one.pickle", program.plain()), "--capacity", "190MiB"))
    assert "One buffer gone would be enough" in said
    assert "warm_up work/serve.py:8, 80.00 MiB, allocated" in said
    assert "load work/serve.py:5, " not in said


def test_without_stacks_nothing_is_made_up(tmp_path: Path) -> None:
    said = text(save(tmp_path / "one.pickle", recorded(growing().acts, Settings())), "--capacity", "200MiB")
    assert "(no stack recorded)" in said
    for word in ("grew", "kept", "gone", "The peak in use"):
        assert word not in said


def test_of_a_recorded_model_the_batch_that_fits_is_read_off() -> None:
    """Activations of requests that went well; the one that failed had a prompt too long."""
    said = text(str(TRACE), "--capacity", "1700MiB")
    assert max(map(len, said.splitlines())) <= 80
    flows = flowing(said)
    assert "The peak in use grew with the buffer of forward transformers/activations.py:103" in flows
    assert "up to 72.06 MiB fit, 24.7% less" in flows
