"""Running a command under the recorder: its streams, terminal, signals and exit code stay its own."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from oomdoctor import __version__
from oomdoctor.errors import UsageError
from oomdoctor.recorder import recording_environment
from oomdoctor.run import summary
from oomdoctor.run.notify import Ear
from oomdoctor.run.nvml import Sampler

# Sent to us by another process these are meant for the command; from the terminal it has them already.
FORWARDED = frozenset(
    {
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
    }
)
_SI_KERNEL = 0x80  # siginfo's si_code where the kernel, that is the terminal, sent the signal (sigaction(2))
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as a shell has it


def default_folder(command: Sequence[str]) -> Path:
    """``oomdoctor-runs/20251121-010203-NAME``: the time, and what was run."""
    name = os.path.basename(command[0]) if command else "run"
    if re.match(r"python[\d.]*$", name):
        script = next((a for a in command[1:] if not a.startswith("-")), None)
        name = os.path.splitext(os.path.basename(script))[0] if script else name
    name = re.sub(r"[^\w.]+", "-", name).strip("-.") or "run"
    return Path("oomdoctor-runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name[:40]}"


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UsageError: it is a file, or neither empty nor a run folder.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError("not a folder", where=str(folder), next_step="name a new folder, or leave -o out")
    try:
        names = set(os.listdir(folder))
    except OSError:
        return  # the end says that nothing could be written
    # Another launcher may be making the same folder at this moment: what it makes first is ours too.
    if "run.json" in names or all(
        n in ("launchers", "processes") or n.startswith(".run.json") for n in names
    ):
        return
    raise UsageError(
        "this folder holds something else than a run",
        where=str(folder),
        next_step="name a new folder, or leave -o out and one is made below oomdoctor-runs/",
    )


class _Launcher:
    """launcher.json and what is around it. A disk that does not take it never stops the command."""

    def __init__(self, folder: Path, command: Sequence[str], options: dict[str, Any], emulated: Any) -> None:
        host = socket.gethostname()
        self.name = f"{re.sub(r'[^A-Za-z0-9._]', '_', host) or 'host'}-{os.getpid()}-{time.time_ns():x}"
        self.run = folder
        self.folder = folder / "launchers" / self.name
        self.problems: list[str] = []
        self._new: list[Path] = []  # folders that were not there before
        self.document: dict[str, Any] = {
            "schema": "oomdoctor.launcher/1",
            "oomdoctor_version": __version__,
            "host": host,
            "pid": os.getpid(),
            "command": list(command),
            "cwd": os.getcwd(),
            "started_unix": time.time(),
            "ended_unix": None,
            "returncode": None,
            "options": options,
            "emulated": emulated,
            "nvml": {"available": None, "why": None, "samples": 0},  # until the command has ended
            "notes": [],
        }

    def make(self) -> None:
        self._new = [path for path in (self.run, *self.run.parents) if not path.exists()]
        try:
            _make_run_folder(self.run)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.problems.append(f"the run folder cannot be written: {error}")
        self.write()

    def unmake(self) -> None:
        """Take away what ``make`` made, for a command that never ran; not what others have put there."""
        with contextlib.suppress(OSError):
            (self.folder / "launcher.json").unlink()
            self.folder.rmdir()
            self.folder.parent.rmdir()
        with contextlib.suppress(OSError):
            if self._new and os.listdir(self.run) == ["run.json"]:
                (self.run / "run.json").unlink()
            for folder in self._new:
                folder.rmdir()

    def write(self) -> None:
        if self.problems:
            return
        try:
            write_json(self.folder / "launcher.json", self.document)
        except OSError as error:
            self.problems.append(f"launcher.json cannot be written: {error}")


def _make_run_folder(folder: Path) -> None:
    """The run folder with its run.json, by whoever comes first (the recorder does the same)."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "run.json"
    if manifest.exists():
        return
    aside = folder / f".run.json.{socket.gethostname()}.{os.getpid()}"
    aside.write_text(
        json.dumps(
            {"schema": "oomdoctor.run/1", "created_unix": time.time(), "oomdoctor_version": __version__},
            indent=1,
        )
    )
    try:
        os.link(aside, manifest)  # never replaces one that is there
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(aside, manifest)
        return
    aside.unlink(missing_ok=True)


def write_json(path: Path, document: Any) -> None:
    """Aside, then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(json.dumps(document, indent=1))
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def run_command(
    command: Sequence[str],
    *,
    folder: Path,
    max_entries: int,
    stacks: str,
    nvml_interval: float,
    extra_env: Mapping[str, str] = {},
    emulated: Optional[dict[str, Any]] = None,
    nvml_library: Optional[Path] = None,
    say: Optional[Callable[[str], None]] = None,
) -> int:
    """Run a command, record every Python process in it that uses CUDA through torch, and say what came of it.

    Args:
        command: what to run, found as a shell would.
        folder: the run folder, made or joined.
        max_entries: the ring of allocator events kept per device.
        stacks: "python", "all" or "none".
        nvml_interval: seconds between NVML samples.
        extra_env: variables set for the command on top.
        emulated: the settings of the emulated device, for launcher.json.
        nvml_library: the NVML to ask instead of the system's.
        say: takes the lines told at the end; standard error by default.

    Returns:
        what the command returned, as Python gives it: −9 for SIGKILL.

    Raises:
        UsageError: the folder holds something else.
    """
    say = say or _to_stderr
    check_folder(folder)
    folder = Path(os.path.abspath(folder))
    options = {"max_entries": max_entries, "stacks": stacks, "nvml_interval": nvml_interval}
    launcher = _Launcher(folder, command, options, emulated)
    launcher.make()
    ear = Ear()
    environment = dict(os.environ)
    environment.update(extra_env)
    environment.update(
        recording_environment(
            folder, max_entries=max_entries, stacks=stacks, python_path=environment.get("PYTHONPATH")
        )
    )
    environment["OOMDOCTOR_LAUNCHER"] = launcher.name
    if ear.path is not None:
        environment["OOMDOCTOR_NOTIFY"] = str(ear.path)
    else:
        environment.pop("OOMDOCTOR_NOTIFY", None)

    handled = FORWARDED | {signal.SIGCHLD}
    child_handler = signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # an inherited SIG_IGN would reap the child unseen
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, handled)

    def as_it_was() -> None:
        signal.signal(signal.SIGCHLD, child_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)

    sampler = Sampler(launcher.folder / "nvml.jsonl", nvml_interval, nvml_library)
    try:
        process = _start(command, environment, as_it_was)
        if isinstance(process, int):
            ear.close()
            launcher.unmake()
            return process
        ear.listen()
        sampler.start()
        returncode = _wait(process, handled)
    finally:
        sampler.stop()
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        signal.signal(signal.SIGCHLD, child_handler)
    heard = ear.close()
    launcher.document["nvml"] = sampler.as_json()
    notes = summary.troubles(heard, emulated is not None) + summary.failures(heard) + launcher.problems
    launcher.document["notes"] = notes
    _end(launcher, returncode)
    problems = notes + launcher.problems
    for line in summary.lines(
        command, folder, launcher.name, heard, problems, sampler, emulated is not None, returncode
    ):
        say(line)
    return returncode


def _end(launcher: _Launcher, returncode: int) -> None:
    launcher.document.update(ended_unix=time.time(), returncode=returncode)
    launcher.write()


def _to_stderr(line: str) -> None:
    # Nobody may be listening any more; the command's exit code is what counts.
    with contextlib.suppress(OSError):
        print(f"oomdoctor: {line}", file=sys.stderr, flush=True)


def _start(
    command: Sequence[str], environment: Mapping[str, str], in_child: Callable[[], None]
) -> subprocess.Popen[bytes] | int:
    """Start it, or say in one line why not and give a shell's exit code for that."""
    arguments = list(command)
    for attempt in ("as it is", "as a shell script"):
        try:
            # File descriptors that we were started with are the command's; ours close on exec (PEP 446).
            return subprocess.Popen(arguments, env=environment, close_fds=False, preexec_fn=in_child)
        except OSError as error:
            if error.errno == errno.ENOEXEC and attempt == "as it is":
                arguments = ["/bin/sh", *arguments]  # no #! line: what execvp(3), env(1) and shells do
                continue
            missing = isinstance(error, FileNotFoundError)
            _to_stderr(
                f"cannot run {shlex.quote(command[0])}: {'command not found' if missing else error.strerror}"
            )
            return _NOT_FOUND if missing else _NOT_EXECUTABLE
    raise AssertionError("not reached")


def _wait(process: subprocess.Popen[bytes], handled: frozenset[signal.Signals]) -> int:
    """Wait for the end of the command, handing on the signals that are meant for it."""
    while True:
        returncode = process.poll()
        if returncode is not None:
            return returncode
        info = signal.sigtimedwait(handled, 5.0)
        if info is None or info.si_signo == signal.SIGCHLD or info.si_code == _SI_KERNEL:
            continue
        process.send_signal(info.si_signo)


def leave_like(returncode: int) -> int:
    """The exit code to leave with; after a signal, die of the same one, so that our parent sees what it would
    have.

    No core of ours: the command has left its own.
    """
    if returncode >= 0:
        return returncode
    number = -returncode
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    except (OSError, ValueError):
        pass
    return 128 + number
