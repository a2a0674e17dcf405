"""From a snapshot to a History for each of its devices: under which settings, of which release.

A snapshot states no version. Where nobody else does either, its fields bound it; where releases of different
rules are left, each is tried, and those stay whose rules reproduce the most recorded addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Optional

from oomdoctor.allocator.agreement import agrees_with_snapshot, broken_segments, disagreement
from oomdoctor.allocator.configure import Conditions
from oomdoctor.allocator.history import History
from oomdoctor.allocator.recording import Recording, recording_of
from oomdoctor.allocator.release_bounds import ReleaseBounds, bounds_of, exactly, named, narrowed
from oomdoctor.allocator.rules import rules_of
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.settings_sources import environment_settings, settings_from_snapshot
from oomdoctor.allocator.torch_version import (
    NEWEST,
    TorchVersion,
    newer_than_known,
    parse_torch_version,
)
from oomdoctor.errors import SettingsError, UsageError
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import Snapshot

NO_HISTORY = "no history was recorded for this device: its final state is all there is"


@dataclass(frozen=True)
class DeviceHistory:
    """One device of one snapshot, replayed under what it was recorded with.

    Attributes:
        source: where it is from.
        device: its number.
        history: the replay. Where no events were recorded it holds the final state alone.
        torch: which release recorded it, as far as that is known; ``history.torch`` is the newest of these.
        total_bytes: the device's memory; None where not known.
        memory_fraction: of ``set_per_process_memory_fraction``; None where not known.
        notes: what a reader has to know, a sentence each.
        agrees: whether the end of the replay is the state in the snapshot.
    """

    source: SnapshotSource
    device: int
    history: History
    torch: ReleaseBounds
    total_bytes: Optional[int]
    memory_fraction: Optional[float]
    notes: tuple[str, ...]
    agrees: bool = True

    @property
    def has_events(self) -> bool:
        return len(self.history.recording) > 0

    @property
    def is_complete(self) -> bool:
        """Whether the recording began before the allocator's first segment."""
        return self.has_events and self.history.initial.is_empty()

    @property
    def is_as_recorded(self) -> bool:
        """Whether the replay goes where the recording went, all the way and to the same end."""
        check = self.history.check
        return self.agrees and check.matching == check.compared and not check.conflicts

    @property
    def held_at_start(self) -> int:
        """Bytes reserved when the trace began."""
        return sum(piece.end - piece.start for piece in self.history.initial.pieces)

    def conditions(self, capacity: Optional[int] = None) -> Conditions:
        """Those of the recording, with this capacity in bytes.

        A capacity beyond the recorded device's memory means a larger device. Where the fraction in effect was
        that of the settings, the program set none itself: other settings bring their own.
        """
        total = self.total_bytes
        if total is not None and capacity is not None and capacity > total:
            total = capacity
        fraction = self.memory_fraction
        if fraction == self.history.settings.per_process_memory_fraction:
            fraction = None
        return Conditions(capacity=capacity, total_memory=total, memory_fraction=fraction)


def load_device(
    snapshot: Snapshot, source: SnapshotSource, device: int, torch: Optional[TorchVersion] = None
) -> DeviceHistory:
    """One device of a snapshot.

    Args:
        torch: the release that recorded it, where the caller knows.

    Raises:
        UsageError: that release cannot have written it.
    """
    return _device_history(snapshot, source, device, release_of(snapshot, source, torch))


def release_of(
    snapshot: Snapshot, source: SnapshotSource, torch: Optional[TorchVersion] = None
) -> ReleaseBounds:
    """Who recorded a snapshot: as stated, else as recorded beside it, else by its fields.

    Raises:
        UsageError: the stated release is none that can have written these fields.
    """
    fields = bounds_of(snapshot)
    if torch is not None:
        known = release_of(snapshot, source)
        if not can_be(torch, snapshot, source):
            raise UsageError(
                f"torch {named(torch)} has not recorded this: it is of {known.as_one}",
                where=source.path,
                next_step="leave it out: what the file or the run folder says is used",
            )
        return known if known.basis == "recorded" else exactly(torch, "stated")
    if source.torch_version is not None:
        try:
            return exactly(parse_torch_version(source.torch_version), "recorded", source.torch_version)
        except UsageError:
            return fields
    return fields


def can_be(torch: TorchVersion, snapshot: Snapshot, source: SnapshotSource) -> bool:
    """Whether a release can have recorded a snapshot, by all that is known."""
    known = release_of(snapshot, source)
    if known.basis == "recorded":
        return torch == known.oldest
    return known.oldest <= torch <= known.newest or (torch > NEWEST and known.newest == NEWEST)


def recorded_settings(snapshot: Snapshot, source: SnapshotSource, torch: TorchVersion) -> Settings:
    """The settings a snapshot was recorded with: its own word, else the environment of its process."""
    if snapshot.settings is None and source.environment:
        try:
            return environment_settings(source.environment, torch).settings
        except SettingsError:
            return Settings()
    return settings_from_snapshot(snapshot.settings, torch)


def _device_history(
    snapshot: Snapshot, source: SnapshotSource, device: int, bounds: ReleaseBounds
) -> DeviceHistory:
    recording = recording_of(snapshot, device)
    history, left, notes = _best(recording, source, bounds)
    if not len(recording):
        notes.append(NO_HISTORY)
    newer = newer_than_known(bounds.newest)
    notes += [newer] if newer else []
    if snapshot.settings is None and not source.environment:
        notes.append("the recording states no allocator settings: the defaults are assumed")
    notes += [*snapshot.notes, *recording.notes, *broken_segments(snapshot, device)]
    notes += history.initial.notes
    guessed = history.initial.blocks.guessed
    if guessed:
        blocks = "1 block" if guessed == 1 else f"{guessed:,} blocks"
        notes.append(
            f"of {blocks} older than the trace the size is bounded only: what was asked for is known, what"
            " was handed out is taken to be as little as can be"
        )
    if history.check.conflicts:
        conflicts = history.check.conflicts
        events = "1 event contradicts" if conflicts == 1 else f"{conflicts:,} events contradict"
        notes.append(f"{events} the recording's own segments")
    agrees = agrees_with_snapshot(history)
    if not agrees:
        notes.append(disagreement(history))
    return DeviceHistory(
        source=source,
        device=device,
        history=history,
        torch=left,
        total_bytes=source.total_bytes(device),
        memory_fraction=source.memory_fraction(device),
        notes=tuple(notes),
        agrees=agrees,
    )


def _best(
    recording: Recording, source: SnapshotSource, bounds: ReleaseBounds
) -> tuple[History, ReleaseBounds, list[str]]:
    """The history by the rules that fit best, the releases that have them, and how the others fared."""
    snapshot = recording.snapshot
    alike: dict[Any, list[TorchVersion]] = {}
    for release in bounds.releases if bounds.newest <= NEWEST else (bounds.newest,):
        settings = recorded_settings(snapshot, source, release)
        alike.setdefault(_what_matters(recording, settings, release), []).append(release)
    tried = [
        (History(recording, recorded_settings(snapshot, source, releases[-1]), releases[-1]), releases)
        for releases in alike.values()
    ]
    most = max(history.check.matching for history, _ in tried)
    best = [(history, releases) for history, releases in tried if history.check.matching == most]
    left = narrowed(bounds, [release for _, releases in best for release in releases])
    notes = []
    if len(best) < len(tried):
        worse = [
            f"those of {named(releases[-1])} put {history.check.matching:,}"
            for history, releases in tried
            if history.check.matching < most
        ]
        notes.append(
            f"its fields allow torch {bounds}; by the rules of {named(best[-1][1][-1])} {most:,} of"
            f" {best[0][0].check.compared:,} allocations fall where they were recorded, {', '.join(worse)}"
        )
    # Of rules that fit alike the newest release's: it knows the most settings.
    return best[-1][0], left, notes


def _what_matters(recording: Recording, settings: Settings, torch: TorchVersion) -> Any:
    """What of a release's rules can make a difference to this recording."""
    rules = rules_of(torch)
    return (
        rules.tie_break,
        rules.unrounded_division_of_one and 1 in settings.roundup_power2_divisions,
        rules.routing_keeps_cache and bool(recording.pools),
        replace(settings, text=""),
    )
