"""Files cut short and damaged at random: read or refused, both readers of one mind, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from oomdoctor.errors import EmptyInput, InputError, TruncatedInput
from oomdoctor.snapshot import read_snapshot
from oomdoctor.snapshot.convert import to_snapshot
from oomdoctor.snapshot.limits import Limits
from oomdoctor.snapshot.model import Snapshot
from oomdoctor.snapshot.plain_pickle import load_plain_pickle
from oomdoctor.snapshot.read import _compiled
from oomdoctor.snapshot.rows import Source
from tests.snapshot.building import ordinary
from tests.snapshot.encoders import upstream
from tests.snapshot.same import differences
from tests.snapshot.test_hostile import BOMBS, HOSTILE

READERS = [Limits(streamed_bytes=0), Limits(streamed_bytes=1 << 60)]
WRITTEN = {
    "protocol 2": pickle.dumps(ordinary(), 2),
    "protocol 4": pickle.dumps(ordinary(), 4),
    "upstream": upstream(ordinary()),
    "gzip": gzip.compress(pickle.dumps(ordinary(), 5)),
    "json": json.dumps(ordinary()).encode(),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("limits", READERS, ids=["compiled", "careful"])
@pytest.mark.parametrize("written", WRITTEN)
def test_truncated_at_every_byte(tmp_path: Path, written: str, limits: Limits) -> None:
    if written == "json" and limits.streamed_bytes == 0:
        pytest.skip("there is one way to read JSON")
    data, path = WRITTEN[written], tmp_path / "cut"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        # One byte tells neither a gzip file nor a pickle.
        with pytest.raises((TruncatedInput, EmptyInput) if length > 1 else InputError):
            read_snapshot(path, limits)


def _careful(data: bytes) -> Optional[Snapshot]:
    try:
        return to_snapshot(load_plain_pickle(data, "x"), Source("x", size=len(data)))
    except InputError:
        return None


def _straight(data: bytes) -> Optional[Snapshot]:
    try:
        return _compiled("x", iter([data]), len(data), True)
    except InputError:
        return None


_OPCODES = bytes(range(0x80, 0x99)) + b"}](ueastjhqrKJMGXCNB.0dl)\x8a"


def _damage(rng: random.Random, data: bytes) -> bytes:
    """A few bytes set, put in, taken out, or moved; now and then by a byte that is an opcode."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(2, len(damaged))
        kind = rng.randrange(6)
        if kind == 0:
            damaged[at] = rng.randrange(256)
        elif kind == 1:
            damaged[at] = rng.choice(_OPCODES)
        elif kind == 2:
            damaged.insert(at, rng.choice(_OPCODES))
        elif kind == 3:
            del damaged[at : at + rng.choice((1, 1, 2, 5, 40))]
        elif kind == 4:
            start = rng.randrange(2, len(damaged))
            damaged[at:at] = damaged[start : start + rng.randrange(60)]
        else:
            damaged[at] ^= 1 << rng.randrange(8)
        if len(damaged) < 4:
            break
    return bytes(damaged)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("written", ["protocol 2", "protocol 4", "upstream"])
def test_thousands_of_damaged_files(written: str) -> None:
    rng = random.Random(20)
    read = 0
    for _ in range(2500):
        data = _damage(rng, WRITTEN[written])
        began = time.monotonic()
        careful, straight = _careful(data), _straight(data)
        assert time.monotonic() - began < 2
        if straight is not None and careful is not None:
            assert differences(straight, careful) == [], data
            read += 1
    assert read > 200, "damage to a number or a text leaves a file to read"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("streamed", [0, 1 << 60], ids=["compiled", "careful"])
def test_hostile_files_take_little_memory(tmp_path: Path, streamed: int) -> None:
    """All of them, one after another, in a process whose peak is measured."""
    for i, data in enumerate([*HOSTILE.values(), *(bomb() for bomb in BOMBS.values())]):
        (tmp_path / f"{i:03}").write_bytes(data)
    code = f"""
import pathlib, sys
from oomdoctor.errors import InputError
from oomdoctor.snapshot import read_snapshot
from oomdoctor.snapshot.limits import Limits
def peak():  # getrusage's begins with that of the process that started this one
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) >> 10
try: read_snapshot(sys.argv[1] + "/000", Limits(streamed_bytes={streamed}))
except InputError: pass
before = peak()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try: read_snapshot(path, Limits(streamed_bytes={streamed}))
    except InputError: pass
    else: print("READ", path.name)
    after = peak()
    if after - before > 20 * (path.stat().st_size >> 20) + 150: print("TOOK", after - before, path.name)
    before = max(before, after)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_nothing_is_said_twice(tmp_path: Path) -> None:
    """What both readers refuse has one message, whichever came first."""
    path: Any = tmp_path / "x"
    for data in HOSTILE.values():
        path.write_bytes(data)
        said = []
        for limits in READERS:
            with pytest.raises(InputError) as caught:
                read_snapshot(path, limits)
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]
