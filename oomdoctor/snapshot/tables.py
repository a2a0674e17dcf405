"""Rows, column by column, whatever form they are in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import contains
from typing import Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot.intern import StackTable, TextTable
from oomdoctor.snapshot.rows import Row, Source, Unknown, codes, integers, pairs, values


class Table(Protocol):
    """Rows of named fields. Every method gives one field as a column, a default where a row lacks it.

    All raise ForeignInput for a value of a wrong type.
    """

    def __len__(self) -> int: ...

    def keys(self) -> set[str]:
        """The names of all fields that any row has."""
        ...

    def integers(self, key: str, default: int, instead: Optional[str] = None) -> NDArray[np.int64]:
        """Whole numbers; ``instead`` names the field that stands in for a missing one."""
        ...

    def codes(self, key: str, table: dict[str, int], unknown: Unknown) -> NDArray[np.uint8]:
        """Texts as their numbers in ``table``."""
        ...

    def pairs(self, key: str, default: tuple[int, int]) -> NDArray[np.int64]:
        """Pairs of whole numbers, int64[n, 2]."""
        ...

    def texts(self, key: str, texts: TextTable) -> NDArray[np.int32]:
        """Texts as their numbers in ``texts``, to which new ones are added."""
        ...

    def stacks(self, key: str, stacks: StackTable) -> NDArray[np.int32]:
        """Lists of frames as their numbers in ``stacks``, to which new ones are added."""
        ...


class RowTable:
    """A :class:`Table` of dicts."""

    def __init__(self, rows: Sequence[Row], source: Source) -> None:
        self._rows, self._source = rows, source

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self) -> set[str]:
        return {key for key in set().union(*self._rows) if type(key) is str}

    def integers(self, key: str, default: int, instead: Optional[str] = None) -> NDArray[np.int64]:
        if instead is None or all(map(contains, self._rows, repeat(key))):
            column = values(self._rows, key, default)
        else:
            column = [row[key] if key in row else row.get(instead, default) for row in self._rows]
        return integers(column, key, self._source, default=default)

    def codes(self, key: str, table: dict[str, int], unknown: Unknown) -> NDArray[np.uint8]:
        return codes(values(self._rows, key, "unknown"), table, unknown, key, self._source)

    def pairs(self, key: str, default: tuple[int, int]) -> NDArray[np.int64]:
        return pairs(values(self._rows, key, default), key, self._source, default)

    def texts(self, key: str, texts: TextTable) -> NDArray[np.int32]:
        return texts.column(values(self._rows, key, ""))

    def stacks(self, key: str, stacks: StackTable) -> NDArray[np.int32]:
        return stacks.column(values(self._rows, key, None))
