"""What a snapshot file holds, as typed columns.

The row is the thing (a segment, a block, a trace entry), the column is one of its fields; a million events
are a handful of arrays. Field names are PyTorch's own (``THCPModule_memorySnapshot`` in
``torch/csrc/cuda/Module.cpp``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.snapshot.pandas_views import frame
from oomdoctor.snapshot.stacks import Stacks

if TYPE_CHECKING:
    import pandas as pd

# What a number in ``Blocks.state`` means. ``active_awaiting_free`` is PyTorch's documented name of state 1.
STATES = ("active_allocated", "active_pending_free", "inactive")
ACTIVE_ALLOCATED, ACTIVE_PENDING_FREE, INACTIVE = range(3)

# What a number in ``Events.action`` means; ``UNKNOWN_ACTION`` stands for any that we do not know.
ACTIONS = (
    "alloc", "free_requested", "free_completed",
    "segment_alloc", "segment_free", "segment_map", "segment_unmap",
    "snapshot", "oom", "annotate", "unknown",
)  # fmt: skip
(
    ALLOC, FREE_REQUESTED, FREE_COMPLETED, SEGMENT_ALLOC, SEGMENT_FREE, SEGMENT_MAP, SEGMENT_UNMAP,
    SNAPSHOT, OOM, ANNOTATE, UNKNOWN_ACTION,
) = range(len(ACTIONS))  # fmt: skip

_TEXTS = ("label", "compile_context", "forward", "internal")

UNKNOWN = -1
"""In a column of sizes, times or lines: the file does not say."""


@dataclass(frozen=True)
class Segments:
    """One row per segment; an expandable segment appears once per contiguous mapped run.

    Attributes:
        device: int16[n].
        address: int64[n].
        total_size, allocated_size, active_size, requested_size: int64[n], bytes.
        stream: int64[n], the raw handle; 0 is the default stream.
        is_small: bool[n], of the small pool (requests up to 1 MiB) rather than the large one.
        pool: int64[n, 2], ``segment_pool_id``; (0, 0) is the default pool, anything else a private one.
        is_expandable: bool[n].
        stack: int32[n].
        first_block: int64[n + 1]; the blocks of segment i are rows ``first_block[i]:first_block[i + 1]``.
    """

    device: NDArray[np.int16]
    address: NDArray[np.int64]
    total_size: NDArray[np.int64]
    allocated_size: NDArray[np.int64]
    active_size: NDArray[np.int64]
    requested_size: NDArray[np.int64]
    stream: NDArray[np.int64]
    is_small: NDArray[np.bool_]
    pool: NDArray[np.int64]
    is_expandable: NDArray[np.bool_]
    stack: NDArray[np.int32]
    first_block: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.address)

    def to_pandas(self) -> pd.DataFrame:
        """A row per segment; ``pool`` is two columns, ``first_block`` the first of its blocks."""
        return frame(replace(self, first_block=self.first_block[:-1]), {})


@dataclass(frozen=True)
class Blocks:
    """One row per block, in the order of their segments and, within one, of addresses.

    Attributes:
        segment: int32[n], row in :class:`Segments`.
        address: int64[n].
        block_size: int64[n], bytes, rounded as the allocator hands them out.
        requested_size: int64[n], bytes asked for; stale for inactive blocks; ``UNKNOWN`` where not recorded.
        state: uint8[n], index in :data:`STATES`.
        stack: int32[n], where it was allocated.
    """

    segment: NDArray[np.int32]
    address: NDArray[np.int64]
    block_size: NDArray[np.int64]
    requested_size: NDArray[np.int64]
    state: NDArray[np.uint8]
    stack: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.address)

    def to_pandas(self) -> pd.DataFrame:
        """A row per block; states are a categorical."""
        return frame(self, {"state": STATES})


@dataclass(frozen=True)
class Events:
    """The trace of one device, oldest first.

    Attributes:
        action: uint8[n], index in :data:`ACTIONS`.
        address: int64[n]; for ``oom`` it is ``device_free``, the bytes that the device had free.
        entry_size: int64[n], bytes. By action: alloc and free, what was requested; segment_*, the segment or
            the part mapped; oom, the request after rounding; snapshot, all that was active.
        stream: int64[n].
        time_us: int64[n], microseconds since the epoch; ``UNKNOWN`` before torch 2.2.
        stack: int32[n].
        pool: int64[n, 2], ``pool_id``; ``UNKNOWN`` before torch 2.12.
        label: int32[n], index in ``labels``: user metadata; ``UNKNOWN`` where empty.
        compile_context: int32[n], index in ``labels``; ``UNKNOWN`` where empty or "N/A".
        labels: the texts.
        forward: int32[n], index in ``labels``: ``forward_frames``, the traceback of the forward pass that a
            backward one belongs to, as text (torch 2.11, under ``torch.autograd.detect_anomaly``).
        internal: int32[n], index in ``labels``: ``internal_metadata``, what the allocator says of events of
            its own, such as "mallocWithAddress" (torch 2.15).
    """

    action: NDArray[np.uint8]
    address: NDArray[np.int64]
    entry_size: NDArray[np.int64]
    stream: NDArray[np.int64]
    time_us: NDArray[np.int64]
    stack: NDArray[np.int32]
    pool: NDArray[np.int64]
    label: NDArray[np.int32]
    compile_context: NDArray[np.int32]
    labels: tuple[str, ...] = ()
    forward: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    internal: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self.action)

    def take(self, rows: Any) -> Events:
        """The events of ``rows`` (an index, a mask or a slice), in that order."""
        taken: dict[str, Any] = {
            name: column[rows] if len(column) else column
            for name, column in vars(self).items()
            if isinstance(column, np.ndarray)
        }
        return replace(self, **taken)

    def to_pandas(self) -> pd.DataFrame:
        """A row per event; actions and texts are categoricals, ``pool`` is two columns."""
        return frame(self, {"action": ACTIONS, **dict.fromkeys(_TEXTS, self.labels)})


@dataclass(frozen=True)
class Annotation:
    """A mark beside the trace, ``external_annotations`` (torch 2.5 and later)."""

    name: str
    stage: str
    device: int
    time_us: int


@dataclass(frozen=True)
class Snapshot:
    """One snapshot file.

    Attributes:
        segments, blocks: the allocator's state when the snapshot was taken, all devices.
        traces: the events of each device, by device number; empty where no history was recorded.
        stacks: every stack that segments, blocks and events point to.
        settings: ``allocator_settings`` as the file has it; None before torch 2.3.
        annotations: ``external_annotations``.
        since: the oldest torch release that writes these fields ("2.5"); a snapshot states no version.
        source: the file, or how else it came.
        notes: what in the file is unknown to this oomdoctor, a sentence each.
        host_segments, host_blocks: pinned host memory, ``host_segments`` (torch 2.14); its device is −1.
        host_traces: the events of pinned host memory, ``host_traces``; none or one.
    """

    segments: Segments
    blocks: Blocks
    traces: tuple[Events, ...]
    stacks: Stacks
    settings: Optional[dict[str, Any]] = None
    annotations: tuple[Annotation, ...] = ()
    since: str = "2.0"
    source: str = ""
    notes: tuple[str, ...] = ()
    host_segments: Segments = field(default_factory=lambda: no_segments())
    host_blocks: Blocks = field(default_factory=lambda: no_blocks())
    host_traces: tuple[Events, ...] = ()

    def devices(self) -> list[int]:
        """Devices with segments or events, ascending."""
        with_events = {device for device, trace in enumerate(self.traces) if len(trace)}
        return sorted(set(np.unique(self.segments.device).tolist()) | with_events)


def no_segments() -> Segments:
    """A table without rows."""
    return Segments(
        **{name: np.empty(0, np.int64) for name in _SEGMENT_NUMBERS},
        device=np.empty(0, np.int16),
        is_small=np.empty(0, np.bool_),
        is_expandable=np.empty(0, np.bool_),
        pool=np.empty((0, 2), np.int64),
        stack=np.empty(0, np.int32),
        first_block=np.zeros(1, np.int64),
    )


_SEGMENT_NUMBERS = ("address", "total_size", "allocated_size", "active_size", "requested_size", "stream")


def no_blocks() -> Blocks:
    """A table without rows."""
    return Blocks(
        **{name: np.empty(0, np.int64) for name in ("address", "block_size", "requested_size")},
        segment=np.empty(0, np.int32),
        state=np.empty(0, np.uint8),
        stack=np.empty(0, np.int32),
    )
