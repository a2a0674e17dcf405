"""The compare page: lines on one axis, places, and its callbacks as the browser calls them."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from oomdoctor.cli import group
from oomdoctor.comparison.compare import Pair
from oomdoctor.units import MIB

pytest.importorskip("dash")

from oomdoctor_dashboard.compare_data import SERIES, SIDES, Courses
from oomdoctor_dashboard.figures import compare as figures
from oomdoctor_dashboard.figures.theme import paper
from oomdoctor_dashboard.library import Library
from oomdoctor_dashboard.pages import compare as page
from oomdoctor_dashboard.view import View, changed, options_of, with_options

from tests.comparison.building import died, pair, program, without_history
from tests.dashboard.browser import Tab, chromium, served
from tests.dashboard.test_whatif import Page
from tests.snapshot.building import frame, live, segment, snapshot

TRACES = Path(__file__).parents[2] / "traces"
TWO_GPUS = str(TRACES / "llama-4-layers-two-gpus")


def drawn(found: Pair) -> Courses:
    assert found.positions is not None
    return Courses(found, found.positions)


def save(folder: Path, **plain: Any) -> list[str]:
    paths = []
    for name, one in plain.items():
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(one, 4))
        paths.append(str(folder / f"{name}.pickle"))
    return paths


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Page, Library, View]:
    """A and B, an earlier death and a survivor, both open; the first is shown."""
    library = Library()
    for path in save(tmp_path, a=died(7, 40 * MIB), b=program(expandable_segments=True)):
        library.add(path)
    first, second = library.items()
    return Page(library), library, changed(None, item=first.key, device=0, other=second.key, tab="compare")


def after(one: Page, view: View, **values: Any) -> dict[str, Any]:
    """What the page shows when its reading is done."""
    for _ in range(200):
        said = one.ask(
            "compare-verdict.children", "compare-shown.data", {"compare-shown.data": view, **values}
        )
        if not said.get("compare-poll.max_intervals"):
            return said
        time.sleep(0.05)
    raise AssertionError("still reading")


# ---- lines ----


def test_lines_are_the_totals_of_the_recording_where_they_stand() -> None:
    found = pair(died(7, 40 * MIB), program(expandable_segments=True))
    courses = drawn(found)
    for side, one, places in (
        ("a", found.a, courses.positions.places_a),
        ("b", found.b, courses.positions.places_b),
    ):
        for name in SERIES:
            line = courses.line(side, name, courses.low, courses.high)
            assert line.x.tolist() == places.tolist()
            assert line.y.tolist() == [0, *one.history.effects[f"{name}_bytes"].tolist()]
    assert courses.ooms == (("a", 5.0),)


def test_few_points_keep_every_peak() -> None:
    library = Library()
    (item,) = library.add(str(TRACES / "llama-2-layers-to-the-end"))
    device = library.loaded(item.key, 0).device
    courses = drawn(Pair(device, device))
    whole = device.history.effects["reserved_bytes"]
    line = courses.line("a", "reserved", courses.low, courses.high, most=200)
    assert len(line.x) <= 202
    assert line.y.max() == whole.max()
    assert (np.diff(line.x) > 0).all()
    assert (line.x[0], line.x[-1]) == (courses.low, courses.high)
    low, high = 3000.0, 3050.0
    close = courses.line("a", "allocated", low, high)
    inside = courses.positions.places_a
    first = int(np.searchsorted(inside, low, side="right")) - 1
    assert close.x.tolist() == inside[first : np.searchsorted(inside, high, side="right")].tolist()


def test_levels_are_those_of_states_that_belong_together() -> None:
    found = pair(died(7, 40 * MIB), program(expandable_segments=True))
    courses = drawn(found)
    event = int(courses.positions.allocs_a[3]) + 1
    levels = courses.levels(event)
    assert levels.event_b == int(courses.positions.allocs_b[3]) + 1
    assert levels.allocated[0] == found.a.history.effects["allocated_bytes"][event - 1]
    assert levels.reserved[1] == found.b.history.effects["reserved_bytes"][levels.event_b - 1]
    assert courses.levels(0).allocated == (0, 0)


def test_a_stretch_fits_the_axis() -> None:
    courses = drawn(pair(program(), program()))
    whole = (courses.low, courses.high)
    assert courses.window(None, None) == whole
    assert courses.window(9.0, 3.0) == whole
    assert courses.window(-99.0, 99.0) == whole
    low, high = courses.window(2.0, 2.1)
    assert high - low == pytest.approx(4.0)
    assert page.zoomed({"xaxis.autorange": True}, courses) == (None, None)
    assert page.zoomed({"xaxis.range[0]": 0.5, "xaxis.range[1]": 4.75}, courses) == (0.5, 4.75)
    assert page.zoomed({"autosize": True}, courses) is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_has_both_and_where_memory_ran_out(theme: str) -> None:
    courses = drawn(pair(died(7, 40 * MIB), program(expandable_segments=True)))
    lines = {(s, n): courses.line(s, n, courses.low, courses.high) for s in SIDES for n in SERIES}
    figure = figures.aligned(
        lines, low=courses.low, high=courses.high, moment=3.0, ooms=courses.ooms, theme=theme
    )
    names = [trace.name for trace in figure.data]
    assert names == ["A: reserved", "A: allocated", "B: reserved", "B: allocated", "A: out of memory"]
    assert figure.data[4].x[0] == 5.0
    assert max(figure.data[0].y) == 70  # MiB
    assert figure.layout.shapes[0].x0 == 3.0
    assert figure.layout.paper_bgcolor == paper(theme)


# ---- places ----


def test_bars_show_what_differs_and_no_markup() -> None:
    hostile = frame("<b>kv</b><script>alert(1)</script>", "/a/<img src=x>.py", 3)
    found = pair(
        snapshot(segment(1 << 40, live(4 * MIB, stack=[hostile]), live(MIB))),
        snapshot(segment(1 << 40, live(9 * MIB, stack=[hostile]), live(MIB))),
    )
    by_place = found.by_place(found.point("end"))
    figure = figures.by_place(by_place.held, "light")
    (bars,) = figure.data
    assert list(bars.x) == [5 * MIB]
    assert list(bars.text) == ["+5.00 MiB"]
    shown = [*figure.layout.yaxis.ticktext, *bars.customdata]
    assert all("<script" not in text and "<b>" not in text and "<img" not in text for text in shown)
    assert "&lt;b&gt;" in figure.layout.yaxis.ticktext[0]
    row, *_ = page.place_rows(by_place)
    assert (row["difference"], row["difference_text"], row["change"]) == (5 * MIB, "+5.00 MiB", "more")


# ---- the page ----


def test_nothing_chosen_says_so(opened: tuple[Page, Library, View]) -> None:
    one, _, view = opened
    said = one.ask(
        "compare-verdict.children", "compare-shown.data", {"compare-shown.data": {**view, "other": None}}
    )
    assert "Choose what to compare with" in json.dumps(said["compare-problem.children"])
    assert said["compare-body.style"] == {"display": "none"}
    gone = one.ask(
        "compare-verdict.children",
        "compare-shown.data",
        {"compare-shown.data": {**view, "other": "feedbeef"}},
    )
    assert "not open here" in json.dumps(gone["compare-problem.children"])
    other_tab = one.ask(
        "compare-verdict.children", "compare-shown.data", {"compare-shown.data": {**view, "tab": "live"}}
    )
    assert other_tab == {}


def test_it_says_what_the_command_says(opened: tuple[Page, Library, View]) -> None:
    one, library, view = opened
    said = after(one, view)
    paths = [item.source.path for item in library.items()]
    result = CliRunner().invoke(group, ["compare", *paths, "--json"], catch_exceptions=False)
    (theirs,) = json.loads(result.stdout)["pairs"]
    verdict = json.dumps(said["compare-verdict.children"])
    assert theirs["verdict"]["summary"] in verdict
    assert theirs["same_requests"]["summary"] in verdict
    assert "expandable_segments=True" in verdict
    figures_shown = json.dumps(said["compare-figures.children"])
    assert f"{theirs['figures']['peak_reserved_bytes']['a'] / MIB:.2f} MiB" in figures_shown
    assert said["compare-body.style"] == {}
    # The rest of the page follows.
    values = {"compare-shown.data": view, "compare-drawn.data": said["compare-drawn.data"]}
    places = one.ask("compare-table.rowData", "compare-drawn.data", values)
    ours = [(row["a"], row["b"], row["difference"]) for row in places["compare-table.rowData"]]
    assert ours == [(h["a_bytes"], h["b_bytes"], h["difference_bytes"]) for h in theirs["by_place"]]
    lines = one.ask("compare-graph.figure", "compare-drawn.data", values)
    assert len(lines["compare-graph.figure"]["data"]) == 5
    assert len(json.dumps(lines)) < 300_000


def test_the_moment_moves_in_both_without_drawing_anew(opened: tuple[Page, Library, View]) -> None:
    one, _, view = opened
    mark = after(one, view)["compare-drawn.data"]
    first = one.ask(
        "compare-graph.figure", "compare-shown.data", {"compare-shown.data": view, "compare-drawn.data": mark}
    )
    moved = one.ask(
        "compare-graph.figure",
        "compare-shown.data",
        {
            "compare-shown.data": {**view, "event": 4},
            "compare-drawn.data": mark,
            "compare-lines.data": first["compare-lines.data"],
        },
    )
    patch = moved["compare-graph.figure"]
    assert patch["__dash_patch_update"]
    assert {op["params"]["value"] for op in patch["operations"]} == {1.0}
    assert "after 4 events of A, 3 of B" in json.dumps(moved["compare-moment.children"])
    places = one.ask(
        "compare-table.rowData",
        "compare-shown.data",
        {
            "compare-shown.data": with_options({**view, "event": 4}, "compare", when="moment"),
            "compare-drawn.data": mark,
        },
    )
    assert "at this moment: after 4 events of A (replayed) and 3 of B" in places["compare-at.children"]


def test_a_click_sets_the_moment(opened: tuple[Page, Library, View]) -> None:
    one, library, view = opened
    after(one, view)
    values = {
        "compare-graph.clickData": {"points": [{"x": 2.0}]},
        "view.data": view,
        "compare-shown.data": view,
    }
    # Several callbacks write the view: Dash tells them apart by a hash behind the name.
    (name,) = (
        out
        for key, entry in one.app.callback_map.items()
        if any(i["id"] == "compare-graph" and i["property"] == "clickData" for i in entry["inputs"])
        for out in one.written(key)
    )
    said = one.ask(name, "compare-graph.clickData", values)
    (new,) = said.values()
    positions = page.compare(library, page.key_of(view))[0].positions
    assert positions is not None
    assert new["event"] == int(positions.allocs_a[2]) + 1


def test_b_takes_the_device_that_there_is() -> None:
    library = Library()
    (item,) = library.add(TWO_GPUS)
    view = changed(None, item=item.key, device=1, other=item.key, tab="compare")
    assert page.compare(library, page.key_of(view))[0].b.device == 1
    other = page.compare(library, page.key_of(with_options(view, "compare", device=0)))[0]
    assert (other.a.device, other.b.device) == (1, 0)
    (last,) = library.add(str(TRACES / "llama-2-layers-to-the-end"))
    assert page.compare(library, (item.key, 1, last.key, None))[0].b.device == 0


def test_swapping_makes_b_a() -> None:
    view = with_options(changed(None, item="x", device=1, other="y", event=5), "compare", low=1.0, high=9.0)
    new = page.swapped(view, "3")
    assert (new["item"], new["device"], new["other"], new["event"]) == ("y", 3, "x", None)
    assert options_of(new, "compare") == {"device": 1}


def test_without_history_there_are_figures_and_places(tmp_path: Path) -> None:
    library = Library()
    for path in save(tmp_path, a=without_history(program()), b=program(expandable_segments=True)):
        library.add(path)
    first, second = library.items()
    one, view = Page(library), changed(None, item=first.key, device=0, other=second.key, tab="compare")
    said = after(one, view)
    assert "A has no history" in json.dumps(said["compare-verdict.children"])
    values = {"compare-shown.data": view, "compare-drawn.data": said["compare-drawn.data"]}
    lines = one.ask("compare-graph.figure", "compare-drawn.data", values)
    assert lines["compare-graph.style"] == {"display": "none"}
    places = one.ask("compare-table.rowData", "compare-drawn.data", values)
    assert places["compare-at.children"].startswith("at the end")


def test_a_file_that_is_no_snapshot_is_told_on_the_page(tmp_path: Path) -> None:
    library = Library()
    (tmp_path / "bad.pickle").write_text("hello")
    (path,) = save(tmp_path, a=program())
    for one in (path, str(tmp_path / "bad.pickle")):
        library.add(one)
    first, second = library.items()
    said = after(Page(library), changed(None, item=first.key, device=0, other=second.key, tab="compare"))
    assert "bad.pickle" in json.dumps(said["compare-problem.children"])
    assert said["compare-body.style"] == {"display": "none"}


def test_in_a_browser(tmp_path: Path) -> None:
    library = Library()
    for path in save(tmp_path, a=died(7, 40 * MIB), b=program(expandable_segments=True)):
        library.add(path)
    first, second = library.items()
    with served(library) as address, chromium() as browser:
        tab = Tab(browser.new_page(viewport={"width": 1440, "height": 900}), address)
        tab.open(f"?item={first.key}&tab=compare&other={second.key}")
        tab.page.wait_for_selector("#compare-graph .scatterlayer .trace path", timeout=60_000)
        tab.rest()
        assert "B survives where A died at allocation 5." in tab.text("#compare-verdict")
        box = tab.page.locator("#compare-graph .nsewdrag").first.bounding_box()
        tab.page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
        tab.rest(800)
        event = int(tab.query()["event"])
        assert 0 < event < 13
        assert f"after {event} events of A" in tab.text("#compare-moment")
        tab.page.locator("#compare-swap").click()
        tab.page.wait_for_function(
            "document.querySelector('#compare-verdict').innerText.startsWith('B dies')", timeout=60_000
        )
        tab.rest()
        assert tab.query()["item"] == second.key
        assert tab.wrong == []
