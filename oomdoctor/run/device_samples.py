"""The NVML samples of one device, told by its uuid: NVML and CUDA may number devices differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from oomdoctor.run.documents import Json, integer, number, text
from oomdoctor.run.folder import Process, RunFolder


def samples_of(run: RunFolder, process: Process, entry: Json) -> Iterator[tuple[float, Json]]:
    """When each sample was taken, seconds since the epoch, and the sample; of launchers on the same host.

    Args:
        entry: what a sidecar says of the device; without a uuid its NVML index counts.
    """
    uuid, index = text(entry, "uuid"), integer(entry, "nvml_index")
    if uuid is None and index is None:
        return
    for launcher in run.launchers:
        if text(launcher.document, "host") not in (None, process.host):
            continue
        for sample in launcher.nvml:
            named = text(sample, "uuid")
            same = _bare(named) == _bare(uuid) if named and uuid else integer(sample, "device") == index
            taken = number(sample, "t")
            if same and taken is not None:
                yield taken, sample


def _bare(uuid: Optional[str]) -> Optional[str]:
    """torch leaves out the "GPU-" that NVML writes."""
    return uuid.replace("GPU-", "").lower() if uuid else uuid
