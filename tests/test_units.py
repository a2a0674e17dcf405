"""Sizes as a person reads them."""

from __future__ import annotations

import pytest

from oomdoctor.units import GIB, MIB, format_bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (-1, "−1 byte"),
        (1023, "1023 bytes"),
        (MIB - 1, "1.00 MiB"),
        (5 * GIB // 2, "2.50 GiB"),
    ],
)
def test_sizes_in_words(size: int, text: str) -> None:
    assert format_bytes(size) == text
