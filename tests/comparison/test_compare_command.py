"""The command ``compare``, as a person and a program meet it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from oomdoctor.cli import group
from oomdoctor.errors import InputError, OomdoctorError, UsageError
from oomdoctor.units import MIB
from tests.comparison.building import died, program, without_history
from tests.run.building import add_dump, add_process, make_run

TRACES = Path(__file__).parent.parent.parent / "traces"
TWO_GPUS, TO_THE_END = str(TRACES / "llama-4-layers-two-gpus"), str(TRACES / "llama-2-layers-to-the-end")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    out = {}
    for name, plain in {
        "before": died(7, 40 * MIB),
        "after": program(expandable_segments=True),
        "state": without_history(program()),
    }.items():
        path = tmp_path / f"{name}.pickle"
        path.write_bytes(pickle.dumps(plain, 4))
        out[name] = str(path)
    return out


def ask(*arguments: str) -> Any:
    result = CliRunner().invoke(group, ["compare", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def text(*arguments: str) -> str:
    result = CliRunner().invoke(group, ["compare", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    return result.stdout


def refused(*arguments: str) -> OomdoctorError:
    with pytest.raises(OomdoctorError) as caught:
        CliRunner().invoke(group, ["compare", *arguments], catch_exceptions=False)
    return caught.value


def test_json_has_the_keys_of_the_contract(files: dict[str, str]) -> None:
    document = ask(files["before"], files["after"])
    assert list(document) == ["schema", "pairs", "unmatched", "problems"]
    assert document["schema"] == "oomdoctor.compare/1"
    (pair,) = document["pairs"]
    assert pair["verdict"] == {
        "id": "a-dies", "summary": "B survives where A died at allocation 5.", "basis": "derived",
    }  # fmt: skip
    assert pair["same_requests"]["from_the_start"] == 5
    assert pair["same_requests"]["is_one_program"] is True
    figure = pair["figures"]["peak_reserved_bytes"]
    assert figure["difference"] == figure["b"] - figure["a"]
    assert figure["basis"] == {"a": "recorded", "b": "recorded", "difference": "derived"}
    assert pair["common"]["figures"]["peak_allocated_bytes"]["difference"] == 0
    assert pair["at"]["when"] == "oom"
    assert sum(one["a_bytes"] for one in pair["by_place"]) == 45 * MIB
    assert pair["a"]["path"] == files["before"]


def test_figures_are_those_of_replay() -> None:
    document = ask(TWO_GPUS, TO_THE_END)
    result = CliRunner().invoke(group, ["replay", TO_THE_END, "--json"], catch_exceptions=False)
    (theirs,) = json.loads(result.stdout)["devices"]
    figures = document["pairs"][0]["figures"]
    same = [name for name in figures if name in theirs]
    assert len(same) >= 10
    assert {name: figures[name]["b"] for name in same} == {name: theirs[name] for name in same}


def test_a_device_without_a_partner_is_named() -> None:
    document = ask(TWO_GPUS, TO_THE_END)
    assert [(one["side"], one["device"]) for one in document["unmatched"]] == [("a", 1)]
    said = text(TWO_GPUS, TO_THE_END)
    assert "Without a partner\n  GPU 1, pid 28479, only in A" in said
    assert "this is no before and after" in " ".join(said.split())


def test_two_devices_of_one_recording() -> None:
    said = text(TWO_GPUS, TWO_GPUS, "--device", "0", "--device-b", "1")
    assert said.startswith("A GPU 0, pid 28479; B GPU 1, pid 28479\n")
    (pair,) = ask(TWO_GPUS, TWO_GPUS, "--device", "0", "--device-b", "1")["pairs"]
    assert (pair["a"]["device"], pair["b"]["device"]) == (0, 1)


def test_two_dumps_of_one_process() -> None:
    document = ask(TWO_GPUS, TWO_GPUS, "--dump", "0001-oom", "--dump-b", "0002-exit", "--device", "1")
    (pair,) = document["pairs"]
    assert (pair["a"]["dump"], pair["b"]["dump"]) == ("0001-oom", "0002-exit")
    assert pair["same_requests"]["from_the_start"] == pair["same_requests"]["a_allocations"]


def test_the_same_recording_twice_says_no_difference() -> None:
    said = text(TO_THE_END, TO_THE_END)
    assert "No difference." in said
    assert "A and B are the same recording" in said
    assert "The same requests: all 12,007 allocations" in " ".join(said.split())


@pytest.mark.parametrize("when", ["auto", "oom", "peak", "common", "end"])
def test_every_point_to_compare_at(files: dict[str, str], when: str) -> None:
    found = ask(files["before"], files["after"], "--at", when)["pairs"][0]["at"]["when"]
    assert found == {"auto": "oom"}.get(when, when)
    assert "Live by place" in text(files["before"], files["after"], "--at", when)


def test_without_history_the_final_states_are_compared(files: dict[str, str]) -> None:
    said = " ".join(text(files["state"], files["after"]).split())
    assert "A has no history, so only the states at the end are compared" in said
    (pair,) = ask(files["state"], files["after"])["pairs"]
    assert pair["same_requests"] is None
    assert pair["common"] is None
    assert pair["figures"]["peak_reserved_bytes"]["a"] is None
    assert pair["figures"]["final_reserved_bytes"]["a"] is not None


def test_a_file_that_is_no_snapshot_is_named(files: dict[str, str], tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pickle"
    foreign.write_text("hello")
    error = refused(files["before"], str(foreign))
    assert isinstance(error, InputError)
    assert error.where is not None
    assert "foreign.pickle" in error.where
    assert isinstance(refused(files["before"], files["after"], "--device", "3"), UsageError)
    assert isinstance(refused(files["before"], files["after"], "--dump", "0001-oom"), UsageError)


def test_what_a_run_folder_lacks_is_told_of_its_side(tmp_path: Path, files: dict[str, str]) -> None:
    run = make_run(tmp_path / "run")
    add_dump(add_process(run, 4000, rank=0), program())
    add_process(run, 5000, rank=1)
    document = ask(files["after"], str(run))
    assert len(document["pairs"]) == 1
    assert document["problems"]
    assert all(one.startswith("B: ") for one in document["problems"])
