"""From "torch is imported" to "CUDA is initialized": nothing here imports torch or touches CUDA by itself."""

import os
import time
from typing import Any

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
        from . import recording

        # A forked child has its interpreter from its parent; it began some time before this.
        started = entry.activated_unix if os.getpid() == entry.activated_pid else time.time()
        recording.begin(torch, entry.environment, started)
    except Exception:
        report.failure("the recorder could not start when CUDA was initialized")
