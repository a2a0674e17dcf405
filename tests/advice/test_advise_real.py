"""Advice against the real allocator: never worse than the default, as good as trying everything, as it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oomdoctor.advice.advise import Advice, proved
from oomdoctor.emulator.torch_build import find_torch
from oomdoctor.errors import EmulatorError
from oomdoctor.units import GIB

from ..allocator.reference.programs import make_program
from ..allocator.reference.run import Outcome, torch_version
from ..emulator.conftest import PYTHONS
from .brute_force import (
    Case,
    advised,
    brute_force,
    differences,
    driven,
    is_quick,
    listed_settings,
    reached,
    recorded_cases,
)
from .shapes import converted_layers

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("advice-real")]

SHAPES = ("medium", "large", "boundary", "mixed", "caches", "streams", "everything", "inference", "training")
# Between what is in use at the peak (0) and what the default reserves (1): it dies, or has hardly the room.
SHARES = (0.35, 0.8)


@pytest.fixture(scope="module")
def python() -> str:
    try:
        return find_torch(PYTHONS[0]).python
    except EmulatorError as error:
        pytest.skip(f"no CUDA build of torch to test with: {error.what}")


Tried = list[tuple[Case, Advice, dict[str, Outcome]]]


@pytest.fixture(scope="module")
def tried(python: str, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """Seeded programs, the advice for them, and what the real allocator does under each setting."""
    recorded = recorded_cases(
        python, [make_program(shape, 2, 300) for shape in SHAPES], tmp_path_factory.mktemp("recorded")
    )
    cases = [case.between(share) for case in recorded for share in SHARES]
    advice = [advised(case) for case in cases]
    listed = [text for text in listed_settings(torch_version(python)) if is_quick(text)]
    texts = [
        [*listed, *(text for one in advice_.tried if is_quick(text := one.alloc_conf)), chosen(advice_)]
        for advice_ in advice
    ]
    return list(zip(cases, advice, brute_force(python, cases, texts)))


def chosen(advice: Advice) -> str:
    return (advice.best or advice.current).alloc_conf


def test_recommendation_is_never_worse_than_the_default(tried: Tried) -> None:
    assert any(real[""].first_oom is not None for _, _, real in tried)
    assert any(real[""].first_oom is None for _, _, real in tried)
    for case, advice, real in tried:
        default, ours = real[""], real[chosen(advice)]
        assert reached(ours) >= reached(default), (case.program.name, chosen(advice))


def test_recommendation_survives_where_any_setting_does(tried: Tried) -> None:
    rescued = 0
    for case, advice, real in tried:
        if any(outcome.first_oom is None for outcome in real.values()):
            assert real[chosen(advice)].first_oom is None, (case.program.name, case.capacity, chosen(advice))
            rescued += real[""].first_oom is not None
    assert rescued >= 3


def test_recommendation_survives_at_what_it_is_said_to_need(python: str, tried: Tried) -> None:
    wanted = []
    for case, advice, _ in tried:
        if advice.best is None or not advice.current.survives:
            continue
        # Of a setting not tried at less memory, nothing says that it needs less than the current ones.
        assert advice.best.needs, (case.program.name, advice.best.alloc_conf)
        if is_quick(chosen(advice)):
            wanted.append((replace(case, capacity=advice.best.needs[0]), chosen(advice)))
    assert wanted
    assert [one for one, real in zip(wanted, driven(python, wanted)) if real.first_oom is not None] == []


def test_what_was_replayed_is_what_the_real_allocator_does(tried: Tried) -> None:
    wrong = {
        (case.program.name, case.capacity, one.alloc_conf): found
        for case, advice, real in tried
        for one in advice.tried
        if one.alloc_conf in real
        and (found := differences(case, advice, one.alloc_conf, real[one.alloc_conf]))
    }
    assert wrong == {}


def test_proof_agrees(python: str, tried: Tried) -> None:
    _, advice, real = next(one for one in tried if one[1].best is not None and is_quick(chosen(one[1])))
    proofs = proved(advice, python).proofs
    assert (0, chosen(advice)) in proofs
    assert {text: proof.differences for (_, text), proof in proofs.items() if not proof.agrees} == {}
    assert (
        proofs[0, chosen(advice)].figures["peak_reserved_bytes"]
        == (real[chosen(advice)].figures["peak_reserved_bytes"])
    )


@pytest.fixture(scope="module")
def layers(python: str, tmp_path_factory: pytest.TempPathFactory) -> Case:
    (case,) = recorded_cases(python, [converted_layers()], tmp_path_factory.mktemp("layers"))
    return case


def test_holes_of_converted_layers_with_memory_to_spare(python: str, layers: Case) -> None:
    """As reported in vllm-project/vllm pull 41268: from 51.3 to 42.7 GiB."""
    advice = proved(advised(layers.at(60 * GIB)), python)
    answer = advice.max_split
    assert answer.helps
    assert answer.best is not None
    assert answer.best <= 530
    assert answer.tried is not None
    assert "8.62 GiB lower" in answer.why
    proof = advice.proofs[0, answer.tried.alloc_conf]
    assert proof.agrees
    assert round(proof.figures["peak_reserved_bytes"] / GIB, 1) == 42.7
    assert round(advice.current.outcomes[0].peak_reserved_bytes / GIB, 1) == 51.3
    (real,) = brute_force(
        python, [layers.at(60 * GIB)], [["", answer.tried.alloc_conf, "expandable_segments:True"]]
    )
    peaks = [round(outcome.figures["peak_reserved_bytes"] / GIB, 1) for outcome in real.values()]
    assert peaks == [51.3, 42.7, 51.3]


def test_holes_of_converted_layers_at_a_tight_capacity(python: str, layers: Case) -> None:
    tight = layers.at(43 * GIB)
    advice = advised(tight)
    assert not advice.current.survives
    assert advice.best is not None
    assert advice.max_split.helps
    (expandable,) = [one for one in advice.tried if one.alloc_conf == "expandable_segments:True"]
    assert expandable.survives
    assert expandable.retries >= 1
    texts = (
        [chosen(advice), advice.max_split.tried.alloc_conf, expandable.alloc_conf]
        if advice.max_split.tried
        else []
    )
    (real,) = brute_force(python, [tight], [texts])
    for text, outcome in real.items():
        assert outcome.first_oom is None
        assert differences(tight, advice, text, outcome) == {}
