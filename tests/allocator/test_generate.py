"""Replays of real inference beside the real allocator: generate() in several ways, on an emulated device.

``benchmarks/replay_exactness.py`` compares more of the same.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest

from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.history import History
from oomdoctor.allocator.replay import Outcome, recorded_outcome, replay
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import GIB, MIB

from .inference.compare import as_program, differences, final_state_differs, history_at, replayed
from .inference.run import SERVE, TOTAL_MEMORY, Job, Ran, run_jobs, workloads
from .reference.run import run_programs, torch_version
from .reference.settings import Setting, settings_for

pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("generate")]

# They stay until they are named again.
STICKY_SETTINGS = ("large_segment_size_mb", "max_non_split_rounding_mb")
NAMES = workloads()
# Those of one stream and of no pool of their own, and the one where frees wait for other streams.
DRIVEN = ("growing_cache", "two_streams", "emptied_between")


@dataclass(frozen=True)
class Recorded:
    setting: Setting
    history: History
    ran: Ran


@dataclass(frozen=True)
class Inference:
    """Of each workload its recordings, the first under the default settings, and runs to be replayed."""

    recordings: dict[str, list[Recorded]]
    runs: dict[str, list[tuple[Job, Ran]]]


def version() -> tuple[int, int]:
    return torch_version(sys.executable)


def settings_of(number: int, count: int) -> list[Setting]:
    """Some for each workload, all over all workloads."""
    others = settings_for(version())[1:]
    step = len(others) // count
    return [others[(number + part * step) % len(others)] for part in range(count)]


@pytest.fixture(scope="module")
def inference(tmp_path_factory: pytest.TempPathFactory) -> Inference:
    try:
        find_torch(sys.executable)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")
    folder = tmp_path_factory.mktemp("generate")
    jobs = [Job(name, snapshot=str(folder / f"{name}.pickle")) for name in NAMES]
    base = dict(zip(NAMES, run_jobs(sys.executable, jobs)))
    meaning: list[tuple[Setting, Job]] = []
    for number, name in enumerate(NAMES):
        assert base[name].error is None, base[name].error
        figures = base[name].figures
        active, reserved = figures["peak_active_bytes"], figures["peak_reserved_bytes"]
        recorded, tight = settings_of(number, 2)
        for setting, capacity, path in (
            (recorded, None, str(folder / f"{name}-other.pickle")),
            (tight, active + (reserved - active) // (2 + 8 * (number % 2)), None),
            (Setting(""), (active + reserved) // 2, None),
        ):
            capacity = capacity and capacity >> 21 << 21
            fraction = setting.fraction_of_peak and setting.fraction_of_peak * reserved / TOTAL_MEMORY
            meaning.append((setting, Job(name, 0, setting.text, capacity, fraction, path)))
    done = run_jobs(sys.executable, [job for _, job in meaning])
    inference = Inference({}, {})
    for name, first in zip(NAMES, jobs):
        inference.recordings[name] = [
            Recorded(Setting(""), history_at(str(first.snapshot), "", version()), base[name])
        ]
        inference.runs[name] = [(first, base[name])]
    for (setting, job), ran in zip(meaning, done):
        assert ran.error is None, ran.error
        inference.runs[job.workload].append((job, ran))
        if job.snapshot and ran.first_oom is None:
            history = history_at(job.snapshot, setting.text, version())
            inference.recordings[job.workload].append(Recorded(setting, history, ran))
    return inference


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_is_followed_exactly(inference: Inference, name: str) -> None:
    """Every address, the blocks at the end, the figures."""
    for recorded in inference.recordings[name]:
        check = recorded.history.check
        assert check.matching == check.compared > 1000, recorded.setting
        assert check.conflicts == 0, recorded.setting
        assert final_state_differs(recorded.history) == "", recorded.setting
        outcome = recorded_outcome(recorded.history)
        assert differences(outcome, recorded.ran.figures, None) == {}, recorded.setting


@pytest.mark.parametrize("name", NAMES)
def test_a_replay_tells_what_the_allocator_does(inference: Inference, name: str) -> None:
    """From each recording to each run, there and back."""
    for recorded in inference.recordings[name]:
        for job, ran in inference.runs[name]:
            outcome = replayed(
                recorded.history,
                job.settings,
                version(),
                capacity=job.capacity,
                memory_fraction=job.memory_fraction,
            )
            assert differences(outcome, ran.figures, ran.first_oom) == {}, (recorded.setting, job)


def test_the_runs_are_of_all_kinds(inference: Inference) -> None:
    """Or little would have been compared above."""
    runs = [ran for name in NAMES for _, ran in inference.runs[name]]
    assert sum(ran.first_oom is not None for ran in runs) >= 5
    assert sum(ran.first_oom is None and ran.figures["num_alloc_retries"] > 0 for ran in runs) >= 2
    assert sum(ran.first_oom is None and ran.figures["num_alloc_retries"] == 0 for ran in runs) >= 5
    assert {len(inference.recordings[name][0].history.recording.pools) for name in NAMES} >= {0, 1}
    assert {len(inference.recordings[name][0].history.recording.streams) for name in NAMES} >= {1, 4}


def test_recorded_requests_drive_the_allocator_as_the_program_does(inference: Inference) -> None:
    programs, expected = [], []
    for name in DRIVEN:
        program = as_program(inference.recordings[name][0].history, name)
        for job, ran in inference.runs[name]:
            if job.memory_fraction is not None or any(word in job.settings for word in STICKY_SETTINGS):
                continue  # would take a process of its own
            under = program.under(job.settings, capacity=job.capacity, memory_fraction=job.memory_fraction)
            programs.append(under)
            expected.append((job, ran))
    for (job, ran), driven in zip(expected, run_programs(sys.executable, programs)):
        assert driven.error is None, driven.error
        first = driven.first_oom["event_alloc_index"] if driven.first_oom else None
        assert first == ran.first_oom, job
        # The driver goes on freeing nothing, the program's figures are those of its error: the same moment.
        shared = driven.figures.keys() & ran.figures.keys()
        assert {key: driven.figures[key] for key in shared} == {key: ran.figures[key] for key in shared}, job


def rehearse(folder: Path, memory: int, context: int) -> History:
    """The growing cache recorded as a person would, on a device of ``memory``."""
    script = folder / "program.py"
    script.write_text(
        f"import gc, sys; gc.disable(); sys.path.insert(0, {str(SERVE.parent)!r})\n"
        "from workloads import WORKLOADS, Server\n"
        "server = Server(0); WORKLOADS['growing_cache'](server)\n"
    )
    run = folder / f"run-{memory}"
    subprocess.run(
        [
            *(sys.executable, "-m", "oomdoctor", "rehearse", "--memory", str(memory)),
            *("--context", str(context), "-o", str(run), "--", sys.executable, str(script)),
        ],
        capture_output=True,
        timeout=200,
    )
    dumps = sorted(run.glob("processes/*/*.pickle"))
    assert dumps
    return history_at(dumps[0], "", version())


def test_capacity_is_what_the_context_leaves(inference: Inference, tmp_path: Path) -> None:
    """A recording of a large device foretells where the program ends on a small one."""
    context = 300 * MIB
    figures = inference.runs["growing_cache"][0][1].figures
    small = context + (figures["peak_active_bytes"] * 97 // 100 >> 21 << 21)
    large = rehearse(tmp_path, 8 * GIB, context)
    real: Optional[Outcome] = recorded_outcome(rehearse(tmp_path, small, context))
    assert real is not None
    assert real.first_oom is not None
    conditions = Conditions(capacity=small - context, total_memory=small)
    ours = replay(large, parse_settings("", version()).settings, conditions).outcome
    assert ours.first_oom is not None
    assert ours.first_oom.alloc_index == real.first_oom.alloc_index
    assert ours.peak_reserved_bytes == real.peak_reserved_bytes
    assert ours.peak_allocated_bytes == real.peak_allocated_bytes
    assert ours.peak_inactive_split_bytes == real.peak_inactive_split_bytes
