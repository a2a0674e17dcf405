"""One rehearsal: the stand-ins built, the devices' state file made, and the environment that brings both
in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from oomdoctor.emulator.build import built_stubs
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.emulator.torch_build import TorchBuild, command_python, find_torch

PAYLOAD = Path(__file__).parent / "payload" / "small_tensors.py"


@dataclass(frozen=True)
class Rehearsal:
    """What a command needs in order to run on emulated devices.

    Attributes:
        torch: the torch that it will use.
        environment: variables to add to its environment.
        nvml: the emulated NVML, for whoever samples beside it.
    """

    torch: TorchBuild
    environment: dict[str, str]
    nvml: Path


@contextmanager
def rehearsal(
    command: Sequence[str],
    devices: EmulatedDevices,
    *,
    python: Optional[str] = None,
    environment: Optional[Mapping[str, str]] = None,
) -> Iterator[Rehearsal]:
    """Make ready for ``command``; what is made goes away on exit.

    Raises:
        EmulatorError: no torch that can be used, no compiler, or stand-ins that cannot be built.
    """
    base = os.environ if environment is None else environment
    torch = find_torch(python or command_python(command, base))
    stubs = built_stubs(torch)
    preload = ":".join(str(library) for library in stubs.libraries)
    if base.get("LD_PRELOAD"):
        preload = f"{preload}:{base['LD_PRELOAD']}"
    with tempfile.TemporaryDirectory(prefix="oomdoctor-devices-") as folder:
        state = Path(folder) / "state"
        devices.write(state)
        yield Rehearsal(
            torch,
            {
                "LD_PRELOAD": preload,
                "OOMDOCTOR_EMULATED_STATE": str(state),
                "OOMDOCTOR_PAYLOAD": str(PAYLOAD),
                # Compiled kernels cannot run, and inductor measures devices; the older and the newer name.
                "TORCHDYNAMO_DISABLE": "1",
                "TORCH_COMPILE_DISABLE": "1",
            },
            stubs.nvml,
        )
