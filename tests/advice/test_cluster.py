"""A search over a Dask cluster of two workers on this machine, and clusters that cannot be used."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oomdoctor.advice import cluster as cluster_module
from oomdoctor.advice.cluster import cluster_map
from oomdoctor.advice.evaluate import Place, Task, evaluate, forget
from oomdoctor.allocator.settings import Settings
from oomdoctor.errors import OomdoctorError, UsageError
from oomdoctor.units import MIB
from tests.advice.test_advise import HELPS, MIDDLE, ask, refused, save
from tests.allocator.recorded_by_heap import recorded
from tests.run.building import add_dump, add_process, make_run

# One worker for all that share a cluster: starting one takes seconds.
pytestmark = pytest.mark.xdist_group("dask")
PROGRAM = [*HELPS, *MIDDLE * 3, ("free", 0), *HELPS]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two processes."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as started:
        assert started.scheduler_address.startswith("tcp://")
        yield started.scheduler_address


@pytest.fixture
def file(tmp_path: Path) -> str:
    return save(tmp_path / "one.pickle", recorded(PROGRAM, Settings()))


def test_a_cluster_finds_what_this_machine_finds(scheduler: str, file: str) -> None:
    for limit in ((), ("--capacity", "240MiB")):
        assert ask(file, *limit, "--scheduler", scheduler) == ask(file, *limit)


def test_a_relative_path_is_found_by_workers_elsewhere(
    scheduler: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(os.path.dirname(file))
    assert ask(os.path.basename(file), "--scheduler", scheduler)["devices"]


def test_workers_read_a_url_themselves(scheduler: str, file: str) -> None:
    """In shared storage each reads for itself; nothing but the URL is sent."""
    pytest.importorskip("fsspec")
    url = Path(file).as_uri()
    there, here = ask(url, "--scheduler", scheduler), ask(file)
    assert there["devices"][0]["path"] == url
    assert json.loads(json.dumps(there).replace(url, file)) == here


def test_workers_read_the_ranks_of_a_run_from_its_url(scheduler: str, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    run = make_run(tmp_path / "run")
    for pid, rank in ((7, 0), (8, 1)):
        add_dump(
            add_process(run, pid, rank=rank, torch_version="2.12.0"),
            recorded(PROGRAM, Settings()),
            reason="exit",
        )
    there = ask(run.as_uri(), "--scheduler", scheduler)
    here = ask(str(run))
    assert [device["rank"] for device in there["devices"]] == [0, 1]
    for one, other in zip(there["devices"], here["devices"]):
        assert one.pop("path").startswith("file://")
        other.pop("path")
    assert there == here


def test_workers_see_that_another_recording_took_its_place(file: str) -> None:
    forget()
    task = Task(Place(file, 0), "", None)
    before = evaluate(task)
    save(Path(file), recorded([*PROGRAM, ("alloc", 300 * MIB, 0)], Settings()))
    assert evaluate(task).peak_reserved_bytes >= before.peak_reserved_bytes + 200 * MIB
    forget()


def test_a_worker_that_does_not_see_the_recording_says_so(scheduler: str, tmp_path: Path) -> None:
    with cluster_map(scheduler) as mapped, pytest.raises(OomdoctorError) as caught:
        list(mapped([Task(Place(str(tmp_path / "gone.pickle"), 0), "", None)]))
    assert "gone.pickle" in str(caught.value)
    assert "shared with them" in str(caught.value)


def test_a_worker_that_fails_is_told_of(scheduler: str, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "evaluate_on_worker", _fails)
    with cluster_map(scheduler) as mapped, pytest.raises(OomdoctorError) as caught:
        list(mapped([Task(Place(file, 0), "", None)]))
    assert "RuntimeError: not fit" in str(caught.value)


def _fails(task: Task) -> None:
    raise RuntimeError("not fit")


@pytest.mark.parametrize("address", ["nonsense", "foo://127.0.0.1:9", "127.0.0.1", "tcp://127.0.0.1:9"])
def test_an_address_that_leads_nowhere(file: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster_module, "_CONNECTING", "1s")
    error = refused(file, "--scheduler", address)
    assert error.exit_code == 2
    assert f"no Dask scheduler answers at {address}" in str(error)


def test_a_cluster_without_workers(file: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(cluster_module, "_WORKER_WITHIN", 0.5)
    with distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0") as started:
        error = refused(file, "--scheduler", started.scheduler_address)
    assert error.exit_code == 2
    assert "has no worker" in str(error)


def test_without_dask_it_says_what_to_install(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in ("dask", "distributed"):
            raise ImportError(name)
        return really(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError) as caught, cluster_map("tcp://127.0.0.1:9"):
        pass
    assert "Dask is not installed" in str(caught.value)
    assert "oomdoctor[cluster]" in str(caught.value)


# What is compiled is a stand-in that says when it begins and ends: machine code takes half a minute.
ONE_OF_TWO = """
import sys, time
from pathlib import Path
from oomdoctor.advice import cluster
from oomdoctor.advice.evaluate import Place, Task
from oomdoctor.allocator import history, replay
log, me = Path(sys.argv[1]), sys.argv[2]

def say(what):
    with open(log, "a") as file:
        file.write(f"{what} {me}\\n")

def compiled(*arguments):
    say("begins")
    time.sleep(1)
    say("ends")

history.history_of, replay.replay = lambda *arguments: None, compiled
cluster.evaluate = lambda task: say("evaluates")
say("ready")
while log.read_text().count("ready") < 2:
    time.sleep(0.01)
for _ in range(2):
    cluster.evaluate_on_worker(Task(Place("nowhere", 0), "", None))
"""


def test_processes_that_compile_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """Two that keep machine code in the same folder: one compiles after the other, each once."""
    log = tmp_path / "log"
    log.touch()
    script = tmp_path / "one.py"
    script.write_text(ONE_OF_TWO)
    cache = tmp_path / "cache"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    racing = [
        subprocess.Popen([sys.executable, str(script), str(log), name], env=environment) for name in "ab"
    ]
    assert [process.wait() for process in racing] == [0, 0]
    lines = [line.split() for line in log.read_text().splitlines() if not line.startswith("ready")]
    compiling = [line for line in lines if line[0] != "evaluates"]
    (first, second) = (compiling[0][1], compiling[2][1])
    assert compiling == [["begins", first], ["ends", first], ["begins", second], ["ends", second]]
    assert {first, second} == {"a", "b"}
    assert sum(line[0] == "evaluates" for line in lines) == 4
    # In the folder where Numba keeps what it compiles.
    (lock,) = cache.rglob("compiling.lock")
    assert lock.parent.name.startswith("allocator")


def test_after_compiling_a_replay_compiles_nothing_more(file: str) -> None:
    """Else what was left over would be compiled by several processes at once."""
    script = (
        "import sys, numba\n"
        "from oomdoctor.advice import cluster\n"
        "from oomdoctor.advice.evaluate import Place, Task, evaluate\n"
        "cluster._compile()\n"
        "def kept():\n"
        "    return {(name, one, str(function.signatures))\n"
        "            for name, module in list(sys.modules.items()) if name.startswith('oomdoctor')\n"
        "            for one, function in vars(module).items() if hasattr(function, 'signatures')}\n"
        "before = kept()\n"
        "evaluate(Task(Place(sys.argv[1], 0), '', None))\n"
        "assert len(before) > 3, before\n"
        "print(sorted(kept() - before))"
    )
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
