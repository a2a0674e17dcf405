"""Where settings come from beside a text: the environment of a process, and what a snapshot recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable, Optional

from oomdoctor.allocator.constants import UNLIMITED
from oomdoctor.allocator.settings import ROUNDUP_SLOTS, Settings
from oomdoctor.allocator.settings_keys import ACCELERATOR_CONFIG_SINCE
from oomdoctor.allocator.settings_parser import VARIABLE, ParsedSettings, parse_settings, parse_two
from oomdoctor.allocator.settings_warnings import SettingsWarning
from oomdoctor.allocator.torch_version import NEWEST, TorchVersion
from oomdoctor.errors import SettingsError

GENERIC_VARIABLE = "PYTORCH_ALLOC_CONF"
HIP_VARIABLE = "PYTORCH_HIP_ALLOC_CONF"


def environment_settings(
    environ: Mapping[str, str], torch: TorchVersion, *, expandable_supported: bool = True
) -> ParsedSettings:
    """The settings that a CUDA build of that release takes from these environment variables.

    To 2.9 ``PYTORCH_CUDA_ALLOC_CONF`` alone is read. Later it wins over ``PYTORCH_ALLOC_CONF``, even when
    empty, and the parser of common keys reads ``PYTORCH_HIP_ALLOC_CONF`` between the two
    (``AcceleratorAllocatorConfig::instance`` and ``CUDAAllocatorConfig::instance``; seen in 2.11 and 2.15).

    Raises:
        SettingsError: torch rejects a text that it reads.
    """
    if torch < ACCELERATOR_CONFIG_SINCE:
        common = cuda = _first_set(environ, VARIABLE)
    else:
        common = _first_set(environ, VARIABLE, HIP_VARIABLE, GENERIC_VARIABLE)
        cuda = _first_set(environ, VARIABLE, GENERIC_VARIABLE)
    parsed = parse_two(
        environ[common] if common else "",
        environ[cuda] if cuda else "",
        torch,
        common or VARIABLE,
        cuda or VARIABLE,
        expandable_supported=expandable_supported,
    )
    return replace(parsed, warnings=(*_about_variables(environ, common, cuda, torch), *parsed.warnings))


def settings_from_snapshot(recorded: Optional[Mapping[str, Any]], torch: TorchVersion) -> Settings:
    """The settings of a recording, from its ``allocator_settings``.

    What the snapshot shows by itself counts. The rest (memory fraction, large segments, rounding without
    splitting, throwing) is taken from the text it carries, the last that torch was given. Where a program
    changed settings while it ran, earlier values of those can have lasted and are not to be known:
    ``large_segment_size_mb``, for one, stays when a later text does not name it.

    Args:
        recorded: None for recordings that have none: torch 2.2 and before, bare lists of segments.
        torch: the release that recorded.
    """
    if not recorded:
        return Settings()
    settings = _of_text(recorded.get(VARIABLE), torch)
    shown: dict[str, Any] = {}
    for name, (field, read) in _RECORDED.items():
        value = read(recorded.get(name))
        if value is not None:
            shown[field] = value
    return replace(settings, **shown)


def _first_set(environ: Mapping[str, str], *names: str) -> Optional[str]:
    return next((name for name in names if name in environ), None)


def _of_text(text: Any, torch: TorchVersion) -> Settings:
    if not isinstance(text, str):
        return Settings()
    # A text that torch rejected is recorded too, and a recording's release may be a guess.
    for release in (torch, NEWEST):
        try:
            return parse_settings(text, release).settings
        except SettingsError:
            continue
    return Settings(text=text)


def _about_variables(
    environ: Mapping[str, str], common: Optional[str], cuda: Optional[str], torch: TorchVersion
) -> list[SettingsWarning]:
    release = f"torch {torch[0]}.{torch[1]}"
    found = []
    for name in (GENERIC_VARIABLE, HIP_VARIABLE):
        if name in environ and name not in (common, cuda):
            reason = (
                f"{VARIABLE} is set and wins" if VARIABLE in environ and torch >= ACCELERATOR_CONFIG_SINCE
                else f"it reads {VARIABLE} alone" if torch < ACCELERATOR_CONFIG_SINCE
                else f"{common} is set and wins"
            )  # fmt: skip
            found.append(SettingsWarning("variable-ignored", f"{release} ignores {name}: {reason}."))
    if common != cuda:
        rest = f"the others come from {cuda}" if cuda else "the others stay as they are"
        found.append(
            SettingsWarning(
                "hip-variable", f"{release} takes the settings common to all devices from {common}; {rest}."
            )
        )
    return found


def _size(value: Any) -> Optional[int]:
    """A ``size_t`` as a snapshot shows it: -1 is the largest, without limit."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return UNLIMITED if value < 0 else min(value, UNLIMITED)


def _flag(value: Any) -> Optional[bool]:
    return value if isinstance(value, bool) else None


def _count(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _fraction(value: Any) -> Optional[float]:
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= 1 else None


def _divisions(value: Any) -> Optional[tuple[int, ...]]:
    """``{"1": d, "2": d, ... "32768": d}``, intervals in MiB."""
    if not isinstance(value, Mapping):
        return None
    table = [_count(value.get(str(1 << slot))) for slot in range(ROUNDUP_SLOTS)]
    return None if None in table else tuple(divisions or 0 for divisions in table)


_RECORDED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "max_split_size": ("max_split_size", _size),
    "garbage_collection_threshold": ("garbage_collection_threshold", _fraction),
    "expandable_segments": ("expandable_segments", _flag),
    "roundup_power2_divisions": ("roundup_power2_divisions", _divisions),
    "release_lock_on_cudamalloc": ("release_lock_on_cudamalloc", _flag),
    "graph_capture_record_stream_reuse": ("graph_capture_record_stream_reuse", _flag),
    "pinned_use_cuda_host_register": ("pinned_use_cuda_host_register", _flag),
    "pinned_num_register_threads": ("pinned_num_register_threads", _count),
    "max_round_threshold": ("pinned_max_round_threshold", _size),
    "max_cached_size": ("pinned_max_cached_size", _size),
}
