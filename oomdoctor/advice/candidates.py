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

from oomdoctor.advice.conflicts import conflicts
from oomdoctor.allocator.constants import LARGE_BUFFER, MIN_LARGE_ALLOC, ROUND_LARGE, SMALL_SIZE
from oomdoctor.allocator.history import History
from oomdoctor.allocator.rounding import rounded_sizes
from oomdoctor.allocator.settings import ROUNDUP_SLOTS
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.allocator.torch_version import TorchVersion
from oomdoctor.errors import SettingsError
from oomdoctor.snapshot.model import ALLOC, FREE_REQUESTED, OOM
from oomdoctor.units import MIB

# Sizes beyond these, by bytes asked for in them, can hardly matter and are not told apart.
_MOST_SIZES = 24
# For how many intervals tables are tried that round in it alone; how many wider roundings of oversize blocks.
_SLOTS, _ROUNDINGS = 2, 4
_THRESHOLDS = (0.6, 0.8, 0.9)
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


def _asked(history: History) -> NDArray[np.int64]:
    """What was asked for, bytes."""
    events = history.recording.events
    asked: NDArray[np.int64] = events.entry_size[(events.action == ALLOC) | (events.action == OOM)]
    return asked


def _block_and_segment_sizes(history: History) -> NDArray[np.int64]:
    """Sizes of large requests after rounding, and of the segments they would get, bytes."""
    sizes = rounded_sizes(_asked(history), history.settings.roundup_power2_divisions)
    large = sizes[sizes > SMALL_SIZE]
    whole = large[large >= MIN_LARGE_ALLOC]
    segments = -(-whole // ROUND_LARGE) * ROUND_LARGE
    return np.concatenate([large[large >= LARGE_BUFFER], segments[segments >= LARGE_BUFFER]])


def _heaviest(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    distinct, counts = np.unique(sizes, return_counts=True)
    order = np.argsort(-(distinct * counts), kind="stable")
    return distinct[order[:_MOST_SIZES]]


def single_settings(
    histories: Sequence[History], *, share: Optional[float], has_fraction: bool = False
) -> list[str]:
    """One setting at a time, those that every recording's release accepts and no recording speaks against.

    Args:
        share: of the device's memory that PyTorch has; None: the device's memory, which fractions are of, is
            not known.
        has_fraction: whether the program set a memory fraction of its own, which holds under every setting.
    """
    texts = [f"max_split_size_mb:{value}" for value in max_split_values(histories)]
    texts += [f"roundup_power2_divisions:{divisions}" for divisions in (2, 4, 8, 16)]
    texts += [f"roundup_power2_divisions:{table}" for table in roundup_tables(histories)]
    texts.append(EXPANDABLE)
    texts += [f"large_segment_size_mb:{size}" for size in large_segment_values(histories)]
    if has_fraction:
        texts += [f"garbage_collection_threshold:{threshold}" for threshold in _THRESHOLDS]
    elif share is not None:
        # Garbage is collected under a fraction only, and one beyond what PyTorch can have is never reached.
        fraction = f"per_process_memory_fraction:{_rounded_down(0.95 * min(share, 1.0)):g}"
        texts.append(fraction)
        texts += [f"garbage_collection_threshold:{threshold},{fraction}" for threshold in _THRESHOLDS]
    return accepted(texts, histories)


def roundup_tables(histories: Sequence[History]) -> list[str]:
    """Values of roundup_power2_divisions that treat sizes differently by their power of two.

    PyTorch's documented examples, and tables that round in one interval alone: those two in which the most
    bytes were asked for in more than one size. The first entry of a table holds for what is below it
    (``parseRoundUpPower2Divisions``); what is not listed is not rounded.
    """
    tables = ["[256:1,512:2,1024:4,>:8]", "[1:8,16:4,64:2,>:1]"]
    sizes = np.concatenate([_asked(history) for history in histories])
    large = sizes[sizes >= MIB]
    slots = np.minimum(np.log2(np.maximum(large, 1)).astype(np.int64) - 20, ROUNDUP_SLOTS - 1)
    held = {
        int(slot): int(large[slots == slot].sum())
        for slot in np.unique(slots)
        if len(np.unique(large[slots == slot])) > 1
    }
    for slot in sorted(held, key=lambda one: -held[one])[:_SLOTS]:
        below = f"{1 << (slot - 1)}:1," if slot else ""
        tables += [f"[{below}{1 << slot}:{divisions}]" for divisions in (2, 4, 8)]
    return tables


def large_segment_values(histories: Sequence[History]) -> list[int]:
    """Values of large_segment_size_mb, MiB: powers of two up to what its requests hold at their peak.

    It is the segment for requests of more than 1 and less than 10 MiB (``get_allocation_size``).
    """
    most = max((_peak_of_medium(history) for history in histories), default=0)
    return [size for size in (32, 64, 128, 256) if (size // 2) * MIB < most]


def _peak_of_medium(history: History) -> int:
    """Bytes that live requests between the small pool and segments of their own hold at most."""
    recording, events = history.recording, history.recording.events
    change = np.zeros(len(recording), np.int64)
    medium = (events.entry_size > SMALL_SIZE) & (events.entry_size < MIN_LARGE_ALLOC)
    medium &= events.action == ALLOC
    change[medium] = events.entry_size[medium]
    frees = np.flatnonzero(events.action == FREE_REQUESTED)
    born = recording.birth[frees]
    known = (born >= 0) & (born < len(recording))
    frees, born = frees[known], born[known]
    change[frees[medium[born]]] = -events.entry_size[born[medium[born]]]
    return int(np.cumsum(change).max(initial=0))


def non_split_roundings(histories: Sequence[History], max_split_mb: int) -> list[int]:
    """Values of max_non_split_rounding_mb that matter beside a max_split_size_mb, a few of them, MiB.

    An oversize block serves an oversize request if it is less than this larger (``get_free_block``), so the
    differences between sizes from ``max_split_mb`` on are the thresholds.
    """
    sizes = _heaviest(np.concatenate([_block_and_segment_sizes(history) for history in histories]))
    sizes = np.sort(sizes[sizes >= max_split_mb * MIB])
    differences = (sizes[None, :] - sizes[:, None]).ravel()
    edges = np.unique(differences[differences >= LARGE_BUFFER] // MIB + 1)
    picked = edges[np.unique(np.linspace(0, len(edges) - 1, _ROUNDINGS).astype(int))] if len(edges) else edges
    return [int(value) for value in picked]


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
        if kinds(first) == {"max_split_size_mb"}:
            least = int(first.partition(":")[2])
            texts += [
                f"{first},max_non_split_rounding_mb:{size}" for size in non_split_roundings(histories, least)
            ]
    return accepted(texts, histories)


def accepted(texts: Iterable[str], histories: Sequence[History]) -> list[str]:
    """The texts that the releases of all recordings take, and that none of them speaks against."""
    releases = {history.torch for history in histories}
    against = {conflict.key for conflict in conflicts(histories)}
    return [
        text
        for text in texts
        if against.isdisjoint(kinds(text)) and all(_is_accepted(text, release) for release in releases)
    ]


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
