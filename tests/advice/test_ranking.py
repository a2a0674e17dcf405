"""Which of several settings stands for those that do the same, and how their difference is told."""

from __future__ import annotations

from dataclasses import replace

from oomdoctor.advice.candidates import mildness, single_settings
from oomdoctor.advice.max_split import answer
from oomdoctor.advice.ranking import Tried, is_better, ranked
from oomdoctor.advice.reasons import fewer_retries, how_worse, nothing_better
from oomdoctor.advice.search import _finalists
from oomdoctor.allocator.loading import load_device
from oomdoctor.allocator.replay import FirstOom, Outcome
from oomdoctor.allocator.settings import Settings
from oomdoctor.run.sources import SnapshotSource
from oomdoctor.snapshot import snapshot_from_plain
from oomdoctor.units import GIB, MIB

from ..allocator.recorded_by_heap import recorded

PEAKS = Outcome(
    peak_allocated_bytes=GIB,
    peak_active_bytes=GIB,
    peak_requested_bytes=GIB,
    peak_reserved_bytes=2 * GIB,
    peak_inactive_split_bytes=0,
    final_allocated_bytes=GIB,
    final_reserved_bytes=2 * GIB,
    num_alloc_retries=0,
    num_ooms=0,
    segments_allocated=10,
    segments_freed=0,
    num_device_alloc=10,
    num_device_free=0,
    first_oom=None,
)


def tried(text: str, **figures: int) -> Tried:
    return Tried(text, (replace(PEAKS, **figures),), (4 * GIB,))


def texts(several: list[Tried]) -> list[str]:
    return [one.alloc_conf for one in several]


def test_of_settings_that_do_the_same_the_simplest_and_mildest_stays() -> None:
    same = [tried(f"max_split_size_mb:{size}") for size in (32, 512, 64)]
    assert texts(ranked([*same, tried("max_split_size_mb:1024,expandable_segments:True")])) == [
        "max_split_size_mb:512"
    ]
    assert texts(ranked([tried("roundup_power2_divisions:2"), tried("roundup_power2_divisions:16")])) == [
        "roundup_power2_divisions:16"
    ]
    assert mildness("expandable_segments:True") == ()


def test_the_current_settings_stay_where_others_do_the_same() -> None:
    several = [tried(""), tried("expandable_segments:False")]
    assert texts(ranked(several)) == [""]
    assert texts(ranked(several, ["expandable_segments:False"])) == ["expandable_segments:False"]


def test_less_needed_is_told_where_the_peak_is_no_lower() -> None:
    current = replace(tried(""), needs=(2 * GIB,))
    better = replace(tried("max_split_size_mb:32", peak_reserved_bytes=3 * GIB), needs=(GIB,))
    said = answer([current, better], current, [])
    assert said.helps
    assert said.why == (
        "the run survives with 1.00 GiB less; with this much memory its peak reserved is 1.00 GiB higher."
    )
    for size in (2 * GIB - MIB, 2 * GIB, 2 * GIB + MIB):
        even = replace(tried("max_split_size_mb:32", peak_reserved_bytes=size), needs=(GIB,))
        assert answer([current, even], current, []).why == "the run survives with 1.00 GiB less."
    lower = replace(tried("max_split_size_mb:32", peak_reserved_bytes=GIB), needs=(GIB,))
    assert answer([current, lower], current, []).why == "the peak reserved is 1.00 GiB lower."


def test_fewer_retries_are_told_where_it_is_these_that_help() -> None:
    """Not the little room that comes with them."""
    current = replace(tried("", num_alloc_retries=3), needs=(2 * GIB,))
    better = replace(tried("max_split_size_mb:32", num_alloc_retries=2), needs=(2 * GIB - MIB,))
    assert answer([current, better], current, []).why == "1 retry fewer."
    assert fewer_retries(replace(better, outcomes=(PEAKS,)), current) == "3 retries fewer"


def test_where_nothing_is_worth_a_change_it_is_said_how_near_it_comes() -> None:
    """Less than a fiftieth: 81.92 MiB of the 4 GiB there are."""
    current = replace(tried(""), needs=(2 * GIB,))
    near = replace(tried("expandable_segments:True"), needs=(2 * GIB - 80 * MIB,))
    assert not is_better(near, current)
    assert nothing_better(current, [near], "setting") == (
        "no setting leaves 81.92 MiB more room, a fiftieth of what there is, than the current settings, or"
        " retries less; the most is 80.00 MiB, with expandable_segments:True"
    )
    assert nothing_better(current, [], "value") == (
        "no value leaves more room, or retries less, than the current settings"
    )
    unknown = [replace(one, capacities=(None,)) for one in (current, near)]
    assert "40.96 MiB more room, a fiftieth of what is reserved" in nothing_better(
        unknown[0], unknown[1:], "setting"
    )
    fewer = replace(tried("max_split_size_mb:32"), needs=(3 * GIB,))
    retrying = replace(current, outcomes=(replace(PEAKS, num_alloc_retries=1),))
    assert "those that retry less need more memory" in nothing_better(retrying, [fewer], "setting")


def test_what_makes_it_worse_is_what_the_table_shows() -> None:
    """Of some the least memory is known, of others only what they reserve: both count by what they reserve."""
    current = replace(tried(""), needs=(GIB,))
    known = replace(tried("max_split_size_mb:64", peak_reserved_bytes=3 * GIB), needs=(GIB,))
    other = tried("max_split_size_mb:32", peak_reserved_bytes=3 * GIB)
    same = tried("max_split_size_mb:128")
    assert how_worse([known, other, same], current) == (
        " 2 of 3 values make it worse: the peak reserved is up to 1.00 GiB higher."
    )
    assert how_worse([same], current) == ""
    failed = FirstOom(alloc_index=10, event=30, requested_bytes=MIB)
    dead = replace(same, outcomes=(replace(PEAKS, first_oom=failed),))
    assert how_worse([dead], current) == " 1 of 1 value makes it worse: memory runs out."
    needing = replace(tried("max_split_size_mb:40", num_alloc_retries=1), needs=(2 * GIB,))
    assert how_worse([needing, same], current) == (
        " 1 of 2 values makes it worse: up to 1.00 GiB more is needed; up to 1 more retry."
    )


def test_fewer_retries_are_no_reason_to_need_more() -> None:
    current = replace(tried("", num_alloc_retries=2), needs=(2000 * MIB,))
    once = replace(tried("max_split_size_mb:32", num_alloc_retries=1), needs=(2040 * MIB,))
    assert not is_better(once, current)
    # Both are known to a 128th of what lies between use and reservation, 1 GiB here.
    assert is_better(replace(once, needs=(2008 * MIB,)), current)
    assert not is_better(replace(once, needs=(2009 * MIB,)), current)
    assert is_better(replace(once, needs=()), replace(current, needs=()))


def test_values_that_die_a_little_later_are_not_counted_beside_one_that_survives() -> None:
    failed = FirstOom(alloc_index=10, event=30, requested_bytes=MIB)
    current = replace(tried(""), outcomes=(replace(PEAKS, first_oom=failed),))
    later = replace(
        tried("max_split_size_mb:128"), outcomes=(replace(PEAKS, first_oom=replace(failed, event=40)),)
    )
    both = [tried("max_split_size_mb:32"), tried("max_split_size_mb:64", num_device_alloc=12)]
    said = answer([current, *both, later], current, [])
    assert said.why.endswith("2 of the 3 values that differ here help: 32, 64.")
    assert answer([current, later], current, []).helps


def test_the_best_of_each_kind_gets_a_closer_look() -> None:
    garbage = [f"garbage_collection_threshold:0.{n},per_process_memory_fraction:0.9" for n in range(1, 7)]
    split = [f"max_split_size_mb:{size}" for size in (32, 64)]
    expandable = [f"expandable_segments:True,{one}" for one in split]
    several = [tried(text) for text in [*garbage, *split, *expandable]]
    assert texts(_finalists(several)) == [
        *garbage[:4], expandable[0], split[0], *garbage[4:], split[1], expandable[1]
    ]  # fmt: skip


def test_garbage_is_collected_under_a_fraction_of_what_pytorch_has() -> None:
    plain = recorded([("alloc", 30 * MIB, 0)], Settings())
    history = load_device(snapshot_from_plain(plain), SnapshotSource("nowhere"), 0).history

    def fractions(share: float | None) -> set[str]:
        found = single_settings([history], share=share)
        return {text.split("fraction:")[1] for text in found if text.startswith("garbage")}

    assert fractions(1.0) == {"0.95"}
    # On a device that others fill by half, a fraction of 0.95 would never be reached.
    assert fractions(0.5) == {"0.475"}
    assert fractions(0.0157) == {"0.0149"}
    assert fractions(None) == set()
