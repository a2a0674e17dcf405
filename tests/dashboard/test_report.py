"""The report: one file, complete, offline, with nothing of a recording taken for markup."""

from __future__ import annotations

import base64
import builtins
import hashlib
import json
import pickle
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from click.testing import CliRunner

from oomdoctor.cli import group
from oomdoctor.errors import OomdoctorError, UsageError
from oomdoctor.units import MIB, format_bytes

pytest.importorskip("dash")

import plotly.graph_objects as go
from oomdoctor_dashboard.report import moments_of
from oomdoctor_dashboard.report_page import Page, columns_table

from tests.comparison.building import device, died, program, without_history
from tests.dashboard.browser import chromium
from tests.run.building import add_dump, add_process, make_run
from tests.snapshot.building import event, frame, hole, live, segment, snapshot

TRACES = Path(__file__).parents[2] / "traces"
TWO_GPUS, TO_THE_END = str(TRACES / "llama-4-layers-two-gpus"), str(TRACES / "llama-2-layers-to-the-end")
HOSTILE = frame("<script>alert('a')</script>", "/x/</script><img src=http://evil.example/x>.py", 3)


class Read(HTMLParser):
    """What a browser makes of the file: elements, their attributes, and texts of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, Optional[str]]]] = []
        self.scripts: list[tuple[dict[str, Optional[str]], str]] = []
        self.words: list[str] = []
        self._inside: Optional[str] = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._inside != "style":
            self.words.append(data)

    @property
    def figures(self) -> list[Any]:
        return [json.loads(text) for a, text in self.scripts if a.get("type") == "application/json"]

    @property
    def code(self) -> list[str]:
        return [text for a, text in self.scripts if a.get("type") is None]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(tmp_path: Path, *arguments: str) -> Read:
    output = tmp_path / "report.html"
    result = CliRunner().invoke(group, ["report", *arguments, "-o", str(output)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    size = format_bytes(output.stat().st_size)
    assert result.stdout.startswith(f"{output}: {size}, ")
    return Read(output.read_text())


def save(path: Path, plain: Any) -> str:
    path.write_bytes(pickle.dumps(plain, 4))
    return str(path)


def refused(*arguments: str) -> OomdoctorError:
    with pytest.raises(OomdoctorError) as caught:
        CliRunner().invoke(group, ["report", *arguments], catch_exceptions=False)
    return caught.value


def values(column: Any) -> Any:
    """A column of numbers as plotly writes it."""
    if not isinstance(column, dict):
        return column
    return np.frombuffer(base64.b64decode(column["bdata"]), column["dtype"]).tolist()


# ---- the whole ----


def test_a_run_with_an_error_has_everything(tmp_path: Path) -> None:
    found = written(tmp_path, TWO_GPUS)
    explained = CliRunner().invoke(group, ["explain", TWO_GPUS], catch_exceptions=False).stdout
    first = explained.split("\n\n")[0]
    assert " ".join(first.split()) in found.text
    for words in (
        "What happened",
        "GPU 0, pid 28479, 0001-oom",
        "GPU 1, pid 28479, 0001-oom",
        "When memory ran out last, after 7,820 of 7,820 events",
        "At the peak of allocated",
        "Segments, to scale",
        "Reserved and not used, over the events",
        "What is live, by stack",
        "Share of all live",
        "Free blocks, and the requests that came later.",
        "Holes kept open by",
        "The replay puts 2,627 of 2,627 allocations where they were recorded.",
    ):
        assert words in found.text, words
    kinds = [figure["data"][0]["type"] for figure in found.figures]
    # Of each device a timeline and fragmentation over it, then segments, what is live and free blocks at two moments.
    assert kinds == ["scatter", "scatter", *["bar", "icicle", "bar"] * 2] * 2
    assert "Other settings" not in found.text


def test_numbers_are_those_of_inspect(tmp_path: Path) -> None:
    found = written(tmp_path, TWO_GPUS, "--device", "0")
    result = CliRunner().invoke(
        group, ["inspect", TWO_GPUS, "--device", "0", "--json"], catch_exceptions=False
    )
    (theirs,) = json.loads(result.stdout)["devices"]
    state = theirs["state"]
    _, over, segments, icicle, free = found.figures[:5]
    holes, largest = (
        next(trace for trace in over["data"] if trace["name"] == name)
        for name in ("in holes", "largest free block")
    )
    assert values(holes["y"])[-1] == state["hole_bytes"]
    assert values(largest["y"])[-1] == state["largest_free_bytes"]
    by_size = [
        sum(values(trace["y"])) for trace in free["data"] if trace["name"] == "only earlier requests fit"
    ]
    assert by_size == [state["free_bytes"]]
    share = f"{1022.03 * MIB / (state['allocated_bytes'] + state['pending_bytes']):.1%}"
    assert f"build_model examples/llama_generate.py:35 19 1022.03 MiB {share} 0 bytes" in found.text
    drawn = {
        trace["name"].split()[0]: sum(values(trace["x"]))
        for trace in segments["data"]
        if trace["type"] == "bar"
    }
    assert drawn["allocated"] == state["allocated_bytes"]
    assert drawn["hole"] == state["hole_bytes"]
    assert values(icicle["data"][0]["values"])[0] == state["allocated_bytes"] + state["pending_bytes"]
    assert (
        f"{format_bytes(state['hole_bytes'])} of it in {state['holes']} holes. {theirs['basis']}"
        in found.text
    )
    assert f"{state['external_fragmentation']:.1%}" in found.text
    top = theirs["pinning"][0]
    assert format_bytes(top["hole_bytes"]) in found.text


def test_one_script_of_plotly_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    found = written(tmp_path, TWO_GPUS)
    assert len(found.code) == 2
    assert sum("plotly.js v" in text[:200] for text in found.code) == 1
    for tag, attributes in found.elements:
        assert tag not in ("link", "img", "iframe", "object", "base"), tag
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    (policy,) = (a["content"] for t, a in found.elements if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() for c in found.code]
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_the_same_recording_gives_the_same_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pickle", program())
    texts = []
    for name in ("one.html", "two.html"):
        CliRunner().invoke(group, ["report", path, "-o", str(tmp_path / name)], catch_exceptions=False)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    assert [
        one.name for one in tmp_path.iterdir() if one.suffix == ".html" and one.name.startswith(".")
    ] == []


def test_advice_comes_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pickle", died(7, 40 * MIB))
    assert "setting survives" not in written(tmp_path, path).text
    found = written(tmp_path, path, "--advise")
    assert "Other settings, tried on this recording" in found.text
    assert "setting survives reserved retry" in found.text
    state = save(tmp_path / "b.pickle", without_history(program()))
    assert "there is nothing to try settings on" in written(tmp_path, state, "--advise").text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes(tmp_path: Path, theme: str) -> None:
    from oomdoctor_dashboard.figures.theme import paper

    found = written(tmp_path, save(tmp_path / "a.pickle", program()), "--theme", theme)
    assert all(figure["layout"]["paper_bgcolor"] == paper(theme) for figure in found.figures)
    assert f"background: {paper(theme)}" in (tmp_path / "report.html").read_text()


# ---- strangers' files ----


def hostile() -> Any:
    address = 1 << 40
    blocks = [live(4 * MIB, stack=[HOSTILE]), hole(2 * MIB), live(MIB, stack=[HOSTILE]), hole(13 * MIB)]
    trace = [
        event("segment_alloc", 20 * MIB, addr=address, frames=[HOSTILE], time_us=1),
        event("alloc", 4 * MIB, addr=address, frames=[HOSTILE], time_us=2),
        event("alloc", 2 * MIB, addr=address + 4 * MIB, frames=[HOSTILE], time_us=3),
        event("alloc", MIB, addr=address + 6 * MIB, frames=[HOSTILE], time_us=4),
        event("free_requested", 2 * MIB, addr=address + 4 * MIB, time_us=5),
        event("free_completed", 2 * MIB, addr=address + 4 * MIB, time_us=6),
        event("oom", 30 * MIB, addr=MIB, frames=[HOSTILE], time_us=7),
    ]
    plain = snapshot(segment(address, *blocks), traces=[trace])
    plain["external_annotations"] = [
        {"name": "<img src=x onerror=alert(1)></script>", "stage": "START", "device": 0, "time_us": 3}
    ]
    plain["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] = "<b>x</b>:1"
    return plain


def test_what_a_recording_says_is_text(tmp_path: Path) -> None:
    path = save(tmp_path / "<b>name.pickle", hostile())
    output = tmp_path / "report.html"
    CliRunner().invoke(group, ["report", path, "-o", str(output)], catch_exceptions=False)
    text = output.read_text()
    found = Read(text)
    assert len(found.code) == 2
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"img", "b>name.pickle"}
    assert "alert('a')" in found.text  # it is shown, as text
    assert "alert(" not in " ".join(str(a) for _, a in found.elements)
    for _, data in found.scripts[: len(found.figures)]:
        assert "<" not in data
    spoken = json.dumps(found.figures)
    assert "&lt;script&gt;" in spoken
    # Plotly takes some markup in texts: none of it may come from the recording.
    assert "<script" not in spoken
    assert "<img" not in spoken


def test_a_hostile_report_runs_nothing_in_a_browser(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pickle", hostile())
    written(tmp_path, path)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        wrong: list[str] = []
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith("file:") else None)
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_selector(".figure .main-svg", timeout=60_000)
        for one in page.locator(".figure").all():
            one.scroll_into_view_if_needed()
            one.locator(".main-svg").first.wait_for(timeout=60_000)
        assert page.locator(".figure .main-svg").count() >= page.locator(".figure").count() >= 3
        assert page.evaluate("document.documentElement.scrollWidth") <= 1440
        assert wrong == []


# ---- what it may meet ----


def test_without_history_the_state_is_shown(tmp_path: Path) -> None:
    found = written(tmp_path, save(tmp_path / "a.pickle", without_history(program())))
    assert "In the snapshot, no history" in found.text
    assert [figure["data"][0]["type"] for figure in found.figures] == ["bar", "icicle"]


def test_which_moments_are_shown() -> None:
    ended = device(program())
    assert [(one.title, one.event) for one in moments_of(ended)] == [
        ("At the end", len(ended.history.recording))
    ]
    failed = device(died(7, 40 * MIB))
    moments = moments_of(failed)
    assert [one.title for one in moments] == ["When memory ran out last", "At the peak of allocated"]
    assert moments[0].event == len(failed.history.recording)
    allocated = failed.history.effects["allocated_bytes"]
    assert allocated[moments[1].event - 1] == allocated.max()


def test_what_ended_empty_shows_its_peak_first(tmp_path: Path) -> None:
    found = written(tmp_path, TO_THE_END)
    assert found.text.index("At the peak of allocated") < found.text.index("At the end, after 36,063")


def test_a_run_without_a_snapshot_is_told_all_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    add_process(run, 4000, rank=0)
    found = written(tmp_path, str(run))
    assert "no snapshot in the run folder: there are no figures" in found.text
    assert found.figures == []


def test_of_many_devices_the_first_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import oomdoctor_dashboard.report as module

    monkeypatch.setattr(module, "MOST_DEVICES", 1)
    run = make_run(tmp_path / "run")
    for rank in range(3):
        add_dump(add_process(run, 4000 + rank, rank=rank), program())
    found = written(tmp_path, str(run))
    assert "2 more devices are not shown" in found.text
    assert sum(tag == "h2" and "id" in attributes for tag, attributes in found.elements) == 1


def test_what_cannot_be_written_or_read_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pickle", program())
    assert isinstance(refused(path, "-o", path), UsageError)
    error = refused(path, "-o", str(tmp_path / "none" / "report.html"))
    assert error.what == "cannot write the report"
    assert isinstance(refused(path, "-o", str(tmp_path / "r.html"), "--device", "3"), UsageError)
    assert not (tmp_path / "r.html").exists()
    (tmp_path / "bad.pickle").write_text("hello")
    refused(str(tmp_path / "bad.pickle"), "-o", str(tmp_path / "r.html"))


def test_without_plotly_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.pickle", program())
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "plotly":
            raise ModuleNotFoundError("No module named 'plotly'", name="plotly")
        return real(name, *rest, **more)

    for name in [one for one in sys.modules if one.startswith("oomdoctor_dashboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    error = refused(path, "-o", str(tmp_path / "r.html"))
    assert error.next_step == "pip install 'oomdoctor[dashboard]'"


# ---- pieces ----


def test_a_page_without_figures_has_no_script() -> None:
    page = Page("a & b", "light")
    page.pre("x < y")
    found = Read(page.render())
    assert found.code == []
    assert "x < y" in found.text
    assert "<title>a &amp; b</title>" in page.render()


def test_a_figure_survives_the_way_into_the_page() -> None:
    page = Page("x", "light")
    page.figure(go.Figure(go.Scatter(x=[1], y=[2], name="</script>\u2028<b>")), 'a "name"', 123)
    found = Read(page.render())
    (figure,) = found.figures
    assert figure["data"][0]["name"] == "</script>\u2028<b>"
    (box,) = (a for t, a in found.elements if a.get("class") == "figure")
    assert (box["aria-label"], box["style"]) == ('a "name"', "height:123px")


def test_tables_escape_their_cells() -> None:
    made = columns_table([("<a>", 'what "it" means')], [["<td>"]], texts=1, caption="<i>")
    assert "&lt;a&gt;" in made
    assert "&lt;td&gt;" in made
    assert "&lt;i&gt;" in made
    assert 'title="what &quot;it&quot; means"' in made
