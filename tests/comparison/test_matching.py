"""Sequences are matched in order, whole where they are alike, and fast."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomdoctor.comparison.matching import Alignment, align

_NUMBERS = st.lists(st.integers(0, 3), max_size=60)


def aligned(a: list[int], b: list[int]) -> Alignment:
    return align(np.array(a, np.int64), np.array(b, np.int64))


def pairs(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    found = aligned(a, b)
    return list(zip(found.a.tolist(), found.b.tolist()))


@given(_NUMBERS, _NUMBERS)
def test_matches_are_equal_and_in_order(a: list[int], b: list[int]) -> None:
    found = aligned(a, b)
    assert [a[i] for i in found.a] == [b[j] for j in found.b]
    assert (np.diff(found.a) > 0).all()
    assert (np.diff(found.b) > 0).all()
    assert a[: found.prefix] == b[: found.prefix]
    assert found.prefix == min(len(a), len(b)) or a[found.prefix] != b[found.prefix]


@given(_NUMBERS)
def test_a_sequence_is_all_itself(a: list[int]) -> None:
    found = aligned(a, a)
    assert found.is_all
    assert found.matched == len(a)


def test_what_is_left_out_and_put_in_is_stepped_over() -> None:
    a = list(range(100))
    assert pairs(a, a[:40] + a[45:]) == [(i, i if i < 40 else i - 5) for i in a if not 40 <= i < 45]
    assert pairs(a, [500, 501, *a]) == [(i, i + 2) for i in a]


def test_one_that_ends_early_is_a_beginning() -> None:
    found = aligned([1, 2, 3], [1, 2, 3, 4, 5])
    assert (found.prefix, found.matched, found.share) == (3, 3, 1.0)
    assert not found.is_all


def test_nothing_alike_and_nothing_at_all() -> None:
    assert aligned([1, 2], [3, 4]).matched == 0
    assert aligned([1, 2], [3, 4]).share == 0.0
    assert aligned([], [3]).share == 0.0
    assert aligned([], []).is_all


def test_a_long_stretch_put_in_is_stepped_over() -> None:
    """Farther than the walk looks."""
    own = np.random.default_rng(1)
    a = own.integers(0, 10**6, 6000)
    b = np.concatenate(
        [a[:1000], own.integers(10**7, 10**8, 3000), a[1000:3000], own.integers(10**7, 10**8, 2500), a[3000:]]
    )
    assert align(a, b).matched == 6000


def test_stretches_that_changed_places_are_matched_once() -> None:
    own = np.random.default_rng(2)
    short, long = own.integers(0, 10**6, 2000), own.integers(0, 10**6, 4000)
    a, b = np.concatenate([[1], short, long, [2]]), np.concatenate([[3], long, short, [4]])
    assert align(a, b).matched == 4000


@pytest.mark.parametrize("changes", [10, 5000])
def test_a_program_that_repeats_itself_is_matched_beyond_changes(changes: int) -> None:
    own = np.random.default_rng(3)
    a = np.tile(own.integers(1, 40, 500) * 512, 600)
    b = np.delete(a, own.choice(len(a), changes, replace=False))
    found = align(a, b)
    assert found.matched >= 0.999 * len(b)


def test_a_million_unlike_ones_take_seconds() -> None:
    own = np.random.default_rng(4)
    a, b = own.integers(0, 10, 500_000), own.integers(0, 10, 500_000)
    begin = time.perf_counter()
    align(a, b)
    assert time.perf_counter() - begin < 30
