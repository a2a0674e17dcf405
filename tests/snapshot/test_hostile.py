"""Files from anybody: nothing executes, nothing hangs, each refusal has a clear message."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pickle
import struct
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomdoctor.errors import EmptyInput, ForeignInput, InputError, NewerInput, TruncatedInput, UnsafeInput
from oomdoctor.snapshot import read_snapshot
from oomdoctor.snapshot.limits import Limits
from oomdoctor.snapshot.plain_pickle import load_plain_pickle
from tests.snapshot.building import event, ordinary, snapshot

MARKER = "OOMDOCTOR_TEST_WAS_EXECUTED"


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"import os; os.environ[{MARKER!r}] = '1'",))


class _Builds:
    def __init__(self) -> None:
        self.x = 1


def _persistent() -> bytes:
    import io

    out = io.BytesIO()
    pickler = pickle.Pickler(out, 4)
    pickler.persistent_id = lambda obj: "id" if obj == 7 else None  # type: ignore[method-assign]
    pickler.dump([7])
    return out.getvalue()


_BOMB_TUPLE = b"\x80\x04K\x01K\x01\x86" + b"\x940h\x00h\x00\x86" * 60 + b"."
HOSTILE = {
    "reduce": pickle.dumps(_Runs(), 4),
    "reduce, protocol 2": pickle.dumps(_Runs(), 2),
    "reduce in a snapshot": pickle.dumps({**ordinary(), "x": _Runs()}, 4),
    "an object": pickle.dumps({"segments": [_Builds()]}, 4),
    "a subclass of dict": pickle.dumps(OrderedDict(ordinary()), 4),
    "global": b"\x80\x02cos\nsystem\n.",
    "inst": b"\x80\x02(S'x'\nios\nsystem\n.",
    "inst without arguments": b"\x80\x02(ios\nsystem\n.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "global without an end": b"\x80\x02cos",
    "build": b"\x80\x04}}b.",
    "newobj": b"\x80\x04})\x81.",
    "newobj_ex": b"\x80\x04})}\x92.",
    "obj": b"\x80\x04(K\x01o.",
    "extension 1": b"\x80\x04\x82\x01.",
    "extension 2": b"\x80\x04\x83\x01\x00.",
    "extension 4": b"\x80\x04\x84\x01\x00\x00\x00.",
    "persistent": _persistent(),
    "persistent text": b"\x80\x02Pid\n.",
    "a set": pickle.dumps({1, 2}, 4),
    "a frozenset": pickle.dumps(frozenset((1,)), 4),
    "a bytearray": pickle.dumps(bytearray(b"x"), 5),
    "out of band": b"\x80\x05\x97.",
    "out of band, read only": b"\x80\x05C\x01a\x98.",
    "a bytearray of 2^62": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b"ab.",
    "a put without a value": b"\x80\x02q\x00.",
    "a put across a mark": b"\x80\x02K\x01(q\x00.",
    "items across a mark": b"\x80\x02}K\x01(K\x02s.",
    "a pop": b"\x80\x04K\x01K\x020.",
    "protocol twice": b"\x80\x04\x80\x04}.",
    "a list of itself": b"\x80\x02]q\x00h\x00a.",
    "segments of itself": b"\x80\x02}X\x08\x00\x00\x00segments]q\x00h\x00as.",
    "lists nested deeply": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "dicts nested deeply": b"\x80\x04" + b"}N" * 100_000 + b"}" + b"s" * 100_000 + b".",
    "a bomb of tuples as a key": _BOMB_TUPLE[:-1] + b"}h\x00\x86.",
    "a deep tuple": b"\x80\x04" + b"K\x01\x85" + b"\x85" * 100_000 + b".",
    "a tuple of tuples as a key": b"\x80\x04}(" + b"K\x01" * 4000 + b"t\x94(" + b"h\x00" * 4000 + b"tNs.",
    "a long tuple as a key, often": b"\x80\x04}("
    + b"("
    + b"K\x01" * 100_000
    + b"t\x94N"
    + b"h\x00N" * 100_000
    + b"u.",
    "a million empty dicts": b"\x80\x04]\x94(" + b"}" * 4_000_000 + b"e.",
    "a memo slot of 2 GB": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a text of 2 GB": b"\x80\x04X\xff\xff\xff\x7fab.",
    "a text of 2^62": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"ab.",
    "bytes of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"ab.",
    "a frame of 2^62": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
    "a long of 2^31": b"\x80\x04\x8b\xff\xff\xff\x7f1.",
    "an empty stack": b"\x80\x04.",
    "a stack underflow": b"\x80\x04u.",
    "append to a dict": b"\x80\x04}K\x01a.",
    "a memo slot never filled": b"\x80\x04h\x07.",
    "a key that is a list": b"\x80\x04}]K\x01s.",
    "a text that is not UTF-8": b"\x80\x04\x8c\x06\xff\xff\xff\xff\xff\xff.",
    "no opcode": b"\x80\x04\xff\xff.",
    "dup": b"\x80\x04K\x012.",
}


# Made when they are asked for: some are large.
BOMBS: dict[str, Callable[[], bytes]] = {
    "marks": lambda: b"\x80\x04" + b"(" * (10 << 20) + b".",
    "puts": lambda: b"\x80\x04]" + b"\x94" * (10 << 20) + b".",
    "gets": lambda: b"\x80\x04]\x94(" + b"h\x00" * (5 << 20) + b"e.",
    "none": lambda: b"\x80\x04](" + b"N" * (10 << 20) + b"e.",
    "one dict as all rows": lambda: b"\x80\x04](}\x94(\x8c\x07address\x94K\x01u" + b"h\x00" * (5 << 20) + b"e.",
    "dicts": lambda: b"\x80\x04](" + b"}" * (10 << 20) + b"e.",
    "lists": lambda: b"\x80\x04](" + b"]" * (10 << 20) + b"e.",
    "tuples": lambda: b"\x80\x04](" + b"N\x85" * (5 << 20) + b"e.",
    "tuples of tuples": lambda: b"\x80\x04N" + b"\x85" * (5 << 20) + b".",
    "keys": lambda: b"\x80\x04}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(1 << 20)) + b"u.",
    "a dict grown key by key": lambda: b"\x80\x04}" + b"".join(b"M" + struct.pack("<H", i) + b"Ns" for i in range(1 << 16)) + b".",
    "shapes": lambda: b"\x80\x04](" + b"".join(b"}J" + struct.pack("<i", i) + b"Ns" for i in range(1 << 17)) + b"e.",
    "lists grown": lambda: b"\x80\x04](" + (b"](" + b"N" * 500 + b"eNa") * 4000 + b"e.",
    "numbers": lambda: b"\x80\x04](" + b"M\xff\xff" * (3 << 20) + b"e.",
    "floats": lambda: b"\x80\x04](" + b"G12345678" * (1 << 20) + b"e.",
    "a gzip of marks": lambda: gzip.compress(b"\x80\x04" + b"(" * (60 << 20)),
    "a gzip of puts": lambda: gzip.compress(b"\x80\x04]" + b"\x94" * (60 << 20)),
    "a gzip of lists": lambda: gzip.compress(b"\x80\x04" + b"]" * (60 << 20)),
    "a gzip of zeros": lambda: gzip.compress(b"\x80\x04" + b"\x00" * (200 << 20)),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[name]())
    for limits in (Limits(), Limits(streamed_bytes=0)):
        began = time.monotonic()
        with pytest.raises(InputError):
            read_snapshot(path, limits)
        assert time.monotonic() - began < 8


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_quickly(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.pickle"
    path.write_bytes(HOSTILE[name])
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_snapshot(path)
    assert time.monotonic() - began < 3
    assert MARKER not in os.environ
    assert str(path) in str(caught.value)
    assert caught.value.why or caught.value.what


@pytest.mark.parametrize(
    ("name", "asked_for"),
    [
        ("reduce", "builtins.exec"),
        ("reduce, protocol 2", "exec"),
        ("global", "os.system"),
        ("inst without arguments", "os.system"),
        ("stack global", "os.system"),
        ("an object", "_Builds"),
        ("a subclass of dict", "collections.OrderedDict"),
        ("extension 1", "EXT1"),
        ("persistent", "PERSID"),
        ("build", "BUILD"),
    ],
)
def test_a_refusal_names_what_was_asked_for(tmp_path: Path, name: str, asked_for: str) -> None:
    path = tmp_path / "hostile.pickle"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(UnsafeInput, match=asked_for.replace(".", r"\.")):
        read_snapshot(path)


def test_a_warm_extension_cache_does_not_open_a_door(tmp_path: Path) -> None:
    import copyreg

    copyreg.add_extension("os", "system", 77)
    try:
        assert pickle.loads(b"\x80\x02\x82\x4d.") is os.system  # the cache is warm now
        path = tmp_path / "extension.pickle"
        path.write_bytes(b"\x80\x02\x82\x4d.")
        with pytest.raises(UnsafeInput, match="EXT1"):
            read_snapshot(path)
    finally:
        copyreg.remove_extension("os", "system", 77)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_at_every_percent(tmp_path: Path, protocol: int, compressed: bool) -> None:
    plain = snapshot(traces=[[event("alloc", i, frames=[{"name": f"f{i}"}]) for i in range(2000)]])
    data = pickle.dumps(plain, protocol)
    data = gzip.compress(data) if compressed else data
    path = tmp_path / "cut.pickle"
    for percent in range(100):
        path.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises((TruncatedInput, EmptyInput)):
            read_snapshot(path)


def test_truncated_json_and_html(tmp_path: Path) -> None:
    from tests.snapshot.test_read import _html

    path = tmp_path / "cut"
    for data in (json.dumps(ordinary()).encode(), _html(pickle.dumps(ordinary(), 4))):
        start = 40
        for percent in range(100):
            path.write_bytes(data[: start + (len(data) - start - 60) * percent // 100])
            with pytest.raises(TruncatedInput):
                read_snapshot(path)


def test_what_it_is_instead(tmp_path: Path) -> None:
    cases: list[tuple[bytes, type[InputError], str]] = [
        (b"", EmptyInput, "empty"),
        (gzip.compress(b""), EmptyInput, "nothing"),
        (b"PK\x03\x04....", ForeignInput, "zip"),
        (b"version https://git-lfs.github.com/spec/v1\n", ForeignInput, "LFS"),
        (b"Traceback (most recent call last)", ForeignInput, "starts with"),
        (b"(dp0\nS'segments'\n", ForeignInput, "protocol 0"),
        (b"\x80\x06}.", NewerInput, "protocol 6"),
        (b"\x80\x00}.", ForeignInput, "protocol 0"),
        (pickle.dumps({"weights": [1]}), ForeignInput, "no segments"),
        (pickle.dumps(3), ForeignInput, "int"),
        (pickle.dumps({"segments": 3}), ForeignInput, "not a list"),
        (pickle.dumps({"segments": [3]}), ForeignInput, "not a dict"),
        (pickle.dumps({"segments": [{"x": 1}]}), ForeignInput, "no address"),
        (b'{"segments": [{"address": "0x1", "blocks": []}]}', ForeignInput, "whole numbers"),
        (b'{"segments": [{"address": 1.5, "blocks": []}]}', ForeignInput, "whole numbers"),
        (b'{"segments": [}', ForeignInput, "JSON"),
        (b"[" * 100_000 + b"]" * 100_000, UnsafeInput, "deep"),
        (b'{"segments": ' + b"9" * 5000 + b"}", UnsafeInput, "digits"),
        (b"<!DOCTYPE html><html><body>hello</body></html>", ForeignInput, "no snapshot"),
    ]
    path = tmp_path / "given"
    for data, error, says in cases:
        path.write_bytes(data)
        with pytest.raises(error) as caught:
            read_snapshot(path)
        assert says in str(caught.value), (data[:40], str(caught.value))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_snapshot(tmp_path / "nowhere")


@pytest.mark.timeout(60)
def test_a_decompression_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\x80\x04" + b"]" * (300 << 20)))
    with pytest.raises(UnsafeInput, match="unfold"):
        read_snapshot(path)


@pytest.mark.timeout(20)
def test_one_list_named_a_thousand_times(tmp_path: Path) -> None:
    trace = [event("alloc", 1)] * 50_000
    path = tmp_path / "again.pickle"
    path.write_bytes(pickle.dumps(snapshot(traces=[trace]), 4))
    assert len(read_snapshot(path).traces[0]) == 50_000
    blocks = [{"address": 0, "size": 512, "state": "inactive"}] * 20_000
    one = {"address": 0, "total_size": 1, "blocks": blocks}
    path.write_bytes(pickle.dumps({"segments": [one] * 20_000}, 4))
    with pytest.raises(UnsafeInput, match="over and over"):
        read_snapshot(path)


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(_plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_values_come_out_as_they_went_in(value: Any, protocol: int) -> None:
    try:
        assert load_plain_pickle(pickle.dumps(value, protocol), "x") == value
    except UnsafeInput:
        # Protocol 2 has no bytes of its own: it writes a call of _codecs.encode, or of bytes().
        assert protocol == 2


def test_tuples_of_anything_are_plain() -> None:
    for value in (
        (),
        ("a", "b"),
        {("a", (1, "b")): (None, ({},))},
        [(1,), (1, 2), (1, 2, 3)] * 9,
        (1, 2, 3, 4),
        [("a", i, (i, "b")) for i in range(50)],
        {("a", i, "b", i): tuple(range(i)) for i in range(50)},
    ):
        assert load_plain_pickle(pickle.dumps(value, 4), "x") == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_plain(tail: bytes) -> None:
    try:
        value = load_plain_pickle(b"\x80\x04" + tail, "x")
    except InputError:
        return
    assert type(value) in (dict, list, tuple, str, bytes, int, float, bool, type(None))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_snapshots_are_read_or_refused(data: Any) -> None:
    whole = bytearray(pickle.dumps(ordinary(), 4))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    from oomdoctor.snapshot.convert import to_snapshot
    from oomdoctor.snapshot.rows import Source

    with contextlib.suppress(InputError):
        to_snapshot(load_plain_pickle(bytes(whole), "x"), Source("x", size=len(whole)))
