"""What recorders tell their launcher while a command runs.

Lines through a FIFO (see ``report`` in the recorder).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

_MOST_TEXTS = 1000


@dataclass
class Heard:
    """What came in: enough to say afterwards what was recorded, and if nothing was, why."""

    pythons: int = 0
    old: list[str] = field(default_factory=list)  # versions of Python that are too old to be recorded
    torch: list[str] = field(default_factory=list)  # "VERSION CUDA", distinct
    # By pid, what began and has not come to its end: torch's import, and CUDA's initialization. The text has
    # the allocator variables as they were set.
    importing: dict[str, str] = field(default_factory=dict)
    initializing: dict[str, str] = field(default_factory=dict)
    # By pid, what torch said, and the same variables.
    import_failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    cuda_failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    cuda: int = 0
    dumped: int = 0
    failures: dict[str, int] = field(default_factory=dict)  # text -> how often
    undumped: set[str] = field(default_factory=set)  # pids whose snapshot failed

    def take(self, line: str) -> None:
        kind, _, rest = line.partition("\t")
        pid, _, text = rest.partition("\t")
        text = "".join(c for c in text if c.isprintable())
        if kind == "python":
            self.pythons += 1
        elif kind == "old" and text not in self.old:
            self.old.append(text)
        elif kind == "importing":
            self.importing[pid] = text
        elif kind == "torch-failed":
            self.import_failures[pid] = (text, self.importing.pop(pid, ""))
        elif kind == "torch":
            self.importing.pop(pid, None)
            self.import_failures.pop(pid, None)
            if text not in self.torch:
                self.torch.append(text)
        elif kind == "cuda-begins":
            self.initializing[pid] = text
        elif kind == "cuda-failed":
            self.cuda_failures[pid] = (text, self.initializing.pop(pid, ""))
        elif kind == "cuda-runs":
            self.initializing.pop(pid, None)
            self.cuda_failures.pop(pid, None)
        elif kind == "cuda":
            self.cuda += 1
        elif kind == "dumped":
            self.dumped += 1
        elif kind == "failure":
            if text.startswith("the snapshot "):
                self.undumped.add(pid)
            self._failed(text)

    def _failed(self, text: str) -> None:
        if text in self.failures or len(self.failures) < _MOST_TEXTS:
            self.failures[text] = self.failures.get(text, 0) + 1


class Ear:
    """A FIFO and the thread that listens to it.

    Where no FIFO can be made, ``path`` is None and nothing is heard: the recording does not depend on it.
    """

    def __init__(self) -> None:
        self.heard = Heard()
        self.path: Optional[Path] = None
        self._fd = -1
        self._thread: Optional[threading.Thread] = None
        try:
            folder = Path(tempfile.mkdtemp(prefix="oomdoctor-"))
            path = folder / "notify"
            os.mkfifo(path)
            # A command may change its user (sudo -u, setpriv): its recorders may write here, and nothing
            # else.
            os.chmod(folder, 0o711)
            os.chmod(path, 0o622)
            # Opened for both: so there is always a writer, and a reader does not see an end before the last
            # word.
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self.path = path
        except OSError:
            pass

    def listen(self) -> None:
        """Start listening.

        After the command was started: a fork with threads beside it is asking for trouble.
        """
        if self._fd >= 0:
            self._thread = threading.Thread(target=self._run, name="oomdoctor-ear", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self._fd, 1 << 16)).split(b"\n")
            for line in lines:
                if line == b"end":
                    return
                self.heard.take(line.decode("utf-8", "replace"))

    def close(self) -> Heard:
        """Hear out what is there already, then stop."""
        if self._thread is not None:
            try:
                os.write(self._fd, b"\nend\n")
                self._thread.join(5)
            except OSError:
                pass
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.path is not None:
            shutil.rmtree(self.path.parent, ignore_errors=True)
        return self.heard
