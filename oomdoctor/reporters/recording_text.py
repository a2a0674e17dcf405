"""What ``inspect`` and ``replay`` say alike to a person, 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from oomdoctor.allocator.loading import NO_HISTORY, DeviceHistory
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.recording_json import first_mismatch
from oomdoctor.units import format_bytes

WIDTH = 80
_NOTES = 8


def called(device: DeviceHistory) -> str:
    """``GPU 0``, with the process where there may be several: ``GPU 0, rank 1, pid 4711``."""
    source = device.source
    parts = [f"GPU {device.device}"]
    parts += [] if source.rank is None else [f"rank {source.rank}"]
    parts += [] if source.pid is None else [f"pid {source.pid}"]
    return ", ".join(parts)


# Below this share of allocations the replay is of another program than the recorded one.
_TELLING = 0.9


def trust(device: DeviceHistory) -> str:
    """How far the replay can be trusted, in a sentence or two."""
    check = device.history.check
    if not device.has_events:
        return "No history was recorded: this is the state in the snapshot, and no more."
    if not check.compared:
        return "The recording has no allocation to check the replay with."
    said = f"The replay puts {check.matching:,} of {check.compared:,} allocations where they were recorded."
    mismatch = first_mismatch(device.history)
    if mismatch is not None:
        said += (
            f" The first it does not is number {mismatch['alloc_index']:,} (event {mismatch['event']:,},"
            f" {format_bytes(mismatch['requested_bytes'])}): {mismatch['why']}."
        )
    if check.matching < _TELLING * check.compared:
        said += " With so few, what follows is a guess: the file may be damaged or put together."
    if not device.is_complete:
        pieces = device.history.initial.pieces
        held = sum(piece.end - piece.start for piece in pieces)
        segments = "1 segment was" if len(pieces) == 1 else f"{len(pieces):,} segments were"
        said += f" When the trace began {segments} there, {format_bytes(held)}."
    return said


def release(device: DeviceHistory) -> str:
    """``torch 2.15.0+cu132``; what it stands on where that is the file's fields."""
    by = ", by its fields" if device.torch.basis == "derived" else ""
    return f"torch {device.torch}{by}"


def nothing(path: str) -> str:
    """The answer where there is none."""
    said = "Nothing is recorded: no segment, no event."
    return f"{path}: {said[0].lower()}{said[1:]}" if path else said


def filled(text: str) -> str:
    """A paragraph."""
    return textwrap.fill(text, WIDTH)


def notes(sentences: Sequence[str]) -> list[str]:
    """Bullets; the first few. That there is no history is said before, by :func:`trust`."""
    sentences = [one for one in sentences if one != NO_HISTORY]
    lines = [
        textwrap.fill(f"- {one[:1].upper()}{one[1:].rstrip('.')}.", WIDTH, subsequent_indent="  ")
        for one in sentences[:_NOTES]
    ]
    if len(sentences) > _NOTES:
        lines.append(f"  {len(sentences) - _NOTES} more: --json has all of them.")
    return lines


def problems(sentences: Iterable[str], ink: Ink) -> list[str]:
    """What could not be read."""
    found = notes(list(sentences))
    return ["\n".join([ink("About the recording", "bold"), *found])] if found else []
