"""Numbers put into a release's format, wrapped, coloured, prefixed, quoted and read back."""

from __future__ import annotations

import json
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomdoctor.message import read_text
from tests.message.formats import RELEASES, Numbers, Release, printed

sizes = st.one_of(
    st.integers(0, 1 << 50),
    st.integers(0, 1 << 20).map(lambda n: n * 512),
    st.sampled_from(
        [0, 1, 1023, 1024, 1025, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 30) - 1, 1 << 30, (1 << 30) + 1]
    ),
)
numbers = st.builds(
    Numbers,
    device=st.integers(0, 15),
    requested=sizes,
    total=sizes,
    free=sizes,
    allocated=sizes,
    unallocated=sizes,
    allowed=st.none() | sizes,
    this_process=st.none() | sizes,
    processes=st.lists(st.tuples(st.integers(1, 4_194_304), sizes), max_size=3, unique_by=lambda p: p[0]).map(
        tuple
    ),
    pools=st.just(0) | sizes,
)
releases = st.sampled_from(RELEASES)
examples = settings(max_examples=150, deadline=None)


def assert_reads_back(text: str, release: Release, n: Numbers) -> None:
    ooms = read_text(text).ooms
    assert len(ooms) == 1, text
    facts = ooms[0]
    assert facts.kind == "oom"
    assert facts.device == n.device
    assert facts.requested_bytes == printed(n.requested)
    assert facts.total_bytes == printed(n.total)
    assert facts.free_bytes == printed(n.free)
    assert facts.allocated_bytes == printed(n.allocated)
    assert facts.reserved_bytes == (printed(n.allocated + n.unallocated) if release.reserved else None)
    assert facts.reserved_unallocated_bytes == (printed(n.unallocated) if release.unallocated else None)
    assert facts.allowed_bytes == (printed(n.allowed) if release.allowed and n.allowed is not None else None)
    assert facts.private_pool_bytes == (printed(n.pools) if release.pools and n.pools else None)
    if release.processes:
        assert facts.process_in_use_bytes == (printed(n.this_process) if n.this_process is not None else None)
        assert [(p.pid, p.bytes) for p in facts.other_processes] == [
            (pid, printed(size)) for pid, size in n.processes
        ]


@examples
@given(releases, numbers)
def test_plain(release: Release, n: Numbers) -> None:
    assert_reads_back(release.write(n), release, n)


@examples
@given(releases, numbers, st.integers(24, 120))
def test_wrapped_between_words(release: Release, n: Numbers, width: int) -> None:
    text = textwrap.fill(release.write(n), width, break_long_words=False, break_on_hyphens=False)
    assert_reads_back(text, release, n)


@examples
@given(releases, numbers, st.integers(60, 160))
def test_wrapped_hard_by_a_terminal(release: Release, n: Numbers, width: int) -> None:
    text = release.write(n)
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    # A break beside a space shows as a space at the end or start of a line, as terminals copy it.
    assert_reads_back("\n".join(lines), release, n)


PREFIXES = (
    "[rank3]: ",
    "[1,3]<stderr>:",
    "[default3]:",
    "(VllmWorker rank=3 pid=2978) ERROR 03-19 07:27:53 [multiproc_executor.py:375] ",
    "[2025-03-29 18:18:34 TP3] ",
)


@examples
@given(releases, numbers, st.sampled_from(PREFIXES), st.integers(40, 120))
def test_wrapped_and_prefixed_with_a_rank(release: Release, n: Numbers, prefix: str, width: int) -> None:
    text = textwrap.fill(release.write(n), width, break_long_words=False, break_on_hyphens=False)
    text = "\n".join(prefix + line for line in text.splitlines())
    assert_reads_back(text, release, n)
    assert read_text(text).ooms[0].rank == 3


CONTAINERS = (
    "app-1  | ",
    "2024-01-01T00:00:00.000000000Z stderr F ",
    "2024-09-04, 11:21:35.374 | worker | ",
    "> ",
    "# ",
    "│ ",
    "Jan  2 03:04:05 node-1 train[77]: ",
    "[pod/trainer-0/main] ",
    "4924:",
)


@examples
@given(releases, numbers, st.sampled_from(CONTAINERS), st.integers(40, 120))
def test_wrapped_and_prefixed_by_a_container(release: Release, n: Numbers, prefix: str, width: int) -> None:
    text = textwrap.fill(release.write(n), width, break_long_words=False, break_on_hyphens=False)
    assert_reads_back("\n".join(prefix + line for line in text.splitlines()), release, n)


@examples
@given(releases, numbers, st.sampled_from(["\x1b[31m", "\x1b[1;31m", "\x1b[38;5;9m"]), st.integers(1, 9))
def test_coloured(release: Release, n: Numbers, code: str, every: int) -> None:
    words = release.write(n).split(" ")
    painted = [f"{code}{word}\x1b[0m" if index % every == 0 else word for index, word in enumerate(words)]
    assert_reads_back(" ".join(painted), release, n)


@examples
@given(releases, numbers, st.integers(1, 3))
def test_escaped_as_json_any_number_of_times(release: Release, n: Numbers, times: int) -> None:
    text = f'Traceback (most recent call last):\n  File "a.py", line 3\n\x1b[31m{release.write(n)}\x1b[0m\n'
    for _ in range(times):
        text = json.dumps({"level": "error", "message": text})
    assert_reads_back(text, release, n)


@examples
@given(releases, numbers, st.text(max_size=300), st.text(max_size=300))
def test_text_of_any_language_around_it(release: Release, n: Numbers, before: str, after: str) -> None:
    text = f"{before}\n\n{release.write(n)}\n\n{after}"
    assert any(
        facts.requested_bytes == printed(n.requested) and facts.total_bytes == printed(n.total)
        for facts in read_text(text).ooms
    )


@examples
@given(releases, numbers, st.data())
def test_cut_off_keeps_what_is_there(release: Release, n: Numbers, data: st.DataObject) -> None:
    text = release.write(n)
    ends = text.index("Tried to allocate") + len("Tried to allocate ")
    cut = data.draw(st.integers(ends + 20, len(text)))
    ooms = read_text(text[:cut]).ooms
    assert len(ooms) == 1
    facts = ooms[0]
    assert facts.requested_bytes == printed(n.requested)
    assert facts.total_bytes in (None, printed(n.total))
    assert facts.free_bytes in (None, printed(n.free))
    assert facts.allocated_bytes in (None, printed(n.allocated))
    assert facts.device in (None, n.device, int(str(n.device)[0]))


VERSIONS = {
    "1.0": ["1.0", "1.3"],
    "1.4": ["1.4", "2.0"],
    "1.13": ["1.13", "2.0"],
    "2.1": ["2.1", "2.1"],
    "2.2": ["2.2", "2.10"],
    "2.5": ["2.5", "2.10"],
    "2.10": ["2.9", "2.10"],
    "2.15": ["2.11", "2.15"],
}


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_the_wording_tells_the_release(release: Release) -> None:
    facts = read_text(release.write(Numbers(0, 1 << 30, 8 << 30, 1 << 20, 6 << 30, 1 << 30))).ooms[0]
    assert facts.details["torch"] == VERSIONS[release.name]


def test_the_raw_byte_of_2_3_is_the_device() -> None:
    text = (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU \x01 has a total capacity of 8.00 GiB of which"
        " 10.00 MiB is free. Of the allocated memory 7.00 GiB is allocated by PyTorch, and 100.00 MiB is"
        " reserved by PyTorch but unallocated."
    )
    facts = read_text(text).ooms[0]
    assert facts.device == 1
    assert facts.total_bytes == 8 << 30
    assert facts.family == "torch-2.3-nul"


def test_2_3_ends_at_gpu_where_the_device_is_0() -> None:
    facts = read_text(
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU "
    ).ooms[0]
    assert (facts.family, facts.device, facts.requested_bytes) == ("torch-2.3-nul", None, 20 << 20)
