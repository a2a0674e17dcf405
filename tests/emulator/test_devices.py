"""The emulated device under the real allocator: what it counts, hands out and refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import time
from typing import Any

import pytest

from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.emulator.torch_build import TorchBuild
from oomdoctor.units import GIB, MIB

from .conftest import RunOnDevices

pytestmark = pytest.mark.torch


def version(build: TorchBuild) -> tuple[int, int]:
    major, minor = build.version.split(".")[:2]
    return int(major), int(minor)


@pytest.fixture(scope="module")
def accounts(on_devices: RunOnDevices) -> dict[str, Any]:
    """One run that many tests look at: starting torch takes seconds."""
    return on_devices(
        """
        tell(count=torch.cuda.device_count(), name=torch.cuda.get_device_name(1))
        tell(contexts_before=[torch._C._cuda_hasPrimaryContext(d) for d in (0, 1)])
        x = torch.empty(3 << 20, dtype=torch.uint8, device="cuda:0")
        tell(address=x.data_ptr(), info=torch.cuda.mem_get_info(0), reserved=torch.cuda.memory_reserved(0))
        tell(contexts_after=[torch._C._cuda_hasPrimaryContext(d) for d in (0, 1)])
        odd = torch.empty((21 << 20) + 1, dtype=torch.uint8, device="cuda:1")
        other = torch.empty(1, device="cuda:1")
        tell(info_1=torch.cuda.mem_get_info(1), reserved_1=torch.cuda.memory_reserved(1), address_1=odd.data_ptr())
        try:
            hold = [torch.empty(3 << 30, dtype=torch.uint8, device="cuda:0") for _ in range(9)]
        except torch.cuda.OutOfMemoryError as error:
            tell(oom=str(error))
        stats = torch.cuda.memory_stats(0)
        tell(at_oom=torch.cuda.mem_get_info(0), reserved_at_oom=torch.cuda.memory_reserved(0),
             retries=stats["num_alloc_retries"], ooms=stats["num_ooms"])
        x = odd = other = None
        torch.cuda.empty_cache()
        tell(empty=torch.cuda.mem_get_info(1), summary=torch.cuda.memory_summary(0))
        """,
        devices=EmulatedDevices((24 * GIB, 10 * GIB), context_bytes=500 * MIB, other_bytes=2 * GIB),
    )


def test_free_is_total_less_what_is_used(accounts: dict[str, Any]) -> None:
    free, total = accounts["info"]
    assert total == 24 * GIB
    assert accounts["reserved"] == 20 * MIB  # a 3 MiB request takes a 20 MiB segment
    assert free == 24 * GIB - 500 * MIB - 2 * GIB - 20 * MIB
    free, total = accounts["info_1"]
    assert (total, accounts["reserved_1"]) == (10 * GIB, 24 * MIB)  # 22 MiB, and a small segment
    assert free == 10 * GIB - 500 * MIB - 2 * GIB - 24 * MIB
    assert accounts["empty"][0] == 10 * GIB - 500 * MIB - 2 * GIB


def test_a_context_comes_with_the_first_use(accounts: dict[str, Any]) -> None:
    assert accounts["contexts_before"] == [False, False]
    assert accounts["contexts_after"] == [True, False]
    assert accounts["count"] == 2


def test_devices_have_their_own_addresses_the_same_in_every_run(accounts: dict[str, Any]) -> None:
    assert accounts["address"] == 16 << 40
    assert accounts["address_1"] == 32 << 40


def test_out_of_memory_is_told_by_torch_with_the_true_numbers(
    accounts: dict[str, Any], torch_build: TorchBuild
) -> None:
    assert (accounts["retries"], accounts["ooms"]) == (1, 1)
    assert accounts["reserved_at_oom"] == 21 * GIB + 20 * MIB
    free = 24 * GIB - 500 * MIB - 2 * GIB - 21 * GIB - 20 * MIB
    assert accounts["at_oom"][0] == free
    assert accounts["oom"].startswith("CUDA out of memory. Tried to allocate 3.00 GiB. GPU ")
    if version(torch_build) >= (2, 4):  # 2.3 ends at the device's number, a zero byte
        assert f"of which {free / MIB:.2f} MiB is free" in accounts["oom"]
        assert "Process 4242 has 2.00 GiB memory in use" in accounts["oom"]
        in_use = (21 * GIB + 520 * MIB) / GIB
        assert f"this process has {in_use:.2f} GiB memory in use" in accounts["oom"]
    assert "CUDA OOMs: 1" in accounts["summary"]


EXPANDABLE = """
xs = [torch.empty(30 << 20, dtype=torch.uint8, device="cuda") for _ in range(4)]
grown = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]
del xs[1]
torch.cuda.empty_cache()
tell(grown=grown, unmapped=torch.cuda.memory_reserved(), free=torch.cuda.mem_get_info()[0])
segments = torch.cuda.memory_snapshot()
tell(expandable=[s["is_expandable"] for s in segments], sizes=[s["total_size"] for s in segments])
try:
    torch.empty(1 << 33, dtype=torch.uint8, device="cuda")
except torch.cuda.OutOfMemoryError as error:
    tell(oom=str(error))
"""


def test_expandable_segments_map_and_unmap(on_devices: RunOnDevices) -> None:
    told = on_devices(
        EXPANDABLE,
        devices=EmulatedDevices((4 * GIB,)),
        environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    )
    reserved, free = told["grown"]
    assert reserved == 120 * MIB
    assert free == 4 * GIB - 500 * MIB - 120 * MIB
    assert told["unmapped"] == 100 * MIB  # the hole from 30 to 60 MiB holds one whole handle of 20
    assert told["free"] == 4 * GIB - 500 * MIB - 100 * MIB
    assert told["expandable"] == [True, True]
    assert "Tried to allocate 8.00 GiB" in told["oom"]


def test_graphs_capture_into_private_pools(on_devices: RunOnDevices) -> None:
    told = on_devices(
        """
        static = torch.zeros(1 << 20, device="cuda")
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            static * 2
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            held = static * 2
            other = torch.cuda.Stream()
            other.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(other):
                capturing = torch.cuda.is_current_stream_capturing()
                more = held + 1
            torch.cuda.current_stream().wait_stream(other)
        graph.replay()
        torch.cuda.synchronize()
        pools = {tuple(s["segment_pool_id"]) for s in torch.cuda.memory_snapshot()}
        tell(pools=len(pools), capturing=capturing, after=torch.cuda.is_current_stream_capturing())
        """
    )
    assert told["pools"] == 2
    assert told["capturing"] is True
    assert told["after"] is False


PENDING = """
side = torch.cuda.Stream()
x = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
x.record_stream(side)
with torch.cuda.stream(side):
    x.fill_(1)
del x
y = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
active = torch.cuda.memory_stats()["active_bytes.all.current"]
torch.cuda.synchronize()
z = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
tell(active=active, reserved=torch.cuda.memory_reserved())
"""


@pytest.mark.parametrize(("latency", "active"), [(0, 64), (1000, 128)])
def test_frees_across_streams_wait_for_their_events(
    on_devices: RunOnDevices, latency: int, active: int
) -> None:
    told = on_devices(PENDING, devices=EmulatedDevices((4 * GIB,), event_latency=latency), payload=False)
    assert told["active"] == active * MIB
    assert told["reserved"] == 128 * MIB  # after the wait, z has the block of x


@pytest.mark.parametrize("order", ["rising", "falling", "random"])
def test_order_of_addresses(on_devices: RunOnDevices, order: str) -> None:
    told = on_devices(
        """
        xs = [torch.empty(32 << 20, dtype=torch.uint8, device="cuda") for _ in range(20)]
        tell(addresses=[x.data_ptr() for x in xs])
        """,
        devices=EmulatedDevices((4 * GIB,), address_order=order, seed=3),
        payload=False,
    )
    addresses = told["addresses"]
    steps = {b - a for a, b in zip(addresses, addresses[1:])}
    if order == "random":
        assert any(step < 0 for step in steps)
        assert any(step > 0 for step in steps)
        assert all(address % (2 * MIB) == 0 for address in addresses)
    else:
        assert steps == {32 * MIB if order == "rising" else -32 * MIB}


RESERVATIONS = """
import ctypes
device = ctypes.CDLL(None)
def reservations(order, fresh=0, drop=False):
    device.oomdoctor_set_addresses(order, fresh, ctypes.c_uint64(5))
    held, addresses = [], []
    for i in range(6):
        with torch.cuda.stream(torch.cuda.Stream()):
            held.append(torch.empty(32 << 20, dtype=torch.uint8, device="cuda"))
        addresses.append(held[-1].data_ptr())
        if drop:
            held.clear()
            torch.cuda.empty_cache()
    held.clear()
    torch.cuda.empty_cache()
    return addresses
tell(rising=reservations(0), falling=reservations(1), random=reservations(2), again=reservations(2),
     reused=reservations(1, drop=True), fresh=reservations(1, 1, drop=True))
"""


@pytest.mark.parametrize("expandable", [False, True])
def test_addresses_can_be_ordered_at_run_time(on_devices: RunOnDevices, expandable: bool) -> None:
    told = on_devices(
        RESERVATIONS,
        devices=EmulatedDevices((4 * GIB,)),
        environment={"PYTORCH_CUDA_ALLOC_CONF": f"expandable_segments:{expandable}"},
        payload=False,
    )
    step = 4608 * MIB if expandable else 32 * MIB  # a reservation is 9/8 of the device
    rising, falling = (
        {b - a for a, b in zip(told[order], told[order][1:])} for order in ("rising", "falling")
    )
    if expandable:
        assert len(rising) == len(falling) == 1
        assert min(rising) == -max(falling) >= step
    else:
        assert (rising, falling) == ({step}, {-step})
    assert told["random"] == told["again"]
    assert sorted(told["random"]) != told["random"] != sorted(told["random"], reverse=True)
    assert len(set(told["reused"])) == 1
    assert told["fresh"] == told["falling"]


def test_capacity_and_event_latency_can_be_set_at_run_time(on_devices: RunOnDevices) -> None:
    told = on_devices(
        """
        import ctypes
        device = ctypes.CDLL(None)
        errors = [device.oomdoctor_set_capacity(0, ctypes.c_uint64(n << 20)) for n in (5000, 100)]
        tell(errors=errors, info=torch.cuda.mem_get_info())
        def fits(mib):
            try:
                torch.empty(mib << 20, dtype=torch.uint8, device="cuda")
            except torch.cuda.OutOfMemoryError:
                return False
            torch.cuda.empty_cache()
            return True
        tell(fits=[fits(100), fits(102)])
        device.oomdoctor_set_capacity(0, ctypes.c_uint64(200 << 20))
        tell(later=fits(102))
        event = torch.cuda.Event()
        device.oomdoctor_set_event_latency(ctypes.c_uint64(1000))
        event.record()
        waiting = event.query()
        device.oomdoctor_set_event_latency(ctypes.c_uint64(0))
        tell(done=[waiting, event.query()])
        """,
        devices=EmulatedDevices((4 * GIB,)),
        payload=False,
    )
    assert told["errors"] == [1, 0]  # no more than the device has
    assert told["info"] == [100 * MIB, 4 * GIB]
    assert told["fits"] == [True, False]
    assert told["later"] is True
    assert told["done"] == [False, True]


def test_visible_devices(on_devices: RunOnDevices) -> None:
    script = """
    n = torch.cuda.device_count()
    x = torch.ones(3, device="cuda") if n else None
    tell(n=n, address=x.data_ptr() if n else 0, device=str(x.device) if n else "", total=torch.cuda.mem_get_info()[1])
    """
    devices = EmulatedDevices((4 * GIB, 8 * GIB))
    told = on_devices(script, devices=devices, environment={"CUDA_VISIBLE_DEVICES": "1"})
    assert (told["n"], told["address"], told["device"]) == (1, 32 << 40, "cuda:0")
    assert told["total"] == 8 * GIB
    assert on_devices("tell(n=torch.cuda.device_count())", environment={"CUDA_VISIBLE_DEVICES": ""})["n"] == 0


def test_processes_share_the_devices_and_the_dead_give_back(torch_build: TorchBuild) -> None:
    hold = """
    import sys, time, torch
    x = torch.empty(3 << 30, dtype=torch.uint8, device="cuda")
    print(torch.cuda.mem_get_info()[0], flush=True)
    if sys.argv[1] == "stay":
        time.sleep(100)
    """
    script = textwrap.dedent(hold)
    command = [torch_build.python]
    with rehearsal(command, EmulatedDevices((8 * GIB,)), python=torch_build.python) as ready:
        env = {**os.environ, **ready.environment}

        def start(what: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*command, "-c", script, what],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        first = start("stay")
        assert first.stdout is not None
        assert int(first.stdout.readline()) == 8 * GIB - 3 * GIB - 500 * MIB
        second = start("leave")
        assert int(second.communicate(timeout=100)[0]) == 8 * GIB - 2 * (3 * GIB + 500 * MIB)
        third = start("leave")  # what the second had is free again
        assert int(third.communicate(timeout=100)[0]) == 8 * GIB - 2 * (3 * GIB + 500 * MIB)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        time.sleep(0.05)
        fourth = start("leave")
        assert int(fourth.communicate(timeout=100)[0]) == 8 * GIB - 3 * GIB - 500 * MIB


def test_what_cannot_run_says_so_by_name(on_devices: RunOnDevices) -> None:
    told = on_devices(
        """
        try:
            torch.linalg.inv(torch.zeros(1000, 1000, device="cuda"))
        except RuntimeError as error:
            tell(error=str(error))
        else:
            tell(error="")
        """
    )
    assert "is not emulated" in told["stderr"]
    assert "getrf" in told["stderr"].lower() or "cusolver" in told["stderr"].lower()
    assert told["error"]
