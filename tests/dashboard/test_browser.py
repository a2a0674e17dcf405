"""The dashboard as a person uses it, in a real browser, on real recordings."""

from __future__ import annotations

import base64
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.library import Library
from oomdoctor_dashboard.view import changed, elsewhere

from oomdoctor.diagnosis.inspection import inspect_device
from oomdoctor.reporters import inspect_json
from oomdoctor.units import format_bytes

from .browser import WAIT_MS, Tab, chromium, served

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

TRACES = Path(__file__).parents[2] / "traces"
RUN = TRACES / "llama-4-layers-two-gpus"
LONG = TRACES / "llama-2-layers-to-the-end"
TABS = ("overview", "segments", "live", "fragmentation", "whatif", "compare")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def library() -> Library:
    library = Library()
    library.add(str(RUN))
    library.add(str(LONG))
    return library


@pytest.fixture(scope="module")
def address(library: Library) -> Iterator[str]:
    with served(library) as found:
        yield found


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    tab = Tab(context.new_page(), address)
    yield tab
    context.close()
    assert tab.wrong == []


def state(library: Library, event: int, device: int = 0) -> dict[str, Any]:
    """What ``inspect --json --event`` says of the run's first device."""
    loaded = library.loaded(library.items()[0].key, device)
    document = inspect_json.document([inspect_device(loaded.device, event)])
    found: dict[str, Any] = document["devices"][0]
    return found


def test_the_story_and_every_page(tab: Tab) -> None:
    tab.open()
    tab.drawn()
    assert "ran out of memory: fragmentation" in tab.text("#story")
    assert "export PYTORCH_CUDA_ALLOC_CONF=" in tab.text("#story")
    for name in TABS:
        tab.tab(name)
        assert tab.query().get("tab", "overview") == name
        if name != "compare":  # which asks for the other recording
            assert tab.page.locator(f"#{name}-problem [role=alert]").count() == 0, name


def test_a_click_on_the_timeline_sets_the_moment_everywhere(tab: Tab, library: Library) -> None:
    tab.open("?tab=live")
    tab.drawn()
    box = tab.page.locator("#timeline-graph .nsewdrag").first.bounding_box()
    tab.page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    tab.page.wait_for_function("new URLSearchParams(location.search).has('event')")
    tab.rest()
    event = int(tab.query()["event"])
    assert 3500 < event < 4400
    assert tab.page.locator("#moment-event").input_value().replace(",", "") == str(event)
    found = state(library, event)["state"]
    assert format_bytes(found["allocated_bytes"] + found["pending_bytes"]) in tab.text("#live-totals")


@pytest.mark.parametrize("event", [500, 7812])
def test_numbers_are_those_of_inspect(tab: Tab, library: Library, event: int) -> None:
    tab.open(f"?tab=fragmentation&event={event}")
    tab.drawn()
    told = state(library, event)
    text = tab.text("#fragmentation-pools")
    for pool in told["pools"]:
        assert format_bytes(pool["reserved_bytes"]) in text
        assert format_bytes(pool["largest_free_bytes"]) in text
    tab.tab("live")
    live = told["state"]["allocated_bytes"] + told["state"]["pending_bytes"]
    count = sum(1 for block in told["blocks"] if block["state"] != "inactive")
    totals = tab.text("#live-totals")
    assert format_bytes(live) in totals
    assert f"{count:,}" in totals


def test_an_address_shows_the_same_again(tab: Tab) -> None:
    tab.open()
    tab.drawn()
    tab.tab("segments")
    tab.move(1234)
    tab.page.locator("label[for=theme], #theme").first.click(force=True)
    tab.rest()
    asked = tab.query()
    assert (asked["tab"], asked["event"], asked["theme"]) == ("segments", "1234", "dark")
    href = tab.page.evaluate("location.href")
    tab.page.goto("about:blank")
    tab.page.goto(href)
    tab.drawn()
    assert tab.query() == asked
    assert tab.page.locator("#moment-event").input_value().replace(",", "") == "1234"
    assert tab.page.locator("html").get_attribute("data-mantine-color-scheme") == "dark"


@pytest.mark.parametrize("at_hand", [False, True])
def test_an_address_that_asks_for_the_state_after_more_events_than_there_are(
    browser: Any, at_hand: bool
) -> None:
    library = Library()
    library.add(str(RUN))
    if at_hand:
        assert library.load(library.items()[0].key, None).wait(60)
    with served(library) as address:
        tab = Tab(browser.new_page(), address).open("?event=999999999")
        tab.drawn()
        shown = tab.page.locator("#moment-event").input_value().replace(",", "")
        assert tab.query()["event"] == shown
        assert int(shown) < 999999999
        assert tab.wrong == []
        tab.page.close()


_ASKED = {
    "segments": {"pool": "large", "colour": "stack", "holes": True},
    "live": {"text": "linear", "size": "1 MiB", "group": "place", "frames": True},
    "fragmentation": {"what": "hole_bytes", "later": "1000", "unit": "count"},
    "whatif": {"conf": "max_split_size_mb:128", "capacity": "2GiB"},
}


@pytest.mark.parametrize("name", list(_ASKED))
def test_what_an_address_asks_for_stays_when_its_page_comes(tab: Tab, name: str) -> None:
    """Dash calls what looks after a choice when the boxes appear, and nobody has chosen then."""
    tab.open(f"?tab={name}&event=5000&options=" + quote(json.dumps({name: _ASKED[name]})))
    tab.drawn()
    tab.page.wait_for_selector(f"#{name}-themed, #{name}-graph, #{name}-panel", state="attached")
    tab.rest(800)
    for _ in range(2):
        assert json.loads(tab.query()["options"]) == {name: _ASKED[name]}
        tab.tab("overview")
        tab.tab(name)
    assert tab.query()["event"] == "5000"
    shown = {"segments": "colour", "live": "text", "fragmentation": "what", "whatif": "conf"}[name]
    words = {"segments": "colour by stack", "live": "linear", "fragmentation": "in holes, every pool"}
    box = tab.page.locator(f"#{name}-{shown}")
    assert box.input_value() == words.get(name, "max_split_size_mb:128")
    assert tab.page.locator(f"#{name}-problem [role=alert]").count() == 0


def test_keys_step_and_do_not_while_one_types(tab: Tab) -> None:
    tab.open("?event=100")
    tab.drawn()
    tab.page.locator("#story").click()
    for key, event in (
        ("ArrowRight", 101),
        ("ArrowRight", 102),
        ("ArrowLeft", 101),
        ("Shift+ArrowRight", 201),
    ):
        tab.page.keyboard.press(key)
        tab.page.wait_for_function(
            "event => new URLSearchParams(location.search).get('event') === event",
            arg=str(event),
            timeout=20_000,
        )
        tab.rest()
    tab.tab("live")
    tab.page.locator("#live-text").click()
    tab.page.keyboard.press("ArrowRight")
    tab.rest()
    assert tab.query()["event"] == "201"


def test_the_other_device_and_the_other_run(tab: Tab, library: Library) -> None:
    tab.open()
    tab.drawn()
    tab.page.locator("#device").click()
    tab.page.get_by_role("option", name="GPU 1").click()
    tab.page.wait_for_function("new URLSearchParams(location.search).get('device') === '1'")
    tab.drawn()
    assert "GPU 1" in tab.text("#story")
    tab.page.locator("#item").click()
    tab.page.get_by_role("option", name=LONG.name).click()
    tab.page.wait_for_function(
        "!document.querySelector('#story').innerText.includes('GPU 1')", timeout=60_000
    )
    tab.drawn()
    assert "no out-of-memory error" in tab.text("#story")


def test_a_choice_holds_while_the_page_looks_for_news(tab: Tab) -> None:
    """What looks after the boxes every few seconds does not set back what was just chosen, and however long
    answers take, the questions how far reading is do not overtake each other."""
    tab.open()
    tab.drawn()
    tab.page.locator("#device").click()
    tab.page.get_by_role("option", name="GPU 1").wait_for()
    tab.page.evaluate(
        """() => {
          const fetch_ = window.fetch;
          window.fetch = async (where, what) => {
            const follows = String(what && what.body).includes('"id":"follow"');
            if (!follows) await new Promise(done => setTimeout(done, 500));
            return fetch_(where, what);
          };
          [...document.querySelectorAll("[role=option]")].find(one => one.innerText === "GPU 1").click();
          setTimeout(() => window.dash_clientside.set_props("follow", {n_intervals: 1000}), 150);
        }"""
    )
    tab.page.wait_for_function(
        "document.querySelector('#story').innerText.includes('GPU 1')", timeout=WAIT_MS
    )
    tab.rest()
    assert tab.query()["device"] == "1"
    assert tab.page.locator("#device").input_value() == "GPU 1"


def test_a_key_that_is_held_shows_what_it_passes(tab: Tab) -> None:
    """Answers that are overtaken by the next step would never be drawn."""
    tab.open("?event=3000&tab=segments")
    tab.drawn()
    seen = tab.page.evaluate(
        """() => new Promise(done => {
          const seen = [];
          const line = document.getElementById("moment-line");
          new MutationObserver(() => seen.push(Number(line.dataset.event)))
            .observe(line, {attributeFilter: ["data-event"]});
          let times = 0;
          const held = setInterval(() => {
            const press = {key: "ArrowRight", bubbles: true, repeat: times > 0};
            document.body.dispatchEvent(new KeyboardEvent("keydown", press));
            if (++times < 150) return;
            clearInterval(held);
            done(seen);
          }, 20);
        })"""
    )
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert seen[0] in (3001, 3002)


def test_a_step_made_while_an_answer_is_on_its_way_is_not_undone(tab: Tab) -> None:
    tab.open("?event=3000&tab=segments")
    tab.drawn()
    tab.page.evaluate(
        """() => {
          const fetch_ = window.fetch;
          window.fetch = async (where, what) => {
            const answer = await fetch_(where, what);
            await new Promise(done => setTimeout(done, 500));
            return answer;
          };
        }"""
    )
    tab.page.locator("#segments-colour").click()
    tab.page.get_by_role("option", name="Age").click()
    tab.page.wait_for_timeout(200)
    tab.page.locator("#moment-next").click()
    tab.page.wait_for_function("location.search.includes('colour')", timeout=WAIT_MS)
    tab.rest(900)
    assert tab.query()["event"] == "3001"
    assert json.loads(tab.query()["options"]) == {"segments": {"colour": "age"}}


def test_what_happens_at_once_does_not_undo_each_other(tab: Tab) -> None:
    """Dash gives callbacks of one moment one and the same view."""
    tab.open("?device=0&event=100")
    tab.drawn()
    tab.page.evaluate(
        """() => {
          const before = window.dash_component_api.getLayout("view").props.data;
          const {wish} = window.dash_clientside.oomdoctor;
          wish(before, {...before, event: 101});
          wish(before, {...before, options: {live: {text: "a"}}});
          wish(before, {...before, tab: "live", options: {...before.options, segments: {holes: true}}});
          wish(before, {...before, device: 1, event: null});
          wish(before, {...before, event: 102});  // of the other device
        }"""
    )
    tab.page.wait_for_function(
        "document.querySelector('#story').innerText.includes('GPU 1')", timeout=WAIT_MS
    )
    tab.rest()
    query = tab.query()
    assert json.loads(query.pop("options")) == {"live": {"text": "a"}, "segments": {"holes": True}}
    assert {key: value for key, value in query.items() if key != "item"} == {"device": "1", "tab": "live"}
    assert tab.page.locator("#device").input_value() == "GPU 1"


def test_another_device_is_looked_at_without_the_addresses_of_the_one_before(
    tab: Tab, library: Library
) -> None:
    """The browser leaves out what :func:`oomdoctor_dashboard.view.elsewhere` does."""
    options = {
        "segments": {"alone": "0x10", "zoom": "1:2:3", "colour": "age"},
        "live": {"zoom": "1.2", "text": "a"},
    }
    view = changed(
        None, item=library.items()[0].key, device=0, event=3000, low=10, high=4000, options=options
    )
    tab.open("?" + urlencode({"event": 3000, "low": 10, "high": 4000, "options": json.dumps(options)}))
    tab.drawn()
    tab.page.locator("#device").click()
    tab.page.get_by_role("option", name="GPU 1").click()
    tab.page.wait_for_function("new URLSearchParams(location.search).get('device') === '1'")
    tab.drawn()
    wanted = elsewhere(view, device=1)
    assert json.loads(tab.query().pop("options")) == wanted["options"]
    assert tab.query().keys() == {"item", "device", "options"}


_LARGEST_HOLE = """() => {
  const graph = document.querySelector('#segments-graph .js-plotly-plot');
  const {fillcolor} = graph._fullData.find(one => String(one.name).startsWith('hole'));
  const {line: lines, low, high, look, looks} = graph.layout.meta.paint;
  const holes = lines.map((_, i) => i).filter(i => looks[look[i]][0] === fillcolor);
  const largest = holes.reduce((best, i) => high[i] - low[i] > high[best] - low[best] ? i : best);
  const [left, line, right] = [low[largest], lines[largest], high[largest]];
  const {xaxis, yaxis} = graph._fullLayout;
  graph.scrollIntoView({block: 'center'});
  const frame = graph.getBoundingClientRect();
  return [
    frame.left + xaxis._offset + xaxis.l2p((left + right) / 2),
    frame.top + yaxis._offset + yaxis.l2p(line),
  ];
}"""


# Where the line of the moment is drawn, in the numbers of the axis.
_LINE = """() => {
  const graph = document.querySelector("#timeline-graph .js-plotly-plot");
  const axis = graph._fullLayout.xaxis;
  const path = graph.querySelector('.shapelayer path[data-index="0"]').getAttribute("d");
  return axis.p2d(parseFloat(path.slice(1)) - axis._offset);
}"""


def test_the_line_of_the_moment_follows(tab: Tab, library: Library) -> None:
    times = library.loaded(library.items()[0].key, 0).recording.events.time_us
    for query, at in (
        ("?event=5000", lambda event: event),
        ("?event=5000&low=4000&high=6000", lambda event: event),
        ("?event=5000&axis=time", lambda event: (int(times[event - 1]) - int(times[0])) / 1e6),
    ):
        tab.open(query)
        tab.drawn()
        assert tab.page.evaluate(_LINE) == pytest.approx(at(5000), rel=1e-3)
        tab.page.locator("#moment-back").click()
        tab.rest()
        assert tab.page.evaluate(_LINE) == pytest.approx(at(4900), rel=1e-3)
    tab.page.locator("label[for=theme], #theme").first.click(force=True)
    tab.rest()
    assert tab.page.evaluate(_LINE) == pytest.approx(at(4900), rel=1e-3)


_RANGE = "() => document.querySelector('#timeline-graph .js-plotly-plot')._fullLayout.xaxis.range"


def drag(tab: Tab, low: float, high: float) -> None:
    """Over the timeline, from a share of its width to another."""
    box = tab.page.locator("#timeline-graph .nsewdrag").first.bounding_box()
    tab.page.mouse.move(box["x"] + low * box["width"], box["y"] + 0.6 * box["height"])
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + high * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    tab.page.mouse.up()
    tab.rest()


@pytest.mark.parametrize("axis", ["events", "time"])
def test_a_drag_zooms_to_whole_events(tab: Tab, library: Library, axis: str) -> None:
    tab.open(f"?axis={axis}")
    tab.drawn()
    drag(tab, 0.25, 0.5)
    low, high = int(tab.query()["low"]), int(tab.query()["high"])
    events = library.loaded(library.items()[0].key, 0).events
    assert 0 < low < high < events
    if axis == "events":
        assert tab.page.evaluate(_RANGE) == [low, high]
        assert (low, high) == (pytest.approx(events / 4, rel=0.01), pytest.approx(events / 2, rel=0.01))
    tab.page.locator("#timeline-all").click()
    tab.rest()
    assert "low" not in tab.query()


def test_what_is_dragged_to_is_drawn_for_its_detail_alone(tab: Tab) -> None:
    """Not for Dash, which draws a figure anew for the range that a drag has left in it."""
    tab.open("?event=7700&tab=segments").drawn()
    tab.page.wait_for_selector("#segments-graph canvas", timeout=WAIT_MS)
    tab.rest()
    tab.page.evaluate(
        "() => { window.__drawn = []; const react = Plotly.react; Plotly.react = (graph, ...rest) => {"
        " window.__drawn.push(graph.parentElement.id); return react(graph, ...rest); } }"
    )
    for name in ("timeline-graph", "segments-graph"):
        box = tab.page.locator(f"#{name} .nsewdrag").first.bounding_box()
        tab.page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 30)
        tab.page.mouse.down()
        tab.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 30, steps=4)
        tab.page.mouse.up()
        tab.rest()
        assert tab.page.evaluate("window.__drawn.splice(0)") == [name]


def test_a_drag_within_a_few_events_is_left_again(tab: Tab) -> None:
    """There is nothing between them to see."""
    tab.open("?low=100&high=104")
    tab.drawn()
    assert tab.page.evaluate(_RANGE) == [100, 104]
    drag(tab, 0.4, 0.7)
    assert tab.page.evaluate(_RANGE) == [100, 104]
    drag(tab, 0.05, 0.2)
    assert tab.page.evaluate(_RANGE) == [100, 104]
    assert tab.query()["low"] == "100"


def test_an_emptied_event_box_says_again_where_one_is(tab: Tab) -> None:
    tab.open("?event=3000")
    tab.drawn()
    box = tab.page.locator("#moment-event")
    box.fill("")
    box.press("Enter")
    tab.rest()
    assert box.input_value() == "3,000"
    assert tab.query()["event"] == "3000"


def test_a_box_that_is_emptied_in_a_moment_says_it_too(tab: Tab) -> None:
    """On a busy page a timer of the box is late: here nothing runs between the two."""
    tab.open("?event=3000")
    tab.drawn()
    box = tab.page.locator("#moment-event")
    box.evaluate(
        """box => {
          Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(box, "");
          box.dispatchEvent(new InputEvent("input", {bubbles: true}));
          box.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
        }"""
    )
    tab.rest()
    assert box.input_value() == "3,000"


def step_right(tab: Tab, *, to: int) -> None:
    """With the arrow key, from the event before."""
    tab.page.keyboard.press("ArrowRight")
    tab.page.wait_for_function(
        "event => new URLSearchParams(location.search).get('event') === event", arg=str(to)
    )


def test_a_moment_beside_the_timeline_takes_its_stretch_along(tab: Tab) -> None:
    tab.open("?event=3000&low=2900&high=3100")
    tab.drawn()
    tab.page.keyboard.press("Shift+ArrowRight")
    tab.page.wait_for_function("location.search.includes('event=3100')")
    asked = tab.query()
    assert (asked["low"], asked["high"]) == ("2900", "3100")
    tab.page.keyboard.press("ArrowRight")
    tab.page.wait_for_function("location.search.includes('event=3101')")
    tab.rest()
    asked = tab.query()
    assert (asked["low"], asked["high"]) == ("3001", "3201")
    tab.page.keyboard.press("Home")
    tab.page.wait_for_function("location.search.includes('event=0')")
    tab.rest()
    asked = tab.query()
    assert (asked["low"], asked["high"]) == ("0", "200")
    tab.page.locator("#moment-by").click()
    tab.page.locator("[role=option]", has_text="by OOM").click()
    tab.page.keyboard.press("ArrowRight")  # the server knows where
    tab.page.wait_for_function("location.search.includes('event=7820')")
    tab.rest()
    asked = tab.query()
    assert (asked["low"], asked["high"]) == ("7620", "7820")


def test_keys_step_after_a_tab_was_clicked(tab: Tab) -> None:
    tab.open("?event=100")
    tab.drawn()
    tab.tab("segments")
    step_right(tab, to=101)
    assert tab.query()["tab"] == "segments"


def choose(tab: Tab, what: Any, said: str, **how: Any) -> None:
    """Click something, which the address then says."""
    what.click(**how)
    tab.page.wait_for_function("said => location.search.includes(said)", arg=said)
    tab.rest()


def test_keys_step_after_a_switch_was_clicked(tab: Tab) -> None:
    tab.open("?event=500")
    tab.drawn()
    choose(tab, tab.page.locator("#timeline-axis label", has_text="Time"), "axis=time")
    step_right(tab, to=501)
    assert tab.query()["axis"] == "time"


def test_keys_step_after_something_was_chosen(tab: Tab) -> None:
    tab.open("?event=500&tab=segments")
    tab.drawn()
    choose(tab, tab.page.locator("label", has_text="only segments with holes"), "holes")
    step_right(tab, to=501)
    choose(tab, tab.page.locator("label[for=theme], #theme").first, "theme=dark", force=True)
    step_right(tab, to=502)
    tab.page.locator("#moment-speed").click()
    # At once: a key that is pressed comes before timers.
    chosen = tab.page.locator("[role=option]", has_text="50 a second")
    click = "new MouseEvent('click', { bubbles: true, detail: 1 })"
    assert chosen.evaluate(f"one => one.dispatchEvent({click}) && document.activeElement === document.body")
    step_right(tab, to=503)
    tab.move(700)  # with Enter
    step_right(tab, to=701)
    assert (tab.query()["theme"], "holes" in tab.query()["options"]) == ("dark", True)


def test_the_boxes_name_the_device_that_is_shown(tab: Tab) -> None:
    tab.open("?device=1")
    tab.drawn()
    tab.page.locator("#item").click()
    tab.page.locator("[role=option]", has_text="llama-2").first.click()
    tab.page.wait_for_function("document.querySelector('#device').value === 'GPU 0'", timeout=60_000)
    tab.drawn()
    assert "GPU 0" in tab.text("#story")


def test_boxes_say_what_is_in_force_after_another_page(tab: Tab) -> None:
    tab.open("?tab=live")
    tab.drawn()
    tab.page.fill("#live-text", "modeling")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_function("location.search.includes('modeling')")
    tab.rest()
    found = tab.text("#live-totals")
    tab.tab("segments")
    tab.tab("live")
    assert tab.page.locator("#live-text").input_value() == "modeling"
    assert tab.text("#live-totals") == found
    tab.page.fill("#live-size", "5 apples")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#live-problem [role=alert]")
    assert tab.text("#live-totals") == "", "what was shown before is not what the boxes ask for"


def test_a_device_that_is_not_there_is_no_dead_end(tab: Tab) -> None:
    tab.open("?device=7")
    tab.page.wait_for_selector("#problem [role=alert]", timeout=60_000)
    assert "there is no device 7" in tab.text("#problem")
    assert "still being written" not in tab.text("#problem")
    tab.page.locator("#item").click()
    tab.page.locator("[role=option]", has_text="0001-oom").first.click()
    tab.drawn()
    assert tab.query()["device"] == "0"


def test_what_is_drawn_goes_into_a_file(tab: Tab, library: Library) -> None:
    loaded = library.loaded(library.items()[0].key, 0)
    tab.open("?tab=segments&event=500")
    tab.drawn()
    with tab.page.expect_download() as blocks:
        tab.page.locator("#segments-csv").click()
    rows = list(csv.DictReader(Path(blocks.value.path()).read_text().splitlines()))
    assert sum(int(row["block_size"]) for row in rows) == state(library, 500)["state"]["reserved_bytes"]
    with tab.page.expect_download() as timeline:
        tab.page.locator("#timeline-csv").click()
    rows = list(csv.DictReader(Path(timeline.value.path()).read_text().splitlines()))
    assert max(int(row["allocated_bytes"]) for row in rows) == int(
        loaded.history.effects["allocated_bytes"].max()
    )
    assert 100 < len(rows) <= loaded.events + 1


def test_words_of_help_open_and_close(tab: Tab) -> None:
    tab.open()
    tab.drawn()
    words = tab.page.locator("#timeline details.od-help > div")
    assert not words.is_visible()
    tab.page.locator("#timeline details.od-help > summary").click()
    assert words.is_visible()
    tab.page.locator("#story").click()
    assert not words.is_visible()


def test_a_stream_that_is_not_there(tab: Tab) -> None:
    """As a shared address may ask for one."""
    tab.open("?tab=segments&options=" + quote(json.dumps({"segments": {"stream": "q"}})))
    tab.drawn()
    assert "defect" not in tab.text("body")


def test_a_hole_tells_what_pins_it(tab: Tab, library: Library) -> None:
    tab.open("?tab=segments")
    tab.drawn()
    tab.page.wait_for_selector("#segments-graph canvas", timeout=60_000)
    tab.page.wait_for_function(
        "document.querySelector('#segments-graph .js-plotly-plot')._fullData?.length > 0"
    )
    tab.rest()
    told = state(library, library.loaded(library.items()[0].key, 0).events)
    largest = max(told["holes"], key=lambda hole: hole["bytes"])
    place = tab.page.evaluate(_LARGEST_HOLE)
    tab.page.mouse.move(*place)
    tab.page.wait_for_function(
        "document.querySelector('.od-tooltip')?.innerText.startsWith('hole')", timeout=60_000
    )
    tip = tab.page.locator(".od-tooltip").bounding_box()
    assert tip["x"] < place[0] < tip["x"] + tip["width"], "it stands where the pointer is"
    assert format_bytes(largest["bytes"]) in tab.text(".od-tooltip")
    tab.page.mouse.move(5, 5)
    tab.page.wait_for_selector(".od-tooltip", state="hidden", timeout=60_000)
    # A drag zooms and clicks nothing; the box is found there as well.
    tab.page.mouse.move(place[0] - 100, place[1])
    tab.page.mouse.down()
    tab.page.mouse.move(place[0] + 100, place[1], steps=5)
    tab.page.mouse.up()
    tab.page.wait_for_function(
        "(([low, high]) => low > 0)(document.querySelector('#segments-graph .js-plotly-plot')"
        "._fullLayout.xaxis.range)"
    )
    tab.rest()
    assert "block" not in tab.page.url
    seen = "() => document.querySelector('#segments-graph .js-plotly-plot')._fullLayout.xaxis.range"
    near = tab.page.evaluate(seen)
    tab.page.mouse.click(*tab.page.evaluate(_LARGEST_HOLE))
    tab.page.wait_for_function("location.search.includes('block')", timeout=60_000)
    tab.rest()
    tab.page.locator("#moment-previous").click()
    tab.rest()
    tab.page.locator("#moment-next").click()
    tab.rest()
    assert tab.page.evaluate(seen) == pytest.approx(near, abs=1), "what was zoomed to stays"
    label = tab.page.locator("#segments-graph .ytick text").first
    label.scroll_into_view_if_needed()
    box = label.bounding_box()
    tab.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.wait_for_function("location.search.includes('alone')", timeout=60_000)
    tab.rest()
    assert tab.page.locator("#segments-alone").input_value().startswith(label.text_content())
    panel = tab.text("#segments-panel")
    assert format_bytes(largest["bytes"]) in panel
    assert hex(largest["address"]) in panel
    by_address = {block["address"]: block for block in told["blocks"]}
    for address in largest["pinned_by"][:3]:
        assert format_bytes(by_address[address]["bytes"]) in panel


def test_the_buttons_beside_the_map_lead_on(tab: Tab, library: Library) -> None:
    told = state(library, library.loaded(library.items()[0].key, 0).events)
    largest = max(told["holes"], key=lambda hole: hole["bytes"])
    tab.open("?tab=segments")
    tab.drawn()
    button = tab.page.locator("#segments-panel button")
    button.filter(has_text=hex(largest["address"])).click()
    tab.rest()
    assert json.loads(tab.query()["options"])["segments"] == {"block": hex(largest["address"])}
    button.filter(has_text="its life").first.click()
    tab.rest()
    assert json.loads(tab.query()["options"])["segments"]["block"] == hex(largest["pinned_by"][0])
    assert "Allocated" in tab.text("#segments-panel")
    button.filter(has_text="go there").first.click()
    tab.rest()
    assert f"After {int(tab.query()['event']):,} events" not in tab.text("#segments-panel"), (
        "a block is chosen"
    )
    assert int(tab.page.locator("#moment-event").input_value().replace(",", "")) == int(tab.query()["event"])
    button.filter(has_text="Show this segment alone").click()
    tab.rest()
    assert json.loads(tab.query()["options"])["segments"]["alone"]
    button.filter(has_text="Show all segments").click()
    tab.rest()
    button.filter(has_text="Deselect").click()
    tab.rest()
    assert "options" not in tab.query()
    assert f"After {int(tab.query()['event']):,} events" in tab.text("#segments-panel")


def test_an_event_is_taken_that_another_device_showed_before(tab: Tab) -> None:
    tab.open()
    tab.drawn()
    tab.move(3000)
    tab.page.locator("#device").click()
    tab.page.get_by_role("option", name="GPU 1").click()
    tab.page.wait_for_function("new URLSearchParams(location.search).get('device') === '1'")
    tab.drawn()
    tab.move(3000)
    assert tab.text("#moment-line").startswith("event 2,999")


def test_who_goes_by_keyboard_stays_where_they_were(tab: Tab) -> None:
    tab.open("?tab=segments")
    tab.drawn()
    tab.page.locator("#segments-panel button").nth(1).focus()
    tab.page.keyboard.press("Enter")
    tab.rest()
    assert tab.page.evaluate("document.activeElement.closest('#segments-panel') !== null")


def test_help_and_what_is_pointed_at_stay_within_a_narrow_window(tab: Tab) -> None:
    tab.page.set_viewport_size({"width": 1000, "height": 800})
    tab.open("?tab=segments")
    tab.drawn()
    tab.page.locator("#segments-place details.od-help > summary").click()
    words = tab.page.locator("#segments-place details.od-help > div").bounding_box()
    assert 0 <= words["x"] < words["x"] + words["width"] <= 1000
    tab.page.keyboard.press("Escape")
    tab.tab("live")
    tab.page.locator("#live-flame").scroll_into_view_if_needed()
    box = tab.page.locator("#live-flame").bounding_box()
    tab.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 35)
    tab.page.wait_for_selector(".od-tooltip")
    tip = tab.page.locator(".od-tooltip").bounding_box()
    assert tip["x"] < tip["x"] + tip["width"] <= 1000
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 1000


_SLOW = """() => {
  const fetch_ = window.fetch;
  window.fetch = async (...all) => {
    await new Promise(done => setTimeout(done, 300));
    return fetch_(...all);
  };
}"""


def test_a_double_click_zooms_out_however_slow_answers_are(tab: Tab) -> None:
    """Its first click selects the block, and the answer to that comes later."""
    tab.open("?tab=segments")
    tab.drawn()
    tab.page.evaluate(_SLOW)
    x, y = tab.page.evaluate(_LARGEST_HOLE)
    tab.page.mouse.move(x - 60, y)
    tab.page.mouse.down()
    tab.page.mouse.move(x + 60, y, steps=5)
    tab.page.mouse.up()
    tab.page.wait_for_function("location.search.includes('zoom')", timeout=60_000)
    tab.rest(700)
    place = tab.page.evaluate(_LARGEST_HOLE)
    tab.page.mouse.dblclick(*place)
    tab.page.wait_for_function("location.search.includes('block')", timeout=60_000)
    tab.rest(700)
    assert "zoom" not in json.loads(tab.query()["options"])["segments"]


def test_what_is_copied(tab: Tab) -> None:
    tab.open("?tab=live&event=77")
    tab.drawn()
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    link, line = tab.page.locator("button[data-copy='']"), tab.page.locator("#story button[data-copy]")
    link.click()
    tab.page.wait_for_function("document.querySelector('.od-header [data-copied]')?.innerText === 'copied'")
    assert tab.page.evaluate("navigator.clipboard.readText()") == tab.page.url
    line.click()
    tab.page.wait_for_function("document.querySelector('#story [data-copied]')?.innerText === 'copied'")
    assert tab.page.evaluate("navigator.clipboard.readText()") == tab.text("#story code")
    tab.page.wait_for_function("!document.querySelector('[data-copied]')")
    assert link.inner_text() == "Copy link"
    tab.tab("overview")
    tab.page.locator("button[data-from='overview-text']").click()
    tab.page.wait_for_function("document.querySelector('[data-copied]')")
    assert tab.page.evaluate("navigator.clipboard.readText()") == tab.text("#overview-text")
    tab.tab("whatif")
    tab.page.locator("#whatif-words button[data-copy]").first.click()
    tab.page.wait_for_function("document.querySelector('#whatif-words [data-copied]')")
    assert tab.page.evaluate("navigator.clipboard.readText()") == tab.text("#whatif-words code")
    tab.page.wait_for_function("!document.querySelector('[data-copied]')")
    # A page from another machine that came over plain HTTP has no clipboard of its own.
    tab.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    line.click()
    tab.page.wait_for_function("document.querySelector('[data-copied]')?.innerText === 'copied'")


def test_what_is_told_is_text_and_never_markup(tab: Tab) -> None:
    tab.open()
    tab.drawn()
    bad = [["div", {"class": "od-line"}, "<b id=evil>x</b>"]]
    tab.page.evaluate(
        "told => window.dash_clientside.set_props('story', {'data-told': told})", json.dumps(bad)
    )
    tab.page.wait_for_function("document.querySelector('#story').innerText === '<b id=evil>x</b>'")
    assert tab.page.locator("#evil").count() == 0
    for worse in (["script", {}, "x"], ["div", {"onclick": "x"}, "y"], ["div", {"style": "x"}]):
        tab.page.evaluate(
            "told => window.dash_clientside.set_props('story', {'data-told': told})", json.dumps([worse])
        )
    tab.page.wait_for_timeout(300)
    assert tab.page.locator("#story script, #story [onclick], #story [style]").count() == 0
    assert any("told as" in wrong for wrong in tab.wrong), "and it is said"
    tab.wrong.clear()


_BOX = """label => {
  const graph = document.querySelector('#live-flame .js-plotly-plot');
  const box = graph.layout.meta.nodes.findIndex(one => one[1].startsWith(label));
  const {line, low, high} = graph.layout.meta.paint;
  const {xaxis, yaxis} = graph._fullLayout;
  graph.scrollIntoView({block: 'center'});
  const frame = graph.getBoundingClientRect();
  return [
    frame.left + xaxis._offset + xaxis.l2p((low[box] + high[box]) / 2),
    frame.top + yaxis._offset + yaxis.l2p(line[box]),
  ];
}"""


def test_a_click_in_the_flame_graph_zooms_and_stays_while_one_steps(tab: Tab) -> None:
    tab.open("?tab=live&event=5000")
    tab.drawn()
    tab.page.wait_for_selector("#live-flame canvas", timeout=60_000)
    tab.rest()
    tab.page.mouse.move(*tab.page.evaluate(_BOX, "build_model"))
    tab.page.wait_for_function(
        "document.querySelector('.od-tooltip')?.innerText.startsWith('build_model')", timeout=60_000
    )
    assert "of all that is live" in tab.text(".od-tooltip")
    for share in (0.002, 0.96):  # at the very right is the camera
        box = tab.page.locator("#live-flame").bounding_box()
        tab.page.mouse.move(box["x"] + share * box["width"], box["y"] + 15)
        tab.rest()
        said = tab.page.locator(".od-tooltip").bounding_box()
        assert 0 <= said["x"] <= said["x"] + said["width"] <= 1440, "all of it can be read"
    tab.page.mouse.click(*tab.page.evaluate(_BOX, "build_model"))
    tab.page.wait_for_function("location.search.includes('zoom')", timeout=60_000)
    tab.rest()
    widest = "() => document.querySelector('#live-flame .js-plotly-plot').layout.xaxis.range[1]"
    near = tab.page.evaluate(widest)
    step_right(tab, to=5001)
    assert tab.page.evaluate(widest) == near
    tab.page.mouse.click(*tab.page.evaluate(_BOX, "all that is shown"))
    tab.page.wait_for_function("!location.search.includes('zoom')", timeout=60_000)
    tab.rest()
    assert tab.page.evaluate(widest) > near


def test_a_drag_pans_until_zooming_is_chosen_and_nothing_lies_beyond_the_whole(tab: Tab) -> None:
    tab.open("?tab=segments&event=7700")
    tab.drawn()
    tab.page.wait_for_selector("#segments-graph canvas", timeout=WAIT_MS)
    tab.rest()
    full = "() => document.querySelector('#segments-graph .js-plotly-plot')._fullLayout"
    area = tab.page.locator("#segments-graph .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()

    def drag(start: float, end: float) -> list[float]:
        tab.page.mouse.move(box["x"] + start * box["width"], box["y"] + 30)
        tab.page.mouse.down()
        tab.page.mouse.move(box["x"] + end * box["width"], box["y"] + 30, steps=4)
        tab.page.mouse.up()
        tab.rest()
        found: list[float] = tab.page.evaluate(f"({full})().xaxis.range")
        return found

    def press(title: str) -> None:
        area.hover()
        tab.page.locator(f"#segments-graph .modebar-btn[data-title='{title}']").click()
        tab.rest()

    low, high = drag(0.3, 0.5)
    assert 0 < low < high
    press("Pan")
    height = tab.page.evaluate(f"({full})().height")
    first, second = drag(0.5, 0.4), drag(0.5, 0.4)
    for before, after in (((low, high), first), (first, second)):
        assert after[0] > before[0]
        assert after[1] - after[0] == pytest.approx(high - low, rel=0.01), "it moved and was not zoomed"
    tab.page.keyboard.press("ArrowLeft")
    tab.rest()
    assert tab.page.evaluate(f"({full})().dragmode") == "pan"
    assert tab.page.evaluate(f"({full})().height") == height
    press("Zoom")
    assert tab.page.evaluate(f"({full})().dragmode") == "zoom"
    press("Autoscale")
    whole = tab.page.evaluate(f"({full})().xaxis.range")
    press("Zoom out")
    assert tab.page.evaluate(f"({full})().xaxis.range") == pytest.approx(whole)
    assert "zoom" not in tab.query().get("options", "")


# The colour on the canvas at a place on the screen.
_PAINTED = """([id, x, y]) => {
  const canvas = document.querySelector(`#${id} canvas`);
  const frame = canvas.getBoundingClientRect();
  const scale = canvas.width / frame.width;
  const [r, g, b] = canvas.getContext("2d").getImageData((x - frame.left) * scale, (y - frame.top) * scale, 1, 1).data;
  return "#" + [r, g, b].map(one => one.toString(16).padStart(2, "0")).join("");
}"""
# How many pixels of a picture have a colour.
_PIXELS_OF = """async ([picture, wanted]) => {
  const bytes = Uint8Array.from(atob(picture), one => one.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], {type: "image/png"}));
  const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const [r, g, b] = [1, 3, 5].map(at => parseInt(wanted.slice(at, at + 2), 16));
  let count = 0;
  for (let i = 0; i < data.length; i += 4) if (data[i] === r && data[i + 1] === g && data[i + 2] === b) count++;
  return [count, bitmap.width, bitmap.height];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_boxes_are_painted_and_in_the_picture_to_keep(tab: Tab, theme: str) -> None:
    cases = (
        ("segments", "segments-graph", lambda: tab.page.evaluate(_LARGEST_HOLE), colours.HOLE),
        ("live", "live-flame", lambda: tab.page.evaluate(_BOX, "all that is shown"), colours.RESERVED),
    )
    for name, graph, place, colour in cases:
        tab.open(f"?tab={name}&event=5000&theme={theme}")
        tab.drawn()
        tab.page.wait_for_selector(f"#{graph} canvas", timeout=WAIT_MS)
        tab.rest()
        x, y = place()
        assert tab.page.evaluate(_PAINTED, [graph, x, y]) == colour
        tab.page.mouse.move(x, y)
        with tab.page.expect_download() as download:
            tab.page.locator(f"#{graph} .modebar-btn[data-title*=PNG]").click()
        assert download.value.suggested_filename == f"oomdoctor-{name}.png"
        picture = base64.b64encode(Path(download.value.path()).read_bytes()).decode()
        for wanted in (colour, colours.paper(theme)):
            count, width, height = tab.page.evaluate(_PIXELS_OF, [picture, wanted])
            assert count > width * height / 500, (wanted, count, width, height)


# Rules of which any element could be the subject.
_OF_ANY = """() => {
  const found = [];
  const look = (rules) => {
    for (const rule of rules) {
      if (/^\\*?:has\\(/.test(rule.selectorText || "")) found.push(rule.selectorText);
      if (rule.cssRules) look(rule.cssRules);
    }
  };
  for (const sheet of document.styleSheets) look(sheet.cssRules);
  return found;
}"""


def test_no_rule_makes_the_browser_look_at_the_whole_page(tab: Tab) -> None:
    tab.open()
    tab.drawn()
    for name in TABS:
        tab.tab(name)
    assert tab.page.locator("[class*=ag-theme-params]").count() >= 5, "tables have a theme"
    assert tab.page.locator("style[data-ag-css^=ag-theme-params]").count() == 1, "and all the same"
    assert tab.page.evaluate(_OF_ANY) == []


def test_what_is_left_behind_is_collected_and_a_page_at_rest_costs_nothing(tab: Tab) -> None:
    """The browser is asked how much memory there is, which makes it collect, once after things have changed."""
    tab.page.add_init_script(
        "window.__asked = []; performance.measureUserAgentSpecificMemory ="
        " () => new Promise((done) => window.__asked.push(done));"
    )
    tab.open().drawn()
    asked = "window.__asked.length"
    assert tab.page.evaluate("window.crossOriginIsolated")
    assert tab.page.evaluate(asked) == 1
    tab.move(3001)
    assert tab.page.evaluate(asked) == 1  # not while it is being answered
    tab.page.evaluate("window.__asked[0]({ bytes: 1 })")
    with tab.page.expect_response(lambda answer: "_dash-update-component" in answer.url, timeout=WAIT_MS):
        pass  # it looks for news
    tab.rest()
    assert tab.page.evaluate(asked) == 1  # nothing has changed since
    tab.move(3002)
    assert tab.page.evaluate(asked) == 2


def test_what_if_says_what_replay_says(tab: Tab) -> None:
    tab.open("?tab=whatif")
    tab.drawn()
    tab.page.locator("#whatif-conf").fill("expandable_segments:True")
    tab.page.locator("#whatif-conf").press("Enter")
    tab.page.wait_for_function(
        "document.querySelector('#whatif-headline').innerText.includes('survives')", timeout=60_000
    )
    tab.rest()
    (snapshot,) = RUN.glob("processes/*/0001-oom.pickle")
    command = ["replay", str(snapshot), "--device", "0", "--alloc-conf", "expandable_segments:True", "--json"]
    capacity = tab.page.locator("#whatif-capacity").input_value()
    done = subprocess.run(
        [sys.executable, "-m", "oomdoctor", *command, "--capacity", capacity or "1200MiB"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (told,) = json.loads(done.stdout)["devices"]
    figures = tab.text("#whatif-figures")
    for name in ("peak_allocated_bytes", "peak_active_bytes", "final_allocated_bytes"):
        assert format_bytes(told[name]) in figures
    tab.page.locator("#whatif-search").click()
    tab.page.wait_for_function(
        "document.querySelector('#whatif-conclusion').innerText.includes('PYTORCH_CUDA_ALLOC_CONF')",
        timeout=120_000,
    )
    tab.rest()


def test_what_is_live_goes_into_a_file(tab: Tab, library: Library) -> None:
    tab.open("?tab=live&event=7000")
    tab.drawn()
    with tab.page.expect_download() as download:
        tab.page.locator("#live-csv").click()
    rows = Path(download.value.path()).read_text().splitlines()
    live = [block for block in state(library, 7000)["blocks"] if block["state"] != "inactive"]
    assert len(rows) == 1 + len(live)


def test_two_recordings_side_by_side(tab: Tab, library: Library) -> None:
    other = library.items()[-1].key
    tab.open(f"?tab=compare&other={other}")
    tab.drawn()
    tab.page.wait_for_selector("#compare-graph .scatterlayer .trace path", timeout=60_000)
    tab.rest()
    assert tab.text("#compare-verdict")


def upload(tab: Tab, *files: Any) -> None:
    tab.page.set_input_files("#upload-file", list(files))


def test_a_snapshot_is_uploaded(tab: Tab) -> None:
    tab.open()
    tab.drawn()
    (snapshot,) = LONG.glob("processes/*/0001-exit.pickle")
    upload(tab, str(snapshot))
    tab.page.wait_for_function("document.querySelector('#item').value.includes('uploaded')", timeout=60_000)
    tab.drawn()
    assert "no out-of-memory error" in tab.text("#story")
    tab.tab("segments")
    assert tab.page.locator("#segments-problem [role=alert]").count() == 0


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("notes.txt", b"CUDA out of memory. Tried to allocate 2.00 GiB", "snapshot"),
        ("empty.pickle", b"", "empty"),
        ("hostile.pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR.", "os.system"),
        ("cut.pickle", None, "end"),
    ],
)
def test_what_is_no_snapshot_says_so_on_the_page(tab: Tab, name: str, data: Any, said: str) -> None:
    tab.open()
    tab.drawn()
    if data is None:
        (snapshot,) = RUN.glob("processes/*/0001-oom.pickle")
        data = snapshot.read_bytes()[:100_000]
    upload(tab, {"name": name, "mimeType": "application/octet-stream", "buffer": data})
    tab.page.wait_for_selector("#problem [role=alert]", timeout=60_000)
    assert said in tab.text("#problem")
    assert "Traceback" not in tab.text("body")
    assert "oomdoctor-" not in tab.text("#problem"), "the name it has where it came from"
    # What was open stays.
    assert "ran out of memory: fragmentation" in tab.text("#story")
    assert "0001-oom" in tab.page.locator("#item").input_value()


def test_of_two_files_the_one_that_can_be_read_is_shown_and_the_other_told(tab: Tab, tmp_path: Path) -> None:
    tab.open()
    tab.drawn()
    bad = tmp_path / "bad.pickle"
    bad.write_bytes(b"\x80\x04 no snapshot")
    (good,) = LONG.glob("processes/*/0001-exit.pickle")
    tab.page.set_input_files("#upload-file", [str(bad), str(good)])
    tab.page.wait_for_function(
        "document.querySelector('#item').value.startsWith('0001-exit.pickle')", timeout=60_000
    )
    tab.page.wait_for_selector(".mantine-Notification-root", timeout=60_000)
    assert "bad.pickle" in tab.text(".mantine-Notification-root")
    tab.drawn()
    assert tab.page.locator("#item").input_value().startswith("0001-exit.pickle · uploaded")
    assert "no out-of-memory error" in tab.text("#story")
    assert tab.page.locator("#problem [role=alert]").count() == 0
    tab.page.set_input_files("#upload-file", [str(bad)])
    tab.page.wait_for_selector("#problem [role=alert]", timeout=60_000)
    assert "bad.pickle" in tab.text("#problem")
    tab.page.locator("#problem button").click()
    assert tab.page.locator("#problem [role=alert]").count() == 0


def test_a_file_that_is_too_large_is_told(browser: Any) -> None:
    with served(Library(), upload_limit=10) as address:
        page = browser.new_page()
        tab = Tab(page, address).open()
        assert "Nothing is open" in tab.text("#problem")
        upload(tab, {"name": "large.pickle", "mimeType": "application/octet-stream", "buffer": b"x" * 11})
        page.wait_for_selector(".mantine-Notification-root")
        assert "oomdoctor dashboard FILE" in tab.text(".mantine-Notification-root")
        page.close()
        assert all(wrong.startswith(("413", "console: Failed to load resource")) for wrong in tab.wrong)


def test_a_state_without_history(browser: Any, tmp_path: Path) -> None:
    block = {
        "address": 1 << 40,
        "size": 1 << 20,
        "requested_size": 1 << 20,
        "state": "active_allocated",
        "frames": [],
    }
    rest = {
        "address": (1 << 40) + (1 << 20),
        "size": 1 << 20,
        "requested_size": 0,
        "state": "inactive",
        "frames": [],
    }
    segment = {
        "device": 0, "address": 1 << 40, "total_size": 2 << 20, "allocated_size": 1 << 20, "active_size": 1 << 20,
        "requested_size": 1 << 20, "stream": 0, "segment_type": "small", "segment_pool_id": [0, 0],
        "is_expandable": False, "frames": [], "blocks": [block, rest],
    }  # fmt: skip
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"segments": [segment], "device_traces": [[]]}))
    library = Library()
    library.add(str(path))
    with served(library) as address:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        tab = Tab(page, address).open()
        page.wait_for_selector("#story .od-badge", timeout=60_000)
        assert "1.00 MiB" in tab.text("#story")
        assert "No history" in tab.text("body") or "no history" in tab.text("body")
        page.wait_for_selector("#overview-table .ag-row", timeout=WAIT_MS)
        assert "not known" in tab.text("#overview-table")
        for name in TABS:
            tab.tab(name)
        tab.tab("live")
        assert "1.00 MiB" in tab.text("#live-totals")
        page.close()
        assert tab.wrong == []


def test_a_run_that_is_being_written_is_followed(browser: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(RUN, run)
    (process,) = (run / "processes").iterdir()
    for dump in ("0001-oom", "0002-exit"):
        for suffix in (".json", ".pickle"):
            shutil.move(str(process / (dump + suffix)), tmp_path / (dump + suffix))
    library = Library()
    library.add(str(run))
    with served(library) as address:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        tab = Tab(page, address).open()
        assert "no snapshot yet" in tab.text("#problem")
        for suffix in (".json", ".pickle"):
            shutil.move(str(tmp_path / ("0001-oom" + suffix)), process / ("0001-oom" + suffix))
        tab.drawn()
        assert "ran out of memory" in tab.text("#story")
        page.close()
        assert tab.wrong == []


def test_a_snapshot_met_half_written_is_read_when_it_is_whole(browser: Any, tmp_path: Path) -> None:
    (ended,) = LONG.glob("processes/*/0001-exit.pickle")
    whole = ended.read_bytes()
    (tmp_path / "other.pickle").write_bytes(whole[: len(whole) // 2])
    library = Library()
    library.add(str(next(RUN.glob("processes/*/0001-oom.pickle"))))
    library.add(str(tmp_path / "other.pickle"))
    with served(library) as address:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        tab = Tab(page, address).open()
        tab.drawn()
        page.locator("#item").click()
        page.locator("[role=option]", has_text="other.pickle").first.click()
        page.wait_for_selector("#problem [role=alert]", timeout=60_000)
        assert "ran out of memory" in tab.text("#story"), "what was open stays"
        (tmp_path / "other.pickle").write_bytes(whole)
        page.wait_for_function(
            "document.querySelector('#story').innerText.includes('no out-of-memory error')", timeout=60_000
        )
        assert page.locator("#problem [role=alert]").count() == 0
        assert "other.pickle" in page.locator("#item").input_value()
        page.close()
        assert tab.wrong == []
