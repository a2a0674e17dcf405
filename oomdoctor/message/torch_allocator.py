r"""PyTorch's caching allocators, 1.0 to 2.15: CUDA, HIP, XPU, NPU and the backends that copied their wording.

Source: ``DeviceCachingAllocator::malloc`` in c10/cuda/CUDACachingAllocator.cpp
(c10/xpu/XPUCachingAllocator.cpp, torch_npu's NPUCachingAllocator.cpp). Every release says much the same in
other words and another order, and what is pasted is often cut, wrapped or quoted in part. So the message is
read clause by clause: a clause gives one number, clauses that stand close together make one message, and a
field that comes a second time starts the next.

    1.0   (GPU d; T total capacity; A already allocated; F free; C cached)
    1.4   (...; F free; [L allowed;] R reserved in total by PyTorch)
    2.1   GPU d has a total capacty of T of which F is free. [Process N has M memory in use.]
          [Including non-PyTorch memory, this process has M memory in use.]
          Of the allocated memory A is allocated by PyTorch, and U is reserved by PyTorch but unallocated.
    2.4   ... allocated by PyTorch, with P allocated in private pools (e.g., CUDA Graphs), and U ...
    2.5   [L allowed;] after the process sentences
    2.12  Allocation was preemptively rejected because it would exceed per_process_memory_fraction limit.
    2.15  This allocation exceeds the expandable-segment reserve of R ..., so that a segment is at least S.

"cached" of 1.0-1.3 is reserved and unallocated; "reserved in total" of 1.4-2.0 is reserved (#27361).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from oomdoctor.diagnosis.model import OomFacts, OtherProcess
from oomdoctor.message.patterns import compile_template
from oomdoctor.message.sighting import Grammar, Sighting
from oomdoctor.message.sizes import to_bytes
from oomdoctor.message.torch_versions import versions_of

# Backend word -> family. Others (MUSA, MLU, GCU, SUPA, ...) are their own lower-case name.
_FAMILIES = {"HIP": "rocm", "XPU": "xpu", "DPCPP": "xpu", "NPU": "npu"}
_BACKENDS = r"(?:CUDA|HIP|XPU|NPU|MUSA|MLU|GCU|SUPA|DPCPP|MACA|PPU|SDAA|HPU|TPU|OpenCL|PrivateUse1)"
_DEVICE_WORDS = r"(?:GPU|XPU|NPU|MLU|MUSA|GCU|SUPA|DCU|HPU|PPU|device)"

_CLAUSE = "|".join(
    (
        rf"(?P<head>(?<![A-Z]){_BACKENDS}) out of memory\.?",
        r"(?<!you[\s])[Tt]ried to allocate (?:SIZE(requested)|(?P<exa>more than 1EB))"
        rf"(?: ?\. {_DEVICE_WORDS} (?P<next_device>\d{{1,4}})\b)?",
        "can NOT allocate memory block with size larger than SIZE(largest)",  # Intel's extension, 2.1
        r"Allocation was (?P<preempted>preemptively) rejected",
        r"Requested size: (?:SIZE(preempted_requested)|(?P<preempted_bytes>\d{1,19}))",
        rf"\( ?{_DEVICE_WORDS} (?P<paren_device>\d{{1,4}}) ?;",
        rf"{_DEVICE_WORDS} (?:(?P<device>\d{{1,4}})|(?P<raw_device>[\x00-\x08\x0e-\x1f])) has a\b",
        "total capaci?ty of SIZE(total)",
        "of which SIZE(free)",
        r"Process (?P<pid>\d{1,10}) has SIZE(pid_bytes)",
        "this process has SIZE(process)",
        "Of the allocated memory SIZE(allocated)",
        "with SIZE(pool) allocated",
        "and SIZE(unallocated) is reserved",
        (
            r"SIZE(old) (?P<what>total capacity|already allocated|current active"
            r"|free(?=\s*(?:[;,)]|$))|allowed(?=\s*;)|cached|reserved in total"
            r"|is reserved by PyTorch|is allocated by PyTorch|is free)"
        ),
        "(?P<reserve>expandable-segment reserve of) SIZE(reserve_bytes)",
    )
)
_OLD_FIELDS = {
    "total capacity": "total",
    "already allocated": "allocated",
    "current active": "active",
    "free": "free",
    "is free": "free",
    "allowed": "allowed",
    "cached": "unallocated",
    "reserved in total": "reserved",
    "is reserved by PyTorch": "unallocated",
    "is allocated by PyTorch": "allocated",
}
# A fragment without "Tried to allocate" is a message only if it has one of these and another.
_TELLING = {"allocated", "reserved", "unallocated", "allowed"}
_MAX_GAP = 200
"""Characters between two clauses of one message; the longest known sentence between two has about 60."""


@dataclass
class _Message:
    """A message while its clauses come in."""

    start: int
    end: int
    head: Optional[str] = None
    sizes: dict[str, Optional[int]] = field(default_factory=dict)
    device: Optional[int] = None
    has_device: bool = False
    processes: list[OtherProcess] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    forms: set[str] = field(default_factory=set)

    @property
    def is_message(self) -> bool:
        return (
            self.head is not None
            or "requested" in self.sizes
            or (len(self.sizes) >= 2 and not _TELLING.isdisjoint(self.sizes))
        )


def _read(text: str) -> Iterator[Sighting]:
    message: Optional[_Message] = None
    for match in compile_template(_CLAUSE).finditer(text):
        parts = {name: value for name, value in match.groupdict().items() if value is not None}
        if message is not None and (match.start() - message.end > _MAX_GAP or _begins_next(message, parts)):
            if message.is_message:
                yield _sighting(message, text)
            message = None
        if message is None:
            message = _Message(match.start(), match.end())
        _take(message, parts)
        message.end = match.end()
    if message is not None and message.is_message:
        yield _sighting(message, text)


def _begins_next(message: _Message, parts: dict[str, str]) -> bool:
    """Whether a clause says again what the message has said, and so belongs to the next one."""
    if "head" in parts or "largest" in parts:
        return True
    has_device = message.has_device
    if has_device and not {"paren_device", "device", "raw_device"}.isdisjoint(parts):
        # 2.1+ names the device once, and the clause after "Tried to allocate" may have read ahead to it.
        return "next_device" not in message.forms
    if "requested" in parts or "exa" in parts:
        return "requested" in message.sizes
    names = {_OLD_FIELDS.get(" ".join(parts["what"].split()), "")} if "what" in parts else set(parts)
    return not names.isdisjoint(message.sizes)


def _take(message: _Message, parts: dict[str, str]) -> None:
    """Add what one clause states."""
    if "head" in parts:
        message.head = parts["head"]
    if "requested" in parts:
        message.sizes["requested"] = to_bytes(parts["requested"])
    if "largest" in parts:
        message.head = "XPU"
        message.details["largest_block_bytes"] = to_bytes(parts["largest"])
    if "exa" in parts:
        message.sizes["requested"] = None
        message.forms.add("exa")
        message.details["requested_at_least_bytes"] = 1 << 60
    if "preempted" in parts:
        message.forms.add("preempted")
        message.details["preemptively_rejected"] = True
    rejected = parts.get("preempted_requested") or parts.get("preempted_bytes")
    if rejected and "preempted" in message.forms:
        message.sizes["requested"] = to_bytes(rejected)
    for name in ("next_device", "device", "paren_device"):
        if name in parts:
            message.device, message.has_device = int(parts[name]), True
            message.forms.add(name)
            if name == "device":
                message.forms.discard("next_device")
    if "raw_device" in parts:  # 2.3: DeviceIndex is an int8_t, and was printed as a character (#126766)
        message.device, message.has_device = ord(parts["raw_device"]), True
        message.forms.add("raw_device")
    for name, target in (
        ("total", "total"),
        ("free", "free"),
        ("process", "process"),
        ("allocated", "allocated"),
        ("pool", "pool"),
        ("unallocated", "unallocated"),
    ):
        if name in parts:
            message.sizes[target] = to_bytes(parts[name])
            message.forms.add("sentences")
    if "pid" in parts:
        message.processes.append(OtherProcess(int(parts["pid"]), to_bytes(parts["pid_bytes"])))
    if "what" in parts:
        what = " ".join(parts["what"].split())
        message.sizes[_OLD_FIELDS[what]] = to_bytes(parts["old"])
        message.forms.add(what)
    if "reserve" in parts:
        message.details["expandable_segment_reserve_bytes"] = to_bytes(parts["reserve_bytes"])


def _sighting(message: _Message, text: str) -> Sighting:
    sizes, details = message.sizes, dict(message.details)
    if sizes.get("active") is not None:
        details["active_bytes"] = sizes["active"]
    tail = text[message.start : message.end + 900]
    lead = text[max(0, message.start - 40) : message.start]
    versions, more = versions_of(lead, tail, message.forms)
    details.update(more)
    if versions is not None:
        details["torch"] = versions
    facts = OomFacts(
        family=_family(message, tail, versions),
        device=message.device,
        requested_bytes=sizes.get("requested"),
        total_bytes=sizes.get("total"),
        free_bytes=sizes.get("free"),
        allocated_bytes=sizes.get("allocated"),
        reserved_bytes=sizes.get("reserved"),
        reserved_unallocated_bytes=sizes.get("unallocated"),
        process_in_use_bytes=sizes.get("process"),
        private_pool_bytes=sizes.get("pool"),
        allowed_bytes=sizes.get("allowed"),
        other_processes=tuple(message.processes),
        details=details,
    )
    return Sighting(message.start, message.end, facts, group="torch")


def _family(message: _Message, tail: str, versions: Optional[list[str]]) -> str:
    if message.head not in (None, "CUDA"):
        return _FAMILIES.get(str(message.head), str(message.head).lower())
    if "exa" in message.forms:
        return "torch-1EB"
    if "preempted" in message.forms:
        return "torch-2.2+"
    if "cached" in message.forms:
        return "torch-legacy-cached"
    if "raw_device" in message.forms:
        return "torch-2.3-nul"
    if "reserved in total" in message.forms or "already allocated" in message.forms:
        return "torch-2.0" if versions is not None and versions[0] == "1.13" else "torch-1.x"
    if "sentences" in message.forms or message.has_device:
        return "torch-2.1" if versions is not None and versions[1] == "2.1" else "torch-2.2+"
    if "requested" in message.sizes and re.search(r"GPU\s*\Z|GPU\s*\n", tail[:200]):
        return "torch-2.3-nul"
    return "torch"


GRAMMAR = Grammar(
    "PyTorch's caching allocators",
    (
        "out of memory",
        "tried to allocate",
        "by pytorch",
        "already allocated",
        "total capac",
        "tried\nto",
        "out\nof",
        "of\nmemory",
    ),
    _read,
)
