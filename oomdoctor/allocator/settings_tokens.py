"""An allocator settings text cut into tokens, and values read from them.

Source: ``CUDAAllocatorConfig::lexArgs`` and ``consumeToken`` (c10/cuda/CUDAAllocatorConfig.cpp, to 2.9), and
``ConfigTokenizer`` (c10/core/AllocatorConfig.h, from 2.10). The newer one drops all white space, and looks at
a separator without acting on what it finds: any token may stand in its place.
"""

from __future__ import annotations

from typing import Callable, Optional

from oomdoctor.allocator.settings_keys import ACCELERATOR_CONFIG_SINCE
from oomdoctor.allocator.settings_numbers import NotANumber, is_read_whole, stod, stoi, stoull
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.errors import SettingsError

_MARKS = frozenset(",:[]")
_WHITE_SPACE = frozenset(" \t\n\v\f\r")


class Tokens:
    """The tokens of one text, as one release sees them.

    Args:
        text: the settings.
        torch: the release that reads them.
        variable: where the text stands, for messages.

    Attributes:
        items: the tokens; each of ``, : [ ]`` is one by itself.
        strict: separators are checked.
        loose: tokens that stood where a separator belongs, each with the separator; empty where strict.
        partly: numbers that torch reads other than they are written, each with its key and what is read.
    """

    def __init__(self, text: str, torch: TorchVersion, variable: str) -> None:
        self.text = text
        self.torch = torch
        self.variable = variable
        self.strict = torch < ACCELERATOR_CONFIG_SINCE
        self.items = _lex(text, frozenset(" ") if self.strict else _WHITE_SPACE)
        self.loose: list[tuple[str, str]] = []
        self.partly: list[tuple[str, str, float]] = []

    def __len__(self) -> int:
        return len(self.items)

    def separator(self, index: int, mark: str) -> None:
        """``consumeToken``, ``checkToken``: the mark should stand here.

        Raises:
            SettingsError: the text ends before, or (to 2.9) something else stands there.
        """
        found = self.items[index] if index < len(self.items) else None
        if found == mark:
            return
        if found is None or self.strict:
            after = self.items[index - 1]
            raise self.error(
                f"{mark!r} is missing after {after!r}",
                why="the text ends there" if found is None else f"{found!r} stands there",
                next_step="write key:value,key:value",
            )
        self.loose.append((found, mark))

    def value(self, index: int, key: str) -> str:
        """The token of a value.

        Raises:
            SettingsError: the text ends before.
        """
        if index >= len(self.items):
            raise self.error(f"{key} has no value", why="the text ends there", next_step=f"write {key}:VALUE")
        return self.items[index]

    def boolean(self, index: int, key: str) -> bool:
        """``toBool``: True or False, spelt so.

        Raises:
            SettingsError: anything else.
        """
        token = self.value(index, key)
        if token not in ("True", "False"):
            meant = token.capitalize()
            raise self.error(
                f"{key} takes True or False, not {token!r}",
                why="torch compares the letters, capitals included",
                next_step=f"write {key}:{meant if meant in ('True', 'False') else 'True'}",
            )
        return token == "True"

    def whole(self, index: int, key: str) -> int:
        """A number of at least 0 and below 2^64 (``std::stoi`` to 2.9, ``std::stoull`` later).

        Raises:
            SettingsError: there is no such number.
        """
        return int(self._number(index, key, stoi if self.strict else stoull))

    def real(self, index: int, key: str) -> float:
        """A floating-point number (``std::stod``).

        Raises:
            SettingsError: there is no such number.
        """
        return float(self._number(index, key, stod))

    def error(
        self, what: str, *, why: Optional[str] = None, next_step: Optional[str] = None
    ) -> SettingsError:
        """The error of a text that this release rejects."""
        return SettingsError(what, where=f"{self.variable}={self.text}", why=why, next_step=next_step)

    def _number(self, index: int, key: str, read: Callable[[str], float]) -> float:
        token = self.value(index, key)
        try:
            number = read(token)
        except NotANumber as error:
            raise self.error(
                f"{key} takes a number, not {token!r}", why=str(error), next_step=f"write {key}:NUMBER"
            ) from None
        if not is_read_whole(token, number):
            self.partly.append((key, token, number))
        return number


def _lex(text: str, ignored: frozenset[str]) -> list[str]:
    items: list[str] = []
    word = ""
    for letter in text:
        if letter in _MARKS:
            if word:
                items.append(word)
                word = ""
            items.append(letter)
        elif letter not in ignored:
            word += letter
    if word:
        items.append(word)
    return items
