"""Plain values as 64-bit words: a kind in the low four bits, what it is above them.

A file of a million dicts becomes a few arrays of such words (:mod:`oomdoctor.snapshot.machine`). Small values
lie in the word itself; the rest of a word is an index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

KIND_BITS = 4
KIND_MASK = (1 << KIND_BITS) - 1
(
    NOTHING,  # a memo slot never filled
    INT,  # a whole number of up to 60 bits
    WIDE,  # a whole number of 64 bits, at this index of the arena
    UNSIGNED,  # the same, unsigned
    FLOAT,  # its bits are at this index of the arena
    CONSTANT,  # 0 None, 1 True, 2 False
    TEXT,  # number of a text
    BYTES,  # number of a text, the bytes of which are meant
    DICT,  # number of a dict
    LIST,  # number of a run
    TUPLE,  # number of a run
    PAIR,  # a tuple of two whole numbers of up to 30 bits
    MARK,  # on the machine's stack: what was pushed since; the index of the mark below
) = range(13)

CONSTANTS = (None, True, False)
PAIR_BITS = 30
PAIR_LIMIT = 1 << (PAIR_BITS - 1)
INT_LIMIT = 1 << (63 - KIND_BITS)


def kinds(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """The kind of each word."""
    return np.bitwise_and(words, KIND_MASK)


def indices(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """What stands above the kind: a number's value, or an index."""
    return np.right_shift(words, KIND_BITS)


def pair_sides(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """The two numbers of words of the kind PAIR, int64[n, 2]."""
    both = indices(words)
    right = np.bitwise_and(both, (1 << PAIR_BITS) - 1)
    right -= (right >= PAIR_LIMIT).astype(np.int64) << PAIR_BITS
    return np.stack([np.right_shift(both, PAIR_BITS), right], axis=1)


def word_of(value: Any) -> int:
    """The word of a value that needs no arena: None, a bool, a small number, a pair of such.

    Raises:
        ValueError: it needs one.
    """
    if value is None or value is True or value is False:
        return CONSTANTS.index(value) << KIND_BITS | CONSTANT
    if type(value) is int and -INT_LIMIT <= value < INT_LIMIT:
        return value << KIND_BITS | INT
    if type(value) is tuple and len(value) == 2:
        left, right = int(value[0]), int(value[1])
        return ((left << PAIR_BITS) | (right & ((1 << PAIR_BITS) - 1))) << KIND_BITS | PAIR
    raise ValueError(f"no word for {value!r}")
