"""One setting, one recording: what it comes to. A pure function of a small task, so that it runs anywhere."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Optional

from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.replay import Outcome, replay, requests_of
from oomdoctor.allocator.requests import Requests
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.run.sources import snapshot_sources
from oomdoctor.snapshot import read_snapshot
from oomdoctor.storage import state_of


@dataclass(frozen=True)
class Place:
    """Where a recording lies, for whoever evaluates it.

    Attributes:
        path: of the snapshot file, or its URL.
        device: its number.
        torch: who recorded it, where the caller said so.
    """

    path: str
    device: int
    torch: Optional[TorchVersion] = None


@dataclass(frozen=True)
class Task:
    """A setting to try on a recording, under a capacity in bytes (None: without end)."""

    place: Place
    alloc_conf: str
    capacity: Optional[int]


# Of this process: recordings that are loaded, with their requests. A pool forked after loading shares them.
_LOADED: dict[Place, tuple[DeviceHistory, Requests]] = {}

# Of a process that reads for itself: the same, by the file's state when it was read.
_READ: dict[tuple[Place, str], tuple[DeviceHistory, Requests]] = {}
_READING = threading.Lock()  # such a process may work in several threads


def keep(place: Place, device: DeviceHistory) -> None:
    """Have a recording at hand for :func:`evaluate`, here and in processes forked from now on."""
    _LOADED[place] = (device, requests_of(device.history))


def forget() -> None:
    """Let go of all recordings."""
    _LOADED.clear()
    _READ.clear()


def _loaded(place: Place) -> tuple[DeviceHistory, Requests]:
    if place in _LOADED:
        return _LOADED[place]
    with _READING:
        key = (place, _state(place.path))
        if key not in _READ:
            (source,), _ = snapshot_sources(place.path)
            device = load_device(read_snapshot(place.path), source, place.device, place.torch)
            _READ[key] = (device, requests_of(device.history))
        return _READ[key]


def _state(path: str) -> str:
    """Another one after another recording was put in its place."""
    try:
        return state_of(path)
    except OSError:
        return ""  # reading it tells what is wrong


def evaluate(task: Task) -> Outcome:
    """The outcome of a task, by replay.

    Raises:
        SettingsError: the release of the recording does not take the setting.
        InputError: the recording cannot be read.
    """
    device, requests = _loaded(task.place)
    recorded = device.history.settings
    # A program may have set more than the text says; its text stands for all that was in effect.
    is_recorded = task.alloc_conf == recorded.text
    settings = recorded if is_recorded else parse_settings(task.alloc_conf, device.history.torch).settings
    conditions = device.conditions(task.capacity)
    return replay(device.history, settings, conditions, requests=requests).outcome
