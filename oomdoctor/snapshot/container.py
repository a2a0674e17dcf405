"""From a file to the bytes of a pickle or a JSON text: gzip off, HTML opened.

Told by content, never by name: people rename files.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from typing import Literal, Optional, Union

from oomdoctor.errors import EmptyInput, ForeignInput, InputError, TruncatedInput, UnsafeInput
from oomdoctor.snapshot.limits import Limits
from oomdoctor.storage import is_url, opened

Kind = Literal["pickle", "json", "html"]

_GZIP = b"\x1f\x8b"
_CHUNK = 4 << 20
# What torch/cuda/_memory_viz.py writes: local_files = [{"name": ..., "base64": "..."}]
_EMBEDDED = re.compile(rb"\"base64\"\s*:\s*\"([A-Za-z0-9+/=\s]*)(\"?)")


def refuse_special(path: Union[str, os.PathLike[str]]) -> None:
    """Pipes and devices may never end, and a pipe can be read once only.

    Raises:
        InputError: it is one.
    """
    if is_url(path):
        return  # a storage has files only
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # opening it says what is wrong
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(
            "this is no regular file",
            where=os.fspath(path),
            why="a pipe, a socket or a device cannot be read as a snapshot",
            next_step="write what comes from it to a file first",
        )


def read_bytes(path: Union[str, os.PathLike[str]], limits: Limits) -> bytes:
    """The file, decompressed if it is gzip.

    Raises:
        InputError: it cannot be opened.
        EmptyInput, TruncatedInput, ForeignInput, UnsafeInput: empty, cut short, damaged, a bomb.
    """
    source = os.fspath(path)
    try:
        with opened(path) as file:
            data = file.read()
    except OSError as error:
        raise InputError("cannot read the file", where=source, why=error.strerror or str(error)) from error
    if not data:
        raise EmptyInput(
            "the file is empty",
            where=source,
            why="the process that wrote it died first, or the disk was full",
            next_step="take another snapshot",
        )
    return _gunzip(data, source, limits) if data[:2] == _GZIP else data


def _gunzip(data: bytes, source: str, limits: Limits) -> bytes:
    chunks: list[bytes] = []
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            for chunk in _bounded(stream, len(data), limits):
                chunks.append(chunk)
    except _Bomb as error:
        raise UnsafeInput(
            f"{len(data):,} compressed bytes unfold to more than {error.bound:,}",
            where=source,
            why="recordings compress 10 to 50 times; this may be a decompression bomb",
            next_step="if you trust it, decompress it yourself (gunzip) and give the result",
        ) from None
    except EOFError as error:
        raise TruncatedInput(
            "the gzip file ends before it is complete",
            where=source,
            why="it was copied or downloaded in part, or whoever wrote it was stopped",
            next_step="copy it again; what is missing cannot be made up",
        ) from error
    except (zlib.error, OSError) as error:
        raise ForeignInput("the gzip file is damaged", where=source, why=str(error)) from error
    if not chunks:
        raise EmptyInput(
            "the compressed file holds nothing",
            where=source,
            why="an empty file was compressed",
            next_step="take another snapshot",
        )
    return b"".join(chunks)


class _Bomb(Exception):
    def __init__(self, bound: int) -> None:
        super().__init__()
        self.bound = bound


def _bounded(stream: gzip.GzipFile, compressed: int, limits: Limits) -> Iterator[bytes]:
    """What a gzip stream of so many compressed bytes unfolds to, piece by piece, up to its bound."""
    bound = min(limits.decompressed_bytes, max(compressed * limits.expansion, 64 << 20))
    total = 0
    while chunk := stream.read(_CHUNK):
        total += len(chunk)
        if total > bound:
            raise _Bomb(bound)
        yield chunk


class PickleStream:
    """A large pickle, piece by piece.

    Attributes:
        expected_bytes: about how long it is.
    """

    def __init__(
        self, path: Union[str, os.PathLike[str]], size: int, compressed: bool, limits: Limits
    ) -> None:
        self._path, self._size, self._compressed, self._limits = path, size, compressed, limits
        self.expected_bytes = size * 15 if compressed else size

    def chunks(self) -> Iterator[bytes]:
        """Its bytes; they end early where the file is damaged, which :func:`read_bytes` tells."""
        try:
            with opened(self._path) as file:
                if not self._compressed:
                    while chunk := file.read(_CHUNK):
                        yield chunk
                    return
                with gzip.GzipFile(fileobj=file) as stream:
                    yield from _bounded(stream, self._size, self._limits)
        except (_Bomb, EOFError, zlib.error, OSError):
            return


def pickle_stream(path: Union[str, os.PathLike[str]], limits: Limits) -> Optional[PickleStream]:
    """The file as a pickle of the size and protocol that are read piece by piece; None for any other."""
    try:
        with opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(2)
            compressed = head == _GZIP
            if size < (limits.streamed_bytes // 16 if compressed else limits.streamed_bytes):
                return None
            if compressed:
                file.seek(0)
                head = gzip.GzipFile(fileobj=file).read(2)
    except (OSError, EOFError, zlib.error):
        return None
    return PickleStream(path, size, compressed, limits) if is_streamed(head) else None


def is_streamed(head: bytes) -> bool:
    """Whether two first bytes are those of a pickle of a protocol from 2 to 5."""
    return head in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def kind_of(data: bytes, source: str) -> Kind:
    """What the bytes are.

    Raises:
        ForeignInput: none of what holds a snapshot, with a name for what it seems to be.
    """
    if data[:1] == b"\x80":
        return "pickle"
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start[:1] in (b"{", b"["):
        return "json"
    if start[:1] == b"<" and (b"<html" in start.lower() or b"<!doctype html" in start.lower()):
        return "html"
    raise ForeignInput(
        "this is no memory snapshot",
        where=source,
        why=_looks_like(data),
        next_step="snapshots are written by torch.cuda.memory._dump_snapshot(FILE) and by oomdoctor trace",
    )


def _looks_like(data: bytes) -> str:
    if data[:4] == b"PK\x03\x04":
        return "it is a zip archive; torch.save writes such files, _dump_snapshot does not"
    if data[:4] in (b"\x28\xb5\x2f\xfd", b"\xfd7zX", b"BZh9"):
        return "it is compressed with something other than gzip; decompress it first"
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; the file itself was not fetched (git lfs pull)"
    if data[:1] in (b"(", b"]", b"}") or data[:2] in (b"(d", b"(l"):
        return "it may be a pickle of protocol 0 or 1, which torch does not write"
    return "it starts with " + ascii(data[:16].decode("latin-1"))


def embedded_pickle(html: bytes, source: str) -> bytes:
    """The snapshot inside a page that ``torch/cuda/_memory_viz.py`` wrote (its first, if it holds several).

    Raises:
        TruncatedInput: the page ends in the middle of it.
        ForeignInput: no snapshot in it.
    """
    found = _EMBEDDED.search(html)
    if found is None:
        if b"</html>" not in html[-4096:].lower() and b"</body>" not in html[-4096:].lower():
            raise TruncatedInput("the HTML page ends before it is complete", where=source)
        raise ForeignInput(
            "this HTML page holds no snapshot",
            where=source,
            why="no embedded file as python -m torch.cuda._memory_viz writes it",
        )
    if not found.group(2):
        if found.end() == len(html):
            raise TruncatedInput("the HTML page ends in the middle of its snapshot", where=source)
        raise ForeignInput("the snapshot in this HTML page is damaged: not base64", where=source)
    try:
        # The writer pads the pickle with zeros, which lie behind its STOP.
        return base64.b64decode(found.group(1))
    except binascii.Error as error:
        raise ForeignInput(
            "the snapshot in this HTML page is damaged", where=source, why=str(error)
        ) from error
