"""Numbers in allocator settings, read as the C++ library reads them.

``std::stoi("64MB")`` is 64 and ``std::stoull("-1")`` is 2^64 - 1: torch accepts such texts, so they are
accepted here. Only the leading number counts; what follows it is dropped.
"""

from __future__ import annotations

import math
import re
from typing import Optional

U64 = 1 << 64
_SPACE = r"[ \t\n\v\f\r]*"
_INTEGER = re.compile(_SPACE + r"([+-]?\d+)", re.ASCII)
_HEX = re.compile(_SPACE + r"([+-]?0x(?:[\da-f]+\.?[\da-f]*|\.[\da-f]+)(?:p[+-]?\d+)?)", re.ASCII | re.I)
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_REAL = re.compile(_SPACE + rf"([+-]?(?:inf(?:inity)?|nan|{_DECIMAL}))", re.ASCII | re.I)
_STREAM_REAL = re.compile(rf"[+-]?{_DECIMAL}", re.ASCII | re.I)
# Below this a double loses bits, and strtod reports it as out of range.
_SMALLEST_NORMAL = 2.0**-1022


class NotANumber(ValueError):
    """``std::invalid_argument`` or ``std::out_of_range``; the text says which and why."""


def stoi(token: str) -> int:
    """A 32-bit ``int``, widened to ``size_t`` as the C++ does it: -1 becomes 2^64 - 1.

    Raises:
        NotANumber: no digits, or more than an ``int`` holds.
    """
    value = _leading_integer(token)
    if not -(1 << 31) <= value < 1 << 31:
        raise NotANumber("it does not fit into 32 bits")
    return value % U64


def stoull(token: str) -> int:
    """An ``unsigned long long``; a minus sign negates modulo 2^64.

    Raises:
        NotANumber: no digits, or more than 64 bits.
    """
    value = _leading_integer(token)
    if abs(value) >= U64:
        raise NotANumber("it does not fit into 64 bits")
    return value % U64


def stod(token: str) -> float:
    """A ``double``: decimal, hexadecimal, ``inf`` or ``nan``.

    Raises:
        NotANumber: no number, or one too large or too small for a ``double``.
    """
    hexadecimal = _HEX.match(token)
    match = hexadecimal or _REAL.match(token)
    if match is None:
        raise NotANumber("it is not a number")
    text = match.group(1)
    try:
        value = float.fromhex(text) if hexadecimal else float(text)
    except OverflowError:
        value = math.inf
    digits = re.split("[pP]" if hexadecimal else "[eE]", text)[0]
    overflown = math.isinf(value) and "inf" not in text.lower()
    if overflown or (abs(value) < _SMALLEST_NORMAL and re.search("[1-9a-fA-F]", digits)):
        raise NotANumber("it does not fit into a double")
    return value


def stream_double(token: str) -> Optional[float]:
    """A number as ``std::istream >> double`` takes it, the whole token; None for anything else."""
    if _STREAM_REAL.fullmatch(token) is None:
        return None
    value = float(token)
    return value if math.isfinite(value) else None


def is_read_whole(token: str, number: float) -> bool:
    """Whether a number read from a token is the one that a person would read there."""
    try:
        return float(token) == number
    except (ValueError, OverflowError):
        return _HEX.fullmatch(token) is not None


def is_power_of_two(value: int) -> bool:
    """``llvm::isPowerOf2_64``."""
    return value > 0 and value & (value - 1) == 0


def _leading_integer(token: str) -> int:
    match = _INTEGER.match(token)
    if match is None:
        raise NotANumber("it is not a whole number")
    digits = match.group(1)
    # No 64-bit number has more digits, and Python refuses to convert very long ones.
    return int(digits) if len(digits.lstrip("+-0")) <= 20 else U64
