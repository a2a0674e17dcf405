"""Standard output that may be full, closed, or unable to say what is to be said."""

from __future__ import annotations

import os
import sys

from oomdoctor.errors import OomdoctorError

_PLAIN = {ord("█"): "#", ord("−"): "-", ord("×"): "x", ord("’"): "'", ord("…"): "~", ord("≥"): ">"}


def write(text: str) -> None:
    """A text and a newline to standard output, whatever it can encode.

    Raises:
        OomdoctorError: it cannot be written. A reader that went away is no error: exit code 1, no word.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, errors="replace").decode(encoding)
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_the_rest()
        raise SystemExit(1) from None
    except OSError as error:
        _drop_the_rest()
        raise OomdoctorError(
            "cannot write the answer",
            where="standard output",
            why=error.strerror,
            next_step="free some space, or write elsewhere",
        ) from error


def _drop_the_rest() -> None:
    """Python flushes once more at its end, and would tell of the same error with a traceback."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
