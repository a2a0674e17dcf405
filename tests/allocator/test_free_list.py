"""The sorted list of free blocks: one number for most of the order, whatever pools and streams there are."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomdoctor.allocator.configure import config_of
from oomdoctor.allocator.conservation import violations
from oomdoctor.allocator.heap import key_of
from oomdoctor.allocator.heap_layout import (
    LARGEST_SIZE,
    MOST_POOLS,
    MOST_STREAMS,
    SIZE_SHIFT,
    Heap,
    grown,
    new_heap,
)
from oomdoctor.allocator.requests import OP_ALLOC, OP_FREE, TOTALS, Requests, run_requests
from oomdoctor.allocator.settings import Settings

NEAR = [0, 1, 2, 512, 513, 1024]


def near(limit: int) -> st.SearchStrategy[int]:
    return st.sampled_from(NEAR) | st.integers(limit - 2, limit + 3)


KEYS = st.tuples(
    near(MOST_POOLS), near(MOST_STREAMS), near(LARGEST_SIZE << SIZE_SHIFT) | st.integers(-(1 << 62), 1 << 62)
)


@settings(max_examples=2000, deadline=None)
@given(one=KEYS, other=KEYS)
def test_keys_are_never_out_of_order(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    of = key_of.py_func  # type: ignore[attr-defined]
    assert 0 <= of(*one) < 1 << 63
    assert (one <= other and of(*one) <= of(*other)) or (one > other and of(*one) >= of(*other))


def _run(requests: Requests, private_pools: int, release: tuple[int, int]) -> Heap:
    heap = new_heap(config_of(Settings(), release), private_pools)
    block_of = np.full(int(requests.birth.max()) + 1, -1, np.int64)
    at = 0
    while at < requests.acts:
        at, _ = run_requests(heap, requests, block_of, np.zeros(0, TOTALS), at, True)
        if at < requests.acts:
            heap = grown(heap)
    return heap


@pytest.mark.parametrize("release", [(2, 9), (2, 12), (2, 15)])  # ties by address, by block, by segment
def test_more_pools_and_streams_than_the_key_holds(release: tuple[int, int]) -> None:
    rng = random.Random(1)
    pools = [0, 1, 2, MOST_POOLS // 2 - 1, MOST_POOLS // 2, MOST_POOLS]
    streams = [0, 1, MOST_STREAMS, MOST_STREAMS + 1, MOST_STREAMS + 7]
    rows: list[tuple[int, int, int, int, int]] = []
    held: list[int] = []
    for birth in range(4000):
        size = rng.choice([512, 2048, 700_000, 3 << 20, 30 << 20])
        rows.append((OP_ALLOC, birth, size, rng.choice(streams), rng.choice(pools)))
        held.append(birth)
        while len(held) > 300 or (held and rng.random() < 0.45):
            rows.append((OP_FREE, held.pop(rng.randrange(len(held))), 0, 0, 0))
    columns = [np.array(column, np.int64) for column in zip(*rows)]
    requests = Requests(
        op=columns[0].astype(np.uint8),
        event=np.arange(len(rows), dtype=np.int64),
        birth=columns[1],
        requested_size=columns[2],
        stream=columns[3],
        private_pool=columns[4],
        capturing=np.zeros(len(rows), np.uint8),
    )
    for stop in (50, 500, len(rows)):
        heap = _run(Requests(*(column[:stop] for column in requests)), MOST_POOLS + 1, release)
        assert violations(heap) == []
    of = heap.blocks[heap.free_blocks["block"][: int(heap.stats["free"][0])]]
    assert (of["pool"] > MOST_POOLS).any()
    assert (of["stream"] > MOST_STREAMS).any()
