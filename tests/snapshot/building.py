"""Small snapshots whose invariants hold: blocks tile their segments, sums agree. Layout of torch 2.12."""

from __future__ import annotations

from typing import Any, Optional

MIB = 1 << 20
Json = dict[str, Any]


def frame(name: str, filename: str, line: int = 1) -> Json:
    return {"name": name, "filename": filename, "line": line}


TORCH = frame("linear", "/env/lib/python3.11/site-packages/torch/nn/functional.py", 100)
_PACKAGES = "/env/lib/python3.11/site-packages"
LIBRARY = frame("forward", f"{_PACKAGES}/transformers/models/llama/modeling_llama.py", 123)
USER = frame("main", "/home/me/work/infer.py", 7)
CACHE = frame("update", f"{_PACKAGES}/transformers/cache_utils.py", 88)


def block(size: int, state: str = "inactive", requested: Optional[int] = None, stack: Any = None) -> Json:
    return {
        "address": 0,
        "size": size,
        "requested_size": size if requested is None else requested,
        "state": state,
        "frames": stack or [],
    }


def live(size: int, requested: Optional[int] = None, stack: Any = None) -> Json:
    return block(size, "active_allocated", requested, stack if stack is not None else [TORCH, LIBRARY, USER])


def pending(size: int) -> Json:
    return block(size, "active_pending_free", size, [USER])


def hole(size: int) -> Json:
    return block(size)


def segment(
    address: int,
    *blocks: Json,
    device: int = 0,
    stream: int = 0,
    pool: tuple[int, int] = (0, 0),
    small: bool = False,
    expandable: bool = False,
) -> Json:
    """A segment tiled by its blocks, from ``address`` on."""
    position = address
    for one in blocks:
        one["address"] = position
        position += one["size"]
    active = [b for b in blocks if b["state"] != "inactive"]
    return {
        "device": device,
        "address": address,
        "total_size": sum(b["size"] for b in blocks),
        "allocated_size": sum(b["size"] for b in blocks if b["state"] == "active_allocated"),
        "active_size": sum(b["size"] for b in active),
        "requested_size": sum(b["requested_size"] for b in active),
        "stream": stream,
        "segment_type": "small" if small else "large",
        "segment_pool_id": pool,
        "is_expandable": expandable,
        "frames": [],
        "blocks": list(blocks),
    }


def event(
    action: str, size: int, *, addr: int = 4096, stream: int = 0, time_us: int = 1, **more: Any
) -> Json:
    found = {
        "action": action,
        "addr": addr,
        "size": size,
        "stream": stream,
        "time_us": time_us,
        "compile_context": "N/A",
        "user_metadata": "",
        "pool_id": (0, 0),
        **more,
    }
    if action == "oom":
        found["device_free"] = found.pop("addr")
    return found


SETTINGS: Json = {
    "PYTORCH_CUDA_ALLOC_CONF": "",
    "max_split_size": -1,
    "garbage_collection_threshold": 0.0,
    "expandable_segments": False,
    "roundup_power2_divisions": {"1": 0, "2": 0},
}


def snapshot(*segments: Json, traces: Optional[list[list[Json]]] = None, **more: Any) -> Json:
    return {
        "segments": list(segments),
        "device_traces": traces if traces is not None else [[]],
        "allocator_settings": dict(SETTINGS),
        "external_annotations": [],
        **more,
    }


def ordinary() -> Json:
    """Two segments, three holes, a few events on device 0, nothing on device 1."""
    stack = [TORCH, LIBRARY, USER]
    return snapshot(
        segment(0x7F0000000000, live(4 * MIB), hole(8 * MIB), live(2 * MIB, 2 * MIB - 100), hole(6 * MIB)),
        segment(0x7F0010000000, live(MIB // 2), hole(3 * MIB // 2), small=True),
        traces=[
            [
                event("segment_alloc", 20 * MIB, addr=0x7F0000000000, frames=stack, time_us=10),
                event("alloc", 4 * MIB, addr=0x7F0000000000, frames=stack, time_us=11),
                event("free_requested", 4 * MIB, addr=0x7F0000000000, time_us=12),
                event("free_completed", 4 * MIB, addr=0x7F0000000000, time_us=13),
                event("oom", 100 * MIB, addr=5 * MIB, time_us=14, stream=3),
                event("snapshot", 0, addr=0, time_us=15),
            ],
            [],
        ],
        external_annotations=[{"name": "step", "stage": "START", "device": 0, "time_us": 9}],
    )
