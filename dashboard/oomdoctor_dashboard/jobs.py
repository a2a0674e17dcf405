"""Long work in the background: one thread a job, progress to look at, and a way to stop it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Optional


class Cancelled(Exception):
    """Raised inside a job when a person has stopped it."""


@dataclass
class Job:
    """One piece of work.

    Attributes:
        title: what a person sees.
        done, total: how far it is; ``total`` 0: not known.
        result: what it returned.
        error: why it failed; ``OomdoctorError`` where a person can do something about it.
        state: "running", "done", "failed" or "cancelled".
    """

    title: str
    done: int = 0
    total: int = 0
    result: Any = None
    error: Optional[BaseException] = None
    state: str = "running"
    started: float = field(default_factory=time.monotonic)
    ended: Optional[float] = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _finished: threading.Event = field(default_factory=threading.Event)

    def progress(self, done: int, total: int) -> None:
        """Say how far it is: a ``Progress`` of :mod:`oomdoctor.advice.search`.

        Raises:
            Cancelled: it was stopped.
        """
        self.done, self.total = done, total
        if self._stop.is_set():
            raise Cancelled

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        return (self.ended or time.monotonic()) - self.started

    def cancel(self) -> None:
        """Stop it at its next word of progress; its result is thrown away in any case."""
        self._stop.set()
        if self.state == "running":
            self.state = "cancelled"

    def wait(self, seconds: Optional[float] = None) -> bool:
        """Whether it ended within this time."""
        return self._finished.wait(seconds)

    def _run(self, work: Callable[[Job], Any]) -> None:
        try:
            result = work(self)
        except Cancelled:
            self.state = "cancelled"
        except BaseException as error:  # the page shows it; a thread's traceback goes nowhere
            self.error = error
            if self.state == "running":
                self.state = "failed"
        else:
            self.result = result
            if self.state == "running":
                self.state = "done"
        finally:
            self.ended = time.monotonic()
            self._finished.set()


class Jobs:
    """The jobs of a server by key; one that is known starts again only if it failed or was stopped."""

    def __init__(self) -> None:
        self._jobs: dict[Any, Job] = {}
        self._lock = threading.Lock()

    def start(self, key: Any, title: str, work: Callable[[Job], Any]) -> Job:
        """The job of a key: running, ended, or begun now."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None or job.state in ("failed", "cancelled"):
                job = self._jobs[key] = Job(title)
                threading.Thread(target=job._run, args=(work,), name=title, daemon=True).start()
            return job

    def get(self, key: Any) -> Optional[Job]:
        """The job of a key, if there is one."""
        return self._jobs.get(key)

    def forget(self, key: Any) -> None:
        """Let go of a job and its result."""
        with self._lock:
            self._jobs.pop(key, None)
