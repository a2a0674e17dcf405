"""SIGTERM and SIGUSR2, and that the program sees its signals as it would without us."""

from __future__ import annotations

import signal
import textwrap

import pytest

from tests.recorder.conftest import Record, Start

# Waits that no signal interrupts: the main thread in a collective that never ends.
BLOCKED_IN_C = """
    import ctypes, torch
    torch.empty(1)
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)
"""
IN_PYTHON = """
    import torch
    torch.empty(1)
    print("ready", flush=True)
    while True:
        sum(range(1000))
"""
ASLEEP = """
    import time, torch
    torch.empty(1)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("source", [BLOCKED_IN_C, IN_PYTHON, ASLEEP])
def test_sigterm_leaves_a_snapshot_and_the_same_status(start: Start, source: str) -> None:
    program = start(source)
    program.wait_for("ready")
    program.send(signal.SIGTERM)
    result = program.end()
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    assert result.process.reasons == ["sigterm"]
    assert result.process.log == ""


@pytest.mark.parametrize("source", [BLOCKED_IN_C, IN_PYTHON, ASLEEP])
def test_sigusr2_leaves_a_snapshot_and_the_program_goes_on(start: Start, source: str) -> None:
    program = start(source)
    program.wait_for("ready")
    for count in (1, 2):
        program.send(signal.SIGUSR2)
        program.wait_for_dump("demand", count)
    program.send(signal.SIGTERM)
    result = program.end()
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    assert result.process.reasons == ["demand", "demand", "sigterm"]
    assert result.process.facts["on_demand"] is True


def test_sigterm_while_an_oom_is_being_dumped(start: Start) -> None:
    program = start(
        "import torch; torch.empty(1); print('ready', flush=True); torch.empty(1 << 40)", odd="slow=0.5"
    )
    program.wait_for("ready")
    program.send(signal.SIGTERM)
    result = program.end()
    assert result.returncode == -signal.SIGTERM
    assert "sigterm" in result.process.reasons


def test_an_exit_waits_for_the_snapshot_at_sigterm(start: Start) -> None:
    """Whoever is killed by SIGTERM does not leave with 0, however long the snapshot takes."""
    leave = 'threading.Timer(0.3, os._exit, (0,)).start(); print("ready", flush=True)'
    blocked = textwrap.dedent(BLOCKED_IN_C).replace('print("ready", flush=True)', leave)
    program = start("import os, threading\n" + blocked, odd="slow=0.8")
    program.wait_for("ready")
    program.send(signal.SIGTERM)
    result = program.end()
    assert result.returncode == -signal.SIGTERM
    assert result.process.reasons == ["sigterm"]


def test_a_program_with_handlers_of_its_own_keeps_them(start: Start) -> None:
    program = start("""
        import os, signal, time, torch
        heard = []
        def mine(signum, frame):
            os.write(1, b"mine %d\\n" % signum)  # print() may be what is interrupted
            heard.append(signum)
        torch.empty(1)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.signal(signal.SIGTERM, mine) == signal.SIG_DFL
        assert signal.signal(signal.SIGUSR2, mine) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is mine
        print("ready", flush=True)
        while len(heard) < 2:
            time.sleep(0.01)
    """)
    program.wait_for("ready")
    program.send(signal.SIGTERM)
    program.wait_for("mine 15")
    program.send(signal.SIGUSR2)
    program.wait_for("mine 12")
    result = program.end()
    assert result.returncode == 0
    assert result.process.reasons == ["exit"]
    assert result.process.facts["on_demand"] is False


def test_handlers_from_before_cuda_are_left_alone(record: Record) -> None:
    result = record("""
        import os, signal, torch
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: print("mine", flush=True))
        torch.empty(1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "mine\n", "")
    assert result.process.reasons == ["exit"]
    assert result.process.facts["on_demand"] is False


def test_back_to_the_default_is_back_to_us(start: Start) -> None:
    program = start("""
        import signal, time, torch
        torch.empty(1)
        def mine(*_): pass
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, mine)
            assert signal.signal(number, signal.SIG_DFL) is mine
            assert signal.getsignal(number) == signal.SIG_DFL
        print("ready", flush=True)
        while True:
            time.sleep(1)
    """)
    program.wait_for("ready")
    program.send(signal.SIGUSR2)
    program.wait_for_dump("demand")
    program.send(signal.SIGTERM)
    result = program.end()
    assert result.returncode == -signal.SIGTERM
    assert result.process.reasons == ["demand", "sigterm"]
    assert result.process.facts["on_demand"] is True


def test_a_handler_kept_from_before_and_called_later_does_nothing(record: Record) -> None:
    """``from signal import signal`` before CUDA started: the program holds the real function."""
    result = record("""
        from signal import signal, SIGTERM, raise_signal
        import torch
        torch.empty(1)
        def mine(number, frame):
            print("mine")
            if callable(before):
                before(number, frame)
        before = signal(SIGTERM, mine)
        raise_signal(SIGTERM)
        print("still here")
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "mine\nstill here\n", "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_asyncio(start: Start, when: str) -> None:
    """asyncio takes the wakeup fd for its own handlers, and gives it back."""
    program = start(f"""
        import asyncio, os, signal, torch
        if {when!r} == "after":
            torch.empty(1)
        async def main():
            heard = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)
            torch.empty(1)
            print("ready", flush=True)
            await heard.wait()
            print("heard", flush=True)
            asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)
            await asyncio.sleep(0.05)
            print("without", flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """)
    program.wait_for("ready")
    program.send(signal.SIGUSR2)
    program.wait_for_dump("demand", 1)
    program.send(signal.SIGUSR1)
    program.wait_for("heard")
    program.wait_for("without")
    program.send(signal.SIGUSR2)
    program.wait_for_dump("demand", 2)
    program.send(signal.SIGTERM)
    result = program.end()
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    assert result.process.reasons == ["demand", "demand", "sigterm"]


def test_the_programs_wakeup_fd_is_its_own(record: Record) -> None:
    result = record("""
        import os, signal, socket, torch
        a, b = socket.socketpair()
        a.setblocking(False); b.setblocking(False)
        torch.empty(1)
        assert signal.set_wakeup_fd(a.fileno()) == -1
        assert signal.set_wakeup_fd(a.fileno(), warn_on_full_buffer=False) == a.fileno()
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert b.recv(10) == bytes([signal.SIGUSR1])
        assert signal.set_wakeup_fd(-1) == a.fileno()
        assert signal.set_wakeup_fd(-1) == -1
        try:
            signal.set_wakeup_fd(9999)
        except (ValueError, OSError) as error:
            print("refused")
        assert signal.set_wakeup_fd(-1) == -1
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "refused\n", "")


def test_cuda_started_in_a_thread(start: Start) -> None:
    program = start("""
        import threading, time, torch
        thread = threading.Thread(target=torch.empty, args=(1,))
        thread.start(); thread.join()
        time.sleep(0.05)
        print("ready", flush=True)
        time.sleep(60)
    """)
    program.wait_for("ready")
    program.send(signal.SIGUSR2)
    program.wait_for_dump("demand")
    program.send(signal.SIGTERM)
    result = program.end()
    assert (result.returncode, result.stderr) == (-signal.SIGTERM, "")
    assert result.process.reasons == ["demand", "sigterm"]


def test_a_signal_to_a_child_that_is_not_yet_itself_is_not_ours(record: Record) -> None:
    """Forked in C, as subprocess does: our C handler and our fd are there, and no fork hook runs."""
    result = record("""
        import ctypes, os, signal, time, torch
        torch.empty(1)
        libc = ctypes.PyDLL(None)
        child = libc.fork()
        if child == 0:
            libc.pause()
            libc._exit(0)
        time.sleep(0.2)
        os.kill(child, signal.SIGUSR2)
        os.waitpid(child, 0)
        time.sleep(0.2)
    """)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.process.reasons == ["exit"]


def test_children_of_the_program_have_default_signals(record: Record) -> None:
    source = """
        import subprocess, sys, torch
        torch.empty(1)
        code = "import signal; print([signal.getsignal(n) for n in (15, 12)])"
        for prepare in (None, lambda: None):
            print(subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True,
                preexec_fn=prepare).stdout)
        p = subprocess.Popen(["sleep", "60"]); p.terminate(); print(p.wait())
    """
    recorded, plain = record(source), record(source, recorded=False)
    assert (recorded.stdout, recorded.stderr) == (plain.stdout, plain.stderr)


def test_signal_functions_look_as_ever(record: Record) -> None:
    source = """
        import pickle, signal, threading, torch
        torch.empty(1)
        for f in (signal.signal, signal.getsignal, signal.set_wakeup_fd):
            print(f.__name__, f.__doc__ and f.__doc__[:40], pickle.loads(pickle.dumps(f)) is f)
        print(threading.active_count(), threading.enumerate())
        for wrong in ("signal.signal(signal.SIGTERM, 5.5)", "signal.signal(9, signal.SIG_DFL)"):
            try:
                eval(wrong)
            except (TypeError, ValueError, OSError) as error:
                print(type(error), error)
        def elsewhere():
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            except ValueError as error:
                print(error)
        t = threading.Thread(target=elsewhere); t.start(); t.join()
    """
    import re

    recorded, plain = (re.sub(r"started \d+", "", record(source, recorded=r).stdout) for r in (True, False))
    assert recorded == plain
