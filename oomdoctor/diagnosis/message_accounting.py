"""Where a device's memory is, as far as a message tells: stated numbers, and what follows from them.

All sizes in bytes. Messages print two decimals, so sums hold to about 0.01 of the unit printed; what is
smaller than that is not shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from oomdoctor.diagnosis.model import Basis, OomFacts, OtherProcess
from oomdoctor.units import GIB, MIB

NO_LIMIT = 1 << 62
"""What is printed as allowed from here on means that no limit is set (SIZE_MAX in cudaMallocAsync's text)."""


@dataclass(frozen=True)
class Amount:
    """A size and what it stands on. ``formula`` has the names of the contract's fields; "" where it is
    stated."""

    bytes: int
    basis: Basis
    formula: str = ""


@dataclass(frozen=True)
class Accounting:
    """The device's memory by owner. None: the message does not say, and nothing follows.

    Args:
        requested: what was asked of the device.
        total, free: the device's.
        allocated: live blocks of PyTorch's allocator, private pools' included (2.4+).
        reserved: what PyTorch's allocator holds.
        holes: reserved and not allocated.
        own: memory of this process outside PyTorch's allocator (context, NCCL, cuBLAS, ...).
        own_pid: the process in the list that must be this one (containers see the host's process ids).
        others: other processes.
        unnamed: taken, and nobody's in the message.
        limit: what PyTorch may reserve, where that is less than the device has.
    """

    requested: Optional[int]
    total: Optional[int]
    free: Optional[int]
    allocated: Optional[Amount]
    reserved: Optional[Amount]
    holes: Optional[Amount]
    own: Optional[Amount]
    own_pid: Optional[int]
    others: tuple[OtherProcess, ...]
    unnamed: Optional[Amount]
    limit: Optional[int]

    @property
    def others_bytes(self) -> int:
        """What the other processes named hold together."""
        return sum(process.bytes or 0 for process in self.others)


def slack(*sizes: Optional[int]) -> int:
    """How far a sum of printed sizes may be off: half of the last decimal of each."""
    return sum(GIB // 200 if size > GIB else MIB // 200 if size > MIB else 6 for size in sizes if size)


def account(facts: OomFacts) -> Accounting:
    """The accounting of one message."""
    allocated = Amount(facts.allocated_bytes, "stated") if facts.allocated_bytes is not None else None
    reserved = _reserved(facts)
    holes = _holes(facts)
    own, own_pid = _own(facts, reserved)
    others = tuple(process for process in facts.other_processes if process.pid != own_pid)
    limit = facts.allowed_bytes
    if limit is not None and (limit >= NO_LIMIT or (facts.total_bytes and limit >= facts.total_bytes)):
        limit = None
    return Accounting(
        requested=facts.requested_bytes,
        total=facts.total_bytes,
        free=facts.free_bytes,
        allocated=allocated,
        reserved=reserved,
        holes=holes,
        own=own,
        own_pid=own_pid,
        others=others,
        unnamed=_unnamed(facts, reserved, own, own_pid, others),
        limit=limit,
    )


def _reserved(facts: OomFacts) -> Optional[Amount]:
    if facts.reserved_bytes is not None:
        return Amount(facts.reserved_bytes, "stated")
    if facts.allocated_bytes is not None and facts.reserved_unallocated_bytes is not None:
        total = facts.allocated_bytes + facts.reserved_unallocated_bytes
        return Amount(total, "derived", "allocated_bytes + reserved_unallocated_bytes")
    return None


def _holes(facts: OomFacts) -> Optional[Amount]:
    if facts.reserved_unallocated_bytes is not None:
        return Amount(facts.reserved_unallocated_bytes, "stated")
    if facts.reserved_bytes is not None and facts.allocated_bytes is not None:
        return Amount(
            max(0, facts.reserved_bytes - facts.allocated_bytes),
            "derived",
            "reserved_bytes - allocated_bytes",
        )
    return None


def _own(facts: OomFacts, reserved: Optional[Amount]) -> tuple[Optional[Amount], Optional[int]]:
    """This process's memory outside the allocator, and the listed process that must be this one."""
    if reserved is None:
        return None, None
    if facts.process_in_use_bytes and facts.process_in_use_bytes < NO_LIMIT:  # NVML: "not available"
        return (
            Amount(
                max(0, facts.process_in_use_bytes - reserved.bytes),
                "derived",
                "process_in_use_bytes - reserved_bytes",
            ),
            None,
        )
    if facts.process_in_use_bytes is not None or not facts.other_processes:
        return None, None
    # NVML gives the host's process ids; in a container this process does not find its own, and is "Process
    # N".
    candidates = [
        process
        for process in facts.other_processes
        if process.bytes is not None
        and process.bytes + slack(process.bytes, reserved.bytes) >= reserved.bytes
    ]
    if len(candidates) != 1:
        return None, None
    mine = candidates[0]
    difference = max(0, (mine.bytes or 0) - reserved.bytes)
    return Amount(difference, "estimated", "other_processes[].bytes - reserved_bytes"), mine.pid


def _unnamed(
    facts: OomFacts,
    reserved: Optional[Amount],
    own: Optional[Amount],
    own_pid: Optional[int],
    others: tuple[OtherProcess, ...],
) -> Optional[Amount]:
    if facts.total_bytes is None or facts.free_bytes is None:
        return None
    if reserved is None:
        return _unnamed_or_cached(facts, facts.total_bytes, facts.free_bytes, others)
    taken = reserved.bytes + (own.bytes if own else 0) + sum(process.bytes or 0 for process in others)
    rest = facts.total_bytes - facts.free_bytes - taken
    if rest <= slack(facts.total_bytes, facts.free_bytes, reserved.bytes, taken):
        return None
    mine = "other_processes[].bytes" if own_pid else "process_in_use_bytes" if own else "reserved_bytes"
    formula = f"total_bytes - {mine} - free_bytes"
    if others and not own_pid:
        formula += " - other_processes[].bytes"
    return Amount(rest, "derived", formula)


def _unnamed_or_cached(
    facts: OomFacts, total: int, free: int, others: tuple[OtherProcess, ...]
) -> Optional[Amount]:
    """Of cudaMallocAsync, which does not say what its pool keeps: what is neither live nor free."""
    if facts.family != "cuda-malloc-async" or facts.allocated_bytes is None or others:
        return None
    rest = total - free - facts.allocated_bytes
    if rest <= slack(total, free, facts.allocated_bytes):
        return None
    return Amount(rest, "derived", "total_bytes - allocated_bytes - free_bytes")
