"""How much a file may ask of this machine before it is refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of reading; the defaults are far above any genuine recording.

    Attributes:
        decompressed_bytes: what a compressed file may unfold to.
        expansion: how many times its own size it may unfold to, where that is more than 64 MiB
            (genuine recordings compress 10 to 50 times, a bomb 1000 times).
        streamed_bytes: from which size on a pickle is read by the compiled machine (a 16th where compressed);
            below, loading and compiling it takes longer than reading without.
    """

    decompressed_bytes: int = 16 << 30
    expansion: int = 250
    streamed_bytes: int = 16 << 20


DEFAULT_LIMITS = Limits()
