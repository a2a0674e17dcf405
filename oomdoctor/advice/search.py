"""Trying settings on recordings: a map of tasks, over the cores of this machine or a cluster's."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from typing import Callable, Optional, Protocol

from oomdoctor.advice.candidates import EXPANDABLE, combined_settings, kinds, single_settings
from oomdoctor.advice.evaluate import Place, Task, evaluate, forget, keep
from oomdoctor.advice.held import can_begin
from oomdoctor.advice.ranking import HALVINGS, Tried, ranked
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.replay import Outcome
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.errors import OomdoctorError

# How many settings that did well alone are tried together.
_PAIRED = 6
# Of how many the least capacity is looked for that they survive; how many of them are simply the best so far.
_FINALISTS, _AS_RANKED = 10, 4

Progress = Callable[[int, int], None]


class Map(Protocol):
    """Outcomes of tasks, in their order, as they come."""

    def __call__(self, tasks: Sequence[Task]) -> Iterator[Outcome]: ...


@contextmanager
def local_map(
    recordings: Sequence[tuple[Place, DeviceHistory]], workers: Optional[int] = None
) -> Iterator[Map]:
    """A map over processes of this machine; they share the recordings, which are loaded once."""
    for place, device in recordings:
        keep(place, device)
    workers = workers or len(os.sched_getaffinity(0))
    try:
        if workers == 1:
            yield lambda tasks: map(evaluate, tasks)
            return
        # Here, so that each forked process finds the machine code at hand.
        evaluate(Task(recordings[0][0], "", None))
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
            yield lambda tasks: _each(pool, tasks)
    finally:
        forget()


def _each(pool: ProcessPoolExecutor, tasks: Sequence[Task]) -> Iterator[Outcome]:
    """The outcomes of tasks, from processes that may be killed.

    Raises:
        OomdoctorError: one was.
    """
    try:
        yield from pool.map(evaluate, tasks, chunksize=1)
    except BrokenProcessPool as error:
        raise OomdoctorError(
            "a process of the search ended before its replay did",
            where="--workers",
            why="something killed it: the kernel, if this machine ran out of memory, or its limits",
            next_step="search in this process alone, which takes least memory: --workers 1",
        ) from error


def search(
    recordings: Sequence[tuple[Place, DeviceHistory, Optional[int]]],
    mapped: Map,
    *,
    extra: Sequence[str] = (),
    progress: Optional[Progress] = None,
) -> list[Tried]:
    """Settings tried on all recordings of a job, best first.

    Args:
        recordings: where each lies, what it is, and the capacity it has to live with (bytes; None: no end).
        extra: texts to try beside those that the recordings suggest; they are among the answer even where
            others do the same.
        progress: told how many tasks are done, of how many so far.
    """
    histories = [device.history for _, device, _ in recordings]
    done: dict[str, Tried] = {}
    counted = _counted(mapped, progress)

    def begins(text: str) -> bool:
        return text in extra or all(
            can_begin(parse_settings(text, device.history.torch).settings, device, size)
            for _, device, size in recordings
        )

    def attempt(texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in done and begins(text)]
        tasks = [Task(place, text, size) for text in new for place, _, size in recordings]
        outcomes = list(counted(tasks))
        for at, text in enumerate(new):
            part = outcomes[at * len(recordings) : (at + 1) * len(recordings)]
            done[text] = Tried(text, tuple(part), tuple(size for _, _, size in recordings))

    fractions = [device.conditions().memory_fraction for _, device, _ in recordings]
    attempt(
        [
            "",
            *extra,
            *single_settings(
                histories,
                share=_share(recordings),
                has_fraction=any(fraction is not None and fraction < 1.0 for fraction in fractions),
            ),
        ]
    )
    alone = [
        one.alloc_conf
        for one in ranked(list(done.values()))
        if one.alloc_conf and one.alloc_conf not in extra
    ]
    attempt(combined_settings(alone[:_PAIRED], histories))
    return _with_needs(ranked(list(done.values()), extra), recordings, counted, always=extra)


def _counted(mapped: Map, progress: Optional[Progress]) -> Map:
    """The same map, which tells of each task that is done, of all that were handed in so far."""
    done, of = 0, 0

    def counting(tasks: Sequence[Task]) -> Iterator[Outcome]:
        nonlocal done, of
        of += len(tasks)
        for outcome in mapped(tasks):
            done += 1
            if progress is not None:
                progress(done, of)
            yield outcome

    return counting


def _share(recordings: Sequence[tuple[Place, DeviceHistory, Optional[int]]]) -> Optional[float]:
    """The least share of its device's memory that PyTorch has on any; None where one of them is not known."""
    shares = []
    for _, device, size in recordings:
        if device.total_bytes is None and size is None:
            return None
        total = device.total_bytes or size
        shares.append((size or total or 1) / (total or 1))
    return min(shares)


def _finalists(tried: list[Tried]) -> list[Tried]:
    """In which order they deserve a closer look.

    What is reserved at a capacity says little of what is needed, of expandable segments least of all, and
    settings of one kind do much the same. So after the best come the best of these and of each kind.
    """
    expandable = [one for one in tried if EXPANDABLE in one.alloc_conf][:1]
    first: dict[frozenset[str], Tried] = {}
    for one in tried:
        first.setdefault(frozenset(kinds(one.alloc_conf)), one)
    order = [*tried[:_AS_RANKED], *expandable, *first.values(), *tried]
    return list({one.alloc_conf: one for one in order}.values())


def _with_needs(
    tried: list[Tried],
    recordings: Sequence[tuple[Place, DeviceHistory, Optional[int]]],
    mapped: Map,
    always: Sequence[str],
) -> list[Tried]:
    """The same, with the least capacity that the best of them survive.

    A recording ends where it ran out of memory, and what survives that alone may do so by little.
    """
    finalists = _finalists([one for one in tried if one.survives])
    # The best value of max_split_size_mb is answered for by name.
    split = [t.alloc_conf for t in finalists if kinds(t.alloc_conf) == {"max_split_size_mb"}][:1]
    wanted = {*always, *split}
    finalists = finalists[:_FINALISTS] + [one for one in finalists[_FINALISTS:] if one.alloc_conf in wanted]
    # Those requests need what they use, and what lay there before them.
    low = {
        one.alloc_conf: [
            max(outcome.peak_active_bytes, device.held_at_start)
            for outcome, (_, device, _) in zip(one.outcomes, recordings)
        ]
        for one in finalists
    }
    high = {one.alloc_conf: [outcome.peak_reserved_bytes for outcome in one.outcomes] for one in finalists}
    for _ in range(HALVINGS):
        asked = [(one.alloc_conf, number) for one in finalists for number in range(len(recordings))]
        middles = [(low[text][number] + high[text][number]) // 2 for text, number in asked]
        tasks = [Task(recordings[number][0], text, size) for (text, number), size in zip(asked, middles)]
        for (text, number), size, outcome in zip(asked, middles, mapped(tasks)):
            (low if outcome.first_oom is not None else high)[text][number] = size
    known = [replace(one, needs=tuple(high[one.alloc_conf])) for one in finalists]
    judged = {one.alloc_conf for one in known}
    return ranked([*known, *(one for one in tried if one.alloc_conf not in judged)], always)
