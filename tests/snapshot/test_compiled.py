"""The compiled machine gives what the careful reader gives, or leaves the file to it."""

from __future__ import annotations

import copy
import gzip
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomdoctor.errors import InputError
from oomdoctor.snapshot import read_snapshot
from oomdoctor.snapshot.decoded import Declined, Decoded
from oomdoctor.snapshot.limits import Limits
from oomdoctor.snapshot.model import Snapshot
from oomdoctor.snapshot.read import _compiled
from tests.snapshot.building import CACHE, LIBRARY, TORCH, USER, event, frame, ordinary, segment, snapshot
from tests.snapshot.encoders import PICKLERS, upstream
from tests.snapshot.same import differences

COMPILED, CAREFUL = Limits(streamed_bytes=0), Limits(streamed_bytes=1 << 60)


def _both(path: Path, data: bytes) -> tuple[Any, Any]:
    path.write_bytes(data)
    found = []
    for limits in (COMPILED, CAREFUL):
        try:
            found.append(read_snapshot(path, limits))
        except InputError as error:
            found.append((type(error), str(error)))
    return found[0], found[1]


def _straight(data: bytes, event_stacks: bool = True) -> Snapshot:
    """By the machine, which must not decline."""
    found = _compiled("x", iter([data]), len(data), event_stacks)
    assert found is not None, "declined"
    return found


def _long(events: int = 5000) -> Any:
    """More items than a batch of the pickler has, stacks repeated, fields of every era."""
    rng = random.Random(4)
    frames = [TORCH, LIBRARY, USER, CACHE, *(frame(f"f{i}", "a.py", i) for i in range(20))]
    stacks = [[rng.choice(frames) for _ in range(rng.randrange(9))] for _ in range(30)]
    trace = []
    for i in range(events):
        one = event(
            rng.choice(("alloc", "free_requested", "oom")),
            rng.randrange(1 << rng.randrange(1, 40)),
            addr=rng.randrange(1 << 47),
            stream=rng.choice((0, 1 << 47)),
            time_us=1_795_256_895_914_493 + i,
        )
        if rng.random() < 0.9:
            one["frames"] = list(rng.choice(stacks))
        if rng.random() < 0.1:
            one["user_metadata"] = rng.choice(("a", "b"))
        if rng.random() < 0.1:
            one["forward_frames"] = ['  File "a.py", line 1\n', "    x\n"]
        trace.append(one)
    host = [event("segment_alloc", 1, addr=5, frames=stacks[0]), event("alloc", 1, addr=5)]
    return {**ordinary(), "device_traces": [trace, [], trace[:7]], "host_segments": [], "host_traces": host}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("pickler", PICKLERS)
def test_every_pickler_and_protocol(tmp_path: Path, pickler: str, protocol: int) -> None:
    for plain in (ordinary(), _long(), ordinary()["segments"]):
        data = PICKLERS[pickler](plain, protocol)
        careful = _both(tmp_path / "x", data)[1]
        assert differences(_straight(data), replaced(careful)) == []


def replaced(found: Snapshot) -> Snapshot:
    from dataclasses import replace

    return replace(found, source="x")


def test_upstreams_pickler(tmp_path: Path) -> None:
    for plain in (ordinary(), _long()):
        data = upstream(plain)
        assert pickle.loads(data) == plain
        careful = _both(tmp_path / "x", data)[1]
        assert differences(_straight(data), replaced(careful)) == []


def test_without_event_stacks(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps(_long(), 4))
    compiled, careful = (read_snapshot(path, limits, event_stacks=False) for limits in (COMPILED, CAREFUL))
    assert (compiled.traces[0].stack == -1).all()
    assert differences(compiled, careful) == []


def test_gzip_is_read_piece_by_piece(tmp_path: Path) -> None:
    compiled, careful = _both(tmp_path / "x.gz", gzip.compress(pickle.dumps(_long(), 4)))
    assert isinstance(compiled, Snapshot)
    assert differences(compiled, careful) == []


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_pieces_may_end_anywhere(step: int) -> None:
    plain = _long(40)
    for data in (pickle.dumps(plain, 4), upstream(plain)):
        decoded = Decoded(0)
        first = step if step > 1 else 2
        pieces = [data[:first], *(data[i : i + step] for i in range(first, len(data), step))]
        assert decoded.feed(iter(pieces)) == len(data)
        assert decoded.value(decoded.root) == plain


def test_little_room_at_first_changes_nothing() -> None:
    plain = {**_long(30_000), "text": "x" * 3_000_000, "texts": [f"text {i}" for i in range(5000)]}
    data = pickle.dumps(plain, 4)
    decoded = Decoded(0)
    decoded.feed(iter([data]))
    assert decoded.value(decoded.root) == plain


_numbers = (
    st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([0, 255, 256, 65535, 65536, -1, 2**31, 2**59, -(2**59) - 1, 2**63, None, True, 2.0, 2.5])
)  # fmt: skip
_anything = st.recursive(
    st.none() | st.booleans() | _numbers | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=4,
)
_FRAMES = [TORCH, LIBRARY, USER]
_stacks = st.lists(st.sampled_from(_FRAMES), max_size=3) | st.none()
_events = st.fixed_dictionaries(
    {"action": st.sampled_from(["alloc", "oom", "snapshot", "invented"])},
    optional={
        "addr": _numbers,
        "device_free": _numbers,
        "size": _numbers,
        "stream": _numbers,
        "time_us": _numbers,
        "frames": _stacks,
        "pool_id": st.tuples(_numbers, _numbers) | st.none() | st.just([1, 2]) | st.just((0, 0)),
        "user_metadata": st.text(max_size=2) | _anything,
        "compile_context": st.sampled_from(["N/A", "", "0/0"]),
        "forward_frames": st.lists(st.text(max_size=2), max_size=2),
        "internal_metadata": st.text(max_size=1),
        "something_new": _anything,
    },
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(_events, max_size=5), max_size=2),
    st.dictionaries(
        st.sampled_from(["host_traces", "host_segments", "new", "allocator_settings"]), _anything
    ),
    st.sampled_from([2, 4, 5]),
)
def test_whatever_the_fields_hold(tmp_path_factory: Any, traces: Any, more: Any, protocol: int) -> None:
    plain = snapshot(segment(512, ordinary()["segments"][0]["blocks"][0]), traces=traces, **more)
    data = pickle.dumps(copy.deepcopy(plain), protocol)
    compiled, careful = _both(tmp_path_factory.getbasetemp() / "hypothesis", data)
    assert differences(compiled, careful) == []


@settings(max_examples=300, deadline=None)
@given(_anything, st.sampled_from([3, 4, 5]))
def test_any_plain_value(value: Any, protocol: int) -> None:
    decoded = Decoded(0)
    decoded.feed(iter([pickle.dumps(value, protocol)]))
    assert decoded.value(decoded.root) == value


def _grown() -> Iterator[tuple[str, bytes, Any]]:
    yield (
        "two batches of a dict",
        b"\x80\x02}(X\x01\x00\x00\x00aK\x01u(X\x01\x00\x00\x00bK\x02u.",
        {"a": 1, "b": 2},
    )
    yield "one by one", b"\x80\x02}X\x01\x00\x00\x00aK\x01sX\x01\x00\x00\x00bK\x02s.", {"a": 1, "b": 2}
    yield "equal lists, one grown", b"\x80\x02](](K\x01K\x02e](K\x01K\x02e(K\x03ee.", [[1, 2], [1, 2, 3]]
    yield (
        "the first of them grown",
        b"\x80\x02](](K\x01K\x02eq\x01](K\x01K\x02eh\x01K\x03ae.",
        [[1, 2, 3], [1, 2], [1, 2, 3]],
    )
    yield "grown twice", b"\x80\x02](K\x01K\x02e(K\x03K\x04eK\x05a.", [1, 2, 3, 4, 5]
    yield "lists in lists", b"\x80\x02](](K\x01e](K\x01e](](K\x01eee.", [[1], [1], [[1]]]
    yield "a long tuple", b"\x80\x02(K\x01K\x02K\x03K\x04t.", (1, 2, 3, 4)
    yield (
        "numbers",
        b"\x80\x02(J\xff\xff\xff\xff\x8a\x00\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00M\xff\xfft.",
        (-1, 0, 2**64 - 1, 65535),
    )


@pytest.mark.parametrize("case", list(_grown()), ids=lambda case: str(case[0]))
def test_containers_that_grow(case: tuple[str, bytes, Any]) -> None:
    _, data, value = case
    assert pickle.loads(data) == value
    decoded = Decoded(0)
    decoded.feed(iter([data]))
    assert decoded.value(decoded.root) == value


def test_a_recording_read_twice_takes_no_second_look() -> None:
    """Equal stacks lie once in the arena, whatever their number."""
    stacks = [[frame(f"f{i}", "a.py", j) for j in range(9)] for i in range(3000)]
    once = [event("alloc", 1, frames=list(stack)) for stack in stacks]
    often = once + [event("alloc", 1, frames=list(stack)) for stack in stacks * 9]
    sizes = []
    for trace in (once, often):
        decoded = Decoded(0)
        decoded.feed(iter([pickle.dumps(trace, 4)]))
        sizes.append(sum(array.nbytes for name, array in decoded._arrays.items() if name == "arena"))
    assert sizes[1] < 12 * sizes[0]


def test_what_is_declined() -> None:
    for data in (
        b"\x80\x04cos\nsystem\n.",
        b"\x80\x04K\x012.",
        b"\x80\x04]",
        b"\x80\x04.",
        b"\x80\x04K\x01K\x02.",
        b"\x80\x02}(K\x01K\x02K\x03u.",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        b"\x80\x02}K\x01K\x02sh\x05.",
        b"\x80\x02(K\x01\x86.",
        b"\x80\x02](K\x01ae.",
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x40K\x01.",
        b"\x80\x04\x95\x04\x00\x00\x00\x00\x00\x00\x00K\x01.",
        b"\x80\x02]q\x05h\x03a.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x04\x8c\x05abc.",
    ):
        with pytest.raises(Declined):
            Decoded(0).feed(iter([data]))


@pytest.mark.parametrize(
    "hindrance",
    ["sys.modules['numba'] = None", "import numba; numba.njit = lambda **_: no_folder"],
    ids=["no Numba", "no folder for what it compiles"],
)
def test_without_the_machine(tmp_path: Path, hindrance: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps(_long(100), 4))
    code = f"""
import sys
def no_folder(function): raise RuntimeError("cannot cache function: no locator available")
{hindrance}
from oomdoctor.snapshot import read_snapshot
from oomdoctor.snapshot.limits import Limits
print(len(read_snapshot(sys.argv[1], Limits(streamed_bytes=0)).traces[0]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout.split() == ["100"], done.stderr
