"""Settings that a recording speaks against: what the program uses besides does not work with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from oomdoctor.allocator.history import History
from oomdoctor.snapshot.stacks import Stacks

EXPANDABLE_KEY = "expandable_segments"


@dataclass(frozen=True)
class Conflict:
    """A key that is not to be recommended, and why.

    Attributes:
        key: of the settings.
        why: a sentence.
    """

    key: str
    why: str


# By what stands in the recorded stacks.
#
# Sleep mode: vLLM's CuMemAllocator refused to start with expandable segments from pull 14189 on, and switches
# them off for its pool since pull 40812; torch_memory_saver, which SGLang uses, hooks cudaMalloc, which they
# do not call. Custom pools have no part in them (pytorch/pytorch issue 147851, pull 185818).
# IPC: cudaIpcGetMemHandle knows memory of cudaMalloc alone. torch.multiprocessing has its own way since torch
# 2.5 (pull 130890), which containers may forbid (pidfd_getfd; issue 165685).
_SIGNS = (
    (
        re.compile(r"/device_allocator/c[ua]mem\.py$"),
        "vLLM's sleep mode is used (device_allocator/cumem.py), whose pool does not work with them",
    ),
    (
        re.compile(r"/torch_memory_saver/"),
        "torch_memory_saver is used, which does not see them",
    ),
    (
        re.compile(r"/(?:custom_all_reduce|quick_all_reduce)\.py$|/torch/multiprocessing/reductions\.py$"),
        "memory is shared with other processes (CUDA IPC), which they may not allow",
    ),
)


def conflicts(histories: Sequence[History]) -> tuple[Conflict, ...]:
    """What the recordings of a job speak against."""
    files = {name for history in histories for name in _files(history.recording.snapshot.stacks)}
    return tuple(
        Conflict(EXPANDABLE_KEY, why)
        for sign, why in _SIGNS
        if any(sign.search(name.replace("\\", "/")) for name in files)
    )


def _files(stacks: Stacks) -> set[str]:
    return {frame.filename for frame in stacks.frames}


def doubts(alloc_conf: str, histories: Sequence[History]) -> list[str]:
    """What may be otherwise than replayed, a sentence each, where a setting is recommended."""
    if EXPANDABLE_KEY in alloc_conf and any(history.recording.pools for history in histories):
        return [
            "the recording has private pools: a CUDA graph's and a plain MemPool's are expandable too, as"
            " replayed; one of a MemPool with an allocator of its own stays as it is"
        ]
    return []
