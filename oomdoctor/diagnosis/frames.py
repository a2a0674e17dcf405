"""Which lines of a call stack tell a person where memory was allocated.

The innermost frames are torch's own (``linear``, ``forward``, ``_call_impl``) and the same for everything.
What tells is the innermost frame of a library (the model's code) and the innermost one of the person's own
program.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Optional

from oomdoctor.snapshot.stacks import Frame

_PACKAGES = re.compile(r"^(?:.*/)?(?:site-packages|dist-packages)/")
_TORCH = re.compile(r"^(?:.*/)?(?:site-packages|dist-packages)/(?:torch|triton|torchgen|functorch)/")
_TORCH_TREE = re.compile(r"/(?:pytorch|torch)/torch/|/torchinductor_[^/]*/|^torch/")
# Our own, in a recorded process: the recorder, and what stands in for kernels on an emulated device.
_OWN = re.compile(r"/oomdoctor/(?:recorder|emulator)/")
# Hooks and wrappers that stand between a program and its model and say nothing about it.
_WRAPPERS = re.compile(r"/(?:accelerate/hooks|torch/_dynamo/.*|contextlib|functools|runpy|threading)\.py$")
_INTERPRETER = re.compile(r"/lib/python\d[^/]*/(?!site-packages|dist-packages)|^<")
_CPP = re.compile(r"\.(?:cpp|cc|cu|c|h|hpp|cuh|pyx|so[.\d]*)$|^\?\?$|^$")

# What lies between a C++ function and the stack taken in its name: the unwinder, the allocator itself, and
# dispatch.
_PLUMBING = re.compile(
    r"torch::unwind::|CapturedTraceback|gather_with_cpp|CachingAllocator|c10::(?:impl|detail)::"
    r"|^c10::\w*Storage|at::detail::|empty_generic|^operator new|^_*(?:start_thread|clone3?)$"
)


def _slashes(filename: str) -> str:
    return filename.replace("\\", "/")


# A few thousand frames make up all the stacks of a recording.
@lru_cache(maxsize=1 << 14)
def is_internal(frame: Frame) -> bool:
    """Whether a frame is torch's, Python's own or C++: true everywhere, telling nowhere."""
    name = _slashes(frame.filename)
    return bool(
        _CPP.search(name)
        or _TORCH.match(name)
        or _TORCH_TREE.search(name)
        or _WRAPPERS.search(name)
        or _OWN.search(name)
        or _INTERPRETER.search(name)
    )


def is_library(frame: Frame) -> bool:
    """Whether a frame lies in an installed package."""
    return _is_in_package(frame.filename)


@lru_cache(maxsize=1 << 14)
def _is_in_package(filename: str) -> bool:
    return _PACKAGES.match(_slashes(filename)) is not None


def telling_frames(stack: tuple[Frame, ...], most: int = 2) -> tuple[Frame, ...]:
    """The frames to show of a stack, innermost first.

    The innermost that is not torch's own and, where that is a library's, the innermost of the program itself.
    A stack that is torch's throughout is shown by its innermost Python frame, one of C++ alone by the
    function that wanted the memory.
    """
    outside = [frame for frame in stack if not is_internal(frame)]
    if not outside:
        python = [frame for frame in stack if not _CPP.search(frame.filename)]
        told = [frame for frame in stack if not _PLUMBING.search(frame.name)]
        return tuple((python or told or list(stack))[:1])
    shown = [outside[0]]
    own: Optional[Frame] = next((frame for frame in outside if not is_library(frame)), None)
    if own is not None and own != outside[0]:
        shown.append(own)
    return tuple(shown[:most])


def short_path(filename: str) -> str:
    """A file as a person recognizes it: below site-packages from the package on, else its last two parts."""
    name = _slashes(filename)
    inside = _PACKAGES.sub("", name)
    if inside != name:
        return inside
    return "/".join(name.split("/")[-2:])


def frame_text(frame: Frame) -> str:
    """``forward  transformers/models/llama/modeling_llama.py:123``."""
    return f"{frame.name}  {short_path(frame.filename)}:{frame.line}"
