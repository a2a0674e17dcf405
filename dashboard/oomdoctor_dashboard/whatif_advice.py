"""The search for settings on a server: in threads, with a word of progress, to be stopped."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Optional

from oomdoctor.advice.advise import Advice, advise
from oomdoctor.advice.evaluate import Place, Task, evaluate, forget, keep
from oomdoctor.advice.search import Map
from oomdoctor.advice.state_only import advise_from_state, has_requests
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.replay import Outcome
from oomdoctor.errors import InputError, OomdoctorError
from oomdoctor.reporters import advise_json, advise_state_text, shortfall_text
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.parts import size_text
from oomdoctor.reporters.recording_text import called
from oomdoctor.run.sources import SnapshotSource, snapshot_sources
from oomdoctor_dashboard.jobs import Job
from oomdoctor_dashboard.library import Item, Library

Recordings = Sequence[tuple[Place, DeviceHistory]]
AS_RECORDED = "as recorded"

# Searches share what evaluate() keeps at hand, and the cores: one at a time.
_SEARCHING = threading.Lock()
# How far a search is when it has tried settings alone, in pairs, and looked for the least memory of the best;
# each of those later rounds takes one step.
_ALONE, _PAIRED, _STEP = 350, 650, 50
WHOLE = 1000


@dataclass(frozen=True)
class Searched:
    """An answer, without the recordings that it is about.

    Attributes:
        document: what ``oomdoctor advise --json`` prints.
        which: index of a recording in the document by (path, device).
        names: of the recordings, in their order.
        shortfalls: in words, what each lacked where memory runs out under the best setting too; else None.
        survive: whether all recordings survive, by settings text.
    """

    document: dict[str, Any]
    which: dict[tuple[str, int], int]
    names: tuple[str, ...]
    shortfalls: tuple[Optional[str], ...]
    survive: dict[str, bool]


def recordings_of(
    library: Library, item: Item, device: int, *, everywhere: bool
) -> tuple[list[tuple[Place, DeviceHistory]], list[str]]:
    """What a search is about: one device, or each of each process of the run; and what has no say in it.

    Raises:
        InputError: no history was recorded.
    """
    found, without = [], []
    for source in _sources(item) if everywhere else [item.source]:
        key = next((one.key for one in library.items() if one.source.path == source.path), None)
        if key is None:
            continue
        for number in library.devices(key) if everywhere else [device]:
            one = library.loaded(key, number).device
            if has_requests(one):
                found.append((Place(one.source.path, number, one.history.torch), one))
            else:
                without.append(f"{called(one)}: no request was recorded, so it has no say")
    if not found:
        raise InputError(
            "no history was recorded: there is nothing to replay settings on",
            where=item.source.path,
            next_step="record the program: oomdoctor trace -- COMMAND",
        )
    return found, without


def _sources(item: Item) -> list[SnapshotSource]:
    """As ``oomdoctor advise RUN_FOLDER`` takes them; with ``--dump`` where another dump is looked at."""
    assert item.run is not None
    sources, _ = snapshot_sources(item.run)
    if all(source.path != item.source.path for source in sources):
        sources, _ = snapshot_sources(item.run, item.source.dump)
    return sources


@contextmanager
def thread_map(recordings: Recordings, job: Job, workers: Optional[int] = None) -> Iterator[Map]:
    """A map over threads: the heap's machine code runs beside other threads, and a server must not fork.

    Raises:
        Cancelled: from the map, once the job was stopped.
    """
    while not _SEARCHING.acquire(timeout=0.2):
        job.title = "Waiting for another search"
        job.progress(0, WHOLE)
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)), thread_name_prefix="what-if")
    try:
        for place, device in recordings:
            job.progress(0, WHOLE)
            keep(place, device)
        rounds = 0

        def mapped(tasks: Sequence[Task]) -> Iterator[Outcome]:
            nonlocal rounds
            rounds += 1
            waiting = [pool.submit(evaluate, task) for task in tasks]
            try:
                for number, future in enumerate(waiting):
                    job.title, done = _progress(rounds, number, len(tasks))
                    job.progress(done, WHOLE)
                    yield future.result()
            finally:
                for future in waiting:
                    future.cancel()

        yield mapped
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        forget()
        _SEARCHING.release()


def _progress(rounds: int, done: int, of: int) -> tuple[str, int]:
    """What a search is at, and how far, of WHOLE."""
    low, high = {1: (0, _ALONE), 2: (_ALONE, _PAIRED)}.get(
        rounds, (_PAIRED + _STEP * (rounds - 3), _PAIRED + _STEP * (rounds - 2))
    )
    what = {1: "Settings alone", 2: "Settings together"}.get(rounds, "How much memory the best need")
    return f"{what}: {done:,} of {of:,}", min(low + (high - low) * done // max(of, 1), WHOLE)


def search(
    library: Library, item: Item, device: int, *, everywhere: bool, capacity: Optional[int], job: Job
) -> Searched:
    """Search settings, as ``oomdoctor advise`` does.

    Args:
        capacity: bytes that PyTorch may reserve on each; None for what each recording shows it had.

    Raises:
        Cancelled: the job was stopped.
        InputError: no history was recorded.
    """
    recordings, without = recordings_of(library, item, device, everywhere=everywhere)
    with thread_map(recordings, job) as mapped:
        path = item.run if everywhere and item.run is not None else item.source.path
        found = advise(recordings, mapped, capacity=capacity, path=path)
    return _searched(found, without)


def _searched(advice: Advice, without: Sequence[str]) -> Searched:
    return Searched(
        document=advise_json.document(advice, without),
        which={(device.source.path, device.device): number for number, device in enumerate(advice.devices)},
        names=tuple(called(device) for device in advice.devices),
        shortfalls=tuple(
            None if lack is None else shortfall_text.render(lack, called(device))
            for device, lack in zip(advice.devices, advice.shortfalls)
        ),
        survive={one.alloc_conf: one.survives for one in advice.tried},
    )


# ---- rows and words ----


def rows(searched: Searched, number: int) -> list[dict[str, Any]]:
    """The settings of one recording, the current ones first, then the best; sizes in bytes.

    Keys: ``id``, ``alloc_conf``, ``setting``, ``survives`` and ``everywhere`` (in words), ``reserved``,
    ``retries``, ``needs`` (None: not looked for), ``calls`` (of the driver), ``basis``, ``best``,
    ``current``, ``on_frontier`` (none leaves more room and asks the driver less), ``mark`` (an arrow at the
    best); beside each size a text: ``reserved_text``, ``needs_text``.
    """
    one = searched.document["devices"][number]
    current = one["current"]["alloc_conf"]
    best = one["recommendation"]["alloc_conf"] if one["recommendation"] else None
    # As the command prints them: the current settings first.
    candidates = sorted(one["candidates"], key=lambda candidate: bool(candidate["alloc_conf"] != current))
    return [
        _row(candidate, one["capacity_bytes"], current, best, searched.survive) for candidate in candidates
    ]


def _row(
    candidate: dict[str, Any],
    capacity: Optional[int],
    current: str,
    best: Optional[str],
    survive: dict[str, bool],
) -> dict[str, Any]:
    text, metrics = candidate["alloc_conf"], candidate["metrics"]
    oom = metrics["first_oom"]
    survives = "yes" if capacity is not None else "-"
    if oom is not None:
        survives = f"dies at {oom['alloc_index']:,}"
    is_current = text == current
    name = text or "the defaults"
    needs = metrics["least_capacity_bytes"]
    return {
        "id": AS_RECORDED if is_current else f"conf:{text}",
        "alloc_conf": text,
        "setting": f"{AS_RECORDED} ({text or 'defaults'})" if is_current else name,
        "survives": survives,
        "everywhere": "yes" if survive[text] else "no",
        "reserved": metrics["peak_reserved_bytes"],
        "reserved_text": size_text(metrics["peak_reserved_bytes"]),
        "retries": metrics["num_alloc_retries"],
        "needs": needs,
        "needs_text": "" if needs is None else size_text(needs),
        "calls": metrics["num_device_alloc"] + metrics["num_device_free"],
        "basis": candidate["basis"],
        "on_frontier": candidate["on_frontier"],
        "best": text == best,
        "mark": "→" if text == best else "",
        "current": is_current,
    }


def conf_of_row(row_id: str) -> Optional[str]:
    """The settings text of a row; None for those of the recording."""
    return None if row_id == AS_RECORDED else row_id.partition(":")[2]


def max_split_words(searched: Searched, number: int) -> str:
    """The answer about max_split_size_mb."""
    answer = searched.document["devices"][number]["max_split_size_mb"]
    why = f"{answer['why'][:1].upper()}{answer['why'][1:]}"
    return f"{answer['best']}. {why}" if answer["helps"] else why


def state_words(device: DeviceHistory) -> str:
    """What the state alone suggests where no request was recorded, as ``oomdoctor advise`` prints it."""
    return advise_state_text.render(advise_from_state([device]), [], Ink(False))


def advise_command(
    path: str, device: Optional[int], capacity: Optional[int], dump: Optional[str] = None
) -> str:
    """The command that proves the answer by the real allocator."""
    words = ["oomdoctor", "advise", path]
    words += [] if device is None else ["--device", str(device)]
    words += [] if dump is None else ["--dump", dump]
    words += [] if capacity is None else ["--capacity", str(capacity)]
    return shlex.join([*words, "--prove"])


def dump_option(item: Item) -> Optional[str]:
    """The ``--dump`` with which a run folder means the snapshots that are looked at; None: none is needed."""
    if item.run is None:
        return None
    try:
        sources, _ = snapshot_sources(item.run)
    except OomdoctorError:
        return None
    return None if any(source.path == item.source.path for source in sources) else item.source.dump
