"""Where the memory of a device went, when a snapshot was taken. Sizes in bytes, None where nothing says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Optional

from oomdoctor.diagnosis.model import OtherProcess
from oomdoctor.diagnosis.state import DeviceState
from oomdoctor.run.documents import integer

Json = dict[str, Any]


@dataclass(frozen=True)
class Account:
    """One device at one moment.

    Attributes:
        total, free: of the device, cudaMemGetInfo.
        limit: what PyTorch allows itself; below ``total`` only where a memory fraction is set.
        reserved, allocated, pending: of this process's allocator, summed from the snapshot's blocks.
        free_default: inactive blocks of the default pool, which any request of their stream may use.
        free_private: inactive blocks of private pools, which nothing outside these pools may use.
        free_small: the part of ``free_default`` that lies in the small pool, and could never serve, nor be
            given back for, a request above 1 MiB.
        process_in_use: this process on this device, as NVML says.
        others: other processes on this device, as NVML says.
        others_listed: whether NVML listed this process, and so also the others.
        nvml_age: seconds between the NVML sample and the snapshot.
    """

    total: Optional[int]
    free: Optional[int]
    limit: Optional[int]
    reserved: int
    allocated: int
    pending: int
    free_default: int
    free_private: int
    free_small: int = 0
    process_in_use: Optional[int] = None
    others: tuple[OtherProcess, ...] = ()
    others_listed: bool = False
    nvml_age: Optional[float] = None

    @property
    def not_pytorch(self) -> Optional[int]:
        """Neither free nor reserved by this allocator: contexts, libraries, other processes."""
        if self.total is None or self.free is None:
            return None
        return self.total - self.free - self.reserved

    @property
    def others_known(self) -> Optional[int]:
        """What other processes hold, as far as NVML says."""
        known = [other.bytes for other in self.others if other.bytes is not None]
        return sum(known) if known else None

    @property
    def own_not_pytorch(self) -> Optional[int]:
        """This process's memory outside PyTorch's allocator: CUDA context, NCCL, other allocators."""
        if self.not_pytorch is None or not self.others_listed:
            return None
        return max(self.not_pytorch - (self.others_known or 0), 0)

    @property
    def has_limit(self) -> bool:
        return self.limit is not None and self.total is not None and self.limit < self.total

    @property
    def room(self) -> Optional[int]:
        """What a new segment may take: what the device has free, less where a limit comes first."""
        if self.free is None:
            return None
        if self.has_limit and self.limit is not None:
            return max(min(self.free, self.limit - self.reserved), 0)
        return self.free


def account_of(
    state: DeviceState,
    sidecar_device: Json,
    *,
    oom: Json,
    free_at_oom: Optional[int],
    sample: Optional[Json],
    pid: Optional[int],
    time_unix: Optional[float],
) -> Account:
    """Put together what the snapshot, its sidecar and the NVML sample nearest to it say of a device."""

    def of_sidecar(key: str) -> Optional[int]:
        value = sidecar_device.get(key)
        return value if isinstance(value, int) else None

    return _with_nvml(
        Account(
            total=of_sidecar("total_bytes"),
            free=of_sidecar("free_bytes") if free_at_oom is None else free_at_oom,
            limit=integer(oom, "limit_bytes"),
            reserved=state.reserved,
            allocated=state.allocated,
            pending=state.pending,
            free_default=sum(c.free for c in state.compartments if not c.is_private),
            free_private=sum(c.free for c in state.compartments if c.is_private),
            free_small=sum(
                c.free - c.free_whole for c in state.compartments if c.is_small and not c.is_private
            ),
        ),
        sample,
        pid,
        time_unix,
    )


def account_without_snapshot(
    sidecar_device: Json,
    line: Json,
    *,
    sample: Optional[Json],
    pid: Optional[int],
    time_unix: Optional[float],
) -> Optional[Account]:
    """What torch's own counters say of a device, where there is no snapshot to sum.

    Which pools hold the free memory is not known then; all of it is taken for the default pool's.

    Args:
        sidecar_device: the sidecar's entry of the device; may be empty.
        line: the sidecar's ``oom``, or the line of ``ooms.jsonl``; may be empty.

    Returns:
        None where neither says what was allocated and reserved.
    """
    figures = {**sidecar_device, **{key: value for key, value in line.items() if value is not None}}
    reserved, allocated = integer(figures, "reserved_bytes"), integer(figures, "allocated_bytes")
    if reserved is None or allocated is None:
        return None
    active = integer(sidecar_device, "active_bytes")
    pending = max(active - allocated, 0) if active is not None else 0
    return _with_nvml(
        Account(
            total=integer(sidecar_device, "total_bytes"),
            free=integer(figures, "free_bytes"),
            limit=integer(line, "limit_bytes"),
            reserved=reserved,
            allocated=allocated,
            pending=pending,
            free_default=max(reserved - allocated - pending, 0),
            free_private=0,
        ),
        sample,
        pid,
        time_unix,
    )


def _with_nvml(
    account: Account, sample: Optional[Json], pid: Optional[int], time_unix: Optional[float]
) -> Account:
    """The account with what the NVML sample nearest to it adds."""
    processes = sample.get("processes", []) if sample else []
    listed = [
        OtherProcess(p["pid"], p["bytes"] if isinstance(p.get("bytes"), int) else None)
        for p in processes
        if isinstance(p, dict) and isinstance(p.get("pid"), int)
    ]
    mine = [p.bytes for p in listed if p.pid == pid]
    when = sample.get("t") if sample else None
    age = abs(when - time_unix) if isinstance(when, (int, float)) and time_unix is not None else None
    in_use = mine[0] if mine else None
    if in_use is not None and in_use < account.reserved:
        in_use = None  # sampled before the process had grown to this
    return replace(
        account,
        process_in_use=in_use,
        # In a container NVML counts pids of the host: where ours is not listed, we may be one of "others".
        others=tuple(p for p in listed if p.pid != pid) if mine else (),
        others_listed=bool(mine),
        nvml_age=age,
    )
