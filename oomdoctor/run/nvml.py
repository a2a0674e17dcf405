"""Device memory as NVML sees it, sampled beside the command.

PyTorch knows what it reserved; NVML knows what the device gave away. The difference is the CUDA context,
NCCL, cuBLAS workspaces of others and other processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Optional

# A sample that is like the one before is written only this often: a server that stands still fills no disk.
REPEAT_SECONDS = 10.0
# Sampling may take this share of one core. NVML calls take a millisecond per device, more on a busy driver.
MOST_SHARE = 0.02


class Sampler:
    """A thread that writes ``nvml.jsonl`` by whole lines until it is stopped.

    Args:
        path: the file, made with the first sample.
        interval_s: seconds between samples.
        library: a libnvidia-ml to load first, with global symbols: pynvml's own
            ``dlopen("libnvidia-ml.so.1")`` then finds it by its soname.
    """

    def __init__(self, path: Path, interval_s: float, library: Optional[Path] = None) -> None:
        self.path = path
        self.interval_s = interval_s
        self.samples = 0
        self.available = False
        self.why: Optional[str] = None
        self._library = library
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="oomdoctor-nvml", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no further samples. A driver that does not answer is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)
            if self._thread.is_alive() and self.why is None:
                self.why = "did not answer any more"

    def as_json(self) -> dict[str, Any]:
        return {"available": self.available, "why": self.why, "samples": self.samples}

    def _run(self) -> None:
        try:
            if self._library is not None:
                ctypes.CDLL(str(self._library), mode=ctypes.RTLD_GLOBAL)
            import pynvml

            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
            devices = [Device(pynvml, index, handle) for index, handle in enumerate(handles)]
        except Exception as error:
            self.why = f"{type(error).__name__}: {error}"
            return
        self.available = True
        try:
            self._sample(devices)
        except Exception as error:
            self.why = f"sampling stopped: {type(error).__name__}: {error}"
        finally:
            with contextlib.suppress(Exception):
                pynvml.nvmlShutdown()

    def _sample(self, devices: list[Device]) -> None:
        written: dict[int, tuple[float, dict[str, Any]]] = {}
        while True:
            began = time.monotonic()
            lines = []
            for device in devices:
                sample = device.sample()
                last = written.get(device.index)
                if last is None or sample != last[1] or began - last[0] >= REPEAT_SECONDS:
                    written[device.index] = (began, sample)
                    lines.append(json.dumps({"t": time.time(), **sample}) + "\n")
            if lines:
                fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
                try:
                    os.write(fd, "".join(lines).encode())
                finally:
                    os.close(fd)
                self.samples += len(lines)
            if self._stop.is_set():
                return  # after a last sample: what the command held when it ended
            took = time.monotonic() - began
            self._stop.wait(max(self.interval_s, took / MOST_SHARE))


class Device:
    """One device and what does not change about it."""

    def __init__(self, pynvml: Any, index: int, handle: Any) -> None:
        self.index = index
        self._pynvml = pynvml
        self._handle = handle
        self.uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
        self.name = _text(pynvml.nvmlDeviceGetName(handle))

    def sample(self) -> dict[str, Any]:
        memory = self._pynvml.nvmlDeviceGetMemoryInfo(self._handle)
        return {
            "device": self.index,
            "uuid": self.uuid,
            "name": self.name,
            "total_bytes": int(memory.total),
            "used_bytes": int(memory.used),
            "free_bytes": int(memory.free),
            "processes": self._processes(),
        }

    def _processes(self) -> list[dict[str, Optional[int]]]:
        found: dict[int, Optional[int]] = {}
        for ask in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            try:
                for process in getattr(self._pynvml, ask)(self._handle):
                    used = process.usedGpuMemory
                    found[int(process.pid)] = None if used is None else int(used)
            except Exception:  # not supported on this device; an empty list says as much
                continue
        return [{"pid": pid, "bytes": used} for pid, used in sorted(found.items())]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
