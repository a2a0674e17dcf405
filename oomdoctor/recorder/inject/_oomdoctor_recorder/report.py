"""Telling the launcher, and the process folder's log, what happens in here.

The launcher reads a FIFO: opening and writing one needs nothing but ``os``, where a socket would cost every
Python process an import. Messages are lines ``kind<TAB>pid<TAB>text``, shorter than ``PIPE_BUF``, so they
never mix. All of it is best effort: no launcher, no reader, a full pipe, and the program goes on.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

channel: "Optional[str]" = None
folder: "Optional[str]" = None  # the process folder, once there is one
debug = False
_LONGEST = 2000  # characters; with UTF-8 still below 4096 bytes for nearly all text, and cut below


def send(kind: str, text: str) -> None:
    """One line to the launcher, if there is one."""
    if channel is None:
        return
    line = "\t".join((kind, str(os.getpid()), " | ".join(text.split("\n"))[:_LONGEST].replace("\t", " ")))
    try:
        fd = os.open(channel, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, line.encode("utf-8", "backslashreplace")[:4000] + b"\n")
        finally:
            os.close(fd)
    except OSError:
        pass


def failure(what: str) -> None:
    """Say that something did not work: to the log of this process and to the launcher. Never raises an
    Exception.

    Inside an ``except`` block the exception is added.
    """
    try:
        error = sys.exc_info()[1]
        text = what if error is None else what + ": " + type(error).__name__ + ": " + str(error)
        note(text)
        send("failure", text)
    except Exception:
        pass


def note(text: str) -> None:
    """A line in the process folder's recorder.log."""
    try:
        if debug:
            sys.stderr.write(f"oomdoctor recorder [{os.getpid()}]: {text}\n")
        if folder is not None:
            import time

            line = time.strftime("%Y-%m-%dT%H:%M:%S%z ") + text.replace("\n", "\n  ") + "\n"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(os.path.join(folder, "recorder.log"), flags, 0o666)
            try:
                os.write(fd, line.encode("utf-8", "backslashreplace"))
            finally:
                os.close(fd)
    except Exception:
        pass
