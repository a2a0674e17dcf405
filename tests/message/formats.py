"""PyTorch's own formats, from numbers: what ``DeviceCachingAllocator::malloc`` prints, release by release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def format_size(size: int) -> str:
    """``format_size`` of c10/cuda/CUDACachingAllocator.cpp."""
    if size <= KIB:
        return f"{size} bytes"
    if size <= MIB:
        return f"{size / KIB:.2f} KiB"
    if size <= GIB:
        return f"{size / MIB:.2f} MiB"
    return f"{size / GIB:.2f} GiB"


def printed(size: int) -> int:
    """What is left of a size after printing: the value read back, times the unit, to the nearest byte."""
    number, unit = format_size(size).split()
    if unit == "bytes":
        return int(number)
    hundredths = int(number.replace(".", ""))
    factor = {"KiB": KIB, "MiB": MIB, "GiB": GIB}[unit]
    return (2 * hundredths * factor + 100) // 200


@dataclass(frozen=True)
class Numbers:
    """An out-of-memory event's numbers, in bytes."""

    device: int
    requested: int
    total: int
    free: int
    allocated: int
    unallocated: int
    allowed: Optional[int] = None
    this_process: Optional[int] = None
    processes: tuple[tuple[int, int], ...] = ()
    pools: int = 0


def torch_1_0(n: Numbers) -> str:
    return (
        f"CUDA out of memory. Tried to allocate {format_size(n.requested)} (GPU {n.device}; "
        f"{format_size(n.total)} total capacity; {format_size(n.allocated)} already allocated; "
        f"{format_size(n.free)} free; {format_size(n.unallocated)} cached)"
    )


def torch_1_4(n: Numbers) -> str:
    allowed = f"{format_size(n.allowed)} allowed; " if n.allowed is not None else ""
    return (
        f"CUDA out of memory. Tried to allocate {format_size(n.requested)} (GPU {n.device}; "
        f"{format_size(n.total)} total capacity; {format_size(n.allocated)} already allocated; "
        f"{format_size(n.free)} free; {allowed}"
        f"{format_size(n.allocated + n.unallocated)} reserved in total by PyTorch)"
    )


def torch_1_13(n: Numbers) -> str:
    return (
        "torch.cuda.OutOfMemoryError: "
        + torch_1_4(n)
        + " If reserved memory is >> allocated memory try setting max_split_size_mb to avoid fragmentation. "
        " See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"
    )


def _sentences(n: Numbers, capacity: str, pools: bool, allowed: bool) -> str:
    processes = "".join(f"Process {pid} has {format_size(size)} memory in use. " for pid, size in n.processes)
    if n.this_process is not None:
        processes += (
            "Including non-PyTorch memory, this process has "
            + format_size(n.this_process)
            + " memory in use. "
        )
    limit = f"{format_size(n.allowed)} allowed; " if allowed and n.allowed is not None else ""
    pool = (
        f"with {format_size(n.pools)} allocated in private pools (e.g., CUDA Graphs), "
        if pools and n.pools
        else ""
    )
    return (
        f"CUDA out of memory. Tried to allocate {format_size(n.requested)}. GPU {n.device} has a total"
        f" {capacity} of {format_size(n.total)} of which {format_size(n.free)} is free. {processes}{limit}Of"
        f" the allocated memory {format_size(n.allocated)} is allocated by PyTorch, {pool}and"
        f" {format_size(n.unallocated)} is reserved by PyTorch but unallocated."
    )


def torch_2_1(n: Numbers) -> str:
    return (
        "torch.cuda.OutOfMemoryError: "
        + _sentences(n, "capacty", pools=False, allowed=False)
        + " If reserved but unallocated memory is large try setting max_split_size_mb to avoid fragmentation."
        "  See documentation for Memory Management and PYTORCH_CUDA_ALLOC_CONF"
    )


_HINT = (
    " If reserved but unallocated memory is large try setting {variable}=expandable_segments:True to avoid "
    "fragmentation.  See documentation for Memory Management  ({url})"
)
_OLD_URL = "https://pytorch.org/docs/stable/notes/cuda.html#environment-variables"
_NEW_URL = "https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf"


def torch_2_2(n: Numbers) -> str:
    return (
        "torch.cuda.OutOfMemoryError: "
        + _sentences(n, "capacity", pools=False, allowed=False)
        + _HINT.format(variable="PYTORCH_CUDA_ALLOC_CONF", url=_OLD_URL)
    )


def torch_2_5(n: Numbers) -> str:
    return (
        "torch.OutOfMemoryError: "
        + _sentences(n, "capacity", pools=True, allowed=True)
        + _HINT.format(variable="PYTORCH_CUDA_ALLOC_CONF", url=_OLD_URL)
    )


def torch_2_10(n: Numbers) -> str:
    return (
        "torch.OutOfMemoryError: "
        + _sentences(n, "capacity", pools=True, allowed=True)
        + _HINT.format(variable="PYTORCH_ALLOC_CONF", url=_OLD_URL)
    )


def torch_2_15(n: Numbers) -> str:
    return (
        "torch.OutOfMemoryError: "
        + _sentences(n, "capacity", pools=True, allowed=True)
        + _HINT.format(variable="PYTORCH_CUDA_ALLOC_CONF", url=_NEW_URL)
    )


@dataclass(frozen=True)
class Release:
    """A format and what it can say."""

    name: str
    write: Callable[[Numbers], str]
    reserved: bool = False
    unallocated: bool = True
    allowed: bool = False
    processes: bool = False
    pools: bool = False


RELEASES = (
    Release("1.0", torch_1_0),
    Release("1.4", torch_1_4, reserved=True, unallocated=False, allowed=True),
    Release("1.13", torch_1_13, reserved=True, unallocated=False, allowed=True),
    Release("2.1", torch_2_1, processes=True),
    Release("2.2", torch_2_2, processes=True),
    Release("2.5", torch_2_5, processes=True, allowed=True, pools=True),
    Release("2.10", torch_2_10, processes=True, allowed=True, pools=True),
    Release("2.15", torch_2_15, processes=True, allowed=True, pools=True),
)
