"""The stand-ins for NVIDIA's libraries: built once, kept, safe under two builders, clear when they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oomdoctor.emulator import build
from oomdoctor.emulator.elf import Imported, Imports, read_defined
from oomdoctor.emulator.torch_build import TorchBuild
from oomdoctor.errors import EmulatorError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OOMDOCTOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_library_has_its_name_and_what_torch_imports_from_it(
    torch_build: TorchBuild, cache: Path
) -> None:
    stubs = build.built_stubs(torch_build)
    names = [library.name for library in stubs.libraries]
    assert names[0] == build.DEVICE
    assert "libcuda.so.1" in names
    assert "libnvidia-ml.so.1" in names
    device = read_defined(stubs.libraries[0])
    for library in torch_build.libraries():
        for symbol in build.read_imports(library).symbols:
            if symbol.soname in names:
                assert symbol.name in device or symbol.name in read_defined(stubs.folder / symbol.soname)
    # Nothing that is not NVIDIA's is stood in for.
    assert not {name for name in names if name.startswith(("libz", "libc.", "libm.", "libstdc", "libgomp"))}


def test_built_once_and_kept(torch_build: TorchBuild, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.built_stubs(torch_build)
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("built again"))
    assert build.built_stubs(torch_build) == first


def test_two_builders_at_once(torch_build: TorchBuild, cache: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: build.built_stubs(torch_build), range(2))
    assert one == two
    assert [path.name for path in (cache / "emulator").iterdir()] == [one.folder.name]


def test_no_compiler(torch_build: TorchBuild, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(EmulatorError, match="no C compiler") as caught:
        build.built_stubs(torch_build)
    assert "CC" in (caught.value.next_step or "")
    assert not list((cache / "emulator").iterdir())  # nothing half built is left


def test_compiler_that_fails(
    torch_build: TorchBuild, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text("#!/bin/sh\necho 'x.c:1: error: no such thing' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(EmulatorError, match="does not compile") as caught:
        build.built_stubs(torch_build)
    assert "no such thing" in (caught.value.why or "")


def test_cache_that_cannot_be_written(
    torch_build: TorchBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OOMDOCTOR_CACHE", str(tmp_path / "file"))
    with pytest.raises(EmulatorError, match="cannot write to the cache") as caught:
        build.built_stubs(torch_build)
    assert "OOMDOCTOR_CACHE" in (caught.value.next_step or "")


def test_symbol_that_nobody_has() -> None:
    needs = Imports(("libcudart.so.13",), (Imported("ncclBrandNew", None, None, False),))
    with pytest.raises(EmulatorError, match="imports ncclBrandNew"):
        build._wanted([needs], ["libcudart.so.13"], set())


def test_symbols_go_to_their_library() -> None:
    symbols = (
        Imported("cudaMalloc", "libcudart.so.13", "libcudart.so.13", False),
        Imported("cusparseLtInit", None, None, False),
        Imported("cuMemMap", None, None, False),
        Imported("ncclSend", None, None, False),
        Imported("cusparseLtBundled", None, None, False),
        Imported("cuWeak", None, None, True),
        Imported("_ZN5torchE", None, None, False),
    )
    sonames = ["libcudart.so.13", "libcusparseLt.so.0", "libnccl.so.2"]
    wanted = build._wanted([Imports(tuple(sonames), symbols)], sonames, {"cusparseLtBundled"})
    assert {name: dict(versions) for name, versions in wanted.items()} == {
        "libcudart.so.13": {"libcudart.so.13": {"cudaMalloc"}},
        "libcusparseLt.so.0": {None: {"cusparseLtInit"}},
        "libcuda.so.1": {None: {"cuMemMap"}},
        "libnccl.so.2": {None: {"ncclSend"}},
    }


def test_a_program_without_torch_runs_as_ever(torch_build: TorchBuild) -> None:
    stubs = build.built_stubs(torch_build)
    preload = ":".join(map(str, stubs.libraries))
    done = subprocess.run(
        [sys.executable, "-c", "import zlib, ssl; print(zlib.crc32(b'x'))"],
        env={**os.environ, "LD_PRELOAD": preload},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2363233923\n", "")
