"""The settings parser against torch itself: the same texts accepted, and the same settings made of them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from oomdoctor.allocator.constants import LARGE_BUFFER
from oomdoctor.allocator.settings import Settings
from oomdoctor.allocator.settings_keys import ACCELERATOR_CONFIG_SINCE, KEYS, knows
from oomdoctor.allocator.settings_parser import LARGE_SEGMENT_SINCE, parse_settings
from oomdoctor.allocator.settings_sources import environment_settings, settings_from_snapshot
from oomdoctor.emulator.torch_build import TorchBuild, find_torch
from oomdoctor.errors import EmulatorError, SettingsError
from oomdoctor.units import GIB, MIB
from tests.allocator.real_settings import PYTHONS, RealAllocator, real_allocator

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("settings")]

CUDA, GENERIC, HIP = "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda p: p.rsplit("/bin/")[0].rsplit("/")[-1])
def build(request: pytest.FixtureRequest) -> TorchBuild:
    try:
        return find_torch(request.param)
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")


@pytest.fixture(scope="module")
def real(build: TorchBuild) -> Iterator[RealAllocator]:
    with real_allocator(build) as allocator:
        yield allocator


TEXTS = [
    "", ",", " ", "\t", ":", "[", "]", "max_split_size_mb", "max_split_size_mb:", "max_split_size_mb:64,",
    ",max_split_size_mb:64", "max_split_size_mb:64,,expandable_segments:True", "max_split_size_mb=64",
    "max_split_size_mb,64", "max_split_size_mb:64:expandable_segments:True", "max_split_size_mb:64]",
    "max_split_size_mb 64", "max_split_size_mb : 64", "\tmax_split_size_mb:64", "max_split_size_mb:\t64",
    "max_split_size_mb:64\n", "MAX_SPLIT_SIZE_MB:64", "max_split_size_mb:64,max_split_size_mb:128",
    *(f"max_split_size_mb:{n}" for n in (
        "0", "10", "19", "20", "21", "+64", "-1", "-0", "64MB", "64.9", "0x40", "1e3", "abc", "'64'", "[64]",
        "2147483647", "2147483648", "-2147483648", "-2147483649", "17592186044415", "18446744073709551615",
        "18446744073709551616", "-18446744073709551615", "0000000000000000000000000000064", "9" * 30, "8 8",
    )),
    *(f"garbage_collection_threshold:{x}" for x in (
        "0", "0.0", "0.5", "1", "1.0", "0.9999999999", "1e-3", ".5", "5.", "-0.5", "nan", "inf", "0x1p-1", "0x.8",
        "0.5x", "1e400", "1e-400", "1e-310", "abc", "-", "80%", "0,5",
    )),
    *(f"roundup_power2_divisions:{x}" for x in (
        "0", "1", "2", "3", "4", "8", "-2", "1024", "4x", "[", "[]", "[]]", "[1", "[1:", "[1:2", "[1:2,", "[1:2,]",
        "[1:2]", "[1:0]", "[1:3]", "[3:2]", "[0:2]", "[>:8]", "[>:8,4:2]", "[>]", "[256:1,512:2,1024:4,>:8]",
        "[256:1,512:2,1024:0,>:8]", "[4:2,64:4]", "[64:4,4:2]", "[64:4,4:2,>:8]", "[32768:2,>:4]", "[65536:2]",
        "[32768:2]", "[131072:2,>:8]", "[1:2,2:4,>:0]", "[1:2][2:4]", "[1,2]", "[1:2;4:8]", "[1:2:4:8]", "[a:2]",
        "[1:a]", "[1:2],roundup_power2_divisions:[4:8]", "4,roundup_power2_divisions:[8:2]", "[>1:2]", "[1:2]x",
        "[ 1 : 2 , > : 4 ]", "[1:2,expandable_segments:True]", "{1:2}",
    )),
    *(f"expandable_segments:{x}" for x in ("True", "False", "true", "1", "", "True,", "True False", "T r u e")),
    *(f"large_segment_size_mb:{x}" for x in ("9", "10", "11", "20", "32", "64,max_split_size_mb:32", "11,max_split_size_mb:11")),
    "max_split_size_mb:32,large_segment_size_mb:64", "max_split_size_mb:large_segment_size_mb:32",
    "large_segment_size_mb,32,max_split_size_mb:40", "large_segment_size_mb:32,large_segment_size_mb:12",
    *(f"max_non_split_rounding_mb:{x}" for x in ("19", "20", "21", "100", "-1", "100,large_segment_size_mb:200")),
    *(f"per_process_memory_fraction:{x}" for x in ("-0.1", "0", "0.5", "1", "1.1", "nan", "-0")),
    *(f"pinned_num_register_threads:{x}" for x in ("0", "1", "3", "8", "128", "256", "-1")),
    *(f"pinned_reserve_segment_size_mb:{x}" for x in ("0", "1", "-1", "x")),
    *(f"pinned_max_cached_size_mb:{x}" for x in ("0", "5", "-1", "x", "99999999999999999999")),
    "pinned_max_round_threshold_mb:10,pinned_max_cached_size_mb:5",
    *(f"expandable_segments_reserve:{x}" for x in ("0.5", "40G", "40g", "0", "-1", "x", "1e20G", "inf", "0x10", "5.", "")),
    *(f"expandable_segments_reserve_by_class:{x}" for x in (
        "[a:0.5,b:40G]", "[]", "[a:x]", "[a:0.5", "[a", "x", "[a:0.5 b:1]", "[a:0.5,a:1G]", "[a:0.5][b:1]",
    )),
    "backend:native", "backend:native,max_split_size_mb:64", "backend:", "backend:cuda", "backend:Native", "backend",
    "expandable_segments:True,max_split_size_mb:64", "expandable_segments:True,garbage_collection_threshold:0.6",
    "roundup_bypass_threshold_mb:64", "nonsense:1", "nonsense", "expandable_segment:True",
    "release_lock_on_hipmalloc:True", "pinned_use_hip_host_register:True",
    *(f"{key}:True" for key in KEYS),
    *(f"{key}:True" for key in ("a", "pinned_use_cuda_host_registers")),
]  # fmt: skip


def compare(text: str, told: dict[str, Any], real: RealAllocator) -> Optional[str]:
    """How the two differ; None where they agree."""
    try:
        parsed = parse_settings(text, real.version).settings
    except SettingsError as error:
        rejected = "error" in told and "OutOfMemoryError" not in told["error"]
        return None if rejected else f"{text!r}: torch accepts it, we say: {error}"
    if "OutOfMemoryError" in told.get("error", ""):  # accepted, and then the fraction left no room
        return None
    if "error" in told:
        return f"{text!r}: we accept it, torch says: {told['error']}"
    shown = settings_from_snapshot({**told["settings"], CUDA: None}, real.version)
    for field in SHOWN:
        ours, theirs = getattr(parsed, field), getattr(shown, field)
        if ours != theirs:
            return f"{text!r}: {field} is {ours}, and in torch {theirs}"
    recorded = settings_from_snapshot(told["settings"], real.version)
    return None if recorded == parsed else f"{text!r}: {parsed} became {recorded} in a snapshot"


# What a snapshot shows by itself.
SHOWN = [
    "max_split_size", "garbage_collection_threshold", "expandable_segments", "roundup_power2_divisions",
    "release_lock_on_cudamalloc", "graph_capture_record_stream_reuse", "pinned_use_cuda_host_register",
    "pinned_num_register_threads", "pinned_max_round_threshold", "pinned_max_cached_size",
]  # fmt: skip


def differences(texts: list[str], real: RealAllocator) -> list[str]:
    found = (compare(text, real.settle({CUDA: text}), real) for text in texts)
    return [difference for difference in found if difference]


def test_torch_and_we_agree_on_known_spellings(real: RealAllocator) -> None:
    assert differences(TEXTS, real) == []


def generated(seed: int) -> str:
    """A text of a few entries, some of them damaged."""
    dice = random.Random(seed)
    numbers = [
        "0",
        "1",
        "2",
        "4",
        "16",
        "20",
        "21",
        "64",
        "100",
        "128",
        "1024",
        "-1",
        "0.5",
        "0.9",
        "True",
        "False",
    ]
    entries = []
    for _ in range(dice.randint(1, 5)):
        key = dice.choice([*KEYS, "roundup_power2_divisions", "max_split_size_mb", "large_segment_size_mb"])
        if "roundup" in key and dice.random() < 0.7:
            pairs = [
                f"{dice.choice(['>', *(str(1 << dice.randrange(18)) for _ in range(4))])}:{1 << dice.randrange(5)}"
                for _ in range(dice.randint(0, 4))
            ]
            value = f"[{','.join(pairs)}]"
        elif any(word in key for word in ("expandable", "release", "_use_", "reuse", "throw", "catch")):
            value = dice.choice(["True", "False"])
        elif "threshold" in key or "fraction" in key:
            value = dice.choice(["0.5", "0.9", "1"])
        else:
            value = dice.choice(numbers)
        entries.append(f"{key}:{value}")
    text = ",".join(entries)
    if dice.random() < 0.3:
        place = dice.randrange(len(text))
        text = text[:place] + dice.choice([",", ":", "[", "]", " ", "x", ""]) + text[place + 1 :]
    return text


def test_torch_and_we_agree_on_generated_texts(real: RealAllocator) -> None:
    known = [text for text in map(generated, range(2000)) if _every_key_known(text, real)]
    assert differences(known[:100], real) == []


def _every_key_known(text: str, real: RealAllocator) -> bool:
    """Texts with a key that this release lacks are all alike; the list of spellings has each once."""
    words = text.replace(":", ",").split(",")
    return all(knows(word, real.version) for word in words if word in KEYS)


@pytest.mark.parametrize("large_mb", [12, 20, 33, 100])
def test_requests_of_one_to_ten_mib_get_segments_of_the_size_that_was_set(
    real: RealAllocator, large_mb: int
) -> None:
    if real.version < LARGE_SEGMENT_SINCE:
        pytest.skip("large_segment_size_mb came with 2.11")
    text = f"large_segment_size_mb:{large_mb}"
    told = real.settle({CUDA: text}, steps=[("x", 3 * MIB)])
    settings = parse_settings(text, real.version).settings
    assert ["large", settings.large_segment_size, False] in told["segments"]


@pytest.mark.parametrize(
    "text",
    [
        "max_split_size_mb:40",
        "max_split_size_mb:40,max_non_split_rounding_mb:30",
        "max_split_size_mb:40,large_segment_size_mb:36",
    ],
)
def test_oversize_blocks_serve_requests_up_to_the_rounding_without_splitting(
    real: RealAllocator, text: str
) -> None:
    try:
        settings = parse_settings(text, real.version).settings
    except SettingsError:
        pytest.skip("a key that this release does not know")
    asked, limit = settings.max_split_size, settings.max_non_split_rounding
    for cached, is_reused in ((asked + limit - 2 * MIB, True), (asked + limit, False)):
        steps = [("a", cached), ("a", None), ("b", asked)]
        told = real.settle({CUDA: text}, steps=steps)
        large = [size for kind, size, _ in told["segments"] if kind == "large"]
        assert (len(large) == 1) == is_reused, (cached, large)


def test_memory_fraction_of_the_text_holds_from_the_first_allocation(real: RealAllocator) -> None:
    text = "per_process_memory_fraction:0.25"
    if real.version < ACCELERATOR_CONFIG_SINCE:
        pytest.skip("per_process_memory_fraction came with 2.10")
    allowed = int(parse_settings(text, real.version).settings.per_process_memory_fraction * 24 * GIB)
    assert "error" not in real.settle({CUDA: text}, steps=[("x", allowed - 64 * MIB)])
    assert "OutOfMemory" in real.settle({CUDA: text}, steps=[("x", allowed + 64 * MIB)])["error"]


@pytest.mark.parametrize(
    "environment",
    [
        {GENERIC: "max_split_size_mb:64,pinned_num_register_threads:4"},
        {GENERIC: "max_split_size_mb:64", CUDA: "max_split_size_mb:128"},
        {GENERIC: "max_split_size_mb:64", CUDA: ""},
        {GENERIC: "nonsense:1"},
        {GENERIC: "nonsense:1", CUDA: "max_split_size_mb:64"},
        {HIP: "max_split_size_mb:32,pinned_num_register_threads:2"},
        {HIP: "max_split_size_mb:32", GENERIC: "max_split_size_mb:64,pinned_num_register_threads:4"},
        {HIP: "max_split_size_mb:32,pinned_num_register_threads:2", CUDA: "max_split_size_mb:64"},
        {HIP: "nonsense:1"},
        {HIP: "nonsense:1", CUDA: "max_split_size_mb:64"},
        {},
    ],
)
def test_variables_count_as_they_do_in_torch(real: RealAllocator, environment: dict[str, str]) -> None:
    told = real.settle(environment)
    try:
        ours = environment_settings(environment, real.version).settings
    except SettingsError:
        assert "error" in told
        return
    assert "error" not in told
    shown = settings_from_snapshot({**told["settings"], CUDA: None}, real.version)
    assert [(f, getattr(ours, f)) for f in SHOWN] == [(f, getattr(shown, f)) for f in SHOWN]


def test_later_settings_reset_some_and_keep_others(real: RealAllocator) -> None:
    """What ``settings_from_snapshot`` says of programs that change settings while they run."""
    first = "max_split_size_mb:64,garbage_collection_threshold:0.5,roundup_power2_divisions:4,pinned_num_register_threads:4,expandable_segments:True"
    told = real.settle({CUDA: first}, then=[""])
    shown = settings_from_snapshot(told["settings"], real.version)
    assert shown == Settings(expandable_segments=True, pinned_num_register_threads=4)
    if real.version >= LARGE_SEGMENT_SINCE:
        told = real.settle(
            {CUDA: "large_segment_size_mb:32"}, then=["max_split_size_mb:40"], steps=[("x", 3 * MIB)]
        )
        assert ["large", 32 * MIB, False] in told["segments"]
        assert settings_from_snapshot(told["settings"], real.version).large_segment_size == LARGE_BUFFER


def test_backend_is_the_one_that_torch_is_loaded_with(build: TorchBuild) -> None:
    texts = [
        "backend:cudaMallocAsync,nonsense:1",
        "backend:native,backend:cudaMallocAsync",
        "backend: cudaMallocAsync",
    ]
    with contextlib.ExitStack() as stack:  # all at once: each has to import torch
        started = [stack.enter_context(real_allocator(build, {CUDA: text})) for text in texts]
        told = [allocator.settle({CUDA: text}) for allocator, text in zip(started, texts)]
        version = started[0].version
    for text, answer in zip(texts, told):
        try:
            ours = parse_settings(text, version).settings.backend
        except SettingsError:
            ours = None
        assert (text, ours) == (text, answer.get("backend"))
