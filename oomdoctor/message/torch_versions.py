"""Which PyTorch releases print a message like this one.

Found by wording: https://github.com/pytorch/pytorch pull requests #13751 (1.0), #27361 (1.4), #44742 (the
hint), #83146 (1.13, the class), #99699 (2.1, sentences), #113481 (2.2, the hint), #124673 (2.4, private
pools), #172327 (2.11, the address in the hint) and #193211 (2.15).
"""

from __future__ import annotations

import re
from typing import Any, Optional

_CLASS_1_13 = re.compile(r"OutOfMemoryError:\s*$")
_CLASS_2_5 = re.compile(r"torch\.OutOfMemoryError:\s*$")
_VARIABLE = re.compile(r"PYTORCH_(?:CUDA_|HIP_|NPU_|MUSA_|MLU_|XPU_)?ALLOC_CONF")


def versions_of(lead: str, tail: str, forms: set[str]) -> tuple[Optional[list[str]], dict[str, Any]]:
    """The oldest and newest release that print this, and the variable that the hint names.

    Args:
        lead: what stands before the message (the exception's class).
        tail: the message and its hint.
        forms: which clauses it has.
    Returns:
        ``["2.2", "2.9"]`` (the newest known is "2.15"), or None where nothing gives it away; and details.
    """
    hint = tail.split("out of memory", 2)
    own = "out of memory".join(hint[:2])  # the hint of this message, not of the next one
    variable = _VARIABLE.search(own)
    details: dict[str, Any] = {"variable": variable.group()} if variable else {}
    if "expandable_segments is enabled" in own:
        details["expandable_segments"] = True
        return ["2.15", "2.15"], details
    if "expandable-segment reserve" in " ".join(own.split()):
        details["expandable_segments"] = True
        return ["2.15", "2.15"], details
    if "cached" in forms:
        return ["1.0", "1.3"], details
    if "reserved in total" in forms or "already allocated" in forms:
        if _CLASS_1_13.search(lead):
            return ["1.13", "2.0"], details
        return (["1.10", "2.0"] if ">>" in own else ["1.4", "2.0"]), details
    if "raw_device" in forms:
        return ["2.3", "2.3"], details
    if "capacty" in own:
        return ["2.1", "2.1"], details
    if not ({"sentences", "device", "next_device"} & forms):
        return None, details
    if "try setting max_split_size_mb" in " ".join(own.split()):
        return ["2.1", "2.1"], details
    if "preempted" in forms:
        return ["2.12", "2.15"], details
    if "docs.pytorch.org" in own:
        return ["2.11", "2.15"], details
    if variable and variable.group() == "PYTORCH_ALLOC_CONF":
        return ["2.9", "2.10"], details
    oldest = "2.2"
    if _CLASS_2_5.search(lead):
        oldest = "2.5"
    elif "private pools" in own:
        oldest = "2.4"
    newest = "2.10" if "pytorch.org/docs/stable" in own else "2.15"
    return [oldest, newest], details
