"""The HTML around a report: one file, no request to anywhere, nothing of a recording taken for markup.

Figures are JSON and drawn when they come into view. The page's own policy names the two scripts in it by
their hashes and forbids everything else: a script that slipped in would not run, and nothing can be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any, Optional

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from oomdoctor import __version__
from oomdoctor_dashboard.figures import theme as colours
from oomdoctor_dashboard.figures.drawing import Drawing


class Raw(str):
    """Text that is markup already."""


def escaped(text: Any) -> Raw:
    """Text as HTML shows it."""
    return Raw(html.escape(str(text)))


class Page:
    """A page that grows from top to bottom.

    Args:
        title: of the browser's tab.
        theme: "light" or "dark".
    """

    def __init__(self, title: str, theme: str) -> None:
        self._title = title
        self._theme = theme
        self._parts: list[str] = []
        self._contents: list[tuple[str, str]] = []
        self._figures = 0

    def add(self, markup: str) -> None:
        """Markup as it is: what comes from a recording has to be escaped before."""
        self._parts.append(markup)

    def heading(self, text: str, level: int) -> None:
        """A heading."""
        self.add(f"<h{level}>{escaped(text)}</h{level}>")

    def section(self, text: str) -> None:
        """A heading that the list of contents leads to."""
        name = f"section-{len(self._contents)}"
        self._contents.append((name, text))
        self.add(f'<h2 id="{name}">{escaped(text)}</h2>')

    def pre(self, text: str) -> None:
        """Text as a terminal shows it."""
        self.add(f"<pre>{escaped(text)}</pre>")

    def list(self, sentences: Iterable[str]) -> None:
        """Bullets."""
        self.add("<ul>" + "".join(f"<li>{escaped(one)}</li>" for one in sentences) + "</ul>")

    def figure(self, figure: Drawing, name: str, height: Optional[int] = None) -> None:
        """A figure; it is as high as it says, else ``height`` pixels.

        Args:
            name: what it shows, for those who cannot see it.
        """
        height = height or figure["layout"].get("height") or 400
        number, self._figures = self._figures, self._figures + 1
        # In a script nothing is markup but its end: no "<" is left in.
        text = go.Figure(figure).to_json()
        data = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        self.add(
            f'<div class="figure" id="figure-{number}" role="img" aria-label="{escaped(name)}"'
            f' style="height:{int(height)}px"></div>'
            f'<script type="application/json" id="data-{number}">{data}</script>'
        )

    def render(self) -> str:
        """The whole file."""
        scripts = [get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"), _DRAW] if self._figures else []
        allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts) or "'none'"
        policy = (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:;"
            " base-uri 'none'; form-action 'none'"
        )
        contents = "".join(
            f'<a href="#{name}">{escaped(text)}</a>'
            for name, text in self._contents
            if len(self._contents) > 1
        )
        begins = [i for i, part in enumerate(self._parts) if part.startswith("<h2 id=")]
        at = begins[0] if begins else len(self._parts)
        body = [*self._parts[:at], f"<nav>{contents}</nav>" if contents else "", *self._parts[at:]]
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en"><head><meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escaped(self._title)}</title>",
                f"<style>{_style(self._theme)}</style>",
                "</head><body><main>",
                *body,
                f'<p class="faint">Written by oomdoctor {escaped(__version__)}.</p>',
                "</main>",
                *(f"<script>{script}</script>" for script in scripts),
                "</body></html>",
                "",
            ]
        )


def columns_table(
    heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]], *, texts: int, caption: str = ""
) -> Raw:
    """A table: heads with what they mean, and cells; all but the first ``texts`` columns are numbers."""
    head = "".join(
        f'<th title="{escaped(means)}"{"" if i < texts else _NUMBER}>{escaped(name)}</th>'
        for i, (name, means) in enumerate(heads)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{'' if i < texts else _NUMBER}>{escaped(cell)}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    said = f"<caption>{escaped(caption)}</caption>" if caption else ""
    table = f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return Raw(f'<div class="wide">{table}</div>')


_NUMBER = ' class="number"'


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _style(theme: str) -> str:
    is_light = theme == "light"
    return _STYLE % {
        "ink": colours.ink(theme),
        "faint": colours.faint(theme),
        "paper": colours.paper(theme),
        "line": "#e2e8f0" if is_light else "#3a3f47",
        "back": "#f7fafc" if is_light else "#2c2e33",
        "link": "#2b6cb0" if is_light else "#63b3ed",
        "bad": colours.OOM,
        "good": colours.SMALL_POOL,
    }


_STYLE = """
body { margin: 0; background: %(paper)s; color: %(ink)s;
  font: 14px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 16px 24px 48px; }
h1 { font-size: 24px; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 32px 0 8px; border-top: 1px solid %(line)s; padding-top: 16px; }
h3 { font-size: 16px; margin: 24px 0 4px; }
h4 { font-size: 14px; margin: 16px 0 4px; }
p { margin: 4px 0; overflow-wrap: anywhere; }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; background: %(back)s; }
pre { border: 1px solid %(line)s; border-radius: 6px; padding: 12px 16px; overflow-x: auto;
  font-size: 12.5px; line-height: 1.45; }
code { padding: 1px 4px; }
i, .faint, caption { color: %(faint)s; font-size: 12.5px; }
nav a { display: inline-block; margin: 4px 16px 4px 0; }
a { color: %(link)s; }
.bad, .good { font-weight: 700; font-size: 16px; border-left: 4px solid %(bad)s; padding-left: 10px; }
.good { border-color: %(good)s; }
.chips span { margin-right: 20px; white-space: nowrap; }
.wide { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-size: 12px; }
caption { text-align: left; caption-side: bottom; padding: 4px 0; }
th, td { padding: 3px 7px; border-bottom: 1px solid %(line)s; text-align: left; vertical-align: top;
  white-space: nowrap; }
td:first-child { white-space: normal; overflow-wrap: anywhere; }
th { color: %(faint)s; font-weight: 600; cursor: default; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.figure { width: 100%%; }
"""


_DRAW = """
(function () {
  "use strict";
  var config = {displaylogo: false, showSendToCloud: false, responsive: true, scrollZoom: false,
    toImageButtonOptions: {filename: "oomdoctor", scale: 2},
    modeBarButtonsToRemove: ["select2d", "lasso2d", "sendDataToCloud"]};
  function draw(box) {
    if (box.dataset.drawn) return;
    box.dataset.drawn = "yes";
    var data = JSON.parse(document.getElementById(box.id.replace("figure", "data")).textContent);
    data.layout.autosize = true;
    data.layout.height = box.clientHeight;
    Plotly.newPlot(box, data.data, data.layout, config);
  }
  var boxes = document.querySelectorAll(".figure");
  var all = function () { boxes.forEach(draw); };
  window.addEventListener("beforeprint", all);
  if (!("IntersectionObserver" in window)) { all(); return; }
  var seen = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    });
  }, {rootMargin: "600px"});
  boxes.forEach(function (box) { seen.observe(box); });
})();
"""
