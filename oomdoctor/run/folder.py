"""Reading a run folder, finished, still growing, or left by a killed process.

The format is described in ``docs/reference/run-folder.md``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Optional, Union

from oomdoctor import storage
from oomdoctor.errors import EmptyInput, ForeignInput, InputError, NewerInput
from oomdoctor.run.documents import (
    Json,
    folders,
    integer,
    mapping,
    number,
    objects,
    read_document,
    read_lines,
    read_text,
    text,
    texts,
)

_DUMP = re.compile(r"(\d+)-([a-z]+)\.(pickle|json)$")
_PROCESS_NAME = re.compile(r"(.+)-(\d+)-[0-9a-f]+$")
_KNOWN_SCHEMA = "oomdoctor.run/1"


@dataclass(frozen=True)
class Dump:
    """A snapshot and what stands beside it.

    Attributes:
        name: "0001-oom", common to both files.
        reason: "oom", "exit", "sigterm" or "demand".
        sequence: counts the dumps of a process from 1.
        snapshot: path of the snapshot; None where it is missing.
        document: the sidecar; empty where the process died before it was written.
    """

    name: str
    reason: str
    sequence: int
    snapshot: Optional[str]
    document: Json

    @property
    def time_unix(self) -> Optional[float]:
        return number(self.document, "time_unix")

    def device(self, device: int) -> Json:
        """What the sidecar says of a device; empty where it says nothing."""
        for entry in objects(self.document, "devices"):
            if integer(entry, "device") == device:
                return entry
        return {}


@dataclass(frozen=True)
class Process:
    """One recorded process.

    Attributes:
        name: of its folder.
        document: process.json; empty where the process died before it was written.
        dumps: oldest first.
        ooms: lines of ooms.jsonl: every out-of-memory error, dumped or not.
        log: what the recorder itself had to say.
    """

    name: str
    path: str
    document: Json
    dumps: tuple[Dump, ...]
    ooms: tuple[Json, ...]
    log: str

    @property
    def pid(self) -> Optional[int]:
        known = integer(self.document, "pid")
        match = _PROCESS_NAME.match(self.name)
        return known if known is not None or match is None else int(match.group(2))

    @property
    def host(self) -> str:
        match = _PROCESS_NAME.match(self.name)
        return text(self.document, "host") or (match.group(1) if match else "")

    @property
    def rank(self) -> Optional[int]:
        """As the newest document says it: a process may learn its rank late."""
        for dump in reversed(self.dumps):
            known = integer(mapping(dump.document, "process"), "rank")
            if known is not None:
                return known
        return integer(self.document, "rank")


@dataclass(frozen=True)
class Launcher:
    """One ``oomdoctor trace`` or ``rehearse``: what it ran, and the NVML samples that it took."""

    name: str
    document: Json
    nvml: tuple[Json, ...]

    @property
    def command(self) -> list[str]:
        return texts(self.document, "command")


@dataclass(frozen=True)
class RunFolder:
    """A run folder, read.

    Attributes:
        path: where it is.
        launchers, processes: what was found, sorted by name.
        problems: what could not be read, one sentence each; reading goes on without it.
    """

    path: str
    launchers: tuple[Launcher, ...]
    processes: tuple[Process, ...]
    problems: tuple[str, ...] = field(default=())

    @classmethod
    def open(cls, path: Union[str, os.PathLike[str]]) -> RunFolder:
        """Read everything but the snapshots themselves.

        Raises:
            InputError: there is no such folder.
            ForeignInput: it is a folder, and none that oomdoctor made.
            EmptyInput: nothing was recorded in it.
            NewerInput: a newer oomdoctor made it.
        """
        where = os.fspath(path)
        _check_is_run(where)
        problems: list[str] = []
        launchers = tuple(
            _launcher(os.path.join(where, "launchers", name), name, problems)
            for name in folders(os.path.join(where, "launchers"))
        )
        processes = tuple(
            _process(os.path.join(where, "processes", name), name, problems)
            for name in folders(os.path.join(where, "processes"))
        )
        if not launchers and not processes:
            raise EmptyInput(
                "the run folder holds no process and no launcher",
                where=where,
                why="the recorder made it and recorded nothing, or it was copied in part",
                next_step="copy it whole, or record again: oomdoctor trace -- COMMAND",
            )
        return cls(where, launchers, processes, tuple(problems))

    def launcher_of(self, process: Process) -> Optional[Launcher]:
        """The launcher that ran a process, where that is known."""
        name = text(process.document, "launcher")
        for launcher in self.launchers:
            if launcher.name == name:
                return launcher
        return self.launchers[0] if name is None and len(self.launchers) == 1 else None


def _check_is_run(where: str) -> None:
    try:
        kind = storage.kind(where)
    except OSError as error:
        raise InputError(
            "the storage does not say what it is",
            where=where,
            why=str(error),
            next_step="see that its own tool reaches it from here, or copy it here and give its path",
        ) from error
    if kind != "folder":
        raise InputError(
            "this is a file, not a run folder" if kind else "there is no such folder",
            where=where,
            next_step="give the folder that was recorded: oomdoctor trace -o RUN_FOLDER -- COMMAND",
        )
    manifest, why = read_document(os.path.join(where, "run.json"))
    if manifest is None:
        # run.json is a convenience; what counts is what was recorded.
        if folders(os.path.join(where, "processes")) or folders(os.path.join(where, "launchers")):
            return
        raise ForeignInput(
            "this folder is no run folder",
            where=where,
            why=f"run.json: {why}",
            next_step="give the folder that oomdoctor trace or rehearse named (-o), or a snapshot file",
        )
    schema = text(manifest, "schema") or ""
    if schema != _KNOWN_SCHEMA:
        if re.match(r"oomdoctor\.run/\d+$", schema):
            raise NewerInput(
                f"the run folder has schema {schema}; this oomdoctor knows {_KNOWN_SCHEMA}",
                where=where,
                next_step="update oomdoctor",
            )
        raise ForeignInput("this folder is no run folder", where=where, why="run.json is of something else")


def _launcher(path: str, name: str, problems: list[str]) -> Launcher:
    document, why = read_document(os.path.join(path, "launcher.json"))
    if document is None:
        problems.append(f"launchers/{name}/launcher.json: {why}")
    # The last line may be half-written while the launcher runs or after it was killed: no problem.
    samples, unreadable = read_lines(os.path.join(path, "nvml.jsonl"))
    if unreadable > 1:
        problems.append(f"launchers/{name}/nvml.jsonl: {unreadable} unreadable lines")
    return Launcher(name, document or {}, tuple(samples))


def _process(path: str, name: str, problems: list[str]) -> Process:
    document, why = read_document(os.path.join(path, "process.json"))
    if document is None:
        problems.append(f"processes/{name}/process.json: {why}")
    problems += [f"processes/{name}/process.json: {what}" for what in _wrong_types(document or {})]
    ooms, unreadable = read_lines(os.path.join(path, "ooms.jsonl"))
    if unreadable > 1:
        problems.append(f"processes/{name}/ooms.jsonl: {unreadable} unreadable lines")
    return Process(
        name=name,
        path=path,
        document=document or {},
        dumps=_dumps(path, name, problems),
        ooms=tuple(ooms),
        log=read_text(os.path.join(path, "recorder.log")),
    )


_WHOLE = {"pid", "ppid", "rank", "local_rank", "world_size", "sequence", "device", "nvml_index", "count"}
_KINDS: dict[str, tuple[type, str]] = {
    "process": (dict, "an object"),
    "settings": (dict, "an object"),
    "history": (dict, "an object"),
    "oom": (dict, "an object"),
    "environment": (dict, "an object"),
    "asked": (dict, "an object"),
    "in_effect": (dict, "an object"),
    "devices": (list, "a list"),
    "argv": (list, "a list"),
    "snapshot": (str, "a text"),
    "reason": (str, "a text"),
    "host": (str, "a text"),
    "torch_version": (str, "a text"),
    "launcher": (str, "a text"),
}


def _wrong_types(document: Json, inside: str = "") -> list[str]:
    """What a document says in another type than the format has, and is read as if it said nothing.

    Null may stand anywhere.
    """
    found = []
    for key, value in document.items():
        if value is None or key == "stats":
            continue
        where = f"{inside}{key}"
        if (key in _WHOLE or key.endswith("_bytes")) and (
            not isinstance(value, int) or isinstance(value, bool)
        ):
            found.append(f"{where} is no whole number, and is left out")
        elif key == "time_unix" and number(document, key) is None:
            found.append(f"{where} is no number, and is left out")
        elif key in _KINDS and not isinstance(value, _KINDS[key][0]):
            found.append(f"{where} is not {_KINDS[key][1]}, and is left out")
        elif key in ("process", "settings", "oom"):
            found += _wrong_types(value, f"{where}.")
        elif key == "devices":
            for index, one in enumerate(value):
                at = f"{where}[{index}]"
                found += _wrong_types(one, f"{at}.") if isinstance(one, dict) else [f"{at} is not an object"]
    return found


def _dumps(path: str, name: str, problems: list[str]) -> tuple[Dump, ...]:
    """The dumps, by what files there are: a process killed between the two files leaves a snapshot alone."""
    found: dict[str, tuple[int, str]] = {}
    files = set()
    for file, _ in storage.entries(path):
        match = _DUMP.match(file)
        if match:
            found[file.rsplit(".", 1)[0]] = (int(match.group(1)), match.group(2))
            files.add(file)
    dumps = []
    for stem, (sequence, reason) in found.items():
        document, why = read_document(os.path.join(path, stem + ".json"))
        if document is None and stem + ".json" in files:
            problems.append(f"processes/{name}/{stem}.json: {why}")
        problems += [f"processes/{name}/{stem}.json: {what}" for what in _wrong_types(document or {})]
        # Only a name, never a path: the folder may have come from anywhere.
        snapshot = os.path.basename(text(document or {}, "snapshot") or stem + ".pickle")
        whole = os.path.join(path, snapshot)
        there = storage.is_file(whole)
        if not there and text(document or {}, "snapshot"):
            problems.append(f"processes/{name}/{snapshot} is missing")
        dumps.append(
            Dump(
                name=stem,
                reason=text(document or {}, "reason") or reason,
                sequence=sequence,
                snapshot=whole if there else None,
                document=document or {},
            )
        )
    return tuple(sorted(dumps, key=lambda dump: (dump.sequence, dump.name)))
