"""Inference engines' own words: vLLM, SGLang, TGI, TensorRT(-LLM), exllama, llama.cpp and ollama.

Most are refusals: the engine worked out that its budget does not suffice, and asked no driver for anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oomdoctor.diagnosis.model import OomFacts
from oomdoctor.message.patterns import Pattern, compile_template, grammar
from oomdoctor.message.sighting import Grammar, Sighting
from oomdoctor.message.sizes import to_bytes

# vllm/v1/worker/gpu_worker.py (request_memory): free and total share one unit.
_FREE_ON_DEVICE = (
    r"Free memory on device(?: (?:\w+:)?(?P<device>\d{1,4}))?"
    r" \((?P<free>\d+(?:\.\d+)?)/(?P<total>\d+(?:\.\d+)?) "
    r"(?P<unit>[KMGT]i?B)\) on startup is less than desired GPU memory utilization"
    r"(?: \((?P<utilization>\d+(?:\.\d+)?), SIZE(desired)\))?"
)


def _free_on_device(text: str) -> Iterator[Sighting]:
    for match in compile_template(_FREE_ON_DEVICE).finditer(text):
        unit, device = match.group("unit"), match.group("device")
        details: dict[str, Any] = {}
        if match.group("desired"):
            details["desired_bytes"] = to_bytes(match.group("desired"))
            details["gpu_memory_utilization"] = float(match.group("utilization"))
        facts = OomFacts(
            family="vllm",
            kind="refusal",
            device=int(device) if device else None,
            total_bytes=to_bytes(match.group("total") + unit),
            free_bytes=to_bytes(match.group("free") + unit),
            details=details,
        )
        yield Sighting(match.start(), match.end(), facts, group="vllm-free")


VLLM_FREE = Grammar("vLLM at start", ("less than desired gpu", "free memory on device"), _free_on_device)

VLLM = grammar(
    "vLLM",
    ("kv cach", "cache blocks", "occurred when warming", "cumem", "kv\ncache"),
    (
        # vllm/v1/core/kv_cache_utils.py
        Pattern("vllm", r"No available memory for the cache blocks", kind="refusal", group="vllm-blocks"),
        Pattern(
            "vllm-kv",
            r"(?:To serve at least one request with the models?'?s? max seq len"
            r" \((?P<max_model_len>\d{1,12})\),? )?"
            r"\(?SIZE(kv_cache_needed_bytes) KV cache is needed, which is larger than the available KV cache"
            r" memory"
            r"(?: \(SIZE(kv_cache_available_bytes)\))?"
            r"(?:[\s\S]{0,120}?estimated maximum model length is (?P<estimated_max_model_len>\d{1,12}))?",
            kind="refusal",
            group="vllm-kv",
        ),
        Pattern(
            "vllm-kv",
            r"(?:The model's )?max seq len \((?P<max_model_len>\d{1,12})\) is larger than the maximum number"
            r" of tokens"
            r" that can be stored in KV cache \((?P<kv_cache_tokens>\d{1,12})\)",
            kind="refusal",
            group="vllm-kv",
        ),
        Pattern(
            "vllm-kv",
            r"To serve at least one request with the models?'?s? max seq len \((?P<max_model_len>\d{1,12})\)",
            kind="refusal",
            group="vllm-kv",
        ),
        # vllm/v1/worker/gpu_model_runner.py: raised from PyTorch's own error
        Pattern(
            "vllm",
            r"CUDA out of memory occurred when warming up (?P<stage>[\w-]{1,40})"
            r"(?: with (?P<dummy_requests>\d{1,9}) dummy requests)?",
            group="torch",
        ),
        # csrc/cumem_allocator.cpp prints, and goes on with whatever fails next
        Pattern(
            "vllm-cumem",
            r"CUDA Error: out of memory at"
            r" (?P<mark_file>[^\s:]{0,300}cumem_allocator\.cpp):(?P<mark_line>\d+)",
        ),
    ),
)

# sglang/srt/model_executor/model_runner.py (init_torch_distributed), in GiB: the least that any rank has
# free, and what this one has.
_UNBALANCED = (
    r"[Tt]he memory capacity is unbalanced"
    r"(?:\.? Some GPUs may be occupied by other processes\.?)?"
    r"(?: (?:pre_model_load_memory|min_per_gpu_memory) ?= ?(?P<least>\d{1,6}(?:\.\d{1,20})?),?)?"
    r"(?: local_gpu_memory ?= ?(?P<local>\d{1,6}(?:\.\d{1,20})?))?"
)


def _unbalanced(text: str) -> Iterator[Sighting]:
    for match in compile_template(_UNBALANCED).finditer(text):
        least, local = match.group("least"), match.group("local")
        facts = OomFacts(
            family="sglang-unbalanced",
            kind="refusal",
            free_bytes=to_bytes(f"{local} GiB") if local else None,
            details={"least_free_bytes": to_bytes(f"{least} GiB")} if least else {},
        )
        yield Sighting(match.start(), match.end(), facts, group="sglang-unbalanced")


_BUDGETS = grammar(
    "SGLang, TGI, exllama",
    (
        "mem-fraction",
        "mem_fraction",
        "lower your batch",
        "prefill tokens",
        "not enough memory",
        "insufficient",
        "memory capacity is unbalanced",
        "enough memory to handle",
        "enough space",
    ),
    (
        # sglang/srt/model_executor/model_runner.py and managers/scheduler (retract, prefill)
        Pattern(
            "sglang",
            r"Not enough memory[.;,:]? Please try (?:to )?(?P<direction>(?:increas|decreas|lower)\w*)"
            r" --?-?mem[-_]fraction[-_]static",
            kind="refusal",
        ),
        Pattern(
            "sglang",
            r"(?P<stage>Prefill|Decode) out of memory\.? Try to lower your batch size",
        ),
        # text-generation-inference, server/text_generation_server/models/flash_causal_lm.py: raised from OOM
        # in warm-up
        Pattern(
            "tgi",
            r"Not enough memory to handle (?P<prefill_tokens>\d{1,9}) prefill tokens",
            kind="refusal",
            group="torch",
        ),
        Pattern(
            "tgi",
            r"Not enough memory to handle (?P<requests>\d{1,9})? ?[\w ]{0,40}",
            kind="refusal",
            group="torch",
        ),
        # exllamav2/model.py, exllamav3
        Pattern(
            "exllama",
            r"Insufficient (?:VRAM|space|memory)(?: in split)? (?:for (?:model|cache|layers?)|on (?:all"
            r" )?devices?"
            r"|in device allocations?)(?: and cache)?",
            kind="refusal",
        ),
    ),
)


def _servers(text: str) -> Iterator[Sighting]:
    yield from _BUDGETS.read(text)
    yield from _unbalanced(text)


SERVERS = Grammar(_BUDGETS.name, _BUDGETS.needles, _servers)

TENSORRT = grammar(
    "TensorRT and TensorRT-LLM",
    (
        "tensorrt",
        "cuda error in",
        "cuda runtime (",
        "cuda driver (",
        "outofmemory",
        "could not be allocated",
        "cuda runtime error in",
        "error code",
        "insufficient gpu memory",
    ),
    (
        Pattern(
            "tensorrt-llm",
            r"\[TensorRT-LLM\]\[ERROR\] CUDA (?:runtime|driver) error in [^\n]{1,200}?: out of memory"
            r"(?: \((?P<mark_at>[^)\s|]{1,300})\)?)?",
        ),
        Pattern(
            "tensorrt-llm",
            r"CUDA (?:runtime|driver) error in [^\n]{1,200}?: out of memory(?:"
            r" \((?P<mark_at>[^)\s|]{1,300})\)?)?",
        ),
        Pattern(
            "tensorrt-llm",
            r"(?:[Nn]ot enough|[Ii]nsufficient) (?:GPU |free )?memory (?:for|to allocate)(?: the)? KV cache",
            kind="refusal",
        ),
        # tensorrt_llm/_torch/pyexecutor/py_executor_creator.py
        Pattern(
            "tensorrt-llm",
            r"Executor creation failed due to insufficient GPU memory"
            r"(?:\.? The following component could not be created: (?P<component>[^\n]{1,80}))?"
            r"(?: Total GPU memory \((?P<total_unit>GiB)\): (?P<total_gib>[\d.]{1,12}))?"
            r"(?: Free GPU memory before component creation attempt \(GiB\): (?P<free_gib>[\d.]{1,12}))?",
            kind="refusal",
            group="tensorrt-llm-executor",
        ),
        Pattern("tensorrt", r"Cuda [Ee]rror in (?P<call>\w{1,60}): 2 \(out of memory\)", opens=True),
        Pattern("tensorrt", r"Error Code 1: Cuda (?:Runtime|Driver) \(out of memory\)", opens=True),
        Pattern(
            "tensorrt",
            r"Requested amount of (?:GPU )?memory \((?P<requested>\d{1,19}) bytes\) could not be allocated",
            follows=5,
        ),
        Pattern("tensorrt", r"Error Code 2: OutOfMemory|OutOfMemory Error in (?P<call>\w{1,60})", follows=8),
    ),
)

# ggml/src/ggml-cuda/ggml-cuda.cu (ggml_backend_cuda_buffer_type_alloc_buffer), ggml-alloc.c, ggml-vulkan.cpp.
# The first line is printed once an allocation and rounds to MiB; those after it give the bytes.
GGML = grammar(
    "llama.cpp, ggml and ollama",
    (
        "cudamalloc failed",
        "ggml",
        "buffer of size",
        "hipmalloc failed",
        "musamalloc failed",
        "unable to allocate",
        "failed to allocate",
        "iogpucommandbuffer",
    ),
    (
        Pattern(
            "ggml",
            r"allocating SIZE(requested) on device (?P<device>\d{1,4}): (?:cuda|hip|musa)Malloc failed: out"
            r" of memory",
            opens=True,
            tolerance=2e-3,
        ),
        Pattern(
            "ggml",
            r"(?:cuda|hip|musa)Malloc failed: out of memory[\s\S]{0,160}?"
            r"failed to allocate (?:CUDA|ROCm|MUSA)(?P<device>\d{1,4}) buffer of size"
            r" (?P<requested>\d{1,19})",
            tolerance=2e-3,
        ),
        Pattern(
            "ggml",
            r"(?:runner process has terminated: |ggml_\w{1,60}[^\n]{0,80}?)(?:cuda|hip|musa)Malloc failed:"
            r" out of memory",
            tolerance=2e-3,
        ),
        Pattern(
            "ggml",
            r"(?:failed|unable) to allocate (?:CUDA|ROCm|MUSA)(?P<device>\d{1,4}) buffer(?: of size "
            r"(?P<requested>\d{1,19}))?",
            follows=40,
            tolerance=2e-3,
        ),
        Pattern(
            "ggml-vulkan",
            r"Device memory allocation of size (?P<requested>\d{1,19}) failed",
            opens=True,
        ),
        Pattern(
            "ggml-vulkan",
            r"(?:failed|unable) to allocate Vulkan(?P<device>\d{1,4}) buffer(?: of size"
            r" (?P<requested>\d{1,19}))?",
            follows=40,
        ),
        Pattern("ggml-vulkan", r"vk::Device::allocateMemory: ErrorOutOfDeviceMemory", follows=20),
        Pattern(
            "ggml-metal",
            r"(?:Insufficient Memory \()?(?:\w{1,16}:)?kIOGPUCommandBufferCallbackErrorOutOfMemory",
        ),
    ),
)
