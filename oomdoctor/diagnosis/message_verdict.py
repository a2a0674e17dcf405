"""The verdict that follows from a message's numbers, and the arithmetic that it follows from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from oomdoctor.diagnosis.message_accounting import NO_LIMIT, Accounting, slack
from oomdoctor.diagnosis.model import Basis, Verdict
from oomdoctor.units import GIB, format_bytes


@dataclass(frozen=True)
class Ruling:
    """A verdict, the rule it follows from, and whether the numbers are too close to be sure.

    ``margin_bytes`` is by how much the rule's condition holds.
    """

    verdict: Verdict
    rule: str
    why: str
    basis: Basis = "derived"
    margin_bytes: int = 0
    borderline: bool = False
    evidence: dict[str, Any] = field(default_factory=dict)


def rule(
    books: Accounting,
    preempted: bool = False,
    segment_reserve: int = 0,
    largest_block: int = 0,
    at_least: int = 0,
    expandable: bool = False,
    allowed: Optional[int] = None,
) -> Ruling:
    """The verdict on an out-of-memory error of PyTorch's caching allocator.

    The order matters: each rule is asked only where those before it do not hold.

    Args:
        books: the device's memory by owner.
        preempted: the message says that PyTorch refused before it asked the device.
        segment_reserve: bytes of addresses of a segment, where the message says that they are too few.
        at_least: bytes asked for at least, where the message gives no more than that.
        largest_block: bytes of the largest block that the platform allocates, where the message says so.
        expandable: expandable segments are on, so that holes are parts of mapped pages.
        allowed: the limit as printed, even where it is the whole device.
    """
    requested, total, free = books.requested, books.total, books.free
    holes = books.holes.bytes if books.holes else None
    reserved = books.reserved.bytes if books.reserved else None
    if preempted:
        why = (
            "PyTorch refused before asking the device: the request would exceed per_process_memory_fraction "
            "(throw_on_cudamalloc_oom is set)."
        )
        return Ruling("limit", "preemptively rejected", why, "stated")
    if at_least and (total is None or at_least > total):
        why = f"More than {at_least >> 60} EiB were asked for, which no device has: a size gone wrong."
        return Ruling("impossible-request", "requested_bytes > total_bytes", why, "stated")
    if requested is None:
        return Ruling("unknown", "no request", "The text does not say how much was asked for.", "stated")
    if total is not None and requested > total:
        why = (
            f"{format_bytes(requested)} were asked of a device that has {format_bytes(total)}: most often a"
            " shape gone wrong. No setting helps."
        )
        return _ruling(
            "impossible-request", "requested_bytes > total_bytes", requested - total, (total, requested), why
        )
    if 0 < largest_block < requested:
        why = f"This platform allocates no block larger than {format_bytes(largest_block)}, whatever is free."
        margin = requested - largest_block
        return _ruling("limit", "requested_bytes > largest_block", margin, (largest_block, requested), why)
    if 0 < segment_reserve < requested:
        why = (
            "One allocation cannot span expandable segments, and a segment reserves"
            f" {format_bytes(segment_reserve)} of addresses here: less than the {format_bytes(requested)}"
            " asked for, whatever is free."
        )
        margin = requested - segment_reserve
        return _ruling(
            "limit", "requested_bytes > expandable_segment_reserve", margin, (segment_reserve, requested), why
        )
    over = 0 if books.limit is None or reserved is None else reserved + requested - books.limit
    if books.limit is not None and reserved is not None and over > 0 and (holes is None or holes < requested):
        why = (
            f"PyTorch may reserve {format_bytes(books.limit)}; it holds {format_bytes(reserved)} and needed "
            f"{format_bytes(requested)} more. What the device has free does not matter then."
        )
        formula = "reserved_bytes + requested_bytes > allowed_bytes"
        return _ruling("limit", formula, over, (reserved, books.limit, requested), why)
    if free is None or holes is None:
        return _without_holes(books, requested)
    if requested <= free:
        why = (
            f"The device had {format_bytes(free)} free, more than the {format_bytes(requested)} asked for. So"
            " it was a limit that is not printed (a memory fraction: torch 2.1 to 2.4 leave it out), memory"
            " that came free only afterwards, the host's memory, or the driver's own fragmentation."
        )
        if allowed is not None and allowed < NO_LIMIT and reserved is not None:
            under = reserved + requested <= allowed
            why = (
                f"The device had {format_bytes(free)} free, more than the {format_bytes(requested)} asked"
                f" for, and {format_bytes(reserved)} reserved and the request "
                + (
                    f"stay under the {format_bytes(allowed)} that PyTorch may reserve. So it was memory that"
                    " came free only afterwards, the host's memory, or the driver's own fragmentation."
                    if under
                    else f"exceed the {format_bytes(allowed)} that PyTorch may reserve; but the holes held"
                    f" {format_bytes(holes)}, so it may be the limit or the holes' shape."
                )
            )
        return Ruling("unknown", "requested_bytes <= free_bytes", why, margin_bytes=free - requested)
    if holes >= requested:
        why = (
            f"PyTorch needed a segment of {format_bytes(requested)} and the device had {format_bytes(free)}"
            f" free. The holes held {format_bytes(holes)}, but none of them {format_bytes(requested)} in one"
            " piece."
        )
        if expandable:
            why = (
                f"PyTorch needed to map {format_bytes(requested)} more and the device had"
                f" {format_bytes(free)} free. Inside its expandable segments {format_bytes(holes)} are"
                f" unallocated, but none of it is {format_bytes(requested)} in one piece, and pages that are"
                " partly in use cannot be given back."
            )
        formula = "reserved_unallocated_bytes >= requested_bytes"
        return _ruling("fragmentation", formula, holes - requested, (holes, requested), why)
    return _without_room(books, requested, free, holes)


def _without_holes(books: Accounting, requested: int) -> Ruling:
    """The rule for a text that does not say what is reserved (cudaMallocAsync's, or one cut off)."""
    total, free = books.total, books.free
    allocated = books.allocated.bytes if books.allocated else 0
    if total is None or free is None or requested <= free or allocated < total - total // 10:
        why = "The text does not give the numbers that would tell."
        return Ruling("unknown", "numbers missing", why, "stated")
    unnamed = books.unnamed.bytes if books.unnamed else 0
    if free + unnamed >= requested:
        why = (
            f"Live tensors hold {format_bytes(allocated)} of {format_bytes(total)}, and {format_bytes(free)}"
            f" are free. {format_bytes(unnamed)} are neither: the allocator's own cache, contexts or other"
            f" processes. That would hold the {format_bytes(requested)} asked for, but the text does not say"
            " whose it is."
        )
        formula = "free_bytes + unnamed_bytes >= requested_bytes"
        margin = free + unnamed - requested
        return Ruling("unknown", formula, why, margin_bytes=margin, evidence={"formula": formula})
    why = (
        f"Live tensors hold {format_bytes(allocated)} of {format_bytes(total)}, and {format_bytes(free)} are "
        f"free: less than the {format_bytes(requested)} asked for."
    )
    formula = "requested_bytes > free_bytes and allocated_bytes >= 0.9 * total_bytes"
    return _ruling("capacity", formula, requested - free, (total, requested), why)


def _without_room(books: Accounting, requested: int, free: int, holes: int) -> Ruling:
    """The rules for a request that the holes alone would not have held."""
    missing = requested - free - holes
    others = books.others_bytes
    if others and free + others >= requested and others >= (books.total or 0) // 20:
        why = (
            f"Other processes hold {format_bytes(others)} of this device. Without them"
            f" {format_bytes(free + others)} would be free for the {format_bytes(requested)} asked for."
        )
        formula = "free_bytes + other_processes[].bytes >= requested_bytes"
        return _ruling("other-process", formula, free + others - requested, (free, others, requested), why)
    if missing <= 0:
        why = (
            f"The device had {format_bytes(free)} free and the holes held {format_bytes(holes)}: together"
            f" enough for {format_bytes(requested)}, apart not."
        )
        formula = "free_bytes + reserved_unallocated_bytes >= requested_bytes"
        return _ruling("fragmentation", formula, -missing, (free, holes, requested), why)
    outside = (books.own.bytes if books.own else 0) + (books.unnamed.bytes if books.unnamed else 0)
    if outside >= max(GIB, (books.total or 0) // 10) and free + holes + outside >= requested:
        why = (
            f"{format_bytes(outside)} of this device are neither free nor PyTorch's: contexts, NCCL, cuBLAS,"
            " CUDA graphs, another allocator, or processes that the message does not name."
        )
        formula = "free_bytes + reserved_unallocated_bytes + not_pytorch_bytes >= requested_bytes"
        return _ruling("non-pytorch", formula, outside - missing, (free, holes, outside, requested), why)
    allocated = f" Live tensors hold {format_bytes(books.allocated.bytes)}." if books.allocated else ""
    why = (
        f"Even without holes it would not fit: {format_bytes(free)} free and {format_bytes(holes)} in holes"
        f" are {format_bytes(missing)} short of {format_bytes(requested)}.{allocated}"
    )
    formula = "free_bytes + reserved_unallocated_bytes < requested_bytes"
    return _ruling("capacity", formula, missing, (free, holes, requested), why)


def _ruling(verdict: Verdict, formula: str, margin: int, terms: tuple[int, ...], why: str) -> Ruling:
    """A ruling; borderline where the margin is within what rounding hides, or a twentieth of the request."""
    close = margin <= max(slack(*terms), terms[-1] // 20)
    return Ruling(
        verdict, formula, why, "derived", margin, close, {"formula": formula, "margin_bytes": margin}
    )
