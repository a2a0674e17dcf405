"""The stream: blocks, lines, encodings, odd input, time and memory."""

from __future__ import annotations

import io
import random
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomdoctor.message import read_stream, read_text, reader
from oomdoctor.message.grammars import GRAMMARS, sightings
from oomdoctor.message.reader import TRIGGERS
from tests.message.formats import GIB, MIB, RELEASES, Numbers, torch_2_15

FILLER = (
    "2025-11-20 12:00:00,123 INFO trainer.py:104] step {n} loss 0.1234 lr 0.001 tokens/s 1234 memory usage"
    " fine\n"
)


def message(n: int) -> str:
    return torch_2_15(
        Numbers(n % 8, (64 + 2 * n) * MIB, 80 * GIB, 10 * MIB, 70 * GIB, 5 * GIB, this_process=79 * GIB)
    )


def log(lines: int, at: tuple[int, ...]) -> str:
    return "".join(message(n) + "\n" if n in at else FILLER.format(n=n) for n in range(lines))


def test_line_numbers_across_blocks() -> None:
    at = (0, 7, 8_000, 11_903, 20_000, 29_999)
    ooms = read_text(log(30_000, at)).ooms
    assert [facts.line for facts in ooms] == [n + 1 for n in at]


@pytest.mark.parametrize("block", [1, 7, 100, 1000, 4096])
def test_block_size_does_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = log(60, (3, 20, 21, 50))
    whole = read_text(text).ooms
    monkeypatch.setattr(reader, "BLOCK_BYTES", block)
    assert read_text(text).ooms == whole
    assert len(whole) == 4


def test_nothing_but_messages() -> None:
    count = 3000
    reading = read_text("".join(message(n) + "\n" for n in range(count)))
    assert [facts.line for facts in reading.ooms] == list(range(1, count + 1))


def test_one_line_of_megabytes() -> None:
    text = "x" * 3_000_000 + " " + message(1) + " " + "y" * 3_000_000 + " " + message(2)
    assert [facts.requested_bytes for facts in read_text(text).ooms] == [66 * MIB, 68 * MIB]


def test_one_line_of_nothing_but_messages() -> None:
    count = 450  # below 1 GiB, where printed requests still differ
    reading = read_text(" ".join(message(n) for n in range(count)))
    assert len({facts.requested_bytes for facts in reading.ooms}) == count


def test_utf16_as_windows_shells_write_it() -> None:
    reading = read_stream(io.BytesIO(log(50, (20,)).encode("utf-16")))
    assert len(reading.ooms) == 1
    assert reading.ooms[0].line == 21


def test_crlf_and_progress_bars() -> None:
    text = "loading: 10%\rloading: 100%\r\n" + message(1).replace(". ", ".\r\n") + "\r\n"
    assert len(read_text(text).ooms) == 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_no_bytes_make_it_crash(data: bytes) -> None:
    read_stream(io.BytesIO(data))


PIECES = [trigger.decode("utf-8", errors="replace") for trigger in TRIGGERS] + [
    needle for grammar in GRAMMARS for needle in grammar.needles
]
PIECES += [
    "1.24 GiB",
    "GPU 0",
    "(",
    ")",
    "\n",
    "\\n",
    "\x1b[31m",
    "[rank1]: ",
    "| ",
    " ",
    "12",
    ";",
    ".",
    "'",
    "of which",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=80))
def test_no_mixture_of_its_own_words_makes_it_crash(pieces: list[str]) -> None:
    for facts in read_text(" ".join(pieces)).ooms:
        assert facts.line is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40), st.integers(0, 1 << 40))
def test_sightings_do_not_overlap(pieces: list[str], size: int) -> None:
    found = sightings(
        " ".join([*pieces, RELEASES[-1].write(Numbers(0, size, size, size, size, size)), *pieces])
    )
    assert all(one.end <= other.start for one, other in zip(found, found[1:]))


def seconds(data: bytes) -> float:
    start = time.perf_counter()
    read_stream(io.BytesIO(data))
    return time.perf_counter() - start


HOSTILE = {
    "digits": b"to allocate " + b"1" * 200_000,
    "sizes": b"out of memory " + b"1.00 GiB " * 22_000,
    "commas": b"to allocate " + b"1," * 100_000,
    "spaces": b"Tried to allocate" + b" " * 200_000 + b"1 GiB",
    "newlines": b"Tried to allocate" + b"\n" * 200_000 + b"1 GiB",
    "parentheses": b"out of memory" + b"(" * 200_000,
    "pipes": b"| " * 100_000 + b"out of memory",
    "backslashes": b"\\" * 200_000 + b"n out of memory",
    "words": b"CUDA out of memory " * 3_000,
    "processes": b"out of memory " + b"Process 1 has 1.00 GiB memory in use. " * 5_000,
    "escape": b"out of memory \x1b]" * 14_000,
    "nccl": b"NCCL WARN Cuda failure 'out of memory' " * 2_000,
    "kv": b"KV cache is needed " * 10_000,
    "allocating": b"allocating 1.00 MiB on device 0: cudaMalloc failed " * 4_000,
    "assert": b"NVML_SUCCESS == " * 12_000,
    "long-names": b"Cuda Error in " + b"a" * 200_000 + b": 2 (out of memory)",
    "prefixes": b"[rank1]: " * 20_000 + b"out of memory",
    "rmm": b"RMM failure at" + b": x" * 60_000 + b" out_of_memory",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_takes_linear_time(name: str) -> None:
    """Four times the input takes well under sixteen times as long, which is what a quadratic search would take."""
    data = HOSTILE[name]
    seconds(data[: len(data) // 4])
    small = min(seconds(data) for _ in range(2))
    large = seconds(data * 4)
    assert large < 10 * small + 0.5, (small, large)
    assert small < 3


def test_memory_does_not_grow_with_the_log() -> None:
    class Endless(io.RawIOBase):
        """A log of 24 MB made as it is read."""

        def __init__(self) -> None:
            self.left = 24
            self.block = (FILLER * 10_000).encode()[: 1 << 20]

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return self.block if self.left >= 0 else b""

    tracemalloc.start()
    read_stream(Endless())  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_fuzz_by_changing_bytes_of_messages() -> None:
    rng = random.Random(7)
    text = "\n".join(
        release.write(Numbers(1, GIB, 8 * GIB, MIB, 6 * GIB, GIB)) for release in RELEASES
    ).encode()
    for _ in range(300):
        data = bytearray(text)
        for _ in range(rng.randrange(1, 30)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        read_stream(io.BytesIO(bytes(data)))


def test_a_servers_everyday_lines_are_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM prints its cache usage every few seconds; a message among such lines is still found."""
    regions: list[int] = []
    region = reader._Reader._region
    monkeypatch.setattr(
        reader._Reader,
        "_region",
        lambda self, begin, end: (regions.append(end - begin), region(self, begin, end)),
    )
    line = "INFO metrics.py:334] Running: 3 reqs, GPU KV cache usage: 3.2%, CPU KV cache usage: 0.0%.\n"
    assert reader.read_text(line * 2000).ooms == ()
    assert regions == []
    refusal = (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.\n"
    )
    assert len(reader.read_text(line * 1000 + refusal + line * 1000).ooms) == 1
    assert sum(regions) < 100 * len(line)
