"""Programs on a device of which nothing can be set: an emulated one, taken for a real one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from oomdoctor.emulator import real_device
from oomdoctor.emulator.drive import DRIVER, drive, run_process
from oomdoctor.emulator.real_device import RealDevice, find_device
from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.emulator.torch_build import TorchBuild
from oomdoctor.units import GIB, MIB
from tests.allocator.reference.programs import make_program

from .conftest import RunOnDevices

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("real-device")]

# With what a real one has: contexts, and others' memory.
DEVICE = EmulatedDevices((16 * GIB,), context_bytes=301 * MIB, other_bytes=GIB)
FIGURES = (
    "error", "unsupported", "first_oom", "allocations", "peak_allocated_bytes", "peak_active_bytes",
    "peak_reserved_bytes", "peak_inactive_split_bytes", "current_reserved_bytes", "segments_allocated",
    "segments_freed", "num_alloc_retries", "num_ooms",
)  # fmt: skip
SETTINGS = (
    "",
    "max_split_size_mb:32",
    "roundup_power2_divisions:4",
    "expandable_segments:True",
    "expandable_segments:True,max_split_size_mb:64",
)


@pytest.fixture(scope="module")
def taken_for_real(torch_build: TorchBuild) -> Iterator[Mapping[str, str]]:
    """The environment in which torch sees such a device."""
    with rehearsal([torch_build.python], DEVICE, python=torch_build.python) as ready:
        yield {**os.environ, **ready.environment}


def figures(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in FIGURES}


def jobs() -> list[dict[str, Any]]:
    """Programs of several shapes, each tight, tighter than tight and with room to spare."""
    return [
        {"program": {**program.under(text, capacity=capacity).document()}}
        for program in (
            make_program("large", 3, 200),
            make_program("streams", 3, 200),
            make_program("inference", 3, 200),
        )
        for capacity in (
            None,
            (program.peak_requested_bytes() * 12 // 10) >> 21 << 21,
            (program.peak_requested_bytes() * 9 // 10) + 12345,
        )
        for text in SETTINGS
    ]


def test_ballast_gives_the_figures_of_a_capacity_that_was_set(
    torch_build: TorchBuild, taken_for_real: Mapping[str, str], tmp_path: Path
) -> None:
    asked = jobs()
    told, end = run_process(torch_build.python, asked, tmp_path, dict(taken_for_real), None, ballast=True)
    assert [result["index"] for result in told] == list(range(len(asked))), end
    set_ = drive(torch_build.python, asked, devices=EmulatedDevices((16 * GIB,), context_bytes=0))
    assert [figures(result) for result in told] == [figures(result) for result in set_]
    assert [result["disturbed"] for result in told] == [None] * len(asked)
    assert any(result["first_oom"] for result in told)
    assert any(result["num_alloc_retries"] and not result["first_oom"] for result in told)


def test_each_job_has_a_process_and_the_device_to_itself(
    torch_build: TorchBuild, taken_for_real: Mapping[str, str]
) -> None:
    on = RealDevice(0, "taken for real", 16 * GIB, 14 * GIB, taken_for_real)
    program = make_program("large", 3, 100)
    capacity = program.peak_requested_bytes() * 12 // 10
    asked = [
        {"program": program.under(text, capacity=capacity).document()}
        for text in ("", "expandable_segments:True")
    ]
    too_much = {"program": program.under("", capacity=15 * GIB).document()}
    *ran, refused = drive(torch_build.python, [*asked, too_much], on=on)
    assert [result["error"] or result["unsupported"] for result in ran] == [None, None]
    assert "the program asks for" in refused["unsupported"]
    assert [figures(r) for r in ran] == [figures(r) for r in drive(torch_build.python, asked)]


def test_who_takes_memory_meanwhile_disturbs(on_devices: RunOnDevices) -> None:
    told = on_devices(
        f"""
        import ctypes, importlib.util
        spec = importlib.util.spec_from_file_location("driver", {str(DRIVER)!r})
        driver = importlib.util.module_from_spec(spec); spec.loader.exec_module(driver)
        torch.cuda.init()
        free = lambda: torch.cuda.mem_get_info(0)[0]
        device, at_first = driver.RealDevice(), free()
        asked = {{"program": {{"capacity": 101 << 20}}}}
        def meanwhile(what):
            device.arrange(asked)
            what()
            device.widen()
            return device.disturbed
        def take():
            global block
            block = device._take(10 << 20)
        device.arrange(asked)
        tell(left=free(), quiet=meanwhile(lambda: None), after=free() - at_first)
        tell(taken=meanwhile(take))
        tell(given=meanwhile(lambda: device._give_back(block)), back=free() - at_first)
        """,
        devices=DEVICE,
        payload=False,
    )
    assert told["left"] // (2 * MIB) == 50
    assert told["quiet"] is None
    assert told["after"] == told["back"] == 0
    assert told["taken"] == f"{10 * MIB} bytes of the program's room were taken by others meanwhile"
    assert told["given"] == f"{10 * MIB} bytes beside the program's room became free meanwhile"


def test_an_emulated_device_is_not_found_for_a_real_one(
    torch_build: TorchBuild, taken_for_real: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in taken_for_real.items():
        monkeypatch.setenv(name, value)
    found = find_device(torch_build.python, MIB)
    assert (found.device, found.why_not) == (None, "the devices here are emulated ones")


# ---- which device ----

IDLE = {"number": 0, "name": "A", "free": 79 * GIB, "total": 80 * GIB, "emulated": False}
BUSY = {**IDLE, "free": 40 * GIB}
BROKEN = {"number": 0, "error": "CUDA error: out of memory"}


def asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *told: Mapping[str, Any], room: int = 20 * GIB, **how: Any
) -> real_device.Found:
    """What is found where the torch that is asked tells of these."""
    lines = "".join(f"{json.dumps({**one, 'number': number})}\n" for number, one in enumerate(told))
    python = folder / "python"
    python.write_text(f"#!/bin/sh\ncat <<'END'\nsome warning\n{lines}END\n")
    python.chmod(0o755)
    return find_device(str(python), room, **how)


def test_the_first_device_that_is_idle_and_has_the_room_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,GPU-6")
    small = {**IDLE, "free": 10 * GIB, "total": 11 * GIB}
    found = asked(tmp_path, monkeypatch, BROKEN, small, IDLE)
    assert found.device == RealDevice(2, "A", 80 * GIB, 79 * GIB)
    assert str(found.device) == "GPU 2, A"
    assert found.device.environment == {"CUDA_VISIBLE_DEVICES": "GPU-6"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    again = asked(tmp_path, monkeypatch, IDLE).device
    assert again is not None
    assert again.environment == {"CUDA_VISIBLE_DEVICES": "0"}


def test_why_no_device_is_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(tmp_path, monkeypatch) == real_device.Found()
    assert asked(tmp_path, monkeypatch, BROKEN).why_not == "GPU 0: CUDA error: out of memory"
    assert asked(tmp_path, monkeypatch, IDLE, room=79 * GIB).why_not == (
        "GPU 0 has 79.00 GiB free, and 79.12 GiB are needed"
    )
    assert asked(tmp_path, monkeypatch, BUSY).why_not == "GPU 0 is in use, with 40.00 GiB of its memory"
    assert asked(tmp_path, monkeypatch, BUSY, idle=False).device is not None
