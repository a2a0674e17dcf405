"""``oomdoctor replay``."""

from __future__ import annotations

import sys
from typing import Optional

import click

from oomdoctor.cli.options import Finite
from oomdoctor.cli.output import write
from oomdoctor.cli.recordings import (
    device_option,
    dump_option,
    each_device,
    json_option,
    path_argument,
    say_if_compiling,
    size,
)


@click.command(
    "replay",
    help="""Replay a recording: its figures, and what they would be under other settings.

    Takes a memory snapshot or a run folder. The requests, frees and empty_cache() of the program keep their
    order; what the allocator does follows the settings, the capacity and the release asked for. Without any
    of these the figures are the recording's own.
    """,
    context_settings={"max_content_width": 80},
)
@path_argument
@device_option
@click.option(
    "--alloc-conf",
    metavar="CONF",
    help='Settings as in PYTORCH_CUDA_ALLOC_CONF; "" for the defaults. [default: as recorded]',
)
@click.option(
    "--capacity",
    type=size,
    metavar="SIZE",
    help="What PyTorch may reserve: the device's total less what is not PyTorch's. [default: no end]",
)
@click.option(
    "--torch",
    metavar="VERSION",
    help="The rules of this PyTorch. If it can be the one that recorded a bare snapshot, it is taken for it.",
)
@click.option(
    "--memory-fraction",
    type=Finite(min=0.0, max=1.0),
    metavar="F",
    help="As of set_per_process_memory_fraction. [default: as recorded]",
)
@click.option(
    "--total",
    "total_bytes",
    type=size,
    metavar="SIZE",
    help="The device's memory, which fractions are of. [default: as recorded, else the capacity]",
)
@dump_option
@json_option("oomdoctor.replay/1")
def command(
    path: str,
    device: Optional[int],
    alloc_conf: Optional[str],
    capacity: Optional[int],
    torch: Optional[str],
    memory_fraction: Optional[float],
    total_bytes: Optional[int],
    dump: Optional[str],
    as_json: bool,
) -> None:
    from oomdoctor.allocator.what_if import Asked, compare
    from oomdoctor.errors import InputError

    changes = (alloc_conf, capacity, torch, memory_fraction)
    say_if_compiling(simulates=any(value is not None for value in changes))
    problems: list[str] = []
    found = []
    warned: set[str] = set()
    for one, other in each_device(path, device, dump, torch, problems):
        asked = Asked(
            alloc_conf=alloc_conf,
            capacity=capacity,
            torch=other,
            memory_fraction=memory_fraction,
            total_bytes=total_bytes,
        )
        comparison = compare(one, asked)
        for warning in comparison.warnings:
            if warning not in warned:
                click.echo(f"oomdoctor: {warning}", err=True)
        warned.update(comparison.warnings)
        found.append(comparison)
    if found and asked.changes_something and not any(one.device.has_events for one in found):
        raise InputError(
            "no history was recorded: there is nothing to replay",
            where=path,
            next_step="record the program: oomdoctor trace -- COMMAND",
        )
    if as_json:
        from oomdoctor.reporters import replay_json

        write(replay_json.render(found, problems))
        return
    from oomdoctor.reporters import replay_text
    from oomdoctor.reporters.ink import ink_for

    write(replay_text.render(found, problems, ink_for(sys.stdout), path))
