"""A file becomes a :class:`~oomdoctor.snapshot.model.Snapshot`."""

from __future__ import annotations

import os
from typing import Any, Union

from oomdoctor.snapshot.container import embedded_pickle, kind_of, read_bytes
from oomdoctor.snapshot.convert import to_snapshot
from oomdoctor.snapshot.limits import DEFAULT_LIMITS, Limits
from oomdoctor.snapshot.model import Snapshot
from oomdoctor.snapshot.plain_json import load_plain_json
from oomdoctor.snapshot.plain_pickle import load_plain_pickle
from oomdoctor.snapshot.rows import Source
from oomdoctor.snapshot.without_gc import without_gc


def read_snapshot(
    path: Union[str, os.PathLike[str]], limits: Limits = DEFAULT_LIMITS, *, event_stacks: bool = True
) -> Snapshot:
    """Read a snapshot: pickle (protocols 2 to 5), JSON, or embedded in HTML; each also compressed with gzip.

    Nothing in the file is executed.

    Args:
        event_stacks: whether events keep their stacks. Blocks and segments always do; without those of events
            reading takes half of the time.

    Raises:
        InputError: it cannot be opened; its subclasses say what else is wrong: EmptyInput, TruncatedInput,
            ForeignInput, NewerInput, UnsafeInput.
    """
    name = os.fspath(path)
    data = read_bytes(path, limits)
    # Every row takes at least a byte of the file, unless the file names one list many times over.
    source = Source(name, most_rows=len(data))
    with without_gc():
        kind = kind_of(data, name)
        if kind == "json":
            plain = load_plain_json(data, name)
        else:
            plain = load_plain_pickle(embedded_pickle(data, name) if kind == "html" else data, name)
        del data
        return to_snapshot(plain, source, consume=True, shared=kind != "json", event_stacks=event_stacks)


def snapshot_from_plain(plain: Any, source: str = "memory") -> Snapshot:
    """Convert what ``torch.cuda.memory._snapshot()`` or ``.memory_snapshot()`` returned."""
    return to_snapshot(plain, Source(source))
