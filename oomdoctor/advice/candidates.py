"""Settings worth trying, read off from the sizes that a recording holds.

Of ``max_split_size_mb`` only the comparisons with sizes that occur matter: all values between two
neighbouring sizes do the same, so one stands for them, a power of two where there is one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Optional

import numpy as np
from numpy.typing import NDArray

from oomdoctor.allocator.constants import LARGE_BUFFER, MIN_LARGE_ALLOC, ROUND_LARGE, SMALL_SIZE
from oomdoctor.allocator.history import History
from oomdoctor.allocator.rounding import rounded_sizes
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.errors import SettingsError
from oomdoctor.snapshot.model import ALLOC, OOM
from oomdoctor.units import MIB

# Sizes beyond these, by bytes asked for in them, can hardly matter and are not told apart.
_MOST_SIZES = 24
EXPANDABLE = "expandable_segments:True"
# What the settings tried here decide about; others (pinned memory, locks) stay as they were.
SHAPES_THE_HEAP = frozenset(
    {
        "backend",
        "expandable_segments",
        "garbage_collection_threshold",
        "large_segment_size_mb",
        "max_non_split_rounding_mb",
        "max_split_size_mb",
        "per_process_memory_fraction",
        "roundup_power2_divisions",
    }
)


def max_split_values(histories: Sequence[History]) -> list[int]:
    """Values of max_split_size_mb that differ in what they do to these recordings, ascending, MiB."""
    sizes = _heaviest(np.concatenate([_block_and_segment_sizes(history) for history in histories]))
    torch = min(history.torch for history in histories)
    # pull 172056 and the bound before it: at least, or more than, the large segment.
    least = LARGE_BUFFER // MIB + (0 if torch >= (2, 10) else 1)
    # From here on a value is above the size.
    edges = sorted({int(size) // MIB + 1 for size in sizes if int(size) // MIB + 1 > least})
    return sorted({_roundest(low, high) for low, high in zip([least, *edges], edges)})


def _roundest(low: int, high: int) -> int:
    """A power of two among ``low`` to ``high - 1``, or the first of them."""
    power = 1 << (low - 1).bit_length()
    return power if power < high else low


def _block_and_segment_sizes(history: History) -> NDArray[np.int64]:
    """Sizes of large requests after rounding, and of the segments they would get, bytes."""
    events = history.recording.events
    asked = events.entry_size[(events.action == ALLOC) | (events.action == OOM)]
    sizes = rounded_sizes(asked, history.settings.roundup_power2_divisions)
    large = sizes[sizes > SMALL_SIZE]
    whole = large[large >= MIN_LARGE_ALLOC]
    segments = -(-whole // ROUND_LARGE) * ROUND_LARGE
    return np.concatenate([large[large >= LARGE_BUFFER], segments[segments >= LARGE_BUFFER]])


def _heaviest(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    distinct, counts = np.unique(sizes, return_counts=True)
    order = np.argsort(-(distinct * counts), kind="stable")
    return distinct[order[:_MOST_SIZES]]


def single_settings(histories: Sequence[History], *, share: Optional[float]) -> list[str]:
    """One setting at a time, those that every recording's release accepts.

    Args:
        share: of the device's memory that PyTorch has; None: the device's memory, which fractions are of, is
            not known.
    """
    texts = [f"max_split_size_mb:{value}" for value in max_split_values(histories)]
    texts += [f"roundup_power2_divisions:{divisions}" for divisions in (2, 4, 8, 16)]
    texts += [
        "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]",
        "roundup_power2_divisions:[1:8,16:4,64:2,>:1]",
    ]
    texts.append(EXPANDABLE)
    texts += [f"large_segment_size_mb:{size}" for size in (32, 64, 128)]
    if share is not None:
        # Garbage is collected under a fraction only, and one beyond what PyTorch can have is never reached.
        fraction = _rounded_down(0.95 * min(share, 1.0))
        texts += [
            f"garbage_collection_threshold:{threshold},per_process_memory_fraction:{fraction:g}"
            for threshold in (0.6, 0.8, 0.9)
        ]
    return accepted(texts, histories)


def _rounded_down(fraction: float) -> float:
    """To three digits, that of a small share too."""
    unit = 10.0 ** (math.floor(math.log10(fraction)) - 2)
    # What binary fractions miss by is not to cost a digit.
    return math.floor(fraction / unit + 1e-6) * unit


def combined_settings(best: Sequence[str], histories: Sequence[History]) -> list[str]:
    """Pairs of settings of different kinds that did well alone, and wider rounding for oversize blocks."""
    # Expandable segments with blocks kept whole can survive where neither does alone.
    texts = [f"{EXPANDABLE},max_split_size_mb:{value}" for value in max_split_values(histories)]
    for i, first in enumerate(best):
        for second in best[i + 1 :]:
            if kinds(first).isdisjoint(kinds(second)):
                texts.append(f"{first},{second}")
        if first.startswith("max_split_size_mb:"):
            texts += [f"{first},max_non_split_rounding_mb:{size}" for size in (32, 64, 128)]
    return accepted(texts, histories)


def accepted(texts: Iterable[str], histories: Sequence[History]) -> list[str]:
    """The texts that the releases of all recordings take."""
    releases = {history.torch for history in histories}
    return [text for text in texts if all(_is_accepted(text, release) for release in releases)]


def _is_accepted(text: str, torch: TorchVersion) -> bool:
    try:
        parse_settings(text, torch)
    except SettingsError:
        return False
    return True


def kinds(text: str) -> set[str]:
    """The keys of a text: brackets hold numbers only."""
    return {part.split(":")[0] for part in text.split(",") if not part[:1].isdigit() and part[:1] != ">"}


def count_of_keys(text: str) -> int:
    """How many keys a text sets: what is simpler sets fewer."""
    return len(kinds(text)) if text else 0


def mildness(text: str) -> tuple[float, ...]:
    """Smaller where the values of a text change less, for texts of the same keys.

    What a recording leaves open can matter in the next run: the highest ``max_split_size_mb`` keeps the
    fewest blocks whole, the most divisions round the least.
    """
    values = re.findall(
        r"(?:max_split_size_mb|roundup_power2_divisions|garbage_collection_threshold):([\d.]+)", text
    )
    return tuple(-float(value) for value in values)
