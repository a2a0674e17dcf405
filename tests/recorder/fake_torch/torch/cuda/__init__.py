import time

import torch

TOTAL, FREE = 1 << 30, 1 << 29
_initialized = False
_queued_calls = []
events = []
history_calls = []


def is_initialized():
    return _initialized


def _lazy_call(call):
    if _initialized:
        call()
    else:
        _queued_calls.append(call)


def _lazy_init():
    global _initialized
    if _initialized:
        return
    torch._C._cuda_init()
    for call in _queued_calls:
        call()
    _initialized = True


def device_count():
    return 2


class device:
    def __init__(self, index):
        self.index = index

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def mem_get_info(device):
    assert device == 0, "a device without a context was asked, which makes one"
    return FREE, TOTAL


def memory_stats(device):
    assert device == 0, "a device without a context was asked, which makes one"
    current = sum(e["size"] for e in events)
    return {
        "allocated_bytes.all.current": current,
        "reserved_bytes.all.current": current,
        "allocation.all.allocated": len(events),
        "num_ooms": 0,
    }


def get_device_properties(device):
    class Properties:
        name = "Fake GPU"
        uuid = "GPU-fake"

    return Properties


def _restless():
    """Another thread allocates, right before the first snapshots and right after them."""
    for word in torch.ODD:
        if word.startswith("restless=") and len(restless) < int(word[9:]):
            restless.append(1)
            events.append({"action": "alloc", "addr": 1, "size": 1, "stream": 0, "frames": []})


restless = []


class memory:
    def _record_memory_history(enabled="all", *args, **kwargs):
        if "no-history" in torch.ODD:
            raise RuntimeError("cudaMallocAsync does not yet support recordHistory")
        assert set(kwargs) <= {"context", "stacks", "max_entries"}, kwargs
        history_calls.append((enabled, args, kwargs))

    @staticmethod
    def _snapshot():
        if "no-snapshot" in torch.ODD:
            raise RuntimeError("no snapshot today")
        for word in torch.ODD:
            if word.startswith("slow="):
                time.sleep(float(word[5:]))
        _restless()
        current = sum(e["size"] for e in events)
        snapshot = {
            "segments": [{"device": 0, "total_size": current, "allocated_size": current}],
            "device_traces": [list(events), []],
            "allocator_settings": {"max_split_size": -1},
        }
        _restless()
        return snapshot

    @staticmethod
    def get_allocator_backend():
        return "cudaMallocAsync" if "no-history" in torch.ODD else "native"


if "2.0" in torch.ODD:

    def _record_memory_history(
        enabled,
        record_context=True,
        trace_alloc_max_entries=1,
        trace_alloc_record_context=False,
        device=None,
        _enable_expensive_cpp=False,
    ):
        history_calls.append(
            (enabled, record_context, trace_alloc_max_entries, trace_alloc_record_context, device)
        )

    memory._record_memory_history = _record_memory_history

for _word in torch.ODD:
    if _word.startswith("entries="):
        for _i in range(int(_word[8:])):
            events.append({"action": "alloc", "addr": _i, "size": 1, "stream": 0, "frames": []})
if "bare" in torch.ODD:
    del memory._record_memory_history, memory._snapshot, memory.get_allocator_backend
