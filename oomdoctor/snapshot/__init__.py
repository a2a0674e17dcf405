"""A snapshot file becomes typed columns. Safe on files from anybody: nothing in them is executed."""

from oomdoctor.snapshot.model import Annotation, Blocks, Events, Segments, Snapshot
from oomdoctor.snapshot.read import read_snapshot, snapshot_from_plain
from oomdoctor.snapshot.stacks import NO_STACK, Frame, Stacks

__all__ = [
    "NO_STACK", "Annotation", "Blocks", "Events", "Frame", "Segments", "Snapshot", "Stacks",
    "read_snapshot", "snapshot_from_plain",
]  # fmt: skip
