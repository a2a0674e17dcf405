"""Recordings on shared storage, by URL: every command that reads one, and what is said where it cannot."""

from __future__ import annotations

import builtins
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from oomdoctor import storage
from oomdoctor.cli import group
from oomdoctor.diagnosis.run_remedies import Program, next_command
from oomdoctor.errors import OomdoctorError, UsageError

fsspec = pytest.importorskip("fsspec")
ROOT = Path(__file__).parent.parent
TWO_GPUS = ROOT / "traces" / "llama-4-layers-two-gpus"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str) -> OomdoctorError:
    with pytest.raises(OomdoctorError) as caught:
        CliRunner().invoke(group, arguments, catch_exceptions=False)
    return caught.value


@pytest.fixture
def in_memory() -> Iterator[str]:
    """The URL of a run folder in fsspec's memory."""
    files = fsspec.filesystem("memory")
    files.put(str(TWO_GPUS) + "/", "/bucket/runs/two gpus".replace(" ", "-") + "/", recursive=True)
    yield "memory://bucket/runs/two-gpus"
    files.rm("/bucket", recursive=True)


def without_places(text: str, *paths: str) -> Any:
    """A JSON document, without where it was read."""
    for path in paths:
        text = text.replace(path, "HERE")
    document = json.loads(text)
    for oom in document.get("ooms", []):
        oom.pop("next", None)  # beside a folder of this machine, or here
    for device in document.get("devices", []):
        (device.get("recommendation") or {}).pop("verify", None)  # likewise
    return document


@pytest.mark.parametrize("command", [["inspect"], ["replay"], ["advise", "--workers", "1"], ["explain"]])
def test_a_url_is_read_as_the_folder_that_it_names(in_memory: str, command: list[str]) -> None:
    for url in (in_memory, TWO_GPUS.as_uri()):
        here, there = (run(*command, path, "--json").stdout for path in (str(TWO_GPUS), url))
        assert without_places(there, url, str(TWO_GPUS)) == without_places(here, url, str(TWO_GPUS))


def test_a_snapshot_by_its_url_brings_what_stands_beside_it(in_memory: str) -> None:
    (local,) = TWO_GPUS.glob("processes/*/0001-oom.pickle")
    url = f"{in_memory}/{local.relative_to(TWO_GPUS)}"
    (first, second) = json.loads(run("inspect", url, "--json").stdout)["devices"]
    assert first["path"] == url
    assert first["torch"]["basis"] == "recorded"
    assert "torch 2.15.0" in run("inspect", url).stdout
    assert "Memory" in run("inspect", url).stdout
    assert second["device"] == 1


def test_both_of_a_comparison_and_a_report_may_be_urls(in_memory: str, tmp_path: Path) -> None:
    other = ROOT / "traces" / "llama-2-layers-to-the-end"
    here = run("compare", str(TWO_GPUS), str(other), "--json").stdout
    there = run("compare", in_memory, other.as_uri(), "--json").stdout
    assert without_places(there, in_memory, other.as_uri()) == without_places(here, str(TWO_GPUS), str(other))
    written = tmp_path / "report.html"
    run("report", in_memory, "-o", str(written))
    assert "ran out of memory" in written.read_text()


def test_a_log_is_explained_from_its_url(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 32.00 MiB.\n" * 2)
    assert run("explain", log.as_uri()).stdout == run("explain", str(log)).stdout
    packed = tmp_path / "train.log.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    assert "compressed" in str(refused("explain", packed.as_uri()))


def test_a_message_that_quotes_an_address_is_a_message() -> None:
    said = run(
        "explain", "CUDA out of memory. Tried to allocate 2.00 GiB. See https://pytorch.org/docs"
    ).stdout
    assert "ran out of memory" in said
    for text in ("std::bad_alloc", "RuntimeError:CUDA", "https://a b", "://x", "s3:/bucket/run", "no url"):
        assert not storage.is_url(text)
    for url in ("s3://bucket/run", "gs://b/r", "memory://r", "file:///shared/run", "abfs+x://r"):
        assert storage.is_url(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nothing-such://bucket/run", "no storage is known by this protocol"),
        ("memory://not/there", "no such file or folder"),
        ("file:///not/there", "no such file or folder"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(url: str, said: str) -> None:
    error = refused("explain", url)
    assert said in str(error)
    assert url in str(error)
    done = subprocess.run(
        [sys.executable, "-m", "oomdoctor", "advise", url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert url in done.stderr


def test_without_fsspec_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "fsspec":
            raise ImportError(name)
        return really(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for command in ("advise", "inspect", "replay", "explain"):
        error = refused(command, "s3://bucket/run")
        assert isinstance(error, UsageError)
        assert "fsspec is not installed" in str(error)
        assert "oomdoctor[cluster]" in str(error)


def test_a_protocol_without_its_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.core

    def lacks(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacks)
    error = refused("inspect", "s3://bucket/run")
    assert "Install s3fs" in str(error)
    assert error.next_step == "install it beside oomdoctor: pip install s3fs"


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("http://host/one.pickle", "pip install aiohttp"),
        ("gs://bucket/run", "pip install gcsfs"),
        ("ftps://host/run", "s3fs for s3://, gcsfs for gs://, adlfs for abfs://, aiohttp for http://"),
    ],
)
def test_the_package_that_is_lacking_is_that_of_the_protocol(
    monkeypatch: pytest.MonkeyPatch, url: str, package: str
) -> None:
    import fsspec.core

    def lacks(url: str) -> Any:
        raise ImportError("not installed")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacks)
    error = refused("inspect", url)
    assert str(error.next_step).endswith(package)


def test_a_storage_that_fails_is_an_error_in_words(in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients raise what they like; botocore's NoCredentialsError is no OSError."""
    from fsspec.implementations.memory import MemoryFileSystem

    class NoCredentials(Exception):
        pass

    def fails(self: Any, *rest: Any, **more: Any) -> Any:
        raise NoCredentials("unable to locate credentials")

    for name in ("info", "_open"):
        with monkeypatch.context() as patched:
            patched.setattr(MemoryFileSystem, name, fails)
            assert "unable to locate credentials" in str(refused("inspect", in_memory))


def test_nothing_of_fsspec_is_imported_where_no_url_is_given() -> None:
    script = (
        "import sys; from oomdoctor.cli import group; from click.testing import CliRunner;"
        f"CliRunner().invoke(group, ['explain', 'CUDA out of memory, see https://x/ y']);"
        f"CliRunner().invoke(group, ['inspect', {str(TWO_GPUS)!r}]);"
        "print('fsspec' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_next_run_of_one_on_storage_is_recorded_here() -> None:
    diagnosis = json.loads(run("explain", TWO_GPUS.as_uri(), "--json").stdout)
    assert diagnosis["ooms"]
    from oomdoctor.diagnosis.run import diagnose_run

    (case, *_) = diagnose_run(TWO_GPUS.as_uri()).ooms
    command = next_command("s3://bucket/runs/a/", case.diagnosis, Program(command=("python", "infer.py")))
    assert command is not None
    assert " -o a-2 -- python infer.py" in command


def test_a_file_put_in_place_of_another_is_seen(tmp_path: Path) -> None:
    for path in (str(tmp_path / "one"), (tmp_path / "two").as_uri()):
        local = path.replace("file://", "")
        Path(local).write_bytes(b"one")
        before = storage.state_of(path)
        assert storage.size_of(path) == 3
        Path(local).write_bytes(b"other")
        os.utime(local, (1, 1))
        assert storage.state_of(path) != before


def test_what_is_in_a_folder_is_listed_alike(tmp_path: Path, in_memory: str) -> None:
    shutil.copytree(TWO_GPUS, tmp_path / "run")
    listed = storage.entries(tmp_path / "run")
    assert ("processes", True) in listed
    assert ("run.json", False) in listed
    assert storage.entries((tmp_path / "run").as_uri()) == listed == storage.entries(in_memory)
    with pytest.raises(OSError, match="not/there"):
        storage.entries("memory://not/there")
