"""What the commands that replay a recording have in common: options, reading, a word while compiling."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from typing import Any, Callable, Optional, TypeVar

import click

from oomdoctor.errors import UsageError
from oomdoctor.units import parse_size

_F = TypeVar("_F", bound=Callable[..., Any])


def size(text: str) -> int:
    """SIZE of an option, in bytes: a ``type`` for click.

    Raises:
        UsageError: not a size.
    """
    found = parse_size(text)
    if found >= 1 << 62:
        raise UsageError(
            f"{text} is more than any device has", next_step="write what one has: 24GiB, 512 MiB, 80GB"
        )
    return found


class RecordingPath(click.Path):
    """A file or folder that is there, or the URL of one on shared storage."""

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        from oomdoctor import storage

        if not storage.is_url(value):
            return super().convert(value, param, ctx)
        try:
            there = storage.kind(value)
        except OSError as error:
            raise UsageError(
                "the storage does not say what is there",
                where=value,
                why=str(error),
                next_step="see that its own tool reaches it from here, or copy it here and give its path",
            ) from error
        if not there:
            self.fail(f"{value!r} does not exist.", param, ctx)
        return value


def path_argument(function: _F) -> _F:
    """``SNAPSHOT|RUN_FOLDER``."""
    return click.argument("path", metavar="SNAPSHOT|RUN_FOLDER", type=RecordingPath(exists=True))(function)


def device_option(function: _F) -> _F:
    """``--device N``."""
    option = click.option("--device", type=click.IntRange(min=0), metavar="N", help="Only this device.")
    return option(function)


def dump_option(function: _F) -> _F:
    """``--dump NAME``."""
    return click.option(
        "--dump",
        metavar="NAME",
        help="Of a run folder, the snapshots of this name, such as 0002-exit. [default: of each process the "
        "last of an out-of-memory error, else the newest]",
    )(function)


def json_option(schema: str) -> Callable[[_F], _F]:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {schema} on standard output.")


def say_if_compiling(*, simulates: bool = False) -> None:
    """The heap is compiled when it is first used: tens of seconds that a person should know of.

    Args:
        simulates: whether requests will be replayed under other conditions, which takes more of it.
    """
    if not sys.stderr.isatty():
        return
    from oomdoctor.allocator.recorded import run_recorded
    from oomdoctor.allocator.requests import run_requests

    if not _is_compiled(run_recorded) or (simulates and not _is_compiled(run_requests)):
        sys.stderr.write("oomdoctor: compiling the allocator's heap, once; this takes half a minute\n")


def _is_compiled(function: Any) -> bool:
    """Whether Numba has the function in its cache."""
    folder = getattr(getattr(function, "stats", None), "cache_path", None)
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}-*.nbi"
    return folder is not None and bool(glob.glob(os.path.join(glob.escape(folder), name)))


def each_device(
    path: str, device: Optional[int], dump: Optional[str], torch: Optional[str], problems: list[str]
) -> Iterator[tuple[Any, Optional[tuple[int, int]]]]:
    """Each device of what a path means, and the release in ``torch`` where it is not the one that recorded.

    ``problems`` takes what could not be read.

    Raises:
        InputError: nothing can be read.
        UsageError: no process has that device.
    """
    from oomdoctor.allocator.loading import can_be, load_device
    from oomdoctor.allocator.torch_version import parse_torch_version
    from oomdoctor.errors import InputError
    from oomdoctor.run.sources import snapshot_sources
    from oomdoctor.snapshot import read_snapshot

    version = parse_torch_version(torch) if torch is not None else None
    sources, found = snapshot_sources(path, dump)
    problems += found
    failures: list[InputError] = []
    there: set[int] = set()
    yielded = False
    for source in sources:
        try:
            snapshot = read_snapshot(source.path)
        except InputError as error:
            failures.append(error)
            continue
        there.update(snapshot.devices())
        for one in snapshot.devices():
            if device is not None and one != device:
                continue
            recorded_by = version if version is not None and can_be(version, snapshot, source) else None
            yielded = True
            other = version if recorded_by is None else None
            yield load_device(snapshot, source, one, recorded_by), other
    problems += [str(error).splitlines()[0] for error in failures]
    if failures and len(failures) == len(sources):
        raise failures[0]
    if device is not None and not yielded:
        listed = ", ".join(map(str, sorted(there))) or "none"
        raise UsageError(f"there is no device {device}", where=path, next_step=f"it has {listed}")
