"""Machine code for hot loops, kept on disk between runs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Callable, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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


def inlined(function: _F) -> _F:
    """As :func:`compiled`, for the few hot functions whose call costs as much as what they do."""
    # A call hands over every field of every array of the heap.
    return cast(
        _F,
        _njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, forceinline=True)(
            function
        ),
    )


def compiled_entry(function: _F) -> _F:
    """Compile with Numba on first use; the result, with all that it calls, is kept on disk."""
    return cast(_F, _njit(nogil=True, cache=True, no_cfunc_wrapper=True)(function))


def _move_rows(typingctx: Any, array: Any, to: Any, at: Any, count: Any) -> Any:
    """``array[to : to + count] = array[at : at + count]`` where the two may overlap; C's memmove.

    Nothing is checked: the caller knows that both lie within the contiguous array. A loop that says
    the same is compiled to steps of one row, since its indices could be negative.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array_type = signature.args[0]
        rows = context.make_array(array_type)(context, builder, args[0])
        to_row, from_row = (builder.gep(rows.data, [position]) for position in args[1:3])
        itemsize = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
        cgutils.raw_memmove(  # type: ignore[no-untyped-call]
            builder, to_row, from_row, args[3], itemsize
        )
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp), generate


move_rows = cast(Callable[[Any, int, int, int], None], intrinsic(_move_rows))


def _drop_outdated(folder: Path) -> None:
    """Numba compiles a function anew when its own file changed, not when that of a function it calls did."""
    newest = max((source.stat().st_mtime for source in folder.glob("*.py")), default=0.0)
    for kept in folder.glob("__pycache__/*.nb[ic]"):
        # Another process may be at it as well, and an installation may not be ours to write to.
        with contextlib.suppress(OSError):
            if kept.stat().st_mtime < newest:
                kept.unlink()


_drop_outdated(Path(__file__).parent)
