"""``oomdoctor explain`` of a run folder or a snapshot: read, understand, hand to a reporter."""

from __future__ import annotations

import os
import sys

import click


def show(path: str, as_json: bool) -> None:
    """Explain a run folder, or a single snapshot file, on standard output.

    Raises:
        InputError: it is neither, or cannot be read.
    """
    from oomdoctor.diagnosis.run import diagnose_run, diagnose_snapshot

    run = diagnose_run(path) if os.path.isdir(path) else diagnose_snapshot(path)
    if as_json:
        from oomdoctor.reporters import run_json

        click.echo(run_json.render(run))
        return
    from oomdoctor.reporters import run_text
    from oomdoctor.reporters.ink import ink_for

    text = run_text.render(run, ink_for(sys.stdout))
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, errors="replace").decode(encoding))
