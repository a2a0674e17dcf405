"""One device in one snapshot, understood: the state, the account, the verdict, what pins, what lives.

The result holds no columns, so it is small, and can be made in another process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Optional

from oomdoctor.diagnosis.consistency import disagreements
from oomdoctor.diagnosis.count_back import events_after_oom, sums_at_oom
from oomdoctor.diagnosis.live import Live, live_by_place
from oomdoctor.diagnosis.max_split import HoleySegments, holey_segments, why_no_value
from oomdoctor.diagnosis.model import Finding, Verdict
from oomdoctor.diagnosis.pinning import Pin, pins
from oomdoctor.diagnosis.request import (
    Request,
    fitting_blocks,
    is_small,
    largest_free_block,
    last_request,
    serving_compartments,
)
from oomdoctor.diagnosis.run_account import Account, account_of
from oomdoctor.diagnosis.run_verdict import judge
from oomdoctor.diagnosis.state import Compartment, DeviceState, device_state
from oomdoctor.snapshot.model import Snapshot
from oomdoctor.units import MIB, format_bytes

Json = dict[str, Any]
SHOWN = 10
"""How many places are kept of those that pin and of those that live."""


WORTH_A_WORD = 256 * MIB
"""Memory outside PyTorch below this is a bare CUDA context."""


@dataclass(frozen=True)
class DeviceReport:
    """What a snapshot and its sidecar tell of one device.

    Attributes:
        request: what failed; None where nothing did.
        largest_free: the largest free block that could have served, bytes; without a request, of all.
        hole_bytes, holes: free blocks beside live ones.
        pins, live: by place, the first :data:`SHOWN`; ``places`` is how many places have live blocks.
        counted_back: whether the state is later than the OOM, and the account counted back to it.
        verdict: "unknown" where nothing failed.
        holey_segments: the segments with holes that ``max_split_size_mb`` could have shaped, by size.
        streams: the raw handles of its streams, the default stream's 0 first.
    """

    device: int
    name: Optional[str]
    compartments: tuple[Compartment, ...]
    account: Account
    request: Optional[Request]
    largest_free: int
    hole_bytes: int
    holes: int
    pins: tuple[Pin, ...]
    live: tuple[Live, ...]
    places: int
    has_expandable: bool
    counted_back: bool
    verdict: Verdict
    findings: tuple[Finding, ...]
    holey_segments: tuple[HoleySegments, ...] = ()
    streams: tuple[int, ...] = ()

    def stream_name(self, stream: int) -> str:
        """A stream as it is called in sentence and table."""
        return stream_name(self.streams, stream)


def report_device(
    snapshot: Snapshot,
    device: int,
    *,
    sidecar: Json,
    oom: Json,
    sample: Optional[Json],
    pid: Optional[int],
    time_unix: Optional[float],
) -> DeviceReport:
    """Understand one device.

    Args:
        sidecar: what the sidecar says of this device; empty for a bare snapshot.
        oom: the sidecar's ``oom``; empty where the dump was made for another reason.
        sample: the NVML sample of this device nearest in time.
    """
    state = device_state(snapshot, device)
    bare = not sidecar
    request = last_request(snapshot, device, oom) if oom or bare else None
    account = account_of(
        state,
        sidecar,
        oom=oom,
        free_at_oom=request.device_free if request else None,
        sample=sample,
        pid=pid,
        time_unix=time_unix,
    )
    findings: list[Finding] = []
    verdict: Verdict = "unknown"
    later = events_after_oom(snapshot, device) if bare and request is not None else 0
    if later:
        account = _at_oom(account, snapshot, device)
    if request is not None:
        verdict, why = judge(account, request)
        about = [_state_is_later(later)] if later else _about_request(state, request, snapshot)
        findings = [why, *about]
        fits = [finding for finding in about if finding.id == "fits-and-was-not-used"]
        if fits and verdict == "fragmentation":
            # The pieces are not too small after all.
            verdict = "unknown"
            findings = fits + [finding for finding in about if finding not in fits]
    holey = holey_segments(state)
    if verdict == "fragmentation" and request is not None and not later and not state.has_expandable:
        no_value = why_no_value(holey, request.segment_bytes or 0, account.room or 0)
        findings += [no_value] if no_value else []
    findings += _about_state(state, account, request is not None)
    findings += disagreements(state, sidecar)
    live = live_by_place(state)
    return DeviceReport(
        device=device,
        name=sidecar.get("name") if isinstance(sidecar.get("name"), str) else None,
        compartments=state.compartments,
        account=account,
        request=request,
        largest_free=largest_free_block(state, request),
        hole_bytes=sum(c.in_holes for c in state.compartments),
        holes=sum(c.holes for c in state.compartments),
        pins=tuple(pins(state)[:SHOWN]),
        live=tuple(live[:SHOWN]),
        places=len(live),
        has_expandable=state.has_expandable,
        counted_back=later > 0,
        verdict=verdict,
        findings=tuple(findings),
        holey_segments=holey,
        streams=_streams(state, request),
    )


def _streams(state: DeviceState, request: Optional[Request]) -> tuple[int, ...]:
    found = {0} | {c.stream for c in state.compartments}
    if request is not None and request.stream is not None:
        found.add(request.stream)
    # Handles are pointers: as unsigned numbers, in the order in which the allocator has them.
    return tuple(sorted(found, key=lambda stream: stream & (1 << 64) - 1))


def stream_name(streams: tuple[int, ...], stream: int) -> str:
    """Streams are numbered in the order of their handles; 0 is the default stream."""
    return str(streams.index(stream)) if stream in streams else f"{stream:#x}"


def _at_oom(account: Account, snapshot: Snapshot, device: int) -> Account:
    """The account with the sums at the OOM, where the snapshot's state is a later one."""
    reserved, active = sums_at_oom(snapshot, device, account.reserved, account.allocated + account.pending)
    free_private = min(account.free_private, reserved - active)
    return replace(
        account,
        reserved=reserved,
        allocated=active,
        pending=0,
        free_private=free_private,
        free_small=0,
        free_default=reserved - active - free_private,
    )


def _state_is_later(events: int) -> Finding:
    return Finding(
        "state-is-later",
        f"The snapshot was taken {events:,} events after the OOM: the tables show what was left then. "
        "The sums at the OOM are counted back from it.",
        "derived",
        None,
        {"formula": "sums at the end − allocated since + freed since", "events": events},
    )


def _about_request(state: DeviceState, request: Request, snapshot: Snapshot) -> list[Finding]:
    found = []
    need = request.least_bytes
    serving = serving_compartments(state, request)
    largest = largest_free_block(state, request)
    pool = "small" if is_small(request) else "large"
    if need is not None:
        stream = "any stream"
        if request.stream is not None:
            stream = f"stream {stream_name(_streams(state, request), request.stream)}"
        found.append(
            Finding(
                "largest-free-block",
                f"The largest free block that could serve (the {pool} pool, {stream}) was "
                f"{format_bytes(largest)} of {format_bytes(need)} needed.",
                "recorded",
                largest,
                {
                    "requested_block_bytes": need,
                    "largest_free_block_bytes": largest,
                    "free_in_pool_and_stream_bytes": sum(c.free for c in serving),
                    "pool": list(request.pool),
                    "size_class": pool,
                    "stream": request.stream,
                },
            )
        )
    max_split = (snapshot.settings or {}).get("max_split_size", -1)
    fitting = fitting_blocks(state, request, max_split if isinstance(max_split, int) else -1)
    elsewhere = max(
        (c.largest_free for c in state.compartments if c not in serving and c.is_small == is_small(request)),
        default=0,
    )
    if fitting:
        # pytorch/pytorch#189504: after the streams are synchronized, the pool is not searched again.
        found.append(
            Finding(
                "fits-and-was-not-used",
                f"{fitting:,} free {'block is' if fitting == 1 else 'blocks are'} large enough now: they "
                "came free while memory ran out, and the allocator does not look again "
                "(pytorch/pytorch#189504). A second try may succeed.",
                "recorded",
                largest,
                {"blocks": fitting},
            )
        )
    elif need is not None and elsewhere >= need:
        found.append(
            Finding(
                "fits-on-another-stream-or-pool",
                f"A free block of {format_bytes(elsewhere)} is large enough, and belongs to another stream "
                "or pool, which this request may not use.",
                "recorded",
                elsewhere,
                {"largest_free_block_elsewhere_bytes": elsewhere},
            )
        )
    return found


def _about_state(state: DeviceState, account: Account, is_oom: bool) -> list[Finding]:
    found = []
    in_holes = sum(c.in_holes for c in state.compartments)
    if in_holes:
        holes = sum(c.holes for c in state.compartments)
        found.append(
            Finding(
                "free-in-holes",
                f"{format_bytes(in_holes)} lie free in {holes:,} {'hole' if holes == 1 else 'holes'} "
                "beside live blocks.",
                "recorded",
                in_holes,
                {"holes": holes},
            )
        )
    roundings = [c.rounding for c in state.compartments if c.rounding is not None]
    rounding = sum(roundings)
    if rounding > state.allocated // 20:
        found.append(
            Finding(
                "rounding",
                f"{format_bytes(rounding)} of what is allocated is rounding: blocks larger than asked for.",
                "derived",
                rounding,
                {"formula": "blocks in use − requested", "allocated_bytes": state.allocated},
            )
        )
    if state.pending:
        found.append(
            Finding(
                "waiting-for-a-stream",
                f"{format_bytes(state.pending)} were freed and wait for another stream (record_stream).",
                "recorded",
                state.pending,
            )
        )
    private = sum(c.reserved for c in state.compartments if c.is_private)
    if private:
        found.append(
            Finding(
                "private-pools",
                f"{format_bytes(private)} are reserved in private pools (CUDA graphs, MemPools), "
                f"{format_bytes(account.free_private)} of it free.",
                "recorded",
                private,
                {"free_bytes": account.free_private},
            )
        )
    if is_oom and account.free_private:
        found.append(
            Finding(
                "private-pools-in-torchs-message",
                "Since 2.4 torch's own message counts what is free in private pools as allocated: "
                f"{format_bytes(account.allocated + account.free_private)} there, "
                f"{format_bytes(account.allocated)} here.",
                "derived",
                account.allocated + account.free_private,
                {
                    "formula": "allocated + free in private pools",
                    "allocated_bytes": account.allocated,
                    "free_private_bytes": account.free_private,
                },
            )
        )
    outside = account.not_pytorch
    if not state.compartments and state.reserved == 0:
        found.append(
            Finding(
                "nothing-in-the-allocator",
                "PyTorch's caching allocator holds nothing on this device.",
                "recorded",
                0,
            )
        )
    if outside is not None and (outside > WORTH_A_WORD or account.others):
        found.append(_outside(account, outside))
    return found


def _outside(account: Account, outside: int) -> Finding:
    detail = ""
    if account.own_not_pytorch is not None:
        others = account.others_known or 0
        detail = f": {format_bytes(account.own_not_pytorch)} this process's, {format_bytes(others)} others'"
        detail += _named(account)
    return Finding(
        "not-pytorch",
        f"{format_bytes(outside)} of the device are not PyTorch's{detail}.",
        "derived",
        outside,
        {
            "formula": "total − free − reserved",
            "total_bytes": account.total,
            "free_bytes": account.free,
            "reserved_bytes": account.reserved,
            "process_in_use_bytes": account.process_in_use,
        },
    )


def _named(account: Account, most: int = 3) -> str:
    """The other processes by pid, the largest first."""
    known = sorted(account.others, key=lambda other: -(other.bytes or 0))
    if not known:
        return ""
    named = [
        f"pid {other.pid}" + (f" {format_bytes(other.bytes)}" if other.bytes is not None else "")
        for other in known[:most]
    ]
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return f" ({', '.join(named)}{more})"
