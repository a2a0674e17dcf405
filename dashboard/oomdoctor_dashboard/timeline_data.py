"""A recording as lines over its events or over time, never more points than there are pixels.

The horizontal axis counts the events that have happened, as ``inspect --event`` does: at k is the state after
the first k events, at 0 that before any. In time a state stands where the last of its events happened, in
seconds since the first event.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.history import History
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.what_if import capacity_at_oom, capacity_of
from oomdoctor.errors import OomdoctorError
from oomdoctor.run.device_samples import samples_of
from oomdoctor.run.documents import integer, objects
from oomdoctor.run.folder import RunFolder
from oomdoctor.snapshot.model import UNKNOWN
from oomdoctor_dashboard.extremes import bounds_by_position, even_bounds, extremes

SERIES = ("allocated", "active", "reserved", "requested")
# Of so many states each the least and the most are known: what lies beside a window is drawn from them.
_BLOCK = 512
LEAST_EVENTS = 4
"""A window never shows fewer: below, there is nothing more to see."""


@dataclass(frozen=True)
class Samples:
    """What NVML said of the device while the recording went on, all processes together.

    Attributes:
        time_us: int64[m], since the epoch, ascending.
        after: int64[m], how many events had happened.
        used_bytes: int64[m].
    """

    time_us: NDArray[np.int64]
    after: NDArray[np.int64]
    used_bytes: NDArray[np.int64]


@dataclass(frozen=True)
class Peak:
    """The most of a series: so many bytes, first reached after so many events."""

    bytes: int
    after: int


class Timeline:
    """What a device's lines are drawn from.

    Attributes:
        events: how many the recording has, n.
        series: of each of SERIES int64[n + 1], bytes after so many events.
        has_times: whether every event has its time (torch 2.2 and later).
        samples: device memory in use; empty where nobody sampled or the events have no times.
        total_bytes: the device's memory; None where not known.
        capacity_bytes: what PyTorch could reserve of it; None where not known.
        capacity_basis: when that was so.
    """

    def __init__(self, device: DeviceHistory, run: Optional[str] = None) -> None:
        history = device.history
        self.events = len(history.recording)
        self.series = _series(history)
        self._coarse_states: dict[str, NDArray[np.int64]] = {}
        self._times = history.recording.events.time_us
        # Events whose times are known were sorted by them; others cannot be placed.
        self.has_times = self.events > 0 and bool((self._times != UNKNOWN).all())
        self.samples = _samples(device, run, self._times if self.has_times else self._times[:0])
        self.total_bytes = device.total_bytes
        self.capacity_bytes = capacity_of(device)
        at_oom = capacity_at_oom(history) is not None
        self.capacity_basis = "at the out-of-memory error" if at_oom else "when the snapshot was taken"

    @cached_property
    def peaks(self) -> dict[str, Peak]:
        """Of the whole recording, by series."""
        return {name: self.peak(name, 0, self.events) for name in SERIES}

    def peak(self, name: str, low: int, high: int) -> Peak:
        """The most of a series in a window: of the states from ``low`` to ``high``."""
        values = self.series[name][low : high + 1]
        at = int(values.argmax())
        return Peak(int(values[at]), low + at)

    # ---- where things are ----

    def window(self, low: Optional[int], high: Optional[int]) -> tuple[int, int]:
        """A view's stretch of events, made to fit: within the recording, and not too narrow."""
        if low is None or high is None:
            return 0, self.events
        low, high = max(0, min(low, self.events)), max(0, min(high, self.events))
        lacking = min(LEAST_EVENTS, self.events) - (high - low)
        if lacking > 0:
            low = max(0, low - (lacking + 1) // 2)
            high = min(self.events, low + min(LEAST_EVENTS, self.events))
            low = max(0, high - min(LEAST_EVENTS, self.events))
        return low, high

    def window_between(self, first: float, last: float, over_time: bool) -> tuple[int, int]:
        """The stretch of events that covers a stretch of the axis."""
        first, last = min(first, last), max(first, last)
        if not over_time:
            return self.window(int(np.floor(first)), int(np.ceil(last)))
        low, high = self.after_seconds(first), self.after_seconds(last)
        return self.window(low, high + 1)

    def after_seconds(self, seconds: float) -> int:
        """How many events had happened so long after the first."""
        moment = float(self._times[0]) + seconds * 1e6
        return int(np.searchsorted(self._times, moment, side="right"))

    def time_us(self, after: NDArray[np.int64]) -> NDArray[np.int64]:
        """When states began, microseconds since the epoch; the one before the first event begins with it."""
        times: NDArray[np.int64] = self._times[np.maximum(after - 1, 0)]
        return times

    def positions(self, after: NDArray[np.int64], over_time: bool) -> NDArray[Any]:
        """Where states are on the axis: int64 over events, float64 over time."""
        if not over_time:
            return after
        seconds: NDArray[np.float64] = (self.time_us(after) - self._times[0]) / 1e6
        return seconds

    # ---- few points for many ----

    def kept(
        self, values: NDArray[np.int64], low: int, high: int, most: int, over_time: bool
    ) -> NDArray[np.int64]:
        """The states to draw of a window: all, or of each pixel the least and the most.

        Args:
            values: int64[n + 1], what is drawn.
            low, high: the states between which, both inclusive.
            most: points, at least 8. In time, levels that last longer than a pixel count too: of what
                follows a crowded moment the last is seen for long.

        Returns:
            int64[m], numbers of events, ascending; the first is ``low``, the last ``high``.
        """
        if high - low < most:
            return np.arange(low, high + 1)
        inner = np.array([low, high])
        times = self._times[low:high]  # of the states after low
        if not over_time or times[0] == times[-1]:
            found = extremes(values[low : high + 1], even_bounds(high - low + 1, (most - 2) // 2)) + low
            return np.unique(np.concatenate([inner, found]))
        columns = (most - 2) // 3
        found = extremes(values[low + 1 : high + 1], bounds_by_position(times, columns)) + low + 1
        width = (int(times[-1]) - int(times[0])) / columns
        lasting = np.flatnonzero(np.diff(times) > width) + low + 1
        return np.unique(np.concatenate([inner, found, lasting]))

    def kept_around(self, name: str, low: int, high: int, most: int, over_time: bool) -> NDArray[np.int64]:
        """The same of a series, with a rough picture of what lies beside the window, seen while one pans."""
        aside = max(most // 8, 8)
        parts = [self.kept(self.series[name], low, high, most - 2 * aside, over_time)]
        if low > 0:
            parts.append(self._aside(name, 0, low, aside, over_time))
        if high < self.events:
            parts.append(self._aside(name, high, self.events, aside, over_time))
        return np.unique(np.concatenate(parts))

    def _aside(self, name: str, low: int, high: int, most: int, over_time: bool) -> NDArray[np.int64]:
        """Of a long stretch over events only what stands out in each block, found once: to go through all
        of a large recording again and again would take most of the time."""
        values, found = self.series[name], self._coarse(name)
        first, last = np.searchsorted(found, [low, high])
        if over_time or last - first < most:
            return self.kept(values, low, high, most, over_time)
        there = found[first:last]
        rows = extremes(values[there], bounds_by_position(there, (most - 2) // 2))
        return np.concatenate([[low], there[rows], [high]])

    def _coarse(self, name: str) -> NDArray[np.int64]:
        if name not in self._coarse_states:
            values = self.series[name]
            self._coarse_states[name] = extremes(values, even_bounds(len(values), len(values) // _BLOCK + 1))
        return self._coarse_states[name]


def _series(history: History) -> dict[str, NDArray[np.int64]]:
    """Each with the state before the first event; copied, for in the effects they lie scattered."""
    start = history.heap_after(0).stats
    return {
        name: np.concatenate([start[f"{name}_bytes"][:1], history.effects[f"{name}_bytes"]])
        for name in SERIES
    }


def _samples(device: DeviceHistory, run: Optional[str], times: NDArray[np.int64]) -> Samples:
    """The samples of this device that were taken during the recording."""
    found = _taken(device, run) if len(times) else []
    taken = np.array([when for when, _ in found], np.int64)
    used = np.array([used for _, used in found], np.int64)
    order = np.argsort(taken, kind="stable")
    if len(times):
        order = order[(taken[order] >= times[0]) & (taken[order] <= times[-1])]
    after = np.searchsorted(times, taken[order], side="right").astype(np.int64)
    return Samples(taken[order], after, used[order])


def _taken(device: DeviceHistory, run: Optional[str]) -> list[tuple[int, int]]:
    """When and how much, from the run folder; none where it is gone or says nothing of this device."""
    source = device.source
    entry = next(
        (one for one in objects(source.document, "devices") if integer(one, "device") == device.device), None
    )
    if run is None or entry is None:
        return []
    try:
        folder = RunFolder.open(run)
    except OomdoctorError:
        return []
    process = next((one for one in folder.processes if one.name == source.process), None)
    if process is None:
        return []
    return [
        (int(when * 1e6), used)
        for when, sample in samples_of(folder, process, entry)
        if (used := integer(sample, "used_bytes")) is not None and abs(when) < 1e11
    ]
