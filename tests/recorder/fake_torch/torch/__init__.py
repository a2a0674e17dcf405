"""A torch with just what the recorder meets: lazy CUDA initialization, history, observers, snapshots.

``FAKE_TORCH`` (words, separated by commas) makes it odd: "cpu" a build without CUDA, "2.0" the functions of
that version, "no-history", "no-observer", "no-snapshot" functions that raise, "bare" functions that are not
there, "import-error", "import-abort" an import that fails,
"no-cuda" a CUDA that cannot be initialized, "slow=SECONDS" a snapshot that takes its time, "entries=N" so many events.
"""

import os

ODD = [word for word in os.environ.get("FAKE_TORCH", "").split(",") if word]
if "import-error" in ODD:
    raise ImportError("libcudnn.so.9: cannot open shared object file")
if "import-abort" in ODD:
    os.abort()
__version__ = "2.0.1" if "2.0" in ODD else "2.99.0"


class version:
    cuda = None if "cpu" in ODD else "12.6"
    hip = None


class OutOfMemoryError(RuntimeError):
    pass


_observers: list = []


class _C:
    @staticmethod
    def _cuda_init():
        if "no-cuda" in ODD:
            raise ValueError("Unrecognized key 'expandable_segment' in CUDA allocator config.")

    @staticmethod
    def _cuda_attach_out_of_memory_observer(observer):
        if "no-observer" in ODD:
            raise RuntimeError("observers are not supported")
        _observers.append(observer)

    @staticmethod
    def _cuda_hasPrimaryContext(device):
        return device == 0


if "bare" in ODD:
    del _C._cuda_attach_out_of_memory_observer

from . import cuda  # noqa: E402


def empty(size, device="cuda"):
    """Allocates; more than the device has is an OOM, as torch tells its observers and then raises."""
    cuda._lazy_init()
    if size > cuda.FREE:
        for observer in list(_observers):
            observer(0, size, cuda.TOTAL, cuda.FREE)
        raise OutOfMemoryError("CUDA out of memory. (fake)")
    cuda.events.append({"action": "alloc", "addr": 1, "size": size, "stream": 0, "frames": []})
    return object()
