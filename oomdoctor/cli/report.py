"""``oomdoctor report``."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Optional

import click

from oomdoctor.cli.output import write
from oomdoctor.cli.recordings import device_option, dump_option, each_device, path_argument, say_if_compiling

if TYPE_CHECKING:
    from oomdoctor.allocator.loading import DeviceHistory


@click.command(
    "report",
    help="""Write one HTML file with the views of the dashboard.

    Takes a memory snapshot or a run folder. The file needs no server and no network: timeline, segments,
    what lives by stack and fragmentation of each device, and what explain says.
    """,
    context_settings={"max_content_width": 80},
)
@path_argument
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Where to write it; one that is there is replaced.",
)
@device_option
@click.option(
    "--advise", "advises", is_flag=True, help="Try other settings on the recording as well; takes longer."
)
@click.option(
    "--theme",
    type=click.Choice(("light", "dark")),
    default="light",
    show_default=True,
    help="Colours of the page.",
)
@dump_option
def command(
    path: str, output: str, device: Optional[int], advises: bool, theme: str, dump: Optional[str]
) -> None:
    from oomdoctor import storage
    from oomdoctor.diagnosis.run import diagnose_run, diagnose_snapshot
    from oomdoctor.errors import OomdoctorError, UsageError
    from oomdoctor.units import format_bytes

    if os.path.exists(output) and os.path.exists(path) and os.path.samefile(path, output):
        raise UsageError(
            "the report would replace the recording", where=output, next_step="name another file"
        )
    try:
        from oomdoctor_dashboard.report import report
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("oomdoctor_dashboard", "oomdoctor"):
            raise
        raise OomdoctorError(
            "a report needs packages that are not installed",
            why=str(error),
            next_step="pip install 'oomdoctor[dashboard]'",
        ) from error
    say_if_compiling(simulates=advises)
    run = diagnose_run(path) if storage.is_folder(path) else diagnose_snapshot(path)
    problems: list[str] = []
    advice = _advice(path, device, dump) if advises else None
    text, devices = report(
        path,
        run,
        _devices(path, device, dump, problems),
        advice=advice,
        problems=problems,
        theme=theme,
    )
    _save(output, text)
    size = format_bytes(os.path.getsize(output))
    write(f"{output}: {size}, {devices} {'device' if devices == 1 else 'devices'}")


def _devices(
    path: str, device: Optional[int], dump: Optional[str], problems: list[str]
) -> Iterator[DeviceHistory]:
    """Each device; that a run left no snapshot is told in the report, beside what is known of it."""
    from oomdoctor.errors import EmptyInput

    try:
        for one, _ in each_device(path, device, dump, None, problems):
            yield one
    except EmptyInput as error:
        problems.append(f"{error.what}: there are no figures")


def _advice(path: str, device: Optional[int], dump: Optional[str]) -> str:
    """What ``advise`` prints."""
    from oomdoctor.advice.advise import advise
    from oomdoctor.advice.evaluate import Place
    from oomdoctor.advice.search import local_map
    from oomdoctor.reporters import advise_text
    from oomdoctor.reporters.ink import Ink

    recordings = [
        (Place(one.source.path, one.device, one.history.torch), one)
        for one, _ in each_device(path, device, dump, None, [])
        if one.has_events
    ]
    if not recordings:
        return "No history was recorded: there is nothing to try settings on."
    with local_map(recordings) as mapped:
        return advise_text.render(advise(recordings, mapped), [], Ink(), path)


def _save(output: str, text: str) -> None:
    """All of it or nothing: a report that was there stays until the new one is whole.

    Raises:
        OomdoctorError: it cannot be written.
    """
    from oomdoctor.errors import OomdoctorError

    folder = os.path.dirname(os.path.abspath(output))
    partial = None
    try:
        descriptor, partial = tempfile.mkstemp(prefix=".report-", suffix=".html", dir=folder)
        with open(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, output)
    except OSError as error:
        if partial is not None:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        raise OomdoctorError(
            "cannot write the report",
            where=output,
            why=error.strerror,
            next_step="name a file in a folder that is there and can be written: -o FILE",
        ) from error
