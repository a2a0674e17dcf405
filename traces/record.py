"""Makes the recordings that lie here: runs the command, takes names of this machine out, compresses.

    python traces/record.py [NAME ...]

Each is a run folder as `oomdoctor rehearse` writes it, with its snapshots compressed in place (readers tell
by the content).
"""

from __future__ import annotations

import gzip
import json
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "traces"

# name: (options of rehearse, the command after the interpreter)
RECORDINGS: dict[str, tuple[list[str], list[str]]] = {
    "llama-4-layers-two-gpus": (
        ["--gpus", "2", "--memory", "1700MiB,3GiB"],
        ["examples/llama_generate.py", "--layers", "4", "--max-prompt", "1000"],
    ),
    "llama-2-layers-to-the-end": (
        ["--memory", "24GiB"],
        [
            "examples/llama_generate.py",
            "--layers",
            "2",
            "--requests",
            "12",
            "--max-prompt",
            "1200",
            "--new-tokens",
            "6",
        ],
    ),
}


def scrubber() -> Any:
    """Text to text: paths of this machine become ones that could be anyone's."""
    prefixes = {
        str(ROOT): "/project",
        sys.prefix: "/venv",
        str(Path(sys.prefix).resolve()): "/venv",
        sys.base_prefix: "/usr",
        str(Path.home()): "/home/user",
    }
    ordered = sorted(prefixes.items(), key=lambda item: -len(item[0]))
    folder = re.compile(r"^/tmp/[^/]+")
    # The environment's folder first: it may lie within the project's.
    return lambda text: folder.sub("/runs", _replace(text, ordered))


def _replace(text: str, ordered: list[tuple[str, str]]) -> str:
    for prefix, name in ordered:
        if text == prefix or text.startswith(prefix + "/"):
            return name + text[len(prefix) :]
    return text


class Scrub:
    """The same document with every text cleaned. What was one object stays one: events share stacks."""

    def __init__(self, host: str) -> None:
        self.clean = scrubber()
        self.host = host
        self.made: dict[int, Any] = {}
        self.texts: dict[str, str] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            if value not in self.texts:
                cleaned = self.clean(value)
                self.texts[value] = re.sub(rf"\b{re.escape(self.host)}(?=-\d)", "host", cleaned)
            return self.texts[value]
        if not isinstance(value, (dict, list, tuple)):
            return value
        if id(value) not in self.made:
            if isinstance(value, dict):
                made: Any = {key: "host" if key == "host" else self(item) for key, item in value.items()}
            else:
                made = type(value)(map(self, value))
            self.made[id(value)] = made
        return self.made[id(value)]


def record(name: str) -> None:
    """Run one and put it in its place."""
    options, command = RECORDINGS[name]
    with tempfile.TemporaryDirectory() as made:
        run = Path(made) / name
        subprocess.run(
            [
                sys.executable,
                "-m",
                "oomdoctor",
                "rehearse",
                *options,
                "-o",
                str(run),
                "--",
                sys.executable,
                *command,
            ],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        host = json.loads(next(run.glob("launchers/*/launcher.json")).read_text())["host"]
        scrub = Scrub(host)
        kept = []  # ids stand for objects only while those live
        target = HERE / name
        shutil.rmtree(target, ignore_errors=True)
        for path in sorted(run.rglob("*")):
            relative = Path(*(part.replace(f"{host}-", "host-", 1) for part in path.relative_to(run).parts))
            if path.is_dir():
                continue
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".pickle":
                kept.append(pickle.loads(path.read_bytes()))  # ours, made a moment ago
                content = gzip.compress(pickle.dumps(scrub(kept[-1]), protocol=4), 9, mtime=0)
                (target / relative).write_bytes(content)
            elif path.suffix == ".jsonl":
                kept.append([json.loads(line) for line in path.read_text().splitlines()])
                lines = [json.dumps(scrub(line)) for line in kept[-1]]
                (target / relative).write_text("".join(line + "\n" for line in lines))
            else:
                kept.append(json.loads(path.read_text()))
                (target / relative).write_text(json.dumps(scrub(kept[-1]), indent=1) + "\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or RECORDINGS:
        record(wanted)
