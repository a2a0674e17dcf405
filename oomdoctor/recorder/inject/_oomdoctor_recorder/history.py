"""Switching torch's own recording on, in each version's own way."""

import _thread
import sys
from typing import Any, Callable, Optional


def start(torch: Any, max_entries: int, stacks: str) -> bool:
    """``_record_memory_history`` with a bounded ring, unless the program was quicker: its choice holds.

    Returns:
        whether the history is ours.

    torch 2.1 and later take ``(enabled, context, stacks, max_entries)`` and record on all devices
    (torch/cuda/memory.py ``_record_memory_history_impl``); 2.0 takes ``(enabled, record_context,
    trace_alloc_max_entries, trace_alloc_record_context, device)`` and records on one device at a time
    (``NativeCachingAllocator::recordHistory`` asks cudaGetDevice). Passing the old names to a new torch would
    still work, but as ``_record_memory_history_legacy`` with C++ stacks decided elsewhere.
    """
    if is_on(torch):
        return False
    record = torch.cuda.memory._record_memory_history
    if is_torch_2_0(torch):
        for device in range(torch.cuda.device_count()):
            record(
                True,
                record_context=stacks != "none",
                trace_alloc_max_entries=max_entries,
                trace_alloc_record_context=stacks != "none",
                device=device,
                _enable_expensive_cpp=stacks == "all",
            )
        return True
    record(
        enabled="all",
        context=None if stacks == "none" else "all",
        stacks="all" if stacks == "all" else "python",
        max_entries=max_entries,
    )
    return True


def is_torch_2_0(torch: Any) -> bool:
    """Whether ``_record_memory_history`` has the signature of 2.0.

    A look at the function, not at the version.
    """
    code = getattr(torch.cuda.memory._record_memory_history, "__code__", None)
    return code is not None and "trace_alloc_max_entries" in code.co_varnames[: code.co_argcount]


def is_on(torch: Any) -> Optional[bool]:
    """Whether history is being recorded now: a program may have switched it on or off itself.

    None where torch cannot say. Ask only once CUDA is initialized: before, torch looks at a device that is
    not there and crashes.
    """
    try:
        return bool(torch._C._cuda_isHistoryEnabled())
    except Exception:
        return None


def snapshot(torch: Any) -> Any:
    """``torch.cuda.memory._snapshot()``, without the compiler that it would load.

    To name the frames, torch asks itself for ``_inductor`` (``hasattr`` in
    torch/csrc/profiler/python/combined_traceback.cpp); a torch that loads that module when it is asked for it
    (``torch.__getattr__``, 2.1 and later) imports its compiler then: seconds, thousands of modules in the
    program, and ``exec`` of strings, which makes CPython forget that it is about to die of a
    KeyboardInterrupt. Where the compiler is not loaded no frame can be one of its own, so for this thread
    and this call there is none. Where it is loaded, nothing is changed.
    """
    load = vars(torch).get("__getattr__")
    if load is None or "_inductor" in vars(torch) or "torch._inductor" in sys.modules:
        return torch.cuda.memory._snapshot()
    me = _thread.get_ident()

    def __getattr__(name: str) -> Any:
        if name == "_inductor" and _thread.get_ident() == me:
            raise AttributeError("module 'torch' has no attribute '_inductor'")
        return load(name)

    torch.__getattr__ = __getattr__
    try:
        return torch.cuda.memory._snapshot()
    finally:
        if vars(torch).get("__getattr__") is __getattr__:
            torch.__getattr__ = load


def observe_ooms(torch: Any, observer: Callable[[int, int, int, int], None]) -> None:
    """Have ``observer(device, requested, limit, free)`` called at every OOM, before it becomes an exception.

    ``DeviceCachingAllocator::malloc`` (c10/cuda/CUDACachingAllocator.cpp) calls its observers after it has
    given the device's lock back, so a snapshot can be taken from within. In torch 2.0 each device has its own
    list (``attachOutOfMemoryObserver`` asks cudaGetDevice), later one call reaches all of them.
    """
    attach = torch._C._cuda_attach_out_of_memory_observer
    if not is_torch_2_0(torch):
        attach(observer)
        return
    for device in range(torch.cuda.device_count()):
        with torch.cuda.device(device):
            attach(observer)
