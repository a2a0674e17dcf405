"""Pieces that several texts for people have in common."""

from __future__ import annotations

from typing import Optional

from oomdoctor.diagnosis.by_stack import Place
from oomdoctor.diagnosis.frames import frame_text, short_path
from oomdoctor.units import GIB, format_bytes


def place_lines(place: Place, width: int) -> list[str]:
    """A place in a line for each frame; of what is too long the folders go first."""
    if not place.is_known:
        return ["(no stack recorded)"]
    lines = []
    for frame in place.frames:
        line = frame_text(frame)
        folders = short_path(frame.filename).split("/")
        while len(line) > width and len(folders) > 1:
            folders = folders[1:]
            line = f"{frame.name}  …/{'/'.join(folders)}:{frame.line}"
        if len(line) > width:
            end = f"{folders[-1]}:{frame.line}"[-(width - 10) :]
            line = f"{frame.name[: width - len(end) - 3]}…  {end}"
        lines.append(line)
    return lines


def size_text(size: Optional[int]) -> str:
    """A size for a column of tables; "-" where it is not known."""
    return "-" if size is None else format_bytes(size) if size < 10_000 * GIB else f"{size / GIB:.0f} GiB"


def narrow_size(size: Optional[int]) -> str:
    """The same in ten characters, "1022.0 MiB" instead of "1022.00 MiB"."""
    text = size_text(size)
    return text if len(text) <= 10 else text[:-5] + text[-4:]


def narrow_count(count: int) -> str:
    """A count in five characters: ``4,711``, ``47k``, ``12M``."""
    text = f"{count:,}"
    if len(text) <= 5:
        return text
    return f"{count // 1000}k" if count < 10_000_000 else f"{count // 1_000_000}M"


def counted(count: int, noun: str, plural: Optional[str] = None) -> str:
    """``1 event``, ``7,820 events``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
