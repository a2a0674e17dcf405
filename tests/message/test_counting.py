"""Reprints are one event; ranks, devices and numbers that differ are several, in order."""

from __future__ import annotations

import json

from oomdoctor.message import read_text
from tests.message.formats import GIB, MIB, Numbers, torch_2_5, torch_2_15


def numbers(device: int = 0, requested: int = 64 * MIB, free: int = 10 * MIB) -> Numbers:
    return Numbers(device, requested, 80 * GIB, free, 70 * GIB, 5 * GIB, this_process=79 * GIB)


def test_five_layers_that_print_one_error() -> None:
    message = torch_2_5(numbers())
    text = "\n".join(
        [
            "Traceback (most recent call last):",
            message,
            "The above exception was the direct cause of the following exception:",
            f"ray.exceptions.RayTaskError(OutOfMemoryError): {message}",
            f"2025-01-01 00:00:00,123 ERROR worker.py:1] Task failed: {message}",
            json.dumps({"error": message}),
            f"RuntimeError('{message}')",
        ]
    )
    ooms = read_text(text).ooms
    assert len(ooms) == 1
    assert ooms[0].line == 2


def test_eight_ranks_in_order() -> None:
    text = "\n".join(f"[rank{rank}]: {torch_2_15(numbers(device=rank))}" for rank in (3, 1, 0, 2, 7, 6, 5, 4))
    ooms = read_text(text).ooms
    assert [facts.rank for facts in ooms] == [3, 1, 0, 2, 7, 6, 5, 4]
    assert [facts.device for facts in ooms] == [3, 1, 0, 2, 7, 6, 5, 4]


def test_ranks_with_the_same_numbers_are_apart_and_the_launcher_repeats_one() -> None:
    message = torch_2_5(numbers())
    text = f"[rank0]: {message}\n[rank1]: {message}\nlauncher: {message}\n"
    assert [facts.rank for facts in read_text(text).ooms] == [0, 1]


def test_a_reprint_hours_later_is_one_event() -> None:
    message = torch_2_5(numbers())
    text = message + "\n" + "2025-01-01 00:00:00 INFO step\n" * 50_000 + message
    assert len(read_text(text).ooms) == 1


def test_requests_that_differ_are_two_events() -> None:
    text = torch_2_5(numbers()) + "\n" + torch_2_5(numbers(requested=66 * MIB))
    assert [facts.requested_bytes for facts in read_text(text).ooms] == [64 * MIB, 66 * MIB]


def test_a_cut_reprint_belongs_to_the_whole_message() -> None:
    message = torch_2_5(numbers())
    text = f"{message[: message.index('of which')]}\n...\n{message}"
    ooms = read_text(text).ooms
    assert len(ooms) == 1
    assert ooms[0].free_bytes == 10 * MIB


def test_an_error_that_was_swallowed_ends_its_event() -> None:
    message = torch_2_5(numbers())
    text = f"WARNING skipping batch 7: {message}\nWARNING skipping batch 9: {message}\n"
    assert len(read_text(text).ooms) == 2


def test_a_layer_that_only_says_so_adds_none() -> None:
    text = (
        f"(VllmWorker rank=0 pid=7) {torch_2_5(numbers())}\n(VllmWorker rank=0 pid=7) The above exception was"
        " the direct\n(VllmWorker rank=0 pid=7) RuntimeError: CUDA out of memory occurred when warming up"
        " sampler with 256 dummy requests."
    )
    assert len(read_text(text).ooms) == 1


def test_a_logger_of_the_allocator_prints_once_an_event() -> None:
    line = "ERROR: ../rtSafe/safeRuntime.cpp (25) - Cuda Error in allocate: 2 (out of memory)\n"
    assert len(read_text(line * 3).ooms) == 3


def test_root_errors_of_one_tensorflow_step_are_one_event() -> None:
    line = (
        "OOM when allocating tensor with shape[8,64] and type float on /task:0/device:GPU:0 by allocator"
        " GPU_0_bfc\n"
    )
    assert len(read_text(f"2 root error(s) found.\n (0) {line}\n (1) {line}").ooms) == 1
    warned = f"bfc_allocator.cc:275] Ran out of memory trying to allocate 24.38MiB.\n{line}"
    assert len(read_text(warned + warned).ooms) == 2


def test_settings_and_version_around_a_message() -> None:
    text = (
        "PyTorch version: 2.6.0+cu124\nexport"
        " PYTORCH_CUDA_ALLOC_CONF=garbage_collection_threshold:0.6,max_split_size_mb:128\n"
        + torch_2_5(numbers())
    )
    details = read_text(text).ooms[0].details
    assert details["torch_version"] == "2.6.0+cu124"
    assert details["settings"] == {"garbage_collection_threshold": "0.6", "max_split_size_mb": "128"}


def test_the_hint_is_no_setting() -> None:
    assert "settings" not in read_text(torch_2_5(numbers())).ooms[0].details


def test_a_version_that_the_wording_contradicts_is_not_taken() -> None:
    assert "torch_version" not in read_text("torch==1.9.0\n" + torch_2_5(numbers())).ooms[0].details
