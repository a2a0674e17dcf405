"""On what advice is proved: a CUDA device, or an emulated one; and what becomes of a proof that is disturbed."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from oomdoctor.advice.prove import _rescaled
from oomdoctor.allocator.settings import Settings
from oomdoctor.emulator import drive, real_device, torch_build
from oomdoctor.emulator.real_device import Found, RealDevice
from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.emulator.torch_build import TorchBuild, find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import GIB, MIB
from tests.allocator.recorded_by_heap import recorded
from tests.emulator.conftest import PYTHONS

from .test_advise import HELPS, ask, flowing, refused, save, text

H200 = RealDevice(3, "NVIDIA H200", 139 * GIB, 138 * GIB)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return save(tmp_path / "one.pickle", recorded(HELPS, Settings()))


def proofs(path: str, *arguments: str) -> list[Any]:
    (device,) = ask(path, "--capacity", "140MiB", "--prove", *arguments)["devices"]
    return list(device["proofs"])


def there_is(monkeypatch: pytest.MonkeyPatch, found: Found) -> list[tuple[int, bool]]:
    """Have this found for a device; what was asked for is in the answer."""
    wanted = []

    def find(python: str, room: int, *, idle: bool = True) -> Found:
        wanted.append((room, idle))
        return found

    monkeypatch.setattr(real_device, "find_device", find)
    return wanted


class Driven:
    """Stands in for the driver: it says what the replay says, and what is laid upon it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: str, **on_device: Any) -> None:
        (device,) = ask(path, "--capacity", "140MiB")["devices"]
        self.metrics = {one["alloc_conf"]: one["metrics"] for one in device["candidates"]}
        self.on_device = on_device
        self.calls: list[tuple[Optional[RealDevice], list[str]]] = []
        monkeypatch.setattr(drive, "drive", self)
        torch = TorchBuild(Path("nowhere"), "2.15.0", (13, 2), sys.executable)
        monkeypatch.setattr(torch_build, "find_torch", lambda python: torch)

    def __call__(
        self,
        python: str,
        jobs: Sequence[Mapping[str, Any]],
        *,
        devices: Optional[EmulatedDevices] = None,
        on: Optional[RealDevice] = None,
    ) -> list[dict[str, Any]]:
        texts = [job["program"]["settings"] for job in jobs]
        self.calls.append((on, texts))
        out = []
        for one in texts:
            told = dict(self.metrics[one])
            if told["first_oom"]:
                told["first_oom"] = {"event_alloc_index": told["first_oom"]["alloc_index"]}
            out.append({**told, "error": None, "unsupported": None, **(self.on_device if on else {})})
        return out


def test_a_device_with_the_room_is_used(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = there_is(monkeypatch, Found(H200))
    driven = Driven(monkeypatch, path)
    found = proofs(path)
    assert wanted == [(140 * MIB, True)]
    assert [on for on, _ in driven.calls] == [H200]
    assert {(one["on"], one["emulated"], one["agrees"]) for one in found} == {
        ("GPU 3, NVIDIA H200", False, True)
    }
    said = flowing(text(path, "--capacity", "140MiB", "--prove"))
    assert "The real allocator ran on GPU 3, NVIDIA H200." in said
    assert "proved ←" in said


def test_an_emulated_device_is_used_where_there_is_no_other(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there_is(monkeypatch, Found(None, "GPU 0 is in use, with 9.00 GiB of its memory"))
    driven = Driven(monkeypatch, path)
    found = proofs(path)
    assert [on for on, _ in driven.calls] == [None]
    assert {(one["on"], one["emulated"]) for one in found} == {("an emulated device", True)}
    assert found[0]["why_emulated"] == "GPU 0 is in use, with 9.00 GiB of its memory"
    said = flowing(text(path, "--capacity", "140MiB", "--prove"))
    assert "ran on an emulated device (GPU 0 is in use, with 9.00 GiB of its memory)." in said


def test_an_emulated_device_is_used_where_it_is_asked_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = there_is(monkeypatch, Found(H200))
    driven = Driven(monkeypatch, path)
    found = proofs(path, "--prove-on", "emulated")
    assert (wanted, [on for on, _ in driven.calls]) == ([], [None])
    assert found[0]["why_emulated"] is None
    assert "ran on an emulated device." in flowing(
        text(path, "--capacity", "140MiB", "--prove", "--prove-on", "emulated")
    )


def test_a_device_that_is_asked_for_has_to_be_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = there_is(monkeypatch, Found(None, "GPU 0 has 1.00 GiB free, and 2.00 GiB are needed"))
    Driven(monkeypatch, path)
    error = refused(path, "--prove", "--prove-on", "device")
    assert error.what == "there is no CUDA device to prove on"
    assert error.why == "GPU 0 has 1.00 GiB free, and 2.00 GiB are needed"
    assert [idle for _, idle in wanted] == [False]


def test_where_the_device_fails_an_emulated_one_serves(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there_is(monkeypatch, Found(H200))
    driven = Driven(monkeypatch, path, unsupported="the device has 5 bytes free, the program asks for 6")
    found = proofs(path)
    assert [on for on, _ in driven.calls] == [H200, None]
    assert driven.calls[0][1] == driven.calls[1][1]
    assert {(one["emulated"], one["agrees"], one["why_emulated"]) for one in found} == {
        (True, True, "the device has 5 bytes free, the program asks for 6")
    }
    found = proofs(path, "--prove-on", "device")
    assert driven.calls[-1][0] == H200
    assert {(one["emulated"], one["agrees"]) for one in found} == {(False, False)}


def test_a_proof_that_was_disturbed_is_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there_is(monkeypatch, Found(H200))
    Driven(monkeypatch, path, disturbed="2097152 bytes of the program's room were taken by others meanwhile")
    (device,) = ask(path, "--capacity", "140MiB", "--prove")["devices"]
    assert {one["agrees"] for one in device["proofs"]} == {False}
    assert all("taken by others" in one["disturbed"] for one in device["proofs"])
    assert all(one["differences"] == {} for one in device["proofs"])
    assert device["recommendation"]["basis"] == device["current"]["basis"] == "replayed"
    said = flowing(text(path, "--capacity", "140MiB", "--prove"))
    assert "The defaults: not proved, since it was disturbed: 2097152 bytes of the program's room" in said


def test_a_fraction_is_the_same_limit_on_a_larger_device() -> None:
    rng = random.Random(1)
    for _ in range(10_000):
        fraction, total = rng.uniform(0.001, 1.0), rng.randint(1, 64 * 512) * 2 * MIB
        other = total + rng.randint(0, 200 * 512) * 2 * MIB
        rescaled = _rescaled(fraction, total, other)
        assert rescaled is not None
        assert int(rescaled * other) == int(fraction * total)


@pytest.mark.torch
def test_a_device_with_ballast_proves_what_the_replay_says(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        python = find_torch(PYTHONS[0]).python
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")
    devices = EmulatedDevices((8 * GIB,), context_bytes=300 * MIB, other_bytes=GIB)
    with rehearsal([python], devices, python=python) as ready:
        environment = {**os.environ, **ready.environment}
        there_is(monkeypatch, Found(RealDevice(0, "taken for real", 8 * GIB, 6 * GIB, environment)))
        found = proofs(path, "--python", python)
    assert len(found) >= 2
    assert {(one["on"], one["agrees"], one["disturbed"]) for one in found} == {
        ("GPU 0, taken for real", True, None)
    }
    assert {one["failed_alloc_index"] is None for one in found} == {True, False}
