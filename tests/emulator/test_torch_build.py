"""Finding the torch that a command would use, and refusing what cannot be rehearsed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from oomdoctor.emulator.torch_build import command_python, find_torch, read_torch
from oomdoctor.errors import EmulatorError


def make_torch(
    folder: Path, version: str, cuda: str = "None", hip: str = "None", cuda_library: bool = True
) -> Path:
    (folder / "torch" / "lib").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    (folder / "torch" / "version.py").write_text(
        f"from typing import Optional\n__version__ = '{version}'\ndebug = False\n"
        f"cuda: Optional[str] = {cuda}\ngit_version = 'abc'\nhip: Optional[str] = {hip}\n"
    )
    if cuda_library:
        (folder / "torch" / "lib" / "libtorch_cuda.so").touch()
    return folder / "torch"


def test_reads_version_and_cuda_without_importing(tmp_path: Path) -> None:
    build = read_torch(make_torch(tmp_path, "2.6.0+cu124", "'12.4'"), "python")
    assert (build.version, build.cuda) == ("2.6.0+cu124", (12, 4))


def test_finds_it_through_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_torch(tmp_path, "2.9.1+cu128", "'12.8'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert find_torch(sys.executable).folder == tmp_path / "torch"


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "library", "what", "next_step"),
    [
        ("2.13.0+cpu", "None", "None", False, "built for the CPU only", "CUDA build"),
        ("2.6.0+rocm6.2", "None", "'6.2'", False, "built for ROCm", "CUDA build"),
        ("1.13.1+cu117", "'11.7'", "None", True, "too old", "torch 2.0"),
        ("0.4.1", "'9.0'", "None", True, "too old", "torch 2.0"),
        ("2.0.1+cu117", "'11.7'", "None", True, "uses CUDA 11.7", "CUDA 12"),
        ("2.31.0+cu141", "'14.1'", "None", True, "newer than this oomdoctor knows", "update oomdoctor"),
    ],
)
def test_refuses_by_name(
    tmp_path: Path, version: str, cuda: str, hip: str, library: bool, what: str, next_step: str
) -> None:
    with pytest.raises(EmulatorError) as caught:
        read_torch(make_torch(tmp_path, version, cuda, hip, library), "python")
    assert what in caught.value.what
    assert version in caught.value.what
    assert next_step in (caught.value.next_step or "")


def test_no_torch_and_no_interpreter(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(EmulatorError, match="has no torch"):
        find_torch(str(bare))
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho kaputt >&2; exit 3\n")
    broken.chmod(0o755)
    with pytest.raises(EmulatorError, match="does not run") as caught:
        find_torch(str(broken))
    assert "kaputt" in (caught.value.why or "")
    for wrong, why in ((tmp_path / "nowhere", "No such file"), (tmp_path, "Permission denied")):
        with pytest.raises(EmulatorError, match="does not run") as caught:
            find_torch(str(wrong))
        assert why in (caught.value.why or "")


def test_interpreter_of_a_command(tmp_path: Path) -> None:
    path = {"PATH": str(tmp_path)}
    python = tmp_path / "python3"
    python.symlink_to(sys.executable)
    script = tmp_path / "torchrun"
    script.write_text(f"#!{sys.executable}\n")
    script.chmod(0o755)
    by_env = tmp_path / "vllm"
    by_env.write_text("#!/usr/bin/env -S python3 -u\n")
    by_env.chmod(0o755)
    shell = tmp_path / "start.sh"
    shell.write_text("#!/bin/sh\n")
    shell.chmod(0o755)
    assert command_python(["python3", "x.py"], path) == str(python)
    assert command_python(["torchrun", "x.py"], path) == sys.executable
    assert command_python(["vllm", "serve"], path) == str(python)
    assert command_python(["start.sh"], path) == str(
        python
    )  # whatever it starts, python on PATH is the best guess
    with pytest.raises(EmulatorError, match="no Python"):
        command_python(["nothing"], {"PATH": os.devnull})
