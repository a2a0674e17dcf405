"""What is written at an OOM and at exit, and what becomes of it when torch or the disk are odd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.recorder.conftest import Record

OOM = """
    import sys, torch
    torch.empty(100)
    for _ in range({count}):
        try:
            torch.empty(1 << 40)
        except torch.OutOfMemoryError as error:
            pass
    print("went on")
    sys.exit(3)
"""


def test_an_oom_and_the_exit(record: Record) -> None:
    result = record(OOM.format(count=1), env={"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64", "RANK": "1"})
    assert (result.returncode, result.stdout, result.stderr) == (3, "went on\n", "")
    process = result.process
    assert process.reasons == ["oom", "exit"]
    assert process.log == ""
    oom, last = process.dumps
    assert oom["oom"] == {
        "device": 0,
        "requested_bytes": 1 << 40,
        "limit_bytes": 1 << 30,
        "free_bytes": 1 << 29,
        "count": 1,
    }
    assert "oom" not in last
    (device,) = oom["devices"]
    assert device["device"] == 0
    assert (device["free_bytes"], device["total_bytes"]) == (1 << 29, 1 << 30)
    assert device["allocated_bytes"] == device["reserved_bytes"] == 100
    assert (device["name"], device["uuid"]) == ("Fake GPU", "GPU-fake")
    assert oom["settings"]["asked"] == {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
    assert oom["settings"]["in_effect"] == {"max_split_size": -1}
    assert oom["settings"]["backend"] == "native"
    assert oom["history"]["entries"] == [1, 0]
    assert oom["loaded"]["device_traces"][0][0]["size"] == 100
    assert oom["process"]["rank"] == process.facts["rank"] == 1
    assert process.facts["argv"][0].endswith(".py")
    assert process.ooms == [
        {
            **oom["oom"],
            "t": process.ooms[0]["t"],
            "allocated_bytes": 100,
            "reserved_bytes": 100,
            "snapshot": "0001-oom.pickle",
        }
    ]


def test_of_many_ooms_the_first_and_the_last_are_kept(record: Record) -> None:
    process = record(OOM.format(count=9)).process
    assert process.reasons == ["oom", "oom", "oom", "oom", "exit"]
    assert [d["oom"]["count"] for d in process.dumps[:-1]] == [1, 2, 3, 9]
    assert [line["count"] for line in process.ooms] == list(range(1, 10))
    assert process.ooms[-1]["snapshot"] == process.dumps[3]["snapshot"]
    assert not [name for name in os.listdir(process.folder) if name.endswith(".tmp")]


def test_snapshots_of_later_ooms_end_with_the_time_for_them(record: Record) -> None:
    bounds = "ooms.BUDGET_SECONDS = 0.3; ooms.EVERY_LINE = 20; ooms.THEN_EVERY = 15"
    source = OOM.replace(
        "torch.empty(100)", f"torch.empty(100); from _oomdoctor_recorder import ooms; {bounds}"
    )
    process = record(source.format(count=50), odd="slow=0.06").process
    kept = [d["oom"]["count"] for d in process.dumps[:-1]]
    assert kept[:3] == [1, 2, 3]
    assert 3 < kept[3] < 10
    assert [line["count"] for line in process.ooms] == [*range(1, 21), 30, 45]
    assert process.ooms[-1]["snapshot"] is None
    assert process.ooms[-1]["skipped"]


def test_the_history_wrapped(record: Record) -> None:
    process = record("import torch; torch.empty(1)", odd="entries=9", max_entries=10).process
    assert process.dumps[0]["history"] == {
        "max_entries": 10,
        "entries": [10, 0],
        "wrapped": [True, False],
        "stacks": "python",
        "recording": None,
        "by_program": False,
    }


def test_history_is_switched_on_with_the_arguments_asked_for(record: Record) -> None:
    source = "import torch; torch.empty(1); print(torch.cuda.history_calls)"
    assert record(source, max_entries=7, env={"OOMDOCTOR_STACKS": "none"}).stdout == (
        "[('all', (), {'context': None, 'stacks': 'python', 'max_entries': 7})]\n"
    )
    assert record(source, max_entries=7, env={"OOMDOCTOR_STACKS": "all"}).stdout == (
        "[('all', (), {'context': 'all', 'stacks': 'all', 'max_entries': 7})]\n"
    )
    assert (
        record(source, max_entries=7, odd="2.0").stdout
        == "[(True, True, 7, True, 0), (True, True, 7, True, 1)]\n"
    )


def test_options_that_make_no_sense_are_told_and_replaced(record: Record) -> None:
    result = record(
        "import torch; torch.empty(1)", env={"OOMDOCTOR_MAX_ENTRIES": "many", "OOMDOCTOR_STACKS": "perl"}
    )
    process = result.process
    assert (process.facts["max_entries"], process.facts["stacks"]) == (1_000_000, "python")
    assert "'many' is not a number" in process.log
    assert "'perl' is not" in process.log


@pytest.mark.parametrize(
    ("odd", "reasons", "word"),
    [
        ("no-history", ["oom", "exit"], "keeps no history"),
        ("no-observer", ["exit"], "observers are not supported"),
        ("no-snapshot", ["oom", "exit"], "no snapshot: torch gave none: RuntimeError: no snapshot today"),
        ("bare", ["exit"], "has no attribute '_record_memory_history'"),
        (
            "2.0",
            ["oom", "oom", "exit"],
            "",
        ),  # the fake device has one list of observers, so each OOM comes twice
    ],
)
def test_an_odd_torch(record: Record, odd: str, reasons: list[str], word: str) -> None:
    result = record(OOM.format(count=1), odd=odd)
    assert (result.returncode, result.stdout, result.stderr) == (3, "went on\n", "")
    assert result.process.reasons == reasons
    assert word in result.process.log
    if odd in ("no-snapshot", "bare"):
        assert result.process.dumps[0]["snapshot"] is None
        assert result.process.dumps[0]["devices"][0]["allocated_bytes"] == 100


def test_misspelt_settings_are_kept(record: Record) -> None:
    misspelt = {
        "PYTORCH_CUDA_ALLOCATOR_CONF": "a",
        "TORCH_ALLOC_CONF": "b",
        "CUDA_ALLOC_CONF": "c",
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        "pytorch_cuda_alloc_conf": "d",
        "PYTORCH_CUDA_ALOC_CONF": "e",
        "PYTORCH_CUDA_ALLCO_CONF": "f",
        "PYTORCH_CUDA_ALOCC_CONF": "g",
        "PYTORCH_ALOC_CNF": "h",
        "PYTORCH_CUDA_CONF": "i",
        "PYTHORCH_CUDA_ALOC_COF": "j",
        "PYTORCH_NO_CUDA_MEMORY_CACHNG": "1",
    }
    other = {
        "MALLOC_ARENA_MAX": "1",
        "TORCH_LOGS": "x",
        "TORCH_HOME": "x",
        "CUDA_HOME": "x",
        "PYTORCH_JIT": "1",
        "FONTCONFIG_PATH": "x",
    }
    process = record("import torch; torch.empty(1)", env={**misspelt, **other}).process
    assert process.dumps[0]["settings"]["asked"] == misspelt
    assert misspelt.items() <= process.facts["environment"].items()


def test_threads_that_run_out_of_memory_together(record: Record) -> None:
    process = record(
        """
        import threading, torch
        def work():
            for _ in range(5):
                try:
                    torch.empty(1 << 40)
                except torch.OutOfMemoryError:
                    pass
        torch.empty(1)
        threads = [threading.Thread(target=work) for _ in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        """
    ).process
    assert sorted(line["count"] for line in process.ooms) == list(range(1, 41))
    assert process.reasons == ["oom"] * 4 + ["exit"]
    assert process.log == ""


def test_what_the_programs_own_signal_handler_raises_reaches_it(record: Record) -> None:
    result = record(
        """
        import signal, sys, torch
        def late(signum, frame):
            raise TimeoutError("too late")
        torch.empty(1)
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            torch.empty(1 << 40)
        except TimeoutError as error:
            print("caught", error)
        """,
        odd="slow=0.5",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "caught too late\n", "")
    assert result.process.reasons == ["exit"]


def test_a_keyboard_interrupt_in_the_middle_of_a_dump_is_the_programs(record: Record) -> None:
    result = record(
        """
        import _thread, threading, torch
        torch.empty(1)
        threading.Timer(0.1, _thread.interrupt_main).start()
        try:
            torch.empty(1 << 40)
        except KeyboardInterrupt:
            print("interrupted")
        """,
        odd="slow=0.5",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")


@pytest.mark.parametrize(("times", "consistent"), [(0, True), (1, True), (2, True), (4, False)])
def test_counters_and_snapshot_are_of_one_moment(record: Record, times: int, consistent: bool) -> None:
    (dump,) = record("import torch; torch.empty(1)", odd=f"restless={times}").process.dumps
    assert dump["consistent"] is consistent
    seen = sum(segment["total_size"] for segment in dump["loaded"]["segments"])
    assert (dump["devices"][0]["reserved_bytes"] == seen) is consistent


def test_a_host_with_little_memory_left(record: Record) -> None:
    """Better no snapshot than a program killed by the kernel for its recording."""
    source = """
        import torch
        torch.empty(1)
        from _oomdoctor_recorder import host
        host.available_bytes = lambda: 5 << 20
    """
    process = record(source, odd="entries=9000", max_entries=9000).process
    assert process.dumps[0]["snapshot"] is None
    assert process.dumps[0]["snapshot_error"].startswith("not enough host memory: some 17 MiB needed, 5 MiB")
    assert process.dumps[0]["devices"][0]["allocated_bytes"] > 0
    assert "not enough host memory" in process.log


def test_host_memory_is_known(record: Record) -> None:
    result = record("""
        import torch
        torch.empty(1)
        from _oomdoctor_recorder import host
        print(host.available_bytes() > 1 << 20)
        files = {
            "/proc/self/cgroup": "4:cpu,memory:/a/b\\n0::/pod/box\\n",
            "/proc/meminfo": "MemTotal: 9 kB\\nMemAvailable: 9000 kB\\n",
            "/sys/fs/cgroup/pod/box/memory.max": "max",
            "/sys/fs/cgroup/pod/box/memory.current": "5",
            "/sys/fs/cgroup/pod/memory.max": "1000000",
            "/sys/fs/cgroup/pod/memory.current": "900000",
            "/sys/fs/cgroup/pod/memory.stat": "anon 1\\ninactive_file 50000\\n",
        }
        host._read = lambda path: files.get(path, "")
        print(host.available_bytes())
        files["/sys/fs/cgroup/memory/a/memory.limit_in_bytes"] = "1000"
        files["/sys/fs/cgroup/memory/a/memory.usage_in_bytes"] = "1001"
        print(host.available_bytes())
        files.clear()
        print(host.available_bytes())
        host._read = lambda path: ""
    """)
    assert (result.stdout, result.stderr) == ("True\n150000\n0\nNone\n", "")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; a person without root gets none."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a tmpfs is not permitted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(record: Record, tiny_disk: Path) -> None:
    result = record(OOM.format(count=5), odd="entries=5000", run=tiny_disk / "run")
    assert (result.returncode, result.stdout, result.stderr) == (3, "went on\n", "")
    process = result.process
    assert process.dumps == []
    assert [line["snapshot"] for line in process.ooms] == [None] * 5
    assert "No space left" in process.ooms[0]["skipped"]
    assert "No space left" in process.log
    assert not [name for name in os.listdir(process.folder) if name.endswith(".tmp")]


def test_files_may_not_grow(record: Record) -> None:
    """The same, where nothing can be mounted."""
    source = OOM.replace(
        "torch.empty(100)",
        "torch.empty(100); import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))",
    )
    result = record(source.format(count=1), odd="entries=5000")
    assert (result.returncode, result.stdout, result.stderr) == (3, "went on\n", "")
    assert result.process.dumps == []
    assert "File too large" in result.process.log
    assert not [name for name in os.listdir(result.process.folder) if name.endswith(".tmp")]


def test_a_run_folder_that_cannot_be_made(record: Record, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = record(OOM.format(count=2), run=tmp_path / "file" / "run")
    assert (result.returncode, result.stdout, result.stderr) == (3, "went on\n", "")


def test_a_read_only_run_folder(record: Record, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    run.chmod(0o555)
    python = [sys.executable]
    if os.geteuid() == 0:
        if subprocess.run(["setpriv", "--version"], capture_output=True).returncode != 0:
            pytest.skip("root writes anywhere, and there is no setpriv to drop that")
        tmp_path.chmod(0o777)
        python = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable]
    source = f"""
        import os, sys
        if len(sys.argv) == 1:
            os.execvp({python[0]!r}, {[*python, "-c"]!r} + [{CODE!r}])
    """
    result = record(source, run=run)
    assert (result.returncode, result.stdout, result.stderr) == (3, "went on\n", "")
    assert list(run.iterdir()) == []


CODE = "import sys, torch; torch.empty(1); print('went on'); sys.exit(3)"
