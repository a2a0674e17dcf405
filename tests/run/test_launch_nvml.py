"""NVML beside the command, with an NVML that is not there."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oomdoctor.run.nvml import Sampler


class FakeNvml(SimpleNamespace):
    """pynvml, as far as it is used."""

    def __init__(self, slow: float = 0.0, fail_after: int = 1_000_000) -> None:
        super().__init__(used=100, asked=0, slow=slow, fail_after=fail_after)

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> Any:
        return f"GPU-{handle}" if handle else b"GPU-0"  # older bindings give bytes

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Fake GPU"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        time.sleep(self.slow)
        self.asked += 1
        if self.asked > self.fail_after:
            raise RuntimeError("GPU is lost")
        return SimpleNamespace(total=1000, used=self.used, free=1000 - self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        return [SimpleNamespace(pid=7, usedGpuMemory=50), SimpleNamespace(pid=8, usedGpuMemory=None)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: int) -> Any:
        raise RuntimeError("not supported")


def sample(
    monkeypatch: pytest.MonkeyPatch, path: Path, fake: Any, seconds: float, interval: float = 0.02
) -> Sampler:
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    sampler = Sampler(path, interval)
    sampler.start()
    time.sleep(seconds)
    if fake is not None:
        fake.used = 200
    sampler.stop()
    return sampler


def test_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeNvml()
    sampler = sample(monkeypatch, tmp_path / "nvml.jsonl", fake, 0.3)
    lines = [json.loads(line) for line in (tmp_path / "nvml.jsonl").read_text().splitlines()]
    assert sampler.as_json() == {"available": True, "why": None, "samples": len(lines)}
    assert {key: value for key, value in lines[0].items() if key != "t"} == {
        "device": 0,
        "uuid": "GPU-0",
        "name": "Fake GPU",
        "total_bytes": 1000,
        "used_bytes": 100,
        "free_bytes": 900,
        "processes": [{"pid": 7, "bytes": 50}, {"pid": 8, "bytes": None}],
    }
    # Many samples were taken; the first was worth a line, and the one at the end, which differs.
    assert fake.asked > 6
    assert [(line["device"], line["used_bytes"]) for line in lines] == [
        (0, 100),
        (1, 100),
        (0, 200),
        (1, 200),
    ]


def test_no_nvml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sampler = sample(monkeypatch, tmp_path / "nvml.jsonl", None, 0.05)
    assert sampler.available is False
    assert sampler.why is not None
    assert sampler.why.startswith("ModuleNotFoundError")
    assert not (tmp_path / "nvml.jsonl").exists()


def test_a_slow_driver_is_asked_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeNvml(slow=0.01)
    sample(monkeypatch, tmp_path / "nvml.jsonl", fake, 0.5, interval=0.001)
    assert fake.asked <= 4  # two devices: the first sample, and the one at the end


def test_a_device_that_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sampler = sample(monkeypatch, tmp_path / "nvml.jsonl", FakeNvml(fail_after=4), 1.0)
    assert sampler.why == "sampling stopped: RuntimeError: GPU is lost"


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sampler = sample(monkeypatch, tmp_path / "not-there" / "nvml.jsonl", FakeNvml(), 0.5)
    assert sampler.why is not None
    assert sampler.why.startswith("sampling stopped: FileNotFoundError")
