"""Which PyTorch's allocator is meant: a release as two numbers."""

from __future__ import annotations

import re
from typing import Optional

from oomdoctor.errors import UsageError

TorchVersion = tuple[int, int]

OLDEST: TorchVersion = (2, 0)
NEWEST: TorchVersion = (2, 15)

# "2.11", "2.11.0", "2.11.0+cu130", "2.15.0a0+git1234", "v2.3.1": what torch.__version__ and tags look like.
_VERSION = re.compile(r"\s*v?(\d{1,3})\.(\d{1,3})(?![\d])[\w.+-]*\s*", re.ASCII)


def parse_torch_version(text: str) -> TorchVersion:
    """``"2.11.0+cu130"`` as (2, 11).

    Raises:
        UsageError: it is no version of PyTorch, or one before 2.0, whose allocator has other rules.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is not a version of PyTorch",
            next_step='give it as torch.__version__ shows it, for example "2.11.0" or "2.11"',
        )
    version = (int(match.group(1)), int(match.group(2)))
    if version < OLDEST:
        raise UsageError(
            f"the allocator of PyTorch {version[0]}.{version[1]} is not known here",
            why="its rules and its recordings differ from those of 2.0 and later",
            next_step="name the release of 2.0 to 2.15 that you mean to compare with",
        )
    return version


def newer_than_known(version: TorchVersion) -> Optional[str]:
    """A note where a release is newer than those whose rules are known; None where it is not."""
    if version <= NEWEST:
        return None
    return (
        f"PyTorch {version[0]}.{version[1]} is newer than {NEWEST[0]}.{NEWEST[1]}, the newest whose "
        f"allocator is known here; the rules of {NEWEST[0]}.{NEWEST[1]} are used."
    )
