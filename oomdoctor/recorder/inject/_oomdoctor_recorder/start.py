"""From "torch is imported" to "CUDA is initialized": nothing here imports torch or touches CUDA by itself."""

import atexit
import functools
import operator
import os
import sys
import time
from typing import Any, Iterator

from . import entry, report


def torch_imported(torch: Any) -> None:
    """Queue the recording behind CUDA's own lazy initialization.

    ``torch.cuda._lazy_call`` (torch/cuda/__init__.py) runs what it is given inside ``_lazy_init``, after
    ``torch._C._cuda_init`` and before the first allocation; at once, if CUDA runs already. Queued calls are
    inherited by ``fork``, so a child that initializes CUDA itself records itself.
    """
    version = getattr(torch, "version", None)
    build = getattr(version, "cuda", None) or getattr(version, "hip", None)
    report.send("torch", f"{getattr(torch, '__version__', '?')} {build or 'none'}")
    payload = entry.environment.get("OOMDOCTOR_PAYLOAD")
    if payload:
        _run_payload(payload, torch)
    if build is None:
        return  # a CPU build: there is no CUDA to wait for
    torch.cuda._lazy_call(lambda: cuda_started(torch))
    _Beginning.watch(torch)


class _Beginning:
    """Tells when CUDA begins to initialize: where nothing follows, it failed.

    ``_lazy_init`` (torch/cuda/__init__.py) looks ``torch._C._cuda_init`` up at each try and calls it.
    ``list`` over an iterator in C calls ``_begins`` and then the real one, so that no frame of ours comes
    into the traceback that the program may print. Once CUDA runs, the real one is back.
    """

    current: "Any" = None

    def __init__(self, torch: Any, real: Any) -> None:
        self.torch = torch
        self.real = real
        self.stand_in: Any = functools.partial(list, self)
        self.registered = False

    @classmethod
    def watch(cls, torch: Any) -> None:
        real = getattr(torch._C, "_cuda_init", None)
        if real is not None and not torch.cuda.is_initialized():
            cls.current = cls(torch, real)
            torch._C._cuda_init = cls.current.stand_in

    @classmethod
    def over(cls) -> None:
        watcher, cls.current = cls.current, None
        if watcher is not None and watcher.torch._C._cuda_init is watcher.stand_in:
            watcher.torch._C._cuda_init = watcher.real

    def __iter__(self) -> "Iterator[Any]":
        return map(operator.methodcaller("__call__"), (self._begins, self.real))

    def _begins(self) -> None:
        try:
            report.send("cuda-begins", entry.allocator_settings())
            if not self.registered:
                self.registered = True
                atexit.register(self._ends)
        except Exception:
            report.failure("the initialization of CUDA cannot be observed")

    def _ends(self) -> None:
        """At exit: if the program died of it, what torch said."""
        try:
            error = getattr(sys, "last_value", None)
            trace = getattr(error, "__traceback__", None)
            while trace is not None and _Beginning.current is self:
                if trace.tb_frame.f_code is self.torch.cuda._lazy_init.__code__:
                    report.send("cuda-failed", f"{type(error).__name__}: {error}")
                    return
                trace = trace.tb_next
        except Exception:
            report.failure("the initialization of CUDA could not be observed")


def _run_payload(path: str, torch: Any) -> None:
    """Run ``install(torch)`` of a file named by the launcher: the emulated device has work to do in here."""
    try:
        with open(path, encoding="utf-8") as file:
            source = file.read()
        namespace = {"__name__": "_oomdoctor_payload", "__file__": path}
        exec(compile(source, path, "exec"), namespace)
        namespace["install"](torch)  # type: ignore[operator]
    except Exception:
        report.failure("the payload " + path + " failed")


def cuda_started(torch: Any) -> None:
    """Begin to record.

    Called by torch within ``_lazy_init``, where an exception would become the program's.
    """
    try:
        _Beginning.over()
        report.send("cuda-runs", "")
        from . import recording

        # A forked child has its interpreter from its parent; it began some time before this.
        started = entry.activated_unix if os.getpid() == entry.activated_pid else time.time()
        recording.begin(torch, entry.environment, started)
    except Exception:
        report.failure("the recorder could not start when CUDA was initialized")
