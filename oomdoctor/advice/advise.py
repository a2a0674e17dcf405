"""The answer: the current settings, the best ones, max_split_size_mb by name, and what each stands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

from oomdoctor.advice.again import Again
from oomdoctor.advice.conflicts import conflicts, doubts
from oomdoctor.advice.evaluate import Place
from oomdoctor.advice.held import refuse_less
from oomdoctor.advice.max_split import MaxSplitAnswer, answer
from oomdoctor.advice.prove import Proof, ProveOn, ground_for, prove, room_of, why_unprovable
from oomdoctor.advice.ranking import Tried, frontier, is_better, scale_of
from oomdoctor.advice.reasons import fewer_retries, higher_peak, nothing_better
from oomdoctor.advice.search import Map, Progress, search
from oomdoctor.advice.shortfall import Shortfall, shortfall
from oomdoctor.advice.verify import Steps, steps
from oomdoctor.allocator.history import History
from oomdoctor.allocator.layout import Layout, layout_of
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.release_bounds import named
from oomdoctor.allocator.replay import recorded_outcome, replay
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.allocator.what_if import capacity_of
from oomdoctor.errors import SettingsError
from oomdoctor.snapshot.model import ALLOC
from oomdoctor.units import format_bytes


@dataclass(frozen=True)
class Advice:
    """Advice for one job: recordings that share their environment.

    Attributes:
        devices: the recordings; all tuples of outcomes are in this order.
        capacities: what each has to live with, bytes; None: not known, taken without end.
        current: the settings as recorded.
        tried: all settings, best first, ``current`` among them.
        best: the recommendation; None where nothing beats the current settings.
        why: of the recommendation, or of there being none.
        max_split: the answer about max_split_size_mb.
        shortfalls: of each recording, what was missing where memory runs out under the best setting too;
            None where it does not.
        proofs: by recording and settings text, where asked for.
        unproved: why a recording could not be driven through the real allocator, by recording.
        again: the whole program under the recommendation, where it was rehearsed and that was asked for.
        again_split: the same under the ``max_split_size_mb`` that is named, where that is another setting
            and the recorded requests survive with it.
        steps: how to take up the recommendation, and see that it helps.
        notes: what a reader has to know.
    """

    devices: tuple[DeviceHistory, ...]
    capacities: tuple[Optional[int], ...]
    current: Tried
    tried: tuple[Tried, ...]
    best: Optional[Tried]
    why: str
    max_split: MaxSplitAnswer
    shortfalls: tuple[Optional[Shortfall], ...] = ()
    proofs: dict[tuple[int, str], Proof] = field(default_factory=dict)
    unproved: dict[int, str] = field(default_factory=dict)
    again: Optional[Again] = None
    again_split: Optional[Again] = None
    steps: Optional[Steps] = None
    notes: tuple[str, ...] = ()

    def basis(self, number: int, alloc_conf: str) -> str:
        """What the figures of a setting stand on for a recording."""
        proof = self.proofs.get((number, alloc_conf))
        return "proved" if proof is not None and proof.agrees else "replayed"

    @property
    def to_run_again(self) -> tuple[Optional[str], Optional[str]]:
        """Settings that a rehearsed program is to be run under again: those of the two attributes above."""
        best = None if self.steps is None else self.steps.value
        split = self.max_split.tried if self.max_split.helps else None
        if split is None or not split.survives or split.alloc_conf == best:
            return best, None
        return best, split.alloc_conf

    @property
    def ends_at_oom(self) -> bool:
        """Whether a recording has nothing after its out-of-memory error: nobody knows how it would go on."""
        return any(_ends_at_oom(device.history) for device in self.devices)


def _ends_at_oom(history: History) -> bool:
    first = recorded_outcome(history).first_oom
    return first is not None and first.alloc_index == int((history.recording.events.action == ALLOC).sum())


def advise(
    recordings: Sequence[tuple[Place, DeviceHistory]],
    mapped: Map,
    *,
    capacity: Optional[int] = None,
    path: str = "",
    progress: Optional[Progress] = None,
) -> Advice:
    """Search settings for a job.

    Args:
        recordings: those with history; at least one.
        capacity: bytes that PyTorch may reserve on each; by default what the recording shows it had.
        path: of the run folder or snapshot that they are from, for the commands to run next.

    Raises:
        UsageError: ``capacity`` is less than was reserved when a trace began.
        InputError: so is what the recording says there was.
    """
    devices = tuple(device for _, device in recordings)
    capacities = tuple(capacity if capacity is not None else capacity_of(device) for device in devices)
    refuse_less(devices, capacities, asked=capacity is not None)
    recorded_text = devices[0].history.settings.text
    tried = search(
        [(place, device, size) for (place, device), size in zip(recordings, capacities)],
        mapped,
        extra=[recorded_text],
        progress=progress,
    )
    current = next(one for one in tried if one.alloc_conf == recorded_text)
    others = [one for one in tried if one.alloc_conf != recorded_text]
    # Of one that was not tried at less memory a lower peak does not say that it needs less.
    known = [one for one in others if one.needs or not current.needs]
    best = next((one for one in known if is_better(one, current)), None)
    notes = [
        f"{called}: how much memory there was is not known, so nothing says whether a run survives;"
        " --capacity SIZE tells"
        for called, size in ((f"device {d.device}", c) for d, c in zip(devices, capacities))
        if size is None
    ]
    notes += [
        f"device {device.device}: {format_bytes(device.held_at_start)} were reserved when the trace began;"
        " another setting would have changed that as well, and is not seen to"
        for device in devices
        if device.held_at_start
    ]
    for device in devices[1:]:
        text = device.history.settings.text
        if text != recorded_text:
            which = f"pid {device.source.pid}" if device.source.pid is not None else device.source.path
            notes.append(
                f"device {device.device}, {which}: recorded with {text or 'the defaults'};"
                f" all are compared with {recorded_text or 'the defaults'}, of the first"
            )
    histories = [device.history for device in devices]
    notes += _not_by_oldest(best, devices)
    notes += [f"{conflict.key} is left out: {conflict.why}" for conflict in conflicts(histories)]
    notes += doubts(best.alloc_conf, histories) if best is not None else []
    return Advice(
        devices=devices,
        capacities=capacities,
        current=current,
        tried=tuple(tried),
        best=best,
        why=_why(best, current, known),
        shortfalls=tuple(
            None if outcome.first_oom is None else shortfall(device.history, size, outcome.first_oom)
            for device, size, outcome in zip(devices, capacities, (best or current).outcomes)
        ),
        max_split=answer(tried, current, histories, _layouts(current, devices)),
        steps=None
        if best is None
        else steps(path or devices[0].source.path, devices, best.alloc_conf, capacity),
        notes=tuple(notes),
    )


def _layouts(current: Tried, devices: Sequence[DeviceHistory]) -> list[Optional[Layout]]:
    """The heap of each where it ran out of memory; None where it did not."""
    return [
        None
        if outcome.first_oom is None
        else layout_of(replay(device.history, device.history.settings, device.conditions(size)).heap)
        for device, outcome, size in zip(devices, current.outcomes, current.capacities)
    ]


def _not_by_oldest(best: Optional[Tried], devices: Sequence[DeviceHistory]) -> list[str]:
    """Where the release is bounded only, the newest was assumed: what the oldest says to the setting."""
    if best is None:
        return []
    found = []
    for oldest in {device.torch.oldest for device in devices if not device.torch.is_exact}:
        try:
            parse_settings(best.alloc_conf, oldest)
        except SettingsError as error:
            found.append(f"if it was torch {named(oldest)} that recorded this: {error.what}")
    return found


def _why(best: Optional[Tried], current: Tried, others: Sequence[Tried]) -> str:
    if best is None:
        if current.survives:
            return nothing_better(current, others, "setting")
        return "no setting gets further than the current ones: it takes less memory, or a larger device"
    if best.survives and not current.survives:
        failed = min(o.first_oom.alloc_index for o in current.outcomes if o.first_oom is not None)
        return f"survives where the current settings die at allocation {failed:,}"
    if not best.survives:
        return "gets further before it runs out of memory; it does not survive"
    saved = best.headroom - current.headroom
    if saved > scale_of((best, current)):
        return f"leaves {format_bytes(saved)} more room at the worst moment{higher_peak(best, current)}"
    return fewer_retries(best, current)


def proved(advice: Advice, python: str, on: ProveOn = "auto") -> Advice:
    """The same advice, with the current and the recommended settings driven through the real allocator.

    Args:
        on: a CUDA device, an emulated one, or the first if there is one to use.

    Raises:
        EmulatorError: there is no torch that can be used, or no such device.
    """
    chosen = [advice.current]
    for one in (advice.best, advice.max_split.tried):
        if one is not None and one not in chosen:
            chosen.append(one)
    chosen += [one for one in frontier(advice.tried)[:2] if one not in chosen]
    proofs: dict[tuple[int, str], Proof] = {}
    unproved: dict[int, str] = {}
    provable = []
    for number, device in enumerate(advice.devices):
        reason = why_unprovable(device)
        if reason is None:
            provable.append(number)
        else:
            unproved[number] = reason
    if not provable:
        return replace(advice, proofs=proofs, unproved=unproved)
    rooms = [
        room_of(advice.capacities[number], [one.outcomes[number] for one in chosen]) for number in provable
    ]
    ground = ground_for(rooms, python, on)
    for number in provable:
        conditions = advice.devices[number].conditions(advice.capacities[number])
        settings = [(one.alloc_conf, one.outcomes[number]) for one in chosen]
        for proof in prove(advice.devices[number], settings, conditions, python, ground):
            proofs[(number, proof.alloc_conf)] = proof
    return replace(advice, proofs=proofs, unproved=unproved)
