"""Allocator settings as they stand in an environment variable: ``key:value,key:value``."""

from __future__ import annotations

import re
from typing import Any, Optional

LEGACY = "PYTORCH_CUDA_ALLOC_CONF"
GENERIC = "PYTORCH_ALLOC_CONF"
HIP = "PYTORCH_HIP_ALLOC_CONF"


def parse_options(conf: str) -> dict[str, str]:
    """The options of a settings string by key; a list in brackets stays whole."""
    options = {}
    for part in re.split(r",(?![^\[]*\])", conf):
        key, colon, value = part.strip().partition(":")
        if key and colon:
            options[key.strip()] = value.strip()
    return options


def join_options(options: dict[str, str]) -> str:
    """The settings string of options."""
    return ",".join(f"{key}:{value}" for key, value in options.items())


def version_of(torch_version: Optional[str]) -> Optional[tuple[int, int]]:
    """(2, 10) of "2.10.0+cu126"; None where it is not known."""
    match = re.match(r"(\d+)\.(\d+)", torch_version or "")
    return (int(match.group(1)), int(match.group(2))) if match else None


def variable_for(version: Optional[tuple[int, int]], asked: dict[str, str], *, is_hip: bool = False) -> str:
    """The variable to set so that it takes effect.

    ``PYTORCH_CUDA_ALLOC_CONF`` is read by every release and wins where both are set. ``PYTORCH_ALLOC_CONF``
    works from 2.10 on (pytorch/pytorch#165135): it is named where somebody uses it already, and for
    2.10, whose own message names it; 2.11 and later name ``PYTORCH_CUDA_ALLOC_CONF`` again.
    """
    if is_hip and (version is None or version < (2, 10)):
        return HIP
    if version is None or version < (2, 10) or LEGACY in asked:
        return LEGACY
    return GENERIC if version == (2, 10) or GENERIC in asked else LEGACY


def effective_variable(
    version: Optional[tuple[int, int]], asked: dict[str, str], in_effect: Optional[dict[str, Any]] = None
) -> Optional[str]:
    """Which of the variables that were set takes effect; None where none does.

    Args:
        in_effect: the snapshot's ``allocator_settings``; what they show comes before what a release
            should do.
    """
    for name in (LEGACY, HIP):
        if name in asked:
            return name
    if GENERIC in asked and (version is None or version >= (2, 10) or took_effect(asked[GENERIC], in_effect)):
        return GENERIC
    return None


def took_effect(conf: str, in_effect: Optional[dict[str, Any]]) -> bool:
    """Whether the settings in effect show that these were read: the text itself, or a value of its own."""
    if not in_effect or not conf:
        return False
    if in_effect.get("PYTORCH_CUDA_ALLOC_CONF") == conf:
        return True
    options = parse_options(conf)
    shown = [
        in_effect.get("expandable_segments") is True
        and options.get("expandable_segments", "").lower() == "true",
        _is_number(options.get("max_split_size_mb"), in_effect.get("max_split_size"), 1 << 20),
        _is_number(
            options.get("garbage_collection_threshold"), in_effect.get("garbage_collection_threshold"), 1
        ),
    ]
    return any(shown)


def _is_number(asked: Optional[str], now: Any, factor: int) -> bool:
    try:
        wanted = float(asked or "") * factor
    except ValueError:
        return False
    return isinstance(now, (int, float)) and wanted > 0 and abs(wanted - now) < 1e-6 * wanted
