"""What a person is looking at, as a small dict: it is in the browser, and in the address that is shared.

=========  ==========================================================================================
key        means
=========  ==========================================================================================
item       key of a snapshot in the library; None: nothing is open
device     its number; None: the first that ran out of memory, else the first
event      the state after the first so many events, as ``inspect --event``; None: after all
low, high  the stretch of events that the timeline shows, [low, high); None: all
axis       what the timeline is drawn over: "events" or "time"
tab        the page below the timeline
theme      "light" or "dark"
other      key of the snapshot to compare with; None: none
options    per page: a dict of its own small settings, text and numbers only
=========  ==========================================================================================
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, Optional
from urllib.parse import parse_qsl

from dash import Patch, no_update

View = dict[str, Any]

DEFAULT: View = {
    "item": None,
    "device": None,
    "event": None,
    "low": None,
    "high": None,
    "axis": "events",
    "tab": "overview",
    "theme": "light",
    "other": None,
    "options": {},
}
_NUMBERS = ("device", "event", "low", "high")
TABS = ("overview", "segments", "live", "fragmentation", "whatif", "compare")
_CHOICES = {"axis": ("events", "time"), "theme": ("light", "dark"), "tab": TABS}
# What names addresses or code of one recording, per page.
OF_A_RECORDING = {"segments": ("alone", "block", "zoom"), "live": ("zoom",)}
# The address of a page is shared and kept in logs.
_LONGEST = 4000


def changed(view: Optional[View], **changes: Any) -> View:
    """The view with other values; a new dict.

    Raises:
        KeyError: it has no such key.
    """
    unknown = set(changes) - set(DEFAULT)
    if unknown:
        raise KeyError(f"a view has no {', '.join(sorted(unknown))}")
    return {**DEFAULT, **(view or {}), **changes}


def options_of(view: View, page: str) -> dict[str, Any]:
    """The settings of one page; empty where none were chosen."""
    found = view.get("options", {}).get(page)
    return dict(found) if isinstance(found, dict) else {}


def with_options(view: View, page: str, **options: Any) -> View:
    """The view with some settings of one page changed; None takes one away."""
    mine = {k: v for k, v in {**options_of(view, page), **options}.items() if v is not None}
    return changed(view, options={**view.get("options", {}), page: mine})


def elsewhere(view: View, **changes: Any) -> View:
    """The view of another recording or device: without the moment, the stretch, and what names addresses or
    code of the one before."""
    options = {
        page: {key: value for key, value in chosen.items() if key not in OF_A_RECORDING.get(page, ())}
        for page, chosen in view.get("options", {}).items()
    }
    return changed(view, **{"event": None, "low": None, "high": None, "options": options, **changes})


def within(view: View, events: int) -> View:
    """The view of a recording of so many events: an address may ask for more."""
    event, low, high = (None if view[key] is None else min(view[key], events) for key in _NUMBERS[1:])
    if low is None or high is None or low >= high:
        low = high = None
    return changed(view, event=event, low=low, high=high)


def only_what_changes(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callback that answers with a view, given the one of when it was asked as ``view`` or as its last
    argument: only what it changes goes to the browser, where meanwhile a key may have been pressed."""
    names = list(inspect.signature(callback).parameters)
    place = names.index("view") if "view" in names else -1

    @functools.wraps(callback)
    def answer(*args: Any, **named: Any) -> Any:
        new = callback(*args, **named)
        return _difference(named["view"] if "view" in named else args[place], new) if is_view(new) else new

    return answer


def is_view(value: Any) -> bool:
    """Whether it is a whole view."""
    return isinstance(value, dict) and value.keys() == DEFAULT.keys()


def _difference(old: View, new: View) -> Any:
    change = Patch()
    differs = False
    for key in DEFAULT:
        if key != "options" and new[key] != old.get(key):
            change[key] = new[key]
            differs = True
    for page, chosen in new["options"].items():
        had = options_of(old, page)
        for key in had.keys() - chosen.keys():
            del change["options"][page][key]
            differs = True
        for key, value in chosen.items():
            if key not in had or value != had[key]:
                change["options"][page][key] = value
                differs = True
    return change if differs else no_update


def from_query(query: str) -> View:
    """The view that an address asks for; what cannot be is left at its default.

    Addresses are written in the browser (``address`` in assets/app.js): a pair for each value that is not
    the default, ``options`` as JSON.
    """
    view = dict(DEFAULT)
    for key, value in parse_qsl(query.lstrip("?")[:_LONGEST]):
        if key in _NUMBERS:
            if value.isascii() and value.isdigit() and len(value) < 16:
                view[key] = int(value)
        elif key in _CHOICES:
            if value in _CHOICES[key]:
                view[key] = value
        elif key == "options":
            view["options"] = _options(value)
        elif key in DEFAULT:
            view[key] = value
    if (view["low"] is None) != (view["high"] is None) or (view["low"] or 0) > (view["high"] or 0):
        view["low"] = view["high"] = None
    return view


def _options(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        page: {k: v for k, v in chosen.items() if isinstance(v, (str, int, float, bool))}
        for page, chosen in found.items()
        if isinstance(chosen, dict)
    }
