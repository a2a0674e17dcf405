"""``oomdoctor explain`` of a run folder or a snapshot: read, understand, hand to a reporter."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
import zlib

from oomdoctor import storage
from oomdoctor.cli.output import write
from oomdoctor.errors import EmptyInput, ForeignInput

# A snapshot as JSON begins with one of its few keys; a log of JSON lines does not.
_JSON_SNAPSHOT = re.compile(
    rb"^\s*(?:\{\s*\"(?:segments|device_traces|allocator_settings|external_annotations|host_segments)\""
    rb"|\[\s*\{\s*\"(?:device|address|total_size|blocks)\")"
)
_PAGE = re.compile(rb"^\s*<(?:!doctype )?html.*MemoryViz", re.IGNORECASE | re.DOTALL)


def holds_snapshot(path: str) -> bool:
    """Whether a file is a memory snapshot (or was one) rather than a text, by its first bytes."""
    try:
        with storage.opened(path) as file:
            start = file.read(4096)
    except OSError:
        return False
    if start.startswith(b"\x1f\x8b"):
        # Whatever else is wrong with it, the reader tells.
        with contextlib.suppress(zlib.error):
            start = zlib.decompressobj(wbits=31).decompress(start, 4096)
    is_pickle = start[:1] == b"\x80" and start[1:2] < b"\x20"
    return is_pickle or bool(_JSON_SNAPSHOT.match(start) or _PAGE.match(start))


def refuse_part(path: str) -> None:
    """Send a person who named a part of a run folder to the whole.

    Raises:
        ForeignInput: it is a folder or file inside a run folder, and nothing by itself.
    """
    if storage.is_url(path):
        return  # a folder of a storage may be anything
    whole = os.path.abspath(path)
    names: list[str] = []
    for _ in range(3):
        whole, name = os.path.split(whole)
        names.insert(0, name)
        known = names[0] in ("processes", "launchers") or (names == ["run.json"])
        if known and _is_run_folder(whole):
            shown = os.path.relpath(whole)
            shown = whole if shown.startswith("../..") else shown
            raise ForeignInput(
                "this belongs to a run folder",
                where=path,
                next_step=f"oomdoctor explain {shlex.quote(shown)}",
            )


def _is_run_folder(path: str) -> bool:
    try:
        with storage.opened(os.path.join(path, "run.json")) as file:
            return b"oomdoctor.run/" in file.read(4096)
    except OSError:
        return False


def show(path: str, as_json: bool, advises: bool = True) -> None:
    """Explain a run folder, or a single snapshot file, on standard output.

    Raises:
        InputError: it is neither, cannot be read, or nothing was recorded in it.
    """
    from oomdoctor.diagnosis.run import diagnose_run, diagnose_snapshot

    is_folder = storage.is_folder(path)
    if is_folder and not _is_run_folder(path):
        refuse_part(path)
    try:
        run = diagnose_run(path) if is_folder else diagnose_snapshot(path)
    except EmptyInput:
        if as_json:
            from oomdoctor.reporters import run_json

            write(json.dumps(run_json.nothing(path), indent=2))
        raise
    if as_json:
        from oomdoctor.reporters import run_json

        write(run_json.render(run))
        return
    from oomdoctor.reporters import run_text
    from oomdoctor.reporters.ink import ink_for

    write(run_text.render(run, ink_for(sys.stdout)))
    if advises and is_folder:
        _advise(path)


def _advise(path: str) -> None:
    """What settings would have done, tried on the recording; nothing where it cannot be tried."""
    from oomdoctor.advice.advise import advise
    from oomdoctor.advice.evaluate import Place
    from oomdoctor.advice.search import local_map
    from oomdoctor.allocator.what_if import capacity_at_oom
    from oomdoctor.cli.recordings import each_device, say_if_compiling
    from oomdoctor.errors import OomdoctorError
    from oomdoctor.reporters import advise_text
    from oomdoctor.reporters.ink import ink_for

    say_if_compiling(simulates=True)
    with contextlib.suppress(OomdoctorError):
        recordings = [
            (Place(one.source.path, one.device, one.history.torch), one)
            for one, _ in each_device(path, None, None, None, [])
            if one.has_events
        ]
        if any(capacity_at_oom(one.history) is not None for _, one in recordings):
            with local_map(recordings) as mapped:
                advice = advise(recordings, mapped, path=path)
            write("\n" + advise_text.ending(advice, ink_for(sys.stdout), path))
