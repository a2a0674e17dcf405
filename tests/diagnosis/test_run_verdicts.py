"""Run folders by hand, one for each verdict; what is said of them and what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from oomdoctor.diagnosis.run import Case, diagnose_run, diagnose_snapshot
from oomdoctor.errors import EmptyInput
from tests.run.building import (
    GIB,
    add_dump,
    add_launcher,
    add_oom_line,
    add_process,
    make_run,
    sample,
)
from tests.snapshot.building import MIB, event, hole, live, ordinary, pending, segment, snapshot

Json = dict[str, Any]


def _oom(block: int, free: int, stream: int = 0) -> Json:
    return event("oom", block, addr=free, stream=stream, time_us=5)


def _full(in_use: int, free_in_holes: int = 0, *, need: int = GIB, free: int = 100 * MIB) -> Json:
    holes = [piece for _ in range(4) for piece in (hole(free_in_holes // 4), live(2 * MIB))]
    inside = holes if free_in_holes else []
    kept = in_use - (8 * MIB if inside else 0)
    return snapshot(
        segment(0x7F0000000000, live(kept), *inside), traces=[[event("alloc", 1), _oom(need, free)]]
    )


def _only(run: Path) -> Case:
    (case,) = diagnose_run(str(run)).ooms
    return case


def _ids(case: Case) -> list[str]:
    return [finding.id for finding in case.diagnosis.findings]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_fragmentation(run: Path) -> None:
    launcher = add_launcher(run, command=("python", "infer.py", "--name", "a b"))
    process = add_process(run, 7, rank=1, launcher=launcher)
    add_dump(process, _full(18 * GIB, 3 * GIB), free=100 * MIB, requested=GIB)
    case = _only(run)
    facts = case.diagnosis.facts
    assert case.diagnosis.verdict == "fragmentation"
    assert (facts.family, facts.rank, facts.device) == ("recording", 1, 0)
    assert facts.requested_bytes == GIB
    assert facts.reserved_bytes == 21 * GIB
    assert facts.allocated_bytes == 18 * GIB
    assert facts.reserved_unallocated_bytes == 3 * GIB
    assert facts.free_bytes == 100 * MIB
    assert facts.allowed_bytes is None
    assert case.report is not None
    assert case.report.largest_free == 3 * GIB // 4


def test_a_block_that_came_free_meanwhile_is_no_fragmentation(run: Path) -> None:
    add_dump(add_process(run, 7), _full(18 * GIB, 4 * GIB), free=100 * MIB, requested=GIB)
    case = _only(run)
    assert case.diagnosis.verdict == "unknown"
    assert case.diagnosis.findings[0].id == "fits-and-was-not-used"
    assert case.diagnosis.findings[0].evidence == {"blocks": 4}


def test_fragmentation_remedies_name_the_right_variable(run: Path) -> None:
    launcher = add_launcher(run, command=("python", "infer.py", "--name", "a b"))
    process = add_process(run, 7, launcher=launcher)
    add_dump(process, _full(18 * GIB, 3 * GIB), free=100 * MIB, requested=GIB)
    case = _only(run)
    assert case.diagnosis.verdict == "fragmentation"
    assert [remedy.command for remedy in case.diagnosis.remedies] == [
        "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
        "export PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:512",
    ]
    assert {remedy.basis for remedy in case.diagnosis.remedies} == {"estimated"}
    assert case.next == (
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True oomdoctor trace "
        f"-o {run}-2 -- python infer.py --name 'a b'"
    )


def test_remedies_keep_the_settings_that_were_there(run: Path) -> None:
    process = add_process(run, 7, torch_version="2.10.0")
    asked = {"PYTORCH_ALLOC_CONF": "garbage_collection_threshold:0.8,max_split_size_mb:64"}
    plain = _full(18 * GIB, 3 * GIB)
    plain["allocator_settings"]["max_split_size"] = 64 * MIB
    add_dump(process, plain, free=100 * MIB, requested=GIB, asked=asked)
    assert [remedy.command for remedy in _only(run).diagnosis.remedies] == [
        "export PYTORCH_ALLOC_CONF=garbage_collection_threshold:0.8,expandable_segments:True",
        "export PYTORCH_ALLOC_CONF=garbage_collection_threshold:0.8,max_split_size_mb:512",
    ]


def _in_segments(size: int, holes: int, count: int, **more: Any) -> Json:
    pieces = [segment((i + 1) << 36, live(size - holes), hole(holes)) for i in range(count)]
    return snapshot(*pieces, traces=[[event("alloc", 1), _oom(900 * MIB, 800 * MIB)]], **more)


def test_max_split_size_is_not_advised_where_it_cannot_help(run: Path) -> None:
    """Segments smaller than any value that torch takes are split whatever the value."""
    add_dump(add_process(run, 7), _in_segments(20 * MIB, 12 * MIB, 25), free=800 * MIB, requested=900 * MIB)
    case = _only(run)
    assert case.diagnosis.verdict == "fragmentation"
    assert [remedy.id for remedy in case.diagnosis.remedies] == ["expandable-segments"]
    (finding,) = [f for f in case.diagnosis.findings if f.id == "max-split-size-does-not-help"]
    assert "no segment with holes is larger than 20.00 MiB" in finding.summary
    assert finding.basis == "recorded"


@pytest.mark.parametrize(
    ("size", "holes", "count", "value"),
    [(300, 100, 2, 256), (200, 100, 2, 128), (48, 20, 10, 32), (30, 12, 25, None)],
)
def test_max_split_size_is_chosen_from_the_segments(
    run: Path, size: int, holes: int, count: int, value: int | None
) -> None:
    plain = _in_segments(size * MIB, holes * MIB, count)
    add_dump(add_process(run, 7), plain, free=800 * MIB, requested=900 * MIB)
    case = _only(run)
    said = [r.command for r in case.diagnosis.remedies if r.id == "max-split-size"]
    assert said == ([] if value is None else [f"export PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:{value}"])
    assert (value is None) == ("max-split-size-does-not-help" in _ids(case))


def test_with_expandable_segments_on_they_are_not_advised(run: Path) -> None:
    process = add_process(run, 7)
    plain = _full(18 * GIB, 3 * GIB)
    plain["allocator_settings"]["expandable_segments"] = True
    add_dump(process, plain, free=100 * MIB, requested=GIB)
    assert _only(run).diagnosis.remedies == ()


def test_capacity(run: Path) -> None:
    launcher = add_launcher(run)
    process = add_process(run, 7, launcher=launcher)
    add_dump(process, _full(22 * GIB), free=100 * MIB, requested=GIB)
    case = _only(run)
    assert case.diagnosis.verdict == "capacity"
    assert case.diagnosis.findings[0].evidence["missing_bytes"] == GIB - 100 * MIB
    assert [remedy.command for remedy in case.diagnosis.remedies] == [None]
    assert case.next == f"oomdoctor rehearse --gpus 1 --memory 48GiB -o {run}-2 -- python infer.py"


def test_the_next_run_folder_lies_beside_this_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = add_process(run, 7, launcher=add_launcher(run, cwd=str(run)))
    add_dump(process, _full(18 * GIB, 3 * GIB), free=100 * MIB, requested=GIB)
    monkeypatch.chdir(run)
    (case,) = diagnose_run(".").ooms
    assert case.next is not None
    assert case.next.endswith(f"oomdoctor trace -o ../{run.name}-2 -- python infer.py")


@pytest.mark.parametrize(
    ("command", "moves"),
    [
        (("python", "infer.py"), True),
        (("./run.sh",), True),
        (("python", "-m", "infer", "--config=conf/a"), True),
        (("python", "-m", "infer"), False),
        (("python", "/work/infer.py"), False),
    ],
)
def test_a_command_with_relative_paths_is_run_where_it_was(
    run: Path, command: tuple[str, ...], moves: bool
) -> None:
    process = add_process(run, 7, launcher=add_launcher(run, command=command, cwd="/some where"))
    add_dump(process, _full(18 * GIB, 3 * GIB), free=100 * MIB, requested=GIB)
    following = _only(run).next
    assert following is not None
    assert following.startswith("cd '/some where' && PYTORCH") == moves


def test_an_emulated_run_is_rehearsed_again(run: Path) -> None:
    emulated = {"memory_bytes": [24 * GIB, 24 * GIB], "context_bytes": 500 * MIB, "other_bytes": GIB}
    launcher = add_launcher(run, emulated=emulated)
    process = add_process(run, 7, launcher=launcher)
    add_dump(process, _full(18 * GIB, 3 * GIB), free=100 * MIB, requested=GIB)
    assert _only(run).next == (
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True oomdoctor rehearse --gpus 2 --memory 24GiB "
        f"--other-process 1GiB -o {run}-2 -- python infer.py"
    )


def test_another_process(run: Path) -> None:
    add_launcher(run, nvml=(sample(50.0, 24 * GIB, {}), sample(100.0, 24 * GIB, {7: 13 * GIB, 99: 10 * GIB})))
    process = add_process(run, 7)
    add_dump(process, _full(12 * GIB), free=100 * MIB, requested=GIB)
    case = _only(run)
    assert case.diagnosis.verdict == "other-process"
    assert case.diagnosis.facts.process_in_use_bytes == 13 * GIB
    assert [(o.pid, o.bytes) for o in case.diagnosis.facts.other_processes] == [(99, 10 * GIB)]
    assert "99" in (case.diagnosis.remedies[0].command or "")


def test_pids_of_another_namespace_are_not_others(run: Path) -> None:
    """In a container NVML counts pids of the host: one of "the others" is us."""
    add_launcher(run, nvml=(sample(100.0, 24 * GIB, {4711: 23 * GIB}),))
    process = add_process(run, 7)
    add_dump(process, _full(22 * GIB), free=100 * MIB, requested=GIB)
    case = _only(run)
    assert case.diagnosis.facts.other_processes == ()
    assert case.diagnosis.verdict == "capacity"


def test_memory_outside_pytorch(run: Path) -> None:
    add_launcher(run, nvml=(sample(100.0, 24 * GIB, {7: 23 * GIB}),))
    process = add_process(run, 7)
    add_dump(process, _full(12 * GIB), free=100 * MIB, requested=GIB)
    case = _only(run)
    assert case.diagnosis.verdict == "non-pytorch"
    (finding,) = [f for f in case.diagnosis.findings if f.id == "not-pytorch"]
    assert finding.bytes == 24 * GIB - 100 * MIB - 12 * GIB
    assert finding.basis == "derived"


def test_most_of_a_small_device_outside_pytorch_is_not_called_used(run: Path) -> None:
    """What the documentation calls a tenth of the device is more than 1 GiB only from 10 GiB on."""
    launcher = add_launcher(run, nvml=(sample(101.0, 600 * MIB, {7: 600 * MIB}),))
    process = add_process(run, 7, launcher=launcher)
    add_dump(process, _full(200 * MIB, need=20 * MIB, free=0), total=600 * MIB, free=0, requested=20 * MIB)
    assert _only(run).diagnosis.verdict == "non-pytorch"


def test_a_bare_context_on_a_small_device_is_not_blamed(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(process, _full(1500 * MIB, need=GIB // 2), total=2 * GIB, free=48 * MIB, requested=GIB // 2)
    assert _only(run).diagnosis.verdict == "capacity"


def test_another_process_is_named_with_its_pid(run: Path) -> None:
    launcher = add_launcher(run, nvml=(sample(101.0, 24 * GIB, {7: 22 * GIB, 4242: 300 * MIB}),))
    process = add_process(run, 7, launcher=launcher)
    add_dump(process, _full(22 * GIB), free=100 * MIB, requested=2 * GIB)
    (finding,) = [f for f in _only(run).diagnosis.findings if f.id == "not-pytorch"]
    assert "pid 4242 300.00 MiB" in finding.summary


def test_where_torchs_message_counts_differently(run: Path) -> None:
    plain = snapshot(
        segment(0, live(22 * GIB)),
        segment(1 << 40, live(2 * MIB), hole(30 * MIB), pool=(0, 1)),
        traces=[[event("alloc", 1), _oom(2 * GIB, 100 * MIB)]],
    )
    add_dump(add_process(run, 7), plain, free=100 * MIB, requested=2 * GIB)
    (finding,) = [f for f in _only(run).diagnosis.findings if f.id == "private-pools-in-torchs-message"]
    assert finding.bytes == 22 * GIB + 32 * MIB
    assert finding.basis == "derived"


def test_what_is_missing_says_what_it_leaves_out(run: Path) -> None:
    plain = snapshot(
        segment(0, live(22 * GIB)),
        segment(1 << 40, live(MIB), hole(15 * MIB), small=True),
        traces=[[event("alloc", 1), _oom(2 * GIB, 100 * MIB)]],
    )
    add_dump(add_process(run, 7), plain, free=100 * MIB, requested=2 * GIB)
    why = _only(run).diagnosis.findings[0]
    assert why.evidence["missing_bytes"] == 2 * GIB - 100 * MIB
    assert "leaving out the 15.00 MiB of holes in the small pool" in why.summary


def test_streams_are_numbered_alike_in_sentence_and_table(run: Path) -> None:
    first, second = 0x7F00000000000000, -0x0F00000000000000
    plain = snapshot(
        segment(0, live(20 * GIB)),
        segment(1 << 40, live(2 * MIB), hole(8 * MIB), stream=second),
        segment(2 << 40, live(2 * MIB), hole(8 * MIB), stream=first),
        traces=[[event("alloc", 1), _oom(2 * GIB, 100 * MIB, stream=second)]],
    )
    add_dump(add_process(run, 7), plain, free=100 * MIB, requested=2 * GIB)
    report = _only(run).report
    assert report is not None
    assert [report.stream_name(s) for s in (0, first, second)] == ["0", "1", "2"]
    (said,) = [f for f in _only(run).diagnosis.findings if f.id == "largest-free-block"]
    assert "stream 2)" in said.summary
    assert said.evidence["stream"] == second


def test_a_sample_from_before_the_process_grew_says_nothing_of_its_size(run: Path) -> None:
    add_launcher(run, nvml=(sample(60.0, 24 * GIB, {7: GIB}),))
    process = add_process(run, 7)
    add_dump(process, _full(22 * GIB), free=100 * MIB, requested=GIB)
    assert _only(run).diagnosis.facts.process_in_use_bytes is None


def test_a_limit(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(process, _full(12 * GIB, free=11 * GIB), free=11 * GIB, requested=GIB, limit=12 * GIB)
    case = _only(run)
    assert case.diagnosis.verdict == "limit"
    assert case.diagnosis.facts.allowed_bytes == 12 * GIB
    assert "set_per_process_memory_fraction" in (case.diagnosis.remedies[0].command or "")


def test_an_impossible_request(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(process, _full(GIB, need=30 * GIB, free=22 * GIB), free=22 * GIB, requested=30 * GIB)
    assert _only(run).diagnosis.verdict == "impossible-request"


def test_free_memory_in_private_pools(run: Path) -> None:
    plain = snapshot(
        segment(0, live(10 * GIB)),
        segment(1 << 40, live(2 * MIB), hole(4 * GIB), pool=(0, 1)),
        traces=[[event("alloc", 1), _oom(GIB, 100 * MIB)]],
    )
    process = add_process(run, 7)
    add_dump(process, plain, free=100 * MIB, requested=GIB)
    case = _only(run)
    assert case.diagnosis.verdict == "fragmentation"
    assert "private-pools" in _ids(case)
    assert "share-private-pools" in [remedy.id for remedy in case.diagnosis.remedies]
    assert case.diagnosis.facts.private_pool_bytes == 4 * GIB
    assert case.report is not None
    assert case.report.largest_free == 0


def test_holes_of_the_small_pool_do_not_help_a_large_request(run: Path) -> None:
    plain = snapshot(
        segment(0, live(20 * GIB)),
        *(segment((i + 1) << 40, live(512), hole(2 * MIB - 512), small=True) for i in range(600)),
        traces=[[event("alloc", 1), _oom(GIB, 100 * MIB)]],
    )
    add_dump(add_process(run, 7), plain, total=22 * GIB, free=100 * MIB, requested=GIB)
    assert _only(run).diagnosis.verdict == "capacity"


def test_free_memory_of_another_stream(run: Path) -> None:
    plain = snapshot(
        segment(0, live(10 * GIB)),
        segment(1 << 40, live(2 * MIB), hole(4 * GIB), stream=5),
        traces=[[event("alloc", 1), _oom(GIB, 100 * MIB)]],
    )
    add_dump(add_process(run, 7), plain, free=100 * MIB, requested=GIB)
    assert "fits-on-another-stream-or-pool" in _ids(_only(run))


def test_blocks_that_wait_for_a_stream(run: Path) -> None:
    plain = snapshot(segment(0, live(10 * GIB), pending(GIB)), traces=[[event("alloc", 1), _oom(GIB, 1)]])
    add_dump(add_process(run, 7), plain, free=1, requested=GIB)
    case = _only(run)
    assert "waiting-for-a-stream" in _ids(case)


def test_history_wrapped_and_missing(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(process, _full(22 * GIB), requested=GIB, free=MIB, history={"max_entries": 2, "wrapped": [True]})
    assert "history-wrapped" in _ids(_only(run))
    plain = {**_full(22 * GIB), "device_traces": []}
    add_dump(process, plain, requested=GIB, free=MIB)
    case = diagnose_run(str(run)).ooms[0]
    assert "no-history" in _ids(case)
    assert case.report is not None
    assert case.report.request is not None
    assert case.report.request.block_bytes is None, "without history only the segment asked for is known"


def test_figures_that_differ_from_torchs_are_told(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(process, _full(22 * GIB), requested=GIB, free=MIB, figures={"allocated_bytes": 22 * GIB - 512})
    assert "allocated-differs" in _ids(_only(run))


def test_many_ooms_and_the_ones_without_a_snapshot(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(process, _full(18 * GIB, 3 * GIB), free=100 * MIB, requested=GIB)
    line = {
        "t": 102.0, "count": 2, "device": 0, "requested_bytes": GIB, "limit_bytes": 24 * GIB,
        "free_bytes": MIB, "allocated_bytes": 20 * GIB, "reserved_bytes": 20 * GIB, "snapshot": None,
        "skipped": "the time for snapshots is used up",
    }  # fmt: skip
    add_oom_line(process, line)
    first, second = diagnose_run(str(run)).ooms
    assert (first.sequence, second.sequence, second.of_process) == (1, 2, 2)
    assert second.report is None
    assert second.diagnosis.verdict == "non-pytorch" or second.diagnosis.verdict == "capacity"
    assert "used up" in second.diagnosis.findings[1].summary


def test_a_snapshot_without_its_line_counts(run: Path) -> None:
    add_dump(add_process(run, 7), _full(22 * GIB), requested=GIB, free=MIB, line=False)
    assert _only(run).diagnosis.verdict == "capacity"


def test_a_snapshot_that_cannot_be_read_leaves_its_line(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(process, _full(22 * GIB), requested=GIB, free=MIB)
    (process / "0001-oom.pickle").write_bytes(b"\x80\x04}")
    found = diagnose_run(str(run))
    assert found.ooms[0].report is None
    assert "cannot be read" in found.ooms[0].diagnosis.findings[1].summary
    assert any("0001-oom.pickle" in problem for problem in found.problems)


@pytest.mark.parametrize("how", ["truncated", "missing", "null"])
def test_without_a_snapshot_torchs_counters_still_speak(run: Path, how: str) -> None:
    launcher = add_launcher(run, nvml=(sample(101.0, 24 * GIB, {7: 22 * GIB, 99: GIB}),))
    process = add_process(run, 7, launcher=launcher)
    add_dump(process, _full(18 * GIB, 3 * GIB), free=100 * MIB, requested=GIB)
    if how == "truncated":
        (process / "0001-oom.pickle").write_bytes(b"\x80\x04}")
    else:
        (process / "0001-oom.pickle").unlink()
    if how == "null":
        path = process / "0001-oom.json"
        document = {**json.loads(path.read_text()), "snapshot": None, "snapshot_error": "no memory for it"}
        path.write_text(json.dumps(document))
    case = _only(run)
    account = case.account
    assert account is not None
    assert (account.total, account.reserved, account.allocated) == (24 * GIB, 21 * GIB, 18 * GIB)
    assert (account.free, account.free_default) == (100 * MIB, 3 * GIB)
    assert account.not_pytorch == 3 * GIB - 100 * MIB
    assert case.diagnosis.verdict == "fragmentation"
    assert case.diagnosis.facts.other_processes != ()
    assert case.diagnosis.remedies[0].id == "expandable-segments"
    assert case.next is not None
    said = next(f.summary for f in case.diagnosis.findings if f.id == "no-snapshot")
    assert {"truncated": "cannot be read", "missing": "is missing", "null": "no memory for it"}[how] in said


def test_an_oom_known_by_its_line_alone(run: Path) -> None:
    add_launcher(run, nvml=(sample(100.0, 24 * GIB, {}),))
    line = {
        "t": 102.0, "count": 1, "device": 0, "requested_bytes": GIB, "limit_bytes": 24 * GIB,
        "free_bytes": MIB, "allocated_bytes": 20 * GIB, "reserved_bytes": 23 * GIB, "snapshot": None,
    }  # fmt: skip
    add_oom_line(add_process(run, 7), line)
    case = _only(run)
    assert case.diagnosis.verdict == "fragmentation"
    assert case.account is not None
    assert (case.account.total, case.account.free_default) == (24 * GIB, 3 * GIB)


def test_a_state_without_a_snapshot(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(process, ordinary(), reason="exit")
    (process / "0001-exit.pickle").write_bytes(b"")
    (state,) = diagnose_run(str(run)).states
    assert state.account is not None
    assert state.account.reserved == 22 * MIB
    assert state.diagnosis.facts.kind == "state"


def test_settings_of_the_native_allocator_are_not_advised_to_another(run: Path) -> None:
    process = add_process(run, 7)
    add_dump(
        process,
        _full(18 * GIB, 3 * GIB),
        free=100 * MIB,
        requested=GIB,
        settings={"backend": "cudaMallocAsync"},
    )
    assert [remedy.id for remedy in _only(run).diagnosis.remedies] == ["native-backend"]


def test_no_oom_shows_the_state_at_exit(run: Path) -> None:
    process = add_process(run, 7, rank=0)
    add_dump(process, ordinary(), reason="exit")
    found = diagnose_run(str(run))
    assert found.ooms == ()
    (state,) = found.states
    assert state.diagnosis.verdict == "unknown"
    assert state.diagnosis.facts.requested_bytes is None, "an old oom entry in the trace is no OOM of the run"


def test_two_ranks_each_have_their_own(run: Path) -> None:
    for rank in (0, 1):
        process = add_process(run, 70 + rank, rank=rank)
        plain = _full(22 * GIB)
        for one in plain["segments"]:
            one["device"] = rank
        plain["device_traces"] = [[]] * rank + plain["device_traces"]
        add_dump(process, plain, requested=GIB, free=MIB, device=rank)
    found = diagnose_run(str(run))
    assert [(c.diagnosis.facts.rank, c.diagnosis.facts.device) for c in found.ooms] == [(0, 0), (1, 1)]


def test_what_the_recorder_and_launcher_say(run: Path) -> None:
    add_launcher(run, notes=["the disk was full"], nvml=())
    process = add_process(run, 7)
    (process / "recorder.log").write_text("history could not be switched on\nTraceback\n")
    add_dump(process, ordinary(), reason="exit")
    said = "\n".join(diagnose_run(str(run)).problems)
    assert "the disk was full" in said
    assert "history could not be switched on" in said


def test_an_empty_run(tmp_path: Path) -> None:
    with pytest.raises(EmptyInput):
        diagnose_run(str(make_run(tmp_path)))


def test_a_killed_process_is_told(run: Path) -> None:
    launcher = add_launcher(run, returncode=-9, nvml=(sample(100.0, 24 * GIB, {7: 20 * GIB}),))
    add_process(run, 7, rank=3, launcher=launcher)
    (one,) = diagnose_run(str(run)).ended
    said = " ".join(finding.summary for finding in one.findings)
    assert (one.pid, one.rank, one.returncode, one.runs) == (7, 3, -9, False)
    for words in ("ank 3, pid 7, on node1, left no snapshot", "-9, by SIGKILL", "20.00 GiB of GPU 0"):
        assert words in said
    assert one.next is not None
    assert one.next.startswith("dmesg")


@pytest.mark.parametrize(
    ("code", "words"), [(137, "SIGKILL"), (-11, "SIGSEGV"), (3, "ended with 3; the process")]
)
def test_other_ends_of_the_command(run: Path, code: int, words: str) -> None:
    add_process(run, 7, launcher=add_launcher(run, returncode=code))
    (one,) = diagnose_run(str(run)).ended
    assert words in one.findings[0].summary


def test_a_process_that_still_runs_is_asked_for_a_snapshot(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = add_launcher(run, returncode=None, nvml=())
    add_process(run, os.getpid(), launcher=launcher)
    monkeypatch.setattr("socket.gethostname", lambda: "node1")
    (one,) = diagnose_run(str(run)).ended
    assert one.runs is True
    assert one.next == f"oomdoctor dump {run}"
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    (one,) = diagnose_run(str(run)).ended
    assert one.runs is None, "nobody here can tell"


def test_a_process_with_a_last_snapshot_is_not_called_killed(run: Path) -> None:
    add_dump(add_process(run, 7, launcher=add_launcher(run)), ordinary(), reason="exit")
    assert diagnose_run(str(run)).ended == ()


def test_why_no_process_was_recorded(run: Path) -> None:
    add_launcher(run, notes=["python -I ignores PYTHONPATH"], nvml=())
    with pytest.raises(EmptyInput) as found:
        diagnose_run(str(run))
    assert "python -I ignores PYTHONPATH" in str(found.value)


def test_a_launcher_that_was_killed_early_gives_no_reason(run: Path) -> None:
    add_process(run, 7, launcher=add_launcher(run))
    path = next(run.rglob("launcher.json"))
    document = json.loads(path.read_text())
    document["nvml"] = {"available": False, "why": "not asked yet", "samples": 0}
    path.write_text(json.dumps(document))
    assert not any("not asked yet" in problem for problem in diagnose_run(str(run)).problems)


def test_a_bare_snapshot_taken_at_and_after_the_oom(tmp_path: Path) -> None:
    path = tmp_path / "at.json"
    plain = _full(18 * GIB, 3 * GIB)
    path.write_text(json.dumps(plain))
    (case,) = diagnose_snapshot(str(path)).ooms
    assert case.diagnosis.verdict == "fragmentation"
    assert case.diagnosis.facts.total_bytes is None
    plain["device_traces"][0] += [event("free_requested", 2 * GIB), event("free_completed", 2 * GIB)]
    path.write_text(json.dumps(plain))
    (case,) = diagnose_snapshot(str(path)).ooms
    assert case.diagnosis.facts.allocated_bytes == 20 * GIB, "counted back"
    assert "state-is-later" in _ids(case)


def test_side_by_side_finds_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(3):
        add_dump(add_process(run, 70 + rank, rank=rank), _full(22 * GIB), requested=GIB, free=MIB)
    alone = diagnose_run(str(run))
    monkeypatch.setattr("oomdoctor.diagnosis.run._WORTH_A_POOL", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert diagnose_run(str(run)) == alone
