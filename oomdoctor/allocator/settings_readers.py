"""How the value of each key is read and checked: one method a key, each returning its last token's index.

Source: the methods ``parse...`` of ``CUDAAllocatorConfig`` (c10/cuda/CUDAAllocatorConfig.cpp) and, from 2.10
on, of ``AcceleratorAllocatorConfig`` (c10/core/AllocatorConfig.cpp).
"""

from __future__ import annotations

from typing import Any, Callable

from oomdoctor.allocator.constants import LARGE_BUFFER, MIN_LARGE_ALLOC, UNLIMITED
from oomdoctor.allocator.settings import ROUNDUP_SLOTS, Reserve
from oomdoctor.allocator.settings_keys import ACCELERATOR_CONFIG_SINCE
from oomdoctor.allocator.settings_numbers import NotANumber, is_power_of_two, stoull, stream_double
from oomdoctor.allocator.settings_tokens import Tokens
from oomdoctor.units import MIB

ZERO_DIVISIONS_SINCE = (2, 4)  # pull 126833
MAX_REGISTER_THREADS = 128  # pinned_max_register_threads
# 2^63, the one greater power of two of 64 bits, rounds the same, and does not fit into our columns.
_MOST_DIVISIONS = 1 << 62


class Readers:
    """Reads values from tokens into ``values``, whose keys are the fields of ``Settings``.

    Attributes:
        ignored: values that torch leaves out with a warning of its own, each with its key.
    """

    def __init__(self, tokens: Tokens, values: dict[str, Any]) -> None:
        self.tokens = tokens
        self.values = values
        self.ignored: list[tuple[str, str]] = []
        self.is_legacy = tokens.torch < ACCELERATOR_CONFIG_SINCE

    def boolean(self, key: str, field: str, index: int) -> int:
        """``True`` or ``False``."""
        self.tokens.separator(index + 1, ":")
        self.values[field] = self.tokens.boolean(index + 2, key)
        return index + 2

    def large_segment_size(self, index: int) -> int:
        """``parseLargeSegmentSize``: MiB, more than 10."""
        key = "large_segment_size_mb"
        self.tokens.separator(index + 1, ":")
        mib = self.tokens.whole(index + 2, key)
        if mib <= MIN_LARGE_ALLOC // MIB:
            least = MIN_LARGE_ALLOC // MIB + 1
            raise self._too_small(key, mib, f"more than {least - 1}", least)
        self.values["large_segment_size"] = _bytes(mib)
        return index + 2

    def bounded_by_segment(self, key: str, field: str, index: int) -> int:
        """``parseMaxSplitSize`` and ``parseMaxNonSplitRoundingSize``: MiB, against the size of a segment."""
        self.tokens.separator(index + 1, ":")
        mib = self.tokens.whole(index + 2, key)
        least = self.values.get("large_segment_size", LARGE_BUFFER) // MIB
        if self.is_legacy and mib <= least:
            raise self._too_small(key, mib, f"more than {least}", least + 1)
        if mib < least:
            raise self._too_small(key, mib, f"at least {least}, the size of a large segment", least)
        self.values[field] = _bytes(mib)
        return index + 2

    def garbage_collection_threshold(self, index: int) -> int:
        """``parseGarbageCollectionThreshold``: above 0, below 1."""
        key = "garbage_collection_threshold"
        self.tokens.separator(index + 1, ":")
        value = self.tokens.real(index + 2, key)
        if not 0 < value < 1:
            raise self.tokens.error(
                f"{key} is {value:g}",
                why="torch takes fractions above 0 and below 1",
                next_step=f"write {key}:0.8, or leave it out to switch it off",
            )
        self.values["garbage_collection_threshold"] = value
        return index + 2

    def roundup_power2_divisions(self, index: int) -> int:
        """``parseRoundUpPower2Divisions``: one number for all sizes, or a list by interval."""
        key = "roundup_power2_divisions"
        self.tokens.separator(index + 1, ":")
        index += 2
        if self.tokens.value(index, key) == "[":
            return self._divisions_by_interval(index, key)
        divisions = self.tokens.whole(index, key)
        self._check_power_of_two(divisions, key, "the number of divisions")
        self.values["roundup_power2_divisions"] = (min(divisions, _MOST_DIVISIONS),) * ROUNDUP_SLOTS
        return index

    def backend(self, index: int) -> int:
        """``parseAllocatorConfig``: the backend that torch chose when it was loaded must come out again."""
        self.tokens.separator(index + 1, ":")
        name = self.tokens.value(index + 2, "backend")
        if name not in ("native", "cudaMallocAsync"):
            raise self.tokens.error(
                f"there is no backend {name!r}", next_step="write backend:native or backend:cudaMallocAsync"
            )
        if name != self.values["backend"]:
            raise self.tokens.error(
                f"backend:{name} is not the backend that torch is loaded with, {self.values['backend']}",
                why="torch chooses it by a first, simpler look at the text",
                next_step="name the backend once, without spaces",
            )
        return index + 2

    def pinned_num_register_threads(self, index: int) -> int:
        """``parsePinnedNumRegisterThreads``: a power of two of at most 128."""
        key = "pinned_num_register_threads"
        self.tokens.separator(index + 1, ":")
        threads = self.tokens.whole(index + 2, key)
        self._check_power_of_two(threads, key, "the number of threads")
        if threads > MAX_REGISTER_THREADS:
            raise self.tokens.error(
                f"{key} is {threads}",
                why=f"torch takes at most {MAX_REGISTER_THREADS}",
                next_step=f"write {key}:{MAX_REGISTER_THREADS}",
            )
        self.values["pinned_num_register_threads"] = threads
        return index + 2

    def pinned_reserve_segment_size(self, index: int) -> int:
        """``parsePinnedReserveSegmentSize``: MiB, more than 0."""
        key = "pinned_reserve_segment_size_mb"
        self.tokens.separator(index + 1, ":")
        mib = self.tokens.whole(index + 2, key)
        if mib == 0:
            raise self._too_small(key, mib, "more than 0", 1)
        self.values["pinned_reserve_segment_size"] = _bytes(mib)
        return index + 2

    def mebibytes(self, key: str, field: str, index: int) -> int:
        """``parsePinnedMaxRoundThreshold``, ``parsePinnedMaxCachedSize``: MiB, any number."""
        self.tokens.separator(index + 1, ":")
        self.values[field] = _bytes(self.tokens.whole(index + 2, key))
        return index + 2

    def per_process_memory_fraction(self, index: int) -> int:
        """``parsePerProcessMemoryFraction``: 0 to 1."""
        key = "per_process_memory_fraction"
        self.tokens.separator(index + 1, ":")
        value = self.tokens.real(index + 2, key)
        if not 0 <= value <= 1:
            raise self.tokens.error(
                f"{key} is {value:g}",
                why="torch takes fractions from 0 to 1",
                next_step=f"write {key}:0.9 for nine tenths of the device",
            )
        self.values["per_process_memory_fraction"] = value
        return index + 2

    def expandable_segments_reserve(self, index: int) -> int:
        """``parseExpandableSegmentsReserve``: a fraction, or GiB with the letter G; nonsense is left out."""
        key = "expandable_segments_reserve"
        self.tokens.separator(index + 1, ":")
        reserve = self._reserve(key, self.tokens.value(index + 2, key))
        if reserve is not None:
            self.values["expandable_segments_reserve"] = reserve
        return index + 2

    def expandable_segments_reserve_by_class(self, index: int) -> int:
        """``parseExpandableSegmentsReserveByClass``: a list of name:reserve."""
        key = "expandable_segments_reserve_by_class"
        self.tokens.separator(index + 1, ":")
        self.tokens.separator(index + 2, "[")
        index += 2
        reserves: dict[str, Reserve] = {}
        while self.tokens.value(index + 1, key) != "]":
            name = self.tokens.value(index + 1, key)
            self.tokens.separator(index + 2, ":")
            reserve = self._reserve(key, self.tokens.value(index + 3, key))
            if reserve is not None:
                reserves[name] = reserve
            index += 3
            if self.tokens.value(index + 1, key) == ",":
                index += 1
        self.values["expandable_segments_reserve_by_class"] = tuple(reserves.items())
        return index + 1

    def skip_key(self, index: int) -> int:
        """``ConfigTokenizer::skipKey``: past a value that the other parser reads."""
        key = self.tokens.items[index]
        self.tokens.separator(index + 1, ":")
        index += 2
        if self.tokens.value(index, key) != "[":
            return index
        while self.tokens.value(index, key) != "]":
            index += 1
        return index

    def _divisions_by_interval(self, index: int, key: str) -> int:
        """The list after ``[``: the first entry also fills the slots below it, slots between entries stay."""
        tokens = self.tokens
        table = list(self.values.get("roundup_power2_divisions", (0,) * ROUNDUP_SLOTS))
        first, last_slot = True, 0
        index += 1
        while index < len(tokens) and tokens.items[index] != "]":
            interval = tokens.items[index]
            tokens.separator(index + 1, ":")
            divisions = tokens.whole(index + 2, key)
            if divisions != 0 or tokens.torch < ZERO_DIVISIONS_SINCE:
                self._check_power_of_two(divisions, key, "the number of divisions")
            divisions = min(divisions, _MOST_DIVISIONS)
            if interval == ">":
                # Up to 2.9 this overwrites the last listed slot (pull 165304).
                start = last_slot if self.is_legacy else last_slot + 1
                table[start:] = [divisions] * (ROUNDUP_SLOTS - start)
            else:
                slot = self._slot(interval, key)
                if first:
                    table[:slot] = [divisions] * slot
                    first = False
                table[slot] = divisions
                last_slot = slot
            index += 2
            # Releases to 2.9 look past the end here, unchecked; what follows is chance, and no list.
            if tokens.value(index + 1, key) != "]":
                index += 1
                tokens.separator(index, ",")
            index += 1
        if index >= len(tokens) and not self.is_legacy:
            raise tokens.error(f"the list of {key} does not end", next_step="close it with ]")
        self.values["roundup_power2_divisions"] = tuple(table)
        return index

    def _slot(self, interval: str, key: str) -> int:
        try:
            boundary = stoull(interval)
        except NotANumber as error:
            raise self.tokens.error(
                f"{key} has the interval {interval!r}",
                why=str(error),
                next_step="write intervals in MiB, as powers of two, and > for the rest",
            ) from None
        self._check_power_of_two(boundary, key, "an interval, in MiB,")
        return min(boundary.bit_length() - 1, ROUNDUP_SLOTS - 1)

    def _reserve(self, key: str, token: str) -> Any:
        """``parseReserveSpec``; None where torch keeps the default."""
        is_gib = token[-1:] in ("G", "g")
        value = stream_double(token[:-1] if is_gib else token)
        if value is None or value <= 0:
            self.ignored.append((key, token))
            return None
        return Reserve(value, not is_gib)

    def _check_power_of_two(self, value: int, key: str, what: str) -> None:
        if not is_power_of_two(value):
            zero = value == 0 and key == "roundup_power2_divisions"
            power = 1 << max(value.bit_length() - 1, 0)
            raise self.tokens.error(
                f"{key} has {value}",
                why=f"{what} must be a power of two",
                next_step="leave the key out to switch the rounding off" if zero else f"write {power}",
            )

    def _too_small(self, key: str, mib: int, bound: str, least: int) -> Exception:
        return self.tokens.error(
            f"{key} is {mib}, which is too small",
            why=f"torch {self.tokens.torch[0]}.{self.tokens.torch[1]} takes {bound} (MiB)",
            next_step=f"write {key}:{least} or more, or leave it out",
        )


def _bytes(mib: int) -> int:
    """MiB as bytes; what a ``size_t`` of PyTorch can hold and our columns cannot is without limit anyway."""
    return min(mib * MIB, UNLIMITED)


def reader_of(key: str) -> Callable[[Readers, int], int]:
    """The reader of a key.

    Raises:
        KeyError: no release knows the key.
    """
    return _READERS[key]


def _boolean(key: str, field: str) -> Callable[[Readers, int], int]:
    return lambda readers, index: readers.boolean(key, field, index)


_READERS: dict[str, Callable[[Readers, int], int]] = {
    "max_split_size_mb": lambda r, i: r.bounded_by_segment("max_split_size_mb", "max_split_size", i),
    "max_non_split_rounding_mb": lambda r, i: r.bounded_by_segment(
        "max_non_split_rounding_mb", "max_non_split_rounding", i
    ),
    "large_segment_size_mb": Readers.large_segment_size,
    "garbage_collection_threshold": Readers.garbage_collection_threshold,
    "roundup_power2_divisions": Readers.roundup_power2_divisions,
    "backend": Readers.backend,
    "expandable_segments": _boolean("expandable_segments", "expandable_segments"),
    "expandable_segments_reserve": Readers.expandable_segments_reserve,
    "expandable_segments_reserve_by_class": Readers.expandable_segments_reserve_by_class,
    "release_lock_on_cudamalloc": _boolean("release_lock_on_cudamalloc", "release_lock_on_cudamalloc"),
    "release_lock_on_hipmalloc": _boolean("release_lock_on_hipmalloc", "release_lock_on_cudamalloc"),
    "graph_capture_record_stream_reuse": _boolean(
        "graph_capture_record_stream_reuse", "graph_capture_record_stream_reuse"
    ),
    "per_process_memory_fraction": Readers.per_process_memory_fraction,
    "throw_on_cudamalloc_oom": _boolean("throw_on_cudamalloc_oom", "throw_on_cudamalloc_oom"),
    "pinned_use_cuda_host_register": _boolean(
        "pinned_use_cuda_host_register", "pinned_use_cuda_host_register"
    ),
    "pinned_use_hip_host_register": _boolean("pinned_use_hip_host_register", "pinned_use_cuda_host_register"),
    "pinned_num_register_threads": Readers.pinned_num_register_threads,
    "pinned_use_background_threads": _boolean(
        "pinned_use_background_threads", "pinned_use_background_threads"
    ),
    "pinned_reserve_segment_size_mb": Readers.pinned_reserve_segment_size,
    "pinned_max_round_threshold_mb": lambda r, i: r.mebibytes(
        "pinned_max_round_threshold_mb", "pinned_max_round_threshold", i
    ),
    "pinned_max_cached_size_mb": lambda r, i: r.mebibytes(
        "pinned_max_cached_size_mb", "pinned_max_cached_size", i
    ),
    "pinned_free_catch_all": _boolean("pinned_free_catch_all", "pinned_free_catch_all"),
}
