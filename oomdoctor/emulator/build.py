"""Stand-ins for NVIDIA's libraries, made for one torch build and kept.

For each library of NVIDIA's that torch names (DT_NEEDED), a stub with the same soname is generated that
defines the symbols that torch imports from it, under the versions that it asks for, each returning 0. What
has to behave lies in one library of its own, ``device/*.c``, which comes first in LD_PRELOAD and so wins over
the stubs: glibc accepts a symbol without version from a library that has none (``check_match``,
elf/dl-lookup.c).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from oomdoctor.emulator.elf import Imports, read_defined, read_imports
from oomdoctor.emulator.torch_build import TorchBuild
from oomdoctor.errors import EmulatorError

SOURCES = Path(__file__).parent / "device"
DEVICE = "liboomdoctor_device.so"
# Found by dlopen rather than linked: the driver and NVML. What they define comes from the device library.
OPENED_BY_NAME = ("libcuda.so.1", "libnvidia-ml.so.1")

# Only NVIDIA's: a stub for anything else (libz!) would break the program.
_NVIDIA = re.compile(
    r"lib(cuda|cudart|cublas|cublasLt|cudnn\w*|cufft|cufftw|cufile|cufile_rdma|cupti|curand|cusolver|cusolverMg|"
    r"cusparse|cusparseLt|nccl|nvjitlink|nvJitLink|nvrtc|nvrtc-builtins|nvshmem_host|nvToolsExt|nvtx3interop|nvidia-ml)"
    r"\.so(\.\d+)*$"
)
# Whose a symbol without version is, told by its name. Longest first: cusparseLt before cu[A-Z].
_OWNERS = (
    (re.compile(r"p?nccl[A-Z]"), "libnccl"),
    (re.compile(r"cusparseLt[A-Z]"), "libcusparseLt"),
    (re.compile(r"cuFile[A-Z]"), "libcufile"),
    (re.compile(r"nvshmem"), "libnvshmem_host"),
    (re.compile(r"nvtx[A-Z]"), "libnvToolsExt"),
    (re.compile(r"cupti[A-Z]"), "libcupti"),
    (re.compile(r"nvml[A-Z]"), "libnvidia-ml"),
    (re.compile(r"cu[A-Z]"), "libcuda"),
)
# These say how much the caller must allocate; 0 with the answer left unwritten would make it allocate at
# random.
_ASKS_SIZE = re.compile(
    r"(?i)(buffersize|workspacesize|workspaceinbytes|bufferinfo|cufft(Xt)?MakePlan|cufftGetSize|Getrf|Potrf)"
)
_REFUSAL = {
    "libcublas": 15,
    "libcublasLt": 15,
    "libcusolver": 9,
    "libcusparse": 10,
    "libcufft": 16,
    "libcudnn": 3000,
}


@dataclass(frozen=True)
class Stubs:
    """Built stand-ins: a folder, and what LD_PRELOAD must name, in order."""

    folder: Path
    libraries: tuple[Path, ...]

    @property
    def nvml(self) -> Path:
        return self.folder / "libnvidia-ml.so.1"


def cache_root() -> Path:
    """Where built stand-ins are kept: ``$OOMDOCTOR_CACHE``, else ``$XDG_CACHE_HOME/oomdoctor``, else
    ``~/.cache``."""
    if os.environ.get("OOMDOCTOR_CACHE"):
        return Path(os.environ["OOMDOCTOR_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oomdoctor"


def find_compiler() -> str:
    """A C compiler: ``$CC``, cc, gcc or clang.

    Raises:
        EmulatorError: there is none.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and shutil.which(name.split()[0]):
            return name
    raise EmulatorError(
        "there is no C compiler",
        why="the emulated device is compiled once for each torch build",
        next_step="install one (apt-get install gcc, dnf install gcc), or name it in CC",
    )


def build_key(torch: TorchBuild) -> str:
    """Names what was built: changes with torch's own libraries and with the emulated device's sources."""
    digest = hashlib.sha256(f"{torch.version} {torch.cuda} {torch.folder}".encode())
    for library in torch.libraries():
        digest.update(f"{library.name} {library.stat().st_size}".encode())
    for source in (*sorted(SOURCES.iterdir()), Path(__file__)):
        digest.update(source.read_bytes())
    return f"torch-{torch.version}-{digest.hexdigest()[:16]}"


def built_stubs(torch: TorchBuild) -> Stubs:
    """The stand-ins for ``torch``, built if they are not there.

    Two processes may build at once: each builds aside, and the first to rename wins.

    Raises:
        EmulatorError: no compiler, a compiler error, a cache folder that cannot be written, or a symbol of
        NVIDIA's
            that nothing here provides.
    """
    final = cache_root() / "emulator" / build_key(torch)
    if not (final / "complete").exists():
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".building-", dir=final.parent))
        except OSError as error:
            raise EmulatorError(
                "cannot write to the cache folder",
                where=str(final.parent),
                why=error.strerror,
                next_step="set OOMDOCTOR_CACHE to a folder that can be written",
            ) from error
        try:
            _build(torch, aside)
            (aside / "complete").touch()
            try:
                os.rename(aside, final)
            except OSError:  # the other one was first
                if not (final / "complete").exists():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    order = (final / "preload").read_text().split()
    return Stubs(final, tuple(final / name for name in order))


def _build(torch: TorchBuild, folder: Path) -> None:
    compiler = find_compiler().split()
    imports = {library: read_imports(library) for library in torch.libraries()}
    sonames = sorted({name for found in imports.values() for name in found.needed if _NVIDIA.match(name)})
    bundled = {library.name for library in torch.libraries()}
    sonames = [name for name in sonames if name not in bundled]
    wanted = _wanted(imports.values(), sonames, _defined_by(torch.libraries()))
    major = next((int(n.rsplit(".", 1)[1]) for n in sonames if n.startswith("libcudart.so.")), torch.cuda[0])
    cudnn = next((int(n.rsplit(".", 1)[1]) for n in sonames if n.startswith("libcudnn.so.")), 9)
    defines = [
        f"-DCUDA_MAJOR={major}",
        f"-DCUDA_VERSION_NUMBER={torch.cuda[0] * 1000 + torch.cuda[1] * 10}",
        f"-DCUDNN_MAJOR={cudnn}",
    ]
    flags = ["-O1", "-fPIC", "-shared", "-Wl,-z,now"]
    sources = sorted(str(path) for path in SOURCES.glob("*.c"))
    _run(
        *compiler,
        *flags,
        "-fvisibility=hidden",
        *defines,
        *sources,
        *("-o", str(folder / DEVICE), f"-Wl,-soname,{DEVICE}", "-ldl", "-lpthread"),
    )
    real = read_defined(folder / DEVICE)
    names = [*sonames, *(name for name in OPENED_BY_NAME if name not in sonames)]

    def make(soname: str) -> None:
        stem = soname.split(".so")[0]
        by_version = {
            v: sorted(n for n in names_ if n not in real) for v, names_ in wanted.get(soname, {}).items()
        }
        source, script = folder / f"{soname}.c", folder / f"{soname}.map"
        source.write_text(_stub_source(stem, {n for names_ in by_version.values() for n in names_}))
        versioned = {v: names_ for v, names_ in by_version.items() if v is not None}
        script.write_text(
            "".join(
                f"{v} {{ global: oomdoctor_{i};{''.join(f' {n};' for n in names_)} }};\n"
                for i, (v, names_) in enumerate(sorted(versioned.items()))
            )
        )
        with source.open("a") as out:
            out.writelines(f"char oomdoctor_{i};\n" for i in range(len(versioned)))
        link = [f"-Wl,--version-script={script}"] if versioned else []
        _run(
            *compiler,
            *("-O1", "-fPIC", "-shared", "-w", str(source), "-o", str(folder / soname), *link),
            *(f"-Wl,-soname,{soname}", "-Wl,--no-as-needed", str(folder / DEVICE), "-Wl,-rpath,$ORIGIN"),
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, names))
    (folder / "preload").write_text("\n".join([DEVICE, *names]) + "\n")


def _stub_source(stem: str, names: Iterable[str]) -> str:
    lines = ["extern void oomdoctor_not_emulated(const char *name);\n"]
    refusal = next((code for prefix, code in sorted(_REFUSAL.items(), reverse=True) if stem == prefix), None)
    for name in sorted(names):
        if refusal is not None and _ASKS_SIZE.search(name):
            lines.append(f'long {name}(void) {{ oomdoctor_not_emulated("{name}"); return {refusal}; }}\n')
        else:
            lines.append(f"long {name}(void) {{ return 0; }}\n")
    return "".join(lines)


def _wanted(
    imports: Iterable[Imports], sonames: list[str], own: set[str]
) -> dict[str, dict[Optional[str], set[str]]]:
    """{soname: {version: names}} of what the stubs must define. Version None: symbols without one.

    ``own`` is what torch's own libraries define. Raises EmulatorError where nobody has a symbol.
    """
    wanted: dict[str, dict[Optional[str], set[str]]] = defaultdict(lambda: defaultdict(set))
    loose: dict[str, str] = {}
    for found in imports:
        for symbol in found.symbols:
            if symbol.soname in sonames:
                wanted[symbol.soname][symbol.version].add(symbol.name)
            elif symbol.soname is None and not symbol.weak:
                owner = next((stem for pattern, stem in _OWNERS if pattern.match(symbol.name)), None)
                if owner is not None:
                    loose[symbol.name] = owner
    stems = {name.split(".so")[0]: name for name in (*sonames, *OPENED_BY_NAME)}
    for name, owner in loose.items():
        if name in own:
            continue
        if owner not in stems:
            raise EmulatorError(
                f"torch imports {name}, and names no library that could have it",
                why=f"it looks like a symbol of {owner}",
                next_step="report this with the output of `pip show torch`",
            )
        wanted[stems[owner]][None].add(name)
    return wanted


def _defined_by(libraries: Iterable[Path]) -> set[str]:
    return {name for library in libraries for name in read_defined(library)}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [
            line for line in done.stderr.splitlines() if "error" in line.lower()
        ] or done.stderr.splitlines()
        raise EmulatorError(
            "the emulated device does not compile",
            where=command[0],
            why="; ".join(errors[:3]) or f"exit status {done.returncode}",
            next_step="try another compiler (CC=gcc), and report it with the compiler's version",
        )
