"""``oomdoctor env``."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Optional

import click

from oomdoctor.cli.options import max_entries_option, stacks_option
from oomdoctor.recorder import INJECT, recording_environment

# Where docker and Kubernetes have the recorder and the recording, inside the container.
_INSIDE_RECORDER = Path("/opt/oomdoctor")
_INSIDE_RUN = Path("/oomdoctor-run")


@click.command(
    "env",
    help="""Print the variables that switch the recorder on where no launcher can stand in front.

    A batch script takes the lines of `--format shell`, a `docker run` those of `--format docker`, a pod spec
    those of `--format k8s`. Without a launcher there are no NVML samples and no summary; the rest is the
    same.
    """,
)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="RUN_FOLDER",
    help="Where to record, as the recorded process sees it. Default: a folder in oomdoctor-runs/.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["shell", "docker", "k8s", "json"]),
    default="shell",
    show_default=True,
    help="docker: options for docker run. k8s: env entries of a container.",
)
@click.option("--recorder", is_flag=True, help="Print only where the recorder's directory is, to copy it.")
@max_entries_option("Allocator events kept per device.")
@stacks_option("Stacks kept with each event.")
def command(folder: Optional[Path], form: str, recorder: bool, max_entries: int, stacks: str) -> None:
    if recorder:
        click.echo(str(INJECT))
        return
    contained = form in ("docker", "k8s")
    if folder is None:
        from oomdoctor.run.launch import default_folder

        folder = _INSIDE_RUN if form == "k8s" else default_folder(["env"])
    variables = recording_environment(
        _INSIDE_RUN if form == "docker" else folder,
        max_entries=max_entries,
        stacks=stacks,
        python_path=None if contained else os.environ.get("PYTHONPATH"),
        inject=_INSIDE_RECORDER if contained else INJECT,
    )
    if form == "shell":
        for name, value in variables.items():
            click.echo(f"export {name}={shlex.quote(value)}")
    elif form == "docker":
        options = [f"-v {shlex.quote(f'{INJECT}:{_INSIDE_RECORDER}:ro')}"]
        options.append(f"-v {shlex.quote(f'{os.path.abspath(folder)}:{_INSIDE_RUN}')}")
        options += [f"-e {shlex.quote(f'{name}={value}')}" for name, value in variables.items()]
        click.echo(" ".join(options))
    elif form == "k8s":
        click.echo("env:")
        for name, value in variables.items():
            click.echo(f"  - name: {name}\n    value: {json.dumps(value)}")
    else:
        click.echo(json.dumps({"schema": "oomdoctor.env/1", "variables": variables}, indent=1))
