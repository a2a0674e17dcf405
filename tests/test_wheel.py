"""What is installed has everything: the recorder and the emulated device are found by path, not imported."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    copy = tmp_path / "source"
    copy.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    names = [name for name in tracked.stdout.split("\0") if name and (ROOT / name).exists()]
    for name in names:
        if name.startswith(("oomdoctor/", "dashboard/")) or "/" not in name:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(copy), "-w", str(tmp_path)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    installed = {
        name.removeprefix("dashboard/") for name in names if name.startswith(("oomdoctor/", "dashboard/"))
    }
    assert installed <= held
