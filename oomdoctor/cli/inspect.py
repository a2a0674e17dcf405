"""``oomdoctor inspect``."""

from __future__ import annotations

import sys
from typing import Optional

import click

from oomdoctor.cli.output import write
from oomdoctor.cli.recordings import (
    device_option,
    dump_option,
    each_device,
    json_option,
    path_argument,
    say_if_compiling,
)


@click.command(
    "inspect",
    help="""Show the allocator's state at an event of a recording: how fragmented it is, what pins the holes.

    Takes a memory snapshot or a run folder. Without --event the state is that of the snapshot.
    """,
    context_settings={"max_content_width": 80},
)
@path_argument
@device_option
@click.option(
    "--event",
    type=int,
    metavar="I",
    help="The state after the first I events of the trace: what event N did, counted from 0, is seen with "
    "N+1. Negative from the end: -1 leaves out the last.",
)
@dump_option
@click.option(
    "--torch", metavar="VERSION", help="The PyTorch that recorded it, where neither file nor folder says."
)
@json_option("oomdoctor.inspect/1")
def command(
    path: str,
    device: Optional[int],
    event: Optional[int],
    dump: Optional[str],
    torch: Optional[str],
    as_json: bool,
) -> None:
    from oomdoctor.diagnosis.inspection import inspect_device
    from oomdoctor.errors import UsageError

    say_if_compiling()
    problems: list[str] = []
    found = []
    without: list[UsageError] = []
    for one, other in each_device(path, device, dump, torch, problems):
        if other is not None:
            raise UsageError(
                f"torch {torch} has not recorded this: it is of {one.torch.as_one}",
                where=one.source.path,
                next_step="leave --torch out; replay --torch shows it under the rules of another release",
            )
        try:
            found.append(inspect_device(one, event))
        except UsageError as error:
            without.append(error)
    if without and not found:
        raise without[0]
    problems += [str(error).splitlines()[0] for error in without]
    if as_json:
        from oomdoctor.reporters import inspect_json

        write(inspect_json.render(found, problems))
        return
    from oomdoctor.reporters import inspect_text
    from oomdoctor.reporters.ink import ink_for

    write(inspect_text.render(found, problems, ink_for(sys.stdout), path))
