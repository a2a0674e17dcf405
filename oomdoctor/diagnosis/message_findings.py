"""Findings on a message of PyTorch's caching allocator, each with what it stands on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

from oomdoctor.diagnosis.message_accounting import Accounting, Amount
from oomdoctor.diagnosis.message_verdict import Ruling
from oomdoctor.diagnosis.model import Finding, OomFacts
from oomdoctor.diagnosis.torch_settings import (
    expandable_segments_on,
    first_max_split_size_mb,
    max_split_size_set_mb,
)
from oomdoctor.units import MIB, format_bytes


def torch_findings(facts: OomFacts, books: Accounting, ruling: Ruling) -> tuple[Finding, ...]:
    """All findings that the numbers bear out, the telling ones first."""
    found = [
        *_borderline(ruling),
        *_memory(facts, books),
        *_segment(facts),
        *_limit(facts, books),
        *_spilled(facts),
        *_settings(facts, books, ruling),
    ]
    return tuple(found)


def _evidence(facts: OomFacts, amount: Amount) -> dict[str, Any]:
    """A formula and the numbers that are in it."""
    if not amount.formula:
        return {}
    evidence: dict[str, Any] = {"formula": amount.formula}
    for name in ("total", "free", "allocated", "reserved", "reserved_unallocated", "process_in_use"):
        value: Optional[int] = getattr(facts, f"{name}_bytes")
        if value is not None and f"{name}_bytes" in amount.formula:
            evidence[f"{name}_bytes"] = value
    return evidence


def _borderline(ruling: Ruling) -> Iterator[Finding]:
    if ruling.borderline:
        yield Finding(
            "borderline",
            f"Borderline: {format_bytes(ruling.margin_bytes)} decide it, so a slightly different run may fail"
            " for another reason.",
            "derived",
            ruling.margin_bytes,
            {"rule": ruling.rule, "margin_bytes": ruling.margin_bytes},
        )


def _memory(facts: OomFacts, books: Accounting) -> Iterator[Finding]:
    if books.holes is not None:
        yield Finding(
            "reserved-unallocated",
            f"{format_bytes(books.holes.bytes)} lie reserved and unallocated.",
            books.holes.basis,
            books.holes.bytes,
            _evidence(facts, books.holes),
        )
    if books.unnamed is not None:
        whose = "the pool's cache, " if books.reserved is None else ""
        yield Finding(
            "unnamed-memory",
            f"{format_bytes(books.unnamed.bytes)} belong to nobody in the message: {whose}CUDA contexts,"
            " NCCL, other processes.",
            books.unnamed.basis,
            books.unnamed.bytes,
            _evidence(facts, books.unnamed),
        )
    if books.own is not None:
        whose = (
            "This process" if books.own_pid is None else f"Process {books.own_pid}, which must be this one,"
        )
        yield Finding(
            "own-non-pytorch",
            f"{whose} holds {format_bytes(books.own.bytes)} outside PyTorch's allocator.",
            books.own.basis,
            books.own.bytes,
            _evidence(facts, books.own),
        )
    for process in books.others:
        yield Finding(
            "other-process",
            f"Process {process.pid} holds "
            + (f"{format_bytes(process.bytes)}." if process.bytes is not None else "memory."),
            "stated",
            process.bytes,
            {"pid": process.pid},
        )
    if facts.private_pool_bytes:
        yield Finding(
            "private-pools",
            f"{format_bytes(facts.private_pool_bytes)} of the allocated lie in private pools (CUDA graphs,"
            " MemPool), which no request outside them can use.",
            "stated",
            facts.private_pool_bytes,
        )


def _segment(facts: OomFacts) -> Iterator[Finding]:
    """Below 10 MiB the printed number is the segment's, not the tensor's.

    ``get_allocation_size`` in CUDACachingAllocator.cpp since 1.1 (#17120): requests up to 1 MiB get a segment
    of 2 MiB, those below 10 MiB one of 20 MiB.
    """
    if facts.requested_bytes == 2 * MIB:
        what = "at most 1 MiB"
    elif facts.requested_bytes == 20 * MIB:
        what = "between 1 and 10 MiB (or just under 20)"
    else:
        return
    yield Finding(
        "request-is-segment",
        f"{format_bytes(facts.requested_bytes)} is the segment that PyTorch asked for; the tensor is {what}.",
        "derived",
        facts.requested_bytes,
        {"rule": "get_allocation_size"},
    )


def _limit(facts: OomFacts, books: Accounting) -> Iterator[Finding]:
    if books.limit is not None and books.total:
        yield Finding(
            "memory-fraction",
            f"A memory fraction allows PyTorch {format_bytes(books.limit)} of {format_bytes(books.total)} "
            f"({books.limit / books.total:.0%}).",
            "stated",
            books.limit,
            {"fraction": books.limit / books.total, "formula": "allowed_bytes / total_bytes"},
        )


def _spilled(facts: OomFacts) -> Iterator[Finding]:
    held = facts.reserved_bytes or facts.allocated_bytes
    if held and facts.total_bytes and held > facts.total_bytes + facts.total_bytes // 100:
        yield Finding(
            "more-than-the-device",
            f"PyTorch holds {format_bytes(held)} on a device of {format_bytes(facts.total_bytes)}: Windows"
            " let it spill into the host's memory, so what is free says little.",
            "derived",
            held - facts.total_bytes,
            {"formula": "reserved_bytes > total_bytes"},
        )


def _settings(facts: OomFacts, books: Accounting, ruling: Ruling) -> Iterator[Finding]:
    """Settings that were seen in the text and do not what they are set for."""
    settings: dict[str, str] = facts.details.get("settings") or {}
    if (
        "garbage_collection_threshold" in settings
        and "per_process_memory_fraction" not in settings
        and not facts.allowed_bytes
    ):
        # DeviceCachingAllocator::malloc calls garbage_collect_cached_blocks only if set_fraction (#76648).
        yield Finding(
            "setting-without-effect",
            "garbage_collection_threshold acts only where a memory fraction is set, and none is to be seen"
            " here.",
            "derived",
            None,
            {"setting": "garbage_collection_threshold"},
        )
    if (
        expandable_segments_on(facts.details)
        and books.holes
        and ruling.verdict in ("fragmentation", "capacity")
    ):
        # Pages that are wholly free were unmapped before the error (release_cached_blocks).
        yield Finding(
            "expandable-segments-on",
            "expandable_segments:True is on already: what is still reserved and unallocated lies in mapped"
            " pages of 20 MiB (2 MiB for small tensors) that are partly in use, or belongs to private pools"
            " and other streams. What helps is fewer live tensors, or the same ones in another order.",
            "derived",
            None,
            {"setting": "expandable_segments"},
        )
    if ruling.verdict == "fragmentation":
        yield from _expandable_unavailable(facts, settings)
        yield from _split_already(facts)
    if expandable_segments_on(facts.details) and "max_split_size_mb" in settings:
        # get_free_block's rules on max_split_size hit expandable blocks too (pytorch #123548).
        yield Finding(
            "settings-conflict",
            "max_split_size_mb together with expandable_segments makes reserved memory grow (pytorch"
            " #123548): keep one.",
            "derived",
            None,
            {"settings": settings},
        )
    if facts.details.get("variable") and ruling.verdict not in ("fragmentation", "unknown"):
        yield Finding(
            "hint-is-no-diagnosis",
            "PyTorch prints its hint about fragmentation whatever the cause; here the numbers say otherwise.",
            "derived",
        )


def _expandable_unavailable(facts: OomFacts, settings: dict[str, str]) -> Iterator[Finding]:
    """Why expandable segments are not offered."""
    if facts.details.get("expandable_segments_unsupported"):
        # CUDAAllocatorConfig.cpp warns so where PYTORCH_C10_DRIVER_API_SUPPORTED is not defined: Windows.
        ignored = " The setting in the text is ignored." if "expandable_segments" in settings else ""
        yield Finding(
            "expandable-segments-unsupported",
            f"PyTorch on this platform has no expandable segments (Windows has none).{ignored}",
            "stated",
            None,
            {"setting": "expandable_segments"},
        )
    elif facts.details.get("sleep_mode") and not expandable_segments_on(facts.details):
        yield Finding(
            "expandable-segments-conflict",
            "Sleep mode is on, and its memory pool does not work with expandable segments.",
            "stated",
            None,
            {"setting": "expandable_segments"},
        )


def _split_already(facts: OomFacts) -> Iterator[Finding]:
    """max_split_size_mb that is set, and already below what failed."""
    value = max_split_size_set_mb(facts.details)
    first = first_max_split_size_mb(facts.requested_bytes) if facts.requested_bytes is not None else None
    if value is not None and (first is None or value <= first) and not expandable_segments_on(facts.details):
        yield Finding(
            "max-split-size-set",
            f"max_split_size_mb:{value} is set already, and "
            + ("small enough for this request" if first is not None else "the request is too small for it")
            + ": another value is no better founded.",
            "derived",
            None,
            {"setting": "max_split_size_mb", "max_split_size_mb": value, "first_mb": first},
        )
