"""Frameworks beside PyTorch: TensorFlow, JAX, ONNX Runtime, PaddlePaddle, CuPy, RMM, XGBoost, MLX, DirectML.

What their texts state is taken, and no more is claimed: their allocators are not PyTorch's.
"""

from __future__ import annotations

from oomdoctor.message.patterns import Pattern, grammar

# tensorflow/core/common_runtime/bfc_allocator.cc warns once an allocation, and op_kernel.cc and the exception
# say it again with the shape. "The caller indicates that this is not a failure" is none.
TENSORFLOW = grammar(
    "TensorFlow",
    (
        "ran out of memory trying",
        "oom when allocating",
        "from device",
        "resourceexhausted",
        "dst tensor",
        "ran\nout",
    ),
    (
        Pattern(
            "tensorflow",
            r"(?:Allocator \((?:GPU_(?P<device>\d{1,4})_bfc|[^)\n]{1,40})\) )?[Rr]an out of memory trying to"
            r" allocate "
            r"SIZE(requested)(?: ?\(rounded to (?P<rounded_bytes>\d{1,19})\))?"
            r"(?! ?(?:\(rounded to \d+\))?[^\n]{0,60}?with freed_by_count=\d+\. The caller)",
            group="xla",
            opens=True,
            tolerance=1e-2,
        ),
        Pattern(
            "tensorflow",
            r"OOM when allocating tensor (?:with shape ?\[(?P<mark_shape>[\d,\x20]{0,200})\]|of shape)"
            r"(?! [^\n]{0,240}?(?:device:CPU:\d| by allocator cpu\b))"  # the host's memory
            r"(?: and type (?P<type>\w{1,20}))?(?: on [^\s]{0,120}?device:\w{1,10}:(?P<device>\d{1,4}))?",
            group="xla",
            tolerance=1e-2,
        ),
        Pattern("tensorflow", r"ResourceExhaustedError:[\s\S]{0,80}?failed to allocate memory", group="xla"),
        Pattern("tensorflow", r"Dst tensor is not initialized", kind="disguised", group="xla-dst"),
        # cuda_driver.cc: one line for each attempt
        Pattern(
            "tensorflow",
            r"failed to allocate [\d.]+[KMGT]?i?B? \((?P<requested>\d{1,19}) bytes\) from device"
            r"(?:: CUDA_ERROR_OUT_OF_MEMORY)?(?:: out of memory)?",
            group="xla-driver",
            opens=True,
        ),
    ),
)

# xla/pjrt, xla/service/gpu, xla/tsl/framework/bfc_allocator.cc
JAX = grammar(
    "JAX and XLA",
    (
        "out of memory while",
        "out of memory allocating",
        "out of memory in memory",
        "out of\nmemory",
        "exhausted",
        "failed to allocate request",
        "that was not possible",
        "cumemallocasync failed",
        "out\nof",
    ),
    (
        Pattern(
            "jax",
            r"(?:(?:RESOURCE_EXHAUSTED|Resource exhausted): )?Out of memory (?:while trying to"
            r" allocate|allocating) "
            r"(?:(?P<requested>\d{1,19}) bytes|SIZE(requested2))(?!\s*\(allocated so far)",
            group="xla",
            tolerance=1e-2,
        ),
        Pattern(
            "jax",
            r"(?:RESOURCE_EXHAUSTED|Resource exhausted): Failed to allocate request for \S{1,20}"
            r" \((?P<requested>\d{1,19})B\)"
            r" on device ordinal (?P<device>\d{1,4})",
            group="xla",
            tolerance=1e-2,
        ),
        Pattern(
            "jax",
            r"Attempting to (?:allocate|reserve) SIZE(requested)[^\n]{0,60}?\. That was not possible\."
            r"(?: There are SIZE(free) free)?",
            group="xla",
        ),
        Pattern(
            "jax",
            r"Ran out of memory in memory space (?P<space>\w{1,20})(?:\. Used SIZE(used_bytes) of SIZE(total)"
            r" \w+)?"
            r"(?:[\s\S]{0,40}?[Ee]xceeded \w+ capacity by SIZE(exceeded_bytes))?",
            group="xla",
        ),
        Pattern("jax", r"(?:RESOURCE_EXHAUSTED|Resource exhausted): Out of memory", group="xla"),
        # xla/stream_executor/gpu/gpu_cudamallocasync_allocator.cc
        Pattern(
            "jax",
            r"cuMemAllocAsync failed to allocate (?P<requested>\d{1,19}) bytes: [^\n]{0,120}?out of memory"
            r"(?: Reported by CUDA: Free memory/Total memory: (?P<free>\d{1,19})/(?P<total>\d{1,19}))?",
            group="xla",
        ),
    ),
)

# onnxruntime/core/framework/bfc_arena.cc
ONNXRUNTIME = grammar(
    "ONNX Runtime",
    ("requested buffer of size", "smaller than requested bytes", "cuda failure 2"),
    (
        Pattern(
            "onnxruntime",
            r"Failed to allocate memory for requested buffer of size (?P<requested>\d{1,19})",
            group="onnxruntime",
        ),
        Pattern(
            "onnxruntime",
            r"Available memory of (?P<available_bytes>\d{1,19}) is smaller than requested bytes of "
            r"(?P<requested>\d{1,19})",
            group="onnxruntime",
        ),
        Pattern(
            "onnxruntime",
            r"CUDA failure 2: out of memory ?;(?: GPU=(?P<device>-?\d{1,4}))?",
            group="onnxruntime-cuda",
        ),
    ),
)

# paddle/phi/core/memory/allocation/cuda_allocator.cc; also as a translator renders it
PADDLE = grammar(
    "PaddlePaddle",
    ("out of memory error on", "内存不足", "无法在gpu", "out\nof"),
    (
        Pattern(
            "paddle",
            r"Out of memory error on \w{2,5} (?P<device>\d{1,4})\. Cannot allocate SIZE(requested) memory on"
            r" \w{2,5} \d{1,4}"
            r"(?:, SIZE(allocated) memory has been allocated)?"
            r"(?:(?:,| and) available memory is only SIZE(free))?",
        ),
        Pattern(
            "paddle",
            r"GPU ?(?P<device>\d{1,4}) ?上?出现内存不足[\s\S]{0,40}?分配 ?SIZE(requested) ?的?内存"
            r"(?:[，, ]{0,3}已分配 ?SIZE(allocated) ?的?内存)?(?:[，, ]{0,3}(?:而)?可用内存仅为"
            r" ?SIZE(free))?",
        ),
        Pattern("paddle", r"Out of memory error on \w{2,5} (?P<device>\d{1,4})"),
    ),
)

# cupy/cuda/memory.pyx, rmm/mr, XGBoost src/common/device_vector.cu
ARRAYS = grammar(
    "CuPy, RMM, XGBoost",
    ("to allocate", "allocated so far", "pool size exceeded", "memory allocation error"),
    (
        Pattern(
            "cupy",
            r"[Oo]ut of memory allocating (?P<requested>[\d,]{1,30}) bytes \(allocated so far: "
            r"(?P<allocated>[\d,]{1,30}) bytes(?:, limit set to: (?P<allowed>[\d,]{1,30}) bytes)?",
        ),
        Pattern(
            "cupy",
            r"out of memory to allocate (?P<requested>\d{1,19}) bytes"
            r"(?: \(total (?P<pool_total_bytes>\d{1,19}) bytes\))?",
        ),
        # rmm's logger prints it, and the exception says it again
        Pattern(
            "rmm", r"\[Upstream (?P<requested>\d{1,19})B\]\[FAILURE maximum pool size exceeded\]", opens=True
        ),
        Pattern(
            "rmm",
            r"[Mm]aximum pool size exceeded(?: \(failed to allocate SIZE(requested)\))?",
        ),
        Pattern(
            "xgboost",
            r"Memory allocation error on worker (?P<worker>\d{1,6}):[^\n]{0,120}?(?:out of"
            r" memory|bad_alloc)[\s\S]{0,20}?"
            r"Free memory: SIZE(free)[\s\S]{0,10}?Requested memory: SIZE(requested)",
        ),
        Pattern("rmm", r"RMM failure at[^\n]{0,200}?: (?:std::)?bad_alloc|out_of_memory: CUDA error"),
    ),
)

OTHER_DEVICES = grammar(
    "MLX, DirectML, Keras backends",
    ("metal::malloc", "gpu video memory", "pt_devmem", "attempting to allocate", "video memory"),
    (
        Pattern(
            "mlx",
            r"(?:\[metal::malloc\] )?Attempting to allocate (?P<requested>\d{1,19}) bytes which is greater"
            r" than the "
            r"maximum allowed buffer size of (?P<allowed>\d{1,19}) bytes",
        ),
        Pattern("mlx", r"\[metal::malloc\] Unable to allocate (?P<requested>\d{1,19}) bytes"),
        Pattern(
            "directml",
            r"Could not allocate tensor with (?P<requested>\d{1,19}) bytes\. There is not enough GPU video"
            r" memory",
        ),
        Pattern("hpu", r"PT_DEVMEM Allocation failed for size::(?P<requested>\d{1,19})"),
        Pattern("directml", r"(?:[Nn]ot enough|[Ii]nsufficient) (?:GPU )?video memory"),
    ),
)

# A message that Intel's runtime gives, once for every operation that failed
NATIVE_API = grammar(
    "Intel's native API",
    ("native api",),
    (
        Pattern(
            "xpu",
            r"Native API failed\. Native API returns: -?(?P<mark_code>\d{1,4})"
            r" \((?:UR|PI|ZE)_\w*(?:OUT_OF_\w*|"
            r"MEM_OBJECT_ALLOCATION_FAILURE)\)",
            group="driver",
        ),
    ),
)
