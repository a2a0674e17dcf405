"""Whether two snapshots are the same, column by column."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def differences(mine: Any, theirs: Any, name: str = "") -> list[str]:
    """The names of all that differs, types of arrays included."""
    if type(mine) is not type(theirs):
        return [f"{name}: {type(mine).__name__} and {type(theirs).__name__}"]
    if is_dataclass(mine):
        return [
            found
            for field in fields(mine)
            for found in differences(
                getattr(mine, field.name), getattr(theirs, field.name), f"{name}.{field.name}"
            )
        ]
    if isinstance(mine, np.ndarray):
        same = mine.dtype == theirs.dtype and mine.shape == theirs.shape and bool((mine == theirs).all())
        return [] if same else [f"{name}: {mine!r} and {theirs!r}"]
    if isinstance(mine, tuple) and len(mine) == len(theirs):
        return [
            found for i, (a, b) in enumerate(zip(mine, theirs)) for found in differences(a, b, f"{name}[{i}]")
        ]
    return [] if mine == theirs else [f"{name}: {mine!r} and {theirs!r}"]
