"""The snapshots that a path means, each with what was recorded beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Optional

from oomdoctor.errors import EmptyInput, UsageError
from oomdoctor.run.documents import Json, integer, mapping, number, objects, read_document, text
from oomdoctor.run.folder import Dump, Process, RunFolder
from oomdoctor.storage import absolute, is_folder


@dataclass(frozen=True)
class SnapshotSource:
    """One snapshot file and its surroundings; for a bare file these are empty.

    Attributes:
        path: the snapshot.
        process: name of the process's folder.
        rank, pid: of the process.
        dump: "0001-oom".
        torch_version: as ``torch.__version__`` has it.
        environment: the variables that bear on the allocator, as they stood.
        document: the sidecar.
    """

    path: str
    process: Optional[str] = None
    rank: Optional[int] = None
    pid: Optional[int] = None
    dump: Optional[str] = None
    torch_version: Optional[str] = None
    environment: dict[str, str] = field(default_factory=dict)
    document: Json = field(default_factory=dict)

    def total_bytes(self, device: int) -> Optional[int]:
        """The device's memory, as torch saw it."""
        for entry in objects(self.document, "devices"):
            if integer(entry, "device") == device:
                return integer(entry, "total_bytes")
        return None

    def capacity(self, device: int) -> Optional[int]:
        """What PyTorch held of the device and what was free beside, when the snapshot was taken, bytes."""
        for entry in objects(self.document, "devices"):
            if integer(entry, "device") == device:
                free, reserved = integer(entry, "free_bytes"), integer(entry, "reserved_bytes")
                return None if free is None or reserved is None else free + reserved
        return None

    def memory_fraction(self, device: int) -> Optional[float]:
        """What ``torch.cuda.set_per_process_memory_fraction`` was last given."""
        return number(mapping(mapping(self.document, "settings"), "memory_fraction"), str(device))


def snapshot_sources(path: str, dump: Optional[str] = None) -> tuple[list[SnapshotSource], list[str]]:
    """One snapshot of each process of a run folder, or a single file; and what could not be had.

    Of a process the last out-of-memory error's counts, else its newest dump: the state that one asks about. A
    file that lies in a run folder brings what stands beside it.

    Args:
        dump: take the one of this name instead, such as "0002-exit".

    Raises:
        InputError: it is no run folder, or holds no snapshot.
        UsageError: no process has a dump of that name.
    """
    if not is_folder(path):
        if dump is not None:
            raise UsageError(
                "--dump chooses among the snapshots of a run folder",
                where=path,
                why="this is a single file",
                next_step="leave --dump out, or give the run folder",
            )
        return [_single(path)], []
    run = RunFolder.open(path)
    problems = list(run.problems)
    found = []
    for process in run.processes:
        chosen = _chosen(process, dump)
        if chosen is not None:
            found.append(_source(process, chosen))
        elif process.dumps or process.document:
            problems.append(f"{process.name} left no snapshot" + (f" {dump}" if dump else ""))
    if not found and dump is not None:
        names = sorted({d.name for process in run.processes for d in process.dumps if d.snapshot})
        raise UsageError(
            f"no process has a dump {dump!r}", where=path, next_step=f"there are {', '.join(names) or 'none'}"
        )
    if not found:
        raise EmptyInput(
            "no snapshot in the run folder",
            where=path,
            why="; ".join(problems[:3]) or None,
            next_step="oomdoctor explain says how its processes ended",
        )
    return found, problems


def _chosen(process: Process, name: Optional[str]) -> Optional[Dump]:
    there = [dump for dump in process.dumps if dump.snapshot is not None]
    if name is not None:
        return next((dump for dump in there if dump.name == name), None)
    ooms = [dump for dump in there if dump.reason == "oom"]
    of_interest = ooms or there
    return of_interest[-1] if of_interest else None


def _source(process: Process, dump: Dump) -> SnapshotSource:
    assert dump.snapshot is not None
    return _of_documents(
        dump.snapshot, process.name, dump.name, process.document, dump.document, process.rank, process.pid
    )


def _single(path: str) -> SnapshotSource:
    folder, file = os.path.split(absolute(path))
    stem = file.rsplit(".", 1)[0]
    # A snapshot as JSON may be called what a sidecar is called.
    sidecar, _ = (
        read_document(os.path.join(folder, stem + ".json")) if not file.endswith(".json") else (None, "")
    )
    if sidecar is None or not (text(sidecar, "schema") or "").startswith("oomdoctor.dump/"):
        return SnapshotSource(path)
    process, _ = read_document(os.path.join(folder, "process.json"))
    document = process or mapping(sidecar, "process")
    return _of_documents(
        path,
        os.path.basename(folder),
        stem,
        document,
        sidecar,
        integer(mapping(sidecar, "process"), "rank"),
        integer(document, "pid"),
    )


def _of_documents(
    path: str, process: str, dump: str, document: Json, sidecar: Json, rank: Optional[int], pid: Optional[int]
) -> SnapshotSource:
    document = document or mapping(sidecar, "process")
    environment = mapping(document, "environment")
    return SnapshotSource(
        path=path,
        process=process,
        rank=rank,
        pid=pid,
        dump=dump,
        torch_version=text(document, "torch_version"),
        environment={k: v for k, v in environment.items() if isinstance(v, str)},
        document=sidecar,
    )
