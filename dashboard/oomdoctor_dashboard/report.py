"""One HTML file with the views of the dashboard: the story, and for each device its figures and tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from oomdoctor.allocator.loading import DeviceHistory
from oomdoctor.comparison.points import peak_state
from oomdoctor.diagnosis.inspection import Inspection, inspect_device
from oomdoctor.diagnosis.run import Case, RunDiagnosis
from oomdoctor.reporters import run_text
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.recording_text import called, release, trust
from oomdoctor.snapshot.model import OOM
from oomdoctor.units import format_bytes
from oomdoctor_dashboard import fragmentation_tables as tables
from oomdoctor_dashboard import live_data
from oomdoctor_dashboard.figures.drawing import Drawing
from oomdoctor_dashboard.figures.fragmentation import free_blocks, over_time
from oomdoctor_dashboard.figures.live import flame
from oomdoctor_dashboard.figures.segments import segment_figure
from oomdoctor_dashboard.figures.timeline import timeline_figure
from oomdoctor_dashboard.fragmentation_data import sample_events, sampled_series
from oomdoctor_dashboard.free_blocks import free_blocks_of
from oomdoctor_dashboard.library import Item, Loaded
from oomdoctor_dashboard.live_flame import flame_of
from oomdoctor_dashboard.report_page import Page, Raw, columns_table, escaped
from oomdoctor_dashboard.segment_map import segment_map
from oomdoctor_dashboard.segment_words import box_lines
from oomdoctor_dashboard.story import Story, story_of
from oomdoctor_dashboard.timeline_data import Timeline
from oomdoctor_dashboard.timeline_marks import marks_of
from oomdoctor_dashboard.timeline_picture import picture

MOST_DEVICES = 24
"""Each takes about half a megabyte of the file."""

_TIMELINE_HEIGHT = 300
_PINS = 20
_PLACES = 20


@dataclass(frozen=True)
class At:
    """A state that the report shows.

    Attributes:
        title: which one it is.
        event: how many events came before.
    """

    title: str
    event: int


def report(
    path: str,
    run: RunDiagnosis,
    devices: Iterable[DeviceHistory],
    *,
    advice: Optional[str] = None,
    problems: Iterable[str] = (),
    theme: str = "light",
) -> tuple[str, int]:
    """The report as the text of one HTML file, and how many devices are in it.

    Args:
        path: what was asked about, a run folder or a snapshot.
        run: what ``explain`` says of it.
        devices: read one after another, and let go of.
        advice: what ``advise`` says of it; None: it was not asked.
        problems: what could not be read.
        theme: "light" or "dark".
    """
    name = os.path.basename(os.path.normpath(path)) or path
    page = Page(f"oomdoctor: {name}", theme)
    page.heading(name, 1)
    if run.command:
        page.add(f'<p class="faint">{escaped(" ".join(run.command))}</p>')
    page.heading("What happened", 2)
    page.pre(run_text.render(run, Ink()))
    if advice is not None:
        page.heading("Other settings, tried on this recording", 2)
        page.pre(advice)
    shown = left = 0
    for device in devices:
        if shown < MOST_DEVICES:
            _device(page, device, run, path if run.is_run else None, theme)
            shown += 1
        else:
            left += 1
    told = list(problems)
    if left:
        told.append(f"{left:,} more devices are not shown: --device N or --dump NAME chooses")
    if told:
        page.heading("About this report", 2)
        page.list(told)
    return page.render(), shown


def moments_of(device: DeviceHistory) -> list[At]:
    """The states to show: where memory ran out, else the end; and the peak of allocated if another."""
    history = device.history
    n = len(history.recording)
    if not device.has_events:
        return [At("In the snapshot", n)]
    ooms = np.flatnonzero(history.recording.events.action == OOM)
    last = At("When memory ran out last", int(ooms[-1]) + 1) if len(ooms) else At("At the end", n)
    peak = At("At the peak of allocated", peak_state(history))
    both = [last, peak] if len(ooms) or history.effects["allocated_bytes"][-1] else [peak, last]
    return both if abs(peak.event - last.event) > 1 else [last]


def _device(page: Page, device: DeviceHistory, run: RunDiagnosis, folder: Optional[str], theme: str) -> None:
    item = Item(key="", source=device.source, run=folder, group="", label="")
    loaded = Loaded(item, device)
    title = called(device) + (f", {device.source.dump}" if device.source.dump else "")
    page.section(title)
    _story(page, story_of(loaded, _case_of(run, device)))
    about = f"{release(device)}; settings: {device.history.settings.text or 'the defaults'}. {trust(device)}"
    page.add(f'<p class="faint">{escaped(about)}</p>')
    moments = moments_of(device)
    if device.has_events:
        timeline = Timeline(device, folder)
        seen = picture(
            device.history,
            timeline,
            marks_of(device.history, timeline),
            (0, timeline.events),
            moments[0].event,
        )
        page.heading("Memory over the events (replayed)", 3)
        page.figure(timeline_figure(seen, theme), f"timeline of {title}", _TIMELINE_HEIGHT)
        page.heading("Reserved and not used, over the events (replayed)", 3)
        page.figure(_over_time(device, moments[0].event, theme), f"fragmentation of {title}")
    for at in moments:
        _moment(page, loaded, inspect_device(device, at.event), at, theme)
    if device.notes:
        page.heading("Notes", 3)
        page.list(device.notes)


def _case_of(run: RunDiagnosis, device: DeviceHistory) -> Optional[Case]:
    for case in run.cases:
        same = not run.is_run or (case.process, case.dump) == (device.source.process, device.source.dump)
        if same and case.diagnosis.facts.device == device.device:
            return case
    return None


def _story(page: Page, story: Story) -> None:
    kind = "bad" if story.failed else "good"
    page.add(f'<p class="{kind}">{escaped(story.title)}</p>')
    if story.sentence:
        page.add(f"<p>{escaped(story.sentence)}</p>")
    chips = [
        f"<span>{escaped(name)} <b>{escaped(value)}</b> <i>{escaped(basis)}</i></span>"
        for name, value, basis in story.figures
    ]
    page.add(f'<p class="chips">{" ".join(chips)}</p>')
    if story.remedy is not None and story.remedy.command:
        remedy = story.remedy
        page.add(
            f"<p>Try first: <code>{escaped(remedy.command or '')}</code> <i>{escaped(remedy.basis)}</i>."
            f" {escaped(remedy.summary)}</p>"
        )


def _moment(page: Page, loaded: Loaded, inspection: Inspection, at: At, theme: str) -> None:
    moment = inspection.moment
    measures = moment.fragmentation.device
    after = f"after {moment.events:,} of {loaded.events:,} events" if loaded.events else "no history"
    page.heading(f"{at.title}, {after}", 3)
    page.add(
        f"<p>{format_bytes(measures.allocated_bytes)} allocated, {format_bytes(measures.pending_bytes)}"
        f" pending, {format_bytes(measures.free_bytes)} free in {format_bytes(measures.reserved_bytes)}"
        f" reserved; {format_bytes(measures.hole_bytes)} of it in {measures.holes:,} holes."
        f" <i>{escaped(inspection.basis)}</i></p>"
    )
    if not measures.reserved_bytes:
        return
    drawn = segment_map(moment)
    hover = ["<br>".join(map(escaped, _spoken(box_lines(drawn, box)))) for box in range(len(drawn))]
    page.heading("Segments, to scale", 4)
    page.figure(segment_figure(drawn, theme, hover=hover), f"segments {at.title}")
    if measures.live_blocks:
        places = live_data.places_of(loaded)
        live = live_data.live_of(moment, places)
        page.heading("What is live, by stack", 4)
        page.figure(flame(flame_of(live), live.total_bytes, theme=theme), f"live {at.title}")
        page.add(_live(live))
    page.heading("Fragmentation", 4)
    if loaded.device.has_events:
        classes, said = free_blocks_of(loaded, moment)
        page.add(f"<p>Free blocks, and the requests that came later. {escaped(said)}</p>")
        if len(classes.lower):
            page.figure(free_blocks(classes, theme=theme), f"free blocks {at.title}")
    page.add(_pools(inspection))
    if inspection.pins:
        page.add(_pins(inspection))


def _spoken(lines: Iterable[str]) -> Iterator[str]:
    """Nothing can be clicked here."""
    return (line for line in lines if not line.startswith("Click"))


def _over_time(device: DeviceHistory, event: int, theme: str) -> Drawing:
    history, times = device.history, device.history.recording.events.time_us
    series = sampled_series(history, sample_events(history, 0, len(times)))
    return over_time(series, where=None, axis="events", event=event, start_us=int(times[0]), theme=theme)


def _live(live: live_data.Live) -> Raw:
    table = live_data.places_table(live)
    rows = live_data.page_of(table, table.order(), 0, _PLACES)
    heads = [(head, "") for head in live_data.PLACE_COLUMNS.values()]
    cells: list[list[Any]] = [[row[name] for name in live_data.PLACE_COLUMNS] for row in rows]
    more = len(table) - len(rows)
    caption = f"{more:,} more places: oomdoctor dashboard has all of them." if more else ""
    return columns_table(heads, cells, texts=1, caption=caption)


def _pools(inspection: Inspection) -> Raw:
    moment = inspection.moment
    rows = [tables.device_row(moment), *tables.pool_rows(moment)]
    heads = [("Pool", ""), ("Stream", ""), *((head, means) for _, head, means in tables.COLUMNS)]
    cells = [
        [row["pool"], row["stream"], *(row[f"{name}_text"] for name, _, _ in tables.COLUMNS)] for row in rows
    ]
    return columns_table(heads, cells, texts=2, caption="By pool and stream, derived.")


def _pins(inspection: Inspection) -> Raw:
    rows = tables.pin_rows(inspection, _PINS)
    heads = [("Holes kept open by", ""), *((head, means) for _, head, means in tables.PIN_COLUMNS)]
    cells: list[list[Any]] = [
        [row["place"], *(row[f"{name}_text"] for name, _, _ in tables.PIN_COLUMNS)] for row in rows
    ]
    more = len(inspection.pins) - len(rows)
    caption = f"{more:,} more places: oomdoctor inspect --json has all of them." if more else ""
    return columns_table(heads, cells, texts=1, caption=caption)
