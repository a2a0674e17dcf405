"""Remedies exist where they are offered, and name the release's own variable."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from oomdoctor.diagnosis.message import diagnose
from oomdoctor.diagnosis.model import Diagnosis
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


P = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 0 has a total capacity of"
    " 79.15 GiB of which 1.19 GiB is free. Including non-PyTorch memory, this process has 77.94 GiB memory in"
    " use. Of the allocated memory 70.02 GiB is allocated by PyTorch, with 24.00 MiB allocated in private"
    " pools (e.g., CUDA Graphs), and 7.32 GiB is reserved by PyTorch but unallocated. If reserved but"
    " unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid"
    " fragmentation."
)


def explained(before: str, message: str = P) -> Diagnosis:
    return diagnose(read_text(f"{before}\n{message}\n").ooms[0])


def findings(diagnosis: Diagnosis) -> set[str]:
    return {found.id for found in diagnosis.findings}


@pytest.mark.parametrize(
    ("set_mb", "offered"), [(128, []), (512, []), (2048, ["PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:512"])]
)
def test_max_split_size_that_is_set_already(set_mb: int, offered: list[str]) -> None:
    diagnosis = explained(f"PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:{set_mb} python train.py")
    split = [remedy.command for remedy in diagnosis.remedies if remedy.id == "max-split-size"]
    assert split == offered
    assert ("max-split-size-set" in findings(diagnosis)) == (not offered)
    assert diagnosis.remedies[0].command == "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    assert "in place of max_split_size_mb" in diagnosis.remedies[0].summary


@pytest.mark.parametrize(
    "before",
    [
        "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "docker run -e PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True image",
        'os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"',
        'os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")',
        "env:\n- name: PYTORCH_CUDA_ALLOC_CONF\n  value: expandable_segments:True",
        '        - name: PYTORCH_CUDA_ALLOC_CONF\n          value: "expandable_segments:True"',
    ],
)
def test_expandable_segments_that_are_on_already(before: str) -> None:
    diagnosis = explained(before)
    assert diagnosis.verdict == "fragmentation"
    assert "expandable-segments-on" in findings(diagnosis)
    assert "expandable segments" in diagnosis.findings[0].summary
    assert [remedy.id for remedy in diagnosis.remedies] == ["record"]
    assert "which of them" not in diagnosis.remedies[0].summary


@pytest.mark.parametrize(
    ("before", "finding"),
    [
        ("vllm serve model --enable-sleep-mode", "expandable-segments-conflict"),
        ("llm = LLM(model, enable_sleep_mode=True)", "expandable-segments-conflict"),
        (
            "AssertionError: Expandable segments are not compatible with memory pool.",
            "expandable-segments-conflict",
        ),
        (
            'File "C:\\ai\\venv\\lib\\site-packages\\torch\\nn\\modules\\module.py", line 1',
            "expandable-segments-unsupported",
        ),
        ('File "D:\\ai\\torch\\nn\\modules\\module.py", line 1', "expandable-segments-unsupported"),
        (
            "UserWarning: expandable_segments not supported on this platform",
            "expandable-segments-unsupported",
        ),
        (
            "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True\nC:\\x\\site-packages\\torch\\a.py",
            "expandable-segments-unsupported",
        ),
    ],
)
def test_expandable_segments_where_they_cannot_be(before: str, finding: str) -> None:
    diagnosis = explained(before)
    assert finding in findings(diagnosis)
    assert [remedy.id for remedy in diagnosis.remedies] == ["max-split-size", "record"]
    assert "whether it helps" in diagnosis.remedies[-1].summary


def test_sleep_mode_that_is_off_changes_nothing() -> None:
    assert explained("enable_sleep_mode=False").remedies[0].id == "expandable-segments"
