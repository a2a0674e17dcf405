"""The one exception tree.

Every error a person can meet says what is wrong, where, why, and what to do next. Rooms raise these;
``oomdoctor.cli`` alone turns them into text and an exit code, so nothing else prints or exits.
"""

from __future__ import annotations

from typing import Optional


class OomdoctorError(Exception):
    """Base of everything oomdoctor raises on purpose.

    Args:
        what: one sentence, what is wrong ("cannot read the snapshot").
        where: the file, device, line or option it concerns.
        why: the cause, as far as it is known.
        next_step: what the reader can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: Optional[str] = None,
        why: Optional[str] = None,
        next_step: Optional[str] = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        head = self.what if self.where is None else f"{self.where}: {self.what}"
        lines = [head]
        if self.why:
            lines.append(f"  why:  {self.why}")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)


class UsageError(OomdoctorError):
    """The arguments cannot be used: exit code 2."""

    exit_code = 2


class SettingsError(UsageError):
    """Allocator settings that torch would reject."""


class InputError(OomdoctorError):
    """A file or text given to oomdoctor cannot be used."""


class EmptyInput(InputError):
    """There is nothing in it."""


class ForeignInput(InputError):
    """It is readable, and not what oomdoctor reads."""


class TruncatedInput(InputError):
    """It ends before it is complete."""


class NewerInput(InputError):
    """It was written in a format newer than this oomdoctor knows."""


class UnsafeInput(InputError):
    """It asks for code to be run; oomdoctor never does."""


class EmulatorError(OomdoctorError):
    """The emulated device cannot be built or started."""


class CheckFailed(OomdoctorError):
    """A check that was asked for does not hold: exit code 3."""

    exit_code = 3
