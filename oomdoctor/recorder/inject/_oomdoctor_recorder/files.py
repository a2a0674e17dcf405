"""Files that are whole when they are there."""

import contextlib
import json
import os
from typing import Any, BinaryIO, Callable


def write_whole(path: str, write: Callable[[BinaryIO], None]) -> None:
    """Write aside in the same folder, onto the disk, then rename. On failure nothing is left behind."""
    folder, name = os.path.split(path)
    aside = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        with open(fd, "wb", buffering=1 << 20) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def write_json(path: str, document: Any) -> None:
    """A JSON document, whole.

    What JSON does not know is written as its ``repr``: torch may add kinds of its own.
    """
    text = json.dumps(document, indent=1, default=repr, allow_nan=True)
    data = text.encode("utf-8", "backslashreplace")
    write_whole(path, lambda file: _write_all(file, data))


def _write_all(file: BinaryIO, data: bytes) -> None:
    file.write(data)


def append_line(path: str, document: Any) -> None:
    """One JSON line, with a single write to a file opened for appending, so that lines stay whole."""
    line = json.dumps(document, default=repr).encode("utf-8", "backslashreplace") + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def make_run_folder(run: str, version: str, now: float) -> None:
    """The run folder with its run.json, by whoever comes first.

    A link never replaces a file that is there.
    """
    os.makedirs(run, exist_ok=True)
    manifest = os.path.join(run, "run.json")
    if os.path.exists(manifest):
        return
    aside = os.path.join(run, f".run.json.{os.uname().nodename}.{os.getpid()}")
    write_json(aside, {"schema": "oomdoctor.run/1", "created_unix": now, "oomdoctor_version": version})
    try:
        try:
            os.link(aside, manifest)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.rename(aside, manifest)
            return
        os.unlink(aside)
    except FileNotFoundError:
        pass
