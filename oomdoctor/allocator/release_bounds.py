"""Which PyTorch releases can have written a snapshot: the file does not say, its fields bound it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oomdoctor.allocator.torch_version import NEWEST, OLDEST, TorchVersion
from oomdoctor.snapshot.model import Snapshot

# Fields that a release and all later ones write in every snapshot (THCPModule_memorySnapshot,
# torch/csrc/cuda/Module.cpp), and whether they stand in events, so that it takes one to show them. Fields
# that appear on occasion only (forward_frames, internal_metadata) bound nothing from above.
_ALWAYS: tuple[tuple[TorchVersion, bool], ...] = (
    ((2, 1), False),  # a block's address
    ((2, 2), True),  # time_us
    ((2, 3), False),  # allocator_settings
    ((2, 5), False),  # external_annotations
    ((2, 7), True),  # compile_context
    ((2, 9), False),  # allocator_settings: graph_capture_record_stream_reuse
    ((2, 10), True),  # user_metadata
    ((2, 12), True),  # pool_id
    ((2, 13), False),  # allocator_settings: max_round_threshold
    ((2, 14), False),  # host_segments
)


@dataclass(frozen=True)
class ReleaseBounds:
    """The oldest and newest release that can be meant, and what that stands on.

    Attributes:
        basis: "stated" by a person, "recorded" beside the snapshot, or "derived" from its fields.
        text: the version in full, where one is known: "2.15.0+cu132".
    """

    oldest: TorchVersion
    newest: TorchVersion
    basis: str
    text: str = ""

    @property
    def is_exact(self) -> bool:
        return self.oldest == self.newest

    @property
    def releases(self) -> tuple[TorchVersion, ...]:
        """All of them, oldest first."""
        return tuple((2, minor) for minor in range(self.oldest[1], self.newest[1] + 1))

    def __str__(self) -> str:
        if self.text:
            return self.text
        oldest, newest = named(self.oldest), named(self.newest)
        return oldest if self.is_exact else f"between {oldest} and {newest}"

    @property
    def as_one(self) -> str:
        """For where a release is spoken of: "2.12", "a release between 2.3 and 2.4"."""
        return str(self) if self.is_exact else f"a release {self}"


def exactly(version: TorchVersion, basis: str, text: str = "") -> ReleaseBounds:
    """Bounds that leave one release."""
    return ReleaseBounds(version, version, basis, text)


def bounds_of(snapshot: Snapshot) -> ReleaseBounds:
    """From the fields that the snapshot has and lacks.

    A bare list of segments has none of them but addresses; it bounds little.
    """
    oldest = _version(snapshot.since)
    has_events = any(len(trace) for trace in snapshot.traces)
    is_bare = snapshot.settings is None and not snapshot.traces
    later = [
        release
        for release, in_events in _ALWAYS
        if release > oldest and (has_events or not in_events) and not (is_bare and release > (2, 1))
    ]
    newest = _before(later[0]) if later else NEWEST
    return ReleaseBounds(oldest, newest, "derived")


def narrowed(bounds: ReleaseBounds, releases: Sequence[TorchVersion]) -> ReleaseBounds:
    """To those of its releases that are left."""
    return ReleaseBounds(min(releases), max(releases), bounds.basis, bounds.text)


def named(version: TorchVersion) -> str:
    """``(2, 15)`` as "2.15"."""
    return f"{version[0]}.{version[1]}"


def _before(release: TorchVersion) -> TorchVersion:
    return max((release[0], release[1] - 1), OLDEST)


def _version(text: str) -> TorchVersion:
    major, minor = text.split(".")
    return int(major), int(minor)
