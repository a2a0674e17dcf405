"""Snapshots as JSON. The format cannot ask for code; depth and the length of numbers are bounded."""

from __future__ import annotations

import json
import re
from typing import Any

from oomdoctor.errors import ForeignInput, TruncatedInput, UnsafeInput

# Turning digits into a number takes quadratic time, and Python before 3.11 sets no bound.
_LONG_NUMBER = re.compile(rb"[0-9]{400}")


def load_plain_json(data: bytes, source: str) -> Any:
    """Decode JSON text.

    Raises:
        TruncatedInput: it ends before it is complete.
        ForeignInput: it is not JSON, or not UTF-8.
        UnsafeInput: nested too deeply, or a number of hundreds of digits.
    """
    if _LONG_NUMBER.search(data):
        raise UnsafeInput("the JSON holds a number of hundreds of digits", where=source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ForeignInput("the JSON is not UTF-8", where=source, why=str(error)) from error
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise UnsafeInput("the JSON is nested too deeply", where=source) from error
    except json.JSONDecodeError as error:
        # The decoder points at where a value or text began that the end cut short.
        if not text.rstrip().endswith(("}", "]")) or error.pos >= len(text.rstrip()):
            raise TruncatedInput(
                "the JSON ends before it is complete", where=source, why=f"{error.msg}, line {error.lineno}"
            ) from error
        raise ForeignInput(
            "this is not JSON", where=source, why=f"{error.msg}, line {error.lineno} column {error.colno}"
        ) from error
    except ValueError as error:
        raise ForeignInput("the JSON cannot be read", where=source, why=str(error)) from error
    return value
