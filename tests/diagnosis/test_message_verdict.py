"""Verdicts follow from numbers, and the arithmetic is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomdoctor.diagnosis.message import diagnose
from oomdoctor.diagnosis.message_accounting import account
from oomdoctor.diagnosis.model import Diagnosis, Finding, OomFacts, OtherProcess
from oomdoctor.message import read_text
from oomdoctor.reporters.explain_text import render
from oomdoctor.reporters.ink import Ink

MIB, GIB = 1 << 20, 1 << 30
CLASSIC = (
    "CUDA out of memory. Tried to allocate 1.24 GiB (GPU 0; 15.78 GiB total capacity; 10.34 GiB already"
    " allocated; 456.50 MiB free; 14.21 GiB reserved in total by PyTorch)"
)


def finding(diagnosis: Diagnosis, name: str) -> Finding:
    return next(found for found in diagnosis.findings if found.id == name)


def facts(**fields: Any) -> OomFacts:
    base = {
        "family": "torch-2.2+",
        "device": 0,
        "requested_bytes": 2 * GIB,
        "total_bytes": 74 * GIB,
        "free_bytes": GIB,
        "allocated_bytes": 70 * GIB,
        "reserved_unallocated_bytes": GIB // 2,
        "process_in_use_bytes": 72 * GIB,
    }
    return OomFacts(**{**base, **fields})


def test_the_classic_message_is_fragmentation() -> None:
    diagnosis = diagnose(read_text(CLASSIC).ooms[0])
    assert diagnosis.verdict == "fragmentation"
    holes = finding(diagnosis, "reserved-unallocated")
    assert holes.bytes is not None
    assert holes.bytes / GIB == pytest.approx(3.87, abs=0.005)
    assert holes.basis == "derived"
    assert holes.evidence["formula"] == "reserved_bytes - allocated_bytes"
    assert holes.evidence["reserved_bytes"] - holes.evidence["allocated_bytes"] == holes.bytes
    unnamed = finding(diagnosis, "unnamed-memory")
    assert unnamed.bytes is not None
    assert unnamed.bytes / GIB == pytest.approx(1.12, abs=0.005)
    assert diagnosis.remedies[0].command == "PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:512"
    assert diagnosis.remedies[0].basis == "estimated"
    assert diagnosis.remedies[-1].command == "oomdoctor trace -- python infer.py"
    assert "recording proves" in diagnosis.remedies[-1].summary


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({}, "capacity"),
        ({"reserved_unallocated_bytes": 2 * GIB}, "fragmentation"),
        ({"reserved_unallocated_bytes": 3 * GIB // 2}, "fragmentation"),
        ({"requested_bytes": 81 * GIB}, "impossible-request"),
        ({"allowed_bytes": 72 * GIB}, "limit"),
        ({"allowed_bytes": 72 * GIB, "free_bytes": 30 * GIB}, "limit"),
        ({"allowed_bytes": 1 << 64}, "capacity"),
        ({"allowed_bytes": 80 * GIB}, "capacity"),
        ({"free_bytes": 30 * GIB}, "unknown"),
        ({"free_bytes": None}, "unknown"),
        ({"requested_bytes": None}, "unknown"),
        (
            {
                "allocated_bytes": 20 * GIB,
                "process_in_use_bytes": 21 * GIB,
                "other_processes": (OtherProcess(7, 57 * GIB),),
            },
            "other-process",
        ),
        ({"allocated_bytes": 20 * GIB, "process_in_use_bytes": 78 * GIB}, "non-pytorch"),
        ({"allocated_bytes": 20 * GIB, "process_in_use_bytes": None}, "non-pytorch"),
        ({"details": {"preemptively_rejected": True}}, "limit"),
        ({"free_bytes": 40 * GIB, "details": {"expandable_segment_reserve_bytes": GIB}}, "limit"),
    ],
)
def test_verdict(fields: dict[str, Any], verdict: str) -> None:
    assert diagnose(facts(**fields)).verdict == verdict


def test_borderline_says_so() -> None:
    close = diagnose(facts(reserved_unallocated_bytes=2 * GIB + MIB))
    assert close.verdict == "fragmentation"
    assert finding(close, "borderline").bytes == MIB
    clear = diagnose(facts(reserved_unallocated_bytes=4 * GIB))
    assert all(found.id != "borderline" for found in clear.findings)


def test_in_a_container_this_process_is_one_of_the_list() -> None:
    books = account(facts(process_in_use_bytes=None, other_processes=(OtherProcess(9, 71 * GIB),)))
    assert books.own_pid == 9
    assert books.others == ()
    assert books.own is not None
    assert books.own.basis == "estimated"
    assert books.own.bytes == GIB // 2


def test_a_small_process_of_the_list_is_another() -> None:
    books = account(facts(process_in_use_bytes=None, other_processes=(OtherProcess(9, GIB),)))
    assert books.own_pid is None
    assert books.others_bytes == GIB


def test_private_pools_are_not_counted_twice() -> None:
    # 2.4 and later print allocated with, and unallocated without them (#124673).
    books = account(facts(private_pool_bytes=5 * GIB))
    assert books.reserved is not None
    assert books.reserved.bytes == 70 * GIB + GIB // 2


@pytest.mark.parametrize(
    ("requested", "says"), [(2 * MIB, "at most 1 MiB"), (20 * MIB, "between 1 and 10 MiB")]
)
def test_small_requests_are_segments(requested: int, says: str) -> None:
    assert (
        says
        in finding(diagnose(facts(requested_bytes=requested, free_bytes=0)), "request-is-segment").summary
    )


def test_a_setting_without_effect_is_a_finding() -> None:
    details = {"settings": {"garbage_collection_threshold": "0.8"}}
    assert finding(diagnose(facts(details=details)), "setting-without-effect")
    limited = diagnose(facts(details=details, allowed_bytes=75 * GIB))
    assert all(found.id != "setting-without-effect" for found in limited.findings)


def test_conflicting_settings_are_a_finding() -> None:
    details = {"settings": {"expandable_segments": "True", "max_split_size_mb": "128"}}
    assert finding(diagnose(facts(details=details)), "settings-conflict")


sizes = st.none() | st.integers(0, 1 << 65)
any_facts = st.builds(
    OomFacts,
    family=st.sampled_from(
        ["torch-1.x", "torch-2.2+", "rocm", "xpu", "mps", "cuda-malloc-async", "vllm", "cupy", "jax", "?"]
    ),
    kind=st.sampled_from(["oom", "refusal", "disguised"]),
    device=st.none() | st.integers(0, 7),
    requested_bytes=sizes,
    total_bytes=sizes,
    free_bytes=sizes,
    allocated_bytes=sizes,
    reserved_bytes=sizes,
    reserved_unallocated_bytes=sizes,
    process_in_use_bytes=sizes,
    private_pool_bytes=sizes,
    allowed_bytes=sizes,
    other_processes=st.lists(st.builds(OtherProcess, pid=st.integers(1, 99), bytes=sizes), max_size=3).map(
        tuple
    ),
)


@settings(max_examples=300, deadline=None)
@given(any_facts)
def test_any_numbers_give_findings_with_basis(some: OomFacts) -> None:
    diagnosis = diagnose(some)
    assert diagnosis.findings
    for found in diagnosis.findings:
        assert found.summary
        assert found.basis in ("stated", "derived", "estimated")
        if found.basis == "derived" and found.bytes is not None:
            assert found.evidence, found
    assert all(remedy.summary for remedy in diagnosis.remedies)


@settings(max_examples=200, deadline=None)
@given(any_facts, st.integers(1, 1 << 40))
def test_more_holes_never_turn_fragmentation_into_capacity(some: OomFacts, more: int) -> None:
    one = replace(
        some,
        family="torch-2.2+",
        kind="oom",
        reserved_bytes=None,
        process_in_use_bytes=None,
        other_processes=(),
    )
    if one.reserved_unallocated_bytes is None or diagnose(one).verdict != "fragmentation":
        return
    other = replace(one, reserved_unallocated_bytes=one.reserved_unallocated_bytes + more)
    assert diagnose(other).verdict in ("fragmentation", "limit")


@pytest.mark.parametrize("allowed", [20, 24])
def test_a_printed_limit_is_not_called_unprinted(allowed: int) -> None:
    diagnosis = diagnose(
        facts(
            requested_bytes=GIB,
            total_bytes=24 * GIB,
            free_bytes=9 * GIB,
            allocated_bytes=10 * GIB,
            process_in_use_bytes=None,
            allowed_bytes=allowed * GIB,
        )
    )
    assert diagnosis.verdict == "unknown"
    why = diagnosis.findings[0].summary
    assert "not printed" not in why
    assert f"{allowed}.00 GiB" in why
    assert "10.50 GiB" in why


ASYNC = (
    "torch.OutOfMemoryError: Allocation on device 0 would exceed allowed memory. (out of memory)\n"
    "Currently allocated     : {allocated}\nRequested               : {requested}\n"
    "Device limit            : 23.99 GiB\nFree (according to CUDA): 12.00 MiB\n"
    "PyTorch limit (set by user-supplied memory fraction)\n                        : 17179869184.00 GiB"
)


def test_malloc_async_does_not_say_what_its_pool_keeps() -> None:
    (event,) = read_text(ASYNC.format(allocated="21.93 GiB", requested="768.00 MiB")).ooms
    diagnosis = diagnose(event)
    assert diagnosis.verdict == "unknown"
    unnamed = finding(diagnosis, "unnamed-memory")
    assert unnamed.basis == "derived"
    assert unnamed.bytes is not None
    assert unnamed.bytes / GIB == pytest.approx(2.05, abs=0.005)
    (row,) = [line for line in render([diagnosis], Ink()).splitlines() if "unaccounted" in line]
    assert "2.05 GiB" in row
    assert "derived" in row
    (full,) = read_text(ASYNC.format(allocated="23.90 GiB", requested="768.00 MiB")).ooms
    assert diagnose(full).verdict == "capacity"


def test_a_process_that_holds_most_of_the_device_is_named_beside_holes() -> None:
    crowded = diagnose(
        facts(
            requested_bytes=GIB,
            free_bytes=GIB // 2,
            allocated_bytes=10 * GIB,
            reserved_unallocated_bytes=2 * GIB,
            process_in_use_bytes=13 * GIB,
            other_processes=(OtherProcess(4711, 60 * GIB),),
        )
    )
    assert crowded.verdict == "fragmentation"
    remedy = next(found for found in crowded.remedies if found.id == "see-others")
    assert "4711" in (remedy.command or "")
    assert "60.00 GiB" in remedy.summary
