"""How the recorder gets in, and that nobody notices."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import oomdoctor
from oomdoctor.recorder import INJECT
from tests.recorder.conftest import FAKE_TORCH, Record


def interpreters() -> list[str]:
    """Other Pythons of this machine, one a version.

    On the PATH, or beside our own as pyenv and others lay them.
    """
    beside = os.path.join(os.path.dirname(sys.base_prefix), "*", "bin", "python3.*")
    found = {}
    for candidate in [
        *glob.glob(beside),
        *filter(None, (shutil.which(f"python3.{n}") for n in range(6, 20))),
    ]:
        name = os.path.basename(candidate)
        if re.fullmatch(r"python3\.\d+", name) and name not in found:
            answer = subprocess.run([candidate, "-c", ""], capture_output=True)
            if answer.returncode == 0:
                found[name] = candidate
    return sorted(found.values(), key=lambda path: int(path.rsplit(".", 1)[1]))


@pytest.mark.parametrize("minor", range(8, 15))
def test_every_python_is_recorded(record: Record, minor: int) -> None:
    python = next((p for p in interpreters() if p.endswith(f"python3.{minor}")), None)
    if python is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    result = record("import torch; torch.empty(5); print('done')", python=python)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
    assert result.process.reasons == ["exit"]
    assert result.process.facts["python_version"].startswith(f"3.{minor}.")
    assert result.process.log == ""


@pytest.mark.parametrize("minor", [6, 7])
def test_a_python_too_old_is_left_alone(record: Record, minor: int) -> None:
    python = next((p for p in interpreters() if p.endswith(f"python3.{minor}")), None)
    if python is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    result = record("import sys; print('sitecustomize' in sys.modules)", python=python)
    assert (result.returncode, result.stdout, result.stderr) == (0, "False\n", "")


LOOK = """
    import sys
    site = sys.modules.get("sitecustomize")
    print(getattr(site, "__file__", None), getattr(site, "MARK", None))
    print(sys.path)
    print([name for name in ("threading", "socket", "json", "signal", "time") if name in sys.modules])
"""


def test_without_torch_the_program_finds_nothing_changed(record: Record) -> None:
    recorded, plain = record(LOOK), record(LOOK, recorded=False)
    assert recorded.stdout == plain.stdout
    assert (recorded.returncode, recorded.stderr) == (0, "")
    assert not recorded.run.exists()


def test_an_existing_sitecustomize_runs_in_our_place(record: Record, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(
        "MARK = 'theirs'\nimport sys; sys.stderr.write('theirs ran\\n')\n"
    )
    recorded, plain = (record(LOOK, path=(FAKE_TORCH, other), recorded=r) for r in (True, False))
    assert "theirs" in plain.stdout
    assert (recorded.stdout, recorded.stderr) == (plain.stdout, plain.stderr)


@pytest.mark.parametrize(
    "text", ["raise RuntimeError('theirs is broken')", "import not_there", "import sys; sys.exit(4)", "1 +"]
)
def test_a_broken_sitecustomize_is_as_broken_as_ever(record: Record, tmp_path: Path, text: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(text)
    recorded, plain = (record("print('on')", path=(FAKE_TORCH, other), recorded=r) for r in (True, False))
    assert (recorded.returncode, recorded.stdout) == (plain.returncode, plain.stdout)
    # Where it ends Python itself, the traceback has one line more: ours, from which it was imported.
    ours = (
        rf'  File "{re.escape(str(INJECT))}/sitecustomize.py", line \d+, in <module>\n'
        r"    import sitecustomize.*\n(    \^+\n)?"
    )
    assert re.sub(ours, "", recorded.stderr) == plain.stderr


def test_looking_for_torch_is_not_importing_it(record: Record) -> None:
    result = record("""
        import importlib.util, sys
        assert importlib.util.find_spec("torch") is not None
        assert "torch" not in sys.modules
        import torch
        assert "exec_module" not in torch.__loader__.__dict__
        assert type(torch.__loader__).__name__ == "SourceFileLoader"
        assert torch.__loader__ is torch.__spec__.loader
        assert not any("oomdoctor" in type(f).__module__ for f in sys.meta_path)
        torch.empty(1)
    """)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.process.reasons == ["exit"]


def test_a_torch_that_fails_to_import_fails_alike_and_may_come_later(record: Record, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    result = record(
        f"""
        import sys
        try:
            import torch
        except ImportError as error:
            print(error)
        sys.path.remove({str(tmp_path / "broken")!r})
        sys.path_importer_cache.clear()
        import torch
        torch.empty(1)
        """,
        path=(tmp_path / "broken", FAKE_TORCH),
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "libcudart.so.12: cannot open\n", "")
    assert result.process.reasons == ["exit"]


def test_a_folder_called_torch_is_not_torch(record: Record, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "torch").mkdir(parents=True)
    result = record(f"""
        import sys
        sys.path = [{str(tmp_path / "elsewhere")!r}]
        import torch
        print(torch.__path__ is not None)
    """)
    assert (result.returncode, result.stdout, result.stderr) == (0, "True\n", "")


def test_nothing_before_cuda(record: Record) -> None:
    result = record("""
        import signal, sys, torch
        assert not torch.cuda._initialized and not torch.cuda.history_calls
        assert signal.signal.__module__ == "signal" and "ctypes" not in sys.modules
    """)
    assert (result.returncode, result.stderr) == (0, "")
    assert not result.run.exists()


def test_a_build_without_cuda_is_let_be(record: Record) -> None:
    result = record("import torch; print(torch.cuda._queued_calls)", odd="cpu")
    assert (result.returncode, result.stdout, result.stderr) == (0, "[]\n", "")
    assert not result.run.exists()


def test_a_program_that_clears_its_environment_and_moves_is_recorded(record: Record, tmp_path: Path) -> None:
    result = record("""
        import os
        os.environ.clear()
        os.chdir("/")
        import torch
        torch.empty(1)
    """)
    assert result.process.reasons == ["exit"]


def test_the_payload_runs_after_torch_and_its_failure_is_told(record: Record, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(
        "def install(torch):\n    print('installed into', torch.__name__, torch.cuda._initialized)\n"
    )
    bad.write_text("def install(torch):\n    raise ValueError('no such device')\n")
    result = record("import torch; torch.empty(1)", env={"OOMDOCTOR_PAYLOAD": str(good)})
    assert result.stdout == "installed into torch False\n"
    run = tmp_path / "second"
    result = record(
        "import torch; torch.empty(1)",
        env={"OOMDOCTOR_PAYLOAD": str(bad), "OOMDOCTOR_DEBUG": "1"},
        run=run,
    )
    assert "no such device" in result.stderr
    assert result.process.reasons == ["exit"]


def test_the_recorder_knows_its_version() -> None:
    text = (INJECT / "_oomdoctor_recorder" / "__init__.py").read_text()
    assert f'VERSION = "{oomdoctor.__version__}"' in text


def test_the_recorder_imports_nothing_but_the_standard_library() -> None:
    if sys.version_info < (3, 10):
        pytest.skip("sys.stdlib_module_names came with Python 3.10")
    for path in INJECT.rglob("*.py"):
        for name in re.findall(r"^\s*(?:import|from) +([A-Za-z_]\w*)", path.read_text(), re.MULTILINE):
            known = name in sys.stdlib_module_names or name in ("_oomdoctor_recorder", "sitecustomize")
            assert known, f"{path.name} imports {name}"
