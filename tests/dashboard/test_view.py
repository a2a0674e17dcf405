"""The view and the address that is shared: there and back, and nothing that cannot be."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from dash import no_update
from hypothesis import given
from hypothesis import strategies as st
from oomdoctor_dashboard.view import (
    DEFAULT,
    changed,
    elsewhere,
    from_query,
    only_what_changes,
    options_of,
    with_options,
)

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
NUMBERS = st.none() | st.integers(0, 10**12)
OPTIONS = st.dictionaries(
    WORDS,
    st.dictionaries(WORDS, WORDS | st.integers(-5, 5) | st.booleans(), min_size=1, max_size=3),
    max_size=2,
)


def to_query(view: Any) -> str:
    """As the browser writes it; ``test_browser`` holds the two together."""
    plain = {k: v for k, v in view.items() if k != "options" and v != DEFAULT[k]}
    options = {"options": json.dumps(view["options"])} if view["options"] else {}
    return urlencode({**plain, **options})


@given(
    item=st.none() | WORDS,
    device=NUMBERS,
    event=NUMBERS,
    window=st.none() | st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(sorted),
    axis=st.sampled_from(["events", "time"]),
    theme=st.sampled_from(["light", "dark"]),
    options=OPTIONS,
)
def test_addresses_go_there_and_back(
    item: Any, device: Any, event: Any, window: Any, axis: str, theme: str, options: Any
) -> None:
    low, high = window or (None, None)
    view = changed(
        None,
        item=item,
        device=device,
        event=event,
        low=low,
        high=high,
        axis=axis,
        theme=theme,
        options=options,
    )
    assert from_query("?" + to_query(view)) == view


def test_the_default_needs_no_words() -> None:
    assert to_query(DEFAULT) == ""
    assert from_query("") == DEFAULT


@pytest.mark.parametrize(
    "query",
    [
        "event=-1",
        "event=1e5",
        "event=%F0%9D%9F%8F",  # a digit, and none of ours
        "device=99999999999999999",
        "axis=weeks",
        "theme=javascript",
        "tab=nope",
        "low=5",
        "low=7&high=5",
        "options=%7B",
        "options=" + "%5B" * 900,
        "options=%7B%22a%22%3A%7B%22b%22%3A%5B1%5D%7D%7D",
        "secret=1&__class__=2",
    ],
)
def test_what_cannot_be_is_left_at_its_default(query: str) -> None:
    found = from_query(query)
    options = found.pop("options")
    assert found == {k: v for k, v in DEFAULT.items() if k != "options"}
    assert options in ({}, {"a": {}})


def test_a_view_has_no_other_keys() -> None:
    with pytest.raises(KeyError, match="no evnet"):
        changed(None, evnet=3)


def test_options_belong_to_a_page() -> None:
    view = with_options(changed(None), "live", search="cat", size=3)
    view = with_options(view, "segments", colour="age")
    assert options_of(view, "live") == {"search": "cat", "size": 3}
    assert options_of(with_options(view, "live", search=None), "live") == {"size": 3}
    assert options_of(view, "overview") == {}
    assert DEFAULT["options"] == {}


def test_elsewhere_is_without_what_names_addresses() -> None:
    view = changed(DEFAULT, item="a", device=0, event=7, low=1, high=9, tab="segments", theme="dark")
    view = with_options(view, "segments", alone="0x10", block="0x20", zoom="1:2:3", pool="large")
    view = with_options(view, "live", zoom="1.2", text="linear")
    there = elsewhere(view, device=1)
    assert (there["item"], there["device"], there["tab"], there["theme"]) == ("a", 1, "segments", "dark")
    assert (there["event"], there["low"], there["high"]) == (None, None, None)
    assert there["options"] == {"segments": {"pool": "large"}, "live": {"text": "linear"}}
    assert view["options"]["segments"]["alone"] == "0x10", "a new one"


def test_only_what_changes_is_answered() -> None:
    """A step that is made while an answer is on its way is not undone by it."""
    view = with_options(changed(None, item="a", device=0, event=7), "segments", pool="large")

    def told(answer: Any) -> Any:
        return answer.to_plotly_json()["operations"]

    def assigned(*where: str, value: Any) -> dict[str, Any]:
        return {"operation": "Assign", "location": list(where), "params": {"value": value}}

    @only_what_changes
    def choose(text: str, view: Any) -> Any:
        return with_options(view, "live", text=text)

    assert told(choose("a", view)) == [assigned("options", "live", "text", value="a")]
    assert choose("a", choose.__wrapped__("a", view)) is no_update

    @only_what_changes
    def pick(view: Any) -> Any:
        return with_options(view, "segments", block="0x1", zoom=None)

    near = with_options(view, "segments", zoom="1:2:3")
    assert told(pick(near)) == [
        {"operation": "Delete", "location": ["options", "segments", "zoom"], "params": {}},
        assigned("options", "segments", "block", value="0x1"),
    ], "other settings of the page may have changed meanwhile"

    @only_what_changes
    def step(view: Any, shown: Any) -> Any:
        return changed(view, event=8) if shown else no_update

    assert told(step(view=view, shown=True)) == [assigned("event", value=8)]
    assert step(view, None) is no_update

    @only_what_changes
    def leave(*args: Any) -> Any:
        return elsewhere(args[-1], device=1)

    assert told(leave(view)) == [assigned("device", value=1), assigned("event", value=None)]
