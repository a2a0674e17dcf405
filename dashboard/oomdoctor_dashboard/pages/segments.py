"""The address space at the moment: segments as rows, blocks as boxes, and beside it what was clicked."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Optional

import dash
import dash_mantine_components as dmc
import numpy as np
from dash import ClientsideFunction, Input, Output, State, dcc, html, no_update

from oomdoctor.allocator.moment import Moment
from oomdoctor.snapshot.model import ALLOC, FREE_COMPLETED, FREE_REQUESTED
from oomdoctor.units import format_bytes
from oomdoctor_dashboard import by_the_way, graphs, ids, told
from oomdoctor_dashboard.block_life import Lives
from oomdoctor_dashboard.choosing import with_chosen
from oomdoctor_dashboard.downloads import register_csv
from oomdoctor_dashboard.errors import alert
from oomdoctor_dashboard.figures.drawing import Drawing, sent
from oomdoctor_dashboard.figures.segments import segment_figure
from oomdoctor_dashboard.gates import shown_id
from oomdoctor_dashboard.library import Library, Loaded
from oomdoctor_dashboard.live_data import NO_PLACE, places_of, stream_name
from oomdoctor_dashboard.map_colours import BY, kinds_of, ranked_places
from oomdoctor_dashboard.reading_help import reading_help
from oomdoctor_dashboard.segment_map import Filter, SegmentMap, bounds, line_bytes, row_bytes_for, segment_map
from oomdoctor_dashboard.segment_panel import panel, row_at, summary
from oomdoctor_dashboard.segment_words import box_lines
from oomdoctor_dashboard.settings_of_page import settings_store, settle_in_browser
from oomdoctor_dashboard.view import View, only_what_changes, options_of, with_options

ID, TITLE = "segments", "Segments"

_POOLS = (("", "all pools"), ("large", "large pool"), ("small", "small pool"), ("private", "private pools"))
# Of a device with thousands of segments the largest.
_LISTED = 300
# Maps that stay at hand: several people may look at one recording.
_KEPT = 8
_HELP = (
    "The memory that PyTorch reserves on this device at the moment, in the order of addresses, to scale: all"
    " rows are equally many bytes. A long segment goes on in the next row (+ how far in it the row begins),"
    " short ones share a row. What lies between two segments is not reserved and not drawn to scale.",
    "A hole is what PyTorch calls an inactive split: free memory in a segment that has live blocks. The"
    " allocator can give a segment back only when all of it is free, so live blocks pin holes. In an"
    " expandable segment the live neighbours alone pin one. Pending free: the program freed the block, and"
    " another stream has still to be waited for.",
    "Blocks narrower than a pixel are drawn as one box for each state. Drag over a stretch to see them apart;"
    " a double click shows all again. A click on such a box, or on the address at the left, shows a segment"
    " alone.",
    "Pink: what the last event was about. Click a block for its life, a hole for what pins it.",
)


def layout() -> Any:
    """The map and the panel beside it."""
    select: dict[str, Any] = {"size": "xs", "allowDeselect": False}
    return html.Div(
        [
            settings_store(ID, _SETTINGS, numbers=("stream",)),
            dcc.Store(id=f"{ID}-drawn"),
            dcc.Store(id=f"{ID}-pointed"),
            dcc.Store(id=f"{ID}-picked"),
            dmc.Group(
                gap="xs",
                mb=4,
                children=[
                    dmc.Select(
                        id=f"{ID}-pool", w=130, value="all", **select, **{"aria-label": "Pool"},
                        data=[{"value": key or "all", "label": label} for key, label in _POOLS],
                    ),
                    dmc.Select(
                        id=f"{ID}-stream", w=140, value="all", **select, **{"aria-label": "Stream"},
                        data=[{"value": "all", "label": "all streams"}],
                    ),
                    dmc.Select(
                        id=f"{ID}-alone", w=290, value="all", searchable=True, limit=100, **select,
                        data=[{"value": "all", "label": "all segments"}], **{"aria-label": "Segment"},
                    ),
                    dmc.Select(
                        id=f"{ID}-colour", w=150, value="state", **select, **{"aria-label": "Colour"},
                        data=[{"value": by, "label": f"colour by {by}"} for by in BY],
                    ),
                    dmc.Switch(id=f"{ID}-holes", size="xs", label="only segments with holes"),
                    dmc.Button("CSV", id=f"{ID}-csv", variant="default", size="compact-xs",
                        **{"aria-label": "Download the blocks of this moment as CSV"}),
                    dcc.Download(id=f"{ID}-file"),
                    reading_help(_HELP, from_right=True),
                ],
            ),
            html.Div(
                style={"display": "flex", "gap": 12, "alignItems": "flex-start"},
                children=[
                    html.Div(
                        style={"flex": "1 1 auto", "minWidth": 0, "position": "relative"},
                        children=[
                            html.Div(id=f"{ID}-none"),
                            dcc.Graph(
                                id=f"{ID}-graph",
                                responsive=True,
                                style={"display": "none"},
                                config=graphs.config(
                                    "segments",
                                    doubleClick="autosize",
                                    modeBarButtonsToRemove=["select2d", "lasso2d", "resetScale2d"],
                                ),
                            ),
                            dcc.Tooltip(id=f"{ID}-tooltip", direction="bottom"),
                        ],
                    ),
                    told.place(id=f"{ID}-panel", className="od-box od-panel-beside"),
                ],
            ),
        ]
    )  # fmt: skip


_HIDDEN = {"display": "none"}
_SETTINGS = {
    "pool": ("value", "all"),
    "stream": ("value", None),
    "alone": ("value", "all"),
    "colour": ("value", "state"),
    "holes": ("checked", None),
}
_WRITTEN = (*((name, prop) for name, (prop, _) in _SETTINGS.items()), ("stream", "data"), ("alone", "data"))


def register(app: dash.Dash, library: Library) -> None:
    """Its callbacks."""
    settle_in_browser(app, ID, _SETTINGS)
    register_csv(app, library, ID, csv_of)
    _register_choosing(app, library)

    @app.callback(
        Output(f"{ID}-graph", "figure"),
        Output(f"{ID}-graph", "style"),
        Output(f"{ID}-drawn", "data"),
        Output(f"{ID}-panel", "data-told"),
        Input(shown_id(ID), "data"),
        State(f"{ID}-drawn", "data"),
        State(f"{ID}-tooltip", "show"),
        prevent_initial_call=True,
    )
    def draw(shown: Optional[View], drawn: Any, points: Any) -> Any:
        """All of the page at once: one request for each step, and in the answer only what is new."""
        if shown is None or shown["tab"] != ID:
            return (no_update,) * 4
        loaded = library.loaded(shown["item"], shown["device"])
        key = key_of(shown, loaded)
        before = drawn or {}
        if before.get("key") == key:
            return (no_update,) * 4
        found = map_of(loaded, key)
        moment, options = found.moment, key["options"]
        address = _address(options.get("block"))
        if address is None:
            beside = summary(moment, basis_of(loaded, moment))
        else:
            beside = panel(moment, lives_of(loaded), address, alone=bool(options.get("alone")))
        figure: Any = no_update
        none = None
        if len(found):
            figure = sent(figure_of(loaded, found, key))
            style = {"height": figure["layout"]["height"]}
        else:
            style, none = _HIDDEN, _nothing(moment, _filter(key))
        controls = _controls(moment, options)
        now = {"key": key, "style": style, "controls": _digest(controls)}
        if before.get("controls") != now["controls"]:
            for (name, prop), value in zip(_WRITTEN, controls):
                by_the_way.write((f"{ID}-{name}", prop), value)
        is_other = before.get("style") != style
        if none is not None or (is_other and before.get("style") == _HIDDEN):
            by_the_way.write((f"{ID}-none", "children"), none)
        if points:
            by_the_way.write((f"{ID}-tooltip", "show"), False)
        return figure, style if is_other else no_update, now, told.sent(*beside)

    @app.callback(
        Output(f"{ID}-tooltip", "show"),
        Output(f"{ID}-tooltip", "children"),
        Input(f"{ID}-pointed", "data"),
        State(f"{ID}-drawn", "data"),
        prevent_initial_call=True,
    )
    def hover(box: Any, drawn: Any) -> Any:
        key = (drawn or {}).get("key")
        if not isinstance(box, int) or key is None or not library.is_loaded(key["item"], key["device"]):
            return False, no_update
        found = map_of(library.loaded(key["item"], key["device"]), key)
        if box >= len(found):
            return False, no_update
        first, *more = box_lines(found, box)
        lines = [html.Div(first, style={"fontWeight": 600}), *(html.Div(line) for line in more)]
        style = {
            "fontSize": 11,
            "color": "#1a202c",  # the tooltip is white in either theme
            "width": "max-content",
            "maxWidth": 420,
            "overflowWrap": "anywhere",
            "whiteSpace": "normal",
        }
        return True, html.Div(lines, style=style, className="od-tooltip")


# ---- what is drawn ----


def key_of(shown: View, loaded: Loaded) -> dict[str, Any]:
    """All that the figure depends on."""
    return {
        "item": shown["item"],
        "device": shown["device"],
        "theme": shown["theme"],
        "event": loaded.event(shown["event"]),
        "options": options_of(shown, ID),
    }


def map_of(loaded: Loaded, key: dict[str, Any]) -> SegmentMap:
    """The map that a key asks for; of the last few, what pointing and clicking ask for again."""
    kept: dict[Any, SegmentMap] = loaded.made("segment maps", lambda _: {})
    drawn = {name: value for name, value in key["options"].items() if name not in ("block", "drag")}
    text = json.dumps([key["event"], drawn], sort_keys=True)
    found = kept.get(text)
    if found is None:
        found = _map(loaded, key)
        for old in list(kept)[: -_KEPT + 1]:
            kept.pop(old, None)
        kept[text] = found
    return found


def _map(loaded: Loaded, key: dict[str, Any]) -> SegmentMap:
    moment = loaded.moment(key["event"])
    only = _filter(key)
    kind, _ = _kinds(loaded, moment, key)
    if only.segment is None:
        # The same scale at all moments, so that stepping does not move what stays where it is.
        width = loaded.made(("row bytes", only), lambda one: row_bytes_for(_fullest(one).layout, only))
    else:
        width = row_bytes_for(moment.layout, only)
    seen = _zoom(key["options"].get("zoom"), width)
    return segment_map(moment, only, kind=kind, row_bytes=width, seen=seen)


def figure_of(loaded: Loaded, found: SegmentMap, key: dict[str, Any]) -> Drawing:
    """The figure of a map."""
    moment = found.moment
    _, names = _kinds(loaded, moment, key)
    address = _address(key["options"].get("block"))
    row = row_at(moment, address) if address is not None else None
    selected = None
    if row is not None:
        selected = int(moment.layout.blocks["ptr"][row]), int(moment.layout.blocks["size"][row])
    return segment_figure(
        found,
        key["theme"],
        kinds=names,
        selected=selected,
        touched=_touched(moment),
        zoom=_zoom(key["options"].get("zoom"), found.row_bytes),
        pans=key["options"].get("drag") == "pan",
    )


def lives_of(loaded: Loaded) -> Lives:
    """The lives of all blocks, made once."""
    return loaded.made("lives", lambda one: Lives(one.history))


def basis_of(loaded: Loaded, moment: Moment) -> str:
    """What a moment's figures stand on, as ``inspect`` has it."""
    return "recorded" if moment.events == loaded.events and loaded.device.agrees else "replayed"


def _digest(value: Any) -> str:
    """Short, and the same for the same value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def _fullest(loaded: Loaded) -> Moment:
    """Where the most was reserved."""
    reserved = loaded.history.effects["reserved_bytes"]
    return loaded.moment(int(reserved.argmax()) + 1 if len(reserved) else None)


def _kinds(loaded: Loaded, moment: Moment, key: dict[str, Any]) -> tuple[Any, list[tuple[str, str]]]:
    by = str(key["options"].get("colour", "state"))
    ranking: list[str] = []
    if by == "stack":
        ranking = loaded.made("ranked places", lambda one: ranked_places(_fullest(one)))
    return kinds_of(moment, by, ranking)


def _filter(key: dict[str, Any]) -> Filter:
    options = key["options"]
    stream = options.get("stream")
    return Filter(
        pool=str(options.get("pool", "")),
        stream=stream if isinstance(stream, int) else None,
        only_holes=bool(options.get("holes", False)),
        segment=_address(options.get("alone")),
    )


def _touched(moment: Moment) -> Optional[tuple[int, int]]:
    """Where the last event happened: its block or its segment."""
    if not moment.events:
        return None
    at = moment.events - 1
    events, effect = moment.history.recording.events, moment.history.effects[at]
    size = int(effect["block_size"])
    if events.action[at] in (ALLOC, FREE_REQUESTED, FREE_COMPLETED) or size:
        return int(events.address[at]), size
    return None


def _zoom(text: Any, row_bytes: int) -> Optional[tuple[int, int]]:
    """The stretch of a line that is seen, "row bytes:low:high" in the view; None where lines are others."""
    numbers = str(text or "").split(":")
    if len(numbers) != 3 or not all(one.isascii() and one.isdigit() and len(one) < 16 for one in numbers):
        return None
    width, low, high = map(int, numbers)
    high = min(high, line_bytes(row_bytes))
    return (low, high) if width == row_bytes and low < high else None


def _address(text: Any) -> Optional[int]:
    """An address as it stands in the view."""
    try:
        return int(str(text), 16) if text else None
    except ValueError:
        return None


def _nothing(moment: Moment, only: Filter) -> Any:
    is_there = only.segment in bounds(moment.layout)[0].tolist()
    if only.segment is not None and not is_there:
        text = f"The segment {only.segment:#x} is not there at this moment. Choose all segments above."
        return alert("No such segment", text, colour="blue")
    if only.segment is not None and only.only_holes:
        text = f"The segment {only.segment:#x} has none at this moment. Choose all, or also those without."
        return alert("No hole in this segment", text, colour="blue")
    if moment.layout.segments:
        return alert("No segment is like this", "Choose other pools or streams above.", colour="blue")
    return alert("Nothing is reserved", "The device has no segment at this moment.", colour="blue")


# ---- what is chosen ----


def csv_of(loaded: Loaded, shown: View) -> tuple[str, str]:
    """A file of all blocks of a moment: sizes in bytes; where each was allocated, innermost first."""
    moment = loaded.moment(shown["event"])
    frame = moment.blocks_frame()
    places = places_of(loaded)
    numbers = places.of(moment.stack)
    texts = ["" if text == NO_PLACE else text for text in places.texts]
    frame["stack"] = [texts[number] for number in numbers.tolist()]
    frame["address"] = [f"{address:#x}" for address in frame["address"]]
    return f"blocks-at-{moment.events}.csv", str(frame.to_csv(index=False))


def _controls(moment: Moment, options: dict[str, Any]) -> tuple[Any, ...]:
    """Values of the controls above the map, and what can be chosen there."""
    alone = options.get("alone")
    handles = moment.history.recording.streams.tolist()
    recording = moment.history.recording
    streams = [
        {"value": str(rank), "label": f"stream {stream_name(recording, rank)}"}
        for rank in range(len(handles))
    ]
    wanted = options.get("stream")
    if isinstance(wanted, int):
        streams = with_chosen(streams, wanted, f"stream {wanted}")
    return (
        options.get("pool", "all"),
        str(options.get("stream", "all")),
        alone or "all",
        options.get("colour", "state"),
        bool(options.get("holes", False)),
        [{"value": "all", "label": "all streams"}, *streams],
        [{"value": "all", "label": "all segments"}, *listed_segments(moment, _address(alone))],
    )


def listed_segments(moment: Moment, also: Optional[int] = None) -> list[dict[str, str]]:
    """Segments to choose from, by address: the largest where there are many; and ``also``."""
    starts, sizes = bounds(moment.layout)
    rows = np.sort(np.argsort(-sizes, kind="stable")[:_LISTED])
    out = [
        {"value": f"{start:#x}", "label": f"{start:#x}  {format_bytes(size)}"}
        for start, size in zip(starts[rows].tolist(), sizes[rows].tolist())
    ]
    if also is not None and f"{also:#x}" not in {one["value"] for one in out}:
        out.append({"value": f"{also:#x}", "label": f"{also:#x}"})
    return out


def _register_choosing(app: dash.Dash, library: Library) -> None:
    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-picked", "data"),
        State(f"{ID}-drawn", "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    @only_what_changes
    def click(picked: Any, drawn: Any, view: Optional[View]) -> Any:
        box, key = (picked or {}).get("box"), (drawn or {}).get("key")
        if view is not None and (picked or {}).get("alone"):
            return with_options(view, ID, alone=picked["alone"])
        if (
            not isinstance(box, int)
            or view is None
            or key is None
            or not library.is_loaded(key["item"], key["device"])
        ):
            return no_update
        found = map_of(library.loaded(key["item"], key["device"]), key)
        if box >= len(found):
            return no_update
        layout = found.moment.layout
        block = int(found.block[box])
        if found.count[box] > 1 and not options_of(view, ID).get("alone"):
            start = int(bounds(layout)[0][layout.segment[block]])
            return with_options(view, ID, alone=f"{start:#x}")
        return with_options(view, ID, block=f"{int(layout.blocks['ptr'][block]):#x}")

    app.clientside_callback(
        ClientsideFunction("oomdoctor_segments", "zoomed"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input(f"{ID}-graph", "relayoutData"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
