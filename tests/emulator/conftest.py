"""Running scripts on emulated devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pytest

from oomdoctor.emulator.rehearsal import rehearsal
from oomdoctor.emulator.state import EmulatedDevices
from oomdoctor.emulator.torch_build import TorchBuild, find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import GIB

# make test-versions names interpreters of environments with other torches here, separated by ':'.
PYTHONS = [p for p in os.environ.get("OOMDOCTOR_TEST_PYTHONS", sys.executable).split(":") if p]


@pytest.fixture(scope="session", params=PYTHONS, ids=lambda p: p.rsplit("/bin/")[0].rsplit("/")[-1])
def torch_build(request: pytest.FixtureRequest) -> TorchBuild:
    """The torch under test."""
    try:
        return find_torch(request.param)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")


TWO_DEVICES = EmulatedDevices((24 * GIB, 24 * GIB))


class RunOnDevices(Protocol):
    """Runs a script on emulated devices; what it passes to ``tell`` comes back."""

    def __call__(
        self,
        script: str,
        *,
        devices: EmulatedDevices = ...,
        environment: Mapping[str, str] = ...,
        payload: bool = ...,
    ) -> dict[str, Any]: ...


PRELUDE = """\
import json, sys, torch
told = {}
def tell(**values): told.update(values)
if PAYLOAD:
    import importlib.util as _u
    _s = _u.spec_from_file_location("small_tensors", PAYLOAD)
    _m = _u.module_from_spec(_s); _s.loader.exec_module(_m); _m.install(torch)
"""


@pytest.fixture(scope="session")
def on_devices(torch_build: TorchBuild) -> Iterator[RunOnDevices]:
    """Scripts run without the recorder: these tests are about the devices alone."""

    def run(
        script: str,
        *,
        devices: EmulatedDevices = TWO_DEVICES,
        environment: Mapping[str, str] = {},
        payload: bool = True,
    ) -> dict[str, Any]:
        command = [torch_build.python]
        with rehearsal(command, devices, python=torch_build.python) as ready:
            env = {**os.environ, **ready.environment, **environment}
            path = env.pop("OOMDOCTOR_PAYLOAD") if payload else ""
            text = f"PAYLOAD = {path!r}\n{PRELUDE}{textwrap.dedent(script)}\nprint('TOLD', json.dumps(told))"
            done = subprocess.run(
                [*command, "-c", text], capture_output=True, text=True, env=env, timeout=200
            )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
        told: dict[str, Any] = json.loads(lines[-1][5:])
        told["stderr"] = done.stderr
        return told

    return run
