"""What changed between releases, as flags.

Read in the source where a pull request is named; the tie-breaks of 2.12 and later were found by running the
shipped allocators (``tests/allocator`` compares with each that is installed).
"""

from __future__ import annotations

from dataclasses import dataclass

from oomdoctor.allocator.torch_version import TorchVersion

# Between free blocks of one stream and size, which is taken first (BlockComparatorSize).
TIE_ADDRESS, TIE_BLOCK_COUNTER, TIE_SEGMENT_COUNTER = range(3)


@dataclass(frozen=True)
class Rules:
    """The rules of one release.

    Attributes:
        tie_break: the lowest address (to 2.11); the Block made first (2.12, pull 178362); the segment made
            first, then the address (2.13 on, pull 183591).
        unrounded_division_of_one: roundup_power2_divisions:1 leaves sizes as they are (before 2.4, pull
            126830).
        routing_keeps_cache: while any private pool takes requests, a retry releases nothing (to 2.12); later
            only during a capture (pull 181830).
    """

    tie_break: int
    unrounded_division_of_one: bool
    routing_keeps_cache: bool


def rules_of(torch: TorchVersion) -> Rules:
    """The rules of a release; those of the newest known for later ones."""
    if torch >= (2, 13):
        tie_break = TIE_SEGMENT_COUNTER
    elif torch >= (2, 12):
        tie_break = TIE_BLOCK_COUNTER
    else:
        tie_break = TIE_ADDRESS
    return Rules(
        tie_break=tie_break,
        unrounded_division_of_one=torch < (2, 4),
        routing_keeps_cache=torch < (2, 13),
    )
