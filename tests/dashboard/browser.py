"""A dashboard in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any, Optional
from urllib.parse import parse_qs, urlsplit

import pytest
from oomdoctor_dashboard.app import create_app
from oomdoctor_dashboard.library import Library
from waitress import create_server

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
WAIT_MS = 60_000  # the machine may be busy

# Notes when the page was last busy, so that a test can wait until it is at rest: while an answer is awaited,
# while Dash has callbacks to call, and while something took so long that what follows from it, a page that is
# brought in or the question that its boxes ask, may not have begun.
_WATCH = """
window.__open = 0; window.__busy = performance.now();
const fetch_ = window.fetch;
window.fetch = (...all) => {
  window.__open++;
  return fetch_(...all).finally(() => setTimeout(() => { window.__open--; window.__busy = performance.now(); }));
};
const WAITS = ["requested", "prioritized", "blocked", "executing", "watched", "executed"];
const calls = () => {
  const { callbacks } = window.store ? window.store.getState() : {};
  return callbacks && WAITS.some((one) => callbacks[one].length);
};
let beat = performance.now();
setInterval(() => {
  const now = performance.now();
  if (window.__open || calls() || now - beat > 200) window.__busy = now;
  beat = now;
}, 20);
"""
# What was just done may not have asked for anything yet.
_AT_REST = """([quiet, since]) => window.__open === 0
  && performance.now() - Math.max(window.__busy, since) > quiet"""


class Tab:
    """One page of the dashboard, with everything that went wrong on it."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.address = address
        self.wrong: list[str] = []
        page.add_init_script(_WATCH)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", self._request)
        page.on("response", self._response)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.wrong.append(f"console: {message.text}")

    def _request(self, request: Any) -> None:
        where = urlsplit(request.url)
        if where.scheme in ("http", "https") and where.hostname != "127.0.0.1":
            self.wrong.append(f"asked elsewhere: {request.url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.wrong.append(f"{response.status}: {response.url}")

    def open(self, query: str = "") -> Tab:
        self.page.goto(self.address + query)
        self.page.wait_for_selector("#item")
        self.rest()
        return self

    def rest(self, quiet_ms: int = 350) -> None:
        """Wait until nothing is under way."""
        since = self.page.evaluate("performance.now()")
        self.page.wait_for_function(_AT_REST, arg=[quiet_ms, since], timeout=WAIT_MS)

    def drawn(self) -> None:
        """Wait for the timeline."""
        self.page.wait_for_selector("#timeline-graph .scatterlayer .trace path", timeout=WAIT_MS)
        self.rest()

    def tab(self, name: str) -> None:
        """Open a page below the timeline."""
        self.page.locator(f"[role=tab][id$='tab-{name}']").click()
        self.rest()

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def query(self) -> dict[str, str]:
        """What the address says."""
        found = parse_qs(urlsplit(self.page.evaluate("location.href")).query)
        return {key: values[0] for key, values in found.items()}

    def move(self, event: int) -> None:
        """Set the moment."""
        box = self.page.locator("#moment-event")
        box.fill(str(event))
        box.press("Enter")
        self.page.wait_for_function(
            "event => new URLSearchParams(location.search).get('event') === event",
            arg=str(event),
            timeout=WAIT_MS,
        )
        self.rest()


@contextlib.contextmanager
def served(library: Library, **options: Any) -> Iterator[str]:
    """Serve a library on a free port; yields the address."""
    server = create_server(create_app(library, **options).server, host="127.0.0.1", port=0, threads=8)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}/"
    finally:
        server.close()
        library.close()


def needs_browser() -> Optional[str]:
    """Why no browser can be had; None where one can."""
    if CHROMIUM is None:
        return "there is no Chromium; CHROMIUM names one"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "there is no Playwright"
    return None


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser."""
    why = needs_browser()
    if why is not None:
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
