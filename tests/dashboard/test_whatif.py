"""What if: the form, one replay beside its recording, the search, and the page over them."""

from __future__ import annotations

import base64
import json
import pickle
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from oomdoctor.allocator.what_if import Asked, capacity_of
from oomdoctor.cli import group
from oomdoctor.units import MIB

pytest.importorskip("dash")

from oomdoctor_dashboard import whatif_advice, whatif_data, whatif_form
from oomdoctor_dashboard.app import create_app
from oomdoctor_dashboard.figures import whatif as figures
from oomdoctor_dashboard.figures.theme import paper
from oomdoctor_dashboard.jobs import Job, Jobs
from oomdoctor_dashboard.library import Item, Library, Loaded
from oomdoctor_dashboard.view import changed, with_options

TRACES = Path(__file__).parents[2] / "traces"
TO_THE_END, TWO_GPUS = TRACES / "llama-2-layers-to-the-end", TRACES / "llama-4-layers-two-gpus"
CAPACITY = 1900 * MIB


def opened(path: Path) -> tuple[Library, Item]:
    library = Library()
    return library, library.add(str(path))[0]


@pytest.fixture(scope="module")
def to_the_end() -> tuple[Library, Item, Loaded]:
    library, item = opened(TO_THE_END)
    return library, item, library.loaded(item.key, 0)


@pytest.fixture(scope="module")
def two_gpus() -> tuple[Library, Item, Loaded]:
    library, item = opened(TWO_GPUS)
    return library, item, library.loaded(item.key, 0)


@pytest.fixture(scope="module")
def state_only(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, Item, Loaded]:
    path = tmp_path_factory.mktemp("state") / "state.pickle"
    block = {"address": 4096, "size": 2 * MIB, "requested_size": 2 * MIB, "state": "active_allocated"}
    segment = {
        "device": 0, "address": 4096, "total_size": 2 * MIB, "allocated_size": 2 * MIB, "active_size": 2 * MIB,
        "requested_size": 2 * MIB, "stream": 0, "segment_type": "small", "segment_pool_id": (0, 0),
        "is_expandable": False, "blocks": [{**block, "frames": []}],
    }  # fmt: skip
    path.write_bytes(pickle.dumps({"segments": [segment], "device_traces": [[]]}))
    library, item = opened(path)
    return library, item, library.loaded(item.key, 0)


def printed(*words: str) -> Any:
    done = CliRunner().invoke(group, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


# ---- the form ----


def test_text_is_cut_at_commas_outside_of_brackets() -> None:
    text = "roundup_power2_divisions:[256:1,>:8], max_split_size_mb:64"
    assert whatif_form.entries(text) == ["roundup_power2_divisions:[256:1,>:8]", "max_split_size_mb:64"]
    assert whatif_form.value_of(text, "roundup_power2_divisions") == "[256:1,>:8]"
    assert whatif_form.value_of(text, "max_split_size_mb") == "64"
    assert whatif_form.value_of(text, "expandable_segments") is None
    assert whatif_form.value_of("max_split_size_mb:21,max_split_size_mb:64", "max_split_size_mb") == "64"


@pytest.mark.parametrize(
    ("text", "key", "value", "becomes"),
    [
        ("", "max_split_size_mb", 64, "max_split_size_mb:64"),
        ("max_split_size_mb:64", "max_split_size_mb", "", ""),
        ("max_split_size_mb:64,backend:native", "max_split_size_mb", 128, "max_split_size_mb:128,backend:native"),
        ("max_split_size_mb:21,max_split_size_mb:64", "max_split_size_mb", 32, "max_split_size_mb:32"),
        ("", "expandable_segments", True, "expandable_segments:True"),
        ("max_split_size_mb:64,expandable_segments:True", "expandable_segments", False, "max_split_size_mb:64"),
        ("", "garbage_collection_threshold", 0.8, "garbage_collection_threshold:0.8"),
        ("", "roundup_power2_divisions", "[1:8,>:1]", "roundup_power2_divisions:[1:8,>:1]"),
        ("roundup_power2_divisions:4", "roundup_power2_divisions", "", ""),
    ],
)  # fmt: skip
def test_field_changes_its_entry_of_the_text(text: str, key: str, value: Any, becomes: str) -> None:
    assert whatif_form.with_field(text, key, value) == becomes
    shown = whatif_form.field_value(becomes, key)
    assert shown == value
    assert whatif_form.with_field(becomes, key, shown) == becomes


@pytest.mark.parametrize("key", whatif_form.KEYS)
@pytest.mark.parametrize("value", ["64x", "False", "0.80", "4", "", "nan"])
def test_what_a_field_shows_takes_nothing_from_the_text(key: str, value: str) -> None:
    text = f"backend:native,{key}:{value}"
    assert whatif_form.with_field(text, key, whatif_form.field_value(text, key)) == text


def test_fields_and_text_come_to_the_same_options() -> None:
    options = whatif_form.taken({"all": 1}, {"max_split_size_mb": 64}, "")
    assert options == {"all": 1, "conf": "max_split_size_mb:64"}
    options = whatif_form.taken(options, {"expandable_segments": True}, "")
    assert options["conf"] == "max_split_size_mb:64,expandable_segments:True"
    assert whatif_form.taken(options, {"conf": options["conf"], "max_split_size_mb": 64}, "") == options
    # The recording's own text is no choice, the defaults beside one that was recorded are.
    assert whatif_form.taken(options, {"conf": "backend:native"}, "backend:native") == {"all": 1}
    assert whatif_form.taken({}, {"conf": ""}, "backend:native") == {"conf": ""}
    assert whatif_form.taken({}, {"capacity": " 2GiB "}, "") == {"capacity": "2GiB"}
    assert whatif_form.taken({"capacity": "2GiB"}, {"capacity": ""}, "") == {}
    assert whatif_form.taken({}, {"fraction": 0.5, "torch": None}, "") == {"fraction": "0.5"}


def test_nothing_asked_is_as_recorded_and_something_brings_the_capacity(two_gpus: Any) -> None:
    device = two_gpus[2].device
    plain = whatif_form.wanted(device, {})
    assert plain.asked == Asked()
    assert not plain.errors
    asked = whatif_form.wanted(device, {"conf": "max_split_size_mb:64"}).asked
    assert asked == Asked(alloc_conf="max_split_size_mb:64", capacity=capacity_of(device))
    assert capacity_of(device) == 1_258_291_200
    without = whatif_form.wanted(device, {"capacity": "no end"}).asked
    assert without == Asked(capacity=None)
    other = whatif_form.wanted(device, {"torch": "2.3", "fraction": "0.5", "capacity": "2GiB"}).asked
    assert other == Asked(capacity=2048 * MIB, torch=(2, 3), memory_fraction=0.5)


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"conf": "max_split_size_mb:5"}, "max_split_size_mb", "at least 20"),
        ({"conf": "max_split_size_mb:5"}, "conf", "max_split_size_mb is 5"),
        ({"conf": "expandable_segments:yes"}, "expandable_segments", "True or False"),
        ({"conf": "roundup_power2_divisions:3"}, "roundup_power2_divisions", "power of two"),
        ({"conf": "expandable_segments:True", "torch": "2.0"}, "conf", "no allocator setting"),
        ({"conf": "max_split_size:64"}, "conf", "did you mean max_split_size_mb?"),
        ({"capacity": "much"}, "capacity", "not a size"),
        ({"capacity": "0"}, "capacity", "no device has"),
        ({"torch": "1.13"}, "torch", "not known"),
        ({"fraction": "1.5"}, "fraction", "no fraction"),
        ({"fraction": "nan"}, "fraction", "no fraction"),
    ],
)  # fmt: skip
def test_error_stands_at_its_field(two_gpus: Any, options: dict[str, Any], field: str, said: str) -> None:
    form = whatif_form.wanted(two_gpus[2].device, options)
    assert form.asked is None
    assert said in form.errors[field]


def test_release_knows_its_fields_and_warns(two_gpus: Any) -> None:
    device = two_gpus[2].device
    old = whatif_form.wanted(device, {"torch": "2.0"})
    assert [key for key in whatif_form.KEYS if old.knows(key)] == [
        "max_split_size_mb", "garbage_collection_threshold", "roundup_power2_divisions"
    ]  # fmt: skip
    assert all(whatif_form.wanted(device, {}).knows(key) for key in whatif_form.KEYS)
    both = whatif_form.wanted(device, {"conf": "expandable_segments:True,max_split_size_mb:64"})
    assert any("123548" in one for one in both.warnings)
    collects = {"conf": "garbage_collection_threshold:0.8"}
    assert any("does nothing" in one for one in whatif_form.wanted(device, collects).warnings)
    assert whatif_form.wanted(device, {**collects, "fraction": "0.5"}).warnings == ()


# ---- one replay ----

ASKED = [
    {},
    {"conf": "max_split_size_mb:32"},
    {"conf": "expandable_segments:True", "capacity": "1150MiB"},
    {"conf": "roundup_power2_divisions:4", "capacity": "no end"},
    {"conf": "", "fraction": "0.6"},
    {"torch": "2.3", "conf": "max_split_size_mb:64"},
]


@pytest.mark.parametrize("options", ASKED)
def test_figures_are_those_of_the_command(two_gpus: Any, options: dict[str, Any]) -> None:
    loaded = two_gpus[2]
    asked = whatif_form.wanted(loaded.device, options).asked
    assert asked is not None
    command = shlex.split(whatif_form.replay_command(loaded.item.source.path, 0, asked))
    (theirs,) = printed(*command[1:])["devices"]
    found = whatif_data.answer(loaded, asked)
    ours = asdict(found.comparison.outcome)
    assert ours == {name: theirs[name] for name in ours}
    assert found.comparison.limit_bytes == theirs["limit_bytes"]
    assert list(found.comparison.notes) == theirs["notes"]
    table = whatif_data.rows(found.comparison)
    assert table[-1] == (("basis", "recorded", "replayed") if options else ("basis", "recorded"))
    assert ("retries", *(str(n) for n in ([1, ours["num_alloc_retries"]] if options else [1]))) in table


@pytest.mark.parametrize("options", ASKED[1:])
def test_course_has_the_peaks_of_the_figures(two_gpus: Any, options: dict[str, Any]) -> None:
    loaded = two_gpus[2]
    found = whatif_data.answer(loaded, whatif_form.wanted(loaded.device, options).asked or Asked())
    outcome, course = found.comparison.outcome, found.course
    assert course is not None
    lines = whatif_data.timeline(course, 0, loaded.events, 400)
    assert lines["reserved"].y.max() == outcome.peak_reserved_bytes
    assert lines["allocated"].y.max() == outcome.peak_allocated_bytes
    assert course.reserved[-1] == outcome.final_reserved_bytes
    assert course.died == (None if outcome.first_oom is None else outcome.first_oom.event)
    assert max(len(one.x) for one in lines.values()) <= 400


def test_recorded_course_is_the_recording(two_gpus: Any) -> None:
    loaded = two_gpus[2]
    course = whatif_data.recorded_course(loaded.history)
    outcome = whatif_data.answer(loaded, Asked()).comparison.recorded
    lines = whatif_data.timeline(course, 0, loaded.events, 300)
    assert lines["reserved"].y.max() == outcome.peak_reserved_bytes
    assert lines["allocated"].y.max() == outcome.peak_allocated_bytes
    assert outcome.first_oom is not None
    assert course.died == outcome.first_oom.event
    for event in (0, 1, 4000, loaded.events):
        heap = loaded.history.heap_after(event).stats
        assert course.reserved[event] == heap["reserved_bytes"][0]
        assert course.allocated[event] == heap["allocated_bytes"][0]


def test_line_keeps_to_its_stretch() -> None:
    after = np.array([0, 10, 20, 30, 40], np.int64)
    values = np.array([1, 5, 2, 9, 3], np.int64)
    found = whatif_data.line(after, values, 15, 30, 100)
    assert found.x.tolist() == [15, 20, 30]  # what held at 15 was so since 10
    assert found.y.tolist() == [5, 2, 9]
    many = np.arange(100_000, dtype=np.int64)
    spike = np.zeros(100_000, np.int64)
    spike[[12_345, 77_777]] = [7, -7]
    found = whatif_data.line(many, spike, 0, 100_000, 200)
    assert len(found.x) <= 200
    assert (found.y.max(), found.y.min()) == (7, -7)


def test_words_say_how_it_ends_and_how_far_to_trust_it(two_gpus: Any) -> None:
    loaded = two_gpus[2]
    asked = whatif_form.wanted(loaded.device, {"conf": "max_split_size_mb:32"}).asked or Asked()
    headline, said, notes = whatif_data.sentences(whatif_data.answer(loaded, asked).comparison)
    assert headline.startswith("survives")
    assert "gets past the recorded out-of-memory error" in said
    assert notes[0] == "The replay puts 2,627 of 2,627 allocations where they were recorded."


# ---- the search ----


@pytest.fixture(scope="module")
def searched(to_the_end: Any) -> whatif_advice.Searched:
    library, item, _ = to_the_end
    return whatif_advice.search(library, item, 0, everywhere=False, capacity=CAPACITY, job=Job("search"))


def test_advice_is_that_of_the_command(to_the_end: Any, searched: whatif_advice.Searched) -> None:
    theirs = printed(
        "advise", to_the_end[1].source.path, "--device", "0", "--capacity", "1900MiB", "--workers", "1"
    )
    assert searched.document["devices"] == theirs["devices"]
    (one,) = theirs["devices"]
    rows = whatif_advice.rows(searched, 0)
    assert rows[0]["current"]
    assert rows[0]["survives"] == "dies at 7,992"
    others = [c for c in one["candidates"] if c["alloc_conf"] != one["current"]["alloc_conf"]]
    assert [
        (row["alloc_conf"], row["reserved"], row["retries"], row["needs"], row["basis"]) for row in rows[1:]
    ] == [
        (
            c["alloc_conf"],
            c["metrics"]["peak_reserved_bytes"],
            c["metrics"]["num_alloc_retries"],
            c["metrics"]["least_capacity_bytes"],
            c["basis"],
        )
        for c in others
    ]
    assert [row["alloc_conf"] for row in rows if row["mark"]] == [one["recommendation"]["alloc_conf"]]
    assert whatif_advice.max_split_words(searched, 0).startswith(f"{one['max_split_size_mb']['best']}. ")
    assert len({row["id"] for row in rows}) == len(rows)
    assert [whatif_advice.conf_of_row(row["id"]) for row in rows[1:]] == [c["alloc_conf"] for c in others]
    assert whatif_advice.conf_of_row(rows[0]["id"]) is None


def test_row_that_is_chosen_comes_to_its_figures(to_the_end: Any, searched: whatif_advice.Searched) -> None:
    loaded = to_the_end[2]
    best = next(row for row in whatif_advice.rows(searched, 0) if row["best"])
    options = {"conf": best["alloc_conf"], "capacity": "1900MiB"}
    found = whatif_data.answer(loaded, whatif_form.wanted(loaded.device, options).asked or Asked())
    assert found.comparison.outcome.peak_reserved_bytes == best["reserved"]
    assert found.comparison.outcome.num_alloc_retries == best["retries"]


def test_search_of_a_run_is_about_all_its_devices(two_gpus: Any) -> None:
    library, item, _ = two_gpus
    found, without = whatif_advice.recordings_of(library, item, 0, everywhere=True)
    assert [place.device for place, _ in found] == [0, 1]
    assert not without
    assert [
        place.device for place, _ in whatif_advice.recordings_of(library, item, 1, everywhere=False)[0]
    ] == [1]


def test_search_stops_when_it_is_told_to(to_the_end: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    library, item, _ = to_the_end
    begun: list[str] = []
    from oomdoctor.advice.evaluate import evaluate

    def counted(task: Any) -> Any:
        begun.append(task.alloc_conf)
        return evaluate(task)

    monkeypatch.setattr(whatif_advice, "evaluate", counted)
    job = Jobs().start(
        "key",
        "search",
        lambda job: whatif_advice.search(library, item, 0, everywhere=False, capacity=CAPACITY, job=job),
    )
    end = time.monotonic() + 60
    while len(begun) < 3 and time.monotonic() < end:
        time.sleep(0.005)
    job.cancel()
    assert job.wait(30)
    assert (job.state, job.result) == ("cancelled", None)
    assert 3 <= len(begun) < 20  # of some 35 in the first round alone
    assert whatif_advice._SEARCHING.acquire(timeout=1)
    whatif_advice._SEARCHING.release()


def test_search_tells_how_far_it_is() -> None:
    steps = [
        (1, 0, 30),
        (1, 29, 30),
        (2, 0, 20),
        (2, 19, 20),
        *((n, i, 10) for n in range(3, 10) for i in (0, 9)),
    ]
    told = [whatif_advice._progress(*step) for step in steps]
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert 0 <= told[0][1] < told[-1][1] <= whatif_advice.WHOLE
    assert told[0][0] == "Settings alone: 0 of 30"


def test_without_history_there_is_nothing_to_search(state_only: Any) -> None:
    from oomdoctor.errors import InputError

    library, item, _ = state_only
    with pytest.raises(InputError, match="nothing to replay"):
        whatif_advice.recordings_of(library, item, 0, everywhere=False)


def test_commands_to_paste() -> None:
    asked = Asked(
        alloc_conf="roundup_power2_divisions:[1:8,>:1]", capacity=5, torch=(2, 3), memory_fraction=0.5
    )
    assert whatif_form.replay_command("a b.pickle", 1, asked) == (
        "oomdoctor replay 'a b.pickle' --device 1 --alloc-conf 'roundup_power2_divisions:[1:8,>:1]'"
        " --capacity 5 --torch 2.3 --memory-fraction 0.5"
    )
    assert whatif_advice.advise_command("run", None, 7, "0002-exit") == (
        "oomdoctor advise run --dump 0002-exit --capacity 7 --prove"
    )


# ---- figures ----


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_courses_are_drawn_over_one_another(two_gpus: Any, theme: str) -> None:
    loaded = two_gpus[2]
    found = whatif_data.answer(
        loaded, whatif_form.wanted(loaded.device, {"conf": "", "capacity": "1100MiB"}).asked or Asked()
    )
    recorded = whatif_data.recorded_course(loaded.history)
    assert found.course is not None
    assert found.course.died is not None
    figure = figures.courses(
        whatif_data.timeline(recorded, 0, loaded.events, 2000),
        whatif_data.timeline(found.course, 0, loaded.events, 2000),
        low=0, high=loaded.events, event=4000, limit=found.comparison.limit_bytes,
        died=[("recorded", recorded.died), ("replayed", found.course.died)], theme=theme,
    )  # fmt: skip
    names = [trace.name for trace in figure.data]
    assert names == [
        "reserved, recorded", "allocated, recorded", "reserved, replayed", "allocated, replayed",
        "out of memory, recorded", "out of memory, replayed",
    ]  # fmt: skip
    assert figure.data[4].x[0] == recorded.died
    assert figure.data[5].x[0] == found.course.died
    assert max(figure.data[2].x) <= found.course.died + 1
    assert figure.layout.shapes[0].x0 == 4000
    assert figure.layout.shapes[1].y0 == pytest.approx(1100 / 1024)
    assert figure.layout.paper_bgcolor == paper(theme)
    assert len(figure.to_json()) < 400_000


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_trade_off_shows_what_survives(searched: whatif_advice.Searched, theme: str) -> None:
    rows = whatif_advice.rows(searched, 0)
    figure = figures.trade_off(rows, capacity=CAPACITY, theme=theme)
    drawn = {str(one) for trace in figure.data if trace.customdata is not None for one in trace.customdata}
    assert drawn == {row["id"] for row in rows if row["survives"] == "yes"}
    star = next(trace for trace in figure.data if trace.name == "recommended")
    best = next(row for row in rows if row["best"])
    assert (list(star.x), list(star.y)) == ([best["calls"]], [best["needs"]])
    edge = next(trace for trace in figure.data if trace.name == "best of both")
    assert list(edge.x) == sorted(edge.x)
    assert list(edge.y) == sorted(edge.y, reverse=True)
    dead = [row for row in rows if row["survives"] != "yes"]
    assert dead
    none = figures.trade_off(dead, capacity=None, theme=theme)
    assert "No setting survives." in [one.text for one in none.layout.annotations]


# ---- the page ----


class Page:
    """The server of a dashboard, asked as the browser does."""

    def __init__(self, library: Library) -> None:
        self.app = create_app(library)
        self.client = self.app.server.test_client()

    def ask(self, of: str, changed_id: str, values: dict[str, Any], *others: str) -> dict[str, Any]:
        """Call the callback that writes ``of`` ("id.prop"); what it says of each "id.prop" that it writes.

        ``others`` have changed as well, before ``changed_id``.
        """
        (name, entry), *_ = [
            (name, entry)
            for name, entry in self.app.callback_map.items()
            if of in self.written(name)
            and any(one["id"] + "." + one["property"] == changed_id for one in entry["inputs"])
        ]
        outputs = [dict(zip(("id", "property"), one.rsplit(".", 1))) for one in self.written(name)]

        def given(one: dict[str, str]) -> dict[str, Any]:
            key = f"{one['id']}.{one['property']}"
            clicks = 1 if key.endswith(".n_clicks") and key in (*others, changed_id) else None
            return {**one, "value": values.get(key, clicks)}

        answer = self.client.post(
            "/_dash-update-component",
            json={
                "output": name,
                "outputs": outputs if name.startswith("..") else outputs[0],
                "inputs": [given(one) for one in entry["inputs"]],
                "state": [given(one) for one in entry["state"]],
                "changedPropIds": [*others, changed_id],
            },
        )
        if answer.status_code == 204:
            return {}
        assert answer.status_code == 200, answer.text
        whole = json.loads(answer.text)
        found: dict[str, dict[str, Any]] = {}
        for part in (whole.get("response") or {}, whole.get("sideUpdate") or {}):
            for one, props in part.items():
                found.setdefault(one, {}).update(props)
        return {
            f"{one}.{prop}": _patched(values["view.data"], value) if one == "view" else value
            for one, props in found.items()
            for prop, value in props.items()
        }

    @staticmethod
    def written(name: str) -> list[str]:
        return name.strip(".").split("...") if name.startswith("..") else [name]


def _patched(view: dict[str, Any], patch: Any) -> dict[str, Any]:
    """The view, and what is to be other, as a browser puts them together."""
    assert patch["__dash_patch_update"]
    new = json.loads(json.dumps(view))
    for change in patch["operations"]:
        *path, last = change["location"]
        place = new
        for key in path:
            place = place.setdefault(key, {})
        if change["operation"] == "Delete":
            del place[last]
        else:
            assert change["operation"] == "Assign"
            place[last] = change["params"]["value"]
    return new


def view_of(item: Item, **options: Any) -> Any:
    return with_options(changed(None, item=item.key, device=0, tab="whatif"), "whatif", **options)


def shown_until_done(page: Page, view: Any, of: str = "whatif-graph.figure") -> dict[str, Any]:
    trigger, values = "whatif-shown.data", {"whatif-shown.data": view}
    for _ in range(200):
        found = page.ask(of, trigger, values)
        if of in found or not found:
            return found
        trigger = "whatif-poll.n_intervals"
        time.sleep(0.05)
    raise AssertionError("it does not end")


def test_page_fills_its_form_from_the_address(two_gpus: Any) -> None:
    library, item, _ = two_gpus
    page = Page(library)
    view = view_of(item, conf="max_split_size_mb:64,expandable_segments:True", capacity="2GiB")
    found = page.ask("whatif-conf.value", "whatif-settled.data", {"whatif-settled.data": view})
    assert found["whatif-conf.value"] == "max_split_size_mb:64,expandable_segments:True"
    assert found["whatif-max_split_size_mb.value"] == 64
    assert found["whatif-expandable_segments.checked"] is True
    assert found["whatif-capacity.value"] == "2GiB"
    assert found["whatif-capacity.placeholder"] == "1.17 GiB (recorded)"
    assert "123548" in json.dumps(found["whatif-warnings.children"])
    wrong = view_of(item, conf="max_split_size_mb:5")
    found = page.ask("whatif-conf.value", "whatif-settled.data", {"whatif-settled.data": wrong})
    assert "at least 20" in found["whatif-max_split_size_mb.error"]
    shown = page.ask("whatif-graph.figure", "whatif-shown.data", {"whatif-shown.data": wrong})
    assert "torch 2.15 rejects these settings" in json.dumps(shown["whatif-problem.children"])
    assert "whatif-graph.figure" not in shown


def test_page_takes_a_field_into_the_address(two_gpus: Any) -> None:
    library, item, _ = two_gpus
    page = Page(library)
    view = view_of(item, conf="max_split_size_mb:64")
    fields = {"whatif-conf.value": "max_split_size_mb:64", "whatif-max_split_size_mb.value": 128}
    values = {"view.data": view, "whatif-shown.data": view, **fields}
    of = next(
        out for name in page.app.callback_map for out in page.written(name)
        if out.startswith("view.data") and "whatif-max_split_size_mb.value" in
        {f"{one['id']}.{one['property']}" for one in page.app.callback_map[name]["inputs"]}
    )  # fmt: skip
    found = page.ask(of, "whatif-max_split_size_mb.value", values)
    assert _only(found)["options"] == {"whatif": {"conf": "max_split_size_mb:128"}}
    values["whatif-max_split_size_mb.value"] = 64
    assert page.ask(of, "whatif-max_split_size_mb.value", values) == {}
    assert _only(page.ask(of, "whatif-reset.n_clicks", values))["options"] == {"whatif": {}}


def _only(found: dict[str, Any]) -> Any:
    (value,) = found.values()
    return value


def test_page_shows_a_replay_and_moves_the_moment_alone(two_gpus: Any) -> None:
    library, item, loaded = two_gpus
    page = Page(library)
    view = view_of(item, conf="max_split_size_mb:32")
    found = shown_until_done(page, view)
    assert found["whatif-headline.children"] == "As asked: survives, 1.17 GiB reserved at the peak"
    asked = whatif_form.wanted(loaded.device, {"conf": "max_split_size_mb:32"}).asked
    table = json.dumps(found["whatif-figures.children"])
    for row in whatif_data.rows(whatif_data.answer(loaded, asked or Asked()).comparison):
        assert all(json.dumps(value) in table for value in row)
    assert "--alloc-conf max_split_size_mb:32 --capacity 1258291200" in json.dumps(
        found["whatif-words.children"]
    )
    values = {"whatif-shown.data": changed(view, event=77), "whatif-drawn.data": found["whatif-drawn.data"]}
    moved = page.ask("whatif-graph.figure", "whatif-shown.data", values)
    assert moved["whatif-graph.figure"]["operations"][0]["params"]["value"]["x0"] == 77
    assert "whatif-figures.children" not in moved


def test_page_searches_stops_and_searches_again(to_the_end: Any) -> None:
    library, item, _ = to_the_end
    page = Page(library)
    view = view_of(item, capacity="1900MiB", conf="max_split_size_mb:64")
    values = {"whatif-shown.data": view}
    of = "whatif-advice-problem.children"
    found = page.ask(of, "whatif-search.n_clicks", values)
    assert found["whatif-advice-poll.max_intervals"] == 1
    assert found["whatif-search.disabled"] is True
    found = page.ask(of, "whatif-advice-cancel.n_clicks", values, "whatif-shown.data")
    assert "The search was stopped" in json.dumps(found["whatif-advice-problem.children"])
    assert found["whatif-advice-poll.max_intervals"] == 0
    found = page.ask(of, "whatif-search.n_clicks", values, "whatif-shown.data")
    for _ in range(600):
        if not found["whatif-advice-poll.max_intervals"]:
            break
        assert 0 <= found["whatif-advice-progress.value"] <= 100
        time.sleep(0.1)
        found = page.ask(of, "whatif-advice-poll.n_intervals", values)
    assert found["whatif-table.rowData"][0]["setting"] == "as recorded (defaults)"
    said = json.dumps(found["whatif-conclusion.children"])
    assert "ALLOC_CONF=expandable_segments:True" in said
    assert "oomdoctor compare" in said
    assert f"--capacity {CAPACITY} --prove" in said
    assert "everywhere" not in [column["field"] for column in found["whatif-table.columnDefs"]]
    clicked = page.ask(
        next(
            out for name in page.app.callback_map for out in page.written(name)
            if out.startswith("view.data") and "whatif-table" in
            {one["id"] for one in page.app.callback_map[name]["inputs"]}
        ),
        "whatif-table.cellClicked",
        {"view.data": view, "whatif-table.cellClicked": {"rowId": "conf:expandable_segments:True"}},
    )  # fmt: skip
    assert _only(clicked)["options"]["whatif"]["conf"] == "expandable_segments:True"


def test_page_says_that_there_is_nothing_to_replay(state_only: Any) -> None:
    library, item, _ = state_only
    page = Page(library)
    found = page.ask("whatif-conf.value", "whatif-settled.data", {"whatif-settled.data": view_of(item)})
    assert "There is nothing to replay" in json.dumps(found["whatif-nothing.children"])
    assert "No request was recorded, so no setting can be tried." in json.dumps(
        found["whatif-nothing.children"]
    )
    assert found["whatif-page.style"] == {"display": "none"}
    assert shown_until_done(page, view_of(item)) == {}


def test_page_is_silent_while_another_is_open(two_gpus: Any) -> None:
    library, item, _ = two_gpus
    page = Page(library)
    view = changed(view_of(item), tab="live")
    assert shown_until_done(page, view) == {}


def test_axis_asks_for_a_stretch() -> None:
    from oomdoctor_dashboard.pages.whatif import _stretch

    assert _stretch({"xaxis.range[0]": 10.2, "xaxis.range[1]": 19.5}, 100) == (10, 20)
    assert _stretch({"xaxis.range": [10, 20]}, 100) == (10, 20)
    assert _stretch({"xaxis.range[0]": -5, "xaxis.range[1]": 400}, 100) == (None, None)
    assert _stretch({"xaxis.autorange": True}, 100) == (None, None)
    assert _stretch({"autosize": True}, 100) is None


def decoded(values: Any) -> np.ndarray[Any, Any]:
    """Numbers of a figure's JSON, which Plotly writes in base 64."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return np.asarray(values)


def test_page_draws_the_peak_of_the_figures(two_gpus: Any) -> None:
    library, item, loaded = two_gpus
    view = view_of(item, conf="max_split_size_mb:64", capacity="no end")
    figure = shown_until_done(Page(library), view)["whatif-graph.figure"]
    (theirs,) = printed(
        "replay", loaded.item.source.path, "--device", "0", "--alloc-conf", "max_split_size_mb:64"
    )["devices"]
    drawn = {trace["name"]: decoded(trace["y"]) for trace in figure["data"]}
    assert drawn["reserved, replayed"].max() * (1 << 30) == pytest.approx(theirs["peak_reserved_bytes"])
    assert drawn["allocated, replayed"].max() * (1 << 30) == pytest.approx(theirs["peak_allocated_bytes"])
