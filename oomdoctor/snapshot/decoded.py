"""A decoded pickle: what :mod:`oomdoctor.snapshot.machine` leaves in its arrays, and how it is run.

Its memory is bounded by the bytes read: every array may hold so many items a byte, far more than in any
recording; a file that wants more is declined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot import machine
from oomdoctor.snapshot.words import (
    BYTES,
    CONSTANT,
    CONSTANTS,
    DICT,
    FLOAT,
    INT,
    KIND_BITS,
    KIND_MASK,
    LIST,
    PAIR,
    TEXT,
    TUPLE,
    UNSIGNED,
    pair_sides,
)

_SPARE = 1 << 20
_DEEPEST = 200
# array -> the register that counts its items, its type, items a byte at most, items a byte to begin with
_GROWING: dict[str, tuple[int, Any, float, float]] = {
    "stack": (machine.STACK, np.int64, 1 / 2, 1 / 4096),
    "memo": (machine.MEMO, np.int64, 1 / 2, 1 / 24),
    "arena": (machine.ARENA, np.int64, 1.5, 1 / 12),
    "dict_shape": (machine.DICTS, np.int32, 1 / 8, 1 / 80),
    "dict_at": (machine.DICTS, np.int64, 1 / 8, 1 / 80),
    "run_at": (machine.RUNS, np.int64, 1 / 8, 1 / 128),
    "run_length": (machine.RUNS, np.int64, 1 / 8, 1 / 128),
    "run_room": (machine.RUNS, np.int64, 1 / 8, 1 / 128),
    "texts": (machine.TEXT_BYTES, np.uint8, 1, 1 / 64),
    "text_at": (machine.TEXTS, np.int64, 1 / 2, 1 / 4096),
}
_FIXED: dict[str, tuple[int, Any, int]] = {
    "text_cache": (machine.CACHE, np.int32, -1),
    "run_cache": (machine.CACHE, np.int64, -1),
    "keys": (machine.SHAPE_KEY_ROOM, np.int64, 0),
    "shape_at": (machine.MOST_SHAPES + 2, np.int64, 0),
    "shape_table": (machine.SHAPE_TABLE, np.int32, 0),
}
_ORDER = (
    "stack", "memo", "arena", "dict_shape", "dict_at", "run_at", "run_length", "run_room", "texts", "text_at",
    "text_cache", "run_cache", "keys", "shape_at", "shape_table",
)  # fmt: skip


class Declined(Exception):
    """Not a pickle that the machine reads; whether it is one at all is for others to say."""


class Decoded:
    """The values of one pickle.

    Attributes:
        root: the word of the whole.
    """

    def __init__(self, expected_bytes: int) -> None:
        """Args: expected_bytes: about how long the pickle is; a wrong guess costs time only."""
        self._registers = np.zeros(machine.REGISTERS, np.int64)
        self._registers[[machine.TOP_MARK, machine.PUTS]] = -1
        self._registers[machine.SHAPES] = 1  # shape 0 has no keys
        self._registers[machine.POSITION] = 2  # behind the protocol's number
        self._arrays: dict[str, NDArray[Any]] = {
            # Zeros take no memory until they are written to.
            **{
                name: np.zeros(1024 + int(min(expected_bytes, 1 << 33) * share), dtype)
                for name, (_, dtype, _, share) in _GROWING.items()
            },
            **{name: np.full(length, fill, dtype) for name, (length, dtype, fill) in _FIXED.items()},
        }
        self.root = 0
        self._values: dict[int, Any] = {}

    def feed(self, chunks: Iterable[bytes]) -> int:
        """Decode the pickle that ``chunks`` make up.

        Returns:
            How many bytes they were.

        Raises:
            Declined: it ends before its STOP, holds an opcode that builds no plain value, or would take
                more memory than a recording does.
        """
        registers = self._registers
        left = b""
        stopped = False
        total = 0
        for chunk in chunks:
            total += len(chunk)
            if stopped:
                continue
            data = left + chunk if left else chunk
            if len(data) < registers[machine.NEED]:
                left = data
                continue
            while True:
                status = self._run(np.frombuffer(data, np.uint8))
                if status != machine.WANTS_ROOM:
                    break
                self._grow()
            if status == machine.DECLINED:
                raise Declined
            stopped = status == machine.STOPPED
            position = int(registers[machine.POSITION])
            left = bytes(memoryview(data)[position:])
            registers[machine.CONSUMED] += position
            registers[machine.POSITION] = 0
        if not stopped or registers[machine.FRAME_END] > total:
            raise Declined
        self.root = int(self._arrays["stack"][0])
        for name in ("stack", "memo", "text_cache", "run_cache", "shape_table", "run_room"):
            del self._arrays[name]
        return total

    def _run(self, data: NDArray[np.uint8]) -> int:
        return int(machine.run(data, self._registers, *(self._arrays[name] for name in _ORDER)))

    def _grow(self) -> None:
        """Room for what the machine wants, twice what there was at least.

        Raises:
            Declined: more than the bytes read so far can honestly fill.
        """
        registers = self._registers
        read = int(registers[machine.CONSUMED] + registers[machine.POSITION])
        short_of, need = int(registers[machine.SHORT_OF]), int(registers[machine.NEED])
        for name, (register, dtype, most, _) in _GROWING.items():
            old = self._arrays[name]
            used = int(registers[register])
            wanted = used + 8 + (need if short_of in (register, -1) else 0)
            if wanted <= len(old):
                continue
            if wanted > _SPARE + most * read and name != "texts":
                raise Declined
            new = np.zeros(max(wanted, 2 * len(old)), dtype)
            new[: used + 1] = old[: used + 1]
            self._arrays[name] = new

    def value(self, word: int) -> Any:
        """A word as a Python value; containers that are one in the file are one object here.

        Raises:
            Declined: a text is not UTF-8, or it is nested deeper than any recording.
        """
        return self._value(word, 0)

    def _value(self, word: int, depth: int) -> Any:
        kind, index = word & KIND_MASK, word >> KIND_BITS
        if kind == INT:
            return index
        if kind == CONSTANT:
            return CONSTANTS[index]
        if kind == PAIR:
            return tuple(pair_sides(np.array([word]))[0].tolist())
        made = self._values.get(word)
        if made is None:
            if depth > _DEEPEST:
                raise Declined
            made = self._make(word, kind, index, depth + 1)
        return made

    def _make(self, word: int, kind: int, index: int, depth: int) -> Any:
        arena = self._arrays["arena"]
        if kind in (TEXT, BYTES):
            return self._values.setdefault(word, self._text(index, kind))
        if kind == DICT:
            made: dict[Any, Any] = {}
            self._values[word] = made
            keys, words = self.items(index)
            for key, item in zip(keys, words):
                made[key] = self._value(item, depth)
            return made
        if kind == LIST:
            items: list[Any] = []
            self._values[word] = items
            items.extend(self._all(index, depth))
            return items
        if kind == TUPLE:
            return self._values.setdefault(word, tuple(self._all(index, depth)))
        number = arena[index : index + 1]
        if kind == FLOAT:
            return float(number.view(np.float64)[0])
        return int(number.view(np.uint64)[0] if kind == UNSIGNED else number[0])

    def _all(self, index: int, depth: int) -> Iterator[Any]:
        made = self._values.get
        for word in self.run(index).tolist():
            value = made(word)
            yield self._value(word, depth) if value is None else value

    def _text(self, index: int, kind: int) -> Any:
        start, end = self._arrays["text_at"][index : index + 2].tolist()
        text = self._arrays["texts"][start:end].tobytes()
        if kind == BYTES:
            return text
        try:
            return text.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise Declined from error

    def run(self, index: int) -> NDArray[np.int64]:
        """The words in a list or tuple."""
        start = int(self._arrays["run_at"][index])
        run: NDArray[np.int64] = self._arrays["arena"][start : start + int(self._arrays["run_length"][index])]
        return run

    def runs(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where lists or tuples begin, and their lengths; of two that are not empty, the same is the same."""
        return self._arrays["run_at"][indices], self._arrays["run_length"][indices]

    def items(self, index: int) -> tuple[list[Any], list[int]]:
        """The keys and the words of the values of a dict."""
        keys = self.keys(int(self._arrays["dict_shape"][index]))
        start = int(self._arrays["dict_at"][index])
        return keys, self._arrays["arena"][start : start + len(keys)].tolist()

    def keys(self, shape: int) -> list[Any]:
        """The keys of all dicts of a shape."""
        start, end = self._arrays["shape_at"][shape : shape + 2].tolist()
        return [self._value(word, 0) for word in self._arrays["keys"][start:end].tolist()]

    def shapes(self, dicts: NDArray[np.int64]) -> NDArray[np.int32]:
        """The shape of each dict."""
        shapes: NDArray[np.int32] = self._arrays["dict_shape"][dicts]
        return shapes

    def field(self, dicts: NDArray[np.int64], place: int) -> NDArray[np.int64]:
        """The word of the value at ``place`` in each dict."""
        words: NDArray[np.int64] = self._arrays["arena"][self._arrays["dict_at"][dicts] + place]
        return words

    def wide(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers that do not lie in their words."""
        numbers: NDArray[np.int64] = self._arrays["arena"][words >> KIND_BITS]
        return numbers
