"""What was opened: run folders and snapshots, read when somebody looks at them, kept on the server.

A snapshot is an :class:`Item`, named by a key that its path makes. One device of it, replayed, is a
:class:`Loaded`; whatever a page computes from it more than once is kept there as well.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from oomdoctor import storage
from oomdoctor.allocator.loading import DeviceHistory, load_device
from oomdoctor.allocator.moment import Moment, moment_of
from oomdoctor.diagnosis.inspection import Inspection, inspection_of
from oomdoctor.errors import EmptyInput, InputError, OomdoctorError, UsageError
from oomdoctor.run.folder import RunFolder
from oomdoctor.run.sources import SnapshotSource, snapshot_sources
from oomdoctor.snapshot import Snapshot, read_snapshot
from oomdoctor.snapshot.model import OOM
from oomdoctor_dashboard.jobs import Job, Jobs

_T = TypeVar("_T")
_NOT_OPEN = "this snapshot is not open here"
_OPEN_IT = "open it again: oomdoctor dashboard PATH, or upload it"
# So many bytes of uploaded files stay, times the limit of one; the oldest go.
UPLOADS_KEPT = 8

# Devices that stay replayed, and moments of each: a million events take some 150 MB and 5 MB.
_MOST_LOADED = 12
_MOST_MOMENTS = 48
# Between two looks for what has come to shared storage, seconds; each asks another machine.
_FAR_S = 30.0


@dataclass(frozen=True)
class Item:
    """One snapshot.

    Attributes:
        key: short and the same for the same path.
        source: the file and what was recorded beside it.
        run: the run folder that it lies in; None for a bare file.
        group: what a person calls the run or file.
        label: what a person calls this one: rank or process, and the dump.
        is_upload: it came through the browser.
    """

    key: str
    source: SnapshotSource
    run: Optional[str]
    group: str
    label: str
    is_upload: bool = False


class Loaded:
    """One device of one snapshot, replayed, with what was made of it."""

    def __init__(self, item: Item, device: DeviceHistory) -> None:
        self.item = item
        self.device = device
        self.history = device.history
        self.recording = device.history.recording
        self._made: dict[Any, Any] = {}
        self._moments: OrderedDict[int, Moment] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def events(self) -> int:
        """How many the recording has."""
        return len(self.recording)

    def event(self, asked: Optional[int]) -> int:
        """The number of events that have happened in a view: all for None, and never more than there are."""
        return self.events if asked is None else max(0, min(int(asked), self.events))

    def made(self, name: Any, make: Callable[[Loaded], _T]) -> _T:
        """Something that is made of the device once: ``make(self)``, kept by name."""
        with self._lock:
            if name not in self._made:
                self._made[name] = make(self)
            kept: _T = self._made[name]
            return kept

    def moment(self, event: Optional[int]) -> Moment:
        """The state after so many events."""
        after = self.event(event)
        with self._lock:
            if after not in self._moments:
                self._moments[after] = moment_of(self.history, after)
                while len(self._moments) > _MOST_MOMENTS:
                    self._moments.popitem(last=False)
            self._moments.move_to_end(after)
            return self._moments[after]

    def inspection(self, event: Optional[int]) -> Inspection:
        """What ``oomdoctor inspect --event`` says of that state."""
        return inspection_of(self.device, self.moment(event))


class Library:
    """Everything that one server has open; safe to use from several threads."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.problems: list[str] = []
        self._items: dict[str, Item] = {}
        self._runs: list[str] = []
        self._snapshots: dict[str, Snapshot] = {}
        self._loaded: OrderedDict[tuple[str, int], Loaded] = OrderedDict()
        self._lock = threading.RLock()
        self._uploads: Optional[str] = None
        self._uploaded = 0
        self._failed: dict[str, str] = {}
        self._looked_far = time.monotonic()

    # ---- what is there ----

    def add(self, path: str) -> list[Item]:
        """Open a run folder or a snapshot file, by path or URL; nothing is read yet. Returns the items that
        tell most.

        Raises:
            InputError: there is no such file, or the folder is no run folder.
            UsageError: what the URL names cannot be reached from here.
        """
        path = storage.absolute(path)
        if not storage.is_folder(path):
            (source,), _ = snapshot_sources(path)
            return [self._put(_item(source, None, _name(path)))]
        run = RunFolder.open(path)  # says what is wrong with it, if anything
        with self._lock:
            if path not in self._runs:
                self._runs.append(path)
        self.problems += [one for one in run.problems if one not in self.problems]
        self._follow(path)
        try:
            telling, _ = snapshot_sources(path)
        except InputError:
            return []  # it may be being written: see refresh
        keys = [_key(source.path) for source in telling]
        return [self._items[key] for key in keys if key in self._items]

    def refresh(self) -> bool:
        """Look for snapshots that came into open run folders since; whether there are any."""
        before = len(self._items)
        looks_far = time.monotonic() - self._looked_far > _FAR_S
        if looks_far:
            self._looked_far = time.monotonic()
        for path in list(self._runs):
            if storage.is_url(path) and not looks_far:
                continue
            try:
                self._follow(path)
            except OomdoctorError:
                continue  # a folder that is gone, or half written
        return len(self._items) != before

    def items(self) -> list[Item]:
        """All snapshots, in the order in which they were opened."""
        with self._lock:
            return list(self._items.values())

    @property
    def runs(self) -> list[str]:
        """The run folders that are open."""
        return list(self._runs)

    def item(self, key: Optional[str]) -> Optional[Item]:
        """The one of a key; None where it is not open here."""
        return self._items.get(key) if key else None

    def _put(self, item: Item) -> Item:
        with self._lock:
            return self._items.setdefault(item.key, item)

    def _follow(self, path: str) -> None:
        run = RunFolder.open(path)
        names = sorted({dump.name for process in run.processes for dump in process.dumps if dump.snapshot})
        for name in names:
            try:
                sources, _ = snapshot_sources(path, name)
            except OomdoctorError:
                continue
            for source in sources:
                self._put(_item(source, path, _name(path)))

    # ---- reading ----

    def devices(self, key: str) -> list[int]:
        """The devices of a snapshot that was read.

        Raises:
            InputError: it cannot be read.
        """
        return self.snapshot(key).devices()

    def is_loaded(self, key: str, device: int) -> bool:
        """Whether :meth:`loaded` has an answer at hand."""
        return (key, device) in self._loaded

    def at_hand(self, key: Optional[str], device: Optional[int]) -> Optional[int]:
        """The device that :meth:`load` would answer with at once; None where it has to read."""
        if key is None:
            return None
        if device is None:
            with self._lock:
                is_read = key in self._snapshots
            if not is_read or not self.snapshot(key).devices():
                return None
            device = self._telling_device(key)
        return device if self.is_loaded(key, device) else None

    def load(self, key: str, device: Optional[int]) -> Job:
        """Read and replay in the background; the job's result is the :class:`Loaded`.

        Args:
            device: None for the first that ran out of memory, else the first.
        """
        item = self.item(key)
        title = f"Reading {item.label} of {item.group}" if item else "Reading"

        def work(job: Job) -> Loaded:
            found = self.loaded(key, self._telling_device(key) if device is None else device)
            job.progress(1, 1)
            return found

        if device is None or not self.is_loaded(key, device):
            job = self.jobs.get((key, device))
            if job is not None and job.state == "done":
                self.jobs.forget((key, device))  # it was let go of since
        return self.jobs.start((key, device), title, work)

    def loaded(self, key: str, device: int) -> Loaded:
        """A device, read and replayed now if it was not before.

        Raises:
            UsageError: no such snapshot is open, or it has no such device.
            InputError: the file cannot be read.
        """
        with self._lock:
            if (key, device) in self._loaded:
                self._loaded.move_to_end((key, device))
                return self._loaded[key, device]
        item = self.item(key)
        if item is None:
            raise UsageError(_NOT_OPEN, where=key, next_step=_OPEN_IT)
        snapshot = self.snapshot(key)
        there = snapshot.devices()
        if device not in there:
            listed = ", ".join(map(str, there)) or "none"
            raise UsageError(
                f"there is no device {device}", where=item.source.path, next_step=f"it has {listed}"
            )
        found = Loaded(item, load_device(snapshot, item.source, device))
        with self._lock:
            kept = self._loaded.setdefault((key, device), found)
            while len(self._loaded) > _MOST_LOADED:
                self._loaded.popitem(last=False)
            open_keys = {one for one, _ in self._loaded} | {key}
            self._snapshots = {one: read for one, read in self._snapshots.items() if one in open_keys}
        _settle()
        return kept

    def _telling_device(self, key: str) -> int:
        snapshot = self.snapshot(key)
        devices = snapshot.devices()
        if not devices:
            raise EmptyInput(
                "the snapshot holds no device",
                where=self._items[key].source.path,
                why="nothing was allocated on a GPU when it was taken, and no history was recorded",
                next_step="take it while memory is in use: oomdoctor trace -- COMMAND",
            )
        failed = [d for d in devices if d < len(snapshot.traces) and (snapshot.traces[d].action == OOM).any()]
        return (failed or devices)[0]

    def snapshot(self, key: str) -> Snapshot:
        """A snapshot, read now if it was not before.

        Raises:
            UsageError: no such snapshot is open.
            InputError: it cannot be read.
        """
        item = self.item(key)
        if item is None:
            raise UsageError(_NOT_OPEN, where=key, next_step=_OPEN_IT)
        with self._lock:
            if key in self._snapshots:
                return self._snapshots[key]
        snapshot = read_snapshot(item.source.path)
        with self._lock:
            return self._snapshots.setdefault(key, snapshot)

    # ---- uploads ----

    def upload(self, name: str, pieces: Iterable[bytes], *, keep: Optional[int] = None) -> Item:
        """A file that came through the browser, kept in a private folder until :meth:`close`.

        Nothing of it is read here, and its name is not used as a path. What ``pieces`` raises goes through;
        nothing is left of the file then.

        Args:
            keep: bytes of uploaded files that stay; the oldest are forgotten beyond that.
        """
        with self._lock:
            if self._uploads is None:
                self._uploads = tempfile.mkdtemp(prefix="oomdoctor-")  # 0700
            self._uploaded += 1
            path = Path(self._uploads) / f"{self._uploaded:04d}{_suffix(name)}"
        try:
            with open(path, "wb") as file:
                for piece in pieces:
                    file.write(piece)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        item = _item(SnapshotSource(str(path)), None, _shown(name))
        if keep is not None:
            self._forget_oldest(keep - _size(str(path)))
        same = sum(other.is_upload and other.group == item.group for other in self.items())
        label = "uploaded" if not same else f"uploaded, {same + 1}"
        return self._put(replace(item, label=label, is_upload=True))

    def _forget_oldest(self, keep: int) -> None:
        uploads = [item for item in self.items() if item.is_upload]
        size = sum(_size(item.source.path) for item in uploads)
        for item in uploads:
            if size <= keep:
                return
            size -= _size(item.source.path)
            self.remove(item.key)

    def failed(self, key: str) -> None:
        """Note that a snapshot could not be read as it is now; an uploaded one is forgotten."""
        item = self.item(key)
        if item is None:
            return
        if item.is_upload:
            self.remove(key)
            return
        with self._lock:
            self._failed[key] = _state(item.source.path)

    def is_worth_another_try(self, key: str) -> bool:
        """Whether a snapshot that could not be read has changed since: it was being written."""
        item, stamp = self.item(key), self._failed.get(key)
        if item is None or stamp is None or _state(item.source.path) == stamp:
            return False
        with self._lock:
            self._failed.pop(key, None)
        return True

    def close(self) -> None:
        """Remove what was uploaded."""
        if self._uploads is not None:
            shutil.rmtree(self._uploads, ignore_errors=True)
            self._uploads = None

    def remove(self, key: str) -> None:
        """Forget a snapshot; of an uploaded one the file goes as well."""
        with self._lock:
            item = self._items.pop(key, None)
            self._snapshots.pop(key, None)
            for one in [one for one in self._loaded if one[0] == key]:
                self._loaded.pop(one)
                self.jobs.forget(one)
        if item is not None and item.is_upload:
            Path(item.source.path).unlink(missing_ok=True)


def _settle() -> None:
    """Spare the garbage collector what stays: to look through it took a tenth of a second at every few steps.

    What was let go of meanwhile is looked through once more.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _size(path: str) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return storage.size_of(path)
    except OSError:
        return 0


def _state(path: str) -> str:
    """Another text after a file has changed; empty where there is none."""
    try:
        return storage.state_of(path)
    except OSError:
        return ""


def _key(path: str) -> str:
    return hashlib.sha256(storage.absolute(path).encode()).hexdigest()[:10]


def _name(path: str) -> str:
    """The last part of a path or a URL."""
    return os.path.basename(path.rstrip("/")) or path


def _item(source: SnapshotSource, run: Optional[str], group: str) -> Item:
    who = [f"rank {source.rank}"] if source.rank is not None else []
    if source.pid is not None:
        who.append(f"pid {source.pid}")
    label = " · ".join([*who, source.dump or "snapshot"])
    return Item(key=_key(source.path), source=source, run=run, group=group, label=label)


def _suffix(name: str) -> str:
    """What readers go by: ".json", ".pickle.gz"."""
    suffix = "".join(Path(name.replace("\\", "/")).suffixes[-2:])
    return suffix if suffix.replace(".", "").isalnum() and len(suffix) < 24 else ""


def _shown(name: str) -> str:
    """A file's name as a person may see it."""
    return "".join(c for c in os.path.basename(name.replace("\\", "/")) if c.isprintable())[:80] or "upload"
