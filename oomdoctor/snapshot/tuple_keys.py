"""What tuples would cost as keys of dicts.

A tuple is hashed anew each time it is used as a key, and all that it holds with it. Sixty tuples, each of the
one before twice, take 2^60 steps; a tuple of a million numbers as a million keys takes days; one nested a
hundred thousand deep ends the C stack. So a pickle with any but pairs of numbers is first walked through
without building anything, and the cost is counted. ``Lib/pickletools.py`` of CPython describes the opcodes.
"""

from __future__ import annotations

import pickletools

from oomdoctor.errors import ForeignInput, UnsafeInput

_MOST_STEPS = 10_000_000
_DEEPEST = 100
_LARGEST = 8 << 20  # bytes of a file to walk through, at about two million a second
_MARK, _PLAIN = -1, 1
_PUTS = frozenset(("BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("BINGET", "LONG_BINGET"))
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def refuse_costly_keys(data: bytes, source: str) -> None:
    """Walk through a pickle whose opcodes have passed :mod:`oomdoctor.snapshot.plain_pickle`'s check.

    Raises:
        UnsafeInput: its keys would take too long to hash, or its tuples are nested too deeply.
        ForeignInput: its stack does not work out.
    """
    if len(data) > _LARGEST:
        raise UnsafeInput("a file of this size with tuples in it", where=source, why=_NONE)
    try:
        _walk(data, source)
    except (IndexError, KeyError, ValueError) as error:
        raise ForeignInput(
            "the pickle is damaged", where=source, why="its stack does not work out"
        ) from error


_NONE = "a recording has none but pairs of numbers"


def _walk(data: bytes, source: str) -> None:
    # What stands for a value is the steps to hash it, and its depth.
    stack: list[tuple[int, int]] = []
    memo: dict[int, tuple[int, int]] = {}
    plain, steps = (_PLAIN, 0), 0

    def above_mark() -> list[tuple[int, int]]:
        at = len(stack) - 1
        while stack[at][0] != _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        taken = stack[at + 1 :]
        del stack[at:]
        return taken

    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _GETS:
            stack.append(memo[argument])  # type: ignore[index]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _PUTS:
            memo[argument] = stack[-1]  # type: ignore[index]
        elif name == "MARK":
            stack.append((_MARK, 0))
        elif name in ("SETITEM", "SETITEMS"):
            items = above_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            steps += sum(cost for cost, _ in items[::2])
            if steps > _MOST_STEPS:
                raise UnsafeInput("the keys of its dicts are tuples without end", where=source, why=_NONE)
        elif name in ("APPEND", "APPENDS"):
            if name == "APPENDS":
                above_mark()
            else:
                stack.pop()
        elif name == "TUPLE" or name in _TUPLES:
            if name == "TUPLE":
                items = above_mark()
            else:
                items = stack[len(stack) - _TUPLES[name] :]
                del stack[len(stack) - _TUPLES[name] :]
            # Capped, lest the numbers themselves grow without end.
            cost = min(1 + sum(cost for cost, _ in items), 2 * _MOST_STEPS)
            depth = 1 + max((depth for _, depth in items), default=0)
            if depth > _DEEPEST:
                raise UnsafeInput("the file nests tuples", where=source, why=_NONE)
            stack.append((cost, depth))
        elif name not in ("FRAME", "PROTO", "STOP"):
            stack.append(plain)
