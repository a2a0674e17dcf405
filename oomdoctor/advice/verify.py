"""What to paste, and the commands that show whether it helped: the program again, then both compared."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

from oomdoctor.advice.candidates import SHAPES_THE_HEAP
from oomdoctor.advice.emulated_memory import with_capacity
from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.allocator.release_bounds import named
from oomdoctor.diagnosis.run import recorded_with
from oomdoctor.diagnosis.run_remedies import Program, beside, elsewhere
from oomdoctor.diagnosis.settings_text import LEGACY, join_options, parse_options, variable_for, version_of
from oomdoctor.diagnosis.torch_settings import EXPANDABLE_SEGMENTS_SINCE
from oomdoctor.run.documents import mapping, text
from oomdoctor.run.folder import Launcher, RunFolder
from oomdoctor.storage import is_folder

_AFTER = "after"


@dataclass(frozen=True)
class Steps:
    """How to take up a setting and see what it did.

    Attributes:
        variable: the environment variable, by the name that the recorded release reads.
        value: what to set it to: the setting, and what was set besides that does not bear on it.
        record: words of the command that runs the program again under it; "COMMAND" stands for one that is
            not known, or has to be run elsewhere.
        compare: words of the command that puts both runs beside each other.
        room: bytes that PyTorch has to have there, where the command does not see to it; None: it does, or
            no other memory than the recorded was asked about.
    """

    variable: str
    value: str
    record: tuple[str, ...]
    compare: tuple[str, ...]
    room: Optional[int] = None

    @property
    def export(self) -> str:
        """The line to paste into a shell, which takes ">" and brackets for its own."""
        return f"export {self.variable}={shlex.quote(self.value)}"


def program_of(device: DeviceHistory, path: Optional[str] = None) -> Program:
    """What the recording knows of the program. Of a release that is bounded only, the oldest counts.

    Args:
        path: the run folder, which may have the command.
    """
    settings, source = device.history.settings, device.source
    oldest = device.torch.oldest
    launcher = _launcher(path)
    return Program(
        torch_version=device.torch.text or (named(oldest) if oldest >= EXPANDABLE_SEGMENTS_SINCE else None),
        is_hip=mapping(source.document, "process").get("hip_version") is not None,
        asked=source.environment or ({LEGACY: settings.text} if settings.text else {}),
        command=tuple(launcher.command) if launcher else (),
        cwd=text(launcher.document, "cwd") if launcher else None,
        verb=recorded_with(launcher.document.get("emulated")) if launcher else ("trace",),
        expandable=settings.expandable_segments,
        backend=settings.backend,
    )


def _launcher(path: Optional[str]) -> Optional[Launcher]:
    """Of a run folder that has one."""
    launchers = RunFolder.open(path).launchers if path and is_folder(path) else ()
    return launchers[0] if len(launchers) == 1 else None


def steps(
    path: str, devices: Sequence[DeviceHistory], alloc_conf: str, capacity: Optional[int] = None
) -> Steps:
    """How to take up a setting that was found for a job.

    Args:
        path: of its recording.
        devices: of the job; the first stands for all.
        capacity: bytes for PyTorch that it was found for; None: as recorded.
    """
    program, launcher = program_of(devices[0], path), _launcher(path)
    resized = with_capacity(launcher and launcher.document.get("emulated"), devices, capacity).emulated
    if resized is not None:
        program = replace(program, verb=recorded_with(resized))
    kept = {
        key: value
        for key, value in parse_options(devices[0].history.settings.text).items()
        if key not in SHAPES_THE_HEAP
    }
    value = join_options({**kept, **parse_options(alloc_conf)})
    variable = variable_for(version_of(program.torch_version), program.asked, is_hip=program.is_hip)
    known = program.command if elsewhere(program) is None else ()
    after = beside(path, whole=False) if is_folder(path) else _AFTER
    return Steps(
        variable=variable,
        value=value,
        record=(
            f"{variable}={value}",
            "oomdoctor",
            *program.verb,
            "-o",
            after,
            "--",
            *(known or ("COMMAND",)),
        ),
        compare=("oomdoctor", "compare", path, after),
        room=capacity if resized is None else None,
    )


def pasteable(words: Sequence[str]) -> str:
    """A command as a shell takes it; a variable set for it keeps its name outside the quotes."""
    out: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        is_variable = not out and equals and name.isidentifier()
        out.append(f"{name}={shlex.quote(value)}" if is_variable else shlex.quote(word))
    return " ".join(out)
