"""What is only read: which elements and attributes the server tells, the browser makes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oomdoctor_dashboard
from oomdoctor_dashboard import told
from oomdoctor_dashboard.block_life import Lives
from oomdoctor_dashboard.library import Library
from oomdoctor_dashboard.segment_panel import panel, summary

ROOT = Path(oomdoctor_dashboard.__file__).parent
TRACES = Path(__file__).parent.parent.parent / "traces"


def elements(tree: Any) -> Iterator[Any]:
    for one in tree:
        if not isinstance(one, str):
            yield one
            yield from elements(one[2:])


def test_a_tree_is_sent_as_it_is() -> None:
    tree = told.element("div", "<b>", told.button("go", data_event="4"), class_="od-box")
    assert json.loads(told.sent(tree, "&")) == [
        [
            "div",
            {"class": "od-box"},
            "<b>",
            ["button", {"class": "od-button", "type": "button", "data-event": "4"}, "go"],
        ],
        "&",
    ]
    shown = told.place(tree, id="here").to_plotly_json()["props"]
    assert (shown["id"], shown["data-told"], shown["children"]) == ("here", told.sent(tree), None)


def test_the_browser_makes_what_panels_tell() -> None:
    script = (ROOT / "assets" / "told.js").read_text()
    tags = set(re.findall(r'"(\w+)"', re.search(r"TAGS = new Set\(\[(.*?)\]", script)[1]))  # type: ignore[index]
    attributes = re.compile(re.search(r"ATTRIBUTES = /(.*)/;", script)[1])  # type: ignore[index]
    style = (ROOT / "assets" / "style.css").read_text()
    library = Library()
    (item,) = library.add(str(TRACES / "llama-2-layers-to-the-end"))
    loaded = library.loaded(item.key, 0)
    moment, lives = loaded.moment(7800), Lives(loaded.history)
    trees = [summary(moment, "replayed")]
    trees += [panel(moment, lives, int(at), alone=False) for at in moment.layout.blocks["ptr"][:80]]
    seen, classes = set(), set()
    for tag, named, *_ in elements(one for tree in trees for one in tree):
        assert tag in tags
        assert all(attributes.match(name) and isinstance(value, str) for name, value in named.items())
        seen |= {tag, *named}
        classes |= set(named.get("class", "").split())
    assert {"table", "button", "ul", "data-event", "data-block", "data-alone"} <= seen
    assert {one for one in classes if f".{one}" not in style} == set()
    library.close()
