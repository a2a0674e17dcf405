"""How many bytes a request takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.compiled import compiled, compiled_entry
from oomdoctor.allocator.constants import MIN_BLOCK_SIZE


@compiled
def roundup_power2_next_division(size: int, divisions: int) -> int:
    """The next of ``divisions`` equal steps between two powers of two (method of the same name)."""
    if size <= 4 or divisions <= 1 or size & (size - 1) == 0:
        return size
    power2_floor = 1
    while power2_floor << 1 <= size:
        power2_floor <<= 1
    shift = 0
    while divisions >> (shift + 1):
        shift += 1
    power2_division = power2_floor >> shift
    if power2_division == 0:
        return power2_floor << 1
    round_size_floor = size & ~(power2_division - 1)
    return size if round_size_floor == size else round_size_floor + power2_division


@compiled
def rounded(size: int, divisions: NDArray[Any], unrounded_division_of_one: bool) -> int:
    """``round_size``: bytes asked for to bytes of the block, before any splitting.

    Args:
        divisions: int64[16], ``roundup_power2_divisions``: slot i is for sizes from 2^i MiB on, the first
            also for all below, the last for all above.
        unrounded_division_of_one: before 2.4 a division of one left sizes as they were (pull 126830).
    """
    if size < MIN_BLOCK_SIZE:
        return MIN_BLOCK_SIZE
    slot = 0
    double_megabytes = size >> 21
    while double_megabytes and slot < 15:
        slot += 1
        double_megabytes >>= 1
    count = divisions[slot]
    if count > (0 if unrounded_division_of_one else 1) and size > MIN_BLOCK_SIZE * count:
        return roundup_power2_next_division(size, count)
    return MIN_BLOCK_SIZE * ((size + MIN_BLOCK_SIZE - 1) // MIN_BLOCK_SIZE)


@compiled_entry
def _rounded_all(
    sizes: NDArray[Any], divisions: NDArray[Any], unrounded_division_of_one: bool
) -> NDArray[Any]:
    out = np.empty_like(sizes)
    for i in range(len(sizes)):
        out[i] = rounded(sizes[i], divisions, unrounded_division_of_one)
    return out


def rounded_sizes(
    sizes: NDArray[np.int64], divisions: tuple[int, ...], *, unrounded_division_of_one: bool = False
) -> NDArray[np.int64]:
    """:func:`rounded` for many sizes, int64[n] to int64[n], bytes."""
    out: NDArray[np.int64] = _rounded_all(sizes, np.array(divisions, np.int64), unrounded_division_of_one)
    return out
