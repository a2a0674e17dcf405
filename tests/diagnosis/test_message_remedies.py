"""Remedies exist where they are offered, and name the release's own variable."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from oomdoctor.diagnosis.message import diagnose
from oomdoctor.diagnosis.torch_settings import first_max_split_size_mb
from oomdoctor.message import read_text
from tests.message.formats import GIB, MIB, RELEASES, Numbers, Release

FRAGMENTED = Numbers(0, 1 * GIB, 24 * GIB, 200 * MIB, 15 * GIB, 7 * GIB)


def commands(text: str) -> list[Optional[str]]:
    return [remedy.command for remedy in diagnose(read_text(text).ooms[0]).remedies]


EXPECTED = {
    "1.0": [
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    ],  # an update; max_split_size_mb came with 1.10
    "1.4": [
        "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:512",
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    ],
    "1.13": [
        "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:512",
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    ],
    "2.1": [
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:512",
    ],
    "2.10": [
        "PYTORCH_ALLOC_CONF=expandable_segments:True",
        "PYTORCH_ALLOC_CONF=max_split_size_mb:512",
    ],
    "2.15": [
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:512",
    ],
}


@pytest.mark.parametrize("release", [r for r in RELEASES if r.name in EXPECTED], ids=lambda r: r.name)
def test_settings_of_the_release(release: Release) -> None:
    assert commands(release.write(FRAGMENTED))[:-1] == EXPECTED[release.name]


def test_what_is_set_already_is_not_offered_again() -> None:
    text = "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True python a.py\n" + RELEASES[-1].write(FRAGMENTED)
    assert not any(command and "expandable" in command for command in commands(text))


@pytest.mark.parametrize(
    ("requested_mib", "value"),
    [
        (2, None),
        (20, None),
        (32, None),
        (33, 32),
        (64, 32),
        (130, 64),
        (1024, 512),
        (1270, 512),
        (2048, 1024),
    ],
)
def test_max_split_size(requested_mib: int, value: Optional[int]) -> None:
    assert first_max_split_size_mb(requested_mib * MIB) == value
    if value is not None:
        assert 20 < value < requested_mib  # what parseMaxSplitSize accepts, and below the request


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (
            (
                "Free memory on device cuda:1 (19.75/22.00 GiB) on startup is less than desired GPU memory"
                " utilization (0.9, 19.80 GiB)."
            ),
            "--gpu-memory-utilization 0.89",
        ),
        (
            (
                "max seq len (32768) is larger than the maximum number of tokens that can be stored in KV"
                " cache (7344)"
            ),
            "--max-model-len 7344",
        ),
        (
            (
                "To serve at least one request with the models's max seq len (1000), (4.00 GiB KV cache is"
                " needed, which is larger than the available KV cache memory (2.00 GiB)."
            ),
            "--max-model-len 496",
        ),
        ("Not enough memory to handle 4096 prefill tokens.", "--max-batch-prefill-tokens 2048"),
        (
            (
                "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 10.00 GiB total capacity; 4.00 GiB"
                " already allocated; 5.00 GiB free; 5.00 GiB allowed; 4.00 GiB reserved in total by PyTorch)"
            ),
            "torch.cuda.set_per_process_memory_fraction(0.60)",
        ),
        (
            (
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total"
                " capacity of 80.00 GiB of which 70.00 GiB is free. Of the allocated memory 1.00 GiB is"
                " allocated by PyTorch, and 1.00 MiB is reserved by PyTorch but unallocated. This allocation"
                " exceeds the expandable-segment reserve of 2.00 GiB for this stream, and a single allocation"
                " cannot span expandable segments."
            ),
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,expandable_segments_reserve:4G",
        ),
    ],
)
def test_numbers_in_remedies(text: str, command: str) -> None:
    assert command in commands(text)


def test_no_setting_for_a_request_that_no_device_holds() -> None:
    diagnosis = diagnose(
        read_text(RELEASES[-1].write(Numbers(0, 900 * GIB, 24 * GIB, GIB, GIB, 22 * GIB))).ooms[0]
    )
    assert diagnosis.verdict == "impossible-request"
    assert [remedy.command for remedy in diagnosis.remedies] == [None]


def test_every_basis_is_a_word_of_ours() -> None:
    words: set[Any] = {"stated", "derived", "recorded", "replayed", "proved", "estimated"}
    for release in RELEASES:
        for remedy in diagnose(read_text(release.write(FRAGMENTED)).ooms[0]).remedies:
            assert remedy.basis in words
