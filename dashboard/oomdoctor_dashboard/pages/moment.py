"""The bar between timeline and tabs: the moment that all pages show, to step and to play."""

from __future__ import annotations

from typing import Any, Optional

import dash
import dash_mantine_components as dmc
from dash import ClientsideFunction, Input, Output, State, dcc, no_update

from oomdoctor_dashboard import by_the_way, ids, told
from oomdoctor_dashboard.gates import shown_id, shown_store
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.pages.timeline import seconds_of
from oomdoctor_dashboard.reading_help import reading_help
from oomdoctor_dashboard.stepping import KINDS, Stops, what_happened, when
from oomdoctor_dashboard.view import View, changed, only_what_changes

ID, TITLE = "moment", "Moment"

# Label, milliseconds between two steps, steps at a time.
SPEEDS = {
    "2": ("2 a second", 500, 1),
    "5": ("5 a second", 200, 1),
    "50": ("50 a second", 200, 10),
    "500": ("500 a second", 200, 100),
    "5000": ("5,000 a second", 200, 1000),
}
# Id, sign, what it does, key.
_BUTTONS = (
    ("first", "|◀", "Before the first event (Home)"),
    ("back", "◀◀", "100 back (Shift ←)"),
    ("previous", "◀", "One back (←)"),
    ("next", "▶", "One on (→)"),
    ("on", "▶▶", "100 on (Shift →)"),
    ("last", "▶|", "After the last event (End)"),
)
_NAMES = {"oom": "OOM"}
_HELP = (
    "All pages show the state after so many events. Events are numbered from 0, so what event 41 did is seen"
    " after 42. Step by every event, or only by allocations, frees, segments that come or go, or"
    " out-of-memory errors. The line says what the last event did, and where in the program.",
    "Keys: ← → step, with Shift by 100, Home and End, Space plays and pauses.",
)


def layout() -> Any:
    """The bar."""
    small: dict[str, Any] = {"size": "xs", "variant": "default"}
    return dmc.Paper(
        id=f"{ID}-bar",
        withBorder=True,
        p="6px 10px",
        my=6,
        children=[
            shown_store(ID),
            dcc.Store(id=f"{ID}-info"),
            dcc.Store(id=f"{ID}-ask"),
            dcc.Interval(id=f"{ID}-tick", interval=500, disabled=True),
            dmc.Group(
                gap="xs",
                children=[
                    told.place(*map(_button, _BUTTONS), className="od-tools"),
                    dmc.NumberInput(
                        id=f"{ID}-event", w=120, size="xs", min=0, step=1, debounce=True, allowDecimal=False,
                        allowNegative=False, thousandSeparator=",", hideControls=True,
                        **{"aria-label": "Event"},
                    ),
                    dmc.Text(id=f"{ID}-of", size="xs", c="dimmed"),
                    dmc.Select(
                        id=f"{ID}-by", w=132, size="xs", value="event", allowDeselect=False,
                        data=[{"value": kind, "label": f"by {_NAMES.get(kind, kind)}"} for kind in KINDS],
                        **{"aria-label": "Step by"},
                    ),
                    dmc.Button("Play", id=f"{ID}-play", w=64, **small),
                    dmc.Select(
                        id=f"{ID}-speed", w=128, size="xs", value="5", allowDeselect=False,
                        data=[{"value": key, "label": label} for key, (label, _, _) in SPEEDS.items()],
                        **{"aria-label": "Speed"},
                    ),
                    told.place(*_places(True), id=f"{ID}-places", className="od-tools"),
                    reading_help(_HELP, width=420, from_right=True),
                ],
            ),
            told.place(
                id=f"{ID}-line",
                className="od-mono",
                style={
                    # One line at all times: what stands below must not jump while stepping.
                    "fontSize": 12, "height": 22, "paddingTop": 4, "whiteSpace": "nowrap",
                    "overflow": "hidden", "textOverflow": "ellipsis",
                },
            ),
        ],
    )  # fmt: skip


def _button(what: tuple[str, str, str]) -> told.Told:
    name, sign, help_ = what
    return told.button(sign, look="tool", id=f"{ID}-{name}", title=help_, aria_label=help_)


def _places(has_ooms: bool) -> list[told.Told]:
    """Buttons to where one wants to look."""
    off = {} if has_ooms else {"disabled": ""}
    return [
        told.button("Peak allocated", look="tool", id=f"{ID}-allocated"),
        told.button("Peak reserved", look="tool", id=f"{ID}-reserved"),
        told.button("OOM", look="tool", id=f"{ID}-oom", **off),
    ]


def stops_of(loaded: Loaded) -> Stops:
    """The stops of a recording, made once."""
    return loaded.made("stops", lambda one: Stops(one.history))


def register(app: dash.Dash, library: Library) -> None:
    """Its callbacks."""
    _register_browser(app)

    @app.callback(
        Output(f"{ID}-line", "data-told"),
        Output(f"{ID}-line", "title"),
        Output(f"{ID}-line", "data-event"),
        Output(f"{ID}-line", "data-seconds"),
        Input(shown_id(ID), "data"),
        State(f"{ID}-info", "data"),
        prevent_initial_call=True,
    )
    def say(shown: Optional[View], info: Any) -> Any:
        if shown is None:
            return (no_update,) * 4
        loaded = library.loaded(shown["item"], shown["device"])
        moment = loaded.moment(shown["event"])
        at, what = when(moment), what_happened(moment)
        parts = [what, *([told.element("span", f"  ·  {at}", class_="od-quiet")] if at else [])]
        line = told.sent(*parts), what, moment.events, seconds_of(loaded, moment.events)
        if info and (info["item"], info["device"]) == (shown["item"], shown["device"]):
            return line
        # What of a recording stepping needs to know; once for each.
        stops = stops_of(loaded)
        known = {
            "item": shown["item"],
            "device": shown["device"],
            "events": stops.events,
            "has_times": seconds_of(loaded, 0) is not None,
            "peaks": stops.peaks,
            "speeds": {key: [pause, steps] for key, (_, pause, steps) in SPEEDS.items()},
        }
        by_the_way.write((f"{ID}-info", "data"), known)
        by_the_way.write((f"{ID}-of", "children"), f"of {stops.events:,}")
        by_the_way.write((f"{ID}-places", "data-told"), told.sent(*_places(bool(stops.count("oom")))))
        by_the_way.write((f"{ID}-event", "max"), stops.events)
        by_the_way.write((f"{ID}-event", "value"), moment.events)
        return line

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-ask", "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def step(ask: Any, view: Optional[View]) -> Any:
        """Steps that only the server knows: to the next allocation, the next error."""
        if not ask or view is None or not library.is_loaded(view["item"], view["device"]):
            return no_update
        loaded = library.loaded(view["item"], view["device"])
        stops, event = stops_of(loaded), loaded.event(view["event"])
        if ask["kind"] == "next oom":
            found = stops.next_oom(event)
        else:
            found = stops.step(ask["kind"], event, int(ask["steps"]))
        return no_update if found is None or found == event else changed(view, event=found)


def _register_browser(app: dash.Dash) -> None:
    """What needs no server: see assets/moment.js."""
    app.clientside_callback(
        ClientsideFunction("oomdoctor_moment", "step"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-tick", "n_intervals"),
        # Not its value, which each step sets.
        Input(f"{ID}-event", "n_submit"),
        Input(f"{ID}-event", "n_blur"),
        State(ids.VIEW, "data"),
        State(f"{ID}-info", "data"),
        State(f"{ID}-by", "value"),
        State(f"{ID}-speed", "value"),
        State(f"{ID}-line", "data-event"),
        State(f"{ID}-event", "value"),
        prevent_initial_call=True,
    )
