"""``oomdoctor explain`` from the outside: arguments, streams, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oomdoctor.message import read_text
from tests.message.formats import GIB, MIB, Numbers, torch_2_15

CLASSIC = (
    "CUDA out of memory. Tried to allocate 1.24 GiB (GPU 0; 15.78 GiB total capacity; 10.34 GiB already"
    " allocated; 456.50 MiB free; 14.21 GiB reserved in total by PyTorch)"
)
KEYS = [
    "family",
    "kind",
    "rank",
    "device",
    "line",
    "text",
    "requested_bytes",
    "total_bytes",
    "free_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "reserved_unallocated_bytes",
    "process_in_use_bytes",
    "private_pool_bytes",
    "allowed_bytes",
    "other_processes",
    "details",
    "verdict",
    "findings",
    "remedies",
]


def explain(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "oomdoctor", "explain", *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
    )


def test_text_on_the_command_line() -> None:
    done = explain(CLASSIC)
    assert done.returncode == 0
    assert done.stderr == b""
    text = done.stdout.decode()
    assert text.startswith("GPU 0 ran out of memory: fragmentation\n")
    for piece in (
        "3.87 GiB",
        "14.21−10.34",
        "1.12 GiB",
        "15.78−14.21−0.45",
        "max_split_size_mb:512",
        "oomdoctor trace --",
    ):
        assert piece in text
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_contract() -> None:
    done = explain("-", "--json", stdin=CLASSIC.encode())
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert list(document) == ["schema", "count", "ooms"]
    assert document["schema"] == "oomdoctor.explain/1"
    assert document["count"] == 1
    oom = document["ooms"][0]
    assert list(oom) == KEYS
    assert oom["requested_bytes"] == 1331439862
    assert oom["verdict"] == "fragmentation"
    assert oom["rank"] is None
    assert oom["other_processes"] == []
    assert all(set(found) == {"id", "summary", "basis", "bytes", "evidence"} for found in oom["findings"])
    assert all(set(remedy) == {"id", "summary", "command", "basis"} for remedy in oom["remedies"])


def test_a_file(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(f"step 1\n[rank2]: {CLASSIC}\n")
    oom = json.loads(explain(str(log), "--json").stdout)["ooms"][0]
    assert (oom["line"], oom["rank"]) == (2, 2)


def test_several_ranks_fit_80_columns() -> None:
    text = "\n".join(
        f"[rank{rank}]: "
        + torch_2_15(Numbers(rank, GIB, 80 * GIB, MIB, 78 * GIB, rank * GIB, this_process=79 * GIB))
        for rank in range(8)
    )
    out = explain("-", stdin=text.encode()).stdout.decode()
    assert out.startswith("8 out-of-memory errors\n")
    assert max(len(line) for line in out.splitlines()) <= 80


def test_a_terminal_that_knows_no_blocks() -> None:
    done = explain(CLASSIC, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"####" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "says"),
    [
        (["-"], b"", 1, "nothing in it"),
        (["-"], b"step 1\nstep 2\n", 1, "in 2 lines"),
        (["-"], bytes(range(256)) * 40, 1, "not a text"),
        (["-"], b"Out of memory: Killed process 1 (python)", 1, "not a GPU's"),
        (["logs/absent.log"], b"", 1, "no such file"),
        (["absent.log"], b"", 1, "no such file"),
        (["all is well"], b"", 1, "no out-of-memory error"),
        (["--no-such-option"], b"", 2, "No such option"),
    ],
)
def test_bad_input(arguments: list[str], stdin: bytes, code: int, says: str) -> None:
    done = explain(*arguments, stdin=stdin)
    assert done.returncode == code
    assert done.stdout == b""
    error = done.stderr.decode()
    assert says in error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 4


def test_nothing_found_is_still_a_document() -> None:
    done = explain("-", "--json", stdin=b"all is well\n")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"schema": "oomdoctor.explain/1", "count": 0, "ooms": []}


def test_an_unreadable_file(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    log = tmp_path / "train.log"
    log.write_text(CLASSIC)
    log.chmod(0)
    done = explain(str(log))
    assert done.returncode == 1
    assert b"Permission denied" in done.stderr


def test_progress_only_on_a_terminal(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    log = tmp_path / "train.log"
    log.write_bytes(b"2025-01-01 INFO step\n" * 500_000 + CLASSIC.encode())
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "oomdoctor", "explain", str(log), "--json"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "MB [" in shown
    assert json.loads(done.stdout)["count"] == 1


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from oomdoctor.cli import group;"
        f"r = CliRunner().invoke(group, ['explain', {CLASSIC!r}]); assert r.exit_code == 0, r.output;"
        "print([m for m in ('numpy', 'rich', 'torch', 'pandas', 'pynvml', 'elftools') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_it_reads_its_own_answer() -> None:
    """What oomdoctor prints is pasted into issues too; it must not be taken for an error."""
    assert read_text(explain(CLASSIC).stdout.decode()).ooms == ()
