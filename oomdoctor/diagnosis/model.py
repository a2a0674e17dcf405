"""What a diagnosis is made of. Plain values; reporters turn them into text or JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Optional

Basis = Literal["stated", "derived", "recorded", "replayed", "proved", "estimated"]
Kind = Literal["oom", "refusal", "disguised", "state"]
"""``state``: no event at all, the state of a device as a recording left it."""
Verdict = Literal[
    "fragmentation", "capacity", "other-process", "limit", "non-pytorch", "impossible-request", "unknown"
]


# The sizes of OomFacts, in the order of the contract.
SIZE_FIELDS = (
    "requested_bytes",
    "total_bytes",
    "free_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "reserved_unallocated_bytes",
    "process_in_use_bytes",
    "private_pool_bytes",
    "allowed_bytes",
)


@dataclass(frozen=True)
class Finding:
    """One thing that is so, and what it stands on.

    ``id`` is stable and machine-readable ("reserved-unallocated"); ``bytes`` the size it speaks of, if
    it does; ``evidence`` plain JSON values (the numbers and, for ``derived``, a ``formula``).
    """

    id: str
    summary: str
    basis: Basis
    bytes: Optional[int] = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Remedy:
    """Something to do. ``command`` is the exact line to paste, or None where there is none."""

    id: str
    summary: str
    command: Optional[str]
    basis: Basis


@dataclass(frozen=True)
class OtherProcess:
    """Memory of another process on the device, in bytes (None where nobody says)."""

    pid: int
    bytes: Optional[int]


@dataclass(frozen=True)
class OomFacts:
    """What a text states, or a recording holds, of one OOM event. Sizes in bytes, None: not said."""

    family: str
    kind: Kind = "oom"
    rank: Optional[int] = None
    device: Optional[int] = None
    line: Optional[int] = None
    text: str = ""
    requested_bytes: Optional[int] = None
    total_bytes: Optional[int] = None
    free_bytes: Optional[int] = None
    allocated_bytes: Optional[int] = None
    reserved_bytes: Optional[int] = None
    reserved_unallocated_bytes: Optional[int] = None
    process_in_use_bytes: Optional[int] = None
    private_pool_bytes: Optional[int] = None
    allowed_bytes: Optional[int] = None
    other_processes: tuple[OtherProcess, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    """What else the source states, by name: plain JSON values, sizes in bytes (keys end in ``_bytes``)."""


@dataclass(frozen=True)
class Diagnosis:
    """One out-of-memory event, understood."""

    facts: OomFacts
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    remedies: tuple[Remedy, ...] = ()
