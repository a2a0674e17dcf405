"""CUDA's own errors, and those of the libraries beside PyTorch's allocator: the runtime and driver, cuBLAS,
cuDNN, NCCL, bitsandbytes, Triton and whatever else reports error 2.

None of these gives more than a size and a device; most give nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from oomdoctor.diagnosis.model import OomFacts
from oomdoctor.message.patterns import Pattern, grammar
from oomdoctor.message.sighting import Grammar, Sighting

# NCCL src/include/checks.h: CUDACHECK warns "Cuda failure 'out of memory'", with the number since 2.19; the
# prefix is host:pid:tid [cudaDev] (src/debug.cc).
NCCL = grammar(
    "NCCL",
    ("cuda failure", "nccl"),
    (
        Pattern(
            "nccl",
            r"(?:\[(?P<device>\d{1,4})\] )?(?:(?P<file>[\w./-]{1,200}\.(?:cc|h|cu)):(?P<at>\d+) )?NCCL WARN "
            r"Cuda failure (?:2 )?'out of memory'"
            r"(?:[\s\S]{0,200}?NCCL WARN Failed to CUDA [\w ]{1,40}? (?P<requested>\d{1,19}) bytes)?",
            group="nccl",
            opens=True,
        ),
        Pattern(
            "nccl",
            r"Failed to CUDA (?:m|c)alloc[\w ]{0,30}? (?P<requested>\d{1,19}) bytes",
            group="nccl",
            follows=20,
        ),
        Pattern("nccl", r"Cuda failure (?:2 )?'out of memory'|Cuda failure 2\b", group="nccl"),
    ),
)

LIBRARIES = grammar(
    "CUDA libraries",
    ("_status_", "cudnn", "find an engine", "cusolver", "cufft"),
    (
        Pattern(
            "cublas", r"CUBLAS_STATUS_ALLOC_FAILED(?: when calling (?P<mark_call>\w{1,80}))?", group="cublas"
        ),
        Pattern(
            "cublas",
            r"CUBLAS_STATUS_NOT_INITIALIZED when calling (?P<mark_call>cublas(?:Lt)?Create)",
            kind="disguised",
            group="cublas",
        ),
        Pattern("cudnn", r"CUDNN_STATUS_ALLOC_FAILED", group="cudnn"),
        Pattern(
            "cudnn",
            r"CUDNN_STATUS_NOT_INITIALIZED|CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            kind="disguised",
            group="cudnn",
        ),
        Pattern(
            "cudnn",
            r"Unable to find a valid cuDNN algorithm to run convolution|GET was unable to find an engine to"
            r" execute"
            r" this computation|FIND was unable to find an engine to execute this computation",
            kind="disguised",
            group="cudnn",
        ),
        Pattern(
            "cuda-library",
            r"(?:CUSOLVER|CUSPARSE|CUFFT|CURAND|NVSHMEM|ROCBLAS|HIPBLAS|MIOPEN|MIOPEN|CUTENSOR)"
            r"(?:_STATUS|LT_STATUS)?_(?:ALLOC_FAILED|ALLOCATION_FAILED|INSUFFICIENT_RESOURCES)",
            group="cuda-library",
        ),
    ),
)

# triton/runtime/errors.py, OutOfResources: "out of resource: NAME, Required: R, Hardware limit: L. ..."
TRITON = grammar(
    "Triton",
    ("out of resource", "shared memory"),
    (
        Pattern(
            "triton",
            r"out of resources?: (?P<resource>[\w\x20-]{1,40}?),?\s*Required: (?P<required>\d{1,15})"
            r"(?:,?\s*Hardware limit(?:ation)?: (?P<limit>\d{1,15}))?",
            kind="disguised",
        ),
        Pattern("triton", r"out of resources?: (?P<resource>shared memory)", kind="disguised"),
    ),
)

# bitsandbytes csrc/ops.cuh: CUDA_CHECK_RETURN prints "Error %s at line %d in file %s" and exits.
BITSANDBYTES = grammar(
    "bitsandbytes",
    ("at line",),
    (
        Pattern(
            "bitsandbytes",
            r"Error out of memory at line (?P<mark_line>\d+) in file (?P<mark_file>[^\s*]{1,300})",
        ),
    ),
)

_CODE = re.compile(
    r"(?P<code>CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|hipErrorOutOfMemory|hipErrorMemoryAllocation"
    r"|UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY|UR_RESULT_ERROR_OUT_OF_RESOURCES|ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"
    r"|PI_ERROR_OUT_OF_RESOURCES|PI_ERROR_MEM_OBJECT_ALLOCATION_FAILURE|CL_MEM_OBJECT_ALLOCATION_FAILURE"
    r"|MEM_OBJECT_ALLOCATION_FAILURE|ErrorOutOfDeviceMemory|VK_ERROR_OUT_OF_DEVICE_MEMORY"
    r"|HSA_STATUS_ERROR_OUT_OF_RESOURCES|NVRM_OUT_OF_MEMORY|RMM_ERROR_OUT_OF_MEMORY)"
    r"|(?<!\w)(?<!ran\s)(?<!run\s)(?<!running\s)"
    r"(?P<words>[Oo]ut\s+of\s+(?:(?:GPU|device|video|CUDA|VRAM|graphics)\s+)?memory|OUT OF"
    r" MEMORY)\b"
)
# Beside "out of memory" one of these, in lower case, says that it is a device's ...
_DEVICE = (
    *(
        "cuda",
        "hip ",
        "hip_",
        "hiperror",
        "hipmalloc",
        "gpu",
        "vram",
        "nvidia",
        "cudnn",
        "cublas",
        "nccl",
        "tensorrt",
    ),
    *(
        "opencl",
        "vulkan",
        "rocm",
        "video memory",
        "device memory",
        "graphics memory",
        "cumem",
        "culaunch",
        "curand",
    ),
    *("rmm", "thrust", "optix", ".cu:", ".cu(", ".cuh", "torch.outofmemoryerror"),
)
# ... and one of these that it is not: whatever else the line says, or unless it names a code of the device's.
_NEVER = ("bytes on host", "not a failure", "oom-kill", "oom_kill", "killed process")
_HOST = (
    *(
        "java.lang",
        "java heap",
        "javascript",
        "heap limit",
        "cgroup",
        "oomkilled",
        "pinned host",
        "pinned memory",
        "cpuallocator",
    ),
    *("slurmstepd", "redis", "postgres", "system memory"),
)
# Who says so, where the line gives it away.
_SPEAKERS = (
    ("rmm", ("rmm",)),
    ("numba", ("numba", "call to cumem")),
    ("pycuda", ("pycuda", "cumemalloc failed: out")),
    ("theano", ("pygpu", "theano")),
    ("ctranslate2", ("cuda failed with error out",)),
    ("mxnet", ("mxnet", "pooled_storage_manager")),
    ("thrust", ("thrust", "bad_alloc: cudaerrormemoryallocation")),
    ("xpu", ("ur_result_error", "ze_result_error", "pi_error")),
)
# Marks that let two prints of one error be told from two errors.
_SOURCE = re.compile(r"(?:(?:at|in)\s+(?:file\s+)?)?([\w./\\-]{1,200}\.(?:cu|cuh|cpp|cc|h|hpp|c|rs)):(\d+)")
_TRIED = re.compile(r"\.?\s+[Tt]ried to allocate\s+\d")
_GGML_DEVICE = re.compile(r"\n\s{0,4}current device: (\d{1,4})")


def _has(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)


def _driver(text: str) -> Iterator[Sighting]:
    for match in _CODE.finditer(text):
        start = text.rfind("\n", max(0, match.start() - 400), match.start())
        start = match.start() - 400 if start < 0 and match.start() > 400 else start + 1
        end = text.find("\n", match.end(), match.end() + 300)
        end = min(len(text), match.end() + 300) if end < 0 else end
        line = text[start:end].lower()
        if _has(line, _NEVER):
            continue
        if match.group("words"):
            if text[match.end() : match.end() + 1] == "?":
                continue  # a question about it
            if _TRIED.match(text, match.end()):
                continue  # PyTorch's own, cut at its head
            near = line
            if line.lstrip().startswith(("error", "out of memory", "fatal")):  # wrapped after the file name
                near = text[max(0, start - 200) : end].lower()
            if _has(line, _HOST) or not _has(near, _DEVICE):
                continue
        source = _SOURCE.search(text, match.end(), end)
        device = _GGML_DEVICE.match(text, match.end())
        family = next((name for name, words in _SPEAKERS if _has(line, words)), "generic-driver")
        yield Sighting(
            start=match.start(),
            end=match.end(),
            facts=OomFacts(family=family, device=int(device.group(1)) if device else None),
            group="driver",
            marks=(("at", ":".join(source.groups())),) if source else (),
        )


DRIVER = Grammar(
    "drivers",
    (
        "out of",
        "out_of",
        "erroroutof",
        "memoryallocation",
        "outofmemory",
        "allocation_failure",
        "\nof memory",
    ),
    _driver,
)
