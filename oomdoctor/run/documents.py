"""JSON documents that somebody may still be writing, or was killed while writing."""

from __future__ import annotations

import json
from typing import Any, Optional

from oomdoctor.storage import entries, opened

Json = dict[str, Any]


def read_document(path: str) -> tuple[Optional[Json], Optional[str]]:
    """A JSON object from a file.

    Returns:
        the object and None; or None and why there is none (the file missing, empty, or not a JSON object).
    """
    try:
        with opened(path) as file:
            value = json.loads(file.read().decode("utf-8", "replace"))
    except FileNotFoundError:
        return None, "it is not there"
    except OSError as error:
        return None, error.strerror or str(error)
    except (ValueError, RecursionError) as error:
        return None, f"not complete, or not JSON ({str(error)[:80]})"
    return (value, None) if isinstance(value, dict) else (None, "not a JSON object")


def read_lines(path: str) -> tuple[list[Json], int]:
    """The JSON objects of a ``.jsonl`` file.

    Returns:
        the objects, and how many lines could not be read (the last is, while it is being written).
    """
    try:
        with opened(path) as file:
            lines = file.read().splitlines()
    except OSError:
        return [], 0
    found: list[Json] = []
    unreadable = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            unreadable += 1
            continue
        if isinstance(value, dict):
            found.append(value)
        else:
            unreadable += 1
    return found, unreadable


def integer(document: Json, key: str) -> Optional[int]:
    """A whole number, or None where the document does not say."""
    value = document.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(document: Json, key: str) -> Optional[float]:
    """A number, or None."""
    value = document.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def text(document: Json, key: str) -> Optional[str]:
    """A text, or None."""
    value = document.get(key)
    return value if isinstance(value, str) else None


def mapping(document: Json, key: str) -> Json:
    """An object, empty where the document has none."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def objects(document: Json, key: str) -> list[Json]:
    """A list of objects, without what is none."""
    value = document.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts(document: Json, key: str) -> list[str]:
    """A list of texts, without what is none."""
    value = document.get(key)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def read_text(path: str, most: int = 1 << 20) -> str:
    """The beginning of a text file; empty where there is none."""
    try:
        with opened(path) as file:
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""


def folders(path: str) -> list[str]:
    """The names of folders in a folder, sorted; none where it is not there."""
    try:
        return [name for name, is_folder in entries(path) if is_folder and not name.startswith(".")]
    except OSError:
        return []
