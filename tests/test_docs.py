"""The documentation stays true: pages made from the program, links that lead somewhere, output that is real."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_commands_is_what_help_says() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate_commands.py"))
    page = ROOT / "docs" / "reference" / "commands.md"
    assert page.read_text() == made["render"](), "run: python docs/generate_commands.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not re.match(r"https?://|mailto:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_messages_explained_in_the_docs_are_explained_so(page: Path) -> None:
    """A block that begins with `$ oomdoctor explain "..."` shows what that command prints."""
    for block in re.findall(
        r"```(?:console|text)?\n(\$ oomdoctor explain \".*?)```", page.read_text(), re.DOTALL
    ):
        match = re.match(r'\$ oomdoctor explain "(.*?)"\n(.*)', block, re.DOTALL)
        assert match is not None, block[:200]
        message, shown = re.sub(r"\s*\\?\n\s*", " ", match[1]), match[2]
        done = subprocess.run(
            [sys.executable, "-m", "oomdoctor", "explain", message],
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.strip() == done.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_recordings_shown_in_the_docs_are_shown_so(page: Path) -> None:
    """A block that begins with `$ oomdoctor inspect traces/...`, `replay`, `advise` or `compare` shows what that command prints."""
    for command, shown in re.findall(
        r"```(?:console|text)?\n\$ oomdoctor ((?:inspect|replay|advise|compare) traces/[^\n]*)\n(.*?)```",
        page.read_text(),
        re.DOTALL,
    ):
        done = subprocess.run(
            [sys.executable, "-m", "oomdoctor", *command.split()],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        for part in shown.split("  [...]\n"):  # a sample may be shortened
            assert part.strip() in done.stdout, command


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
