"""How fast the dashboard answers in a browser, on a large recording; beside it PyTorch's own viewer.

    python benchmarks/dashboard.py [--events 1500000] [--file SNAPSHOT] [--rounds 8] [--viewer FOLDER]

Prints the time from opening the page to its first picture, with the file read and not yet read; the median
and worst time of each interaction, from the act until all that it asked for is drawn; and the memory of the
tab. The recording is made by the real allocator on an emulated device, with stacks made up afterwards; --file
takes another. Needs Playwright and a Chromium (``CHROMIUM``, /usr/bin/chromium by default).

FOLDER holds PyTorch's viewer as one page that needs no network: torch/utils/viz/MemoryViz.js of a PyTorch
source tree with d3 5 from npm, bundled (``esbuild entry.js --bundle``) into viewer.js, where entry.js says
``import {add_remote_files} from "./MemoryViz.js"; window.add_remote_files = add_remote_files;``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import os
import pickle
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

# Counts the requests under way, and notes when the page had drawn what the last one brought. What it asks of
# itself every few seconds is left out.
_WATCH = """
window.__open = 0; window.__last = performance.now();
const fetch_ = window.fetch;
const drawn = () => { window.__last = performance.now(); window.__open--; };
window.fetch = (...all) => {
  const body = all[1] && all[1].body;
  if (typeof body === "string" && body.includes('"follow.n_intervals"]')) { return fetch_(...all); }
  window.__open++;
  return fetch_(...all).finally(
    () => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(drawn))));
};
"""
_AT_REST = """([since, quiet]) => new Promise(done => {
  const look = () => {
    const now = performance.now();
    if (window.__open === 0 && now - window.__last > quiet && now - since > quiet) {
      done(Math.max(window.__last - since, 0));
    } else { setTimeout(look, 10); }
  };
  look();
})"""
_QUIET_MS = 700


def make_recording(events: int, path: Path) -> None:
    """A recording of about so many events, by the real allocator; stacks of a made-up program."""
    from real_allocator import churn

    from oomdoctor.emulator.drive import drive

    flat = churn(int(events / 1.5))
    ops = [
        ["alloc", number, size, 0] if size >= 0 else ["free", number]
        for number, size in zip(flat["id"].tolist(), flat["bytes"].tolist())
    ]
    history = {"max_entries": 4 * len(ops), "stacks": False}
    (result,) = drive(sys.executable, [{"program": {"ops": ops}, "history": history, "snapshot": str(path)}])
    assert result["error"] is None, result
    with open(path, "rb") as file:
        snapshot = pickle.load(file)  # our own
    rng = random.Random(1)
    frames = [
        {
            "name": rng.choice(("forward", "update", "linear", "apply", "generate")) + str(i % 61),
            "filename": f"/env/lib/python3.11/site-packages/transformers/models/model_{i % 97}/modeling.py",
            "line": rng.randrange(1, 3000),
        }
        for i in range(1500)
    ]
    stacks = [[rng.choice(frames) for _ in range(rng.randrange(8, 28))] for _ in range(900)]
    for event in snapshot["device_traces"][0]:
        event["frames"] = stacks[event["size"] * 7919 % len(stacks)]
    for segment in snapshot["segments"]:
        for block in segment["blocks"]:
            block["frames"] = stacks[block["size"] * 7919 % len(stacks)]
    with open(path, "wb") as file:
        pickle.dump(snapshot, file, protocol=4)


@contextlib.contextmanager
def dashboard(path: Path) -> Iterator[str]:
    """Serve a recording; yields the address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "oomdoctor", "dashboard", "--port", "0", str(path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    try:
        for line in server.stderr:
            found = re.search(r"http://\S+", line)
            if found:
                yield found.group()
                return
        raise SystemExit("the dashboard did not start")
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def files(folder: Path) -> Iterator[str]:
    """Serve a folder; yields the address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def tab_mib() -> tuple[float, float]:
    """Memory of the largest renderer process, which is our tab, MiB: its proportional set size, and what of
    it is its own, which Chrome's task manager calls the tab's memory footprint (RssAnon and VmSwap)."""
    largest = (0, 0)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"--type=renderer" in (process / "cmdline").read_bytes():
                share = _kib((process / "smaps_rollup").read_text(), "Pss")
                status = (process / "status").read_text()
                largest = max(largest, (share, _kib(status, "RssAnon") + _kib(status, "VmSwap")))
    return largest[0] / 1024, largest[1] / 1024


def _kib(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", text, re.M)
    return int(found.group(1)) if found else 0


def report_memory(when: str) -> None:
    share, own = tab_mib()
    print(f"  {f'memory of the tab{when}':38s}{share:8.0f} MiB, its own {own:.0f}")


def timed(page: Any, act: Callable[[], None], before: Callable[[], None] = lambda: None) -> float:
    """Milliseconds from an act until the page has drawn the last of what it asked for.

    ``before`` is what leads to the act: a pointer that goes somewhere, a button held down.
    """
    before()
    page.evaluate(_AT_REST, [0, 300])
    since = page.evaluate("performance.now()")
    act()
    return float(page.evaluate(_AT_REST, [since, _QUIET_MS]))


def report(name: str, times: list[float]) -> None:
    print(f"  {name:44s}{statistics.median(times):8.0f} ms median {max(times):8.0f} ms worst")


def picture(page: Any, url: str) -> float:
    """Seconds until the timeline is drawn."""
    start = time.perf_counter()
    page.goto(url)
    page.wait_for_selector("#timeline-graph .scatterlayer .trace path", timeout=600_000)
    return time.perf_counter() - start


def ours(context: Any, path: Path, rounds: int) -> None:
    rng = random.Random(2)
    with dashboard(path) as url:
        page = context.new_page()
        page.add_init_script(_WATCH)
        print(f"oomdoctor dashboard\n  first picture, the file being read   {picture(page, url):8.1f} s")
        page.evaluate(_AT_REST, [0, 1000])
        report_memory("")
        page.close()
        page = context.new_page()
        page.add_init_script(_WATCH)
        print(f"  first picture, the file read before   {picture(page, url):8.1f} s")
        page.evaluate(_AT_REST, [0, 1000])

        def in_timeline(fraction: float) -> tuple[float, float]:
            box = page.locator("#timeline-graph .nsewdrag").first.bounding_box()
            return box["x"] + fraction * box["width"], box["y"] + 0.6 * box["height"]

        def point() -> None:
            page.mouse.move(*in_timeline(rng.uniform(0.05, 0.95)))

        def click() -> None:
            page.mouse.down()
            page.mouse.up()

        def drag() -> None:
            left = rng.uniform(0.1, 0.6)
            page.mouse.move(*in_timeline(left))
            page.mouse.down()
            page.mouse.move(*in_timeline(left + 0.15), steps=3)

        def tab(name: str) -> None:
            page.locator(f"[role=tab][id$='tab-{name}']").click()
            page.evaluate(_AT_REST, [0, 1500])

        def type_() -> None:
            page.fill(
                "#live-text", rng.choice(("forward", "update", "linear", "apply")) + str(rng.randrange(60))
            )

        def search() -> None:
            type_()
            page.keyboard.press("Enter")

        for name in ("overview", "segments", "live", "fragmentation"):
            tab(name)
            report(f"{name}: move the moment", [timed(page, click, point) for _ in range(rounds)])
            steps = [
                timed(page, lambda: page.evaluate("document.querySelector('#moment-next').click()"))
                for _ in range(rounds)
            ]
            report(f"{name}: step", steps)
        tab("live")
        report("live: filter, with Enter", [timed(page, search) for _ in range(rounds)])
        report("live: filter, and 80 ms for more to be typed", [timed(page, type_) for _ in range(rounds)])
        tab("overview")
        zooms = []
        for _ in range(rounds):
            zooms.append(timed(page, page.mouse.up, drag))
            timed(page, lambda: page.evaluate("document.querySelector('#timeline-all').click()"))
        report("timeline: zoom", zooms)
        report_memory(" at the end")
        page.wait_for_timeout(20_000)
        report_memory(" after 20 s of rest")
        page.close()


def theirs(context: Any, path: Path, viewer: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "viewer.js").write_bytes((viewer / "viewer.js").read_bytes())
        (folder / "snapshot.pickle").symlink_to(path.resolve())
        (folder / "viewer.html").write_text("<!DOCTYPE html><body><script src='viewer.js'></script></body>")
        with files(folder) as url:
            page = context.new_page()
            page.goto(url + "viewer.html")
            start = time.perf_counter()
            page.evaluate("add_remote_files([{name: 'snapshot', url: 'snapshot.pickle'}])")
            page.wait_for_selector("svg polygon", timeout=900_000)
            seconds = time.perf_counter() - start
            print(f"PyTorch's viewer\n  first picture (active memory timeline) {seconds:7.1f} s")
            report_memory("")
            page.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_500_000)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--viewer", type=Path)
    options = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("benchmarks/dashboard.py: skipped, there is no Playwright")
        return
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(chromium).exists():
        print("benchmarks/dashboard.py: skipped, there is no Chromium")
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = options.file or Path(folder) / "recording.pickle"
        if not path.exists():
            make_recording(options.events, path)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        ours(context, path, options.rounds)
        if options.viewer is not None:
            theirs(context, path, options.viewer)
        browser.close()


if __name__ == "__main__":
    main()
