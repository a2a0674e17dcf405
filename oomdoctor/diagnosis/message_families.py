"""Messages that are not of PyTorch's caching allocator: what they mean, and no more than they say.

One entry a family; ``{name}`` in a text is a detail of that name. Where a text gives numbers that decide
something, a function after the table works it out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional

from oomdoctor.diagnosis.model import Basis, Diagnosis, Finding, OomFacts, Remedy, Verdict
from oomdoctor.units import format_bytes

_Advice = tuple[str, str, Optional[str], Basis]


@dataclass(frozen=True)
class Meaning:
    """What a family's message says. ``remedies``: (id, summary, command, basis)."""

    verdict: Verdict
    says: str
    remedies: tuple[_Advice, ...] = ()


_SEE_PROCESSES: _Advice = (
    "see-processes",
    "see who holds the device's memory",
    "nvidia-smi --query-compute-apps=pid,used_memory,name --format=csv",
    "estimated",
)
_LEAVE_ROOM: _Advice = (
    "leave-room",
    "keep PyTorch's cache from taking all of the device, so that libraries beside it find room",
    "torch.cuda.set_per_process_memory_fraction(0.9)",
    "estimated",
)
_RECORD: _Advice = (
    "record",
    "a recording shows what PyTorch held at that moment, and what others did",
    "oomdoctor trace -- python infer.py",
    "recorded",
)
_DRIVER = Meaning(
    "unknown",
    "The CUDA driver had no memory left for a call, and says neither how much was asked for nor by whom. It"
    " is not PyTorch's caching allocator that failed.",
    (_SEE_PROCESSES, _RECORD),
)

MEANINGS: dict[str, Meaning] = {
    "generic-driver": _DRIVER,
    "torch-thc": Meaning(
        "unknown",
        "PyTorch 0.4 or older ran out of device memory; these releases print no numbers.",
        (_SEE_PROCESSES,),
    ),
    "torch-address-space": Meaning(
        "limit",
        "The process ran out of virtual addresses, not of device memory: each expandable segment reserves 9/8"
        " of the device, once for each stream and pool.",
        (
            (
                "smaller-reserve",
                "reserve fewer addresses a segment (torch 2.15 or later)",
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True,expandable_segments_reserve:0.5",
                "estimated",
            ),
            ("fewer-streams", "or use fewer CUDA streams", None, "estimated"),
        ),
    ),
    "disguised": Meaning(
        "unknown",
        "PyTorch ran out of memory, and the query of NVML for its error message failed in turn (#112377): the"
        " message that would have had the numbers is lost. Seen on Jetson, MIG and where NVML and driver"
        " differ.",
        (_RECORD,),
    ),
    "cublas": Meaning(
        "non-pytorch",
        "cuBLAS could not get memory for its handle or workspace. It asks the driver, beside PyTorch's"
        " allocator, whose cache may hold what it needs.",
        (_LEAVE_ROOM, _RECORD),
    ),
    "cudnn": Meaning(
        "non-pytorch",
        "cuDNN could not get memory, for its handle or for the workspace of every algorithm it knows. It"
        " often means that the device is full, though the text does not say so.",
        (_LEAVE_ROOM, _RECORD),
    ),
    "cuda-library": Meaning(
        "non-pytorch",
        "A CUDA library beside PyTorch's allocator could not get memory.",
        (_LEAVE_ROOM, _RECORD),
    ),
    "nccl": Meaning(
        "non-pytorch",
        "NCCL could not get memory for its buffers. It asks the driver, beside PyTorch's allocator, and needs"
        " some for each communicator and channel.",
        (_LEAVE_ROOM, _RECORD),
    ),
    "triton": Meaning(
        "limit",
        "A Triton kernel needs more {resource} than one block may have. This is not device memory: no"
        " allocator setting changes it.",
        (
            (
                "smaller-kernel",
                (
                    "lower num_stages or the block sizes of the kernel, or pick a configuration made for this"
                    " device"
                ),
                None,
                "estimated",
            ),
        ),
    ),
    "bitsandbytes": Meaning(
        "unknown",
        "bitsandbytes asked the driver for memory, beside PyTorch's allocator, and got none.",
        (_LEAVE_ROOM, _RECORD),
    ),
    "vllm-cumem": Meaning(
        "unknown",
        "vLLM's sleep-mode allocator (cumem) could not map memory when it woke or loaded: something else took"
        " what it had given back.",
        (_SEE_PROCESSES,),
    ),
    "sglang": Meaning(
        "limit",
        "SGLang's own budget, what is left of mem-fraction-static after the weights, does not suffice.",
    ),
    "sglang-unbalanced": Meaning(
        "other-process",
        "SGLang found much less free memory on one GPU than on another before it loaded the model: another"
        " process holds memory there.",
        (_SEE_PROCESSES,),
    ),
    "tgi": Meaning(
        "limit",
        "TGI's warm-up ran out of memory with as many prefill tokens as it was told to allow.",
        (
            (
                "fewer-tokens",
                "halve what it may prefill at once",
                "--max-batch-prefill-tokens {half_prefill}",
                "estimated",
            ),
        ),
    ),
    "tensorrt": Meaning(
        "unknown",
        "TensorRT asked the driver for memory and got none. While it builds an engine it goes on with other"
        " tactics, so one such line need not be the end.",
        (_SEE_PROCESSES,),
    ),
    "tensorrt-llm": Meaning(
        "unknown",
        "TensorRT-LLM asked the driver for memory and got none.",
        (
            (
                "kv-fraction",
                "leave it less for the KV cache",
                "--kv_cache_free_gpu_mem_fraction 0.8",
                "estimated",
            ),
            _SEE_PROCESSES,
        ),
    ),
    "exllama": Meaning(
        "capacity",
        "exllama worked out that model and cache do not fit into the memory it may use.",
        (("smaller-cache", "a shorter context or a quantized cache", None, "estimated"),),
    ),
    "ggml": Meaning(
        "capacity",
        "llama.cpp (or ollama, which runs it) asked the driver for one buffer, and the device had no room"
        " for it.",
        (
            (
                "fewer-layers",
                "leave some layers on the host (ollama: num_gpu)",
                "--n-gpu-layers N",
                "estimated",
            ),
            ("shorter-context", "or a shorter context (ollama: num_ctx)", "-c 4096", "estimated"),
        ),
    ),
    "ggml-vulkan": Meaning(
        "capacity",
        "llama.cpp asked Vulkan for one buffer and got none: the device is full, or the buffer larger than"
        " the driver allows.",
        (
            (
                "fewer-layers",
                "leave some layers on the host (ollama: num_gpu)",
                "--n-gpu-layers N",
                "estimated",
            ),
        ),
    ),
    "tensorflow": Meaning(
        "unknown",
        "TensorFlow's BFC allocator could not find the memory for a tensor.",
        (
            (
                "async-allocator",
                "if its log shows free memory in many pieces",
                "TF_GPU_ALLOCATOR=cuda_malloc_async",
                "estimated",
            ),
        ),
    ),
    "jax": Meaning(
        "unknown",
        "XLA could not get the memory for a buffer or a compiled program. JAX takes three quarters of the"
        " device when it starts, so what fails is that share.",
        (
            ("raise-share", "let it take more", "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95", "estimated"),
            (
                "no-preallocation",
                "or as it needs it, if others share the device",
                "XLA_PYTHON_CLIENT_PREALLOCATE=false",
                "estimated",
            ),
        ),
    ),
    "onnxruntime": Meaning(
        "unknown",
        "ONNX Runtime's arena could not grow by the buffer it needs.",
        (
            (
                "arena",
                "let the arena grow by what is asked, not by powers of two (CUDA provider option)",
                "arena_extend_strategy=kSameAsRequested",
                "estimated",
            ),
        ),
    ),
    "paddle": Meaning("unknown", "PaddlePaddle could not get the memory for a tensor.", (_SEE_PROCESSES,)),
    "cupy": Meaning(
        "unknown",
        "CuPy's memory pool could not get the memory for an array.",
        (
            (
                "free-blocks",
                "give back what the pool keeps before a large step",
                "cupy.get_default_memory_pool().free_all_blocks()",
                "estimated",
            ),
        ),
    ),
    "rmm": Meaning(
        "unknown",
        "RAPIDS' memory manager could not get memory, or its pool reached its maximum.",
        (_SEE_PROCESSES,),
    ),
    "xgboost": Meaning("unknown", "XGBoost asked the driver for memory and got none.", (_SEE_PROCESSES,)),
    "hpu": Meaning("unknown", "Gaudi's device memory could not hold an allocation."),
    "mlx": Meaning("limit", "Metal allows no single buffer of that size."),
    "directml": Meaning("unknown", "DirectML found no video memory for a tensor."),
    "vllm-kv": Meaning(
        "limit", "What vLLM's budget leaves for the KV cache does not hold one request of the longest length."
    ),
    "mps": Meaning(
        "limit",
        "PyTorch on Metal reached the share of memory that it allows itself (the high watermark).",
        (
            (
                "watermark",
                "lifts the limit; the whole system may then run out of memory",
                "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0",
                "stated",
            ),
        ),
    ),
    "cuda-malloc-async-nul": Meaning(
        "unknown",
        "PyTorch with backend:cudaMallocAsync ran out of memory; before #168369 its message ended at the"
        " device.",
        (
            (
                "native",
                "the native allocator reports more",
                "PYTORCH_CUDA_ALLOC_CONF=backend:native",
                "estimated",
            ),
            _RECORD,
        ),
    ),
    "vllm": Meaning(
        "limit", "vLLM's budget, gpu_memory_utilization of the device, leaves nothing for the KV cache."
    ),
    "vllm-free": Meaning("limit", "vLLM asks for a share of the device that is not free when it starts."),
}
_ALSO = dict.fromkeys(
    ("numba", "pycuda", "theano", "ctranslate2", "mxnet", "thrust", "xpu"), "generic-driver"
)
_TORCH_ALLOCATOR = ("rocm", "npu", "musa", "mlu", "gcu", "supa", "cuda-malloc-async")


def knows(facts: OomFacts) -> bool:
    """Whether the message is one of these, and not of PyTorch's caching allocator."""
    if facts.family == "xpu":
        return facts.requested_bytes is None
    if facts.family == "vllm" and facts.kind == "oom":
        return False
    return facts.family in MEANINGS or facts.family in _ALSO


def diagnose_other(facts: OomFacts) -> Diagnosis:
    """The diagnosis of such a message."""
    family = "vllm-free" if facts.family == "vllm" and facts.free_bytes is not None else facts.family
    meaning = MEANINGS[_ALSO.get(family, family)]
    words = _Words(facts.details)
    verdict = meaning.verdict
    findings = [Finding("verdict", meaning.says.format_map(words), "stated")]
    remedies = [
        Remedy(name, summary.format_map(words), command.format_map(words) if command else None, basis)
        for name, summary, command, basis in meaning.remedies
        if command is None or words.fill(command)
    ]
    for add in (
        _vllm_free,
        _vllm_blocks,
        _vllm_kv,
        _sglang,
        _sglang_unbalanced,
        _triton,
        _mps,
        _shape,
        _over_limit,
    ):
        more = add(facts)
        if more is not None:
            findings[1:1] = more[0]
            remedies[:0] = more[1]
            verdict = more[2] or verdict
    return Diagnosis(facts, verdict, tuple(findings), tuple(remedies))


class _Words(dict[str, Any]):
    """Details by name for a text; what is missing reads as its name."""

    def __init__(self, details: dict[str, Any]) -> None:
        super().__init__(details)
        if isinstance(details.get("prefill_tokens"), int):
            self["half_prefill"] = max(1, details["prefill_tokens"] // 2)

    def __missing__(self, key: str) -> str:
        return key

    def fill(self, template: str) -> bool:
        """Whether everything that the template names is known."""
        return all(name in self for name in _names(template))


def _names(template: str) -> list[str]:
    return [part.split("}")[0] for part in template.split("{")[1:]]


_Addition = tuple[list[Finding], list[Remedy], Optional[Verdict]]


def _vllm_free(facts: OomFacts) -> Optional[_Addition]:
    if facts.family != "vllm" or facts.free_bytes is None or not facts.total_bytes:
        return None
    taken = facts.total_bytes - facts.free_bytes
    fits = math.floor(100 * facts.free_bytes / facts.total_bytes) / 100
    findings = [
        Finding(
            "taken-before-start",
            f"{format_bytes(taken)} were in use before vLLM started.",
            "derived",
            taken,
            {"formula": "total_bytes - free_bytes"},
        ),
    ]
    desired = facts.details.get("desired_bytes")
    if desired:
        findings.insert(
            0,
            Finding(
                "short-by",
                f"vLLM wants {format_bytes(desired)} and finds {format_bytes(facts.free_bytes)} free: "
                f"{format_bytes(desired - facts.free_bytes)} short.",
                "derived",
                desired - facts.free_bytes,
                {"formula": "desired_bytes - free_bytes"},
            ),
        )
    remedies = [
        Remedy(
            "see-processes",
            "end what holds it, if it need not be there",
            "nvidia-smi --query-compute-apps=pid,used_memory,name --format=csv",
            "derived",
        ),
        Remedy(
            "gpu-memory-utilization",
            "free / total, rounded down",
            f"--gpu-memory-utilization {fits:.2f}",
            "derived",
        ),
    ]
    return findings, remedies, "limit"


def _vllm_blocks(facts: OomFacts) -> Optional[_Addition]:
    if facts.family != "vllm" or facts.free_bytes is not None:
        return None
    return (
        [],
        [
            _more_for_vllm(facts, "give vLLM more of the device"),
            Remedy(
                "shorter",
                "or leave more of it to the cache: a smaller dtype, more devices",
                "--tensor-parallel-size 2",
                "estimated",
            ),
        ],
        None,
    )


def _more_for_vllm(facts: OomFacts, summary: str) -> Remedy:
    """A larger gpu_memory_utilization than the one in the text, where there is one to be had."""
    given = facts.details.get("gpu_memory_utilization")
    if given is not None and given >= 0.95:
        return Remedy(
            "gpu-memory-utilization",
            f"gpu_memory_utilization is {given:g} already: there is hardly more of the device to give",
            None,
            "stated",
        )
    now = "0.9 unless told otherwise" if given is None else f"it is {given:g}"
    return Remedy(
        "gpu-memory-utilization", f"{summary} ({now})", "--gpu-memory-utilization 0.95", "estimated"
    )


def _sglang(facts: OomFacts) -> Optional[_Addition]:
    """The direction in which mem-fraction-static has to go from the value in the text."""
    if facts.family != "sglang":
        return None
    name, option, given = (
        "mem-fraction-static",
        "--mem-fraction-static",
        facts.details.get("mem_fraction_static"),
    )
    now = "" if given is None else f" (it is {given:g})"
    if facts.details.get("stage") or not str(facts.details.get("direction", "increase")).startswith("incr"):
        less = 0.8 if given is None else max(0.05, given - 0.1)
        summary = f"leave more of the device to activations and CUDA graphs{now}"
        return [], [Remedy(name, summary, f"{option} {less:.2f}", "estimated")], None
    if given is None or given < 0.95:
        more = 0.92 if given is None or given < 0.92 else 0.95
        return (
            [],
            [Remedy(name, f"give the weights and the pool more{now}", f"{option} {more}", "estimated")],
            None,
        )
    return (
        [],
        [
            Remedy(
                name,
                f"mem-fraction-static is {given:g} already: there is hardly more of the device to give",
                None,
                "stated",
            ),
            Remedy(
                "spread", "spread the weights over more devices, or quantize them", "--tp-size 2", "estimated"
            ),
        ],
        None,
    )


def _sglang_unbalanced(facts: OomFacts) -> Optional[_Addition]:
    least = facts.details.get("least_free_bytes")
    if facts.family != "sglang-unbalanced" or least is None or facts.free_bytes is None:
        return None
    finding = Finding(
        "unbalanced",
        f"One GPU has {format_bytes(least)} free and this one {format_bytes(facts.free_bytes)}:"
        f" {format_bytes(facts.free_bytes - least)} less, and SGLang wants them within a tenth.",
        "derived",
        facts.free_bytes - least,
        {"formula": "free_bytes - least_free_bytes"},
    )
    return [finding], [], None


def _vllm_kv(facts: OomFacts) -> Optional[_Addition]:
    if facts.family != "vllm-kv":
        return None
    details = facts.details
    findings: list[Finding] = []
    held, wanted = details.get("kv_cache_tokens"), details.get("max_model_len")
    if held and wanted:
        findings.append(
            Finding(
                "too-long",
                f"The model's longest request has {wanted:,} tokens, and the KV cache holds {held:,}.",
                "stated",
                None,
                {"max_model_len": wanted, "kv_cache_tokens": held},
            )
        )
    needed, available = details.get("kv_cache_needed_bytes"), details.get("kv_cache_available_bytes")
    longest, basis = details.get("kv_cache_tokens") or details.get("estimated_max_model_len"), "stated"
    if needed and available is not None:
        findings.append(
            Finding(
                "short-by",
                f"One request needs {format_bytes(needed)} of KV cache, {format_bytes(available)} are "
                f"left for it: {format_bytes(needed - available)} short.",
                "derived",
                needed - available,
                {"formula": "kv_cache_needed_bytes - kv_cache_available_bytes"},
            )
        )
        if not longest and details.get("max_model_len"):
            longest, basis = int(details["max_model_len"] * available / needed) // 16 * 16, "derived"
    remedies = []
    if longest:
        summary = (
            "what fits, as the message says"
            if basis == "stated"
            else "available / needed of the length, in blocks of 16"
        )
        remedies.append(
            Remedy(
                "max-model-len",
                summary,
                f"--max-model-len {longest}",
                "stated" if basis == "stated" else "derived",
            )
        )
    remedies.append(_more_for_vllm(facts, "or give vLLM more of the device, if it is free"))
    return findings, remedies, None


def _triton(facts: OomFacts) -> Optional[_Addition]:
    required, limit = facts.details.get("required"), facts.details.get("limit")
    if facts.family != "triton" or not required or not limit:
        return None
    return (
        [
            Finding(
                "over-limit",
                f"The kernel needs {required:,} and one block may have {limit:,}: {required / limit:.2f}"
                " times as much.",
                "derived",
                None,
                {"formula": "required / limit", "required": required, "limit": limit},
            )
        ],
        [],
        None,
    )


def _mps(facts: OomFacts) -> Optional[_Addition]:
    other = facts.details.get("other_allocations_bytes")
    if facts.family != "mps" or facts.allocated_bytes is None or facts.allowed_bytes is None:
        return None
    held = facts.allocated_bytes + (other or 0)
    found = [
        Finding(
            "over-limit",
            f"PyTorch holds {format_bytes(facts.allocated_bytes)}"
            + (f", other allocations of this process {format_bytes(other)}" if other else "")
            + f"; {format_bytes(facts.allowed_bytes)} are allowed.",
            "stated",
            held,
        )
    ]
    return found, [], None


def _shape(facts: OomFacts) -> Optional[_Addition]:
    """The size of the tensor that TensorFlow names by shape and type."""
    sizes = {
        "float": 4,
        "double": 8,
        "half": 2,
        "bfloat16": 2,
        "int32": 4,
        "int64": 8,
        "uint8": 1,
        "int8": 1,
        "bool": 1,
    }
    width = sizes.get(str(facts.details.get("type")))
    shape = facts.details.get("shape")
    if facts.family != "tensorflow" or width is None or not shape:
        return None
    size = width * math.prod(int(part) for part in str(shape).split(",") if part.strip().isdecimal())
    return (
        [
            Finding(
                "tensor-size",
                f"The tensor of shape [{shape}] needs {format_bytes(size)}.",
                "derived",
                size,
                {"formula": "product of the shape × bytes of the type"},
            )
        ],
        [],
        None,
    )


def _over_limit(facts: OomFacts) -> Optional[_Addition]:
    """A limit that the request alone exceeds, or the request with what is held."""
    if facts.family not in ("cupy", "mlx") or facts.allowed_bytes is None or facts.requested_bytes is None:
        return None
    held = facts.allocated_bytes or 0
    if held + facts.requested_bytes <= facts.allowed_bytes:
        return None
    return (
        [
            Finding(
                "over-limit",
                f"{format_bytes(held + facts.requested_bytes)} with what is held; "
                f"{format_bytes(facts.allowed_bytes)} are allowed.",
                "derived",
                None,
                {"formula": "allocated_bytes + requested_bytes > allowed_bytes"},
            )
        ],
        [],
        "limit",
    )
