"""A file becomes a :class:`~oomdoctor.snapshot.model.Snapshot`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Optional, Union

from oomdoctor.snapshot.container import (
    embedded_pickle,
    is_streamed,
    kind_of,
    pickle_stream,
    read_bytes,
    refuse_special,
)
from oomdoctor.snapshot.convert import TOP_LEVEL, to_snapshot
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
        event_stacks: whether events keep their stacks. Blocks and segments always do.

    Raises:
        InputError: it cannot be opened; its subclasses say what else is wrong: EmptyInput, TruncatedInput,
            ForeignInput, NewerInput, UnsafeInput.
    """
    name = os.fspath(path)
    refuse_special(path)
    stream = pickle_stream(path, limits)
    if stream is not None:
        snapshot = _compiled(name, stream.chunks(), stream.expected_bytes, event_stacks)
        if snapshot is not None:
            return snapshot
    data = read_bytes(path, limits)
    kind = kind_of(data, name)
    if kind == "html":
        data = embedded_pickle(data, name)
        if len(data) >= limits.streamed_bytes and is_streamed(data[:2]):
            snapshot = _compiled(name, iter([data]), len(data), event_stacks)
            if snapshot is not None:
                return snapshot
    source = Source(name, size=len(data))
    with without_gc():
        plain = load_plain_json(data, name) if kind == "json" else load_plain_pickle(data, name)
        del data
        return to_snapshot(plain, source, consume=True, shared=kind != "json", event_stacks=event_stacks)


def _compiled(
    name: str, chunks: Iterator[bytes], expected_bytes: int, event_stacks: bool
) -> Optional[Snapshot]:
    """By the compiled machine; None for what it declines, which is for the careful reader to judge."""
    # Late, for loading Numba takes as long as reading a few megabytes without it.
    try:
        from oomdoctor.snapshot.decoded import Declined, Decoded
        from oomdoctor.snapshot.word_table import top_level
    except (ImportError, RuntimeError):
        return None  # no Numba, or no folder for what it compiles
    decoded = Decoded(expected_bytes)
    try:
        source = Source(name, size=decoded.feed(chunks))
        return to_snapshot(top_level(decoded, source, TOP_LEVEL), source, event_stacks=event_stacks)
    except Declined:
        return None


def snapshot_from_plain(plain: Any, source: str = "memory") -> Snapshot:
    """Convert what ``torch.cuda.memory._snapshot()`` or ``.memory_snapshot()`` returned."""
    return to_snapshot(plain, Source(source))
