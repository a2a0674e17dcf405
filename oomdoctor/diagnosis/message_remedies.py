"""What to do about a message of PyTorch's caching allocator, in order of promise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Optional

from oomdoctor.diagnosis.message_accounting import Accounting
from oomdoctor.diagnosis.message_verdict import Ruling
from oomdoctor.diagnosis.model import OomFacts, Remedy
from oomdoctor.diagnosis.torch_settings import (
    EXPANDABLE_SEGMENTS_SINCE,
    MAX_SPLIT_SIZE_SINCE,
    Version,
    expandable_segments_on,
    first_max_split_size_mb,
    max_split_size_set_mb,
    parse_version,
    variable,
)
from oomdoctor.units import GIB, format_bytes

RECORD = Remedy(
    "record",
    "A message cannot say which of them helps. A recording proves it.",
    "oomdoctor trace -- python infer.py",
    "recorded",
)
RECORD_ONE = replace(RECORD, summary="A message cannot say whether it helps. A recording proves it.")
RECORD_ALONE = Remedy(
    "record",
    "A recording shows what held the memory at that moment.",
    "oomdoctor trace -- python infer.py",
    "recorded",
)


def torch_remedies(facts: OomFacts, books: Accounting, ruling: Ruling) -> tuple[Remedy, ...]:
    """Remedies for the verdict. None but a recording where nothing else has a basis."""
    if ruling.verdict == "fragmentation":
        tries = _fragmentation(facts, books)
        if books.total and books.others_bytes > books.total // 2:
            tries.append(_crowded(books))
        return (*tries, RECORD if len(tries) > 1 else RECORD_ONE if tries else RECORD_ALONE)
    if ruling.verdict == "impossible-request":
        return tuple(_impossible(facts))
    rules = {
        "capacity": _capacity,
        "other-process": _other_process,
        "limit": _limit,
        "non-pytorch": _non_pytorch,
    }
    chosen = rules.get(ruling.verdict)
    return (*(chosen(facts, books) if chosen else ()), RECORD_ALONE)


def known_versions(facts: OomFacts) -> tuple[Optional[Version], Optional[Version]]:
    """The oldest and newest PyTorch that this can be."""
    exact = facts.details.get("torch_version")
    if exact:
        return parse_version(exact), parse_version(exact)
    between = facts.details.get("torch")
    if between:
        return parse_version(between[0]), parse_version(between[1])
    return None, None


def _fragmentation(facts: OomFacts, books: Accounting) -> list[Remedy]:
    newest = known_versions(facts)[1]
    settings = facts.details.get("settings") or {}
    expandable_on = expandable_segments_on(facts.details)
    remedies = []
    split = _max_split_size(facts, newest)
    if not expandable_on:
        if split is not None:
            remedies.append(split)
        expandable = _expandable_segments(facts, newest)
        if facts.details.get("expandable_segments_unsupported") or facts.details.get("sleep_mode"):
            pass  # a finding says why it is not offered
        elif newest is not None and newest < EXPANDABLE_SEGMENTS_SINCE:
            remedies.append(expandable)
        else:
            remedies.insert(0, expandable)
    elif "max_split_size_mb" in settings:
        remedies.append(
            Remedy(
                "drop-max-split-size",
                "leave max_split_size_mb out beside expandable segments",
                f"{variable(facts.family, facts.details.get('variable'))}=expandable_segments:True",
                "derived",
            )
        )
    return remedies


def _crowded(books: Accounting) -> Remedy:
    """What to do about other processes that hold most of a device whose holes are the nearer cause."""
    pids = ",".join(str(process.pid) for process in books.others)
    return Remedy(
        "see-others",
        f"or end or move what holds most of this device: {format_bytes(books.others_bytes)}, pid {pids}",
        f"ps -o pid,user,etime,args -p {pids}",
        "stated",
    )


def _expandable_segments(facts: OomFacts, newest: Optional[Version]) -> Remedy:
    name = variable(facts.family, facts.details.get("variable"))
    oldest = known_versions(facts)[0]
    when = "torch 2.1 or later; " if oldest is None or oldest < EXPANDABLE_SEGMENTS_SINCE else ""
    if newest is not None and newest < EXPANDABLE_SEGMENTS_SINCE:
        when = f"after an update to torch 2.1 or later; this is {newest[0]}.{newest[1]} at most; "
    if "max_split_size_mb" in (facts.details.get("settings") or {}):
        when += "in place of max_split_size_mb; "
    return Remedy(
        "expandable-segments",
        f"{when}not with vLLM's or SGLang's sleep mode, CUDA IPC or custom memory pools",
        f"{name}=expandable_segments:True",
        "estimated",
    )


def _max_split_size(facts: OomFacts, newest: Optional[Version]) -> Optional[Remedy]:
    """``max_split_size_mb``, where the setting exists and a value for it makes sense."""
    if facts.requested_bytes is None or (newest is not None and newest < MAX_SPLIT_SIZE_SINCE):
        return None
    if facts.family not in ("rocm", "npu") and not facts.family.startswith("torch"):
        return None  # XPU and others have no such setting
    value = first_max_split_size_mb(facts.requested_bytes)
    already = max_split_size_set_mb(facts.details)
    if value is None or (already is not None and already <= value):
        return None
    name = variable(facts.family, facts.details.get("variable"))
    return Remedy(
        "max-split-size",
        "below the failed request, so that blocks of its size stay whole: the largest power of two not above"
        " half of it" + (f", in place of the {already} that is set" if already is not None else ""),
        f"{name}=max_split_size_mb:{value}",
        "estimated",
    )


def _capacity(facts: OomFacts, books: Accounting) -> Iterator[Remedy]:
    if books.requested is None or books.free is None or books.holes is None:
        return
    short = books.requested - books.free - books.holes.bytes
    yield Remedy(
        "need-less",
        f"the run needs at least {format_bytes(short)} less at this point: a smaller batch or shorter "
        "sequences, a smaller dtype, offloading, or more devices",
        None,
        "derived",
    )
    if facts.private_pool_bytes and facts.private_pool_bytes >= short:
        yield Remedy(
            "fewer-graphs",
            f"private pools keep {format_bytes(facts.private_pool_bytes)}: capture fewer or smaller CUDA "
            "graphs (vLLM: --enforce-eager or fewer capture sizes)",
            None,
            "derived",
        )


def _other_process(facts: OomFacts, books: Accounting) -> Iterator[Remedy]:
    pids = ",".join(str(process.pid) for process in books.others)
    yield Remedy(
        "see-others",
        "see what they are, and end or move what need not be there",
        f"ps -o pid,user,etime,args -p {pids}",
        "stated",
    )
    if facts.device is not None:
        yield Remedy(
            "other-device",
            "or use a device that nobody uses",
            "nvidia-smi --query-gpu=index,memory.used --format=csv",
            "estimated",
        )


def _limit(facts: OomFacts, books: Accounting) -> Iterator[Remedy]:
    name = variable(facts.family, facts.details.get("variable"))
    if facts.details.get("preemptively_rejected"):
        yield Remedy(
            "raise-fraction",
            "allow more, or leave throw_on_cudamalloc_oom out: then PyTorch releases its cache and asks the"
            " device first",
            f"{name}=per_process_memory_fraction:0.95",
            "estimated",
        )
        return
    reserve = facts.details.get("expandable_segment_reserve_bytes")
    if reserve and facts.requested_bytes:
        gib = math.ceil(facts.requested_bytes / GIB)
        yield Remedy(
            "segment-reserve",
            "so that one segment holds the request (torch 2.15), or leave the setting out",
            f"{name}=expandable_segments:True,expandable_segments_reserve:{gib}G",
            "derived",
        )
        return
    if books.limit is None:
        return
    if facts.family == "xpu":
        module = "torch.xpu"
    elif facts.family == "npu":
        module = "torch_npu.npu"
    else:
        module = "torch.cuda"
    if books.total and books.reserved and books.requested is not None:
        fraction = math.ceil(100 * (books.reserved.bytes + books.requested) / books.total) / 100
        if fraction <= 1:
            yield Remedy(
                "raise-fraction",
                f"(reserved + requested) / total = {fraction:.2f}, if the device has that free",
                f"{module}.set_per_process_memory_fraction({fraction:.2f})",
                "derived",
            )
            return
    if books.total is not None:
        yield Remedy("fraction-is-not-it", "no fraction up to 1 would have been enough", None, "derived")


def _non_pytorch(facts: OomFacts, books: Accounting) -> Iterator[Remedy]:
    yield Remedy(
        "see-processes",
        "see who holds it",
        "nvidia-smi --query-compute-apps=pid,used_memory,name --format=csv",
        "derived",
    )


def _impossible(facts: OomFacts) -> Iterator[Remedy]:
    size = facts.requested_bytes
    elements = f": {size // 2:,} elements of 2 bytes, {size // 4:,} of 4" if size else ""
    yield Remedy(
        "look-at-the-shape",
        f"look at the shape of the tensor on the last line of the traceback{elements}",
        None,
        "derived",
    )
