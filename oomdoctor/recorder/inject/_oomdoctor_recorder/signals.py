"""SIGTERM: a snapshot, then the end that the program would have had. SIGUSR2: a snapshot, and on.

Both only where the program leaves them at their default. Python runs signal handlers in the main thread,
between two bytecodes; a main thread that waits in C (a collective that will never end) runs none. So a thread
of ours waits for the byte that CPython's C handler writes into the wakeup fd (``signal.set_wakeup_fd``), and
works from there. If the program takes the wakeup fd (asyncio does), the handler in the main thread does the
work. The program sees none of
this: ``signal.signal``, ``getsignal`` and ``set_wakeup_fd`` show it what it would see without us.
"""

import _socket
import _thread
import ctypes
import os
import signal
import struct
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from . import report

if TYPE_CHECKING:
    from .recording import Recording

CAUGHT = (signal.SIGTERM, signal.SIGUSR2)

real_signal = signal.signal
real_getsignal = signal.getsignal
real_set_wakeup_fd = signal.set_wakeup_fd


class _State:
    recording: "Optional[Recording]" = None
    sender: Any = None  # the end that CPython's C handler writes into
    receiver: Any = None
    program_fd = -1  # the wakeup fd as the program believes it to be
    wakeup_is_ours = False
    pending_call: Any = None  # kept alive until the interpreter has called it


_state = _State()


def installed() -> bool:
    return _state.recording is not None


def install(recording: "Recording") -> None:
    """Take both signals, in the main thread: now, or as soon as it runs."""
    if _thread.get_ident() == _main_thread():
        _install(recording)
        return
    # signal.signal works in the main thread only; Py_AddPendingCall has the main thread call us.
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)

    def in_main_thread(_: Any) -> int:
        if os.getpid() == recording.pid:
            try:
                _install(recording)
            except Exception:
                report.failure("signals cannot be observed")
        return 0

    _state.pending_call = prototype(in_main_thread)
    ctypes.pythonapi.Py_AddPendingCall(_state.pending_call, None)


def _main_thread() -> Optional[int]:
    import threading

    return threading.main_thread().ident


def _install(recording: "Recording") -> None:
    _state.sender, _state.receiver = _socketpair()
    _state.recording = recording
    signal.signal = _signal
    signal.getsignal = _getsignal
    signal.set_wakeup_fd = _set_wakeup_fd
    _state.program_fd = real_set_wakeup_fd(_state.sender.fileno(), warn_on_full_buffer=False)
    _state.wakeup_is_ours = True
    if _state.program_fd != -1:  # an event loop came first: it keeps its fd, and the handlers do the work
        real_set_wakeup_fd(_state.program_fd)
        _state.wakeup_is_ours = False
    _start_watcher(recording)
    for number in CAUGHT:
        if real_getsignal(number) == signal.SIG_DFL:
            _catch(number)
    recording.set_on_demand(_is_ours(signal.SIGUSR2))


def _catch(number: int) -> None:
    real_signal(number, _handler)
    if number == signal.SIGUSR2:
        # A snapshot on demand should not be seen by the program: let interrupted system calls go on.
        signal.siginterrupt(number, False)


def _is_ours(number: int) -> bool:
    return real_getsignal(number) is _handler


def _socketpair() -> "List[Any]":
    """A datagram pair whose receiver learns which process wrote.

    Between ``fork`` and ``exec`` a child still has our C handler and our fd; a signal sent to it then must
    not be taken for one sent to us (subprocess forks in C, where no fork hook runs).
    """
    pair = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    sender, receiver = pair
    sender.setblocking(False)
    receiver.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    return [sender, receiver]


def _start_watcher(recording: "Recording") -> None:
    # Signals are for the program's threads: the new one inherits an empty choice. _thread and not threading:
    # the program counts its threads too.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _thread.start_new_thread(_watch, (recording, _state.receiver))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _watch(recording: "Recording", receiver: Any) -> None:
    credentials = struct.Struct("3i")
    room = _socket.CMSG_SPACE(credentials.size)
    while True:
        try:
            data, ancillary, _, _ = receiver.recvmsg(1, room)
            sender = None
            for level, kind, content in ancillary:
                if level == _socket.SOL_SOCKET and kind == _socket.SCM_CREDENTIALS:
                    sender = credentials.unpack(content[: credentials.size])[0]
            if sender != recording.pid or os.getpid() != recording.pid or not data:
                continue
            number = data[0]
            if number in CAUGHT and _is_ours(number):
                _serve(recording, number)
        except InterruptedError:
            continue
        except Exception:
            report.failure("the recorder's watcher failed")
            return


def _handler(number: int, frame: Any) -> None:
    """The Python-level handler, in the main thread."""
    recording = _state.recording
    # A program that kept our handler as "the one before" and calls it from its own: as if it had seen
    # SIG_DFL.
    if recording is None or os.getpid() != recording.pid or not _is_ours(number):
        return
    if recording.dumping_here():
        recording.after_dump(lambda: _serve(recording, number))
    elif number == signal.SIGTERM or not _state.wakeup_is_ours:
        _serve(recording, number)


def _serve(recording: "Recording", number: int) -> None:
    if number == signal.SIGUSR2:
        recording.guarded("the snapshot on demand failed", lambda: recording.dump("demand"))
        return
    # Two may come here for one SIGTERM, the watcher and the main thread; the second waits in guarded() until
    # the first has ended the process.
    recording.terminated()
    _die()


def _die() -> None:
    """The default disposition, from whatever thread this is, and the signal again.

    The status is the one without us.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(signal.SIGTERM), None)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def is_programs(error: BaseException) -> bool:
    """Whether a Python signal handler of the program raised this in the middle of our work."""
    handlers = set()
    for number in range(1, signal.NSIG):
        try:
            handler = real_getsignal(number)
        except (ValueError, OSError):
            continue
        handler = getattr(handler, "__func__", handler)
        code = getattr(handler, "__code__", None)
        if code is not None:
            handlers.add(code)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


# -- what the program sees
# ---------------------------------------------------------------------------------------


def _active() -> bool:
    return _state.recording is not None and os.getpid() == _state.recording.pid


def _signal(signalnum: Any, handler: Any) -> Any:
    if not _active() or signalnum not in CAUGHT:
        return real_signal(signalnum, handler)
    ours = handler == signal.SIG_DFL
    previous = real_signal(signalnum, _handler if ours else handler)
    if signalnum == signal.SIGUSR2:
        if ours:
            signal.siginterrupt(signalnum, False)
        assert _state.recording is not None
        _state.recording.set_on_demand(ours)
    return signal.SIG_DFL if previous is _handler else previous


def _getsignal(signalnum: Any) -> Any:
    found = real_getsignal(signalnum)
    return signal.SIG_DFL if found is _handler else found


def _set_wakeup_fd(fd: int, *args: Any, **kwargs: Any) -> int:
    if not _active():
        return real_set_wakeup_fd(fd, *args, **kwargs)
    if fd == -1:
        real_set_wakeup_fd(_state.sender.fileno(), warn_on_full_buffer=False)
    else:
        real_set_wakeup_fd(fd, *args, **kwargs)
    _state.wakeup_is_ours = fd == -1
    previous, _state.program_fd = _state.program_fd, fd
    return previous


for _wrapper, _real in (
    (_signal, real_signal),
    (_getsignal, real_getsignal),
    (_set_wakeup_fd, real_set_wakeup_fd),
):
    _names: Dict[str, Any] = {
        "__name__": _real.__name__,
        "__qualname__": _real.__name__,
        "__module__": "signal",
    }
    for _key, _value in _names.items():
        setattr(_wrapper, _key, _value)
    _wrapper.__doc__ = _real.__doc__


def forget_after_fork() -> None:
    """In a forked child: default dispositions, the program's own wakeup fd, and no fd of ours."""
    if _state.recording is None:
        return
    _state.recording = None
    for number in CAUGHT:
        if _is_ours(number):
            real_signal(number, signal.SIG_DFL)
    real_set_wakeup_fd(_state.program_fd)
    _state.wakeup_is_ours = False
    for end in (_state.sender, _state.receiver):
        end.close()
