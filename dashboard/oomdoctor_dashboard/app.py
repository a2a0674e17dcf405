"""The app: the frame around the pages, and the way from what is wanted to what is shown.

A view (:mod:`oomdoctor_dashboard.view`) that is wanted stands in one store. Where the recording that it
speaks of is at hand it goes on at once, in the browser, to the store that pages read; otherwise reading
begins in the background, and the view goes on when it is done.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Optional

import dash
import dash_mantine_components as dmc
from dash import ClientsideFunction, Input, Output, State, dcc, html, no_update
from flask import Flask

from oomdoctor import __version__
from oomdoctor.errors import UsageError
from oomdoctor_dashboard import ids
from oomdoctor_dashboard.access import Access, guard
from oomdoctor_dashboard.choosing import device_choices, item_choices
from oomdoctor_dashboard.errors import alert
from oomdoctor_dashboard.gates import open_gates, place_of, stores
from oomdoctor_dashboard.library import Item, Library
from oomdoctor_dashboard.polling import NO_MORE, once_more, order, poll, question
from oomdoctor_dashboard.starting import begin_with_view
from oomdoctor_dashboard.told import button, place
from oomdoctor_dashboard.uploads import add_upload_route, as_named, too_large
from oomdoctor_dashboard.view import DEFAULT, OF_A_RECORDING, TABS, changed, within

ALWAYS = ("timeline", "moment")
# Pages that come when they are opened.
LATER = TABS[1:]
MIB = 1 << 20

_FOLLOW_MS = 5000
_HIDDEN: Any = {"display": "none"}
_VISIBLE: Any = {}
# How long a question is listened to that asks how far reading is, seconds.
_LISTEN_S = 0.5


def create_app(
    library: Library,
    *,
    access: Optional[Access] = None,
    first: Optional[str] = None,
    upload_limit: int = 1024 * MIB,
) -> dash.Dash:
    """The dashboard over a library.

    Args:
        access: who may look; by default this machine alone.
        first: key of the item to show where the address names none; by default the library's first.
        upload_limit: bytes of the largest file that is taken from a browser.
    """
    server = Flask("oomdoctor_dashboard")
    guard(server, access or Access())
    add_upload_route(server, library, upload_limit)
    app = dash.Dash(
        "oomdoctor_dashboard",
        server=server,
        title="oomdoctor",
        update_title=None,
        prevent_initial_callbacks=True,
        serve_locally=True,
        suppress_callback_exceptions=True,  # pages come later; a test looks after the ids
        include_pages_meta=False,
        on_error=_say,
        assets_folder=str(_assets()),
    )
    needs_token = access is not None and access.token is not None
    pages = {name: importlib.import_module(f"oomdoctor_dashboard.pages.{name}") for name in (*ALWAYS, *TABS)}

    def frame() -> Any:
        return _frame(pages, upload_limit, needs_token)

    app.layout = frame
    begin_with_view(app, library, first)
    _register(app, library)
    open_gates(app, {name: pages[name] for name in LATER})
    for page in pages.values():
        page.register(app, library)
    return app


def _say(error: Exception) -> Any:
    """What a callback did not expect appears on the page; what it would have shown stays as it was."""
    box = alert(error)
    dash.set_props(ids.MESSAGES, {"sendNotifications": [_notification(box.title, box.children)]})
    return no_update


def _notification(title: str, message: Any) -> dict[str, Any]:
    return {"action": "show", "title": title, "message": message, "color": "red", "autoClose": 15000}


def _assets() -> Any:
    from pathlib import Path

    return Path(__file__).parent / "assets"


def _frame(pages: dict[str, ModuleType], upload_limit: int, needs_token: bool) -> Any:
    """Everything on the page; made anew for each visitor."""
    return dmc.MantineProvider(
        id="mantine",
        forceColorScheme="light",
        theme={"primaryColor": "blue", "fontFamily": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"},
        children=[
            dcc.Store(id=ids.VIEW),
            dcc.Store(id=ids.SHOWN),
            dcc.Store(id="uploaded"),
            dcc.Store(id="default-view", data=DEFAULT),
            dcc.Store(id="of-a-recording", data=OF_A_RECORDING),
            dcc.Store(id="wanted"),
            dcc.Store(id="come"),
            dcc.Store(id="subject"),
            dcc.Store(id="failed"),
            dcc.Store(id="whatif-drawn"),
            *stores(LATER),
            poll("poll", 100),
            dcc.Interval(id="follow", interval=_FOLLOW_MS),
            dmc.NotificationContainer(id=ids.MESSAGES, position="bottom-right"),
            html.Div(
                id="page",
                disable_n_clicks=True,  # Dash would note every click on the page
                # Read in the browser, which need not send what is not taken.
                **{"data-upload-limit": str(upload_limit), "data-too-large": too_large(upload_limit)},
                children=[
                    _header(needs_token),
                    html.Div(id="problem"),
                    html.Div(id="loading", children=_loading(), style={"display": "none"}),
                    html.Div(
                        id="views",
                        disable_n_clicks=True,
                        children=[
                            place(id="story", className="od-story"),
                            pages["timeline"].layout(),
                            pages["moment"].layout(),
                            _tabs(pages),
                        ],
                    ),
                ],
            ),
        ],
    )


def _header(needs_token: bool) -> Any:
    share = "Copy the address of this view"
    if needs_token:
        share += "; whoever opens it needs the token as well (…?token=TOKEN, once)"
    return dmc.Group(
        className="od-header",
        justify="space-between",
        wrap="nowrap",
        children=[
            dmc.Group(
                gap="sm",
                wrap="nowrap",
                children=[
                    dmc.Text("oomdoctor", fw=700, size="lg", className="od-name"),
                    dmc.Select(
                        id="item", w=400, searchable=True, placeholder="Open a snapshot",
                        size="sm", maxDropdownHeight=400, **{"aria-label": "Snapshot"},
                    ),
                    dmc.Select(id="device", w=110, size="sm", allowDeselect=False,
                        **{"aria-label": "Device"},),
                ],
            ),
            dmc.Group(
                gap="xs",
                wrap="nowrap",
                children=[
                    dmc.Button("Open a file", id="upload-button", variant="default", size="sm"),
                    place(button("Copy link", look="tool", title=share, data_copy="")),
                    dmc.Switch(
                        id="theme", size="md", onLabel="dark", offLabel="light", **{"aria-label": "Dark"}
                    ),
                    dmc.Text(__version__, size="xs", c="dimmed"),
                ],
            ),
        ],
    )  # fmt: skip


def _loading() -> Any:
    return dmc.Paper(
        withBorder=True,
        p="md",
        className="od-loading",
        children=dmc.Group(
            [
                dmc.Loader(size="sm"),
                dmc.Text("", id="loading-text"),
                dmc.Button("Cancel", id="loading-cancel", variant="default", size="xs"),
            ]
        ),
    )


def _tabs(pages: dict[str, ModuleType]) -> Any:
    return dmc.Tabs(
        id="tabs",
        value=DEFAULT["tab"],
        # Dash gives what is mounted again the props it first had, not those it has now.
        keepMounted=True,
        activateTabWithKeyboard=False,  # the arrows step
        children=[
            dmc.TabsList([dmc.TabsTab(pages[name].TITLE, value=name) for name in TABS]),
            *(
                dmc.TabsPanel(
                    place_of(name) if name in LATER else pages[name].layout(),
                    value=name,
                    className="od-panel",
                )
                for name in TABS
            ),
        ],
    )


def _register(app: dash.Dash, library: Library) -> None:
    _register_address(app)
    _register_choosing(app, library)
    _register_reading(app, library)

    app.clientside_callback(
        ClientsideFunction("oomdoctor", "choose"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input("tabs", "value"),
        Input("theme", "checked"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )


def _register_address(app: dash.Dash) -> None:
    """The view is in the address: read by the server once, written by the browser on each change."""

    app.clientside_callback(
        ClientsideFunction("oomdoctor", "start"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        Output("come", "data", allow_duplicate=True),
        Input("default-view", "data"),
        prevent_initial_call="initial_duplicate",
    )

    app.clientside_callback(
        ClientsideFunction("oomdoctor", "colours"),
        Output("page", "className"),
        Input("mantine", "forceColorScheme"),
    )


def _register_choosing(app: dash.Dash, library: Library) -> None:
    @app.callback(
        Output("item", "data"),
        Output("item", "value"),
        Output("device", "data"),
        Output("device", "value"),
        Input("subject", "data"),
        Input("follow", "n_intervals"),
        Input("failed", "data"),
        State("item", "value"),
        State("device", "value"),
        State(ids.VIEW, "data"),
        prevent_initial_call=False,
    )
    def choices(subject: Any, _: Any, __: Any, item_now: Any, device_now: Any, view: Any) -> Any:
        if dash.ctx.triggered_id == "follow":
            # An answer of ours may have been dropped while the page was being built: look after it, unless
            # the boxes ask for something that is being read.
            is_right = not subject or (item_now, device_now) == (subject["item"], str(subject["device"]))
            reads = subject and view and any(view[one] != subject[one] for one in ("item", "device"))
            if (not library.refresh() and is_right) or reads:
                return no_update, no_update, no_update, no_update
        items = item_choices(library)
        if subject is None:
            return items, no_update, no_update, no_update
        mine = None if subject["device"] is None else str(subject["device"])
        item = subject["item"] if library.item(subject["item"]) else None
        # With the choices sent along: a searchable box shows no value that comes without them.
        return items, item, device_choices(library, item), mine

    # In the browser: while a server were asked, what looks after the boxes would set them back.
    app.clientside_callback(
        ClientsideFunction("oomdoctor", "chosen"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input("item", "value"),
        Input("device", "value"),
        Input("uploaded", "data"),
        State(ids.VIEW, "data"),
        State("subject", "data"),
        State("of-a-recording", "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input("follow", "n_intervals"),
        State("failed", "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )
    def again(_: Any, failed: Any, view: Any) -> Any:
        """A snapshot that could not be read while it was being written."""
        if view is None or not failed or not library.is_worth_another_try(failed):
            return no_update
        return changed(view, item=failed, device=None, event=None, low=None, high=None)

    app.clientside_callback(
        ClientsideFunction("oomdoctor", "came"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input("item", "data"),
        State(ids.VIEW, "data"),
        prevent_initial_call=True,
    )


def _register_reading(app: dash.Dash, library: Library) -> None:
    app.clientside_callback(
        ClientsideFunction("oomdoctor", "back"),
        Output(ids.VIEW, "data", allow_duplicate=True),
        Input("failed", "data"),
        State(ids.VIEW, "data"),
        State(ids.SHOWN, "data"),
        prevent_initial_call=True,
    )

    @app.callback(
        {
            "come": Output("come", "data"),
            "view": Output(ids.VIEW, "data", allow_duplicate=True),
            "loading": Output("loading", "style"),
            "text": Output("loading-text", "children"),
            "problem": Output("problem", "children"),
            "poll": order("poll"),
            "views": Output("views", "style"),
            "failed": Output("failed", "data"),
        },
        Input("wanted", "data"),
        question("poll"),
        Input("loading-cancel", "n_clicks"),
        State(ids.VIEW, "data"),
        State(ids.SHOWN, "data"),
        State("failed", "data"),
        prevent_initial_call=True,
    )
    def read(_: Any, asked: Any, __: Any, view: Any, shown: Any, failed: Any) -> Any:
        # What is said of another that could not be read, of two that were dropped here say, stays.
        clear = no_update if failed and view and failed != view["item"] else None
        views = _VISIBLE if shown else _HIDDEN
        if view is None:
            return no_update
        if view["item"] is None:
            return _read(views=_HIDDEN, problem=_nothing_open(library), failed=None)
        device = view["device"]
        if shown and (shown["item"], shown["device"]) == (view["item"], device):
            return _read(views=_VISIBLE, problem=clear)
        if device is None or not library.is_loaded(view["item"], device):
            # Which devices there are is known once it is read: None stands for the first.
            job = library.load(view["item"], device)
            if dash.ctx.triggered_id == "loading-cancel":
                job.cancel()
                library.jobs.forget((view["item"], device))
                if shown:
                    back = changed(view, item=shown["item"], device=shown["device"], event=None)
                    return _read(views=views, view=back, failed=None)
                return _read(views=views, problem=alert("Reading was cancelled", ""), failed=None)
            if job.state == "running" and not job.wait(_LISTEN_S if asked else 0.1):
                seconds = job.seconds
                text = f"{job.title} … {seconds:.0f} s" if seconds > 1 else f"{job.title} …"
                again = once_more(asked)
                return _read(views=views, loading=_VISIBLE, text=text, problem=clear, poll=again)
            if job.error is not None:
                item = library.item(view["item"])
                error = as_named(job.error, item)
                library.jobs.forget((view["item"], device))
                library.failed(view["item"])
                # What was open before stays: the view goes back in the browser, if it is still the one.
                # What asks for something that is not there is no file that may still grow.
                more = "" if isinstance(error, UsageError) else _may_be_unfinished(item)
                said = alert(error, more=more, closes=True)
                return _read(views=views, problem=said, failed=view["item"])
            if device is None:
                device = job.result.device.device
        found = within(changed(view, device=device), library.loaded(view["item"], device).events)
        other = no_update if found == view else found
        return _read(views=_VISIBLE, come=found, view=other, problem=clear, failed=None)


def _read(**what: Any) -> dict[str, Any]:
    """What ``read`` answers: that nothing is being read, and otherwise what it is given."""
    nothing = dict.fromkeys(("come", "view", "problem", "failed"), no_update)
    return {**nothing, "loading": _HIDDEN, "text": "", "poll": NO_MORE, **what}


def _may_be_unfinished(item: Optional[Item]) -> str:
    if item is None or item.is_upload or item.run is None:
        return ""
    return "If it is still being written: this page reads it again when it changes."


def _nothing_open(library: Library) -> Any:
    if library.items():
        return alert("Choose a snapshot above", "", colour="blue")
    if library.runs:
        return alert(
            "The run folder holds no snapshot yet",
            "One comes at an out-of-memory error and at the end; this page follows.",
            colour="blue",
        )
    return alert(
        "Nothing is open",
        "Drop a memory snapshot on this page, or start with one: oomdoctor dashboard RUN_FOLDER",
        colour="blue",
    )
