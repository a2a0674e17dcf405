"""Messages outside PyTorch's allocator: the advice heeds what the text shows."""

from __future__ import annotations

import pytest

from oomdoctor.diagnosis.message import diagnose
from oomdoctor.diagnosis.model import Diagnosis
from oomdoctor.message import read_text
from oomdoctor.reporters.explain_text import render
from oomdoctor.reporters.ink import Ink

BLOCKS = "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."
MORE = "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static."
GIB = 1 << 30


def one(text: str) -> Diagnosis:
    (facts,) = read_text(text).ooms
    return diagnose(facts)


def shown(text: str) -> str:
    return render([one(text)], Ink(False))


@pytest.mark.parametrize(
    ("before", "command", "says"),
    [
        ("", "--gpu-memory-utilization 0.95", "0.9 unless told otherwise"),
        ("vllm serve m --gpu-memory-utilization 0.92", "--gpu-memory-utilization 0.95", "it is 0.92"),
        ("vllm serve m --gpu-memory-utilization 0.95", None, "0.95 already"),
        ("LLM(model, gpu_memory_utilization=0.98)", None, "0.98 already"),
    ],
)
def test_vllm_share_goes_up_from_the_one_given(before: str, command: str, says: str) -> None:
    remedy = one(f"{before}\n{BLOCKS}").remedies[0]
    assert remedy.command == command
    assert says in remedy.summary


@pytest.mark.parametrize(
    ("text", "command", "says"),
    [
        (MORE, "--mem-fraction-static 0.92", "give"),
        (f"sglang --mem-fraction-static 0.8\n{MORE}", "--mem-fraction-static 0.92", "it is 0.8"),
        (f"sglang --mem-fraction-static 0.93\n{MORE}", "--mem-fraction-static 0.95", "it is 0.93"),
        (f"sglang --mem-fraction-static 0.95\n{MORE}", None, "0.95 already"),
        (
            "--mem-fraction-static 0.95\nPrefill out of memory. Try to lower your batch size.",
            "--mem-fraction-static 0.85",
            "leave more",
        ),
    ],
)
def test_sglang_share_goes_where_the_message_says(text: str, command: str, says: str) -> None:
    remedy = one(text).remedies[0]
    assert remedy.command == command
    assert says in remedy.summary


def test_sglang_that_finds_a_gpu_occupied() -> None:
    diagnosis = one(
        "ValueError: The memory capacity is unbalanced. Some GPUs may be occupied by other processes."
        " pre_model_load_memory=70.11, local_gpu_memory=78.64, local_gpu_memory * 0.9=70.776"
    )
    assert diagnosis.verdict == "other-process"
    assert diagnosis.facts.free_bytes == round(78.64 * GIB)
    assert diagnosis.facts.details["least_free_bytes"] == round(70.11 * GIB)
    assert "8.53 GiB less" in diagnosis.findings[1].summary
    assert [remedy.id for remedy in diagnosis.remedies] == ["see-processes"]


def test_triton_registers_are_not_shared_memory() -> None:
    head = "triton.runtime.errors.OutOfResources: out of resource: "
    registers = shown(head + "registers, Required: 131072, Hardware limit: 65536.")
    assert "a kernel's registers, not the device's memory" in registers
    assert "shared memory" not in registers
    memory = shown(head + "shared memory, Required: 131072, Hardware limit: 101376.")
    assert "a kernel's shared memory, not the device's" in memory


def test_a_stated_size_keeps_its_unit() -> None:
    assert "Asked for: 3000.00 GiB (stated)" in shown("CUDA out of memory. Tried to allocate 3000.00 GiB")


def test_vllm_length_and_what_the_cache_holds() -> None:
    text = shown(
        "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can be"
        " stored in KV cache (14432)."
    )
    assert "32,768 tokens" in text
    assert "14,432" in text
