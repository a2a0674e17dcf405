"""One word for why a request failed, from recorded numbers, with the arithmetic."""

from __future__ import annotations

from typing import Optional

from oomdoctor.diagnosis.model import Finding, Verdict
from oomdoctor.diagnosis.request import Request
from oomdoctor.diagnosis.run_account import Account
from oomdoctor.units import GIB, format_bytes

USUAL_CONTEXT = GIB
"""What a CUDA context with cuBLAS and NCCL usually takes at most; more than that is worth a word."""


def judge(account: Account, request: Request) -> tuple[Verdict, Finding]:
    """The verdict and the finding that carries its arithmetic.

    In this order: more than the device has; enough in pieces (fragmentation); held back by the memory
    fraction; enough without other processes; enough without this process's memory outside PyTorch; else
    the memory is really used (capacity).
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
    if need <= room:
        return "unknown", Finding(
            "refused-with-room",
            f"The device had {format_bytes(room)} free, more than the {format_bytes(need)} asked for.",
            "recorded",
            room,
            {"requested_bytes": need, "room_bytes": room},
        )
    if room + pieces >= need:
        return "fragmentation", _fragmented(account, need, room, pieces)
    short = need - room - pieces
    if account.has_limit and account.free is not None and account.free + pieces >= need:
        return "limit", Finding(
            "held-back-by-the-fraction",
            f"PyTorch may reserve {format_bytes(account.limit or 0)} of {format_bytes(account.total or 0)} "
            f"here; the device had {format_bytes(account.free)} free.",
            "derived",
            (account.total or 0) - (account.limit or 0),
            {
                "formula": "limit − reserved < requested ≤ free",
                "limit_bytes": account.limit,
                "reserved_bytes": account.reserved,
                "free_bytes": account.free,
            },
        )
    others = account.others_known
    if others is not None and others >= short:
        return "other-process", _would_fit("other-processes", "other processes hold", others, short, account)
    own = account.own_not_pytorch
    if own is not None and own - USUAL_CONTEXT >= short:
        return "non-pytorch", _would_fit(
            "outside-pytorch", "this process holds outside PyTorch", own, short, account
        )
    unattributed = account.not_pytorch if own is None else None
    if unattributed is not None and unattributed - USUAL_CONTEXT >= short:
        return "non-pytorch", _would_fit(
            "outside-pytorch",
            "other processes, or this one outside PyTorch, hold",
            unattributed,
            short,
            account,
        )
    return "capacity", _full(account, need, short)


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
            "formula": "room + free in pieces ≥ requested",
            "requested_bytes": need,
            "room_bytes": room,
            "free_default_bytes": account.free_default,
            "free_private_bytes": account.free_private,
        },
    )


def _would_fit(identity: str, who: str, held: int, short: int, account: Account) -> Finding:
    return Finding(
        identity,
        f"{format_bytes(short)} were missing; {who} {format_bytes(held)}.",
        "derived",
        held,
        {
            "formula": "missing = requested − room − free in pieces ≤ held",
            "missing_bytes": short,
            "held_bytes": held,
            "nvml_age_seconds": account.nvml_age,
        },
    )


def _full(account: Account, need: int, short: int) -> Finding:
    total: Optional[int] = account.total
    of_all = f" of {format_bytes(total)}" if total else ""
    return Finding(
        "all-in-use",
        f"{format_bytes(account.allocated + account.pending)}{of_all} are in use by live tensors. "
        f"With every free byte in one piece {format_bytes(short)} would still be missing.",
        "derived",
        account.allocated + account.pending,
        {
            "formula": "missing = requested − room − free in pieces",
            "missing_bytes": short,
            "requested_bytes": need,
            "allocated_bytes": account.allocated,
            "pending_bytes": account.pending,
        },
    )
