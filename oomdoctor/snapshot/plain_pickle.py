r"""Pickles without their power: only plain values come out, and nothing is ever executed.

A snapshot needs few of the pickle machine's opcodes: those that push plain values, build dicts, lists and
flat tuples of numbers, and use the memo. That is a regular language, so a regular expression checks a file at
the speed of C before anything is built (``Lib/pickletools.py`` of CPython describes the opcodes). Only a file
that passes, up to its STOP, is then decoded by CPython's own unpickler, whose ``find_class`` and
``persistent_load`` refuse as well. What the check rules out, beyond code:

- the extension registry (EXT1, EXT2, EXT4), which bypasses ``find_class`` once its cache is warm;
- lengths beyond the end of the file and memo slots beyond its size, for which CPython allocates first and
  fails later;
- tuples that as keys of a dict take too long to hash, or so deep that the C stack ends
  (:mod:`oomdoctor.snapshot.tuple_keys`);
- containers packed so densely that the file multiplies a hundredfold in memory;
- sets, byte arrays, out-of-band buffers, and the text opcodes of protocols 0 and 1.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import sys
from typing import Any, NoReturn

from oomdoctor.errors import ForeignInput, NewerInput, OomdoctorError, TruncatedInput, UnsafeInput
from oomdoctor.snapshot.tuple_keys import refuse_costly_keys

NEWEST_PROTOCOL = 5

_LONG = (
    rb"\x8a(?:\x06......|\x05.....|\x08........|\x07.......|\x00|\x01.|\x02..|\x03...|\x04....|\x09.........)"
)
_NUMBER = rb"(?:K.|J....|" + _LONG + rb"|M..|G........|[N\x88\x89])"
# A number may turn out to be the first of a tuple, in the middle of which a new frame may begin.
_GAP = rb"(?:\x95...\x00\x00\x00\x00\x00|)"
_REST_OF_TUPLE = (
    rb"(?:" + _GAP + rb"\x85|" + _GAP + _NUMBER + _GAP + rb"(?:\x86|" + _NUMBER + _GAP + rb"\x87)|)"
)
# In the order of how often a recording has them: memo, containers, numbers, short texts.
_TOKENS = (
    rb"j....", rb"h.", rb"\x94", rb"[}\]()aeus]+",
    rb"K." + _REST_OF_TUPLE, rb"J...." + _REST_OF_TUPLE, _LONG + _REST_OF_TUPLE,
    rb"(?:M..|G........|[N\x88\x89])" + _REST_OF_TUPLE,
    rb"\x8c(?:\x00|\x01.|\x02..|\x03...|\x04....|\x05.....)", rb"q.",
)  # fmt: skip
# The engine need not keep a way back out of a run; before Python 3.11 it cannot be told, so runs are short.
_REPEAT = rb"*+" if sys.version_info >= (3, 11) else rb"{0,1000}"

# opcode -> bytes of its length, for what comes with its length in front
_COUNTED = {
    b"\x8c": 1,  # SHORT_BINUNICODE
    b"X": 4,  # BINUNICODE
    b"\x8d": 8,  # BINUNICODE8
    b"C": 1,  # SHORT_BINBYTES
    b"B": 4,  # BINBYTES
    b"\x8e": 8,  # BINBYTES8
}
# Tuples of one to three of anything, and of more. A few of three at most, each of the others, hash in half a
# million steps; beyond that it must be looked at what they are used for.
_OTHER_TUPLES = (b"\x85", b"\x86", b"\x87", b"t")
_MOST_ODD_TUPLES = 12
_FRAME = b"\x95"
_STOP = b"."
_CALLS = {
    b"R": "REDUCE", b"b": "BUILD", b"o": "OBJ", b"\x81": "NEWOBJ", b"\x92": "NEWOBJ_EX",
    b"\x82": "EXT1", b"\x83": "EXT2", b"\x84": "EXT4", b"P": "PERSID", b"Q": "BINPERSID",
}  # fmt: skip
_GLOBALS = (b"c", b"i", b"\x93")  # GLOBAL, INST, STACK_GLOBAL
_LONGEST_FIXED = 11  # LONG1 of nine bytes
_SEARCHABLE = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}


def load_plain_pickle(data: bytes, source: str) -> Any:
    """Decode a pickle of protocol 2 to 5 that holds nothing but plain values.

    Returns:
        dict, list, tuple, str, bytes, int, float, bool or None, nested.

    Raises:
        UnsafeInput: it asks for code, by name, or for more memory than a recording does.
        TruncatedInput: it ends before its STOP.
        NewerInput: a protocol above 5.
        ForeignInput: damaged, or not written by PyTorch.
    """
    end = _check(data, source)
    return _decode(data if end == len(data) else data[:end], source)


def _check(data: bytes, source: str) -> int:
    """The number of bytes up to and with STOP; raises for all that is not a plain pickle."""
    if data[:1] != b"\x80" or len(data) < 2:
        raise TruncatedInput("the pickle has no first opcode", where=source)
    if data[1] > NEWEST_PROTOCOL:
        raise NewerInput(
            f"pickle protocol {data[1]}; this oomdoctor knows protocols 2 to {NEWEST_PROTOCOL}",
            where=source,
            next_step="update oomdoctor, or write it again with pickle.dump(snapshot, file, protocol=4)",
        )
    if data[1] < 2:
        raise ForeignInput(f"pickle protocol {data[1]}; torch writes protocol 2 and later", where=source)
    _refuse_dense(data, source)
    run = _grammar(len(data))
    position, size = 2, len(data)
    odd_tuples = 0
    while True:
        matched = run.match(data, position)
        assert matched is not None  # it matches the empty run
        position = matched.end()
        opcode = data[position : position + 1]
        if opcode in _COUNTED:
            width = _COUNTED[opcode]
            start = position + 1 + width
            position = start + int.from_bytes(data[position + 1 : start], "little")
            if position > size:
                _truncated(source, size)
        elif opcode == _FRAME:
            length = int.from_bytes(data[position + 1 : position + 9], "little")
            position += 9
            if position + length > size:
                _truncated(source, size)
        elif opcode == _STOP:
            if odd_tuples > _MOST_ODD_TUPLES:
                refuse_costly_keys(data[: position + 1], source)
            return position + 1
        elif opcode in _OTHER_TUPLES:
            odd_tuples += 1 if opcode != b"t" else 1 + _MOST_ODD_TUPLES
            position += 1
        elif matched.end() == matched.start():
            _refuse(data, position, source)


def _grammar(size: int) -> re.Pattern[bytes]:
    """The expression for a run of tokens in a file of ``size`` bytes.

    LONG_BINPUT may name no memo slot beyond the file's size (to 64 KiB): CPython makes the table at once.
    """
    top = min(size >> 16, 0xFFFF)
    low, high = (re.escape(bytes([byte])) for byte in (top & 0xFF, top >> 8))
    below = rb"|.[\x00-" + re.escape(bytes([(top >> 8) - 1])) + rb"]" if top >> 8 else rb""
    slot = rb"(?:[\x00-" + low + rb"]" + high + below + rb")"
    tokens = (*_TOKENS, rb"r.." + slot)
    return re.compile(rb"(?:" + rb"|".join(tokens) + rb")" + _REPEAT, re.DOTALL)


def _refuse_dense(data: bytes, source: str) -> None:
    """An empty dict costs a byte in the file and 70 in memory; a recording has one in 30 bytes at most.

    A put costs a byte and up to 24 while the memo grows, a mark 8 and as many; None 8, and as many in a list.
    """
    for what, bytes_each, opcodes in (
        ("containers", 6, (b"}", b"]")),
        ("puts", 3, (b"\x94",)),
        ("marks", 3, (b"(",)),
        ("constants", 2, (b"N", b"\x88", b"\x89")),
    ):
        found = sum(map(data.count, opcodes))
        if found > max(len(data) // bytes_each, 1 << 20):
            raise UnsafeInput(
                f"{found:,} {what} in {len(data):,} bytes would fill the memory",
                where=source,
                why="no recording is packed like this",
            )


def _refuse(data: bytes, position: int, source: str) -> NoReturn:
    opcode = data[position : position + 1]
    if opcode in _GLOBALS:
        # All before it has passed and find_class ends it here, so this runs nothing and learns the name.
        _decode(data, source)
    if opcode in _CALLS:
        raise UnsafeInput(
            f"the file asks for code to be run (opcode {_CALLS[opcode]} at byte {position:,})",
            where=source,
            why="a memory snapshot holds plain values only",
            next_step="do not open this file with pickle.load either, unless you trust who made it",
        )
    if len(data) - position < _LONGEST_FIXED and opcode in _SEARCHABLE:
        _truncated(source, len(data))
    if opcode == b"":
        _truncated(source, len(data))
    name = _SEARCHABLE.get(opcode)
    raise ForeignInput(
        "this is no snapshot of PyTorch's, or it is damaged",
        where=source,
        why=f"byte {position:,} is 0x{opcode.hex()}, {name or 'no opcode'}",
        next_step=_HOW_TO_WRITE_ONE,
    )


_HOW_TO_WRITE_ONE = "snapshots are written by torch.cuda.memory._dump_snapshot(FILE) and by oomdoctor trace"


def _truncated(source: str, size: int) -> NoReturn:
    raise TruncatedInput(
        f"the pickle ends before it is complete, after {size:,} bytes",
        where=source,
        why="the writing was cut short: a full disk, a killed process, or a copy that is still under way",
        next_step="copy it again, or take another snapshot of the run",
    )


class _PlainUnpickler(pickle.Unpickler):
    """CPython's unpickler with every door shut; the second lock behind :func:`_check`."""

    source = ""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise UnsafeInput(
            f"the file asks for {_printable(module)}.{_printable(name)}",
            where=self.source,
            why="a memory snapshot holds plain values only; oomdoctor never loads code from a file",
            next_step="do not open this file with pickle.load either, unless you trust who made it",
        )

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafeInput("the file asks for a persistent object", where=self.source)


def _printable(name: object) -> str:
    return ascii(str(name)[:80])[1:-1]


def _decode(data: bytes, source: str) -> Any:
    # A buffered reader can peek, which saves protocols 2 and 3 (no frames) a call per opcode.
    unpickler = _PlainUnpickler(io.BufferedReader(io.BytesIO(data), 1 << 16))
    unpickler.source = source
    try:
        return unpickler.load()
    except OomdoctorError:
        raise
    except MemoryError as error:
        raise UnsafeInput("the file needs more memory than there is", where=source) from error
    except Exception as error:
        # Stack underflow, a memo slot never filled, an append to a dict, a text that is not UTF-8.
        raise ForeignInput(
            "the pickle is damaged", where=source, why=str(error)[:200], next_step=_HOW_TO_WRITE_ONE
        ) from error
