"""What a file holds beyond what this oomdoctor knows: newer releases add fields, actions and states."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from oomdoctor.snapshot.model import INACTIVE, STATES, UNKNOWN_ACTION
from oomdoctor.snapshot.rows import Unknown

# THCPModule_memorySnapshot in torch/csrc/cuda/Module.cpp, up to torch 2.15
EVENT_KEYS = frozenset(
    (
        "action", "addr", "device_free", "size", "stream", "time_us", "frames", "forward_frames",
        "compile_context", "user_metadata", "internal_metadata", "pool_id",
    )
)  # fmt: skip
_MOST_NAMES = 8
_LONGEST_NAME = 60


class Surprises:
    """Collects them while a file is read."""

    def __init__(self) -> None:
        self.actions = Unknown(UNKNOWN_ACTION)
        self.states = Unknown(INACTIVE)
        self._top: set[Any] = set()

    def top_level(self, names: Iterable[Any]) -> None:
        """Names beside segments and traces that mean nothing to us."""
        self._top.update(names)

    def notes(self, event_keys: set[str]) -> tuple[str, ...]:
        """A sentence for each kind of surprise."""
        said = (
            (self._top, "unknown parts of the snapshot were left out: {}"),
            (event_keys - EVENT_KEYS, "unknown fields of events were left out: {}"),
            (self.actions.names, "unknown actions stand as unknown events: {}"),
            (self.states.names, f"blocks of unknown states count as {STATES[INACTIVE]}: {{}}"),
        )
        return tuple(sentence.format(_list(names)) for names, sentence in said if names)


def _list(names: Iterable[Any]) -> str:
    printable = sorted(ascii(str(name)[:_LONGEST_NAME])[1:-1] for name in names)
    more = f" and {len(printable) - _MOST_NAMES} more" if len(printable) > _MOST_NAMES else ""
    return ", ".join(printable[:_MOST_NAMES]) + more
