"""``oomdoctor compare``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Optional

import click

from oomdoctor.cli.output import write
from oomdoctor.cli.recordings import (
    RecordingPath,
    device_option,
    each_device,
    json_option,
    say_if_compiling,
)

if TYPE_CHECKING:
    from oomdoctor.allocator.loading import DeviceHistory


@click.command(
    "compare",
    help="""Compare two recordings: before and after, or two ranks.

    Each is a memory snapshot or a run folder. Devices are matched by rank and number, else by order. First it
    is said how far both asked for the same memory: what differs is only then the doing of a setting or a
    release.
    """,
    context_settings={"max_content_width": 80},
)
@click.argument("a", metavar="A", type=RecordingPath(exists=True))
@click.argument("b", metavar="B", type=RecordingPath(exists=True))
@device_option
@click.option(
    "--device-b",
    type=click.IntRange(min=0),
    metavar="N",
    help="Of B this device. [default: as --device]",
)
@click.option("--dump", metavar="NAME", help="Of run folders, the snapshots of this name, such as 0002-exit.")
@click.option(
    "--dump-b", metavar="NAME", help="Of B the snapshots of this name. [default: as --dump if B is a folder]"
)
@click.option(
    "--at",
    "when",
    type=click.Choice(("auto", "oom", "peak", "common", "end")),
    default="auto",
    show_default=True,
    help="Where to tell the difference by place: at the request that failed, at each one's peak of "
    "allocated, after the last common request, or at the end.",
)
@json_option("oomdoctor.compare/1")
def command(
    a: str,
    b: str,
    device: Optional[int],
    device_b: Optional[int],
    dump: Optional[str],
    dump_b: Optional[str],
    when: str,
    as_json: bool,
) -> None:
    from oomdoctor import storage
    from oomdoctor.comparison.compare import Pair
    from oomdoctor.comparison.pairing import paired

    say_if_compiling()
    # --dump is for those of both that are folders; where neither is, reading A says so.
    for_b = dump if dump_b is None and storage.is_folder(b) else dump_b
    for_a = dump if storage.is_folder(a) or for_b is None or dump_b is not None else None
    problems: list[str] = []
    found_a = _devices(a, device, for_a, "A", problems)
    found_b = _devices(b, device if device_b is None else device_b, for_b, "B", problems)
    pairs, only_a, only_b = paired(found_a, found_b)
    compared = [Pair(*one) for one in pairs]
    unmatched = [("a", one) for one in only_a] + [("b", one) for one in only_b]
    if as_json:
        from oomdoctor.reporters import compare_json

        write(compare_json.render(compared, unmatched, problems, when))
        return
    from oomdoctor.reporters import compare_text
    from oomdoctor.reporters.ink import ink_for

    write(compare_text.render(compared, unmatched, problems, when, ink_for(sys.stdout)))


def _devices(
    path: str, device: Optional[int], dump: Optional[str], name: str, problems: list[str]
) -> list[DeviceHistory]:
    mine: list[str] = []
    found = [one for one, _ in each_device(path, device, dump, None, mine)]
    problems += [f"{name}: {problem}" for problem in mine]
    return found
