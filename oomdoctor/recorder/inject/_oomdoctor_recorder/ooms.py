"""What is kept of out-of-memory errors: programs catch them and retry, a thousand times if they like."""

import os
import time
from typing import TYPE_CHECKING, Any, Dict, Optional

from . import facts, files, report, signals

if TYPE_CHECKING:
    from .recording import Recording

KEPT_FIRST = 3
# Later ones replace one another, as long as all dumps together stay below this.
BUDGET_SECONDS = 30.0
BUDGET_SHARE = 0.05
# One line each up to here, then only every thousandth: a file that grows without end helps nobody.
EVERY_LINE = 10_000
THEN_EVERY = 1_000


class Policy:
    """Every OOM leaves a line; the first ones and the last leave a snapshot."""

    def __init__(self, recording: "Recording") -> None:
        self.recording = recording
        self.count = 0
        self.latest: Optional[str] = None

    def observe(self, device: int, requested: int, limit: int, free: int) -> None:
        """Called by the allocator in the thread that asked, before the OOM becomes an exception."""
        recording = self.recording
        if os.getpid() != recording.pid:
            return
        self.count += 1
        count = self.count
        recording.guarded(
            "an out-of-memory error could not be recorded",
            lambda: self._record(count, device, requested, limit, free),
        )

    def _record(self, count: int, device: int, requested: int, limit: int, free: int) -> None:
        recording = self.recording
        oom = {
            "device": device,
            "requested_bytes": requested,
            "limit_bytes": limit,
            "free_bytes": free,
            "count": count,
        }
        line: Dict[str, Any] = {"t": time.time(), **oom, **self._state(device), "snapshot": None}
        try:
            if count <= KEPT_FIRST:
                line["snapshot"] = recording.dump("oom", oom) + ".pickle"
            elif self._affordable():
                previous, self.latest = self.latest, recording.dump("oom", oom)
                line["snapshot"] = self.latest + ".pickle"
                if previous is not None:
                    recording.remove(previous)
            else:
                line["skipped"] = "the time for snapshots is used up"
        except OSError as error:
            if signals.is_programs(error):
                raise
            line["skipped"] = str(error)
            report.failure("the snapshot at an out-of-memory error could not be written")
        if count <= EVERY_LINE or count % THEN_EVERY == 0:
            files.append_line(os.path.join(recording.folder, "ooms.jsonl"), line)

    def _affordable(self) -> bool:
        recording = self.recording
        lived = time.monotonic() - recording.cuda_started
        return recording.dump_seconds <= BUDGET_SECONDS + BUDGET_SHARE * lived

    def _state(self, device: int) -> Dict[str, Optional[int]]:
        try:
            found = facts.device_report(self.recording.torch.cuda.memory_stats(device))
            return {name: found[name] for name in ("allocated_bytes", "reserved_bytes")}
        except Exception:
            return {"allocated_bytes": None, "reserved_bytes": None}
