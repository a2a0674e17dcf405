"""Keeping each stack, frame and text once while a file is converted."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot.rows import Source
from oomdoctor.snapshot.stacks import NO_STACK, Frame, Stacks


class StackTable:
    """Numbers stacks and frames in the order of their first use.

    In a pickle a frame is one object, named again and again, and often a stack too, so both are looked up by
    identity first. Those seen are kept alive here, lest another object take the place of one.

    Args:
        shared: whether frames are shared objects (a pickle, live values) rather than copies (JSON).
    """

    def __init__(self, source: Source, *, shared: bool = True) -> None:
        self._source = source
        self._shared = shared
        self._kept: list[Any] = []
        self._by_list: dict[int, int] = {id(None): NO_STACK}
        self._by_identity: dict[tuple[int, ...], int] = {}
        self._by_frame: dict[Frame, int] = {}
        self._by_stack: dict[tuple[int, ...], int] = {}
        self._starts = array("q", [0])
        self._flat = array("i")

    def column(self, stacks: list[Any]) -> NDArray[np.int32]:
        """The numbers of recorded stacks (lists of frames); :data:`NO_STACK` for None or an empty one."""
        numbers = list(map(self._by_list.get, map(id, stacks)))
        if None in numbers:
            numbers = [
                self._number(frames) if number is None else number
                for number, frames in zip(numbers, stacks)
            ]  # fmt: skip
        return np.array(numbers, dtype=np.int32)

    def _number(self, frames: Any) -> int:
        if not frames:
            return NO_STACK
        if type(frames) is not list:
            self._source.refuse("frames should be a list")
        if not self._shared:
            return self._number_by_content(frames)
        identities = tuple(map(id, frames))
        number = self._by_identity.get(identities)
        if number is None:
            number = self._by_identity[identities] = self._number_by_content(frames)
        self._by_list[id(frames)] = number
        self._kept.append(frames)
        return number

    def _number_by_content(self, frames: list[Any]) -> int:
        self._source.count(len(frames), bytes_each=2)
        by_frame = self._by_frame
        stack = tuple([by_frame.setdefault(self._frame(frame), len(by_frame)) for frame in frames])
        number = self._by_stack.get(stack)
        if number is None:
            number = self._by_stack[stack] = len(self._starts) - 1
            self._flat.extend(stack)
            self._starts.append(len(self._flat))
        return number

    def _frame(self, frame: Any) -> Frame:
        if type(frame) is not dict:
            self._source.refuse("a frame should be a dict")
        name, filename, line = frame.get("name", ""), frame.get("filename", ""), frame.get("line", 0)
        if type(name) is not str or type(filename) is not str or type(line) is not int:
            self._source.refuse("a frame should have a name, a filename and a line")
        return Frame(name, filename, line)

    def stacks(self) -> Stacks:
        """Everything numbered so far."""
        return Stacks(
            frames=tuple(self._by_frame),
            starts=np.array(self._starts, dtype=np.int64),
            flat=np.array(self._flat, dtype=np.int32),
        )


NO_TEXT = -1


class TextTable:
    """Numbers texts in the order of their first use; :data:`NO_TEXT` for those that say nothing."""

    def __init__(self, empty: tuple[str, ...] = ("",)) -> None:
        self._numbers: dict[str, int] = {}
        self._empty = frozenset(empty)

    def column(self, texts: list[Any]) -> NDArray[np.int32]:
        """The numbers of texts (or of other plain values as a text: see :func:`_as_text`)."""
        if not set(map(type, texts)) <= {str}:
            texts = [text if type(text) is str else _as_text(text) for text in texts]
        numbers = {text: self._number(text) for text in dict.fromkeys(texts)}
        return np.fromiter(map(numbers.__getitem__, texts), dtype=np.int32, count=len(texts))

    def _number(self, text: str) -> int:
        return NO_TEXT if text in self._empty else self._numbers.setdefault(text, len(self._numbers))

    def texts(self) -> tuple[str, ...]:
        return tuple(self._numbers)


def _as_text(value: Any) -> str:
    """User metadata may be a dict: its plain values, as ``key=value``; forward frames are a list of lines."""
    if type(value) is list:
        return "".join(line for line in value[:_MOST_LINES] if type(line) is str)
    if type(value) is not dict:
        return str(value) if type(value) in (int, float, bool) else ""
    plain = (str, int, float, bool)
    return ", ".join(f"{k}={v}" for k, v in list(value.items())[:20] if type(k) is str and type(v) in plain)


_MOST_LINES = 1000
