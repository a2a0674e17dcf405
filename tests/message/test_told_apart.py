"""Memory of the host is not a device's; other engines' words and copies from HTML are read."""

from __future__ import annotations

from oomdoctor.message import read_text
from tests.message.formats import GIB, MIB, Numbers, torch_2_5


def test_tensorflow_on_the_host_is_none() -> None:
    text = "OOM when allocating tensor with shape[40,40] and type double on /task:0/device:{} by allocator {}"
    assert read_text(text.format("CPU:0", "cpu")).ooms == ()
    assert [facts.device for facts in read_text(text.format("GPU:1", "GPU_1_bfc")).ooms] == [1]


def test_pinned_memory_is_the_hosts() -> None:
    text = "ggml_cuda_host_malloc: warning: failed to allocate 1024.00 MB of pinned memory: out of memory"
    assert read_text(text).ooms == ()


def test_ggml_that_could_not_load_a_model() -> None:
    text = "llama_model_load: error loading model: unable to allocate CUDA1 buffer"
    assert [facts.device for facts in read_text(text).ooms] == [1]


def test_ggml_on_metal() -> None:
    text = (
        "ggml_metal_graph_compute: command buffer 1 failed with status 5\n"
        "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    )
    assert [facts.family for facts in read_text(text).ooms] == ["ggml-metal"]


def test_copied_from_html() -> None:
    message = torch_2_5(Numbers(3, 64 * MIB, 80 * GIB, 10 * MIB, 70 * GIB, 5 * GIB, this_process=79 * GIB))
    plain = read_text(message).ooms
    assert read_text(message.replace(">", "&gt;").replace('"', "&quot;").replace(" ", "&nbsp;")).ooms == plain
