"""``explain`` where there is nothing to explain: it says what to do next, in 80 columns."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from click.testing import CliRunner

from oomdoctor.cli import group
from oomdoctor.errors import OomdoctorError


def refused(*arguments: str, stdin: str = "") -> str:
    done = CliRunner().invoke(group, ["explain", *arguments], input=stdin)
    assert isinstance(done.exception, OomdoctorError), done.output
    assert done.exception.exit_code == 1
    return f"oomdoctor: {done.exception}"


@pytest.mark.parametrize(
    "arguments", [["CUDA", "out", "of", "memory"], ["-CUDA out of memory"], ["--- x ---"]]
)
def test_a_message_without_quotes(arguments: list[str]) -> None:
    done = CliRunner().invoke(group, ["explain", *arguments])
    assert done.exit_code == 2
    assert "Quote the message" in done.output
    assert "explain -" in done.output


@pytest.mark.parametrize(
    "text", ["nothing here", "[Errno 12] Cannot allocate memory", "pod ended with exit code 137"]
)
def test_lines_of_a_refusal_fit(text: str) -> None:
    for line in refused("-", stdin=text).splitlines():
        assert len(line) <= 80, line


def test_a_compressed_log(tmp_path: Path) -> None:
    path = tmp_path / "my train.log.gz"
    path.write_bytes(gzip.compress(b"CUDA out of memory. Tried to allocate 2.00 GiB"))
    text = refused(str(path))
    assert "compressed" in text
    assert f"zcat '{path}' | oomdoctor explain -" in text


@pytest.mark.parametrize(
    "text", ["command terminated with exit code 137", "died with SIGKILL", "exitcode: -9"]
)
def test_a_killed_process(text: str) -> None:
    for said in (refused(text), refused("-", stdin="x" * (1 << 20) + text)):
        assert "killed" in said
        assert "host's memory" in " ".join(said.split())
    assert "killed" not in refused("all is well")
