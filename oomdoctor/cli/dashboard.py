"""``oomdoctor dashboard``."""

from __future__ import annotations

import os
from typing import Optional

import click

from oomdoctor.cli.recordings import RecordingPath, say_if_compiling, size


@click.command(
    "dashboard",
    help="""Browse recordings in a browser: timeline, segments, what lives, what if.

    Takes run folders and memory snapshots, by path or URL; more can be opened while it runs. A run that is
    still being recorded is followed. Only this machine can reach it, unless --remote is given.
    """,
    context_settings={"max_content_width": 80},
)
@click.argument("paths", metavar="[RUN_FOLDER|SNAPSHOT]...", nargs=-1, type=RecordingPath(exists=True))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8050, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free."
)
@click.option(
    "--remote",
    is_flag=True,
    help="Serve to other machines as well. Visitors need the token: it is in the address that is printed.",
)
@click.option(
    "--token",
    metavar="TEXT",
    envvar="OOMDOCTOR_DASHBOARD_TOKEN",
    help="The token that visitors need, also without --remote. [default: with --remote, a new one]",
)
@click.option(
    "--upload-limit",
    type=size,
    default="1GiB",
    show_default=True,
    metavar="SIZE",
    help="Largest file that is taken from a browser.",
)
def command(
    paths: tuple[str, ...], host: str, port: int, remote: bool, token: Optional[str], upload_limit: int
) -> None:
    from oomdoctor.errors import OomdoctorError, UsageError

    if token is not None and len(token) < 8:
        raise UsageError("a token of less than 8 characters can be guessed", where="--token")
    try:
        from oomdoctor_dashboard.serve import serve
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("oomdoctor_dashboard", "oomdoctor"):
            raise
        raise OomdoctorError(
            "the dashboard needs packages that are not installed",
            why=str(error),
            next_step="pip install 'oomdoctor[dashboard]'",
        ) from error
    say_if_compiling()

    def say(address: str) -> None:
        click.echo(f"oomdoctor dashboard: {address}\nCtrl+C ends it.", err=True)

    serve(
        [os.fspath(path) for path in paths],
        host=host,
        port=port,
        remote=remote,
        token=token,
        upload_limit=upload_limit,
        say=say,
    )
