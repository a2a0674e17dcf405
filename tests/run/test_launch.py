"""``trace``: the command is as it was without us, and the end says what came of it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from oomdoctor.errors import UsageError
from oomdoctor.run import launch, summary
from oomdoctor.run.notify import Heard
from tests.recorder.conftest import FAKE_TORCH, read_processes

OOMDOCTOR = [sys.executable, "-m", "oomdoctor"]
Trace = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment() -> dict[str, str]:
    found = {k: v for k, v in os.environ.items() if not k.startswith(("OOMDOCTOR_", "PYTHON"))}
    return {**found, "PYTHONPATH": str(FAKE_TORCH)}


@pytest.fixture
def trace(tmp_path: Path, environment: dict[str, str]) -> Trace:
    def run(*command: str, run: Optional[Path] = None, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("timeout", 60)
        options["env"] = {**environment, **options.pop("env", {})}
        return subprocess.run(
            [*OOMDOCTOR, "trace", "-o", str(run or tmp_path / "run"), "--", *command],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            **options,
        )

    return run


def without_ours(stderr: str) -> str:
    return "".join(line for line in stderr.splitlines(True) if not line.startswith("oomdoctor: "))


USES_CUDA = """
import os, sys, torch
torch.empty(1)
try:
    torch.empty(1 << 40)
except torch.OutOfMemoryError:
    pass
print("out", sys.stdin.read(), os.environ.get("GIVEN"))
print("err", file=sys.stderr)
sys.exit(3)
"""


def test_the_command_is_as_it_was(trace: Trace, tmp_path: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", USES_CUDA]
    plain = subprocess.run(
        command, input="in", capture_output=True, text=True, env={**environment, "GIVEN": "x"}
    )
    traced = trace(*command, input="in", env={"GIVEN": "x"})
    assert (traced.returncode, traced.stdout) == (plain.returncode, plain.stdout) == (3, "out in x\n")
    assert without_ours(traced.stderr) == plain.stderr == "err\n"
    run = tmp_path / "run"
    first, *_, last = traced.stderr.splitlines()[1:]
    assert first == "oomdoctor: recorded 1 process, 2 snapshots, 1 out-of-memory error in run"
    assert last == "oomdoctor: next: oomdoctor explain run"
    (process,) = read_processes(run)
    (launcher,) = (run / "launchers").iterdir()
    document = json.loads((launcher / "launcher.json").read_text())
    assert process.facts["launcher"] == launcher.name
    assert document["command"] == command
    assert document["returncode"] == 3
    assert document["ended_unix"] >= document["started_unix"]
    assert document["notes"] == []
    assert json.loads((run / "run.json").read_text())["schema"] == "oomdoctor.run/1"


def test_a_default_folder_names_time_and_command(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        ("python", "-u", "a/infer.py", "--x"): "infer",
        ("/usr/bin/vllm", "serve"): "vllm",
        ("python3.11", "-m", "torch.distributed.run"): "torch.distributed",
        ("./run me.sh",): "run-me.sh",
        ("/",): "run",
    }
    for command, name in names.items():
        assert launch.default_folder(command).name.split("-", 2)[2] == name
    done = subprocess.run(
        [*OOMDOCTOR, "trace", "true", "--looks-like-an-option"],
        capture_output=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0
    (folder,) = (tmp_path / "oomdoctor-runs").iterdir()
    assert (folder / "run.json").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT])
def test_a_death_by_signal_is_the_same_death(trace: Trace, number: signal.Signals) -> None:
    assert trace("sh", "-c", f"kill -{number} $$").returncode == -number


def test_what_cannot_be_run(trace: Trace, tmp_path: Path) -> None:
    done = trace("no-such-command-here")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == "oomdoctor: cannot run no-such-command-here: command not found\n"
    (tmp_path / "data").write_text("1")
    done = trace("./data")
    assert (done.returncode, done.stderr) == (126, "oomdoctor: cannot run ./data: Permission denied\n")
    done = trace(str(tmp_path))
    assert done.returncode == 126
    assert not (tmp_path / "run").exists()
    done = trace("no-such-command-here", run=tmp_path / "runs" / "one")
    assert not (tmp_path / "runs").exists()
    trace("true")
    trace("no-such-command-here")
    assert len(list((tmp_path / "run" / "launchers").iterdir())) == 1
    assert sorted(os.listdir(tmp_path / "run")) == ["launchers", "run.json"]


def test_while_the_command_runs_nothing_is_said_of_nvml(trace: Trace, tmp_path: Path) -> None:
    done = trace("sh", "-c", "cat run/launchers/*/launcher.json; kill -9 $PPID")
    assert done.returncode == -9
    assert json.loads(done.stdout)["nvml"] == {"available": None, "why": None, "samples": 0}


@pytest.mark.parametrize("command", ["trace", "rehearse"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_an_interval_that_is_no_time_is_refused(tmp_path: Path, command: str, value: str) -> None:
    done = subprocess.run(
        [*OOMDOCTOR, command, "--nvml-interval", value, "-o", str(tmp_path / "run"), "touch", "ran"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2
    assert "is not a number of seconds" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_script_without_a_first_line_is_run_by_the_shell(trace: Trace, tmp_path: Path) -> None:
    (tmp_path / "script").write_text('echo "$0 $1"; exit 4\n')
    (tmp_path / "script").chmod(0o755)
    done = trace("./script", "one")
    assert (done.returncode, done.stdout) == (4, "./script one\n")


def test_file_descriptors_are_the_commands(tmp_path: Path, environment: dict[str, str]) -> None:
    read, write = os.pipe()
    command = [*OOMDOCTOR, "trace", "-o", str(tmp_path / "run"), "--"]
    shell = [
        sys.executable,
        "-S",
        "-c",
        f"import os; os.write({write}, b'x'); print(os.listdir('/proc/self/fd'))",
    ]
    plain, traced = (
        subprocess.run([*before, *shell], pass_fds=[write], env=environment, timeout=60, capture_output=True)
        for before in ([], command)
    )
    assert os.read(read, 100) == b"xx"
    assert traced.stdout == plain.stdout
    os.close(read)
    os.close(write)


SHOW_SIGNALS = """
import signal
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
print([(number, signal.getsignal(number)) for number in range(1, 32)])
"""


def test_signal_dispositions_are_the_commands(trace: Trace, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", SHOW_SIGNALS]

    def odd() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    plain = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=odd)
    traced = trace(*command, preexec_fn=odd)
    assert (traced.returncode, traced.stdout) == (0, plain.stdout)


def until(condition: Callable[[], Any], patience: float = 20) -> Any:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return condition()


def test_signals_sent_to_the_launcher_reach_the_command(tmp_path: Path, environment: dict[str, str]) -> None:
    ready = tmp_path / "ready"
    source = f"""
import signal, sys, time
heard = []
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, f: heard.append(n))
open({str(ready)!r}, "w").close()
while len(heard) < 4:
    time.sleep(0.01)
print(heard)
"""
    popen = subprocess.Popen(
        [*OOMDOCTOR, "trace", "-o", str(tmp_path / "run"), "--", sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    until(ready.exists)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        popen.send_signal(number)
        time.sleep(0.1)
    stdout, _ = popen.communicate(timeout=30)
    assert (popen.returncode, stdout) == (0, "[1, 10, 2, 15]\n")


def test_the_terminal_interrupts_the_command_once(tmp_path: Path, environment: dict[str, str]) -> None:
    """Ctrl-C goes to the whole foreground process group; forwarding it would make two of it."""
    source = """
import signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda n, f: heard.append(n))
print("ready", flush=True)
end = time.time() + 20
while not heard and time.time() < end:
    time.sleep(0.01)
time.sleep(0.3)
print("heard", heard, flush=True)
sys.exit(5)
"""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(
            sys.executable,
            [*OOMDOCTOR, "trace", "-o", str(tmp_path / "run"), "--", sys.executable, "-c", source],
            environment,
        )
    shown = b""
    interrupted = False
    while True:
        try:
            shown += os.read(terminal, 1000)
        except OSError:
            break
        if b"ready" in shown and not interrupted:
            os.write(terminal, b"\x03")
            interrupted = True
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert b"heard [2]" in shown
    assert os.waitstatus_to_exitcode(status) == 5


def test_a_forwarded_sigterm_leaves_a_snapshot(tmp_path: Path, environment: dict[str, str]) -> None:
    run = tmp_path / "run"
    source = "import time, torch; torch.empty(1); time.sleep(60)"
    popen = subprocess.Popen(
        [*OOMDOCTOR, "trace", "-o", str(run), "--", sys.executable, "-c", source],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    until(lambda: list(run.glob("processes/*/process.json")))
    time.sleep(0.1)
    popen.send_signal(signal.SIGTERM)
    _, stderr = popen.communicate(timeout=30)
    assert popen.returncode == -signal.SIGTERM
    assert "recorded 1 process, 1 snapshot" in stderr
    (launcher,) = run.glob("launchers/*/launcher.json")
    assert json.loads(launcher.read_text())["returncode"] == -15
    assert read_processes(run)[0].reasons == ["sigterm"]


WHY = [
    ([sys.executable, "-c", "import torch"], {"FAKE_TORCH": "cpu"}, "torch 2.99.0 is a build without CUDA"),
    ([sys.executable, "-c", "import torch"], {}, "CUDA was never initialized"),
    ([sys.executable, "-c", "pass"], {}, "did not import torch"),
    ([sys.executable, "-I", "-c", "pass"], {}, "python -I ignores PYTHONPATH"),
    ([sys.executable, "-BE", "-c", "pass"], {}, "python -E ignores PYTHONPATH"),
    ([sys.executable, "-S", "-c", "pass"], {}, "python -S skips the site module"),
    (["sh", "-c", "exit 0"], {}, "no Python process took part"),
    (["env", "-u", "PYTHONPATH", sys.executable, "-c", "pass"], {}, "no Python process took part"),
]


@pytest.mark.parametrize(("command", "env", "words"), WHY)
def test_nothing_recorded_is_told_why(
    trace: Trace, command: list[str], env: dict[str, str], words: str
) -> None:
    done = trace(*command, env=env)
    assert done.returncode == 0
    told = done.stderr.splitlines()
    assert told[0].startswith("oomdoctor: nothing was recorded: ")
    assert words in told[0]
    assert len(told) == 1, "NVML and the next command are nobody's business here"


CONF = "PYTORCH_CUDA_ALLOC_CONF"
CAUGHT = "import torch\ntry: torch.empty(1)\nexcept ValueError: pass"
NO_START = [
    ("import torch", "import-error", {}, ["torch could not be imported: ImportError: libcudnn.so.9"], 1),
    ("import torch", "import-abort", {}, ["ended while it imported torch"], -signal.SIGABRT),
    (
        "import torch",
        "import-abort",
        {CONF: "expandable_segments=True"},
        [f"{CONF}=expandable_segments=True is set", "KEY:VALUE"],
        -signal.SIGABRT,
    ),
    (
        "import torch; torch.empty(1)",
        "no-cuda",
        {CONF: "expandable_segment:True"},
        [
            "CUDA could not be initialized: ValueError: Unrecognized key 'expandable_segment'",
            f"{CONF}=expandable_segment:True is set",
        ],
        1,
    ),
    (CAUGHT, "no-cuda", {}, ["CUDA could not be initialized: what the command printed", "nvidia-smi"], 0),
]


@pytest.mark.parametrize(("source", "odd", "env", "words", "code"), NO_START)
def test_a_torch_that_does_not_start_is_told(
    trace: Trace, tmp_path: Path, source: str, odd: str, env: dict[str, str], words: list[str], code: int
) -> None:
    done = trace(sys.executable, "-c", source, env={"FAKE_TORCH": odd, **env})
    assert done.returncode == code
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("oomdoctor: ")]
    (launcher,) = (tmp_path / "run").glob("launchers/*/launcher.json")
    notes = json.loads(launcher.read_text())["notes"]
    assert notes == [told.partition("nothing was recorded: ")[2]]
    for word in words:
        assert word in told
    assert "_oomdoctor_recorder/start.py" not in done.stderr


def test_a_command_that_failed_before_cuda_is_not_said_to_need_none() -> None:
    heard = Heard()
    heard.take("torch\t12\t2.99.0 12.6")
    assert "no tensor" in summary.why_nothing(["x"], heard)
    assert "no tensor" not in summary.why_nothing(["x"], heard, returncode=1)
    assert "ended before, with exit code 1" in summary.why_nothing(["x"], heard, returncode=1)
    assert "must not clear it" in summary.why_nothing(["x"], heard, emulated=True, returncode=70)
    heard.take("cuda-begins\t12\t")
    assert "CUDA could not be initialized" in summary.why_nothing(["x"], heard, emulated=True)


def test_how_the_command_ended_is_told(trace: Trace) -> None:
    done = trace(sys.executable, "-c", "import torch; raise SystemExit(4)")
    assert "CUDA was never initialized: the command ended before, with exit code 4" in done.stderr


def test_a_cuda_that_starts_at_the_second_try(trace: Trace) -> None:
    source = f"{CAUGHT}\ntorch.ODD.clear(); torch.empty(1); print(torch._C._cuda_init)"
    done = trace(sys.executable, "-c", source, env={"FAKE_TORCH": "no-cuda"})
    assert "recorded 1 process" in done.stderr
    assert "could not" not in done.stderr
    assert done.stdout.startswith("<function _C._cuda_init")


def test_a_python_too_old_is_named() -> None:
    heard = Heard()
    heard.take("old\t12\t3.6")
    assert summary.why_nothing(["train.sh"], heard) == "Python 3.6 ran; the recorder needs 3.8 or later"


def test_isolated_scripts_are_recognized(tmp_path: Path) -> None:
    script = tmp_path / "vllm"
    script.write_text("#!/usr/bin/python3 -sI\nimport vllm\n")
    assert summary.ignores_python_path([str(script), "serve"]) == "-I"
    assert summary.ignores_python_path(["python3", "-u", "x.py", "-I"]) is None
    assert summary.ignores_python_path(["python3", "-m", "x", "-E"]) is None
    assert summary.ignores_python_path(["perl", "-I"]) is None


def test_killed_processes_are_named(trace: Trace) -> None:
    done = trace(sys.executable, "-c", "import os, torch; torch.empty(1); os.kill(os.getpid(), 9)")
    assert done.returncode == -9
    assert "recorded 1 process, 0 snapshots" in done.stderr
    assert "left no snapshot: it was killed" in done.stderr


def test_a_process_that_outlives_the_command_is_not_called_dead(trace: Trace) -> None:
    source = "import time, torch; torch.empty(1); open('on', 'w').close(); time.sleep(60)"
    shell = (
        f'{sys.executable} -c "{source}" >/dev/null 2>&1 & while [ ! -e on ]; do sleep 0.05; done; echo $!'
    )
    done = trace("sh", "-c", shell)
    pid = int(done.stdout)
    os.kill(pid, signal.SIGKILL)
    assert f"still running, and recorded on: {pid}" in done.stderr
    assert "killed" not in done.stderr


def test_a_wrapped_history_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [
            *OOMDOCTOR,
            "trace",
            "-o",
            str(tmp_path / "run"),
            "--max-entries",
            "10",
            "--",
            sys.executable,
            "-c",
            "import torch; torch.empty(1)",
        ],
        env={**environment, "FAKE_TORCH": "entries=9", "RANK": "3"},
        capture_output=True,
        text=True,
    )
    assert "the history wrapped (rank 3 GPU 0)" in done.stderr
    assert "--max-entries" in done.stderr


@pytest.mark.parametrize("command", [[sys.executable, "-c", USES_CUDA]])
def test_a_folder_that_cannot_be_written_disturbs_nothing(
    trace: Trace, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    done = trace(*command, run=tmp_path / "file" / "run", input="")
    assert (done.returncode, done.stdout, without_ours(done.stderr)) == (3, "out  None\n", "err\n")
    assert "nothing was recorded: CUDA was initialized, but nothing could be written" in done.stderr
    assert "problem: the run folder cannot be written" in done.stderr
    assert "no folder can be made there: name another with -o" in done.stderr


def test_recorder_failures_are_told_with_a_remedy(trace: Trace, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))"
    source = f"{limit}; import torch; torch.empty(1)"
    done = trace(sys.executable, "-c", source, env={"FAKE_TORCH": "entries=3000"})
    assert done.returncode == 0
    assert "problem: the snapshot at exit failed: OSError: [Errno 27] File too large" in done.stderr
    assert "ulimit -f unlimited" in done.stderr
    assert "left no snapshot: it could not be written" in done.stderr
    assert "killed" not in done.stderr
    (launcher,) = (tmp_path / "run").glob("launchers/*/launcher.json")
    assert "File too large" in json.loads(launcher.read_text())["notes"][0]


def test_a_backend_without_history_is_told_once(trace: Trace) -> None:
    done = trace(sys.executable, "-c", USES_CUDA, env={"FAKE_TORCH": "no-history,no-observer,no-snapshot"})
    (problem,) = [line for line in done.stderr.splitlines() if "problem:" in line]
    assert "the allocator backend cudaMallocAsync keeps no history: " in problem
    assert problem.endswith("; history needs the native allocator: leave backend:cudaMallocAsync out")


def test_a_full_disk_has_its_own_advice() -> None:
    assert "free some space" in (summary.remedy("OSError: [Errno 28] No space left on device") or "")


def test_two_launchers_into_one_folder(tmp_path: Path, environment: dict[str, str]) -> None:
    command = [*OOMDOCTOR, "trace", "-o", str(tmp_path / "run"), "--", sys.executable, "-c"]
    both = [
        subprocess.Popen(
            [*command, "import torch; torch.empty(1)"],
            env={**environment, "RANK": rank},
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    for popen in both:
        assert b"recorded 1 process, 1 snapshot" in popen.communicate(timeout=60)[1]
        assert popen.returncode == 0
    processes = read_processes(tmp_path / "run")
    assert sorted(p.facts["rank"] for p in processes) == [0, 1]
    assert len({p.facts["launcher"] for p in processes}) == 2
    assert len(list((tmp_path / "run" / "launchers").iterdir())) == 2
    assert sorted(os.listdir(tmp_path / "run")) == ["launchers", "processes", "run.json"]


def test_other_folders_are_refused(trace: Trace, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    done = trace("touch", "ran", run=tmp_path / "other")
    assert done.returncode == 2
    assert "holds something else than a run" in done.stderr
    assert not (tmp_path / "ran").exists()
    done = trace("touch", "ran", run=tmp_path / "other" / "thesis.tex")
    assert (done.returncode, (tmp_path / "ran").exists()) == (2, False)
    (tmp_path / "empty").mkdir()
    launch.check_folder(tmp_path / "empty")
    (tmp_path / "empty" / "processes").mkdir()
    launch.check_folder(tmp_path / "empty")
    with pytest.raises(UsageError):
        launch.check_folder(tmp_path)


def test_nested_traces_record_into_the_inner_folder(trace: Trace, tmp_path: Path) -> None:
    inner = [*OOMDOCTOR, "trace", "-o", str(tmp_path / "inner"), "--"]
    done = trace(*inner, sys.executable, "-c", "import torch; torch.empty(1)")
    assert done.returncode == 0
    assert read_processes(tmp_path / "inner")[0].reasons == ["exit"]


def test_nothing_is_left_in_the_temporary_folder(trace: Trace, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    trace(sys.executable, "-c", "import torch; torch.empty(1)", env={"TMPDIR": str(temporary)})
    assert list(temporary.iterdir()) == []


def test_without_a_temporary_folder_it_records_all_the_same(trace: Trace, tmp_path: Path) -> None:
    code = "import tempfile; tempfile.tempdir='/nonexistent'; from oomdoctor.cli import main; main()"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "trace",
            "-o",
            str(tmp_path / "r"),
            sys.executable,
            "-c",
            "import torch; torch.empty(1)",
        ],
        env={**os.environ, "PYTHONPATH": str(FAKE_TORCH)},
        capture_output=True,
        text=True,
    )
    assert "recorded 1 process, 1 snapshot" in done.stderr


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs root and setpriv")
def test_a_command_that_changes_its_user_is_heard(trace: Trace, tmp_path: Path) -> None:
    python = "/usr/bin/python3"
    seen = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", python, "-c", ""], capture_output=True
    )
    from oomdoctor.recorder import INJECT

    readable = subprocess.run(["setpriv", "--reuid=65534", "ls", str(INJECT)], capture_output=True)
    if seen.returncode or readable.returncode:
        pytest.skip("another user cannot run Python here, or not read the recorder")
    done = trace("setpriv", "--reuid=65534", "--clear-groups", python, "-c", "pass")
    assert "Python ran, but did not import torch" in done.stderr
