"""Each family beside PyTorch's caching allocator: recognised, its numbers taken, nothing more."""

from __future__ import annotations

from typing import Any

import pytest

from oomdoctor.diagnosis.message import diagnose
from oomdoctor.message import read_text
from oomdoctor.reporters import explain_text
from oomdoctor.reporters.ink import Ink

GIB = 1 << 30

# (text, family, kind, fields)
CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("RuntimeError: CUDA error: out of memory\nFor debugging consider", "generic-driver", "oom", {}),
    ("RuntimeError: CUDA driver error: out of memory", "generic-driver", "oom", {}),
    ("RuntimeError: HIP error: out of memory", "generic-driver", "oom", {}),
    ("SystemError: CUDA_ERROR_OUT_OF_MEMORY", "generic-driver", "oom", {}),
    ("what():  /src/pool/SimpleCudaMalloc_impl.hpp(42):\nerror: out of memory", "generic-driver", "oom", {}),
    (
        (
            "THCudaCheck FAIL file=/p/THC/THCStorage.cu line=58 error=2 : out of memory\nTraceback\n"
            "RuntimeError: cuda runtime error (2) : out of memory at /p/THC/THCStorage.cu:58"
        ),
        "torch-thc",
        "oom",
        {},
    ),
    ("CUDA out of memory. Tried to allocate more than 1EB memory.", "torch-1EB", "oom", {}),
    (
        (
            "torch.OutOfMemoryError: Allocation on device 1 would exceed allowed memory. (out of"
            " memory)\nCurrently allocated     : 2.50 GiB\nRequested               : 512.00 KiB\nDevice limit"
            "            : 4.00 GiB\nFree (according to CUDA): 0 bytes\nPyTorch limit (set by user-supplied"
            " memory fraction)\n                        : 3.00 GiB"
        ),
        "cuda-malloc-async",
        "oom",
        {
            "device": 1,
            "allocated_bytes": 5 * GIB // 2,
            "requested_bytes": 512 << 10,
            "total_bytes": 4 * GIB,
            "free_bytes": 0,
            "allowed_bytes": 3 * GIB,
        },
    ),
    ("!!! Exception !!! Allocation on device \nTraceback", "cuda-malloc-async-nul", "oom", {}),
    (
        (
            "RuntimeError: MPS backend out of memory (MPS allocated: 6.00 GB, other allocations: 512.00 MB,"
            " max allowed: 6.50 GB). Tried to allocate 256.00 MB on private pool."
        ),
        "mps",
        "oom",
        {"allocated_bytes": 6 * GIB, "allowed_bytes": 13 * GIB // 2, "requested_bytes": 256 << 20},
    ),
    (
        (
            "XPU out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 4.00 GiB. Of the"
            " allocated memory 1.00 GiB is allocated by PyTorch, and 2.00 MiB is reserved by PyTorch but"
            " unallocated."
        ),
        "xpu",
        "oom",
        {"device": 0, "total_bytes": 4 * GIB, "free_bytes": None, "allocated_bytes": GIB},
    ),
    (
        (
            "NPU out of memory. NPUWorkspaceAllocator tried to allocate 1.50 GiB(NPU 3; 60.00 GiB total"
            " capacity; 58.00 GiB already allocated; 58.00 GiB current active; 210.00 MiB free; 58.50 GiB"
            " reserved in total by PyTorch)"
        ),
        "npu",
        "oom",
        {"device": 3, "requested_bytes": 3 * GIB // 2, "allocated_bytes": 58 * GIB, "free_bytes": 210 << 20},
    ),
    (
        (
            "MUSA out of memory. Tried to allocate 1.00 GiB (GPU 2; 16.00 GiB total capacity; 9.00 GiB"
            " already allocated; 512.00 MiB free; 15.00 GiB reserved in total by PyTorch)"
        ),
        "musa",
        "oom",
        {"device": 2, "reserved_bytes": 15 * GIB},
    ),
    (
        (
            "[W CUDACachingAllocator.cpp:1] Preemptively rejecting allocation: requested 1073741824 but"
            " total_allocated_memory (9000000000) + requested size would exceed memory limit (9500000000, 95%"
            " of 1).\ntorch.OutOfMemoryError: CUDA out of memory. Allocation was preemptively rejected"
            " because it would exceed per_process_memory_fraction limit. Requested size: 1.00 GiB"
        ),
        "torch-2.2+",
        "oom",
        {"requested_bytes": GIB},
    ),
    (
        (
            "[ExpandableSegmentVA] Failed to reserve 96636764160 bytes (90 GiB) of virtual address space for"
            " an expandable CUDA segment on device 1 (x). This process already holds 1450 live expandable"
            " segment(s) reserving 137438953472 bytes of virtual address space.\nRuntimeError: CUDA driver"
            " error: out of memory"
        ),
        "torch-address-space",
        "disguised",
        {"device": 1, "requested_bytes": 90 * GIB},
    ),
    (
        'RuntimeError: NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1',
        "disguised",
        "disguised",
        {},
    ),
    (
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cublas",
        "oom",
        {},
    ),
    ("RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cudnn", "oom", {}),
    ("RuntimeError: GET was unable to find an engine to execute this computation", "cudnn", "disguised", {}),
    ("RuntimeError: Unable to find a valid cuDNN algorithm to run convolution", "cudnn", "disguised", {}),
    (
        (
            "h1:392:494 [2] include/alloc.h:48 NCCL WARN Cuda failure 2 'out of memory'\n"
            "h1:392:494 [2] include/alloc.h:48 NCCL WARN Failed to CUDA calloc 8388608 bytes\n"
            "Last error:\nCuda failure 2 'out of memory'"
        ),
        "nccl",
        "oom",
        {"device": 2, "requested_bytes": 8388608},
    ),
    ("Error out of memory at line 380 in file /x/csrc/pythonInterface.c", "bitsandbytes", "oom", {}),
    (
        (
            "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 147456, Hardware"
            " limit: 101376."
        ),
        "triton",
        "disguised",
        {"requested_bytes": None},
    ),
    (
        (
            "ValueError: Free memory on device cuda:1 (19.75/22.00 GiB) on startup is less than desired GPU"
            " memory utilization (0.9, 19.80 GiB)."
        ),
        "vllm",
        "refusal",
        {"device": 1, "total_bytes": 22 * GIB, "free_bytes": 79 * GIB // 4},
    ),
    ("ValueError: No available memory for the cache blocks. Try increasing", "vllm", "refusal", {}),
    (
        (
            "ValueError: To serve at least one request with the models's max seq len (40960), (5.50 GiB KV"
            " cache is needed, which is larger than the available KV cache memory (3.25 GiB). Based on the"
            " available memory, the estimated maximum model length is 23296."
        ),
        "vllm-kv",
        "refusal",
        {},
    ),
    (
        (
            "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can"
            " be stored in KV cache (7344)."
        ),
        "vllm-kv",
        "refusal",
        {},
    ),
    (
        "CUDA Error: out of memory at /w/csrc/cumem_allocator.cpp:56\nCUDA Error: invalid argument",
        "vllm-cumem",
        "oom",
        {},
    ),
    (
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        "sglang",
        "refusal",
        {},
    ),
    (
        "[2025-03-29 18:18:34 TP3] ValueError: Prefill out of memory. Try to lower your batch size.",
        "sglang",
        "oom",
        {"rank": 3},
    ),
    (
        (
            "Server error: Not enough memory to handle 4096 prefill tokens. You need to decrease"
            " `--max-batch-prefill-tokens`"
        ),
        "tgi",
        "refusal",
        {},
    ),
    (
        (
            "RuntimeError: [TensorRT-LLM][ERROR] CUDA runtime error in ::cudaMallocAsync(ptr, n, s): out of"
            " memory (/a/b.h:125)"
        ),
        "tensorrt-llm",
        "oom",
        {},
    ),
    (
        (
            "Executor creation failed due to insufficient GPU memory.\n\nThe following component could not be"
            " created: KV cache\nTotal GPU memory (GiB): 140.00\nFree GPU memory before component creation"
            " attempt (GiB): 108.50"
        ),
        "tensorrt-llm",
        "refusal",
        {"total_bytes": 140 * GIB, "free_bytes": 217 * GIB // 2},
    ),
    (
        (
            "[E] 1: [virtualMemoryBuffer.cpp::resizePhysical::127] Error Code 1: Cuda Driver (out of"
            " memory)\n[W] Requested amount of GPU memory (1073741824 bytes) could not be allocated.\n[E] 2:"
            " [virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further"
            " information)"
        ),
        "tensorrt",
        "oom",
        {"requested_bytes": GIB},
    ),
    ("RuntimeError: Insufficient VRAM in split for model and cache", "exllama", "refusal", {}),
    (
        (
            "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9866.00 MiB on device 1: cudaMalloc"
            " failed: out of memory\nggml_gallocr_reserve_n: failed to allocate CUDA1 buffer of size"
            " 10345253120"
        ),
        "ggml",
        "oom",
        {"device": 1, "requested_bytes": 9866 << 20},
    ),
    (
        (
            "Error: llama runner process has terminated: cudaMalloc failed: out of memory\n"
            "ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size 838447104"
        ),
        "ggml",
        "oom",
        {"device": 0, "requested_bytes": 838447104},
    ),
    (
        (
            "ggml_vulkan: Device memory allocation of size 118497280 failed.\n"
            "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory"
        ),
        "ggml-vulkan",
        "oom",
        {"requested_bytes": 118497280},
    ),
    (
        (
            "ResourceExhaustedError: OOM when allocating tensor with shape[64,9,9] and type float on "
            "/job:localhost/replica:0/task:0/device:GPU:1 by allocator GPU_1_bfc"
        ),
        "tensorflow",
        "oom",
        {"device": 1, "requested_bytes": None},
    ),
    (
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 285212672 bytes.",
        "jax",
        "oom",
        {"requested_bytes": 285212672},
    ),
    (
        "Resource exhausted: Failed to allocate request for 32.00MiB (33554432B) on device ordinal 2",
        "jax",
        "oom",
        {"device": 2, "requested_bytes": 33554432},
    ),
    (
        (
            "cuMemAllocAsync failed to allocate 1225195446464 bytes: RESOURCE_EXHAUSTED: :"
            " CUDA_ERROR_OUT_OF_MEMORY: out of memory\n Reported by CUDA: Free memory/Total memory:"
            " 22635544576/85095874560"
        ),
        "jax",
        "oom",
        {"requested_bytes": 1225195446464, "free_bytes": 22635544576, "total_bytes": 85095874560},
    ),
    (
        "bfc_arena.cc:331 Failed to allocate memory for requested buffer of size 8388608000",
        "onnxruntime",
        "oom",
        {"requested_bytes": 8388608000},
    ),
    ("CUDA failure 2: out of memory ; GPU=1 ; hostname=a", "onnxruntime", "oom", {"device": 1}),
    (
        (
            "Out of memory error on GPU 0. Cannot allocate 98.000000MB memory on GPU 0, 6.000000GB memory has"
            " been allocated and available memory is only 0.000000B."
        ),
        "paddle",
        "oom",
        {"device": 0, "requested_bytes": 98 << 20, "allocated_bytes": 6 * GIB, "free_bytes": 0},
    ),
    (
        (
            "Out of memory allocating 1,073,741,824 bytes (allocated so far: 8,123,456 bytes, limit set to:"
            " 900,000,000 bytes)."
        ),
        "cupy",
        "oom",
        {"requested_bytes": GIB, "allocated_bytes": 8123456, "allowed_bytes": 900000000},
    ),
    (
        (
            "[A][Stream 0x1][Upstream 5872684800B][FAILURE maximum pool size exceeded]\nMemoryError:"
            " std::bad_alloc: out_of_memory: RMM failure at:/x.hpp:269: Maximum pool size exceeded"
        ),
        "rmm",
        "oom",
        {"requested_bytes": 5872684800},
    ),
    (
        "std::bad_alloc: CUDA error at: /rmm/mr/x.hpp:68: cudaErrorMemoryAllocation out of memory",
        "rmm",
        "oom",
        {},
    ),
    (
        (
            "RuntimeError: [metal::malloc] Attempting to allocate 48736917632 bytes which is greater than the"
            " maximum allowed buffer size of 30150672384 bytes."
        ),
        "mlx",
        "oom",
        {"requested_bytes": 48736917632, "allowed_bytes": 30150672384},
    ),
    (
        (
            "RuntimeError: Could not allocate tensor with 234881024 bytes. There is not enough GPU video"
            " memory available!"
        ),
        "directml",
        "oom",
        {"requested_bytes": 234881024},
    ),
    (
        "RuntimeError: Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "xpu",
        "oom",
        {},
    ),
]


@pytest.mark.parametrize(
    ("text", "family", "kind", "fields"),
    CASES,
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_family(text: str, family: str, kind: str, fields: dict[str, Any]) -> None:
    ooms = read_text(text).ooms
    assert [(facts.family, facts.kind) for facts in ooms] == [(family, kind)]
    assert {name: getattr(ooms[0], name) for name in fields} == fields
    answer = explain_text.render([diagnose(facts) for facts in ooms], Ink())
    lines = [
        line for line in answer.splitlines() if "_ALLOC_CONF=" not in line
    ]  # a line to paste stays whole
    assert max(len(line) for line in lines) <= 80, answer


@pytest.mark.parametrize(
    "text",
    [
        "[123.4] Out of memory: Killed process 123 (python) total-vm:1kB",
        (
            "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.batch. Some of your processes may"
            " have been killed by the cgroup out-of-memory handler."
        ),
        "(raylet) node_manager.cc:3277: 2 Workers (tasks / actors) killed due to memory pressure (OOM)",
        "java.lang.OutOfMemoryError: Java heap space",
        "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000000 bytes.",
        "RuntimeError: $ Torch: not enough memory: you tried to allocate 72GB. Buy new RAM!",
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 3.2 GiB for an array with shape (1, 2)",
        "failed to alloc 2147483648 bytes on host: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        (
            "[W CUDACachingAllocator.cpp:3933] memory allocation failed with OOM on device 1 while trying to"
            " allocate 20971520 bytes (free: 15794176, total: 150111977472)."
        ),
        "FullyFusedMLP: insufficient shared memory available on the GPU.",
    ],
)
def test_other_memory_is_told_apart(text: str) -> None:
    reading = read_text(text)
    assert reading.ooms == ()
    assert reading.instead is not None


@pytest.mark.parametrize(
    "text",
    [
        "step 10 loss 0.1 GPU memory allocated 10.00 GiB reserved 12.00 GiB",
        "RESOURCE_EXHAUSTED: Received message larger than max (5 vs. 4)",
        (
            "Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.54GiB with freed_by_count=0. The"
            " caller indicates that this is not a failure, but may mean that there could be performance gains"
            " if more memory were available."
        ),
        "torch.cuda.memory_summary() | 10 GiB is allocated by PyTorch",
        "INFO 1.00 GiB KV cache, 2000 blocks",
    ],
)
def test_talk_of_memory_is_no_error(text: str) -> None:
    assert read_text(text).ooms == ()
