"""Sizes as messages print them, to exact bytes.

PyTorch's ``format_size`` (c10/cuda/CUDACachingAllocator.cpp) divides by 1024 and prints two decimals and KiB,
MiB, GiB. MPS up to 2.6, PaddlePaddle, XGBoost and XLA print KB, MB, GB or a bare letter for the same powers
of 1024, so every unit here is binary.
"""

from __future__ import annotations

import re
from typing import Optional

SIZE = r"(?<![\d.,])\d[\d,]{0,30}(?:\.\d{1,20})?\s*(?:[KMGTPEkmgtpe][iI]?[Bb]|[KMGT]|[Bb]ytes?|B)(?![A-Za-z])"
"""A number with a unit. A number without one is a cut-off size, and no size. Bounded, so that no text of
digits can make a search slow."""

_PARTS = re.compile(r"\s*(\d[\d,]*)(?:\.(\d+))?\s*([A-Za-z]*)")
_EXPONENT = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


def to_bytes(text: str) -> Optional[int]:
    """``"456.50 MiB"`` in bytes: value × 1024^k, rounded to the nearest byte, in whole numbers throughout.

    A bare number is bytes. None where it is not a size.
    """
    match = _PARTS.match(text)
    if match is None:
        return None
    whole, decimals, unit = match.group(1).replace(",", ""), match.group(2) or "", match.group(3).lower()
    exponent = 0 if unit.startswith("byte") else _EXPONENT.get(unit[:1])
    if exponent is None or len(whole) + len(decimals) > 40:
        return None
    scale = int("1" + "0" * len(decimals))
    return (2 * int(whole + decimals) * (1 << 10 * exponent) + scale) // (2 * scale)
