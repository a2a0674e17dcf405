"""The recorder in a real torch, on emulated devices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from oomdoctor.emulator.build import built_stubs
from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import GIB
from tests.recorder.conftest import Process, read_processes

pytestmark = pytest.mark.torch
Rehearse = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", autouse=True)
def a_cuda_build_of_torch() -> None:
    try:
        built_stubs(find_torch(sys.executable))
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")


@pytest.fixture
def rehearse(tmp_path: Path) -> Rehearse:
    """Run source text on two emulated devices of 8 GiB, recorded; ``command`` says how else it is started."""

    def run(source: str, command: tuple[str, ...] = (sys.executable,), **options: Any) -> Any:
        (tmp_path / "program.py").write_text(textwrap.dedent(source))
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "oomdoctor",
                "rehearse",
                "--gpus",
                "2",
                "--memory",
                "8GiB",
                "-o",
                str(tmp_path / "run"),
                "--python",
                sys.executable,
                "--",
                *command,
                str(tmp_path / "program.py"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            **options,
        )

    return run


def check(process: Process) -> None:
    """Each snapshot against the counters that stand beside it."""
    for dump in process.dumps:
        for device in dump["devices"]:
            segments = [s for s in dump["loaded"]["segments"] if s["device"] == device["device"]]
            assert sum(s["total_size"] for s in segments) == device["reserved_bytes"]
            assert sum(s["allocated_size"] for s in segments) == device["allocated_bytes"]
            assert device["stats"]["reserved_bytes.all.current"] == device["reserved_bytes"]


def test_an_oom_as_torch_tells_it(rehearse: Rehearse, tmp_path: Path) -> None:
    done = rehearse("""
        import json, os, torch
        def ask(size):
            return torch.empty(size, dtype=torch.uint8, device="cuda")
        kept = [ask(1 << 30) for _ in range(6)]
        other = torch.empty(1 << 20, dtype=torch.uint8, device="cuda:1")
        del kept[2]
        try:
            ask(3 << 30)
        except torch.cuda.OutOfMemoryError as error:
            text = str(error)
        print(json.dumps([text, torch.cuda.mem_get_info(0), torch.cuda.memory_stats(0)["num_ooms"]]))
        os._exit(0)
    """)
    assert done.returncode == 0, done.stderr
    text, (free, total), ooms = json.loads(done.stdout)
    assert ooms == 1
    (process,) = read_processes(tmp_path / "run")
    assert process.log == ""
    check(process)
    oom, last = process.dumps
    assert (oom["reason"], last["reason"]) == ("oom", "exit")
    device, second = oom["devices"]
    assert oom["oom"]["requested_bytes"] == 3 << 30
    assert oom["oom"]["limit_bytes"] == device["total_bytes"] == total == 8 * GIB
    # The allocator gave its cache back before it failed, so what is free then is free still.
    assert oom["oom"]["free_bytes"] == device["free_bytes"] == free
    assert f"of which {free / GIB:.2f} GiB is free" in text
    assert second["allocated_bytes"] == 1 << 20
    actions = [event["action"] for event in oom["loaded"]["device_traces"][0]]
    # From the very first: the history was on before the first allocation.
    assert actions[:2] == ["segment_alloc", "alloc"]
    assert actions.count("alloc") == 6
    assert "oom" in actions
    allocation = next(e for e in oom["loaded"]["device_traces"][0] if e["action"] == "alloc")
    assert "ask" in [frame["name"] for frame in allocation["frames"]]
    assert not any(frame["filename"].endswith(".cpp") for frame in allocation["frames"])
    assert oom["settings"]["in_effect"]["expandable_segments"] is False
    assert oom["settings"]["backend"] == "native"
    assert device["nvml_index"] == 0
    assert oom["history"]["recording"] is True
    (samples,) = (tmp_path / "run").glob("launchers/*/nvml.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert {line["device"] for line in lines} == {0, 1}
    assert all(line["total_bytes"] == 8 * GIB for line in lines)


def test_workers_by_every_start_method(rehearse: Rehearse, tmp_path: Path) -> None:
    done = rehearse("""
        import multiprocessing, sys, torch
        def work(method):
            assert torch.empty(len(method), device="cuda").is_cuda
        if __name__ == "__main__":
            workers = []
            for method in ("fork", "spawn", "forkserver"):
                context = multiprocessing.get_context(method)
                workers.append(context.Process(target=work, args=(method,)))
                workers[-1].start()
            [worker.join() for worker in workers]
            torch.empty(1, device="cuda")
            late = multiprocessing.get_context("fork").Process(target=work, args=("late",))
            sys.stderr.close()  # torch refuses in there, with a traceback
            late.start()
            late.join()
            print([worker.exitcode for worker in workers], late.exitcode)
    """)
    assert done.stdout == "[0, 0, 0] 1\n", done.stderr
    processes = read_processes(tmp_path / "run")
    assert [p.reasons for p in processes] == [["exit"]] * 4
    for process in processes:
        check(process)
        assert process.log == ""


def test_torchrun_with_two_ranks(rehearse: Rehearse, tmp_path: Path) -> None:
    done = rehearse(
        """
        import os, torch, torch.distributed as dist
        rank = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(rank)
        dist.init_process_group("nccl")
        x = torch.ones(1000, device="cuda")
        dist.all_reduce(x)
        if rank == 1:
            try:
                torch.empty(9 << 30, dtype=torch.uint8, device="cuda")
            except torch.cuda.OutOfMemoryError:
                print("rank 1 is out of memory")
        dist.barrier()
        dist.destroy_process_group()
        """,
        command=(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
    )
    assert (done.returncode, done.stdout) == (0, "rank 1 is out of memory\n"), done.stderr
    found = {p.facts["rank"]: p for p in read_processes(tmp_path / "run")}
    assert set(found) == {0, 1}
    assert found[0].reasons == ["exit"]
    assert found[1].reasons == ["oom", "exit"]
    for rank, process in found.items():
        check(process)
        assert (process.facts["local_rank"], process.facts["world_size"]) == (rank, 2)
        assert [d["device"] for d in process.dumps[-1]["devices"]] == [rank]
    assert "recorded 2 processes, 3 snapshots, 1 out-of-memory error" in done.stderr


def test_sigterm_in_the_middle_of_work(tmp_path: Path) -> None:
    run = tmp_path / "run"
    popen = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "oomdoctor",
            "rehearse",
            "-o",
            str(run),
            "--",
            sys.executable,
            "-c",
            "import torch\nwhile True: x = torch.ones(1000, device='cuda') * 2",
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    until = time.monotonic() + 60
    while not list(run.glob("processes/*/process.json")):
        assert time.monotonic() < until
        assert popen.poll() is None, popen.stderr and popen.stderr.read()
        time.sleep(0.02)
    time.sleep(0.2)
    popen.send_signal(signal.SIGTERM)
    _, stderr = popen.communicate(timeout=60)
    assert popen.returncode == -signal.SIGTERM, stderr
    (process,) = read_processes(run)
    assert process.reasons == ["sigterm"]
    check(process)
    assert process.log == ""


@pytest.mark.parametrize("conf", ["backend:cudaMallocAsync"])
def test_a_backend_without_history_is_told(rehearse: Rehearse, tmp_path: Path, conf: str) -> None:
    done = rehearse(
        "import torch; print(torch.empty(1, device='cuda').shape)",
        env={**os.environ, "PYTORCH_CUDA_ALLOC_CONF": conf},
    )
    if done.returncode != 0:
        pytest.skip("the emulated device has no stream-ordered allocator yet")
    (process,) = read_processes(tmp_path / "run")
    assert done.stderr.count("keeps no history") == done.stderr.count("problem:") == 1
    assert process.dumps[0]["settings"]["backend"] == "cudaMallocAsync"


def test_a_snapshot_loads_no_compiler(rehearse: Rehearse, tmp_path: Path) -> None:
    source = """
        import signal, sys, torch
        load = torch.__getattr__
        x = torch.empty(1 << 20, device="cuda")
        try:
            torch.empty(9 << 30, dtype=torch.uint8, device="cuda")
        except torch.cuda.OutOfMemoryError:
            print(sorted({"torch._inductor", "torch._dynamo"} & set(sys.modules)), flush=True)
        assert torch.__getattr__ is load
        signal.raise_signal(signal.SIGINT)
    """
    done = rehearse(source)
    assert done.stdout == "[]\n", done.stderr
    assert done.returncode == -signal.SIGINT, done.stderr
    (process,) = read_processes(tmp_path / "run")
    oom, last = process.dumps
    assert (oom["reason"], last["reason"]) == ("oom", "exit")
    assert max(oom["dump_seconds"], last["dump_seconds"]) < 1


def test_a_snapshot_is_what_torch_gives(rehearse: Rehearse, tmp_path: Path) -> None:
    done = rehearse("""
        import torch
        def model():
            return torch.empty(1 << 20, device="cuda") + 1
        x = model()
        from _oomdoctor_recorder import history
        ours = history.snapshot(torch)
        theirs = torch.cuda.memory._snapshot()  # with the compiler
        for snapshot in (ours, theirs):  # each tells that it was taken, and when
            for trace in snapshot["device_traces"]:
                trace[:] = [event for event in trace if event["action"] != "snapshot"]
        print(ours == theirs, any(e["frames"] for e in ours["device_traces"][0]))
    """)
    assert done.stdout == "True True\n", done.stderr


@pytest.mark.parametrize(("before", "ours"), [("", False), ("torch.cuda.init()", True)])
def test_a_history_that_the_program_began_itself_is_left_alone(
    rehearse: Rehearse, tmp_path: Path, before: str, ours: bool
) -> None:
    done = rehearse(f"""
        import torch
        {before}
        if not {ours}:
            torch.cuda.memory._record_memory_history(max_entries=50, stacks="python")
        kept = [torch.empty(3 << 20, dtype=torch.uint8, device="cuda") for _ in range(100)]
        print(len(torch.cuda.memory._snapshot()["device_traces"][0]))
    """)
    assert done.returncode == 0, done.stderr
    (process,) = read_processes(tmp_path / "run")
    found = process.dumps[-1]["history"]
    assert found["recording"] is True
    assert found["by_program"] is not ours
    if ours:
        assert int(done.stdout) > 100
        assert (found["max_entries"], found["wrapped"]) == (1_000_000, [False, False])
    else:
        assert int(done.stdout) == 50
        assert (found["max_entries"], found["wrapped"], found["stacks"]) == (None, None, None)
