"""Rows that never were dicts: columns straight from the words of a decoded pickle.

Each column is looked at as a whole. Where all of it has the one type that torch writes, arrays are turned
into arrays; where not, its values are made and go the way of :mod:`oomdoctor.snapshot.rows`, so that the
outcome is the same.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot.decoded import Declined, Decoded
from oomdoctor.snapshot.intern import NO_TEXT, StackTable, TextTable
from oomdoctor.snapshot.rows import Source, Unknown, codes, integers, pairs
from oomdoctor.snapshot.stacks import NO_STACK
from oomdoctor.snapshot.words import (
    DICT,
    INT,
    LIST,
    PAIR,
    TEXT,
    WIDE,
    indices,
    kinds,
    pair_sides,
    word_of,
)

_TABLES = "device_traces"
_TABLE = "host_traces"


class WordTable:
    """A :class:`~oomdoctor.snapshot.tables.Table` of the dicts in a list."""

    def __init__(self, decoded: Decoded, rows: NDArray[np.int64], source: Source) -> None:
        """Args: rows: words, all of them of dicts."""
        self._decoded, self._source = decoded, source
        self._dicts = indices(rows)
        shapes = decoded.shapes(self._dicts)
        self._places: list[tuple[Optional[NDArray[np.int64]], dict[Any, int]]] = []
        for shape in np.unique(shapes).tolist():
            # None stands for all rows: nearly always they have one shape.
            rows_of = np.flatnonzero(shapes == shape)
            self._places.append(
                (
                    None if len(rows_of) == len(shapes) else rows_of,
                    {key: place for place, key in enumerate(decoded.keys(shape))},
                )
            )

    def __len__(self) -> int:
        return len(self._dicts)

    def keys(self) -> set[str]:
        return {key for _, places in self._places for key in places if type(key) is str}

    def integers(self, key: str, default: int, instead: Optional[str] = None) -> NDArray[np.int64]:
        words = self._words(key, word_of(default), instead)
        found = kinds(words)
        if (found == INT).all():
            return indices(words)
        if ((found == INT) | (found == WIDE)).all():
            numbers = indices(words)
            wide = found == WIDE
            numbers[wide] = self._decoded.wide(words[wide])
            return numbers
        return integers(self._values(words), key, self._source, default=default)

    def codes(self, key: str, table: dict[str, int], unknown: Unknown) -> NDArray[np.uint8]:
        words = self._words(key, None)
        texts = self._distinct_texts(words)
        if texts is None:
            column = [("unknown" if word == 0 else self._decoded.value(word)) for word in words.tolist()]
            return codes(column, table, unknown, key, self._source)
        distinct, places = texts
        return codes(distinct, table, unknown, key, self._source)[places]

    def pairs(self, key: str, default: tuple[int, int]) -> NDArray[np.int64]:
        words = self._words(key, word_of(default))
        if (kinds(words) == PAIR).all():
            return pair_sides(words)
        return pairs(self._values(words), key, self._source, default)

    def texts(self, key: str, texts: TextTable) -> NDArray[np.int32]:
        words = self._words(key, None)
        numbers = np.full(len(words), NO_TEXT, np.int32)
        there = words != 0
        if there.any():
            found = self._distinct_texts(words[there])
            numbers[there] = (
                texts.column(self._values(words[there]))
                if found is None
                else texts.column(found[0])[found[1]]
            )
        return numbers

    def stacks(self, key: str, stacks: StackTable) -> NDArray[np.int32]:
        words = self._words(key, word_of(None))
        found = kinds(words)
        lists = found == LIST
        if not (lists | (words == word_of(None))).all():
            return stacks.column(self._values(words))
        numbers = np.full(len(words), NO_STACK, np.int32)
        starts, lengths = self._decoded.runs(indices(words[lists]))
        lists[lists] = lengths > 0
        # Equal starts are equal lists, and most lists are equal to one before.
        first, places = _first_uses(starts[lengths > 0])
        distinct = stacks.column([self._decoded.value(word) for word in words[lists][first].tolist()])
        numbers[lists] = distinct[places]
        return numbers

    def _words(self, key: str, default: Optional[int], instead: Optional[str] = None) -> NDArray[np.int64]:
        """The words of a field; ``default``, or 0, where a row lacks it."""
        column: Optional[NDArray[np.int64]] = None
        for rows, places in self._places:
            place = places.get(key, None if instead is None else places.get(instead))
            if rows is None and place is not None:
                return self._decoded.field(self._dicts, place)
            if column is None:
                column = np.full(len(self), default or 0, np.int64)
            if rows is not None and place is not None:
                column[rows] = self._decoded.field(self._dicts[rows], place)
        return np.empty(0, np.int64) if column is None else column

    def _distinct_texts(self, words: NDArray[np.int64]) -> Optional[tuple[list[str], NDArray[np.int64]]]:
        """The texts in the order of their first use, and which of them each row has; None if not all are."""
        if not (kinds(words) == TEXT).all():
            return None
        first, places = _first_uses(indices(words))
        return [self._decoded.value(word) for word in words[first].tolist()], places

    def _values(self, words: NDArray[np.int64]) -> list[Any]:
        return [self._decoded.value(word) for word in words.tolist()]


def _first_uses(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each distinct number (from 0 on) comes first, in that order, and which of these each is."""
    if not len(numbers):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # The last write to an item holds, so backwards it is the first use. Pages never written take no memory.
    rows = np.zeros(int(numbers.max()) + 1, np.int32)
    rows[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1, dtype=np.int32)
    is_first = rows[numbers] == np.arange(len(numbers), dtype=np.int32)
    first = np.flatnonzero(is_first)
    rows[numbers[first]] = np.arange(len(first), dtype=np.int32)
    return first, rows[numbers].astype(np.int64)


def top_level(decoded: Decoded, source: Source, known: frozenset[str]) -> Any:
    """The whole as Python values, but traces as :class:`WordTable`, and what is not ``known`` as None.

    Raises:
        Declined: it is laid out otherwise.
    """
    kind, number = decoded.root & 15, decoded.root >> 4
    if kind == LIST:
        return decoded.value(decoded.root)
    if kind != DICT:
        raise Declined
    top: dict[Any, Any] = {}
    for key, word in zip(*decoded.items(number)):
        if key == _TABLES:
            top[key] = [_table(decoded, trace, source) for trace in _items(decoded, word)]
        elif key == _TABLE:
            top[key] = _table(decoded, word, source)
        else:
            top[key] = decoded.value(word) if key in known else None
    return top


def _items(decoded: Decoded, word: int) -> list[int]:
    if word & 15 != LIST:
        raise Declined
    items: list[int] = decoded.run(word >> 4).tolist()
    return items


def _table(decoded: Decoded, word: int, source: Source) -> WordTable:
    if word & 15 != LIST:
        raise Declined
    rows = decoded.run(word >> 4)
    if not (kinds(rows) == DICT).all():
        raise Declined
    source.count(len(rows))
    return WordTable(decoded, rows, source)
