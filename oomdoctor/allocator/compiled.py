"""Machine code for hot loops, kept on disk between runs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Callable, TypeVar, cast

import numba
import numpy as np

_F = TypeVar("_F", bound=Callable[..., Any])
_njit: Any = numba.njit  # its type does not know every option

# A constant to pass to compiled functions. Numba takes a Python number for a type of its own, and would
# compile the function anew for each; of NumPy's it is one number among others.
passed = cast(Callable[[int], int], np.int64)


def compiled(function: _F) -> _F:
    """Compile with Numba on first use, for calls from other compiled functions only."""
    # Neither kept nor made callable from outside, which would take most of the time; and arrays are not
    # counted as references on their way through (_nrt), which would take two thirds of the running time.
    return cast(_F, _njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)(function))


def compiled_entry(function: _F) -> _F:
    """Compile with Numba on first use; the result, with all that it calls, is kept on disk."""
    return cast(_F, _njit(nogil=True, cache=True, no_cfunc_wrapper=True)(function))


def _drop_outdated(folder: Path) -> None:
    """Numba compiles a function anew when its own file changed, not when that of a function it calls did."""
    newest = max((source.stat().st_mtime for source in folder.glob("*.py")), default=0.0)
    for kept in folder.glob("__pycache__/*.nb[ic]"):
        # Another process may be at it as well, and an installation may not be ours to write to.
        with contextlib.suppress(OSError):
            if kept.stat().st_mtime < newest:
                kept.unlink()


_drop_outdated(Path(__file__).parent)
