"""What stands beside a snapshot.

Who this process is, what was asked of the allocator, how full the devices are.
"""

import contextlib
import os
import platform
import re
import sys
from typing import Any, Dict, List, Optional, Tuple

_DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_MODULE_LOADING",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
)
# Launchers spell the same three numbers differently; torch's own names first.
_RANK = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_WORLD_SIZE = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")


# What torch reads; PYTORCH_ALLOC_CONF since 2.9.
_ALLOCATOR_VARIABLES = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_HIP_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "PYTORCH_NO_HIP_MEMORY_CACHING",
)
_MOST_MISTAKES = 3


def settings_asked(environment: Dict[str, str]) -> Dict[str, str]:
    """The variables by which somebody meant to set the allocator, misspelt ones included.

    torch says nothing about PYTORCH_CUDA_ALLOCATOR_CONF or PYTORCH_CUDA_ALOC_CONF: that is for the reader to
    find.
    """
    return {name: value for name, value in environment.items() if _means_the_allocator(name.upper())}


def _means_the_allocator(name: str) -> bool:
    if "CUDA_MEMORY_CACHING" in name or ("ALLOC" in name and re.search("TORCH|CUDA|HIP", name)):
        return True
    if re.match("PYTORCH.*CONF", name) or re.match("(TORCH|CUDA|HIP)_.*_CONF$", name):
        return True
    # Few names come this far: the rest is a loop over their letters.
    return re.search("TORCH|CUDA|HIP|CONF|CACHING", name) is not None and any(
        _mistakes(name, true) <= _MOST_MISTAKES for true in _ALLOCATOR_VARIABLES
    )


def _mistakes(one: str, other: str) -> int:
    """How many letters to put in, leave out or change make one of the other (Levenshtein)."""
    if abs(len(one) - len(other)) > _MOST_MISTAKES:
        return _MOST_MISTAKES + 1
    before = list(range(len(other) + 1))
    for i, a in enumerate(one):
        now = [i + 1]
        for j, b in enumerate(other):
            now.append(min(before[j + 1] + 1, now[j] + 1, before[j] + (a != b)))
        before = now
    return before[-1]


def _first_integer(environment: Dict[str, str], names: Tuple[str, ...]) -> Optional[int]:
    for name in names:
        value = environment.get(name, "")
        if value.lstrip("-").isdigit():
            return int(value)
    return None


def ranks() -> Dict[str, Optional[int]]:
    """Rank, local rank, world size.

    Torch.distributed where it is initialized, else the launcher's variables.
    """
    environment = dict(os.environ)
    # SLURM_* alone says nothing about ranks where a batch script runs one program; srun sets more than one
    # task.
    if environment.get("SLURM_NTASKS", "1") == "1":
        environment = {k: v for k, v in environment.items() if not k.startswith("SLURM_")}
    found = {
        "rank": _first_integer(environment, _RANK),
        "local_rank": _first_integer(environment, _LOCAL_RANK),
        "world_size": _first_integer(environment, _WORLD_SIZE),
    }
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            found["rank"] = int(distributed.get_rank())
            found["world_size"] = int(distributed.get_world_size())
    except Exception:
        pass  # a process group being torn down; the variables stand
    return found


def start_ticks(pid: int) -> Optional[int]:
    """When the kernel started this process (clock ticks since boot).

    With the pid it names one process for good.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # proc(5): the command may hold spaces and brackets; field 22 counts from behind it.
            return int(file.read().rsplit(b")", 1)[1].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def process(torch: Any, started_unix: float, cuda_started_unix: float) -> Dict[str, Any]:
    """The fields of process.json that do not change."""
    version = getattr(torch, "version", None)
    environment = dict(os.environ)
    return {
        "schema": "oomdoctor.process/1",
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "start_ticks": start_ticks(os.getpid()),
        "started_unix": started_unix,
        "cuda_started_unix": cuda_started_unix,
        "argv": list(getattr(sys, "argv", [])),
        "executable": sys.executable,
        "cwd": _cwd(),
        "python_version": platform.python_version(),
        "torch_version": str(getattr(torch, "__version__", "")) or None,
        "cuda_version": getattr(version, "cuda", None),
        "hip_version": getattr(version, "hip", None),
        **ranks(),
        "environment": {
            **{name: environment[name] for name in _DEVICE_VARIABLES if name in environment},
            **settings_asked(environment),
        },
    }


def _cwd() -> Optional[str]:
    try:
        return os.getcwd()
    except OSError:
        return None  # removed under us


def devices_in_use(torch: Any) -> List[int]:
    """The devices on which this process has a context. Asking any other would create one, with its 0.5 GB."""
    has_context = getattr(torch._C, "_cuda_hasPrimaryContext", None)
    if has_context is None:
        return [torch.cuda.current_device()]
    return [d for d in range(torch.cuda.device_count()) if has_context(d)]


def free_and_total(torch: Any, device: int) -> Tuple[Optional[int], Optional[int]]:
    """``cudaMemGetInfo``; nothing where the device does not answer any more."""
    try:
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    except Exception:
        return None, None


_identities: Dict[int, Dict[str, Any]] = {}


def identity(torch: Any, device: int) -> Dict[str, Any]:
    """Name, uuid and NVML's index of a device.

    Each null where this torch cannot say (uuid: torch 2.4 or later).
    """
    if device not in _identities:
        found: Dict[str, Any] = {"device": device, "name": None, "uuid": None, "nvml_index": None}
        try:
            properties = torch.cuda.get_device_properties(device)
            found["name"] = str(properties.name)
            if getattr(properties, "uuid", None) is not None:
                found["uuid"] = str(properties.uuid)
        except Exception:
            pass
        with contextlib.suppress(Exception):
            found["nvml_index"] = int(torch.cuda._get_nvml_device_index(device))
        _identities[device] = found
    return _identities[device]


def device_report(stats: Dict[str, Any]) -> Dict[str, Any]:
    """What ``torch.cuda.memory_stats`` says, the figures that every reader wants by names of their own."""

    def figure(name: str) -> Optional[int]:
        value = stats.get(name)
        return None if value is None else int(value)

    return {
        "allocated_bytes": figure("allocated_bytes.all.current"),
        "reserved_bytes": figure("reserved_bytes.all.current"),
        "active_bytes": figure("active_bytes.all.current"),
        "inactive_split_bytes": figure("inactive_split_bytes.all.current"),
        "max_allocated_bytes": figure("allocated_bytes.all.peak"),
        "max_reserved_bytes": figure("reserved_bytes.all.peak"),
        "num_alloc_retries": figure("num_alloc_retries"),
        "num_ooms": figure("num_ooms"),
        "stats": stats,
    }


def memory_fractions(torch: Any, devices: List[int]) -> Dict[str, float]:
    """The share of each device that the program allowed itself, where torch can say (2.7 or later)."""
    ask = getattr(torch.cuda, "get_per_process_memory_fraction", None) or getattr(
        torch.cuda.memory, "get_per_process_memory_fraction", None
    )
    fractions: Dict[str, float] = {}
    if ask is None:
        return fractions
    for device in devices:
        with contextlib.suppress(Exception):
            fractions[str(device)] = float(ask(device))
    return fractions


def backend(torch: Any) -> Optional[str]:
    """ "native", "cudaMallocAsync", or what a pluggable allocator calls itself."""
    try:
        return str(torch.cuda.memory.get_allocator_backend())
    except Exception:
        return None
