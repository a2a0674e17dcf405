"""The map of a search over the workers of a Dask cluster that is there already."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from oomdoctor.advice.evaluate import Task, evaluate, forget
from oomdoctor.allocator.replay import Outcome
from oomdoctor.errors import OomdoctorError, UsageError
from oomdoctor.storage import absolute

if TYPE_CHECKING:
    from oomdoctor.advice.search import Map

_OPTION = "--scheduler"
_CONNECTING = "10s"
# A cluster may start its workers when there is work.
_WORKER_WITHIN = 60.0


@contextlib.contextmanager
def cluster_map(scheduler: str) -> Iterator[Map]:
    """A map over the workers of a Dask cluster, which read the recordings from where their paths lead.

    Raises:
        UsageError: Dask is not installed, no scheduler answers, or it has no worker.
        OomdoctorError: the workers cannot do it.
    """
    client = _connected(scheduler)

    def mapped(tasks: Sequence[Task]) -> Iterator[Outcome]:
        # A worker has a working directory of its own.
        placed = [replace(task, place=replace(task.place, path=absolute(task.place.path))) for task in tasks]
        futures = client.map(evaluate_on_worker, placed, pure=False)
        try:
            _has_workers(client, scheduler)
            for future in futures:
                outcome: Outcome = _result(future)
                yield outcome
        finally:
            client.cancel(futures)

    try:
        yield mapped
    finally:
        # The cluster outlives the search; what its workers read need not.
        with contextlib.suppress(Exception):
            client.run(forget)
        client.close()


def _connected(scheduler: str) -> Any:
    try:
        from dask.distributed import Client
        from distributed.comm.addressing import resolve_address
        from distributed.comm.registry import get_backend
    except ImportError as error:
        raise UsageError(
            "Dask is not installed", where=_OPTION, next_step="pip install 'oomdoctor[cluster]'"
        ) from error
    try:
        # First: a client that gets an address it cannot use takes long to go, and prints a traceback.
        get_backend(scheduler.partition("://")[0] if "://" in scheduler else "tcp")
        resolve_address(scheduler)
        return Client(scheduler, timeout=_CONNECTING, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {scheduler}",
            where=_OPTION,
            why=str(error) or None,
            next_step="an address is like tcp://10.0.0.7:8786",
        ) from error


def _has_workers(client: Any, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_WORKER_WITHIN)
    except TimeoutError as error:
        raise UsageError(
            f"the Dask cluster at {scheduler} has no worker",
            where=_OPTION,
            next_step=f"dask worker {scheduler}",
        ) from error


def _result(future: Any) -> Any:
    try:
        return future.result()
    except OomdoctorError as error:
        raise OomdoctorError(
            f"a worker of the cluster: {error.what}",
            where=error.where,
            why=error.why,
            next_step="workers read the recordings themselves: their folder has to be shared with them",
        ) from error
    except Exception as error:  # whatever Python or Dask makes of a worker that is not fit for it
        raise OomdoctorError(
            "the workers of the cluster could not do it",
            where=_OPTION,
            why=f"{type(error).__name__}: {error}",
            next_step="they need the same oomdoctor: pip install 'oomdoctor[cluster]' where they run",
        ) from error


_COMPILING = threading.Lock()
_is_compiled = False


def evaluate_on_worker(task: Task) -> Outcome:
    """The outcome of a task, in a process that others like it may stand beside."""
    global _is_compiled
    with _COMPILING:
        if not _is_compiled:
            _compile()
            _is_compiled = True
    return evaluate(task)


def _compile() -> None:
    """Have the heap's machine code at hand, one process at a time of those that keep it in the same folder.

    Numba writes the index of what it keeps before what the index leads to. One that reads in between would
    take older code for what it asked for.
    """
    from oomdoctor.allocator.configure import Conditions
    from oomdoctor.allocator.history import history_of
    from oomdoctor.allocator.replay import replay
    from oomdoctor.allocator.requests import run_requests
    from oomdoctor.allocator.settings import Settings
    from oomdoctor.allocator.torch_version import NEWEST
    from oomdoctor.snapshot import snapshot_from_plain

    event = {"action": "oom", "device_free": 0, "size": 512, "stream": 0}
    plain = {"segments": [], "device_traces": [[event]]}
    folder = getattr(getattr(run_requests, "stats", None), "cache_path", None)
    with _alone_in(folder):
        replay(history_of(snapshot_from_plain(plain), 0, Settings(), NEWEST), Settings(), Conditions())


@contextlib.contextmanager
def _alone_in(folder: Any) -> Iterator[None]:
    """Held by one process at a time; by all where the folder's disk has no locks."""
    import fcntl

    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, TypeError):
            os.makedirs(folder, exist_ok=True)
            file = held.enter_context(open(os.path.join(folder, "compiling.lock"), "a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
