"""Memory that ran out and was not a device's: told apart, never counted."""

from __future__ import annotations

import re
from typing import Optional

_HOST = re.compile(
    r"(?P<kill>[Oo]ut of memory: Kill(?:ed)? process|oom[-_]kill|OOMKilled|[Kk]illed due to memory pressure|"
    r"Detected \d+ oom.kill|Worker.{0,40} was killed.{0,40}memory)"
    r"|(?P<refused>DefaultCPUAllocator: (?:can't|not enough)|CPUAllocator\.cpp|not enough memory: you tried"
    r" to allocate"
    r"|Cannot allocate memory|Unable to allocate .{1,40} for an array|java\.lang\.OutOfMemoryError|heap out"
    r" of memory"
    r"|bytes on host: CUDA_ERROR_OUT_OF_MEMORY|requires more system memory)"
    r"|(?P<recovered>memory allocation failed with OOM on device|memory mapping failed with OOM on device)"
    r"|(?P<shared>insufficient shared memory)"
)
_MEANING = {
    "kill": "the system or Ray killed a process because the host's memory ran out, not a GPU's",
    "refused": "the host's memory ran out, not a GPU's",
    "recovered": (
        "the allocator warned of an attempt that it may have made good by releasing its cache (torch 2.13+)"
    ),
    "shared": "a kernel needs more shared memory than a block may have, which is not device memory",
}


def not_the_devices(text: str) -> Optional[str]:
    """What a text that holds no out-of-memory error of a device speaks of instead, in words."""
    match = _HOST.search(text)
    return _MEANING[str(match.lastgroup)] if match else None
