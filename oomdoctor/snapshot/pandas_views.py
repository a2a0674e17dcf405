"""Tables as pandas DataFrames: a column each, names in place of numbers. pandas is imported at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

_SIDES = ("_first", "_second")


def frame(table: Any, names: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """The columns of a table of arrays, in their order, as a DataFrame that shares their memory.

    Args:
        table: a dataclass of arrays of one length; others of its fields are left out.
        names: what the numbers in a column mean; it becomes a categorical, a negative number a missing value.

    Returns:
        A row for each row; an array of pairs becomes two columns, ``pool_first`` and ``pool_second``.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, array in vars(table).items():
        if not isinstance(array, np.ndarray) or len(array) != len(table):
            continue
        if name in names:
            columns[name] = pd.Categorical.from_codes(_codes(array), categories=list(names[name]))
        elif array.ndim == 2:
            columns.update({name + side: array[:, i] for i, side in enumerate(_SIDES)})
        else:
            columns[name] = array
    return pd.DataFrame(columns, copy=False)


def _codes(numbers: NDArray[Any]) -> NDArray[np.int32]:
    return np.maximum(numbers.astype(np.int32), -1)
