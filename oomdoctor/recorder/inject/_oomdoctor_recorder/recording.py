"""One recording: this process, from CUDA's initialization to its end."""

import _thread
import atexit
import contextlib
import gc
import os
import pickle
import time
from typing import Any, BinaryIO, Callable, Dict, List, Optional, TypeVar

from . import VERSION, entry, facts, files, forks, history, host, ooms, report, signals

_T = TypeVar("_T")
PICKLE_PROTOCOL = 4  # pytorch.org/memory_viz unpickles in JavaScript and knows nothing of protocol 5
_EXIT_PATIENCE_SECONDS = 120  # how long an exit waits for a dump that another thread is at

current: "Optional[Recording]" = None


def begin(torch: Any, environment: Dict[str, str], started_unix: float) -> None:
    """Start recording this process. The program goes on whatever happens; what failed is reported."""
    global current
    if current is not None and current.pid == os.getpid():
        return
    current = recording = Recording(torch, environment, started_unix)
    for what, step in (
        ("allocator history could not be switched on", recording.start_history),
        ("out-of-memory errors cannot be observed", recording.observe_ooms),
        ("the exit cannot be observed", recording.observe_exit),
        ("signals cannot be observed", recording.observe_signals),
        ("this process could not be described", recording.describe),
    ):
        try:
            step()
        except Exception:
            if step == recording.start_history and _keeps_no_history(torch):
                recording.backend_told = True
                text = _one_sentence(torch)
                report.note(text)
                report.send("failure", text)
            elif not (recording.backend_told and step == recording.observe_ooms):
                report.failure(what)


def _keeps_no_history(torch: Any) -> bool:
    return facts.backend(torch) not in (None, "native")


def _one_sentence(torch: Any) -> str:
    return (
        f"the allocator backend {facts.backend(torch)} keeps no history: no events, no snapshots, and"
        " out-of-memory errors go unseen; each device's figures are recorded"
    )


class Recording:
    """What is known and open while a process is recorded.

    Dumps are made by one thread at a time. ``_dumping`` holds the thread that is at it, so that whatever
    comes in the middle of its own dump (a signal, an exit, an OOM in a destructor) stands back. The lock is
    reentrant, since a signal handler may also come between the lock and that word.
    """

    def __init__(self, torch: Any, environment: Dict[str, str], started_unix: float) -> None:
        self.torch = torch
        self.pid = os.getpid()
        self.started_unix = started_unix
        self.cuda_started_unix = time.time()
        self.cuda_started = time.monotonic()
        self.run = environment["OOMDOCTOR_RUN"]
        self.launcher = environment.get("OOMDOCTOR_LAUNCHER")
        self.stacks = environment.get("OOMDOCTOR_STACKS", "python")
        self.max_entries = 1_000_000
        self.backend_told = False  # that the allocator's backend keeps no history
        self.history_by_program = False  # switched on by the program before CUDA's start
        self.folder = os.path.join(
            self.run, "processes", f"{_safe(os.uname().nodename)}-{self.pid}-{time.time_ns():x}"
        )
        self.sequence = 0
        self.dump_seconds = 0.0
        self.ooms = ooms.Policy(self)
        self.finished = False
        self.on_demand = False
        self.facts: Dict[str, Any] = {}
        self._lock = _thread.RLock()
        self._dumping: Optional[int] = None
        self._after_dump: List[Callable[[], None]] = []
        self._make_folder()
        text = environment.get("OOMDOCTOR_MAX_ENTRIES", "")
        if text:
            try:
                self.max_entries = max(1, int(text))
            except ValueError:
                report.failure(f"OOMDOCTOR_MAX_ENTRIES={text!r} is not a number; {self.max_entries} is used")
        if self.stacks not in ("python", "all", "none"):
            report.failure(f"OOMDOCTOR_STACKS={self.stacks!r} is not python, all or none; python is used")
            self.stacks = "python"

    # -- starting
    # ------------------------------------------------------------------------------------------------

    def _make_folder(self) -> None:
        try:
            files.make_run_folder(self.run, VERSION, time.time())
            os.makedirs(self.folder, exist_ok=True)
            report.folder = self.folder
        except OSError:
            report.failure(f"the run folder {self.run} cannot be written")

    def start_history(self) -> None:
        self.history_by_program = not history.start(self.torch, self.max_entries, self.stacks)

    def observe_ooms(self) -> None:
        history.observe_ooms(self.torch, self.ooms.observe)

    def observe_exit(self) -> None:
        atexit.register(self.finish)
        entry.before_hard_exit = self.finish
        forks.register()

    def observe_signals(self) -> None:
        signals.install(self)

    def describe(self) -> None:
        """Write process.json, and tell the launcher where."""
        report.send("cuda", self.folder)
        self.facts = {
            **facts.process(self.torch, self.started_unix, self.cuda_started_unix),
            "launcher": self.launcher,
            "recorder_version": VERSION,
            "max_entries": self.max_entries,
            "stacks": self.stacks,
        }
        self.write_process()

    def write_process(self) -> None:
        if self.facts:
            files.write_json(
                os.path.join(self.folder, "process.json"), {**self.facts, "on_demand": self.on_demand}
            )

    def set_on_demand(self, possible: bool) -> None:
        """Whether SIGUSR2 asks for a snapshot, as process.json says it."""
        if possible != self.on_demand:
            self.on_demand = possible
            try:
                self.write_process()
            except OSError:
                report.failure("process.json could not be written")

    # -- ending
    # --------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The snapshot at exit, once, in the process that is recorded and not in a child forked from it."""
        if os.getpid() == self.pid:
            self.guarded("the snapshot at exit failed", lambda: self._finish("exit"))

    def _finish(self, reason: str) -> None:
        # Looked at under the lock: where SIGTERM's snapshot is being made, an exit waits for it, and for the
        # end.
        if not self.finished:
            self.finished = True
            self.dump(reason)

    def terminated(self) -> None:
        """The snapshot at SIGTERM, in the place of the one at exit."""
        self.guarded("the snapshot at SIGTERM failed", lambda: self._finish("sigterm"))

    # -- dumping
    # -------------------------------------------------------------------------------------------------

    def guarded(self, what: str, work: Callable[[], _T]) -> Optional[_T]:
        """Do this as the one thread that dumps; report failures instead of raising them.

        What the program's own signal handlers raise while we work is the program's and goes on to it: a
        KeyboardInterrupt, or a timeout out of a SIGALRM handler.
        """
        me = _thread.get_ident()
        if self._dumping == me or os.getpid() != self.pid:
            return None
        if not self._lock.acquire(True, _EXIT_PATIENCE_SECONDS):
            report.failure(what + ": another thread did not finish its snapshot")
            return None
        self._dumping = me
        try:
            return work()
        except Exception as error:
            if signals.is_programs(error):
                raise
            report.failure(what)
            return None
        finally:
            self._dumping = None
            self._lock.release()
            while self._after_dump:
                self._after_dump.pop()()

    def dumping_here(self) -> bool:
        """Whether this very thread is in the middle of a dump."""
        return self._dumping == _thread.get_ident()

    def after_dump(self, work: Callable[[], None]) -> None:
        """Have this done when the dump in progress is over."""
        self._after_dump.append(work)

    def dump(self, reason: str, oom: Optional[Dict[str, Any]] = None) -> str:
        """A snapshot and what stands beside it, into the process folder. Call within ``guarded``.

        Returns:
            the name that the two files share, without ending.
        """
        began = time.monotonic()
        self.sequence += 1
        name = f"{self.sequence:04d}-{reason}"
        collecting = gc.isenabled()
        gc.disable()  # millions of new objects and no garbage: collecting would triple the time
        try:
            document = self._dump(name, reason, oom, began)
        finally:
            if collecting:
                gc.enable()
            self.dump_seconds += time.monotonic() - began
        report.send("dumped", f"{document['reason']} {os.path.join(self.folder, name)}")
        return name

    def _dump(self, name: str, reason: str, oom: Optional[Dict[str, Any]], began: float) -> Dict[str, Any]:
        torch = self.torch
        devices = facts.devices_in_use(torch)
        now = time.time()
        memory = {device: facts.free_and_total(torch, device) for device in devices}
        enabled = history.is_on(torch)
        look = self._look(devices)
        stats, snapshot, snapshot_error = look.stats, look.snapshot, look.error
        if snapshot_error is not None and not self.backend_told:
            report.failure("no snapshot: " + snapshot_error.split("\n")[0])
        os.makedirs(self.folder, exist_ok=True)
        report.folder = self.folder
        if snapshot is not None:
            files.write_whole(
                os.path.join(self.folder, name + ".pickle"), lambda file: _pickle(snapshot, file)
            )
        traces = (snapshot or {}).get("device_traces") or []
        entries = [len(trace) for trace in traces]
        settings = (snapshot or {}).get("allocator_settings")
        snapshot = look.snapshot = traces = None
        document = {
            "schema": "oomdoctor.dump/1",
            "reason": reason,
            "sequence": self.sequence,
            "snapshot": name + ".pickle" if snapshot_error is None else None,
            "snapshot_error": snapshot_error,
            "consistent": look.consistent,
            "time_unix": now,
            "process": {**self.facts, **facts.ranks(), "on_demand": self.on_demand},
            "settings": {
                "asked": facts.settings_asked(dict(os.environ)),
                "in_effect": settings,
                "backend": facts.backend(torch),
                "memory_fraction": facts.memory_fractions(torch, devices),
            },
            "history": {
                # torch does not tell what a program asked for.
                "max_entries": None if self.history_by_program else self.max_entries,
                "entries": entries,
                "wrapped": None
                if self.history_by_program
                else [count >= self.max_entries for count in entries],
                "recording": enabled,
                "by_program": self.history_by_program,
                "stacks": None if self.history_by_program else self.stacks,
            },
            "devices": [
                {
                    **facts.identity(torch, device),
                    "total_bytes": memory[device][1],
                    "free_bytes": memory[device][0],
                    **facts.device_report(stats[device]),
                }
                for device in devices
            ],
            "dump_seconds": round(time.monotonic() - began, 6),
        }
        if oom is not None:
            document["oom"] = oom
        files.write_json(os.path.join(self.folder, name + ".json"), document)
        return document

    def _look(self, devices: List[int]) -> "_Look":
        """Counters and snapshot of one and the same moment.

        torch holds the interpreter lock during each of the two, but between them another thread may allocate.
        Then the counters from after the snapshot may be the ones that fit, or a second look; a program whose
        threads never rest gets what there is, and the word that it does not fit.
        """
        torch = self.torch
        look = _Look()
        for _ in range(2):
            look.stats = {device: dict(torch.cuda.memory_stats(device)) for device in devices}
            look.error = self._too_little_host_memory(look.stats)
            if look.error is not None:
                return look
            try:
                look.snapshot = history.snapshot(torch)
            except Exception as error:  # cudaMallocAsync and pluggable allocators have none
                if signals.is_programs(error):
                    raise
                look.error = f"torch gave none: {type(error).__name__}: {error}"
                return look
            if look.fits():
                return look
            look.stats = {device: dict(torch.cuda.memory_stats(device)) for device in devices}
            if look.fits():
                return look
        look.consistent = False
        return look

    def _too_little_host_memory(self, stats: Dict[int, Dict[str, Any]]) -> Optional[str]:
        needed = host.needed_bytes(stats.values(), None if self.history_by_program else self.max_entries)
        available = host.available_bytes()
        if available is None or needed <= available:
            return None
        return f"not enough host memory: some {needed >> 20} MiB needed, {available >> 20} MiB available"

    def remove(self, name: str) -> None:
        """Take a dump away that a later one stands for.

        What describes it first, so that no reader misses the rest.
        """
        for ending in (".json", ".pickle"):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.folder, name + ending))


class _Look:
    """What was seen of the allocator at one moment."""

    stats: Dict[int, Dict[str, Any]]
    snapshot: Optional[Dict[str, Any]] = None
    error: Optional[str] = None
    consistent = True

    def fits(self) -> bool:
        """Whether the snapshot's segments add up to what the counters say."""
        for device, counters in self.stats.items():
            mine = [s for s in (self.snapshot or {}).get("segments", ()) if s.get("device") == device]
            for field, counter in (("total_size", "reserved_bytes"), ("allocated_size", "allocated_bytes")):
                said = counters.get(f"{counter}.all.current")
                if said is not None and said != sum(segment[field] for segment in mine):
                    return False
        return True


def _pickle(snapshot: Any, file: BinaryIO) -> None:
    pickle.Pickler(file, protocol=PICKLE_PROTOCOL).dump(snapshot)


def _safe(host: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "_" for c in host) or "host"


def forget_after_fork() -> None:
    """In a child forked from a recorded process: nothing of the recording is ours, CUDA least of all."""
    global current
    current = None
    entry.before_hard_exit = None
    report.folder = None
