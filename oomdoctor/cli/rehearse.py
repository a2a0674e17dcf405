"""``oomdoctor rehearse``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import click

from oomdoctor.cli.options import Seconds, max_entries_option, stacks_option
from oomdoctor.errors import UsageError
from oomdoctor.units import parse_size

# Of oomdoctor.emulator.state, which is not imported for --help.
MAX_DEVICES = 16
ADDRESS_ORDERS = ("rising", "falling", "random")


def memory_of_each(text: str, gpus: Optional[int]) -> tuple[int, ...]:
    """``--memory`` and ``--gpus`` as bytes of each device.

    Raises:
        UsageError: a list of another length than the number of devices, or sizes that no device has.
    """
    sizes = tuple(parse_size(part) for part in text.split(","))
    count = gpus or len(sizes)
    if len(sizes) == 1:
        sizes *= count
    if len(sizes) != count:
        raise UsageError(
            f"--memory names {len(sizes)} devices and --gpus {count}",
            next_step="give one size for all, or one for each: --gpus 2 --memory 24GiB,80GiB",
        )
    for size in sizes:
        # Each (stream, pool) of expandable segments reserves 9/8 of a device's memory of the address space.
        if not 32 << 20 <= size <= 1 << 40:
            raise UsageError(f"a device of {size} bytes cannot be emulated", next_step="give 32MiB to 1TiB")
    return sizes


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise UsageError(
            f"not a compute capability: {text!r}", next_step="write it as NVIDIA does: 8.0, 8.9, 9.0"
        )
    return int(major), int(minor)


@click.command(
    "rehearse",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help="""Run COMMAND on CUDA devices that are not there, and record it as `trace` does.

    PyTorch's own caching allocator runs, unmodified; kernels do nothing. Every allocation, out-of-memory
    error and address is what that allocator does on devices of the size given. Values of large tensors mean
    nothing, so control flow that depends on them may differ. Needs a CUDA build of torch (its NVIDIA packages
    need not be installed) and, once for each torch, a C compiler.""",
)
@click.option(
    "--gpus", type=click.IntRange(1, MAX_DEVICES), metavar="N", help="Number of devices. [default: 1]"
)
@click.option(
    "--memory",
    default="24GiB",
    show_default=True,
    metavar="SIZE[,SIZE...]",
    help="Memory of each device: one size for all, or one for each.",
)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="RUN_FOLDER",
    help="Where to record. Default: a new folder in oomdoctor-runs/.",
)
@click.option(
    "--context",
    default="500MiB",
    show_default=True,
    metavar="SIZE",
    help="What the CUDA context of each process takes on each device that it uses.",
)
@click.option(
    "--other-process",
    default="0",
    metavar="SIZE",
    help="What another, invented process takes on each device. [default: nothing]",
)
@click.option(
    "--event-latency",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How many later device operations an event waits for; frees across streams wait with it.",
)
@click.option(
    "--addresses",
    type=click.Choice(ADDRESS_ORDERS),
    default="rising",
    show_default=True,
    help="In which order cudaMalloc hands out addresses.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="For random addresses.")
@click.option(
    "--compute-capability",
    default="9.0",
    show_default=True,
    metavar="X.Y",
    help="PyTorch sizes its workspaces, and picks its kernels, by it.",
)
@click.option(
    "--python",
    metavar="PYTHON",
    help="The interpreter whose torch COMMAND uses. Default: found from COMMAND, else python on PATH.",
)
@max_entries_option("Allocator events kept per device; the newest stay.")
@stacks_option("Stacks kept with each event. With C++ (all) a snapshot may take minutes.")
@click.option(
    "--nvml-interval",
    type=Seconds(min=0.01),
    default=0.5,
    show_default=True,
    metavar="S",
    help="Seconds between samples of the emulated NVML.",
)
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
@click.pass_context
def command(
    ctx: click.Context,
    gpus: Optional[int],
    memory: str,
    folder: Optional[Path],
    context: str,
    other_process: str,
    event_latency: int,
    addresses: str,
    seed: int,
    compute_capability: str,
    python: Optional[str],
    max_entries: int,
    stacks: str,
    nvml_interval: float,
    arguments: tuple[str, ...],
) -> None:
    from oomdoctor.emulator.rehearsal import rehearsal
    from oomdoctor.emulator.state import EmulatedDevices
    from oomdoctor.run import launch

    sizes = memory_of_each(memory, gpus)
    devices = EmulatedDevices(
        memory_bytes=sizes,
        context_bytes=parse_size(context),
        other_bytes=parse_size(other_process),
        event_latency=event_latency,
        address_order=addresses,
        seed=seed,
        compute_capability=_capability(compute_capability),
    )
    if devices.context_bytes + devices.other_bytes >= min(sizes):
        raise UsageError(
            "the context and the other process leave no memory on the smallest device",
            next_step="lower --context or --other-process, or raise --memory",
        )
    with rehearsal(arguments, devices, python=python) as ready:
        # The sampler asks the emulated NVML, which finds the devices by this variable.
        os.environ["OOMDOCTOR_EMULATED_STATE"] = ready.environment["OOMDOCTOR_EMULATED_STATE"]
        returncode = launch.run_command(
            arguments,
            folder=folder or launch.default_folder(arguments),
            max_entries=max_entries,
            stacks=stacks,
            nvml_interval=nvml_interval,
            extra_env=ready.environment,
            emulated={**devices.to_json(), "torch_version": ready.torch.version},
            nvml_library=ready.nvml,
        )
    ctx.exit(launch.leave_like(returncode))
