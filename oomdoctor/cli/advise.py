"""``oomdoctor advise``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Callable, Optional, Union

import click

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

if TYPE_CHECKING:
    from oomdoctor.advice.prove import ProveOn
    from oomdoctor.allocator.loading import DeviceHistory


@click.command(
    "advise",
    help="""Which settings would have helped: tried by replay, proved by the real allocator.

    Takes a memory snapshot or a run folder; of several ranks and devices one answer for the whole job. The
    settings tried come from the sizes in the recording. Of a snapshot without history the state alone is
    judged, and all is estimated.
    """,
    context_settings={"max_content_width": 80},
)
@path_argument
@device_option
@click.option(
    "--capacity",
    type=size,
    metavar="SIZE",
    help="What PyTorch may reserve on each device. [default: what the recording shows]",
)
@click.option("--torch", metavar="VERSION", help="The PyTorch that recorded a bare snapshot.")
@click.option(
    "--prove", "proves", is_flag=True, help="Drive the requests through the real allocator as well."
)
@click.option(
    "--prove-on",
    type=click.Choice(["auto", "device", "emulated"]),
    default="auto",
    metavar="WHERE",
    help="With --prove: on a CUDA 'device', 'emulated', or 'auto', a device if one is idle and has the room."
    " [default: auto]",
)
@click.option(
    "--rerun/--no-rerun",
    "reruns",
    default=True,
    help="With --prove, run a rehearsed program again whole: under the recommendation, and under the"
    " max_split_size_mb that is named. [default: rerun]",
)
@click.option(
    "--python",
    type=click.Path(exists=True, dir_okay=False),
    help="The interpreter whose torch proves. [default: the one that runs oomdoctor]",
)
@click.option("--scheduler", metavar="ADDRESS", help="Search on this Dask cluster instead of this machine.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes to search with. [default: all cores]",
)
@dump_option
@json_option("oomdoctor.advise/1")
def command(
    path: str,
    device: Optional[int],
    capacity: Optional[int],
    torch: Optional[str],
    proves: bool,
    prove_on: ProveOn,
    reruns: bool,
    python: Optional[str],
    scheduler: Optional[str],
    workers: Optional[int],
    dump: Optional[str],
    as_json: bool,
) -> None:
    from dataclasses import replace

    from oomdoctor.advice.advise import advise, proved
    from oomdoctor.advice.again import Again, run_again, was_rehearsed
    from oomdoctor.advice.cluster import cluster_map
    from oomdoctor.advice.evaluate import Place
    from oomdoctor.advice.search import local_map
    from oomdoctor.advice.state_only import WHY_UNPROVABLE, has_requests
    from oomdoctor.errors import InputError, UsageError

    say_if_compiling(simulates=True)
    problems: list[str] = []
    recordings = []
    without = []
    for one, other in each_device(path, device, dump, torch, problems):
        if other is not None:
            raise UsageError(
                f"torch {torch} has not recorded this: it is of {one.torch.as_one}",
                where="--torch",
                next_step="for another release's rules: oomdoctor replay --torch VERSION --alloc-conf CONF",
            )
        if has_requests(one):
            recordings.append((Place(one.source.path, one.device, one.history.torch), one))
        else:
            without.append(one)
    if not recordings and not without:
        raise InputError(
            "nothing is recorded in it: no device, no segment, no event",
            where=path,
            next_step="record with: oomdoctor trace -- COMMAND",
        )
    if not recordings:
        if proves:
            problems.append(f"nothing is proved: {WHY_UNPROVABLE}")
        if capacity is not None:
            problems.append("--capacity changes nothing: no request was recorded that could be tried with it")
        write(_from_state(without, capacity, problems, as_json))
        return
    problems += [f"device {one.device}: no request was recorded, so it has no say" for one in without]
    search_on = cluster_map(scheduler) if scheduler else local_map(recordings, workers)
    with search_on as mapped:
        advice = advise(recordings, mapped, capacity=capacity, path=path, progress=_progress())
    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    if proves:
        advice = proved(advice, python or sys.executable, prove_on)
        if reruns and was_rehearsed(path):
            ran: list[Optional[Again]] = []
            for conf in advice.to_run_again:
                if conf is not None and sys.stderr.isatty():
                    click.echo(f"oomdoctor: rehearsing the whole program again with {conf}", err=True)
                ran.append(None if conf is None else run_again(path, conf, advice.devices, capacity))
            advice = replace(advice, again=ran[0], again_split=ran[1])
    if as_json:
        from oomdoctor.reporters import advise_json

        write(advise_json.render(advice, problems))
        return
    from oomdoctor.reporters import advise_text
    from oomdoctor.reporters.ink import ink_for

    asked = [path, *_asked(device=device, capacity=capacity, torch=torch, dump=dump, scheduler=scheduler)]
    write(advise_text.render(advice, problems, ink_for(sys.stdout), asked))


def _asked(**options: Union[int, str, None]) -> Iterator[str]:
    """Words of the options that were given, as they have to be given again."""
    from oomdoctor.diagnosis.run_remedies import exact_size

    for name, value in options.items():
        if value is not None:
            yield f"--{name}"
            yield exact_size(int(value)) if name == "capacity" else str(value)


def _from_state(
    devices: Sequence[DeviceHistory], capacity: Optional[int], problems: list[str], as_json: bool
) -> str:
    """What the state alone suggests, where there is no history."""
    from oomdoctor.advice.state_only import advise_from_state

    advice = advise_from_state(devices, capacity)
    if as_json:
        from oomdoctor.reporters import advise_state_json

        return advise_state_json.render(advice, problems)
    from oomdoctor.reporters import advise_state_text
    from oomdoctor.reporters.ink import ink_for

    return advise_state_text.render(advice, problems, ink_for(sys.stdout))


def _progress() -> Optional[Callable[[int, int], None]]:
    """A line that counts, where somebody looks at it."""
    if not sys.stderr.isatty():
        return None

    def told(done: int, of: int) -> None:
        bar = "█" * (30 * done // max(of, 1))
        click.echo(f"\roomdoctor: replaying {done:,} of {of:,} {bar:30s}", nl=False, err=True)

    return told
