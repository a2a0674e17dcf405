"""Host memory: a snapshot of a long history takes gigabytes of it while it is written.

A program that has just run out of GPU memory must not be killed by the kernel for the sake of its recording.
"""

import os
from typing import Any, Dict, Iterable, List, Optional

# Measured with torch 2.15: 0.9 KiB an event with stacks of four frames, 1.6 KiB with thirty.
BYTES_PER_EVENT = 2048


def needed_bytes(stats: Iterable[Dict[str, Any]], max_entries: Optional[int]) -> int:
    """What writing a snapshot takes, from the counters of each device: its history is not looked at yet."""
    events = [_events(counters) for counters in stats]
    return BYTES_PER_EVENT * sum(events if max_entries is None else (min(max_entries, n) for n in events))


def _events(counters: Dict[str, Any]) -> int:
    # An allocation is one event, a free two (requested and completed), a segment one at either end.
    return (
        int(counters.get("allocation.all.allocated", 0))
        + 2 * int(counters.get("allocation.all.freed", 0))
        + int(counters.get("segment.all.allocated", 0))
        + int(counters.get("segment.all.freed", 0))
    )


def available_bytes() -> Optional[int]:
    """What this process may still take: of the machine, and of each control group it is in. None if
    unknown."""
    found = [_machine(), *_groups()]
    known = [value for value in found if value is not None]
    return min(known) if known else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _machine() -> Optional[int]:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _groups() -> List[Optional[int]]:
    """The limit less the use in this process's groups and those above (cgroups(7); version 2, then 1)."""
    found: List[Optional[int]] = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if controllers == "":
            root, limit, used = "/sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = os.path.normpath(root + "/" + path)
        while group.startswith(root):
            found.append(_room(group, limit, used))
            group = os.path.dirname(group)
    return found


def _room(group: str, limit: str, used: str) -> Optional[int]:
    most, now = _read(f"{group}/{limit}").strip(), _read(f"{group}/{used}").strip()
    if not (most.isdigit() and now.isdigit()):  # "max", or no such file
        return None
    # Files read long ago count as used, and are the first to go.
    cached = 0
    for line in _read(f"{group}/memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            cached = max(cached, int(value))
    return max(0, int(most) - int(now) + cached)
