"""Machine code for hot loops."""

from __future__ import annotations

from typing import Any, Callable, TypeVar, cast

import numba

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile with Numba on first use; the result is kept on disk between runs."""
    return cast(_F, numba.njit(cache=True, nogil=True)(function))
