"""The recorder: what runs inside the traced process.

``inject/`` is put in front of ``PYTHONPATH``; Python then imports its ``sitecustomize`` at start. Nothing in
``inject/`` imports anything of oomdoctor, so the traced environment needs no oomdoctor installed and
``inject/`` can be copied anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

INJECT = Path(__file__).resolve().parent / "inject"
DEFAULT_MAX_ENTRIES = 1_000_000
STACKS = ("python", "all", "none")


def recording_environment(
    folder: Path,
    *,
    max_entries: int = DEFAULT_MAX_ENTRIES,
    stacks: str = "python",
    python_path: Optional[str] = None,
    inject: Path = INJECT,
) -> dict[str, str]:
    """The variables that switch the recorder on in every Python process that inherits them.

    Args:
        folder: the run folder; made absolute, since the recorder outlives a ``chdir``.
        max_entries: the ring of allocator events kept per device.
        stacks: "python", "all" (C++ too; dumping takes minutes) or "none".
        python_path: what ``PYTHONPATH`` holds now.
        inject: where the recorder's directory is, as the recorded process will see it.
    """
    # An empty entry would mean the working directory: add a separator only where something follows.
    path = str(inject) if not python_path else f"{inject}{os.pathsep}{python_path}"
    return {
        "PYTHONPATH": path,
        "OOMDOCTOR_RUN": os.path.abspath(folder),
        "OOMDOCTOR_MAX_ENTRIES": str(max_entries),
        "OOMDOCTOR_STACKS": stacks,
    }


def is_recording(environment: Mapping[str, str]) -> bool:
    """Whether this environment switches a recorder on."""
    return bool(environment.get("OOMDOCTOR_RUN"))
