"""Every grammar there is. Where two sightings overlap, the grammar listed first holds."""

from __future__ import annotations

from oomdoctor.message import (
    cuda_libraries,
    engines,
    frameworks,
    torch_allocator,
    torch_other,
)
from oomdoctor.message.sighting import Grammar, Sighting

GRAMMARS: tuple[Grammar, ...] = (
    torch_other.MPS,
    engines.VLLM_FREE,
    engines.VLLM,
    engines.SERVERS,
    torch_allocator.GRAMMAR,
    torch_other.MALLOC_ASYNC,
    torch_other.THC,
    torch_other.RUNTIME,
    engines.TENSORRT,
    engines.GGML,
    frameworks.TENSORFLOW,
    frameworks.JAX,
    frameworks.ONNXRUNTIME,
    frameworks.PADDLE,
    frameworks.ARRAYS,
    frameworks.OTHER_DEVICES,
    frameworks.NATIVE_API,
    cuda_libraries.NCCL,
    cuda_libraries.LIBRARIES,
    cuda_libraries.TRITON,
    cuda_libraries.BITSANDBYTES,
    cuda_libraries.DRIVER,
)


def sightings(text: str) -> list[Sighting]:
    """All sightings in a cleaned text, in order, none overlapping another."""
    lowered = text.lower()
    found: list[tuple[int, int, int, Sighting]] = []
    for priority, grammar in enumerate(GRAMMARS):
        if any(needle in lowered for needle in grammar.needles):
            found.extend(
                (priority, sighting.start, order, sighting)
                for order, sighting in enumerate(grammar.read(text))
            )
    found.sort(key=lambda item: (item[1], item[0], item[2]))
    return _without_overlaps(found)


def _without_overlaps(found: list[tuple[int, int, int, Sighting]]) -> list[Sighting]:
    """Of each run of overlapping sightings those whose grammar, and pattern in it, comes first."""
    kept: list[Sighting] = []
    cluster: list[tuple[int, int, int, Sighting]] = []
    reach = -1
    for item in found:
        if cluster and item[1] >= reach:
            kept.extend(_best(cluster))
            cluster = []
        cluster.append(item)
        reach = max(reach, item[3].end) if len(cluster) > 1 else item[3].end
    kept.extend(_best(cluster))
    return kept


def _best(cluster: list[tuple[int, int, int, Sighting]]) -> list[Sighting]:
    chosen: list[Sighting] = []
    for _, _, _, sighting in sorted(cluster, key=lambda item: (item[0], item[2])):
        if all(sighting.end <= other.start or sighting.start >= other.end for other in chosen):
            chosen.append(sighting)
    return sorted(chosen, key=lambda sighting: sighting.start)
