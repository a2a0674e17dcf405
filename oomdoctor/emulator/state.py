"""The settings of the emulated devices, and the file through which processes share them.

The layout is that of ``struct shared_state`` in device/device.h.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oomdoctor.units import GIB, MIB

MAX_DEVICES = 16
MAX_PROCESSES = 256
ADDRESS_ORDERS = ("rising", "falling", "random")

_HEADER = struct.Struct("<8sIIQQQIIII56x")
_DEVICE = struct.Struct("<QQQIIII")
_PROCESS_BYTES = 8 + 8 * MAX_DEVICES
# struct device_state is padded to a multiple of 8.
_DEVICE_BYTES = (_DEVICE.size + 7) // 8 * 8


@dataclass(frozen=True)
class EmulatedDevices:
    """What the devices are like. Sizes in bytes.

    Attributes:
        memory_bytes: total memory, one entry a device.
        context_bytes: what the context of each process takes on each device that it uses.
        other_bytes: what another, invented process takes on each device.
        other_pid: the pid under which NVML shows it.
        event_latency: how many later operations on the process's devices an event waits for before it is
        done; 0: done
            at once. Frees of memory that another stream uses wait for such events.
        address_order: in which order memory and reservations get addresses: rising, falling or random.
        fresh_addresses: rising or falling addresses go on and on; what was freed is not handed out again.
        seed: for random addresses.
        compute_capability, multiprocessors: PyTorch sizes some of its buffers by them.
        copy_bound_bytes: copies to the device up to this size are really made.
    """

    memory_bytes: tuple[int, ...]
    context_bytes: int = 500 * MIB
    other_bytes: int = 0
    other_pid: int = 4242
    event_latency: int = 0
    address_order: str = "rising"
    fresh_addresses: bool = False
    seed: int = 0
    compute_capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 132
    copy_bound_bytes: int = 16 * MIB

    def pack(self) -> bytes:
        """The initial content of the state file."""
        header = _HEADER.pack(
            b"oomdev1\0",
            len(self.memory_bytes),
            ADDRESS_ORDERS.index(self.address_order),
            self.seed,
            self.event_latency,
            self.copy_bound_bytes,
            0,
            0,
            self.fresh_addresses,
            0,
        )
        devices = b"".join(
            _DEVICE.pack(
                total,
                self.context_bytes,
                self.other_bytes,
                self.other_pid if self.other_bytes else 0,
                *self.compute_capability,
                self.multiprocessors,
            ).ljust(_DEVICE_BYTES, b"\0")
            for total in self.memory_bytes
        )
        return (
            header + devices.ljust(_DEVICE_BYTES * MAX_DEVICES, b"\0") + bytes(_PROCESS_BYTES * MAX_PROCESSES)
        )

    def write(self, path: Path) -> None:
        """Make the state file at ``path``."""
        path.write_bytes(self.pack())

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values, for the run folder's manifest."""
        return asdict(self)


DEFAULT_MEMORY = 24 * GIB
