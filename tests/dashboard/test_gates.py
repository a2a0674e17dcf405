"""Pages that come when they are opened: what callbacks speak of is there, and nothing is taken for a choice."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import oomdoctor_dashboard
import pytest
from oomdoctor_dashboard.app import LATER, create_app
from oomdoctor_dashboard.library import Library

TRACES = Path(__file__).parent.parent.parent / "traces"
ASSETS = Path(oomdoctor_dashboard.__file__).parent / "assets"


@pytest.fixture
def library() -> Any:
    library = Library()
    library.add(str(TRACES / "llama-2-layers-to-the-end"))
    yield library
    library.close()


def ids_of(component: Any) -> set[str]:
    found = {str(one.id) for one in component._traverse() if getattr(one, "id", None) is not None}
    return found | ({str(component.id)} if getattr(component, "id", None) is not None else set())


def test_every_callback_speaks_of_what_is_there(library: Library) -> None:
    """Dash does not look after it, for pages come later."""
    app = create_app(library)
    there = ids_of(app.layout())
    for name in LATER:
        page = importlib.import_module(f"oomdoctor_dashboard.pages.{name}").layout()
        mine = ids_of(page)
        assert not mine & there, "twice on the page"
        there |= mine
    spoken = set()
    for name, entry in app.callback_map.items():
        outputs = name.strip(".").split("...") if name.startswith("..") else [name]
        spoken |= {one.rsplit(".", 1)[0] for one in outputs if "." in one}  # what has none has a hash
        spoken |= {one["id"] for one in (*entry["inputs"], *entry["state"])}
    for script in (Path(app.config.assets_folder)).glob("*.js"):
        spoken |= set(re.findall(r"(?:(?<![.\w])set|set_props)\(\"([^\"]+)\",", script.read_text()))
    assert {"moment-event", "timeline-shown", "mantine"} <= spoken
    assert spoken - there == set()


def test_what_comes_later_is_not_there_at_first(library: Library) -> None:
    there = ids_of(create_app(library).layout())
    assert {"overview-table", "whatif-drawn", *(f"{name}-place" for name in LATER)} <= there
    assert not there & {"segments-graph", "live-table", "fragmentation-over", "whatif-graph", "compare-graph"}


def test_the_library_that_draws_knows_what_figures_are_made_of() -> None:
    """The part of plotly.js that the pages need comes with them: a browser takes in the whole for a second."""
    from plotly.offline import get_plotlyjs_version

    text = (ASSETS / "plotly-basic.min.js").read_text(encoding="utf-8")
    found = re.search(r"plotly\.js \(basic - minified\) v(\d+)\.", text[:200])
    assert found is not None
    assert int(found[1]) >= int(get_plotlyjs_version().split(".")[0])
    assert "Licensed under the MIT license" in text[:200]


def test_pages_draw_what_that_part_can() -> None:
    kinds = {}
    for file in (ASSETS.parent / "figures").glob("*.py"):
        for kind in re.findall(r'"type": "(\w+)"', file.read_text(encoding="utf-8")):
            kinds.setdefault(kind, file.name)
    # Lines and paths are shapes, log an axis; the report, which draws a flame of its own, has the whole.
    assert kinds.keys() - {"line", "path", "log", "rect"} == {"scatter", "bar", "icicle"}
    assert kinds["icicle"] == "live.py"
