"""What a page begins with: the view that its address asks for, and whether the recording is at hand."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from oomdoctor_dashboard.app import create_app
from oomdoctor_dashboard.library import Library
from oomdoctor_dashboard.starting import start_of

TRACES = Path(__file__).parent.parent.parent / "traces"


@pytest.fixture
def library() -> Iterator[Library]:
    library = Library()
    library.add(str(TRACES / "llama-4-layers-two-gpus"))
    library.add(str(TRACES / "llama-2-layers-to-the-end"))
    yield library
    library.close()


def test_nothing_is_open() -> None:
    view, is_at_hand = start_of(Library(), None, "")
    assert view["item"] is None
    assert not is_at_hand


def test_the_first_where_the_address_names_none(library: Library) -> None:
    first, *_, last = library.items()
    assert start_of(library, None, "")[0]["item"] == first.key
    assert start_of(library, last.key, "")[0]["item"] == last.key
    assert start_of(library, "gone", "")[0]["item"] == first.key
    view, _ = start_of(library, last.key, f"item={first.key}&event=7&tab=live")
    assert (view["item"], view["event"], view["tab"]) == (first.key, 7, "live")


def test_the_device_is_known_once_it_was_read(library: Library) -> None:
    key = library.items()[0].key
    assert start_of(library, None, "") == (start_of(library, None, "")[0], False)
    assert start_of(library, None, "")[0]["device"] is None
    telling = library.load(key, None)
    assert telling.wait(60)
    view, is_at_hand = start_of(library, None, "event=9")
    assert is_at_hand
    assert (view["device"], view["event"]) == (telling.result.device.device, 9)
    events = telling.result.events
    beyond = start_of(library, None, "event=999999999&low=7&high=999999999")[0]
    assert [beyond[key] for key in ("event", "low", "high")] == [events, 7, events]
    nowhere = start_of(library, None, f"low={events}&high={events + 9}")[0]
    assert [nowhere[key] for key in ("event", "low", "high")] == [None] * 3
    other = 1 - telling.result.device.device
    assert start_of(library, None, f"device={other}") == ({**view, "device": other, "event": None}, False)
    library.loaded(key, other)
    assert start_of(library, None, f"device={other}")[1]
    assert not start_of(library, None, "device=7")[1]


def of_page(library: Library, query: str) -> Any:
    page = create_app(library).server.test_client().get(f"/?{query}").text
    (text,) = re.findall(r'<meta name="oomdoctor-start" content="([^"]*)">', page)
    return page, json.loads(html.unescape(text))


def test_it_comes_with_the_page_and_is_text(library: Library) -> None:
    bad = '"><script>alert(1)</script>{'
    page, start = of_page(library, urlencode({"item": bad, "tab": "segments"}))
    assert "<script>alert" not in page
    assert (start["view"]["item"], start["view"]["tab"], start["at_hand"]) == (bad, "segments", False)
    library.loaded(library.items()[0].key, 0)
    assert of_page(library, "device=0")[1]["at_hand"] is True
    assert of_page(library, "item=%ff%fe")[1]["at_hand"] is False
