"""Fork.

A child forked after CUDA's start cannot use CUDA (torch refuses), and nothing of the recording is its own.
"""

import _thread
import ctypes
import os
from typing import Any, Dict

from . import recording, report, signals

_registered_pid = 0
_masks: Dict[int, Any] = {}
_SIG_BLOCK, _SIG_SETMASK = 0, 2

# PyDLL keeps the interpreter lock, and libc, unlike signal.pthread_sigmask, runs no Python signal handlers:
# one that raised in a fork hook would be printed and lost.
_libc = ctypes.PyDLL(None)
_SigSet = ctypes.c_ulong * 16  # sigset_t is 1024 bits on Linux


def register() -> None:
    """Hooks for ``os.fork``, once per process line: they are inherited themselves."""
    global _registered_pid
    if _registered_pid == 0:
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
    _registered_pid = os.getpid()


def _before() -> None:
    """Hold the signals that we catch until the child has its own dispositions.

    None may be lost in between.
    """
    try:
        if recording.current is None or not signals.installed():
            return
        held, old = _SigSet(), _SigSet()
        held[0] = sum(1 << (number - 1) for number in signals.CAUGHT)
        if _libc.pthread_sigmask(_SIG_BLOCK, ctypes.byref(held), ctypes.byref(old)) == 0:
            _masks[_thread.get_ident()] = old
    except Exception:
        report.failure("before a fork")


def _restore_mask() -> None:
    old = _masks.pop(_thread.get_ident(), None)
    if old is not None:
        _libc.pthread_sigmask(_SIG_SETMASK, ctypes.byref(old), None)


def _in_parent() -> None:
    try:
        _restore_mask()
    except Exception:
        report.failure("after a fork, in the parent")


def _in_child() -> None:
    try:
        recording.forget_after_fork()
        signals.forget_after_fork()
    except Exception:
        report.failure("after a fork, in the child")
    finally:
        try:
            _restore_mask()
            _masks.clear()
        except Exception:
            report.failure("after a fork, in the child")
