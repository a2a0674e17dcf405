"""Allocator settings that do not do what somebody meant: misspelt, ignored, or without effect."""

from __future__ import annotations

import difflib
from typing import Any, Optional

from oomdoctor.allocator.settings_keys import KEYS, knows, why_unknown
from oomdoctor.allocator.torch_version import OLDEST
from oomdoctor.diagnosis.model import Finding
from oomdoctor.diagnosis.settings_text import (
    GENERIC,
    HIP,
    LEGACY,
    effective_variable,
    parse_options,
    took_effect,
    version_of,
)
from oomdoctor.units import MIB

_OFF_SWITCH = "PYTORCH_NO_CUDA_MEMORY_CACHING"
# Read by torch, but not settings of this allocator.
_OTHER_KNOWN = frozenset({_OFF_SWITCH, "TORCH_CUDA_EXPANDABLE_SEGMENTS_IPC", "PYTORCH_CUDA_DSA_STACKTRACING"})
_NOT_OURS = ("CUDA_VISIBLE_DEVICES", "TORCH_NCCL", "XLA_", "TF_")


def lint_settings(
    asked: dict[str, str],
    in_effect: Optional[dict[str, Any]],
    torch_version: Optional[str],
    *,
    is_hip: bool = False,
    has_fraction: Optional[bool] = None,
    backend: Optional[str] = None,
) -> list[Finding]:
    """Findings about the settings of one process.

    Args:
        asked: environment variables that bear on the allocator, as they stood.
        in_effect: the snapshot's ``allocator_settings``; None before torch 2.3.
        torch_version: as recorded; None for a bare snapshot.
        has_fraction: whether a memory fraction below 1 is set; None where torch could not say.
        backend: "native", "cudaMallocAsync" or another.
    """
    version = version_of(torch_version)
    found = _names(asked, version, torch_version, is_hip, in_effect)
    winner = effective_variable(version, asked, in_effect)
    options = parse_options(asked[winner]) if winner else {}
    found += _misspelt_options(options, winner, version)
    if in_effect is not None and winner is not None:
        found += _asked_but_not_in_effect(options, in_effect, winner)
    found += _without_effect(options, in_effect, has_fraction)
    if backend not in (None, "native"):
        found.append(
            Finding(
                "other-backend",
                f"The allocator backend is {backend}: it keeps no history and ignores most settings.",
                "recorded",
                None,
                {"backend": backend},
            )
        )
    if asked.get(_OFF_SWITCH):
        found.append(
            Finding(
                "caching-switched-off",
                f"{_OFF_SWITCH} is set: every tensor is a cudaMalloc of its own, and no history is kept.",
                "recorded",
                None,
                {"variable": _OFF_SWITCH},
            )
        )
    return found


def _names(
    asked: dict[str, str],
    version: Optional[tuple[int, int]],
    torch_version: Optional[str],
    is_hip: bool,
    in_effect: Optional[dict[str, Any]],
) -> list[Finding]:
    found = []
    known = (LEGACY, GENERIC, HIP)
    for name, value in asked.items():
        if name in known or name in _OTHER_KNOWN or name.startswith(_NOT_OURS):
            continue
        near = difflib.get_close_matches(name.upper(), (*known, _OFF_SWITCH), 1, 0.75)
        if near and not took_effect(value, in_effect):
            found.append(
                Finding(
                    "variable-misspelt",
                    f"{name} is not read by torch; {near[0]} is.",
                    "recorded",
                    None,
                    {"variable": name, "value": value, "meant": near[0]},
                )
            )
    generic_read = took_effect(asked.get(GENERIC, ""), in_effect) and LEGACY not in asked
    if GENERIC in asked and version is not None and version < (2, 10) and not is_hip and not generic_read:
        found.append(
            Finding(
                "variable-ignored",
                f"{GENERIC} is ignored by torch {torch_version} on CUDA (read from 2.10 on); use {LEGACY}.",
                "recorded",
                None,
                {"variable": GENERIC, "value": asked[GENERIC], "meant": LEGACY},
            )
        )
    elif LEGACY in asked and GENERIC in asked and asked[LEGACY] != asked[GENERIC]:
        found.append(
            Finding(
                "two-variables",
                f"{LEGACY} and {GENERIC} are both set; {LEGACY} wins.",
                "recorded",
                None,
                {LEGACY: asked[LEGACY], GENERIC: asked[GENERIC]},
            )
        )
    hip_read = took_effect(asked.get(HIP, ""), in_effect) and LEGACY not in asked
    if HIP in asked and not is_hip and version is not None and not hip_read:
        found.append(
            Finding(
                "variable-ignored",
                f"{HIP} is meant for ROCm; this is a CUDA build of torch.",
                "recorded",
                None,
                {"variable": HIP, "value": asked[HIP], "meant": LEGACY},
            )
        )
    return found


def _misspelt_options(
    options: dict[str, str], variable: Optional[str], version: Optional[tuple[int, int]]
) -> list[Finding]:
    found = []
    for key in options:
        near = [] if key in KEYS else difflib.get_close_matches(key, sorted(KEYS), 1, 0.7)
        if key not in KEYS:
            hint = f"; meant {near[0]}?" if near else "."
            summary = f"{variable} has the option {key}, which no torch up to 2.15 knows{hint}"
        elif version is not None and version >= OLDEST and not knows(key, version):
            summary = f"{variable} has the option {key}: {why_unknown(key, version)}."
        else:
            continue
        found.append(
            Finding(
                "option-unknown",
                summary,
                "recorded",
                None,
                {"option": key, "meant": near[0] if near else None},
            )
        )
    return found


def _asked_but_not_in_effect(
    options: dict[str, str], in_effect: dict[str, Any], variable: str
) -> list[Finding]:
    """Options of the variable against the snapshot's ``allocator_settings``: code may change them later."""
    expected: dict[str, tuple[Any, Any]] = {}
    if "expandable_segments" in options and "expandable_segments" in in_effect:
        wanted = options["expandable_segments"].lower() == "true"
        expected["expandable_segments"] = (wanted, in_effect["expandable_segments"])
    if options.get("max_split_size_mb", "").isdigit() and "max_split_size" in in_effect:
        expected["max_split_size_mb"] = (
            int(options["max_split_size_mb"]) * MIB,
            in_effect["max_split_size"],
        )
    return [
        Finding(
            "asked-not-in-effect",
            f"{variable} asks for {key}:{options[key]}, but {now} is in effect: "
            "the program changed it, or set the variable after CUDA had started.",
            "recorded",
            None,
            {"option": key, "asked": wanted, "in_effect": now},
        )
        for key, (wanted, now) in expected.items()
        if wanted != now
    ]


def _without_effect(
    options: dict[str, str], in_effect: Optional[dict[str, Any]], has_fraction: Optional[bool]
) -> list[Finding]:
    settings = in_effect or {}
    found = []
    threshold = settings.get("garbage_collection_threshold") or _as_float(
        options.get("garbage_collection_threshold")
    )
    if threshold and has_fraction is False:
        found.append(
            Finding(
                "garbage-collection-without-fraction",
                f"garbage_collection_threshold:{threshold:g} does nothing without "
                "torch.cuda.set_per_process_memory_fraction.",
                "recorded",
                None,
                {"garbage_collection_threshold": threshold},
            )
        )
    asked_expandable = options.get("expandable_segments", "").lower() == "true"
    expandable = settings.get("expandable_segments", asked_expandable)
    split = settings.get("max_split_size", -1)
    if not settings and options.get("max_split_size_mb", "").isdigit():
        split = int(options["max_split_size_mb"]) * MIB
    if expandable is True and isinstance(split, int) and split > 0:
        found.append(
            Finding(
                "expandable-with-max-split-size",
                f"expandable_segments with max_split_size_mb:{split // MIB}: free blocks of that size are "
                "not reused for smaller requests, so reserved memory keeps growing (pytorch/pytorch#123548).",
                "recorded",
                split,
                {"max_split_size_bytes": split},
            )
        )
    return found


def _as_float(value: Optional[str]) -> Optional[float]:
    try:
        return float(value) if value else None
    except ValueError:
        return None
