"""The pickle machine, compiled: opcodes in, words out (:mod:`oomdoctor.snapshot.words`).

It knows the opcodes that build plain values and no other, makes no Python object, and calls nothing. Whatever
it does not know, or finds odd, it declines: then :mod:`oomdoctor.snapshot.plain_pickle` decides what the file
is, and says so. ``Lib/pickletools.py`` of CPython describes the opcodes.

Values are kept as this: *dicts* are a shape (their keys, kept once for all dicts with the same) and the words
of their values in the arena; lists and tuples are *runs* of the arena, the same run for lists of equal items,
for a recording repeats a few thousand stacks a million times; *texts* are kept once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from oomdoctor.snapshot.words import (
    BYTES,
    CONSTANT,
    DICT,
    FLOAT,
    INT,
    INT_LIMIT,
    KIND_BITS,
    KIND_MASK,
    LIST,
    MARK,
    NOTHING,
    PAIR,
    PAIR_BITS,
    PAIR_LIMIT,
    TEXT,
    TUPLE,
    UNSIGNED,
    WIDE,
)

# What a run of the machine ends with.
STOPPED, WANTS_BYTES, WANTS_ROOM, DECLINED = range(4)
# Its registers, in an array so that it can go on where it was.
(
    POSITION, STACK, TOP_MARK, MEMO, ARENA, DICTS, RUNS, TEXTS, TEXT_BYTES, SHAPES, SHAPE_KEYS, PUTS, NEED,
    SHORT_OF, CONSUMED, FRAME_END,
) = range(16)  # fmt: skip
REGISTERS = 16

# Bounds that no recording comes near; beyond them the file is declined.
MOST_SHAPES = 4096
MOST_KEYS = 256
SHAPE_TABLE = 4 * MOST_SHAPES
SHAPE_KEY_ROOM = MOST_SHAPES * 32 + 2 * MOST_KEYS
CACHE = 1 << 16  # places to look for an equal text, or an equal run
TRIES = 8  # of them; where none is free, the first one's is forgotten
LONGEST_TEXT = 64 << 20
LONGEST_SHARED = 512  # items of a run that is looked for
_MIX = 0x2545F4914F6CDD1D  # an odd number of many bits (xorshift*)

_NUMBER_MASK = (1 << PAIR_BITS) - 1


def _compiled(function: Any) -> Any:
    """Compiled at the first call, and kept for later processes.

    Raises:
        RuntimeError: there is no folder to keep it in; compiling each time takes longer than it saves.
    """
    return njit(cache=True, nogil=True)(function)


@_compiled
def _little_endian(data, start, count):  # type: ignore[no-untyped-def]
    value = np.int64(0)
    for i in range(count):
        value |= np.int64(data[start + i]) << (8 * i)
    return value


@_compiled
def _shape(keys, shape_at, table, registers, start, count):  # type: ignore[no-untyped-def]
    """The number of the shape with the ``count`` keys that lie at ``start``; −1 if it cannot be one."""
    mixed = np.int64(count)
    for i in range(count):
        mixed = (mixed ^ keys[start + i]) * _MIX
        mixed ^= mixed >> 29
    slot = mixed & (SHAPE_TABLE - 1)
    while table[slot] != 0:
        shape = table[slot]
        first = shape_at[shape]
        if shape_at[shape + 1] - first == count:
            same = True
            for i in range(count):
                if keys[first + i] != keys[start + i]:
                    same = False
                    break
            if same:
                return np.int64(shape)
        slot = (slot + 1) & (SHAPE_TABLE - 1)
    shape = registers[SHAPES]
    if shape >= MOST_SHAPES or start + count + 2 * MOST_KEYS > len(keys):
        return np.int64(-1)
    for i in range(count):
        kind = keys[start + i] & KIND_MASK
        if kind != TEXT and kind != INT:
            return np.int64(-1)
        for j in range(i):
            if keys[start + i] == keys[start + j]:
                return np.int64(-1)
    table[slot] = shape
    shape_at[shape + 1] = start + count
    registers[SHAPES] = shape + 1
    registers[SHAPE_KEYS] = start + count
    return np.int64(shape)


@_compiled
def run(  # type: ignore[no-untyped-def]
    data, registers, stack, memo, arena, dict_shape, dict_at, run_at, run_length, run_room,
    texts, text_at, text_cache, run_cache, keys, shape_at, shape_table,
):  # fmt: skip
    """Go on with the bytes ``data`` from ``registers[POSITION]``, until a STOP, or until something is needed.

    Returns:
        STOPPED: the value is the last on the stack. WANTS_BYTES: ``data`` ends within an opcode, at which the
        position stands. WANTS_ROOM: ``registers[NEED]`` more items must fit into what register
        ``registers[SHORT_OF]`` counts, or a few into every array where that is negative. DECLINED.
    """
    position, size = registers[POSITION], len(data)
    sp, mark, memo_top, puts = registers[STACK], registers[TOP_MARK], registers[MEMO], registers[PUTS]
    top, dicts, runs = registers[ARENA], registers[DICTS], registers[RUNS]
    text_count, text_bytes = registers[TEXTS], registers[TEXT_BYTES]
    before = registers[CONSUMED]
    status = DECLINED
    need = np.int64(0)
    short_of = np.int64(-1)
    while True:
        if position >= size:
            status = WANTS_BYTES
            break
        if (
            sp + 4 > len(stack)
            or memo_top + 4 > len(memo)
            or top + 4 > len(arena)
            or dicts + 4 > len(dict_at)
            or runs + 4 > len(run_at)
            or text_count + 4 > len(text_at)
        ):
            need = np.int64(4)
            status = WANTS_ROOM
            break
        op = data[position]
        left = size - position - 1
        if op == 0x6A or op == 0x68:  # LONG_BINGET, BINGET
            width = np.int64(4 if op == 0x6A else 1)
            if left < width:
                status = WANTS_BYTES
                break
            index = _little_endian(data, position + 1, width)
            if index >= memo_top or memo[index] == NOTHING:
                break
            stack[sp] = memo[index]
            sp += 1
            position += 1 + width
        elif op == 0x94:  # MEMOIZE
            if sp - 1 <= mark or puts >= 0:
                break
            memo[memo_top] = stack[sp - 1]
            memo_top += 1
            position += 1
        elif op == 0x71 or op == 0x72:  # BINPUT, LONG_BINPUT
            width = np.int64(4 if op == 0x72 else 1)
            if left < width:
                status = WANTS_BYTES
                break
            index = _little_endian(data, position + 1, width)
            # The two ways to put do not mix: MEMOIZE counts what was put so far.
            if sp - 1 <= mark or (puts < 0 and memo_top > 0):
                break
            if index + 4 > len(memo):
                need, short_of = index + 8 - memo_top, np.int64(MEMO)
                status = WANTS_ROOM
                break
            memo[index] = stack[sp - 1]
            memo_top = max(memo_top, index + 1)
            puts = np.int64(1)
            position += 1 + width
        elif op == 0x4B or op == 0x4A or op == 0x4D or op == 0x8A:  # BININT1, BININT, BININT2, LONG1
            if op == 0x8A:
                if left < 1 or left < 1 + data[position + 1]:
                    status = WANTS_BYTES
                    break
                width = np.int64(data[position + 1])
                start = position + 2
            else:
                width = np.int64(1 if op == 0x4B else 4 if op == 0x4A else 2)
                start = position + 1
                if left < width:
                    status = WANTS_BYTES
                    break
            kind = INT
            value = np.int64(0)
            if width < 8:
                value = _little_endian(data, start, width)
                if (op == 0x4A or op == 0x8A) and width > 0:
                    value = (value << (64 - 8 * width)) >> (64 - 8 * width)
            elif width == 8:
                value = _little_endian(data, start, 8)
            elif width == 9 and data[start + 8] == 0:
                value = _little_endian(data, start, 8)
                kind = UNSIGNED
            else:
                break
            if kind == UNSIGNED or value >= INT_LIMIT or value < -INT_LIMIT:
                arena[top] = value
                value = top
                top += 1
                kind = UNSIGNED if kind == UNSIGNED else WIDE
            stack[sp] = value << KIND_BITS | kind
            sp += 1
            position = start + width
        elif op == 0x28:  # MARK
            stack[sp] = mark << KIND_BITS | MARK
            mark = sp
            sp += 1
            position += 1
        elif op == 0x7D:  # EMPTY_DICT
            dict_shape[dicts] = 0
            dict_at[dicts] = top
            stack[sp] = dicts << KIND_BITS | DICT
            dicts += 1
            sp += 1
            position += 1
        elif op == 0x5D or op == 0x29:  # EMPTY_LIST, EMPTY_TUPLE
            run_at[runs] = top
            run_length[runs] = 0
            run_room[runs] = 0
            stack[sp] = runs << KIND_BITS | (LIST if op == 0x5D else TUPLE)
            runs += 1
            sp += 1
            position += 1
        elif op == 0x75 or op == 0x73:  # SETITEMS, SETITEM
            first = mark + 1 if op == 0x75 else sp - 2
            target = first - 2 if op == 0x75 else first - 1
            count = (sp - first) // 2
            if mark < 0 and op == 0x75:
                break
            below = stack[mark] >> KIND_BITS if op == 0x75 else mark
            if target <= below or (sp - first) % 2 or stack[target] & KIND_MASK != DICT:
                break
            number = stack[target] >> KIND_BITS
            shape = dict_shape[number]
            old = shape_at[shape + 1] - shape_at[shape]
            if old + count > MOST_KEYS:
                break
            if top + old + count + 4 > len(arena):
                need, short_of = old + count + 8, np.int64(ARENA)
                status = WANTS_ROOM
                break
            start = registers[SHAPE_KEYS]
            for i in range(old):
                keys[start + i] = keys[shape_at[shape] + i]
            for i in range(count):
                keys[start + old + i] = stack[first + 2 * i]
            found = _shape(keys, shape_at, shape_table, registers, start, old + count) if count else shape
            if found < 0:
                break
            if count:
                at = dict_at[number]
                dict_at[number] = top
                dict_shape[number] = found
                for i in range(old):
                    arena[top + i] = arena[at + i]
                for i in range(count):
                    arena[top + old + i] = stack[first + 2 * i + 1]
                top += old + count
            sp = target + 1
            mark = below
            position += 1
        elif op == 0x65 or op == 0x61:  # APPENDS, APPEND
            first = mark + 1 if op == 0x65 else sp - 1
            target = first - 2 if op == 0x65 else first - 1
            count = sp - first
            if mark < 0 and op == 0x65:
                break
            below = stack[mark] >> KIND_BITS if op == 0x65 else mark
            if target <= below or stack[target] & KIND_MASK != LIST:
                break
            number = stack[target] >> KIND_BITS
            old = run_length[number]
            if top + 2 * (old + count) + 4 > len(arena):
                need, short_of = 2 * (old + count) + 8, np.int64(ARENA)
                status = WANTS_ROOM
                break
            if old == 0 and 0 < count <= LONGEST_SHARED:
                mixed = count
                for i in range(first, sp):
                    mixed = (mixed ^ stack[i]) * _MIX
                    mixed ^= mixed >> 29
                slot = mixed & (CACHE - 1)
                at = np.int64(-1)
                for tried in range(TRIES):
                    twin = run_cache[slot ^ tried]
                    if twin < 0:
                        slot ^= tried
                        break
                    # A twin that has grown since has moved; its run is as it was for others only.
                    if run_length[twin] == count:
                        at = run_at[twin]
                        for i in range(count):
                            if arena[at + i] != stack[first + i]:
                                at = np.int64(-1)
                                break
                        if at >= 0:
                            break
                if at < 0:
                    at = top
                    for i in range(count):
                        arena[top + i] = stack[first + i]
                    top += count
                    run_cache[slot] = number
                run_at[number] = at
                run_length[number] = count
                run_room[number] = count  # full: a run that others may share never grows in place
            elif count:
                if old + count > run_room[number]:
                    at = run_at[number]
                    for i in range(old):
                        arena[top + i] = arena[at + i]
                    run_at[number] = top
                    run_room[number] = 2 * (old + count)
                    top += run_room[number]
                at = run_at[number] + old
                for i in range(count):
                    arena[at + i] = stack[first + i]
                run_length[number] = old + count
            sp = target + 1
            mark = below
            position += 1
        elif op == 0x8C or op == 0x58 or op == 0x8D or op == 0x43 or op == 0x42 or op == 0x8E:
            # SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, SHORT_BINBYTES, BINBYTES, BINBYTES8
            width = np.int64(1 if op == 0x8C or op == 0x43 else 4 if op == 0x58 or op == 0x42 else 8)
            if left < width:
                status = WANTS_BYTES
                break
            length = _little_endian(data, position + 1, width)
            if length < 0 or length > LONGEST_TEXT:
                break
            if left - width < length:
                need = length
                status = WANTS_BYTES
                break
            if text_bytes + length + 4 > len(texts):
                need, short_of = length + 8, np.int64(TEXT_BYTES)
                status = WANTS_ROOM
                break
            start = position + 1 + width
            mixed = length
            for i in range(start, start + length):
                mixed = (mixed ^ data[i]) * 1099511628211  # FNV-1a
            mixed ^= mixed >> 32
            slot = mixed & (CACHE - 1)
            text = np.int64(-1)
            for tried in range(TRIES):
                text = np.int64(text_cache[slot ^ tried])
                if text < 0:
                    slot ^= tried
                    break
                if text_at[text + 1] - text_at[text] == length:
                    at = text_at[text]
                    for i in range(length):
                        if texts[at + i] != data[start + i]:
                            text = np.int64(-1)
                            break
                    if text >= 0:
                        break
                else:
                    text = np.int64(-1)
            if text < 0:
                for i in range(length):
                    texts[text_bytes + i] = data[start + i]
                text = text_count
                text_bytes += length
                text_count += 1
                text_at[text_count] = text_bytes
                text_cache[slot] = text
            is_text = op == 0x8C or op == 0x58 or op == 0x8D
            stack[sp] = text << KIND_BITS | (TEXT if is_text else BYTES)
            sp += 1
            position = start + length
        elif op == 0x86 or op == 0x85 or op == 0x87 or op == 0x74:  # TUPLE2, TUPLE1, TUPLE3, TUPLE
            if op == 0x74:
                if mark < 0:
                    break
                first = mark + 1
                below = stack[mark] >> KIND_BITS
            else:
                first = sp - (op - 0x84)
                below = mark
                if first <= mark:
                    break
            count = sp - first
            target = mark if op == 0x74 else first
            word = np.int64(0)
            if count == 2 and stack[first] & KIND_MASK == INT and stack[first + 1] & KIND_MASK == INT:
                one, two = stack[first] >> KIND_BITS, stack[first + 1] >> KIND_BITS
                if -PAIR_LIMIT <= one < PAIR_LIMIT and -PAIR_LIMIT <= two < PAIR_LIMIT:
                    word = (one << PAIR_BITS | (two & _NUMBER_MASK)) << KIND_BITS | PAIR
            if word == 0:
                if top + count + 4 > len(arena):
                    need, short_of = count + 8, np.int64(ARENA)
                    status = WANTS_ROOM
                    break
                run_at[runs] = top
                run_length[runs] = count
                run_room[runs] = count
                for i in range(count):
                    arena[top + i] = stack[first + i]
                top += count
                word = runs << KIND_BITS | TUPLE
                runs += 1
            stack[target] = word
            sp = target + 1
            mark = below
            position += 1
        elif op == 0x4E or op == 0x88 or op == 0x89:  # NONE, NEWTRUE, NEWFALSE
            stack[sp] = (0 if op == 0x4E else op - 0x87) << KIND_BITS | CONSTANT
            sp += 1
            position += 1
        elif op == 0x47:  # BINFLOAT
            if left < 8:
                status = WANTS_BYTES
                break
            value = np.int64(0)
            for i in range(8):
                value = value << 8 | np.int64(data[position + 1 + i])
            arena[top] = value
            stack[sp] = top << KIND_BITS | FLOAT
            top += 1
            sp += 1
            position += 9
        elif op == 0x95:  # FRAME
            if left < 8:
                status = WANTS_BYTES
                break
            length = _little_endian(data, position + 1, 8)
            if length < 0 or length > 1 << 60:
                break
            position += 9
            registers[FRAME_END] = max(registers[FRAME_END], before + position + length)
        elif op == 0x2E:  # STOP
            if sp == 1 and mark < 0:
                position += 1
                status = STOPPED
            break
        else:
            break
    registers[POSITION] = position
    registers[STACK], registers[TOP_MARK], registers[MEMO], registers[PUTS] = sp, mark, memo_top, puts
    registers[ARENA], registers[DICTS], registers[RUNS] = top, dicts, runs
    registers[TEXTS], registers[TEXT_BYTES], registers[NEED] = text_count, text_bytes, need
    registers[SHORT_OF] = short_of
    return status
