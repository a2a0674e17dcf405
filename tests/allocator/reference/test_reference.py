"""The reference itself: a program has one outcome, whatever ran before it in the same process."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import MIB
from tests.emulator.conftest import PYTHONS

from .program import Program, Writer
from .programs import NEEDS, SHAPES, make_program
from .run import POLICIES, TOTAL_MEMORY, Outcome, Policy, run_programs, torch_version
from .settings import settings_for
from .strategies import programs

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("allocator-reference")]


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda p: p.rsplit("/bin/")[0].rsplit("/")[-1])
def python(request: pytest.FixtureRequest) -> str:
    try:
        return find_torch(request.param).python
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")


def told(outcome: Outcome) -> Outcome:
    """What must be the same in every run."""
    return replace(outcome, seconds=0.0, leftover=None, snapshot=None)


def shapes(python: str) -> list[str]:
    return [shape for shape in SHAPES if NEEDS.get(shape, (0, 0)) <= torch_version(python)]


def under_all_conditions(python: str) -> list[tuple[Program, Policy]]:
    """Each shape under some settings, at capacities that are tight for many."""
    rng = random.Random(3)
    jobs = []
    # What a process cannot take back is left to whoever has the time for many processes: these settings, and a
    # limit, which all have here.
    words = ("large_segment_size_mb", "max_non_split_rounding_mb")
    choices = [
        one for one in settings_for(torch_version(python)) if not any(word in one.text for word in words)
    ]
    for shape in shapes(python):
        program = make_program(shape, 1, 300)
        need = program.peak_requested_bytes()
        for setting in rng.sample(choices, 4):
            tried = setting.apply(program, int(1.3 * need), TOTAL_MEMORY)
            capacity = rng.choice((None, 2 * need, int(1.1 * need)))
            tried = replace(tried, capacity=capacity, memory_fraction=tried.memory_fraction or 1.0)
            jobs.append((tried, rng.choice(POLICIES)))
    return jobs


def test_outcomes_do_not_depend_on_what_ran_before(python: str) -> None:
    jobs = under_all_conditions(python)
    mixed_up = random.Random(5).sample(range(len(jobs)), len(jobs))
    programs_, policies = [job[0] for job in jobs], [job[1] for job in jobs]
    once = run_programs(python, programs_, policies, addresses=True)
    again = run_programs(
        python, [programs_[i] for i in mixed_up], [policies[i] for i in mixed_up], addresses=True
    )
    assert [told(once[i]) for i in mixed_up] == [told(outcome) for outcome in again]
    assert any(outcome.first_oom for outcome in once)
    assert any(outcome.figures["num_alloc_retries"] for outcome in once)
    last = mixed_up[-1]
    (fresh,) = run_programs(python, [programs_[last]], policies[last], addresses=True, fresh_process=True)
    assert told(fresh) == told(once[last])


def test_mapping_that_failed_leaves_nothing_for_the_next(python: str) -> None:
    writer = Writer()
    for size in (300, 100, 200, 60):
        writer.alloc(size * MIB, 0)
    writer.alloc(2 * MIB, 1)
    fits = writer.program().under("expandable_segments:True")
    # The reservation of stream 1 is made, and nothing can be mapped into it.
    fails = fits.under("expandable_segments:True", capacity=660 * MIB)
    policy = Policy("falling")
    outcomes = run_programs(python, [fits, fails, fits], policy, addresses=True)
    assert outcomes[1].first_oom == {
        "alloc_index": 4,
        "event_alloc_index": 4,
        "op_index": 4,
        "requested_bytes": 2 * MIB,
    }
    assert told(outcomes[0]) == told(outcomes[2])


def test_requests_have_their_exact_sizes_and_nothing_comes_between(python: str, tmp_path: Path) -> None:
    program = make_program("everything", 7, 200)
    (outcome,) = run_programs(python, [program], addresses=True, snapshots=tmp_path)
    assert outcome.snapshot is not None
    with outcome.snapshot.open("rb") as file:
        trace = pickle.load(file)["device_traces"][0]
    recorded = [(entry["size"], entry["addr"]) for entry in trace if entry["action"] == "alloc"]
    asked = [op[2] for op in program.ops if op[0] == "alloc"]
    assert recorded == list(zip(asked, outcome.addresses))


def test_going_on_after_running_out(python: str) -> None:
    program = Program(
        (
            ("alloc", "a", 30 * MIB, 0),
            ("alloc", "b", 80 * MIB, 0),
            ("record_stream", "b", 1),
            ("free", "b"),
            ("alloc", "c", 60 * MIB, 0),
        ),
        capacity=100 * MIB,
    )
    stopped, went_on = run_programs(
        python, [program, replace(program, continue_after_oom=True)], addresses=True
    )
    assert stopped.first_oom == went_on.first_oom
    assert stopped.first_oom is not None
    assert stopped.first_oom["op_index"] == 1
    assert stopped.figures["final_allocated_bytes"] == 30 * MIB
    assert went_on.figures["final_allocated_bytes"] == 90 * MIB
    assert went_on.addresses[1] is None


def test_idle_calls_of_empty_cache_go(python: str) -> None:
    writer = Writer()
    writer.empty_cache()
    held = writer.alloc(30 * MIB)
    writer.empty_cache()
    writer.free(held)
    writer.empty_cache()
    writer.synchronize()
    program = writer.program()
    (outcome,) = run_programs(python, [program], timeline=True)
    assert outcome.timeline == (0, 30 * MIB, 30 * MIB, 30 * MIB, 0, 0)
    kinds = [op[0] for op in program.without_idle_empty_cache(outcome.timeline).ops]
    assert kinds == ["alloc", "free", "empty_cache", "synchronize"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs(pools=True, graphs=True))
def test_generated_programs_are_valid(program: Program) -> None:
    live: set[int] = set()
    pool = capture = None
    for kind, *rest in program.ops:
        if kind == "alloc":
            assert capture is None or rest[2] == capture
            live.add(rest[0])
        elif kind == "free":
            live.remove(rest[0])
        elif kind == "record_stream":
            assert rest[0] in live
        elif kind == "pool_begin":
            assert pool is capture is None
            pool = rest[0]
        elif kind == "pool_end":
            assert pool == rest[0]
            pool = None
        elif kind == "graph_begin":
            assert pool is capture is None
            capture = rest[1]
        elif kind == "graph_end":
            assert capture is not None
            capture = None
        else:
            assert capture is None
            assert kind in ("empty_cache", "synchronize", "pool_drop")
    assert pool is capture is None


def test_the_same_seed_makes_the_same_program() -> None:
    for shape in SHAPES:
        assert make_program(shape, 4, 100) == make_program(shape, 4, 100) != make_program(shape, 5, 100)
