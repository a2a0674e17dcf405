"""``oomdoctor dump``."""

from __future__ import annotations

from pathlib import Path

import click

from oomdoctor.cli.options import Seconds
from oomdoctor.errors import OomdoctorError


@click.command(
    "dump",
    help="""Ask the recorded processes of RUN_FOLDER that run on this host for a snapshot now.

    Prints the path of each new snapshot. The same as `kill -USR2 PID`, which works where oomdoctor is not
    installed.
    """,
)
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--pid", type=int, multiple=True, help="Ask only this process; may be given several times.")
@click.option(
    "--wait",
    "patience",
    type=Seconds(min=0),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for the snapshots.",
)
def command(run_folder: Path, pid: tuple[int, ...], patience: float) -> None:
    from oomdoctor.run import demand

    targets = [t for t in demand.targets(run_folder) if not pid or t.pid in pid]
    able = [t for t in targets if t.why_not is None]
    for target in targets:
        if target.why_not is not None and (pid or target.why_not == "the program uses SIGUSR2 itself"):
            click.echo(f"oomdoctor: process {target.pid}: {target.why_not}", err=True)
    if not able:
        raise OomdoctorError(
            "no recorded process to ask",
            where=str(run_folder),
            why="none of this host runs any more" if targets else "none of this host is recorded there",
            next_step="run this on the host, and in the container, where the process runs",
        )
    missing = []
    for target, snapshot in demand.ask(able, patience):
        if snapshot is None:
            missing.append(target)
        else:
            click.echo(str(snapshot.with_suffix(".pickle")))
    if missing:
        raise OomdoctorError(
            f"no snapshot of process {', '.join(str(t.pid) for t in missing)} within {patience:g} s",
            where=str(run_folder),
            why="it may be stopped, or its snapshot is long; recorder.log in its folder says what failed",
        )
