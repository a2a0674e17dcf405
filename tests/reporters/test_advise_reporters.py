"""advise's table with figures as wide as they come: a terminal of 80 columns shows them in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from oomdoctor.advice.advise import Advice, advise
from oomdoctor.advice.evaluate import Place
from oomdoctor.advice.ranking import Tried
from oomdoctor.advice.search import local_map
from oomdoctor.allocator.loading import load_device
from oomdoctor.allocator.replay import FirstOom
from oomdoctor.allocator.settings import Settings
from oomdoctor.reporters.advise_text import render
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.parts import narrow_count, narrow_size
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import snapshot_from_plain
from oomdoctor.units import GIB, MIB

from ..advice.test_advise import HELPS
from ..allocator.recorded_by_heap import recorded

WIDE = (1023 * MIB + 7, 1004 * MIB, 9999 * GIB, 100 * GIB)


@pytest.fixture(scope="module")
def advice() -> Advice:
    plain = recorded(HELPS, Settings())
    source = SnapshotSource("one.pickle", rank=127, pid=4194303)
    device = load_device(snapshot_from_plain(plain), source, 0)
    recordings = [(Place("one.pickle", 0), device)]
    with local_map(recordings, workers=1) as mapped:
        return advise(recordings, mapped)


def widened(advice: Advice, size: int, retries: int, died: int | None) -> Advice:
    """The same with these figures for all settings, and the best expandable segments, whose name is long."""
    oom = None if died is None else FirstOom(alloc_index=died, event=3 * died, requested_bytes=size)

    def wide(one: Tried) -> Tried:
        outcome = replace(one.outcomes[0], peak_reserved_bytes=size, num_alloc_retries=retries, first_oom=oom)
        return replace(one, outcomes=(outcome,), needs=(size,))

    tried = [wide(one) for one in advice.tried]
    best = next(one for one in tried if one.alloc_conf == "expandable_segments:True")
    return replace(advice, tried=tuple(tried), current=wide(advice.current), best=best)


def lines_of(advice: Advice) -> Sequence[str]:
    return render(advice, [], Ink(False), ("one.pickle",)).splitlines()


@pytest.mark.parametrize("size", WIDE)
@pytest.mark.parametrize("retries", [7, 9_999, 123_456, 12_345_678])
@pytest.mark.parametrize("died", [None, 47_451, 1_234_567, 123_456_789])
def test_no_line_is_wider_than_the_terminal(
    advice: Advice, size: int, retries: int, died: int | None
) -> None:
    lines = lines_of(widened(advice, size, retries, died))
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  expandable_segments:True ") and line.endswith("←") for line in lines)


def test_a_long_title_is_broken(advice: Advice) -> None:
    (device,) = advice.devices
    bounded = replace(device.torch, oldest=(2, 10), newest=(2, 11), basis="derived", text=None)
    lines = lines_of(replace(advice, devices=(replace(device, torch=bounded),)))
    assert max(map(len, lines)) <= 80
    assert lines[1] == "2.11, by its fields"


def test_what_is_narrow_still_says_what_it_is() -> None:
    assert [narrow_size(size) for size in WIDE] == ["1023.0 MiB", "1004.0 MiB", "9.76 TiB", "100.00 GiB"]
    assert [narrow_count(n) for n in (0, 9_999, 10_000, 9_999_999, 10_000_000)] == [
        "0", "9,999", "10k", "9999k", "10M"
    ]  # fmt: skip
