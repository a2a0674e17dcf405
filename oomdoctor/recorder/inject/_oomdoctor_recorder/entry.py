"""What every Python process under a recording pays: a finder that waits for torch, and a wrapped
``os._exit``.

Imports nothing but what the interpreter has loaded already: most processes never see torch.
"""

import os
import sys
import time

from . import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

# OOMDOCTOR_* as they stood at start: a program may clear its environment.
environment: "dict[str, str]" = {}
activated_pid = 0
activated_unix = 0.0

# Set by the recording when it starts; called before the process ends without Python's own exit.
before_hard_exit: "Optional[Callable[[], None]]" = None

_real_exit = os._exit


def activate() -> None:
    """Wait for torch. Called once, by sitecustomize."""
    global activated_pid, activated_unix
    activated_pid, activated_unix = os.getpid(), time.time()
    environment.update((k, v) for k, v in os.environ.items() if k.startswith("OOMDOCTOR_"))
    report.channel = environment.get("OOMDOCTOR_NOTIFY")
    report.debug = bool(environment.get("OOMDOCTOR_DEBUG"))
    report.send("python", sys.executable or "?")
    os._exit = _exit
    if "torch" in sys.modules:  # a .pth file was quicker
        _torch_is_here(sys.modules["torch"])
    else:
        sys.meta_path.insert(0, _finder)


def _exit(*args: "Any", **kwargs: "Any") -> "Any":
    """``os._exit``: multiprocessing ends forked children with it, and atexit is skipped."""
    if before_hard_exit is not None:
        before_hard_exit()
    return _real_exit(*args, **kwargs)


_exit.__module__, _exit.__doc__ = "os", _real_exit.__doc__


class _TorchFinder:
    """Lets the other finders find torch, and adds a word after its import. Everything else passes by."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name != "torch":
            return None
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                try:
                    if spec.loader is not None:  # a namespace package, not torch
                        _call_after(spec.loader)
                except Exception:
                    report.failure("cannot wait for torch: its loader is " + repr(spec.loader))
                return spec
        return None


_finder = _TorchFinder()


def _call_after(loader: "Any") -> None:
    """Have this loader call us once torch is imported.

    The loader stays what it is (programs ask ``torch.__loader__`` for resources): only this instance's
    ``exec_module``, which ``importlib._bootstrap._load_unlocked`` calls, is another one until it has run. A
    spec that is only looked at (``importlib.util.find_spec("torch")``) is never executed, and changes
    nothing.
    """
    execute = loader.exec_module

    def exec_module(module: "Any") -> None:
        # An allocator setting that torch cannot read may abort the process in here.
        report.send("importing", allocator_settings())
        try:
            execute(module)
        except Exception as error:
            report.send("torch-failed", type(error).__name__ + ": " + str(error))
            raise
        finally:
            loader.__dict__.pop("exec_module", None)
        _torch_is_here(module)

    loader.exec_module = exec_module


def allocator_settings() -> str:
    """The variables that torch reads, as one line."""
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    return " ".join(name + "=" + os.environ[name] for name in names if name in os.environ)


def _torch_is_here(torch: "Any") -> None:
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    try:
        from . import start

        start.torch_imported(torch)
    except Exception:
        report.failure("the recorder did not start after torch was imported")
