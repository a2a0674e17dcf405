"""Who speaks: ranks, processes, containers and hosts, one by one or in alternation."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from typing import Optional

import pytest

from oomdoctor.message import read_text
from tests.message.formats import GIB, MIB, Numbers, torch_2_5

NUMBERS = Numbers(0, 64 * MIB, 80 * GIB, 10 * MIB, 70 * GIB, 5 * GIB, this_process=79 * GIB)
MESSAGE = torch_2_5(NUMBERS)
SPEAKERS = (
    "node{}: ",
    "10.0.0.{}: ",
    "worker-{}-1  | ",
    "(Actor pid=10{0}, ip=10.0.0.{0}) ",
    "(Worker_TP{0} pid=10{0}) ERROR 09-11 10:11:12 [x.py:1] ",
    "[pod/train-{}/pytorch] ",
    "Mar 01 10:00:00 gpu{} python[4412]: ",
    "{}: ",
)


@pytest.mark.parametrize(
    ("line", "rank"),
    [
        ("(Worker_TP0 pid=10) " + MESSAGE, 0),
        ("10.0.0.2: [rank9]: " + MESSAGE, 9),
        (json.dumps({"log": "[rank0]: " + MESSAGE + "\n", "stream": "stderr"}), 0),
        (json.dumps({"rank": 5, "message": MESSAGE}), 5),
        ("[rank: 3] " + MESSAGE, 3),
        ("2025-01-02 03:04:05 [ERROR] [RANK 6] " + MESSAGE, 6),
        ("11: Traceback (most recent call last):\n11: " + MESSAGE, 11),
        ("12: Traceback (most recent call last):\n13: " + MESSAGE, None),
        ("7: " + MESSAGE, None),
    ],
)
def test_ranks(line: str, rank: Optional[int]) -> None:
    assert [facts.rank for facts in read_text(line).ooms] == [rank]


@pytest.mark.parametrize("prefix", SPEAKERS)
def test_equal_numbers_of_several_are_several(prefix: str) -> None:
    text = "\n".join(prefix.format(index) + MESSAGE for index in range(4))
    assert len(read_text(text).ooms) == 4
    assert len(read_text(f"{text}\nlauncher says: {MESSAGE}").ooms) == 4


def test_another_kind_of_process_repeats() -> None:
    text = f"(Worker_TP0 pid=10) {MESSAGE}\n(EngineCore_DP0 pid=9) {MESSAGE}\n(APIServer pid=1) {MESSAGE}"
    assert len(read_text(text).ooms) == 1


def test_devices_named_before() -> None:
    text = "GPU 0: CUDA out of memory. Tried to allocate 2.00 GiB\nGPU 1: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert [facts.device for facts in read_text(text).ooms] == [0, 1]


@pytest.mark.parametrize("prefix", [*SPEAKERS, "[rank{}]: "])
def test_wrapped_lines_that_alternate(prefix: str) -> None:
    messages = [torch_2_5(replace(NUMBERS, device=index, free=(10 + index) * MIB)) for index in range(4)]
    wrapped = [textwrap.wrap(message, 80) for message in messages]
    text = "\n".join(
        prefix.format(index) + lines[row]
        for row in range(max(map(len, wrapped)))
        for index, lines in enumerate(wrapped)
        if row < len(lines)
    )
    ooms = read_text(text).ooms
    assert [facts.device for facts in ooms] == [0, 1, 2, 3]
    assert [facts.free_bytes for facts in ooms] == [(10 + index) * MIB for index in range(4)]
    assert {facts.allocated_bytes for facts in ooms} == {70 * GIB}


@pytest.mark.parametrize(
    "numbering",
    [
        "{0:6d}\t{1}",
        "train.log-{0}-{1}",
        "trainer-0 trainer 2025-03-01T10:00:00.123456789Z {1}",
        "my-pod-7d9f worker › {1}",
        "{1} \\",
    ],
)
@pytest.mark.parametrize("width", [40, 60, 72, 80, 97, 120])
def test_numbering_is_no_number_of_the_message(numbering: str, width: int) -> None:
    plain = read_text(MESSAGE).ooms[0]
    text = "\n".join(
        numbering.format(880 + row, line) for row, line in enumerate(textwrap.wrap(MESSAGE, width))
    )
    ooms = read_text(text).ooms
    assert [replace(facts, text=plain.text, details=plain.details) for facts in ooms] == [plain]


@pytest.mark.parametrize("head", ["CUDA", "UDA", "DA", "A"])
def test_a_head_that_is_cut(head: str) -> None:
    assert len(read_text(head + MESSAGE.partition("CUDA")[2]).ooms) == 1


def test_a_loop_that_recovers() -> None:
    text = f"| WARNING: {MESSAGE}\n| WARNING: attempting to recover from OOM in forward/backward pass\n"
    assert len(read_text(text * 2).ooms) == 2


def test_full_width_punctuation() -> None:
    text = "CUDA out of memory. Tried to allocate 2.00 GiB（GPU 3；8.00 GiB total capacity；0 bytes free）"
    assert [(facts.device, facts.total_bytes) for facts in read_text(text).ooms] == [(3, 8 * GIB)]


def test_the_device_that_ggml_names_below() -> None:
    text = "CUDA error: out of memory\n  current device: 1, in function ggml_cuda_pool at ggml-cuda.cu:291"
    assert [facts.device for facts in read_text(text).ooms] == [1]
