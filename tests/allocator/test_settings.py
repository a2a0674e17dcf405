"""Allocator settings without torch: what is read, refused and warned of, in words."""

from __future__ import annotations

import pytest

from oomdoctor.allocator.constants import LARGE_BUFFER, UNLIMITED
from oomdoctor.allocator.settings import Reserve, Settings
from oomdoctor.allocator.settings_keys import KEYS
from oomdoctor.allocator.settings_numbers import NotANumber, stod, stoi, stoull, stream_double
from oomdoctor.allocator.settings_parser import parse_settings
from oomdoctor.allocator.settings_sources import environment_settings, settings_from_snapshot
from oomdoctor.allocator.torch_version import newer_than_known, parse_torch_version
from oomdoctor.errors import SettingsError, UsageError
from oomdoctor.units import MIB

NEWEST = (2, 15)


def warned(text: str, torch: tuple[int, int] = NEWEST, **options: bool) -> list[str]:
    return [warning.id for warning in parse_settings(text, torch, **options).warnings]


def test_every_key_has_a_reader_and_a_place_in_the_settings() -> None:
    values = {"max_split_size_mb": "64", "garbage_collection_threshold": "0.5", "roundup_power2_divisions": "4",
              "backend": "native", "pinned_num_register_threads": "4", "max_non_split_rounding_mb": "64",
              "pinned_reserve_segment_size_mb": "64", "per_process_memory_fraction": "0.5",
              "large_segment_size_mb": "32", "pinned_max_round_threshold_mb": "64", "pinned_max_cached_size_mb": "64",
              "expandable_segments_reserve": "40G", "expandable_segments_reserve_by_class": "[a:0.5]"}  # fmt: skip
    text = ",".join(f"{name}:{values.get(name, 'True')}" for name, key in KEYS.items() if key.since)
    assert parse_settings(text, NEWEST).settings == Settings(
        max_split_size=64 * MIB,
        max_non_split_rounding=64 * MIB,
        large_segment_size=32 * MIB,
        garbage_collection_threshold=0.5,
        roundup_power2_divisions=(4,) * 16,
        expandable_segments=True,
        expandable_segments_reserve=Reserve(40.0, is_fraction=False),
        expandable_segments_reserve_by_class=(("a", Reserve(0.5)),),
        per_process_memory_fraction=0.5,
        throw_on_cudamalloc_oom=True,
        graph_capture_record_stream_reuse=True,
        release_lock_on_cudamalloc=True,
        pinned_use_cuda_host_register=True,
        pinned_num_register_threads=4,
        pinned_use_background_threads=True,
        pinned_reserve_segment_size=64 * MIB,
        pinned_max_round_threshold=64 * MIB,
        pinned_max_cached_size=64 * MIB,
        pinned_free_catch_all=True,
        text=parse_settings(text, NEWEST).settings.text,
    )


def test_canonical_text_reads_as_the_same_settings() -> None:
    parsed = parse_settings(" max_split_size_mb : 64 ,roundup_power2_divisions:[1:2, >:4],", NEWEST)
    assert sorted(parsed.settings.text.split(",m")) == [
        "max_split_size_mb:64,roundup_power2_divisions:[1:2,>:4]"
    ]
    assert parse_settings(parsed.settings.text, NEWEST).settings == parsed.settings


@pytest.mark.parametrize(
    ("torch", "table"),
    [
        ((2, 9), [1] * 9 + [2] + [8] * 6),
        ((2, 10), [1] * 9 + [2, 4] + [8] * 5),
    ],
)
def test_rest_of_a_division_list_starts_after_the_last_entry_since_2_10(
    torch: tuple[int, int], table: list[int]
) -> None:
    text = "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]"
    assert list(parse_settings(text, torch).settings.roundup_power2_divisions) == table


def test_rounding_without_split_follows_the_segment_size_since_2_11() -> None:
    assert parse_settings("large_segment_size_mb:64", (2, 11)).settings.max_non_split_rounding == 64 * MIB
    assert parse_settings("", (2, 10)).settings.max_non_split_rounding == LARGE_BUFFER


@pytest.mark.parametrize(
    ("text", "torch", "words"),
    [
        ("max_split_size:64", NEWEST, ["'max_split_size'", "did you mean max_split_size_mb?"]),
        ("large_segment_size_mb:32", (2, 9), ["2.9 has no", "PyTorch 2.11 and later know it"]),
        ("roundup_bypass_threshold_mb:64", NEWEST, ["only PyTorch before 2.0 knew it"]),
        ("max_split_size_mb:20", (2, 9), ["max_split_size_mb is 20", "more than 20 (MiB)", ":21 or more"]),
        ("max_split_size_mb:19", (2, 10), ["max_split_size_mb is 19", "at least 20", ":20 or more"]),
        ("expandable_segments:true", NEWEST, ["not 'true'", "write expandable_segments:True"]),
        ("max_split_size_mb:many", NEWEST, ["not 'many'", "not a whole number"]),
        ("max_split_size_mb", NEWEST, ["':' is missing after 'max_split_size_mb'"]),
        ("max_split_size_mb:", NEWEST, ["max_split_size_mb has no value"]),
        ("max_split_size_mb,64", (2, 9), ["':' is missing", "',' stands there"]),
        ("roundup_power2_divisions:3", NEWEST, ["has 3", "power of two", "write 2"]),
        ("roundup_power2_divisions:[3:2]", NEWEST, ["an interval, in MiB, must be a power of two"]),
        ("roundup_power2_divisions:[1:0]", (2, 3), ["has 0", "leave the key out"]),
        ("roundup_power2_divisions:[1:2", NEWEST, ["text ends there"]),
        ("roundup_power2_divisions:[", NEWEST, ["the list of roundup_power2_divisions does not end"]),
        ("garbage_collection_threshold:80", NEWEST, ["is 80", "above 0 and below 1"]),
        ("backend:cuda", NEWEST, ["there is no backend 'cuda'"]),
        ("backend:native,backend:cudaMallocAsync", NEWEST, ["is not the backend that torch is loaded with"]),
        ("pinned_num_register_threads:256", NEWEST, ["at most 128", "write pinned_num_register_threads:128"]),
        ("pinned_num_register_threads:0", NEWEST, ["power of two", "write 1"]),
        ("per_process_memory_fraction:2", NEWEST, ["from 0 to 1", "write per_process_memory_fraction:0.9"]),
        ("large_segment_size_mb:10", NEWEST, ["more than 10", "write large_segment_size_mb:11 or more"]),
    ],
)
def test_a_refusal_says_what_why_and_what_next(text: str, torch: tuple[int, int], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, torch, "MY_VARIABLE")
    said = str(caught.value)
    assert said.startswith(f"MY_VARIABLE={text}: ")
    assert [word for word in words if word not in said] == []
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("max_split_size_mb:64", []),
        ("max_split_size_mb:64:expandable_segments:False", ["separator"]),
        ("expandable_segments:True,max_split_size_mb:64", ["expandable-with-max-split-size"]),
        ("garbage_collection_threshold:0.5", ["garbage-collection-without-fraction"]),
        ("garbage_collection_threshold:0.5,per_process_memory_fraction:0.9", []),
        ("expandable_segments_reserve:40G", ["reserve-without-expandable"]),
        ("expandable_segments_reserve:much,expandable_segments:True", ["reserve-ignored"]),
        ("backend:cudaMallocAsync,max_split_size_mb:64", ["other-backend"]),
        ("backend:cudaMallocAsync,pinned_use_background_threads:True", []),
        ("backend:cudaMallocAsync,nonsense:1", ["rejected-later"]),
    ],
)
def test_what_is_accepted_and_does_nothing_is_warned_of(text: str, ids: list[str]) -> None:
    assert warned(text) == ids


def test_platform_without_expandable_segments() -> None:
    parsed = parse_settings("expandable_segments:True", NEWEST, expandable_supported=False)
    assert not parsed.settings.expandable_segments
    assert warned("expandable_segments:True", expandable_supported=False) == ["expandable-unsupported"]


def test_releases_newer_than_known_are_read_as_the_newest_and_said_to_be() -> None:
    assert warned("", (2, 16)) == ["torch-newer-than-known"]
    assert newer_than_known((2, 15)) is None


def test_variables_that_do_not_count_are_named() -> None:
    generic = {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}
    both = {**generic, "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:32"}
    old, new = environment_settings(generic, (2, 9)), environment_settings(generic, (2, 10))
    assert (old.settings, [w.id for w in old.warnings]) == (Settings(), ["variable-ignored"])
    assert (new.settings.max_split_size, new.warnings) == (64 * MIB, ())
    parsed = environment_settings(both, NEWEST)
    assert (parsed.settings.max_split_size, parsed.warnings[0].summary) == (
        32 * MIB,
        "torch 2.15 ignores PYTORCH_ALLOC_CONF: PYTORCH_CUDA_ALLOC_CONF is set and wins.",
    )


def test_a_snapshot_shows_some_settings_and_its_text_the_others() -> None:
    recorded = {
        "PYTORCH_CUDA_ALLOC_CONF": "large_segment_size_mb:32,per_process_memory_fraction:0.5,max_split_size_mb:64",
        "max_split_size": 128 * MIB,  # changed since, and shown
        "garbage_collection_threshold": 0.5,
        "roundup_power2_divisions": {str(1 << slot): slot for slot in range(16)},
        "max_cached_size": -1,
        "expandable_segments": "yes",  # nothing that torch writes
    }
    settings = settings_from_snapshot(recorded, NEWEST)
    assert settings.large_segment_size == settings.max_non_split_rounding == 32 * MIB
    assert settings.per_process_memory_fraction == 0.5
    assert settings.max_split_size == 128 * MIB
    assert settings.roundup_power2_divisions == tuple(range(16))
    assert settings.pinned_max_cached_size == UNLIMITED
    assert not settings.expandable_segments


def test_a_snapshot_without_settings_or_with_a_text_that_was_rejected() -> None:
    assert settings_from_snapshot(None, (2, 0)) == Settings()
    rejected = {"PYTORCH_CUDA_ALLOC_CONF": "nonsense:1", "max_split_size": -1}
    assert settings_from_snapshot(rejected, NEWEST) == Settings(text="nonsense:1")
    newer_key = {"PYTORCH_CUDA_ALLOC_CONF": "large_segment_size_mb:32"}
    assert settings_from_snapshot(newer_key, (2, 3)).large_segment_size == 32 * MIB


@pytest.mark.parametrize("read", [stoi, stoull])
@pytest.mark.parametrize(("token", "value"), [("64MB", 64), ("\t-1", 2**64 - 1), ("+0007.5", 7)])
def test_whole_numbers_are_read_as_by_the_cpp_library(read, token: str, value: int) -> None:  # type: ignore[no-untyped-def]
    assert read(token) == value


@pytest.mark.parametrize(
    ("read", "token"),
    [(stoi, "2147483648"), (stoull, str(2**64)), (stoi, "x1"), (stoull, "9" * 5000), (stod, "1e400"), (stod, "1e-310"), (stod, ".e1")],
)  # fmt: skip
def test_numbers_that_the_cpp_library_refuses(read, token: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotANumber):
        read(token)


def test_real_numbers_are_read_as_by_the_cpp_library() -> None:
    assert [stod(token) for token in ("0.5x", "5.", "0x1p-1", "0x", "-inf")] == [
        0.5,
        5.0,
        0.5,
        0.0,
        float("-inf"),
    ]
    assert [stream_double(token) for token in ("0.5", "5.", "0x1", "0.5x", "inf", "1e999", "")] == [
        0.5,
        5.0,
        *[None] * 5,
    ]


@pytest.mark.parametrize(
    "text", ["2.11", "2.11.0", "2.11.0+cu130", " v2.11.1 ", "2.11.0a0+git1234abc", "2.11.0.dev20260101"]
)
def test_versions_of_torch(text: str) -> None:
    assert parse_torch_version(text) == (2, 11)


@pytest.mark.parametrize("text", ["", "two", "2", "2.", "2.x", "1.13.1", "-2.1", "2.1111", "2,1"])
def test_no_versions_of_torch_that_we_know(text: str) -> None:
    with pytest.raises(UsageError):
        parse_torch_version(text)
