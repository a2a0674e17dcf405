"""Rows, column by column, whatever form they are in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Protocol

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
        self._keys = {key for key in set().union(*rows) if type(key) is str}

    def __len__(self) -> int:
        return len(self._rows)

    def keys(self) -> set[str]:
        return self._keys

    def integers(self, key: str, default: int, instead: Optional[str] = None) -> NDArray[np.int64]:
        if instead in self._keys:
            column = [row[key] if key in row else row.get(instead, default) for row in self._rows]
        else:
            column = self._values(key, default)
        return integers(column, key, self._source, default=default)

    def codes(self, key: str, table: dict[str, int], unknown: Unknown) -> NDArray[np.uint8]:
        return codes(self._values(key, "unknown"), table, unknown, key, self._source)

    def pairs(self, key: str, default: tuple[int, int]) -> NDArray[np.int64]:
        return pairs(self._values(key, default), key, self._source, default)

    def texts(self, key: str, texts: TextTable) -> NDArray[np.int32]:
        return texts.column(self._values(key, ""))

    def stacks(self, key: str, stacks: StackTable) -> NDArray[np.int32]:
        return stacks.column(self._values(key, None))

    def _values(self, key: str, default: Any) -> list[Any]:
        # Most recordings lack some of the fields altogether.
        return values(self._rows, key, default) if key in self._keys else [default] * len(self._rows)
