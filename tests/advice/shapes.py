"""Programs in the shape of waste that was met in the field."""

from __future__ import annotations

from oomdoctor.units import MIB

from ..allocator.reference.program import Program, Writer

LAYERS = 36


def converted_layers() -> Program:
    """vllm-project/vllm pull 41268: weights that are converted layer by layer, then a KV cache.

    Of each layer a buffer of 530 MiB is loaded and a converted one of the same size takes its place. The
    layer's other weight, converted too, is 270 MiB: it moves into the hole and pins 260 MiB that nothing after
    it is small enough for.
    """
    writer = Writer()
    for _ in range(LAYERS):
        loaded = writer.alloc(530 * MIB)
        writer.alloc(530 * MIB)
        writer.free(loaded)
        writer.alloc(270 * MIB)
    for _ in range(LAYERS):
        writer.alloc(400 * MIB)
    return writer.program("converted layers")
