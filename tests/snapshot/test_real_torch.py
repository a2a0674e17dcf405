"""What the running torch writes, on the emulated device: read whole, by both readers, with nothing unknown."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from oomdoctor.snapshot import read_snapshot, snapshot_from_plain
from oomdoctor.snapshot.limits import Limits
from oomdoctor.snapshot.model import ACTIONS, UNKNOWN
from tests.emulator.conftest import RunOnDevices, on_devices, torch_build  # noqa: F401
from tests.snapshot.same import differences

pytestmark = pytest.mark.torch

PROGRAM = """
import inspect, warnings
warnings.simplefilter("ignore")
has = inspect.signature(torch.cuda.memory._record_memory_history_impl).parameters
more = {k: True for k in ("record_pinned_host_memory", "global_record_annotations") if k in has}
torch.cuda.memory._record_memory_history(max_entries=100000, stacks="python", **more)
keep = [torch.empty(1 << 20, device="cuda:0") for _ in range(4)]
pinned = torch.empty(3000, pin_memory=True)
if hasattr(torch.cuda.memory, "_set_memory_metadata"):
    torch.cuda.memory._set_memory_metadata("prefill")
other = torch.empty(5 << 20, device="cuda:1")
with torch.cuda.stream(torch.cuda.Stream()):
    aside = torch.empty(100, device="cuda:0")
del keep[1], pinned
if hasattr(torch.cuda, "MemPool"):
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        private = torch.empty(1 << 20, device="cuda:0")
with torch.profiler.record_function("step"):
    marked = torch.empty(1 << 20, device="cuda:0")
if hasattr(torch.cuda.memory, "_annotate_tensor"):
    torch.cuda.memory._annotate_tensor(marked, "weights")
with torch.autograd.detect_anomaly():
    x = torch.randn(1024, 1024, device="cuda:0", requires_grad=True)
    (x * x).sum().backward()
try:
    torch.empty(60 << 30, dtype=torch.uint8, device="cuda:0")
except torch.cuda.OutOfMemoryError:
    pass
torch.cuda.memory._snapshot()  # the entry that a snapshot leaves is seen in the next one
torch.cuda.memory._dump_snapshot(FILE)
tell(version=torch.__version__, host="record_pinned_host_memory" in has)
"""


def test_a_snapshot_of_the_running_torch(on_devices: RunOnDevices, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "real.pickle"
    told = on_devices(PROGRAM.replace("FILE", repr(str(path))))
    found = read_snapshot(path)
    assert differences(read_snapshot(path, Limits(streamed_bytes=0)), found) == []
    assert found.notes == (), told["version"]
    assert found.devices() == [0, 1]
    assert found.blocks.block_size.sum() == found.segments.total_size.sum()
    actions = {ACTIONS[a] for trace in found.traces for a in trace.action}
    assert {"alloc", "free_requested", "free_completed", "segment_alloc", "oom", "snapshot"} <= actions
    release = tuple(int(part) for part in told["version"].split(".")[:2])
    trace = found.traces[0]
    if release >= (2, 11):
        assert (trace.forward != UNKNOWN).any(), "the forward frames of the backward pass"
    if release >= (2, 10):
        assert "prefill" in {trace.labels[i] for i in trace.label if i != UNKNOWN}
    if told["host"]:
        assert set(found.host_segments.device.tolist()) == {-1}
        assert found.host_blocks.block_size.sum() == found.host_segments.total_size.sum()
        assert {"segment_alloc", "alloc"} <= {ACTIONS[a] for a in found.host_traces[0].action}
    plain: Any = pickle.loads(path.read_bytes())  # ours, written just now
    for mine, one in zip(trace.action, plain["device_traces"][0]):
        assert ACTIONS[mine] == one["action"]
    assert differences(snapshot_from_plain(plain, source=str(path)), found) == []
