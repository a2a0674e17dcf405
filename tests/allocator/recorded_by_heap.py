"""Recordings made by the heap itself, as PyTorch would have written them: programs, then a snapshot as plain
values. For properties that need many recordings and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from oomdoctor.allocator.configure import config_of
from oomdoctor.allocator.heap_layout import Heap, grown, new_heap
from oomdoctor.allocator.layout import layout_of
from oomdoctor.allocator.requests import (
    OP_ALLOC,
    OP_EMPTY_CACHE,
    OP_FREE,
    OP_FREE_COMPLETED,
    OP_FREE_REQUESTED,
    TOTALS,
    Requests,
    run_requests,
)
from oomdoctor.allocator.rules import TorchVersion
from oomdoctor.allocator.settings import Settings
from oomdoctor.snapshot.model import ACTIONS, STATES
from tests.snapshot.building import SETTINGS, event, snapshot

Json = dict[str, Any]
MIB = 1 << 20
HANDLES = (0, 0x5500, 0x7700)
RELEASE: TorchVersion = (2, 12)

# ("alloc", bytes, stream), ("free", which), ("defer", which), ("complete",), ("empty",)
Act = tuple[Any, ...]


def acts(most: int = 60) -> st.SearchStrategy[list[Act]]:
    """Programs that allocate, free, wait for other streams and empty the cache."""
    sizes = st.one_of(
        st.integers(1, 4096),
        st.sampled_from([512, MIB - 1, MIB, MIB + 1, 2 * MIB, 10 * MIB - 1, 10 * MIB, 20 * MIB, 35 * MIB]),
        st.integers(MIB, 60 * MIB),
    )
    which = st.integers(0, 10**6)
    one = st.one_of(
        st.tuples(st.just("alloc"), sizes, st.integers(0, len(HANDLES) - 1)),
        st.tuples(st.just("alloc"), sizes, st.just(0)),
        st.tuples(st.sampled_from(["free", "free", "defer"]), which),
        st.just(("complete",)),
        st.just(("empty",)),
    )
    return st.lists(one, max_size=most)


def run(
    heap: Heap, block_of: NDArray[np.int64], op: int, birth: int = 0, requested_size: int = 0, stream: int = 0
) -> Heap:
    """One act; the heap, with more room where it needed that."""
    requests = Requests(
        op=np.array([op], np.uint8),
        event=np.array([birth], np.int64),
        birth=np.array([birth], np.int64),
        requested_size=np.array([requested_size], np.int64),
        stream=np.array([stream], np.int64),
        private_pool=np.array([0], np.int64),
        capturing=np.array([0], np.uint8),
    )
    while run_requests(heap, requests, block_of, np.zeros(0, TOTALS), 0, True)[0] == 0:
        heap = grown(heap)
    return heap


def recorded(
    program: Sequence[Act], settings: Settings, *, keep: Optional[int] = None, torch: TorchVersion = RELEASE
) -> Json:
    """The snapshot of a program.

    Args:
        keep: only so many of the newest events, as a ring does.
    """
    config = config_of(settings, torch, writes_log=True)
    config["address_space"] = 1 << 36
    heap = new_heap(config, 0, rows=256, log_rows=1024)
    heap.stats["next_address"] = 1 << 40
    trace: list[Json] = []
    block_of = np.full(len(program), -1, np.int64)
    live: list[tuple[int, int, int, int]] = []  # birth, address, requested bytes, stream
    waiting: list[tuple[int, int, int, int]] = []

    def say(action: str, address: int, size: int, stream: int) -> None:
        trace.append(event(action, size, addr=address, stream=HANDLES[stream], time_us=1000 + 7 * len(trace)))

    def drain() -> None:
        for row in heap.log[: int(heap.stats["logged"][0])]:
            say(ACTIONS[row["action"]], int(row["ptr"]), int(row["size"]), int(row["stream"]))
        heap.stats["logged"] = 0

    def complete(entry: tuple[int, int, int, int]) -> None:
        nonlocal heap
        say("free_completed", *entry[1:])
        heap = run(heap, block_of, OP_FREE_COMPLETED, entry[0])

    for number, act in enumerate(program):
        if act[0] == "alloc":
            heap = run(heap, block_of, OP_ALLOC, number, act[1], act[2])
            drain()
            live.append((number, int(heap.blocks[block_of[number]]["ptr"]), act[1], act[2]))
            say("alloc", *live[-1][1:])
        elif act[0] in ("free", "defer") and live:
            entry = live.pop(act[1] % len(live))
            say("free_requested", *entry[1:])
            if act[0] == "free":
                say("free_completed", *entry[1:])
                heap = run(heap, block_of, OP_FREE, entry[0])
            else:
                heap = run(heap, block_of, OP_FREE_REQUESTED, entry[0])
                waiting.append(entry)
        elif act[0] == "complete" and waiting:
            complete(waiting.pop(0))
        elif act[0] == "empty":
            # It waits for every stream first.
            while waiting:
                complete(waiting.pop(0))
            heap = run(heap, block_of, OP_EMPTY_CACHE)
            drain()
    made = snapshot(
        *_segments(heap), traces=[trace if keep is None else trace[len(trace) - min(keep, len(trace)) :]]
    )
    made["allocator_settings"] = {
        **SETTINGS,
        "PYTORCH_CUDA_ALLOC_CONF": settings.text,
        "max_split_size": settings.max_split_size if settings.max_split_size < 1 << 62 else -1,
        "expandable_segments": settings.expandable_segments,
        "graph_capture_record_stream_reuse": False,
    }
    return made


def _segments(heap: Any) -> list[Json]:
    layout = layout_of(heap)
    out = []
    for first, after in zip(layout.first_block[:-1].tolist(), layout.first_block[1:].tolist()):
        rows = layout.blocks[first:after]
        states = [STATES[code] for code in layout.state[first:after].tolist()]
        active = [row for row, state in zip(rows, states) if state != "inactive"]
        allocated = [row for row, state in zip(rows, states) if state == "active_allocated"]
        out.append(
            {
                "device": 0,
                "address": int(rows["ptr"][0]),
                "total_size": int(rows["size"].sum()),
                "allocated_size": sum(int(row["size"]) for row in allocated),
                "active_size": sum(int(row["size"]) for row in active),
                "requested_size": sum(int(row["requested_size"]) for row in active),
                "stream": HANDLES[int(rows["stream"][0])],
                "segment_type": "small" if layout.is_small[first] else "large",
                "segment_pool_id": (0, 0),
                "is_expandable": bool(layout.expandable[first]),
                "frames": [],
                "blocks": [
                    {
                        "address": int(row["ptr"]),
                        "size": int(row["size"]),
                        "requested_size": int(row["requested_size"]),
                        "state": state,
                        "frames": [],
                    }
                    for row, state in zip(rows, states)
                ],
            }
        )
    return out
