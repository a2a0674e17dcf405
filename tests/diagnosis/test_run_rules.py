"""One rule at a time: what serves, what pins, what lives, what the settings do."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from oomdoctor.diagnosis.consistency import disagreements
from oomdoctor.diagnosis.count_back import events_after_oom, sums_at_oom
from oomdoctor.diagnosis.frames import frame_text, telling_frames
from oomdoctor.diagnosis.live import live_by_place
from oomdoctor.diagnosis.pinning import pins
from oomdoctor.diagnosis.request import (
    Request,
    fitting_blocks,
    largest_free_block,
    last_request,
)
from oomdoctor.diagnosis.settings_lint import lint_settings
from oomdoctor.diagnosis.settings_text import parse_options, variable_for
from oomdoctor.diagnosis.state import DEFAULT_POOL, device_state
from oomdoctor.snapshot import Frame, Snapshot, snapshot_from_plain
from tests.snapshot.building import (
    CACHE,
    MIB,
    SETTINGS,
    TORCH,
    USER,
    event,
    hole,
    live,
    pending,
    segment,
    snapshot,
)

CACHED = [TORCH, CACHE, USER]


def _of(*segments: Any, **more: Any) -> Snapshot:
    return snapshot_from_plain(snapshot(*segments, **more))


def _request(block: int, stream: Optional[int] = 0, pool: tuple[int, int] = DEFAULT_POOL) -> Request:
    return Request(-(-block // (2 * MIB)) * 2 * MIB, block, stream, pool, 0)


def test_state_by_pool_and_stream() -> None:
    found = device_state(
        _of(
            segment(0, live(4 * MIB, 3 * MIB), hole(8 * MIB), pending(2 * MIB), hole(6 * MIB)),
            segment(64 * MIB, hole(20 * MIB)),
            segment(128 * MIB, live(MIB), hole(MIB), small=True),
            segment(256 * MIB, live(2 * MIB), hole(18 * MIB), stream=7),
            segment(512 * MIB, live(2 * MIB), hole(2 * MIB), pool=(0, 1)),
            segment(0, live(512), device=1),
        ),
        0,
    )
    by_key = {(c.pool, c.is_small, c.stream): c for c in found.compartments}
    assert len(by_key) == 4
    main = by_key[(0, 0), False, 0]
    assert (main.reserved, main.allocated, main.pending, main.free) == (
        40 * MIB, 4 * MIB, 2 * MIB, 34 * MIB,
    )  # fmt: skip
    assert (main.free_whole, main.in_holes, main.holes) == (20 * MIB, 14 * MIB, 2)
    assert main.largest_free == 20 * MIB
    assert main.rounding == MIB
    assert by_key[(0, 1), False, 0].is_private
    assert found.reserved == found.allocated + found.pending + found.free


def test_the_largest_free_block_that_could_serve() -> None:
    """``get_pool`` and ``get_free_block``: same size class, same stream, same private pool."""
    state = device_state(
        _of(
            segment(0, live(2 * MIB), hole(30 * MIB)),
            segment(64 * MIB, live(2 * MIB), hole(50 * MIB), stream=7),
            segment(128 * MIB, live(2 * MIB), hole(70 * MIB), pool=(0, 1)),
            segment(256 * MIB, live(MIB), hole(MIB), small=True),
        ),
        0,
    )
    assert largest_free_block(state, _request(100 * MIB)) == 30 * MIB
    assert largest_free_block(state, _request(100 * MIB, stream=7)) == 50 * MIB
    assert largest_free_block(state, _request(100 * MIB, stream=None)) == 50 * MIB
    assert largest_free_block(state, _request(100 * MIB, pool=(0, 1))) == 70 * MIB
    assert largest_free_block(state, _request(MIB)) == MIB, "up to 1 MiB the small pool serves"
    assert largest_free_block(state, _request(100 * MIB, stream=9)) == 0


@pytest.mark.parametrize(
    ("need", "max_split", "fits"),
    [
        (30 * MIB, -1, 1),
        (30 * MIB + 512, -1, 0),
        (25 * MIB, 40 * MIB, 1),
        (25 * MIB, 28 * MIB, 0),  # below max_split_size, no block of that size or above
        (25 * MIB, 21 * MIB, 1),  # an oversize request takes a block less than 20 MiB larger
        (10 * MIB, 8 * MIB, 0),  # ... and none that is 20 MiB larger
        (10 * MIB + 512, 8 * MIB, 1),
    ],
)
def test_what_fits_under_max_split_size(need: int, max_split: int, fits: int) -> None:
    state = device_state(_of(segment(0, live(2 * MIB), hole(30 * MIB))), 0)
    assert fitting_blocks(state, _request(need), max_split) == fits


def test_the_request_from_trace_and_observer() -> None:
    trace = [
        event("oom", 5 * MIB, addr=10, stream=3),
        event("oom", 6 * MIB, addr=11, stream=4, pool_id=(0, 2)),
    ]
    found = last_request(_of(traces=[trace]), 0, {"device": 0, "requested_bytes": 20 * MIB, "free_bytes": 12})
    assert found == Request(20 * MIB, 6 * MIB, 4, (0, 2), 12)
    assert last_request(_of(traces=[trace]), 0, {}) == Request(20 * MIB, 6 * MIB, 4, (0, 2), 11)
    assert last_request(_of(), 0, {"device": 0, "requested_bytes": 9}) == Request(9, None, None, (0, 0), None)
    assert last_request(_of(), 1, {"device": 0, "requested_bytes": 9}) is None


def test_pins_by_place() -> None:
    state = device_state(
        _of(
            segment(0, live(2 * MIB, stack=CACHED), hole(30 * MIB), live(4 * MIB), hole(MIB)),
            segment(64 * MIB, live(2 * MIB, stack=CACHED), hole(10 * MIB)),
            segment(128 * MIB, live(2 * MIB), live(2 * MIB)),  # no hole: pins nothing
            segment(256 * MIB, hole(99 * MIB)),  # whole: nothing pins it
        ),
        0,
    )
    cache, library = pins(state)
    assert [f.name for f in cache.place.frames] == ["update", "main"]
    assert (cache.count, cache.bytes, cache.segments) == (2, 4 * MIB, 2)
    assert (cache.keeps_open, cache.alone) == (41 * MIB, 10 * MIB)
    assert (library.count, library.keeps_open, library.alone) == (1, 31 * MIB, 0)


def test_in_an_expandable_segment_neighbours_pin() -> None:
    state = device_state(
        _of(
            segment(
                0,
                live(2 * MIB, stack=CACHED),
                hole(30 * MIB),
                live(4 * MIB),
                hole(10 * MIB),
                live(2 * MIB),
                live(8 * MIB, stack=[USER]),
                expandable=True,
            )
        ),
        0,
    )
    found = {pin.place.frames[0].name: pin for pin in pins(state)}
    assert set(found) == {"update", "forward"}, "the last block touches no hole"
    assert (found["forward"].keeps_open, found["forward"].alone) == (40 * MIB, 10 * MIB)
    assert (found["forward"].count, found["forward"].segments) == (2, 1)
    assert (found["update"].keeps_open, found["update"].alone) == (30 * MIB, 0)


def test_live_by_place_counts_everything_once() -> None:
    state = device_state(
        _of(segment(0, live(2 * MIB, stack=CACHED), pending(4 * MIB), live(MIB, stack=[]), hole(MIB))), 0
    )
    found = live_by_place(state)
    assert sum(one.bytes for one in found) == state.allocated + state.pending
    assert [one.place.is_known for one in found] == [True, True, False]


def test_telling_frames() -> None:
    torch = Frame("linear", "/e/lib/python3.11/site-packages/torch/nn/functional.py", 1)
    cpp = Frame("c10::foo()", "??", 0)
    model = Frame("forward", "/e/lib/python3.11/site-packages/transformers/models/llama/modeling.py", 5)
    hook = Frame("new_forward", "/e/lib/python3.11/site-packages/accelerate/hooks.py", 5)
    mine = Frame("main", r"C:\Users\me\project\run.py", 9)
    ours = Frame("__torch_dispatch__", "/src/oomdoctor/emulator/payload/small_tensors.py", 3)
    stdlib = Frame("run", "/usr/lib/python3.11/threading.py", 3)
    assert telling_frames((cpp, ours, torch, hook, model, torch, mine, stdlib)) == (model, mine)
    assert telling_frames((torch, mine)) == (mine,)
    assert telling_frames((cpp, torch)) == (torch,)
    assert telling_frames(()) == ()
    names = (
        "torch::unwind::unwind()",
        "torch::CapturedTraceback::gather(bool, bool, bool)",
        "torch::cuda::(anonymous namespace)::gather_with_cpp()",
        "c10::cuda::CUDACachingAllocator::Native::DeviceCachingAllocator::malloc(int)",
        "at::detail::empty_generic(c10::ArrayRef<long>)",
        "at::cuda::getNewWorkspace()",
        "at::_ops::mm::call(at::Tensor const&)",
    )
    native = tuple(Frame(name, "??", 0) for name in names)
    assert telling_frames(native) == (native[5],)
    assert telling_frames(native[:2]) == native[:1], "where there is nothing else"
    assert frame_text(model) == "forward  transformers/models/llama/modeling.py:5"
    assert frame_text(mine) == "main  project/run.py:9"


def test_consistency_with_torch_to_the_byte() -> None:
    state = device_state(_of(segment(0, live(4 * MIB), hole(MIB), pending(512))), 0)
    same = {"reserved_bytes": 5 * MIB + 512, "allocated_bytes": 4 * MIB, "active_bytes": 4 * MIB + 512}
    assert disagreements(state, same) == []
    (found,) = disagreements(state, {**same, "allocated_bytes": 4 * MIB + 1})
    assert (found.id, found.bytes) == ("allocated-differs", 1)


def test_blocks_that_do_not_fill_their_segment() -> None:
    good = segment(0, live(4 * MIB), hole(MIB))
    gap = segment(64 * MIB, live(4 * MIB), hole(MIB))
    gap["blocks"][1]["address"] += 512
    short = segment(128 * MIB, live(4 * MIB), hole(MIB))
    short["total_size"] += 512
    wrong = segment(256 * MIB, live(4 * MIB), hole(MIB))
    wrong["allocated_size"] = 0
    (found,) = disagreements(device_state(_of(good, gap, short, wrong), 0), {})
    assert found.evidence == {"segments": 3}


def test_counting_back_to_the_oom() -> None:
    trace = [
        event("alloc", 999),
        event("oom", 5),
        event("free_completed", 1000),
        event("segment_free", 2 * MIB),
        event("alloc", 512),
        event("segment_alloc", 20 * MIB),
        event("snapshot", 1),
    ]
    found = _of(traces=[trace])
    assert events_after_oom(found, 0) == 4
    assert sums_at_oom(found, 0, 100 * MIB, MIB) == (82 * MIB, MIB + 1024 - 512)


@pytest.mark.parametrize(
    ("asked", "version", "ids"),
    [
        ({}, "2.9.1", []),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}, "2.9.1", []),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, "2.9.1+cu128", ["variable-ignored"]),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:False"}, "2.10.0", []),
        ({"PYTORCH_ALLOC_CONF": "a:1", "PYTORCH_CUDA_ALLOC_CONF": ""}, "2.11", ["two-variables"]),
        ({"PYTORCH_CUDA_ALLOCATOR_CONF": "max_split_size_mb:64"}, "2.6.0", ["variable-misspelt"]),
        ({"PYTORCH_CUDA_ALLOC_CONFIG": "max_split_size_mb:64"}, None, ["variable-misspelt"]),
        ({"PYTORCH_HIP_ALLOC_CONF": "expandable_segments:False"}, "2.6.0", ["variable-ignored"]),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size:64"}, "2.6.0", ["option-unknown"]),
        ({"PYTORCH_CUDA_ALLOC_CONF": "large_segment_size_mb:64"}, "2.6.0", ["option-unknown"]),
        ({"PYTORCH_CUDA_ALLOC_CONF": "large_segment_size_mb:64"}, "2.11.0", []),
        ({"PYTORCH_CUDA_ALLOC_CONF": "large_segment_size_mb:64"}, None, []),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "2.6.0", ["asked-not-in-effect"]),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, "2.6.0", ["asked-not-in-effect"]),
        ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "2.6.0", ["caching-switched-off"]),
        ({"CUDA_VISIBLE_DEVICES": "0", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "2.6.0", []),
    ],
)
def test_settings_lint(asked: dict[str, str], version: Optional[str], ids: list[str]) -> None:
    assert [finding.id for finding in lint_settings(asked, SETTINGS, version)] == ids


@pytest.mark.parametrize("variable", ["PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
@pytest.mark.parametrize(
    ("conf", "shown"),
    [
        ("max_split_size_mb:64", {"max_split_size": 64 * MIB}),
        ("expandable_segments:True", {"expandable_segments": True}),
        ("garbage_collection_threshold:0.8", {"garbage_collection_threshold": 0.8}),
        ("roundup_power2_divisions:4", {"PYTORCH_CUDA_ALLOC_CONF": "roundup_power2_divisions:4"}),
    ],
)
def test_a_variable_that_took_effect_is_not_called_ignored(variable: str, conf: str, shown: Any) -> None:
    found = lint_settings({variable: conf}, {**SETTINGS, **shown}, "2.9.1", has_fraction=True)
    assert [finding.id for finding in found] == []
    ignored = lint_settings({variable: conf}, SETTINGS, "2.9.1", has_fraction=True)
    assert "variable-ignored" in [finding.id for finding in ignored]


def test_settings_without_effect() -> None:
    gc = {**SETTINGS, "garbage_collection_threshold": 0.8}
    assert [f.id for f in lint_settings({}, gc, "2.6", has_fraction=False)] == [
        "garbage-collection-without-fraction"
    ]
    assert lint_settings({}, gc, "2.6", has_fraction=True) == []
    assert lint_settings({}, gc, "2.6", has_fraction=None) == [], "nobody knows"
    both = {**SETTINGS, "expandable_segments": True, "max_split_size": 64 * MIB}
    assert [f.id for f in lint_settings({}, both, "2.6")] == ["expandable-with-max-split-size"]
    assert [f.id for f in lint_settings({}, None, "2.6", backend="cudaMallocAsync")] == ["other-backend"]


def test_settings_text() -> None:
    conf = "roundup_power2_divisions:[256:1,512:2,>:8], expandable_segments:True"
    assert parse_options(conf) == {
        "roundup_power2_divisions": "[256:1,512:2,>:8]",
        "expandable_segments": "True",
    }
    assert variable_for((2, 9), {}) == "PYTORCH_CUDA_ALLOC_CONF"
    assert variable_for((2, 10), {}) == "PYTORCH_ALLOC_CONF"
    assert variable_for((2, 10), {"PYTORCH_CUDA_ALLOC_CONF": ""}) == "PYTORCH_CUDA_ALLOC_CONF"
    assert variable_for((2, 12), {"PYTORCH_ALLOC_CONF": ""}) == "PYTORCH_ALLOC_CONF"
    assert variable_for((2, 12), {}) == "PYTORCH_CUDA_ALLOC_CONF"
    assert variable_for(None, {}) == "PYTORCH_CUDA_ALLOC_CONF"
    assert variable_for((2, 6), {}, is_hip=True) == "PYTORCH_HIP_ALLOC_CONF"
