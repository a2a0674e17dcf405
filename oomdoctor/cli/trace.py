"""``oomdoctor trace``."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from oomdoctor.cli.options import Seconds, max_entries_option, stacks_option


@click.command(
    "trace",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help="""Run COMMAND unchanged and record every Python process in it that uses CUDA through torch.

    The recording holds the allocator's history with Python stacks, a snapshot at each out-of-memory error, at
    exit and at SIGTERM, and what NVML says of the devices meanwhile. The command's streams, exit code and
    signals stay its own. `oomdoctor explain RUN_FOLDER` reads it.""",
)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="RUN_FOLDER",
    help="Where to record; several launchers may share one. Default: a new folder in oomdoctor-runs/.",
)
@max_entries_option("Allocator events kept per device; the newest stay.")
@stacks_option("Stacks kept with each event. With C++ (all) a snapshot may take minutes.")
@click.option(
    "--nvml-interval",
    type=Seconds(min=0.01),
    default=0.5,
    show_default=True,
    metavar="S",
    help="Seconds between NVML samples.",
)
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.pass_context
def command(
    ctx: click.Context,
    folder: Optional[Path],
    max_entries: int,
    stacks: str,
    nvml_interval: float,
    arguments: tuple[str, ...],
) -> None:
    from oomdoctor.run import launch

    returncode = launch.run_command(
        arguments,
        folder=folder or launch.default_folder(arguments),
        max_entries=max_entries,
        stacks=stacks,
        nvml_interval=nvml_interval,
    )
    ctx.exit(launch.leave_like(returncode))
