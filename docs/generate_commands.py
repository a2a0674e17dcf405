"""Writes reference/commands.md from --help; tests/test_docs.py fails where the two differ."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from oomdoctor.cli import COMMANDS, group

PAGE = Path(__file__).parent / "reference" / "commands.md"


def render() -> str:
    """The page, as --help says it at 80 columns."""
    parts = ["# Commands\n", "Generated from `--help` by `python docs/generate_commands.py`.\n"]
    for name in ["", *COMMANDS]:
        result = CliRunner().invoke(
            group, [*name.split(), "--help"], prog_name="oomdoctor", terminal_width=80
        )
        assert result.exit_code == 0, result.output
        title = f"oomdoctor {name}".strip()
        parts.append(f"## {title}\n\n```\n{result.output.rstrip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render())
