"""What is open: keys, groups, reading once, following a run, uploads."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from oomdoctor_dashboard.jobs import Cancelled, Job, Jobs
from oomdoctor_dashboard.library import Library

from oomdoctor.errors import InputError, UsageError
from oomdoctor.snapshot import read_snapshot

TRACES = Path(__file__).parents[2] / "traces"
RUN = TRACES / "llama-4-layers-two-gpus"


def test_a_run_is_its_snapshots_the_telling_one_first() -> None:
    library = Library()
    (first,) = library.add(str(RUN))
    assert first.label == "pid 28479 · 0001-oom"
    assert [item.label for item in library.items()] == ["pid 28479 · 0001-oom", "pid 28479 · 0002-exit"]
    assert {item.group for item in library.items()} == {RUN.name}
    again = Library()
    assert again.add(str(RUN))[0].key == first.key
    library.add(str(RUN))
    assert len(library.items()) == 2
    assert library.runs == [str(RUN)]


def test_a_file_in_a_run_folder_brings_what_stands_beside_it() -> None:
    library = Library()
    (item,) = library.add(str(next(RUN.glob("processes/*/0001-oom.pickle"))))
    assert (item.source.pid, item.source.dump) == (28479, "0001-oom")


def test_a_device_is_read_once_and_replayed() -> None:
    library = Library()
    (item,) = library.add(str(RUN))
    assert not library.is_loaded(item.key, 0)
    found = library.loaded(item.key, 0)
    assert library.is_loaded(item.key, 0)
    assert library.loaded(item.key, 0) is found
    assert library.devices(item.key) == [0, 1]
    assert found.events == len(read_snapshot(item.source.path).traces[0])
    assert found.moment(None) is found.moment(found.events)
    assert (found.event(-4), found.event(10**9), found.event(7)) == (0, found.events, 7)
    calls: list[int] = []
    for _ in range(2):
        assert found.made("answer", lambda loaded: calls.append(loaded.events)) is None
    assert calls == [found.events]


def test_what_is_not_there_is_said() -> None:
    library = Library()
    (item,) = library.add(str(RUN))
    with pytest.raises(UsageError, match="no device 7"):
        library.loaded(item.key, 7)
    with pytest.raises(UsageError, match="not open here"):
        library.loaded("nonsense", 0)
    with pytest.raises(InputError):
        library.add(str(TRACES))


def test_the_first_device_is_the_one_that_ran_out_of_memory() -> None:
    library = Library()
    (item,) = library.add(str(RUN))
    job = library.load(item.key, None)
    assert job.wait(60)
    assert job.error is None
    assert job.result.device.device == 0


def test_a_run_that_is_being_written_is_followed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    (process,) = (run / "processes").iterdir()
    later = tmp_path / "later"
    later.mkdir()
    for name in ("0002-exit.json", "0002-exit.pickle"):
        shutil.move(str(process / name), later / name)
    library = Library()
    library.add(str(run))
    assert [item.source.dump for item in library.items()] == ["0001-oom"]
    assert not library.refresh()
    for file in later.iterdir():
        shutil.move(str(file), process / file.name)
    assert library.refresh()
    assert [item.source.dump for item in library.items()] == ["0001-oom", "0002-exit"]
    shutil.rmtree(run)
    assert not library.refresh()


def test_a_file_that_was_being_written_is_read_again_when_it_changed(tmp_path: Path) -> None:
    whole = next(RUN.glob("processes/*/0001-oom.pickle")).read_bytes()
    path = tmp_path / "a.pickle"
    path.write_bytes(whole[: len(whole) // 2])
    library = Library()
    (item,) = library.add(str(path))
    assert not library.is_worth_another_try(item.key)
    with pytest.raises(InputError):
        library.loaded(item.key, 0)
    library.failed(item.key)
    assert not library.is_worth_another_try(item.key), "it is as it was"
    path.write_bytes(whole)
    assert library.is_worth_another_try(item.key)
    assert not library.is_worth_another_try(item.key), "once"
    assert library.loaded(item.key, 0).events > 0


def test_an_upload_that_cannot_be_read_is_forgotten() -> None:
    library = Library()
    item = library.upload("notes.txt", [b"no snapshot"])
    library.failed(item.key)
    assert library.items() == []
    assert not Path(item.source.path).exists()
    library.close()


def test_a_run_folder_by_url_shows_what_it_shows_by_path() -> None:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.put(str(TRACES / "llama-2-layers-to-the-end"), "/bucket/run", recursive=True)
    near, far = Library(), Library()
    try:
        near.add(str(TRACES / "llama-2-layers-to-the-end"))
        far.add("memory://bucket/run")
        (here,), (there,) = near.items(), far.items()
        assert (there.group, there.label) == ("run", here.label)
        one, other = near.loaded(here.key, 0), far.loaded(there.key, 0)
        assert one.device.history.last.stats[0] == other.device.history.last.stats[0]
        assert far.refresh() is False
    finally:
        near.close()
        far.close()
        files.rm("/bucket", recursive=True)


def test_uploads_of_one_name_are_told_apart() -> None:
    library = Library()
    labels = [library.upload(name, [b"x"]).label for name in ("a.pickle", "b.pickle", "a.pickle", "a.pickle")]
    assert labels == ["uploaded", "uploaded", "uploaded, 2", "uploaded, 3"]
    library.close()


def test_uploads_are_private_and_go(tmp_path: Path) -> None:
    library = Library()
    item = library.upload("../../etc/<b>snap</b>.pickle.gz", [b"ab", b"c"])
    path = Path(item.source.path)
    assert path.read_bytes() == b"abc"
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.name == "0001.pickle.gz"
    assert (item.group, item.label, item.is_upload) == ("b>.pickle.gz", "uploaded", True)
    with pytest.raises(InputError):
        library.loaded(item.key, 0)

    def broken() -> object:
        yield b"half"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        library.upload("x.pickle", broken())  # type: ignore[arg-type]
    assert [file.name for file in path.parent.iterdir()] == ["0001.pickle.gz"]
    other = library.upload("b", [b""])
    library.remove(other.key)
    assert not Path(other.source.path).exists()
    library.close()
    assert not path.parent.exists()


def test_jobs_run_once_tell_how_far_they_are_and_stop() -> None:
    jobs, go = Jobs(), threading.Event()
    runs: list[int] = []

    def work(job: Job) -> str:
        runs.append(1)
        job.progress(1, 3)
        go.wait(10)
        job.progress(2, 3)
        return "done"

    job = jobs.start("a", "Working", work)
    assert jobs.start("a", "Working", work) is job
    while not job.done:
        pass
    assert (job.state, job.done, job.total) == ("running", 1, 3)
    job.cancel()
    go.set()
    assert job.wait(10)
    assert (job.state, job.result, job.error) == ("cancelled", None, None)
    again = jobs.start("a", "Working", work)
    assert again is not job
    assert again.wait(10)
    assert (again.state, again.result) == ("done", "done")
    assert len(runs) == 2
    with pytest.raises(Cancelled):
        job.progress(1, 1)


def test_a_job_that_fails_keeps_its_error_and_may_be_tried_again() -> None:
    jobs = Jobs()

    def fails(job: Job) -> None:
        raise ValueError("no")

    job = jobs.start("a", "Failing", fails)
    assert job.wait(10)
    assert job.state == "failed"
    assert isinstance(job.error, ValueError)
    assert jobs.start("a", "Failing", lambda _: 3) is not job
