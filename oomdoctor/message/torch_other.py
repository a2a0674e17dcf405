"""PyTorch outside its CUDA caching allocator: THC, cudaMallocAsync, MPS, the driver, NVML and virtual
addresses."""

from __future__ import annotations

from oomdoctor.message.patterns import Pattern, grammar

# 0.4 and before: aten/src/THC/THCGeneral.cpp, __THCudaCheck prints, then throws the same file and line.
THC = grammar(
    "THC",
    ("error=2", "cuda runtime error (2)"),
    (
        Pattern(
            "torch-thc",
            r"THCudaCheck FAIL file=(?P<mark_file>[^\s]{1,300}) line=(?P<mark_line>\d+) error=2 ?: ?out of"
            r" memory",
            opens=True,
        ),
        Pattern(
            "torch-thc",
            r"cuda runtime error \(2\) ?: ?out of memory(?: at"
            r" (?P<mark_file>[^\s]{1,300}):(?P<mark_line>\d+))?",
        ),
    ),
)

# c10/cuda/CUDAMallocAsyncAllocator.cpp, mallocAsync. Before #168369 device 0 ended the text at "device ".
_ASYNC_TAIL = (
    "(?: Currently allocated ?: ?SIZE(allocated))?"
    "(?: Requested ?: ?SIZE(requested))?"
    "(?: Device limit ?: ?SIZE(total))?"
    r"(?: Free \(according to CUDA\) ?: ?SIZE(free))?"
    r"(?: PyTorch limit \(set by user-supplied memory fraction\) ?: ?SIZE(allowed))?"
)
MALLOC_ASYNC = grammar(
    "cudaMallocAsync",
    ("allocation on device", "would exceed allowed"),
    (
        Pattern(
            "cuda-malloc-async",
            r"Allocation on device(?: (?P<device>\d{1,4}))? would exceed allowed memory\.?(?: \(out of"
            r" memory\))?" + _ASYNC_TAIL,
            group="torch",
        ),
        Pattern(
            "cuda-malloc-async-nul",
            r"Allocation on device(?=[\x20]*(?:\n|\Z|[\"')\]}\\,]|This error means))",
            group="torch",
        ),
    ),
)

# aten/src/ATen/mps/MPSAllocator.mm, MPSHeapAllocatorImpl::malloc. "GB" up to 2.6, "GiB" from 2.7, both
# 1024^3.
MPS = grammar(
    "MPS",
    ("mps backend out of memory", "mps allocated"),
    (
        Pattern(
            "mps",
            r"(?:MPS backend out of memory ?)?\(? ?MPS allocated: SIZE(allocated)"
            r"(?:, other allocations: SIZE(other_allocations_bytes))?(?:, max allowed: SIZE(allowed))?"
            r"(?: ?\)? ?\.? Tried to allocate SIZE(requested) on (?P<pool>private|shared) pool)?",
            group="torch",
        ),
        Pattern("mps", "MPS backend out of memory", group="torch"),
    ),
)

# c10/cuda/CUDAException.cpp and driver_api.h: calls that are not the caching allocator's.
RUNTIME = grammar(
    "CUDA calls of PyTorch",
    ("driver error", "driver\nerror", "nvml_success", "segmentva", "preemptively"),
    (
        Pattern(
            "torch-address-space",
            r"\[ExpandableSegmentVA\] Failed to reserve (?P<requested>\d{1,19}) bytes(?: \([^)\n]{0,40}\))?"
            r"(?: of virtual address space for an expandable \w+ segment(?: on device (?P<device>\d{1,4}))?)?"
            r"(?:[^\n]{0,200}?This process already holds (?P<segments>\d+) live expandable segment\(s\)"
            r" reserving (?P<reserved_addresses_bytes>\d{1,19}))?",
            kind="disguised",
            group="driver-error",
        ),
        Pattern(
            "torch-2.2+",
            r"Preemptively rejecting allocation: requested (?P<requested>\d{1,19})[^\n]{0,300}?"
            r"would exceed memory limit",
            group="torch",
            details={"preemptively_rejected": True, "torch": ["2.12", "2.15"]},
        ),
        Pattern(
            "generic-driver",
            r"CUDA driver error: ?(?:out of memory|2\b)",
            group="driver-error",
        ),
        Pattern(
            "disguised",
            r"NVML_SUCCESS ?== ?[\s\S]{1,200}?(?:INTERNAL ASSERT FAILED|CUDACachingAllocator)",
            kind="disguised",
            group="nvml-assert",
        ),
    ),
)
