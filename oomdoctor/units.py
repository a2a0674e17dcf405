"""Bytes and times to text and back, everywhere the same.

Sizes are integers in bytes, everywhere. Text uses binary units, as PyTorch does
(``c10::CachingDeviceAllocator::format_size``, torch 2.x).
"""

from __future__ import annotations

import re

from oomdoctor.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_BINARY = {"b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": TIB}
_DECIMAL = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")


def format_bytes(size_bytes: int) -> str:
    """Bytes as a person reads them: ``456.50 MiB``, two decimals, binary units, ``12 bytes`` below a KiB."""
    sign = "−" if size_bytes < 0 else ""
    magnitude = abs(size_bytes)
    if magnitude < KIB:
        return f"{sign}{magnitude} {'byte' if magnitude == 1 else 'bytes'}"
    for unit, factor in (("KiB", KIB), ("MiB", MIB), ("GiB", GIB)):
        value = magnitude / factor
        # Compare what will be printed, so that 1023.999 KiB becomes 1.00 MiB and never "1024.00 KiB".
        if value < 1023.99 or (value < 1024 and round(value, 2) < 1024):
            return f"{sign}{value:.2f} {unit}"
    return f"{sign}{magnitude / TIB:.2f} TiB"


def parse_size(text: str) -> int:
    """``SIZE`` of the command line, in bytes: ``24GiB``, ``1.5 TB``, ``1048576``.

    Raises:
        UsageError: not a size, or a unit that is not known.
    """
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(
            f"not a size: {text!r}", next_step="write bytes, or a number with a unit: 24GiB, 512 MiB, 80GB"
        )
    number, unit = match.group(1), match.group(2).lower()
    factor = 1 if unit == "" else _BINARY.get(unit) or _DECIMAL.get(unit)
    if factor is None:
        raise UsageError(
            f"unknown unit {match.group(2)!r} in size {text!r}",
            next_step="units are KiB, MiB, GiB, TiB (1024) and KB, MB, GB, TB (1000)",
        )
    return round(float(number) * factor) if "." in number else int(number) * factor


def format_seconds(seconds: float) -> str:
    """A duration as a person reads it: ``850 ms``, ``12.3 s``, ``4 min 10 s``."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
