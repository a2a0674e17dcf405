"""The picklers that write snapshots, or rewrite them."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from typing import Any, Callable


def python_pickler(value: Any, protocol: int) -> bytes:
    """Python's own pickler, which CPython takes where the one in C is missing."""
    out = io.BytesIO()
    pickle._Pickler(out, protocol).dump(value)  # type: ignore[attr-defined]
    return out.getvalue()


def without_memo(value: Any, protocol: int) -> bytes:
    out = io.BytesIO()
    pickler = pickle.Pickler(out, protocol)
    pickler.fast = True
    pickler.dump(value)
    return out.getvalue()


def optimized(value: Any, protocol: int) -> bytes:
    return pickletools.optimize(pickle.dumps(value, protocol))


def upstream(value: Any, _protocol: int = 2) -> bytes:
    """As torch/csrc/jit/serialization/pickler.cpp writes: protocol 2, containers memoized when they are
    complete, all items of a list in one go, long numbers in eight bytes."""
    out = bytearray(b"\x80\x02")
    memo: dict[int, int] = {}
    texts: dict[str, int] = {}

    def put(number: int) -> None:
        out.extend(b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number))

    def get(number: int) -> None:
        out.extend(b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number))

    def push(item: Any) -> None:
        if item is None or item is True or item is False:
            out.extend(b"N" if item is None else b"\x88" if item else b"\x89")
        elif type(item) is int:
            if 0 <= item < 256:
                out.extend(b"K" + bytes([item]))
            elif 0 <= item < 1 << 16:
                out.extend(b"M" + struct.pack("<H", item))
            elif -(1 << 31) <= item < 1 << 31:
                out.extend(b"J" + struct.pack("<i", item))
            else:
                out.extend(b"\x8a\x08" + struct.pack("<q", item))
        elif type(item) is float:
            out.extend(b"G" + struct.pack(">d", item))
        elif type(item) is str:
            if item in texts:
                get(texts[item])
                return
            encoded = item.encode()
            out.extend(b"X" + struct.pack("<I", len(encoded)) + encoded)
            texts[item] = len(memo) + len(texts)
            put(texts[item])
        elif id(item) in memo:
            get(memo[id(item)])
        else:
            if type(item) is dict:
                out.extend(b"}(")
                for key, one in item.items():
                    push(key)
                    push(one)
                out.extend(b"u")
            elif type(item) is list:
                out.extend(b"](")
                for one in item:
                    push(one)
                out.extend(b"e")
            else:
                out.extend(b"" if len(item) in (1, 2, 3) else b"(")
                for one in item:
                    push(one)
                out.extend({1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(item), b"t"))
            memo[id(item)] = len(memo) + len(texts)
            put(memo[id(item)])

    push(value)
    return bytes(out + b".")


PICKLERS: dict[str, Callable[[Any, int], bytes]] = {
    "C": pickle.dumps,
    "Python": python_pickler,
    "without memo": without_memo,
    "optimized": optimized,
}
