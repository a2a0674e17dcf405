"""``oomdoctor explain``: a message, a log or a recorded run."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import textwrap
from dataclasses import replace
from typing import BinaryIO, Optional, cast

import click

from oomdoctor import storage
from oomdoctor.cli.output import write
from oomdoctor.errors import EmptyInput, ForeignInput, InputError, OomdoctorError, UsageError
from oomdoctor.message.reader import Reading, read_stream

_LOOKED_FOR = "out-of-memory errors of PyTorch, of CUDA and its libraries, and of inference engines"
_EXTENSION = re.compile(r"\.(?:log|txt|out|err|json|jsonl|pickle|pkl|md|csv|gz|html)$", re.IGNORECASE)


# What ends a process without a word of memory: a kill, most often for the host's memory.
_KILLED = (b"exit code 137", b"exitcode: -9", b"exitcode  : -9", b"exit code: 137", b"SIGKILL")
_COMPRESSED = (
    (b"\x1f\x8b", "zcat"),
    (b"\x28\xb5\x2f\xfd", "zstdcat"),
    (b"\xfd7zXZ", "xzcat"),
    (b"BZh", "bzcat"),
)
_KILL_MEANS = (
    "a process was killed (exit code 137, SIGKILL): often for the host's memory, not a GPU's; dmesg or"
    " kubectl describe pod tells"
)
_NOT_A_GPUS = "not a GPU's"  # stays on one line
_QUOTE = "Quote the message, or pipe it to: explain -"


class _Explain(click.Command):
    """A message without quotes arrives as many arguments, or as an option: say what to do about it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(f"{error.format_message()}\n{_QUOTE}".replace("\n", " "), ctx) from error


class _Watched:
    """A stream that remembers whether a process was killed in what went through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._tail = b""
        self.killed = False

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        if not self.killed:
            text = self._tail + block[:32]
            self.killed = any(word in text or word in block for word in _KILLED)
            self._tail = block[-32:]
        return block


@click.command("explain", cls=_Explain, context_settings={"max_content_width": 80})
@click.argument("what", required=False, metavar="[TEXT | FILE | RUN_FOLDER | -]")
@click.option("--json", "as_json", is_flag=True, help="Print oomdoctor.explain/1 on standard output.")
def command(what: Optional[str], as_json: bool) -> None:
    """Explain an out-of-memory message, a log or a recorded run.

    What is the name of a file or folder, or the URL of one on shared storage, is read as one; "-" or nothing
    reads standard input; anything else is the message itself.
    """
    if what is not None and storage.is_folder(what):
        from oomdoctor.cli import explain_run

        explain_run.show(what, as_json)
        return
    if what is not None and storage.is_file(what):
        from oomdoctor.cli import explain_run

        if explain_run.holds_snapshot(what):
            explain_run.show(what, as_json)
            return
        explain_run.refuse_part(what)
    reading = _read(what)
    is_text = what is None or what == "-" or not (storage.is_url(what) or os.path.exists(what))
    _show(reading, "the text" if what is None or is_text else what, as_json)


def _read(what: Optional[str]) -> Reading:
    if what is None or what == "-":
        if what is None and sys.stdin.isatty():
            raise UsageError(
                "nothing to explain",
                next_step="give a message, a file or a run folder: oomdoctor explain train.log",
            )
        return _read_stream(sys.stdin.buffer, None)
    if storage.is_url(what) or os.path.exists(what):
        try:
            with storage.opened(what) as file:
                _refuse_compressed(what, file.peek(8)[:8])
                return _read_stream(file, storage.size_of(what))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError("cannot read it", where=what, why=error.strerror or str(error)) from error
    if not re.search(r"\s", what.strip()) and ("/" in what or _EXTENSION.search(what)):
        raise InputError(
            "no such file or folder", where=what, next_step="check the path; a message goes in quotes, whole"
        )
    return _read_stream(io.BytesIO(what.encode("utf-8", errors="replace")), None)


def _refuse_compressed(path: str, start: bytes) -> None:
    for magic, tool in _COMPRESSED:
        if start.startswith(magic):
            raise ForeignInput(
                "it is compressed", where=path, next_step=f"{tool} {shlex.quote(path)} | oomdoctor explain -"
            )


def _read_stream(stream: BinaryIO, size: Optional[int]) -> Reading:
    """Read; where there is nothing, say whether a process was killed."""
    watched = _Watched(stream)
    reading = _read_shown(cast(BinaryIO, watched), size)
    if watched.killed and not reading.ooms and not reading.instead:
        return replace(reading, instead=_KILL_MEANS)
    return reading


def _read_shown(stream: BinaryIO, size: Optional[int]) -> Reading:
    """Read, and show how far it is on standard error if a person watches."""
    if not sys.stderr.isatty():
        return read_stream(stream)
    shown = False

    def progress(done: int, events: int) -> None:
        nonlocal shown
        if done < 8 << 20:
            return
        shown = True
        share = f" of {size / 1e6:,.0f}" if size else ""
        bar = ""
        if size:
            filled = min(24, 24 * done // size)
            bar = " [" + "#" * filled + "." * (24 - filled) + "]"
        sys.stderr.write(f"\r{done / 1e6:,.0f}{share} MB{bar} {events} found ")
        sys.stderr.flush()

    try:
        return read_stream(stream, progress)
    finally:
        if shown:
            sys.stderr.write("\r" + " " * 70 + "\r")
            sys.stderr.flush()


def _show(reading: Reading, where: str, as_json: bool) -> None:
    from oomdoctor.diagnosis.message import diagnose

    diagnoses = [diagnose(facts) for facts in reading.ooms]
    if as_json:
        from oomdoctor.reporters import explain_json

        write(explain_json.render(diagnoses))
    if not diagnoses:
        raise _nothing(reading, where)
    if not as_json:
        from oomdoctor.reporters import explain_text
        from oomdoctor.reporters.ink import ink_for

        write(explain_text.render(diagnoses, ink_for(sys.stdout)))


def _nothing(reading: Reading, where: str) -> OomdoctorError:
    """Why there is nothing to explain."""
    if reading.bytes_read == 0:
        return EmptyInput("nothing in it", where=where, next_step="give the whole error, traceback and all")
    if not reading.is_text:
        return ForeignInput(
            "not a text, and no out-of-memory error in it",
            where=where,
            next_step="give a log, a message, or a snapshot of PyTorch's",
        )
    why = f"looked for {_LOOKED_FOR}, in {reading.lines_read:,} line{'s' if reading.lines_read != 1 else ''}"
    if reading.instead:
        why = reading.instead
    return ForeignInput(
        "no out-of-memory error of a GPU in it",
        where=where,
        why="\n        ".join(
            textwrap.wrap(why.replace(_NOT_A_GPUS, "\0".join(_NOT_A_GPUS.split())), 72)
        ).replace("\0", " "),
        next_step="give the whole log, or the lines from the traceback's last one on",
    )
