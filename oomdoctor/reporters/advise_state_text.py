"""``advise`` for a person where no history was recorded: the state, what could be saved, how to record."""

from __future__ import annotations

from collections.abc import Sequence

from oomdoctor.advice.state_only import StateAdvice
from oomdoctor.reporters.advise_text import broken
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.inspect_text import picture, pins_table, pools_table
from oomdoctor.reporters.parts import size_text
from oomdoctor.reporters.recording_text import called, filled, notes, problems, release
from oomdoctor.units import format_bytes

_NAME = 48


def render(advice: StateAdvice, problems_found: Sequence[str], ink: Ink) -> str:
    """The whole answer."""
    parts = [
        filled(
            "No request was recorded, so no setting can be tried. What follows is read off the state that the"
            " snapshot shows; what a setting could save is estimated."
        ),
        *(_device(advice, number, ink) for number in range(len(advice.devices))),
        *_estimates(advice, ink),
        _conclusion(advice, ink),
    ]
    said = [*advice.notes, *(note for device in advice.devices for note in device.notes)]
    listed = notes(list(dict.fromkeys(said)))
    parts += ["\n".join(listed)] if listed else []
    return "\n\n".join(parts + problems(problems_found, ink))


def _device(advice: StateAdvice, number: int, ink: Ink) -> str:
    device, inspection = advice.devices[number], advice.inspections[number]
    capacity = advice.capacities[number]
    room = "" if capacity is None else f", {format_bytes(capacity)} for PyTorch"
    parts = [ink(f"{called(device)}{room}, {release(device)}", "bold"), picture(inspection, ink)]
    if inspection.moment.fragmentation.device.reserved_bytes:
        parts.append(pools_table(inspection, ink))
    if inspection.pins:
        parts.append(pins_table(inspection, ink))
    return "\n\n".join(parts)


def _estimates(advice: StateAdvice, ink: Ink) -> list[str]:
    """A row for each setting."""
    lines = []
    for one in advice.estimates:
        if not sum(one.saves):
            continue
        mark = " ←" if one is advice.best else ""
        name, lead = one.alloc_conf, ""
        if len(name) > _NAME:
            lead, name = "".join(f"  {line}\n" for line in broken(name)), ""
        lines.append(f"{lead}  {name:{_NAME}s} {size_text(sum(one.saves)):>11s}  estimated{mark}")
    if not lines:
        return []
    head = f"  {'setting':{_NAME}s} {'could save':>11s}  basis"
    legend = "  could save: at most, of what lies in holes; on all devices together"
    return ["\n".join([head, *lines, ink(legend, "dim")])]


def _conclusion(advice: StateAdvice, ink: Ink) -> str:
    value = f"{advice.max_split_mb} " if advice.max_split_mb is not None else ""
    parts = [filled(f"max_split_size_mb: {value}{advice.max_split_why}.")]
    if advice.best is None:
        parts.append(filled(f"No setting to change: {advice.why}."))
    else:
        parts.append(filled(f"To try first: {advice.why}."))
        parts.append(f"  {ink(advice.best.line, 'bold')}")
    parts.append(
        "A recording with history tells what helps, by replay:\n"
        "  oomdoctor trace -o RUN_FOLDER -- COMMAND\n"
        "  oomdoctor advise RUN_FOLDER"
    )
    return "\n\n".join(parts)
