"""One word for why a request failed, from recorded numbers, with the arithmetic."""

from __future__ import annotations

from typing import Optional

from oomdoctor.diagnosis.model import Finding, Verdict
from oomdoctor.diagnosis.request import Request, is_small
from oomdoctor.diagnosis.run_account import Account
from oomdoctor.units import GIB, format_bytes


def judge(account: Account, request: Request) -> tuple[Verdict, Finding]:
    """The verdict and the finding that carries its arithmetic.

    The order is that of the verdict on a message (``oomdoctor.diagnosis.message_verdict.rule``): more than
    the device has; held back by the memory fraction; enough in pieces (fragmentation); enough without other
    processes; enough without memory outside PyTorch; else the memory is really used (capacity).
    """
    need, room = request.segment_bytes, account.room
    if need is None or room is None:
        return "unknown", Finding(
            "not-enough-recorded",
            "The recording does not say what was asked for, or what was free.",
            "recorded",
        )
    if account.total is not None and need > account.total:
        return "impossible-request", Finding(
            "larger-than-the-device",
            f"{format_bytes(need)} were asked for at once; the device has {format_bytes(account.total)}.",
            "recorded",
            need,
            {"requested_bytes": need, "total_bytes": account.total},
        )
    pieces = account.free_default + account.free_private
    if not is_small(request):
        pieces -= account.free_small
    if account.has_limit and account.reserved + need > (account.limit or 0) and pieces < need:
        return "limit", _limited(account, need)
    if need <= room:
        return "unknown", Finding(
            "refused-with-room",
            f"The device had {format_bytes(room)} free, more than the {format_bytes(need)} asked for.",
            "recorded",
            room,
            {"requested_bytes": need, "room_bytes": room},
        )
    if pieces >= need:
        return "fragmentation", _fragmented(account, need, room, pieces)
    others, short = account.others_known or 0, need - room - pieces
    if room + others >= need and others >= (account.total or 0) // 20:
        return "other-process", _would_fit(
            "other-processes", "Other processes hold", others, need - room, account
        )
    if short <= 0:
        return "fragmentation", _fragmented(account, need, room, pieces)
    own = account.own_not_pytorch
    outside = account.not_pytorch if own is None else own
    if outside is not None and outside >= worth_a_verdict(account.total) and outside >= short:
        who = "This process, outside PyTorch, holds"
        if own is None:
            who = "Other processes, or this one outside PyTorch, hold"
        return "non-pytorch", _would_fit("outside-pytorch", who, outside, short, account)
    return "capacity", _full(account, need, short, request)


def worth_a_verdict(total: Optional[int]) -> int:
    """How much memory outside PyTorch is more than a CUDA context: a tenth of the device and 1 GiB at least.

    On devices of less than 3 GiB a third of the device.
    """
    return max(min(GIB, total // 3), total // 10) if total else GIB


def _limited(account: Account, need: int) -> Finding:
    limit = account.limit or 0
    return Finding(
        "held-back-by-the-fraction",
        f"PyTorch may reserve {format_bytes(limit)} here, holds {format_bytes(account.reserved)} and needed "
        f"{format_bytes(need)} more. What the device has free ({format_bytes(account.free or 0)}) does not "
        "matter then.",
        "derived",
        account.reserved + need - limit,
        {
            "formula": "reserved + requested > limit",
            "limit_bytes": limit,
            "reserved_bytes": account.reserved,
            "requested_bytes": need,
            "free_bytes": account.free,
        },
    )


def _fragmented(account: Account, need: int, room: int, pieces: int) -> Finding:
    where = "in holes of PyTorch's segments"
    if account.free_private > account.free_default:
        where = "in private pools (CUDA graphs, MemPools), which nothing else may use,"
    return Finding(
        "enough-in-pieces",
        f"{format_bytes(need)} were needed in one piece. {format_bytes(room)} could be had from the device "
        f"and {format_bytes(pieces)} lay free {where} in smaller pieces.",
        "derived",
        pieces,
        {
            "formula": "free + free in pieces ≥ requested",
            "requested_bytes": need,
            "room_bytes": room,
            "free_default_bytes": account.free_default,
            "free_private_bytes": account.free_private,
        },
    )


def _would_fit(identity: str, who: str, held: int, short: int, account: Account) -> Finding:
    return Finding(
        identity,
        f"{format_bytes(short)} were missing. {who} {format_bytes(held)}.",
        "derived",
        held,
        {
            "formula": "missing ≤ held",
            "missing_bytes": short,
            "held_bytes": held,
            "nvml_age_seconds": account.nvml_age,
        },
    )


def _left_out(account: Account, request: Request) -> str:
    """What the picture counts as free, and the sum does not."""
    left: list[str] = []
    if account.free_small and not is_small(request):
        left.append(
            f"the {format_bytes(account.free_small)} of holes in the small pool, which cannot serve it"
        )
    limited = (account.free or 0) - (account.room or 0)
    if limited > 0:
        left.append(f"{format_bytes(limited)} free on the device beyond what PyTorch may reserve")
    return f" (leaving out {' and '.join(left)})" if left else ""


def _full(account: Account, need: int, short: int, request: Request) -> Finding:
    total: Optional[int] = account.total
    of_all = f" of {format_bytes(total)}" if total else ""
    return Finding(
        "all-in-use",
        f"{format_bytes(account.allocated + account.pending)}{of_all} are in use by live tensors. "
        f"With all that is free in one piece {format_bytes(short)} would still be missing"
        f"{_left_out(account, request)}.",
        "derived",
        account.allocated + account.pending,
        {
            "formula": "missing = requested − room − free in pieces",
            "missing_bytes": short,
            "requested_bytes": need,
            "left_out_bytes": 0 if is_small(request) else account.free_small,
            "allocated_bytes": account.allocated,
            "pending_bytes": account.pending,
        },
    )
