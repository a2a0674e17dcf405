"""The state of the allocator at any event of a recording."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.configure import config_of
from oomdoctor.allocator.constants import MIN_BLOCK_SIZE, SMALL_SIZE
from oomdoctor.allocator.contradictions import UsedAddresses, segments_contradict
from oomdoctor.allocator.heap_layout import Heap, copied, grown
from oomdoctor.allocator.initial import (
    initial_state,
    request_of_segment_events,
    small_segment_events,
)
from oomdoctor.allocator.observed import ObservedSizes, observed_sizes
from oomdoctor.allocator.recorded import EFFECT, Steps, run_recorded
from oomdoctor.allocator.recording import Recording, recording_of
from oomdoctor.allocator.releases import release_bursts, segment_causes
from oomdoctor.allocator.rules import TIE_SEGMENT_COUNTER, rules_of
from oomdoctor.allocator.segment_order import by_address, ordered, piece_at
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.start import block_rows_of_births, started_heap
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.snapshot.model import ALLOC, INACTIVE, SEGMENT_ALLOC, Snapshot
from oomdoctor.snapshot.stacks import NO_STACK

# Between keyframes: few enough events that running them takes some milliseconds.
KEYFRAME_EVENTS = 1 << 15

# Each lesson is a replay of the whole trace. Sound recordings needed no more than two; a damaged one could
# go on for thousands.
_MOST_LESSONS = 32


@dataclass(frozen=True)
class SelfCheck:
    """Whether the heap, by its own rules under the recorded settings, goes where PyTorch went.

    Attributes:
        compared: recorded allocations.
        matching: of these, how many the heap puts at the recorded address.
        first_mismatch: event of the first that it does not; None.
        conflicts: events that contradict the recording's own segments.
        inferred_segments: segments taken for those of a private pool, which the recording does not name,
            because the allocator made them although a cached block would have done.
    """

    compared: int
    matching: int
    first_mismatch: Optional[int]
    conflicts: int
    inferred_segments: int


@dataclass(frozen=True)
class _Keyframe:
    event: int
    heap: Heap


class History:
    """A recording replayed under its own settings.

    Attributes:
        recording, settings, torch: what was replayed, and as what.
        initial: the state before the first event.
        effects: EFFECT[n] of :mod:`oomdoctor.allocator.recorded`: what each event did, and the totals after
            it.
        check: the self-check.
        last: the heap after the last event.
        bursts: the releases of segments, with why each happened.
        ranks: of the segments that were there before, the oldest first; by address where nothing shows it.
        births: how many blocks have a number, see :mod:`oomdoctor.allocator.recording`.
    """

    def __init__(self, recording: Recording, settings: Settings, torch: TorchVersion) -> None:
        self.recording = recording
        self.settings = settings
        self.torch = torch
        request = request_of_segment_events(recording)
        self.is_small = small_segment_events(recording, request)
        self.initial = initial_state(recording, settings, self.is_small)
        self.steps = _steps(recording, request, self.is_small)
        births = np.concatenate([recording.birth, self.initial.blocks.birth])
        self.births = int(births.max()) + 1 if len(births) else 0
        self.ranks = by_address(self.initial.pieces)
        self._checks_segments = segments_contradict(recording, self.initial.pieces)
        self._replay(infers_pools=False)
        self._learn()
        stated = bool(self.steps.pool_known.all())
        if self.check.matching < self.check.compared and not stated:
            # Before 2.12 the trace does not say which requests went to private pools.
            first = self.check
            self._replay(infers_pools=True)
            if self.check.matching <= first.matching:
                self._replay(infers_pools=False)
        self.bursts = release_bursts(
            recording, settings, self.effects["reserved_bytes"], self.effects["private_pool"], request
        )

    def _learn(self) -> None:
        """Where a choice of the allocator contradicts what is not known of older blocks, let it tell that."""
        older: set[tuple[int, int]] = set()
        for _ in range(_MOST_LESSONS):
            if self.check.matching == self.check.compared:
                return
            sizes = self._sizes_from_blocks_passed_over()
            ranks = None
            if rules_of(self.torch).tie_break == TIE_SEGMENT_COUNTER:
                ranks = self._ranks_from_choices(older)
            if sizes is None and ranks is None:
                return
            if sizes is not None:
                blocks = replace(self.initial.blocks, block_size=sizes)
                self.initial = replace(self.initial, blocks=blocks)
            self.ranks = ranks if ranks is not None else self.ranks
            self._replay(infers_pools=False)

    def _ranks_from_choices(self, older: set[tuple[int, int]]) -> Optional[list[int]]:
        """The order of older segments that the choices between them tell; None: nothing new."""
        pieces = self.initial.pieces
        starts = [piece.start for piece in pieces]
        known = len(older)
        for event in np.flatnonzero(self.effects["tie"]).tolist():
            first = piece_at(pieces, starts, int(self.recording.events.address[event]))
            second = piece_at(pieces, starts, int(self.effects["predicted"][event]))
            if first is not None and second is not None and first != second:
                older.add((first, second))
        return ordered(len(pieces), older) if len(older) > known else None

    def _sizes_from_blocks_passed_over(self) -> Optional[NDArray[np.int64]]:
        """Sizes of older blocks, where the free block behind one was passed over: it was smaller."""
        blocks = self.initial.blocks
        if not blocks.guessed:
            return None
        ends = {
            int(blocks.address[k] + blocks.block_size[k]): k
            for k in np.flatnonzero(blocks.uncertain).tolist()
        }
        sizes = blocks.block_size.copy()
        for event in np.flatnonzero(self.effects["passed_over"] >= 0).tolist():
            predicted = int(self.effects["predicted"][event])
            k = ends.get(predicted)
            if k is None or predicted == int(self.recording.events.address[event]):
                continue
            more = int(self.effects["passed_over"][event]) + MIN_BLOCK_SIZE
            larger = int(blocks.block_size[k]) + more
            if larger - int(blocks.requested_size[k]) <= SMALL_SIZE + MIN_BLOCK_SIZE:
                sizes[k] = max(int(sizes[k]), larger)
        return sizes if (sizes != blocks.block_size).any() else None

    def _replay(self, *, infers_pools: bool) -> None:
        n = len(self.recording)
        config = config_of(self.settings, self.torch)
        config["infers_pools"] = infers_pools
        heap = started_heap(config, len(self.recording.pools), self.initial, self.ranks)
        heap.stats["checks_segments"] = self._checks_segments
        block_of = block_rows_of_births(heap, self.births)
        self.effects = np.zeros(n, EFFECT)
        self._keyframes = [_Keyframe(0, copied(heap))]
        for start in range(0, n, KEYFRAME_EVENTS):
            stop = min(start + KEYFRAME_EVENTS, n)
            heap = self._run(heap, block_of, start, stop, writes_effects=True)
            if stop < n:
                self._keyframes.append(_Keyframe(stop, copied(heap)))
        self.last = heap
        self.check = self._check()

    def _run(
        self, heap: Heap, block_of: NDArray[np.int64], start: int, stop: int, *, writes_effects: bool
    ) -> Heap:
        while True:
            start = run_recorded(heap, self.steps, block_of, self.effects, start, stop, writes_effects)
            if start >= stop:
                return heap
            heap = grown(heap)

    def heap_after(self, events: int) -> Heap:
        """The allocator after the first ``events`` events; 0 for the state before any.

        Raises:
            IndexError: there are not so many.
        """
        if not 0 <= events <= len(self.recording):
            raise IndexError(f"the recording has {len(self.recording)} events, not {events}")
        at = bisect_right([frame.event for frame in self._keyframes], events) - 1
        frame = self._keyframes[at]
        heap = copied(frame.heap)
        block_of = block_rows_of_births(heap, self.births)
        return self._run(heap, block_of, frame.event, events, writes_effects=False)

    @cached_property
    def causes(self) -> NDArray[np.uint8]:
        """uint8[n]: why the segment of each segment event came or went, index in ``heap_layout.CAUSES``."""
        return segment_causes(self.recording, self.bursts)

    @cached_property
    def recorded_segments(self) -> NDArray[np.int64]:
        """int64[k, 3], see :class:`~oomdoctor.allocator.heap_layout.Heap`."""
        events = self.recording.events
        came = events.action == SEGMENT_ALLOC
        size, start = events.entry_size[came], events.address[came]
        used_before = UsedAddresses((piece.start, piece.end) for piece in self.initial.pieces)
        reused = [used_before.add(at, at + length) for at, length in zip(start.tolist(), size.tolist())]
        return np.stack([size, start, np.array(reused, np.int64)], axis=1)

    @cached_property
    def observed(self) -> ObservedSizes:
        """The sizes that the recording asked for, see :mod:`oomdoctor.allocator.observed`."""
        return observed_sizes(self.recording, self.settings, self.torch)

    @cached_property
    def stack_of_birth(self) -> NDArray[np.int32]:
        """int32[births + 1]: where each block was allocated; NO_STACK where not known, and at -1."""
        recording = self.recording
        n = len(recording)
        out = np.full(max(self.births, n) + 1, NO_STACK, np.int32)
        out[:n] = recording.events.stack
        # What is live at the end has its stack in the snapshot: blocks older than the trace, and all of them
        # where stacks were kept for the state alone (context="state").
        final = table_of(self.last)
        final = final[(final["alloc_event"] >= 0) & ((final["allocated"] == 1) | (final["pending"] == 1))]
        blocks = recording.snapshot.blocks
        mine = recording.snapshot.segments.device[blocks.segment] == recording.device
        rows = np.flatnonzero(mine & (blocks.state != INACTIVE))
        if len(rows) and len(final):
            at = np.minimum(np.searchsorted(blocks.address[rows], final["ptr"]), len(rows) - 1)
            same = blocks.address[rows][at] == final["ptr"]
            births, stacks = final["alloc_event"][same], blocks.stack[rows][at[same]]
            unknown = out[births] == NO_STACK
            out[births[unknown]] = stacks[unknown]
        return out

    @property
    def keyframe_bytes(self) -> int:
        """Memory that the keyframes take."""
        return sum(
            sum(getattr(frame.heap, name).nbytes for name in Heap._fields) for frame in self._keyframes
        )

    def _check(self) -> SelfCheck:
        allocs = np.flatnonzero(self.recording.events.action == ALLOC)
        same = self.effects["predicted"][allocs] == self.recording.events.address[allocs]
        wrong = allocs[~same]
        return SelfCheck(
            compared=len(allocs),
            matching=int(same.sum()),
            first_mismatch=int(wrong[0]) if len(wrong) else None,
            conflicts=int(self.last.stats["conflicts"][0]),
            inferred_segments=int(self.last.stats["inferred_segments"][0]),
        )


def _steps(recording: Recording, request: NDArray[np.int64], is_small: NDArray[np.bool_]) -> Steps:
    events = recording.events
    return Steps(
        action=events.action,
        address=events.address,
        entry_size=events.entry_size,
        stream=recording.stream,
        private_pool=recording.private_pool,
        pool_known=recording.pool_known.astype(np.uint8),
        birth=recording.birth,
        is_small=is_small.astype(np.uint8),
        request=request,
    )


def history_of(snapshot: Snapshot, device: int, settings: Settings, torch: TorchVersion) -> History:
    """Replay the trace of one device under the settings it was recorded with."""
    return History(recording_of(snapshot, device), settings, torch)


def table_of(heap: Heap) -> NDArray[Any]:
    """The blocks of a heap by address: BLOCK[m], unmapped ones included."""
    rows = heap.blocks[heap.blocks["used"] == 1]
    by_address: NDArray[Any] = rows[np.argsort(rows["ptr"], kind="stable")]
    return by_address
