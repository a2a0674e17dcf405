"""What torch accepts in allocator settings without doing what it seems to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from oomdoctor.allocator.constants import UNLIMITED
from oomdoctor.allocator.settings_readers import Readers
from oomdoctor.allocator.torch_version import TorchVersion, newer_than_known
from oomdoctor.errors import SettingsError


@dataclass(frozen=True)
class SettingsWarning:
    """One warning.

    Attributes:
        id: what it is about; stays the same over releases.
        summary: one sentence.
    """

    id: str
    summary: str


def warnings_about(
    values: dict[str, Any],
    asked: set[str],
    readers: Sequence[Readers],
    torch: TorchVersion,
    unread: Optional[SettingsError],
    expandable_supported: bool,
) -> list[SettingsWarning]:
    """The warnings about one text.

    Args:
        values: what was read from it, by field of ``Settings``.
        asked: the keys in it.
        readers: the parsers that read it.
        unread: the error that torch meets only later, with backend:cudaMallocAsync.
        expandable_supported: whether the platform has expandable segments.
    """
    found = []
    newer = newer_than_known(torch)
    if newer:
        found.append(SettingsWarning("torch-newer-than-known", newer))
    found += _about_spelling(readers, torch)
    if values["backend"] == "cudaMallocAsync":
        return found + _about_other_backend(asked, unread)
    expandable = bool(values.get("expandable_segments"))
    if expandable and not expandable_supported:
        found.append(
            SettingsWarning("expandable-unsupported", "expandable_segments is ignored on this platform.")
        )
        expandable = False
    if expandable and values.get("max_split_size", UNLIMITED) != UNLIMITED:
        found.append(
            SettingsWarning(
                "expandable-with-max-split-size",
                "With expandable_segments free blocks of max_split_size_mb and more are split after all, for "
                "requests of that size; smaller requests still do not take them (pytorch/pytorch#123548).",
            )
        )
    fraction = values.get("per_process_memory_fraction", 1.0)
    if values.get("garbage_collection_threshold") and fraction >= 1:
        found.append(
            SettingsWarning(
                "garbage-collection-without-fraction",
                "garbage_collection_threshold does nothing unless a memory fraction below 1 is set "
                "(torch.cuda.set_per_process_memory_fraction).",
            )
        )
    if "expandable_segments_reserve" in values and not expandable:
        found.append(
            SettingsWarning(
                "reserve-without-expandable",
                "expandable_segments_reserve does nothing without expandable_segments:True.",
            )
        )
    return found


def summaries(warnings: Sequence[SettingsWarning], memory_fraction: Optional[float]) -> tuple[str, ...]:
    """The texts of warnings, without what does not hold for a program that sets a memory fraction itself.

    Args:
        memory_fraction: of ``set_per_process_memory_fraction``; None where it is not called.
    """
    has_fraction = memory_fraction is not None and memory_fraction < 1
    return tuple(
        one.summary
        for one in warnings
        if not (has_fraction and one.id == "garbage-collection-without-fraction")
    )


def _about_spelling(readers: Sequence[Readers], torch: TorchVersion) -> list[SettingsWarning]:
    found = []
    for token, mark in dict.fromkeys(pair for reader in readers for pair in reader.tokens.loose):
        found.append(
            SettingsWarning(
                "separator",
                f"{token!r} stands where {mark!r} belongs; torch {torch[0]}.{torch[1]} does not mind and "
                "drops it, releases before 2.10 reject the text.",
            )
        )
    for key, token, number in dict.fromkeys(one for reader in readers for one in reader.tokens.partly):
        found.append(
            SettingsWarning(
                "number-read-in-part", f"{key} has {token!r}, of which torch reads the number {number}."
            )
        )
    for key, token in dict.fromkeys(pair for reader in readers for pair in reader.ignored):
        found.append(
            SettingsWarning(
                "reserve-ignored",
                f"{key} has {token!r}, which is ignored: it is neither a fraction (0.5) nor GiB (40G).",
            )
        )
    return found


def _about_other_backend(asked: set[str], unread: Optional[SettingsError]) -> list[SettingsWarning]:
    ignored = sorted(key for key in asked if key != "backend" and not key.startswith("pinned_"))
    found = []
    if ignored:
        found.append(
            SettingsWarning("other-backend", f"backend:cudaMallocAsync ignores {', '.join(ignored)}.")
        )
    if unread is not None:
        found.append(
            SettingsWarning(
                "rejected-later",
                "torch accepts this with backend:cudaMallocAsync, and fails once pinned memory is asked for: "
                f"{unread.what}.",
            )
        )
    return found
