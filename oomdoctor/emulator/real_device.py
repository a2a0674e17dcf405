"""A CUDA device that is there: whether the torch that is asked sees one, and what room it has."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

from oomdoctor.units import GIB, MIB, format_bytes

# Beside a program's capacity: streams, events, page tables.
SLACK = 128 * MIB
# A context and what the driver keeps are below; with more somebody else is at work on the device.
_IDLE_BELOW = 2 * GIB
_PATIENCE = 180.0

# One line a device, up to the first that has the room and is idle: to ask one makes a context on it.
_ASK = """\
import ctypes, json, sys
import torch
emulated = hasattr(ctypes.CDLL(None), "oomdoctor_set_capacity")
room, most_used = map(int, sys.argv[1:])
for number in range(torch.cuda.device_count()):
    try:
        free, total = torch.cuda.mem_get_info(number)
    except Exception as error:
        print(json.dumps({"number": number, "error": str(error).splitlines()[0]}), flush=True)
        continue
    name = torch.cuda.get_device_name(number)
    told = {"number": number, "name": name, "free": free, "total": total, "emulated": emulated}
    print(json.dumps(told), flush=True)
    if free >= room and total - free < most_used:
        break
"""


@dataclass(frozen=True)
class RealDevice:
    """A device to drive programs on.

    Attributes:
        number: as the torch that was asked counts.
        name: "NVIDIA H200".
        total_bytes: as ``cudaMemGetInfo`` says, with which PyTorch reckons.
        free_bytes: beside a context, when it was asked.
        environment: what makes it the only one that a process sees.
    """

    number: int
    name: str
    total_bytes: int
    free_bytes: int
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"GPU {self.number}, {self.name}"


@dataclass(frozen=True)
class Found:
    """The device to use, or why there is none to use; both None: there is no device at all."""

    device: Optional[RealDevice] = None
    why_not: Optional[str] = None


def find_device(python: str, room: int, *, idle: bool = True) -> Found:
    """The first device with ``room`` bytes free that the torch of ``python`` sees.

    Args:
        idle: only one that nobody else uses: what is free there will be taken, and who asks for memory
            meanwhile gets none.
    """
    most_used = _IDLE_BELOW if idle else 1 << 62
    # What the allocator is told by whoever runs this is not to keep it from answering.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTORCH_")}
    words = [python, "-c", _ASK, str(room + SLACK), str(most_used)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return Found(why_not=f"torch did not tell within {_PATIENCE:.0f} s what devices there are")
    why: Optional[str] = None
    for line in done.stdout.splitlines():
        if not line.startswith("{"):
            continue
        told = json.loads(line)
        number = told["number"]
        if "error" in told:
            why = why or f"GPU {number}: {told['error']}"
        elif told["emulated"]:
            return Found(why_not="the devices here are emulated ones")
        elif told["free"] < room + SLACK:
            free, wanted = format_bytes(told["free"]), format_bytes(room + SLACK)
            why = why or f"GPU {number} has {free} free, and {wanted} are needed"
        elif told["total"] - told["free"] >= most_used:
            held = format_bytes(told["total"] - told["free"])
            why = why or f"GPU {number} is in use, with {held} of its memory"
        else:
            return Found(
                RealDevice(number, told["name"], told["total"], told["free"], {**_only(number)}), None
            )
    return Found(why_not=why)


def _only(number: int) -> dict[str, str]:
    """What shows a process this device alone."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    which = str(number) if names is None else names.split(",")[number].strip()
    return {"CUDA_VISIBLE_DEVICES": which}
