"""The command line: parse, call, hand to a reporter. The only room that knows click.

Commands are imported when they are used, so ``oomdoctor --help`` imports none of them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Optional

import click

from oomdoctor import __version__
from oomdoctor.errors import OomdoctorError

# name -> (module, one line for --help)
COMMANDS: dict[str, tuple[str, str]] = {
    "trace": ("oomdoctor.cli.trace", "Run a command and record its GPU memory."),
    "rehearse": ("oomdoctor.cli.rehearse", "Run a command on GPUs that are not there, and record it."),
    "explain": ("oomdoctor.cli.explain", "Explain an out-of-memory message, a log or a recorded run."),
    "inspect": ("oomdoctor.cli.inspect", "Show the allocator's state at any event of a recording."),
    "replay": ("oomdoctor.cli.replay", "Replay a recording, under other settings if you like."),
    "advise": ("oomdoctor.cli.advise", "Find settings that would have helped, and prove it."),
    "dashboard": ("oomdoctor.cli.dashboard", "Browse recordings in a browser."),
    "compare": ("oomdoctor.cli.compare", "Compare two recordings: before and after, or two ranks."),
    "report": ("oomdoctor.cli.report", "Write one HTML file with the views of the dashboard."),
    "dump": ("oomdoctor.cli.dump", "Ask the processes of a running recording for a snapshot now."),
    "env": ("oomdoctor.cli.env", "Print the variables that record where no launcher can stand in front."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="oomdoctor")
@click.option("--debug", is_flag=True, help="Show a traceback instead of one clear message.")
@click.pass_context
def group(ctx: click.Context, debug: bool) -> None:
    """Why a GPU ran out of memory under PyTorch, and what would have helped."""
    ctx.obj = {"debug": debug}


def main(args: Optional[list[str]] = None) -> Any:
    """The console script: run a command, turn an oomdoctor error into one message and an exit code."""
    arguments = sys.argv[1:] if args is None else args
    try:
        return group.main(args=arguments, prog_name="oomdoctor", standalone_mode=True)
    except OomdoctorError as error:
        if "--debug" in arguments[:1]:
            raise
        click.echo(f"oomdoctor: {error}", err=True)
        sys.exit(error.exit_code)
