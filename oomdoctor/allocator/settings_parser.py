"""An allocator settings text becomes Settings, as torch of a given release reads it.

Source: ``CUDAAllocatorConfig::parseArgs`` (c10/cuda/CUDAAllocatorConfig.cpp) and, from 2.10 on,
``AcceleratorAllocatorConfig::parseArgs`` (c10/core/AllocatorConfig.cpp) before it; compared with the running
allocators of 2.3 to 2.15. Between those compared (2.0 to 2.2, 2.4, 2.5, 2.7, 2.8, 2.10) keys and bounds are
those of the pull requests that changed them.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any, Callable, Optional

from oomdoctor.allocator.constants import LARGE_BUFFER
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.settings_keys import ACCELERATOR_CONFIG_SINCE, KEYS, knows, nearest, why_unknown
from oomdoctor.allocator.settings_readers import Readers, reader_of
from oomdoctor.allocator.settings_tokens import Tokens
from oomdoctor.allocator.settings_warnings import SettingsWarning, warnings_about
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.errors import SettingsError

VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
LARGE_SEGMENT_SINCE: TorchVersion = (2, 11)


@dataclass(frozen=True)
class ParsedSettings:
    """Settings, and what torch accepts without doing what it seems to say."""

    settings: Settings
    warnings: tuple[SettingsWarning, ...] = ()


def parse_settings(
    text: str, torch: TorchVersion, variable: str = VARIABLE, *, expandable_supported: bool = True
) -> ParsedSettings:
    """What torch of that release makes of a settings text in the environment.

    Args:
        text: as in ``PYTORCH_CUDA_ALLOC_CONF``.
        torch: the release; one newer than 2.15 is read as 2.15.
        variable: where the text stands, for messages.
        expandable_supported: whether the platform has expandable segments (Windows builds have not).

    Raises:
        SettingsError: torch rejects the text.
    """
    return parse_two(text, text, torch, variable, variable, expandable_supported=expandable_supported)


def parse_two(
    common_text: str,
    cuda_text: str,
    torch: TorchVersion,
    common_variable: str,
    cuda_variable: str,
    *,
    expandable_supported: bool = True,
) -> ParsedSettings:
    """As ``parse_settings``, where the parser of common keys reads another variable than CUDA's own.

    That happens from 2.10 on with ``PYTORCH_HIP_ALLOC_CONF``, read by CUDA builds for the common keys.

    Raises:
        SettingsError: torch rejects one of the texts.
    """
    backend = loaded_backend(cuda_text, torch)
    values: dict[str, Any] = {"backend": backend}
    entries: list[str] = []
    common = Readers(Tokens(common_text, torch, common_variable), values)
    cuda = Readers(Tokens(cuda_text, torch, cuda_variable), values)
    unread: Optional[SettingsError] = None
    try:
        if torch < ACCELERATOR_CONFIG_SINCE:
            _walk(cuda, lambda key: True, entries)
        else:
            _read_large_segment_size(common)
            _walk(common, lambda key: KEYS[key].common, entries)
            _walk(cuda, lambda key: not KEYS[key].common, entries)
    except SettingsError as error:
        # With cudaMallocAsync torch reads the text when pinned memory is first asked for, if ever.
        if backend == "native":
            raise
        unread, values = error, {"backend": backend}
    if torch >= LARGE_SEGMENT_SINCE:
        values.setdefault("max_non_split_rounding", values.get("large_segment_size", LARGE_BUFFER))
    asked = {entry.partition(":")[0] for entry in entries}
    warnings = warnings_about(values, asked, (common, cuda), torch, unread, expandable_supported)
    if not expandable_supported:
        values["expandable_segments"] = False
    return ParsedSettings(Settings(**values, text=",".join(entries)), tuple(warnings))


def loaded_backend(text: str, torch: TorchVersion) -> str:
    """The backend that torch chooses when it is loaded (``BackendStaticInitializer::parseEnvForBackend``).

    Up to 2.9 it splits the text at commas and white space, later into tokens; the first ``backend`` counts.
    """
    if torch < ACCELERATOR_CONFIG_SINCE:
        for option in re.split(r"[\s,]+", text):
            parts = re.split(":+", option)
            if parts[0] == "backend" and parts[1:2] in (["native"], ["cudaMallocAsync"]):
                return parts[1]
        return "native"
    found: dict[str, Any] = {}
    tokens = Tokens(text, torch, VARIABLE)
    readers = Readers(tokens, found)

    def read(index: int) -> int:
        if tokens.items[index] != "backend":
            return readers.skip_key(index)
        name = tokens.value(index + 2, "backend")
        if name in ("native", "cudaMallocAsync"):
            found.setdefault("backend", name)
        return index + 2

    # What ends too early for this look does so for the parser, which says it.
    with contextlib.suppress(SettingsError):
        _each_entry(tokens, read)
    return str(found.get("backend", "native"))


def _read_large_segment_size(readers: Readers) -> None:
    """The bounds of other keys depend on it, so it is read first, wherever its name stands."""
    index = 0
    items = readers.tokens.items
    while index < len(items):
        if items[index] == "large_segment_size_mb" and readers.tokens.torch >= LARGE_SEGMENT_SINCE:
            index = readers.large_segment_size(index)
        index += 1


def _walk(readers: Readers, is_ours: Callable[[str], bool], entries: list[str]) -> None:
    """One pass over the text: the keys that are this parser's are read, the other's are skipped."""
    tokens = readers.tokens

    def read(start: int) -> int:
        key = tokens.items[start]
        if not knows(key, tokens.torch):
            if "=" in key:
                raise tokens.error(
                    f"{key!r} is no allocator setting",
                    why="the name of the variable stands in its own text",
                    next_step="give only what stands after the =",
                )
            meant = nearest(key, tokens.torch)
            raise tokens.error(
                f"torch {tokens.torch[0]}.{tokens.torch[1]} has no allocator setting {key!r}",
                why=why_unknown(key, tokens.torch),
                next_step=f"did you mean {meant}?" if meant else "leave it out",
            )
        if not is_ours(key):
            return readers.skip_key(start)
        end = reader_of(key)(readers, start)
        entries.append(f"{key}:{''.join(tokens.items[start + 2 : end + 1])}")
        return end

    _each_entry(tokens, read)


def _each_entry(tokens: Tokens, read: Callable[[int], int]) -> None:
    index = 0
    while index < len(tokens):
        index = read(index)
        if index + 1 < len(tokens):
            index += 1
            tokens.separator(index, ",")
        index += 1
