"""The form of "what if": a settings text, the fields that are parts of it, and what both ask for.

The text is the truth, as in ``PYTORCH_CUDA_ALLOC_CONF``; each field shows one entry of it and changes it
there. What stands in the form are small texts, the page's options in the view.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, Union

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.release_bounds import named
from oomdoctor.allocator.settings_keys import knows
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.allocator.settings_warnings import summaries
from oomdoctor.allocator.torch_version import NEWEST, OLDEST, TorchVersion, parse_torch_version
from oomdoctor.allocator.what_if import Asked, capacity_of
from oomdoctor.errors import OomdoctorError, SettingsError, UsageError
from oomdoctor.units import format_bytes, parse_size

NUMBERS = (
    "max_split_size_mb",
    "garbage_collection_threshold",
    "large_segment_size_mb",
    "max_non_split_rounding_mb",
)
EXPANDABLE, ROUNDUP = "expandable_segments", "roundup_power2_divisions"
KEYS = (*NUMBERS, EXPANDABLE, ROUNDUP)
NO_END = "no end"
RELEASES = tuple((OLDEST[0], minor) for minor in range(OLDEST[1], NEWEST[1] + 1))
_MOST_BYTES = 1 << 62


# ---- the text and its entries ----


def entries(text: str) -> list[str]:
    """A settings text at its commas; those in brackets belong to a value."""
    found, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += letter
    return [entry.strip() for entry in found if entry.strip()]


def value_of(text: str, key: str) -> Optional[str]:
    """The value of a key, the last one as torch has it; None where the text does not name it."""
    values = [value.strip() for name, _, value in map(_split, entries(text)) if name == key]
    return values[-1] if values else None


def with_value(text: str, key: str, value: Optional[str]) -> str:
    """The text with another value of a key, in its place or at the end; None takes the key away."""
    out: list[str] = []
    wanted = [] if value is None else [f"{key}:{value}"]
    for entry in entries(text):
        if _split(entry)[0] == key:
            out += wanted
            wanted = []
        else:
            out.append(entry)
    return ",".join(out + wanted)


def _split(entry: str) -> tuple[str, str, str]:
    name, mark, value = entry.partition(":")
    return name.strip(), mark, value


def field_value(text: str, key: str) -> Any:
    """What the field of a key shows: a number or "", a switch's state, a text."""
    value = value_of(text, key)
    if key == EXPANDABLE:
        return value == "True"
    if key == ROUNDUP:
        return value or ""
    number = _number(value)
    return "" if number is None else number


def with_field(text: str, key: str, value: Any) -> str:
    """The text once a field was given a value; the same text where the field shows that already."""
    if value is None:
        value = False if key == EXPANDABLE else ""
    if value == field_value(text, key):
        return text
    if key == EXPANDABLE:
        return with_value(text, key, "True" if value else None)
    if key == ROUNDUP:
        return with_value(text, key, str(value).strip() or None)
    number = _number(value)
    return with_value(text, key, None if number is None else f"{number}")


def _number(value: Any) -> Union[int, float, None]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def taken(options: Mapping[str, Any], given: Mapping[str, Any], recorded: str) -> dict[str, Any]:
    """The options once fields were given values; the same where they show those already.

    Args:
        options: of the page, as they are.
        given: by field: "conf", "capacity", "torch", "fraction", or a key of the settings.
        recorded: the settings text of the recording, which the form shows where none is chosen.
    """
    out = {name: value for name, value in options.items() if value is not None}
    text = str(out.get("conf", recorded))
    for name, value in given.items():
        if name == "conf":
            text = value or ""
        elif name in KEYS:
            text = with_field(text, name, value)
        else:
            said = "" if value is None else str(value).strip()
            out = {
                **{key: kept for key, kept in out.items() if key != name},
                **({name: said} if said else {}),
            }
    out.pop("conf", None)
    return {**out, "conf": text} if text != recorded else out


# ---- what is asked for ----


@dataclass(frozen=True)
class Wanted:
    """What a form asks for.

    Attributes:
        asked: for :func:`oomdoctor.allocator.what_if.compare`; None where something cannot be read.
        text: the settings text that the form shows.
        torch: the release whose rules and keys hold.
        errors: by field: "conf", a key of the settings, "capacity", "torch", "fraction".
        warnings: what torch accepts without doing what it seems to say.
        capacity: bytes that are taken where none is given; None: without end.
    """

    asked: Optional[Asked]
    text: str
    torch: TorchVersion
    errors: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    capacity: Optional[int] = None

    def knows(self, key: str) -> bool:
        """Whether that release reads a key of the settings."""
        return knows(key, self.torch)


def wanted(device: DeviceHistory, options: Mapping[str, Any]) -> Wanted:
    """What the options of the page ask for: "conf", "capacity", "torch", "fraction", none of them a must.

    Where nothing is asked for, ``asked`` changes nothing; else the capacity is what the recording shows it
    had, unless another is given.
    """
    history = device.history
    errors: dict[str, str] = {}
    torch = _read(errors, "torch", parse_torch_version, options.get("torch")) or history.torch
    recorded = history.settings.text
    conf = options.get("conf")
    text = recorded if conf is None else str(conf)
    warnings: tuple[str, ...] = ()
    fraction = _read(errors, "fraction", _fraction, options.get("fraction"))
    if conf is not None:
        try:
            parsed = parse_settings(text, torch)
            warnings = summaries(parsed.warnings, device.memory_fraction if fraction is None else fraction)
        except SettingsError as error:
            errors |= {name: _said(error) for name in ("conf", *_fields_of(error))}
    known = capacity_of(device)
    given = options.get("capacity")
    capacity = known if given is None else _read(errors, "capacity", _capacity, given)
    changes = conf is not None or given is not None or torch != history.torch or fraction is not None
    asked = Asked(
        alloc_conf=None if conf is None else text,
        capacity=capacity if changes else None,
        torch=torch if torch != history.torch else None,
        memory_fraction=fraction,
    )
    return Wanted(None if errors else asked, text, torch, errors, warnings, known)


def _read(errors: dict[str, str], name: str, read: Any, value: Any) -> Any:
    if value is None:
        return None
    try:
        return read(str(value))
    except OomdoctorError as error:
        errors[name] = _said(error)
        return None


def _said(error: OomdoctorError) -> str:
    """An error under its field: what is wrong, why, what to do."""
    said = error.what if error.why is None else f"{error.what}: {error.why}"
    return f"{said}; {error.next_step}" if error.next_step else said


def _fields_of(error: SettingsError) -> list[str]:
    return [key for key in KEYS if error.what.startswith(key)]


def _fraction(text: str) -> float:
    number = _number(text)
    if number is None or not 0 <= number <= 1:
        raise UsageError(f"{text} is no fraction", next_step="give a number from 0 to 1")
    return float(number)


def _capacity(text: str) -> Optional[int]:
    if text.strip().lower() == NO_END:
        return None
    size = parse_size(text)
    if not 0 < size < _MOST_BYTES:
        raise UsageError(f"no device has {text}", next_step=f"give a size such as 24GiB, or {NO_END}")
    return size


# ---- words ----


def capacity_words(capacity: Optional[int]) -> str:
    """What holds where no capacity is given."""
    return f"{NO_END} (not known)" if capacity is None else f"{format_bytes(capacity)} (recorded)"


def replay_command(path: str, device: int, asked: Asked) -> str:
    """The command that comes to the same figures."""
    words = ["oomdoctor", "replay", path, "--device", str(device)]
    if asked.alloc_conf is not None:
        words += ["--alloc-conf", asked.alloc_conf]
    if asked.capacity is not None:
        words += ["--capacity", str(asked.capacity)]
    if asked.torch is not None:
        words += ["--torch", named(asked.torch)]
    if asked.memory_fraction is not None:
        words += ["--memory-fraction", f"{asked.memory_fraction}"]
    return shlex.join(words)
