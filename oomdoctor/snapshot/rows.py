"""From lists of dicts to typed columns, checked on the way.

The values come from a file that anybody may have written: every value is checked for its type before it is
used as a key, a number or a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NoReturn, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.errors import ForeignInput, UnsafeInput

Row = dict[str, Any]


class Unknown:
    """Collects the names that a table of codes lacks; ``code`` stands for all of them."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.names: dict[str, None] = {}


_ROW_BYTES = 8  # a row takes more in any file, a frame in a stack a fourth of it
_SPARE_BYTES = 1 << 20


class Source:
    """Where the values come from, for messages, and how many rows it can honestly hold.

    Args:
        size: bytes of the file, decompressed; None for values that are in memory already.
    """

    def __init__(self, name: str, size: Optional[int] = None) -> None:
        self.name = name
        self._bytes_left = None if size is None else size + _SPARE_BYTES

    def refuse(self, why: str) -> NoReturn:
        raise ForeignInput(
            "this is no memory snapshot of PyTorch's",
            where=self.name,
            why=why,
            next_step="torch.cuda.memory._dump_snapshot(FILE) and oomdoctor trace write snapshots",
        )

    def count(self, rows: int, bytes_each: int = _ROW_BYTES) -> None:
        """Bound the work: one list named a thousand times in a file must not be read a thousand times."""
        if self._bytes_left is None:
            return
        self._bytes_left -= rows * bytes_each
        if self._bytes_left < 0:
            raise UnsafeInput(
                "the file repeats the same lists over and over", where=self.name, why="no recording does"
            )

    def rows(self, value: Any, what: str) -> list[Row]:
        """``value`` as a list of dicts."""
        if type(value) is not list:
            self.refuse(f"{what} is of type {type(value).__name__}, not a list")
        self.count(len(value))
        if not set(map(type, value)) <= {dict}:
            self.refuse(f"{what} holds something that is not a dict")
        return value


def values(rows: Sequence[Row], key: str, default: Any) -> list[Any]:
    """One field of every row, ``default`` where it is missing."""
    try:
        return list(map(itemgetter(key), rows))
    except KeyError:
        if any(key in row for row in rows):
            return [row.get(key, default) for row in rows]
        return [default] * len(rows)


def integers(column: list[Any], what: str, source: Source, default: int = 0) -> NDArray[np.int64]:
    """A column of whole numbers; None counts as ``default``.

    Raises:
        ForeignInput: a value that is no whole number, or beyond 64 bits.
    """
    types = set(map(type, column))
    if not types <= {int}:
        if not types <= {int, bool, float, type(None)}:
            names = ", ".join(sorted(t.__name__ for t in types))
            source.refuse(f"{what} should be whole numbers, and has {names}")
        column = [_whole(value, what, source, default) for value in column]
    try:
        return np.array(column, dtype=np.int64)
    except OverflowError:
        # Handles and addresses are unsigned in C: keep the bits.
        try:
            return np.array(column, dtype=np.uint64).astype(np.int64)
        except (OverflowError, ValueError):
            source.refuse(f"{what} holds a number beyond 64 bits")


def _whole(value: Any, what: str, source: Source, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, float) and not value.is_integer():
        source.refuse(f"{what} should be whole numbers, and has {value!r}")
    return int(value)


def codes(
    column: list[Any], table: dict[str, int], unknown: Unknown, what: str, source: Source
) -> NDArray[np.uint8]:
    """A column of texts as their numbers in ``table``; any other is that of ``unknown``, which notes it."""
    if not set(map(type, column)) <= {str}:
        source.refuse(f"{what} should be texts")
    distinct = dict.fromkeys(column)
    numbers = {text: table.get(text, unknown.code) for text in distinct}
    unknown.names.update((text, None) for text in distinct if text not in table)
    return np.fromiter(map(numbers.__getitem__, column), dtype=np.uint8, count=len(column))


def flags(column: list[Any]) -> NDArray[np.bool_]:
    """A column of booleans; anything but True is False."""
    return np.array([value is True for value in column], dtype=np.bool_)


def pairs(column: list[Any], what: str, source: Source, default: tuple[int, int]) -> NDArray[np.int64]:
    """A column of pairs of whole numbers as int64[n, 2] (pool ids; a tuple in pickles, a list in JSON)."""
    if not set(map(type, column)) <= {tuple, list}:
        if not set(map(type, column)) <= {tuple, list, type(None)}:
            source.refuse(f"{what} should be pairs of numbers")
        column = [default if pair is None else pair for pair in column]
    if not set(map(len, column)) <= {2}:
        source.refuse(f"{what} should be pairs of numbers")
    out = np.empty((len(column), 2), dtype=np.int64)
    for side in (0, 1):
        out[:, side] = integers([pair[side] for pair in column], what, source)
    return out
