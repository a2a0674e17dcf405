"""However a process ends or multiplies."""

from __future__ import annotations

import signal

import pytest

from tests.recorder.conftest import Record, Start


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("sys.exit(7)", 7),
        ("raise ValueError('mine')", 1),
        ("os._exit(9)", 9),
        ("os._exit(status=9)", 9),
        ("sys.stdout.flush(); from os import _exit; _exit(9)", 9),
        ("os.kill(os.getpid(), 9)", -9),
    ],
)
def test_the_exit_code_is_the_programs(record: Record, end: str, code: int) -> None:
    source = f"import os, sys, torch; torch.empty(1); print('last words', flush=True); {end}"
    recorded, plain = record(source), record(source, recorded=False)
    assert recorded.returncode == plain.returncode == code
    assert (recorded.stdout, recorded.stderr) == (plain.stdout, plain.stderr.replace("program1", "program0"))
    assert recorded.process.reasons == ([] if code == -9 else ["exit"])


def test_kill_leaves_what_was_written(record: Record) -> None:
    result = record("""
        import os, torch
        try:
            torch.empty(1 << 40)
        except torch.OutOfMemoryError:
            os.kill(os.getpid(), 9)
    """)
    assert result.returncode == -signal.SIGKILL
    assert result.process.reasons == ["oom"]


def test_kill_in_the_middle_of_a_snapshot_leaves_the_ones_before(start: Start) -> None:
    program = start(
        """
        import torch
        torch.empty(1)
        for _ in range(100):
            try:
                torch.empty(1 << 40)
            except torch.OutOfMemoryError:
                pass
        """,
        odd="slow=0.3,entries=100000",
    )
    program.wait_for_dump("oom", 2)
    program.send(signal.SIGKILL)
    result = program.end()
    assert result.returncode == -signal.SIGKILL
    assert result.process.reasons[:2] == ["oom", "oom"]


def test_os_exit_keeps_its_manners(record: Record) -> None:
    source = """
        import os, pickle
        print(pickle.loads(pickle.dumps(os._exit)) is os._exit, os._exit.__name__)
        try:
            os._exit()
        except TypeError as error:
            print(error)
    """
    assert record(source).stdout == record(source, recorded=False).stdout


MULTIPROCESSING = """
    import multiprocessing, os, sys, torch
    def work(number):
        torch.empty(number)
        os.environ["WORKER"] = str(number)
    if __name__ == "__main__":
        context = multiprocessing.get_context({method!r})
        if {parent_first}:
            torch.empty(1000)
        workers = [context.Process(target=work, args=(n,)) for n in (1, 2)]
        [w.start() for w in workers]
        [w.join() for w in workers]
        print([w.exitcode for w in workers])
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(record: Record, method: str) -> None:
    result = record(MULTIPROCESSING.format(method=method, parent_first=False))
    assert (result.returncode, result.stdout, result.stderr) == (0, "[0, 0]\n", "")
    assert [p.reasons for p in result.processes] == [["exit"], ["exit"]]
    assert len({p.facts["pid"] for p in result.processes}) == 2
    sizes = sorted(p.dumps[0]["loaded"]["device_traces"][0][0]["size"] for p in result.processes)
    assert sizes == [1, 2]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_multiprocessing_beside_a_parent_on_cuda(record: Record, method: str) -> None:
    result = record(MULTIPROCESSING.format(method=method, parent_first=True))
    assert (result.returncode, result.stdout, result.stderr) == (0, "[0, 0]\n", "")
    assert sorted(p.reasons for p in result.processes) == [["exit"]] * 3


def test_a_child_forked_after_cuda_started_touches_nothing(record: Record) -> None:
    result = record("""
        import os, signal, sys, torch, _oomdoctor_recorder
        torch.empty(1)
        from _oomdoctor_recorder import signals
        fds = [end.fileno() for end in (signals._state.sender, signals._state.receiver)]
        wakeup = signals.real_set_wakeup_fd(-1); signals.real_set_wakeup_fd(wakeup)
        assert wakeup == fds[0]
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                torch.empty(1 << 40)
            except torch.OutOfMemoryError:
                pass
            assert signals.real_getsignal(signal.SIGTERM) == signal.SIG_DFL
            assert signals.real_getsignal(signal.SIGUSR2) == signal.SIG_DFL
            assert signals.real_set_wakeup_fd(-1) == -1
            for fd in fds:
                try:
                    os.fstat(fd)
                except OSError:
                    continue
                print("open", fd)
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
        child = os.fork()
        if child == 0:
            signal.pause()
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "5\n-15\n", "")
    assert result.process.reasons == ["exit"]
    assert result.process.ooms == []
    assert result.process.log == ""


def test_exec_is_another_process(record: Record) -> None:
    result = record("""
        import os, sys, torch
        torch.empty(1)
        if len(sys.argv) == 1:
            os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
    """)
    assert result.returncode == 0
    assert [p.reasons for p in result.processes] == [[], ["exit"]]
    assert len({p.facts["pid"] for p in result.processes}) == 1
