"""``oomdoctor trace``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Optional

import click

from oomdoctor.recorder import DEFAULT_MAX_ENTRIES, STACKS


class Seconds(click.FloatRange):
    """A time that ends: float() takes "nan" and "inf" as well."""

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


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
@click.option(
    "--max-entries",
    type=click.IntRange(min=1),
    default=DEFAULT_MAX_ENTRIES,
    show_default=True,
    metavar="N",
    help="Allocator events kept per device; the newest stay.",
)
@click.option(
    "--stacks",
    type=click.Choice(STACKS),
    default="python",
    show_default=True,
    help="Stacks kept with each event. With C++ (all) a snapshot may take minutes.",
)
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
