"""Files of this machine by their path, and of shared storage by their URL (``s3://``, ``gs://``, ``file://``).

URLs are read through fsspec, which is imported when there is one: it takes longer than all the rest, and need
not be installed. Whatever a storage raises arrives as an OSError, so callers treat both alike.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import Any, Union

from oomdoctor.errors import UsageError

Path = Union[str, "os.PathLike[str]"]

_BUFFER = 1 << 20
# What fsspec needs for a protocol.
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
}
# "chained::urls" of fsspec are left out: a C++ name in a message looks like one.
_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+")


def is_url(path: Path) -> bool:
    """Whether it names something by protocol, and is one word: a message that quotes an address is none."""
    return isinstance(path, str) and _URL.fullmatch(path) is not None


def _filesystem(url: Path) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path within it.

    Raises:
        UsageError: fsspec, or what it needs for this protocol, is not installed; no such protocol.
    """
    where = os.fspath(url)
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UsageError(
            "fsspec is not installed, which reads what URLs name",
            where=where,
            next_step="pip install 'oomdoctor[cluster]', or copy the folder here and give its path",
        ) from error
    try:
        found: tuple[Any, str] = url_to_fs(where)
    except ImportError as error:
        raise UsageError(
            "the package for this protocol is not installed",
            where=where,
            why=str(error),
            next_step=f"install it beside oomdoctor: {_packages(where.partition('://')[0])}",
        ) from error
    except ValueError as error:
        raise UsageError(
            "no storage is known by this protocol",
            where=where,
            why=str(error),
            next_step="copy the folder here and give its path, or write it as s3://, gs://, file://, http://",
        ) from error
    except Exception as error:  # whatever a client raises that lacks credentials
        raise UsageError(
            "the storage cannot be used",
            where=where,
            why=_told(error),
            next_step="see that its own tool reaches it from here, with the same credentials",
        ) from error
    return found


def _packages(protocol: str) -> str:
    """What reads a protocol, as for pip; where that is not known, that of the usual ones."""
    package = _PACKAGES.get(protocol)
    if package is not None:
        return f"pip install {package}"
    usual = ("s3", "gs", "abfs", "http")
    return ", ".join(f"{_PACKAGES[one]} for {one}://" for one in usual)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """A storage's own errors, of which there are as many as storages, as OSError."""
    try:
        yield
    except (OSError, UsageError):
        raise
    except Exception as error:
        raise OSError(_told(error)) from error


class _Raw(io.RawIOBase):
    """A file of a storage whose errors are OSErrors; for a BufferedReader."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _as_os_error():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _as_os_error():
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def opened(path: Path) -> io.BufferedReader:
    """A file to read bytes from.

    Raises:
        OSError: it cannot be opened; reading raises it too.
    """
    if not is_url(path):
        return open(path, "rb")
    with _as_os_error():
        files, inside = _filesystem(path)
        return io.BufferedReader(_Raw(files.open(inside, "rb")), _BUFFER)


def kind(path: Path) -> str:
    """ "file", "folder", or "" where there is none.

    Raises:
        OSError: a storage does not say.
    """
    if not is_url(path):
        return "folder" if os.path.isdir(path) else "file" if os.path.exists(path) else ""
    with _as_os_error():
        files, inside = _filesystem(path)
        try:
            found = files.info(inside)
        except FileNotFoundError:
            return ""
    return "folder" if found.get("type") == "directory" else "file"


def is_folder(path: Path) -> bool:
    """Whether there is a folder."""
    try:
        return kind(path) == "folder"
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Whether there is a file."""
    if not is_url(path):
        return os.path.isfile(path)
    try:
        return kind(path) == "file"
    except OSError:
        return False


def entries(path: Path) -> list[tuple[str, bool]]:
    """What is in a folder: names, and whether each is a folder; sorted by name.

    Raises:
        OSError: there is no such folder.
    """
    if not is_url(path):
        with os.scandir(path) as found:
            return sorted((entry.name, entry.is_dir()) for entry in found)
    with _as_os_error():
        files, inside = _filesystem(path)
        listed = files.ls(inside, detail=True)
        return sorted(
            (one["name"].rstrip("/").rpartition("/")[2], one["type"] == "directory")
            for one in listed
            # An object store lists the folder itself where somebody made a marker for it.
            if one["name"].strip("/") != inside.strip("/")
        )


def size_of(path: Path) -> int:
    """Bytes of a file.

    Raises:
        OSError: it is not there.
    """
    if not is_url(path):
        return os.path.getsize(path)
    with _as_os_error():
        files, inside = _filesystem(path)
        return int(files.size(inside) or 0)


def state_of(path: Path) -> str:
    """Another text after another file was put in its place.

    Raises:
        OSError: it is not there.
    """
    if not is_url(path):
        found = os.stat(path)
        return f"{found.st_size} {found.st_mtime_ns}"
    with _as_os_error():
        files, inside = _filesystem(path)
        files.invalidate_cache()
        return str(files.ukey(inside))


def absolute(path: str) -> str:
    """A path that means the same in every working directory; a URL does already."""
    return path if is_url(path) else os.path.abspath(path)
