"""``advise`` for a person: settings by device, max_split_size_mb by name, the line to paste."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Optional

from oomdoctor.advice.advise import Advice
from oomdoctor.advice.again import Again
from oomdoctor.advice.prove import Proof
from oomdoctor.advice.ranking import Tried, frontier, is_better
from oomdoctor.advice.verify import Steps, pasteable
from oomdoctor.allocator.replay import recorded_outcome
from oomdoctor.diagnosis.settings_text import parse_options
from oomdoctor.reporters import shortfall_text
from oomdoctor.reporters.ink import Ink
from oomdoctor.reporters.parts import narrow_count, narrow_size
from oomdoctor.reporters.recording_text import WIDTH, called, filled, notes, problems, release, trust
from oomdoctor.units import format_bytes

_ROWS = 7
_NAME, _SURVIVES = 24, 14


def render(advice: Advice, problems_found: Sequence[str], ink: Ink, asked: Sequence[str]) -> str:
    """The whole answer.

    Args:
        asked: words of the command line after ``advise``, to ask the same again.
    """
    parts = [_device(advice, number, ink) for number in range(len(advice.devices))]
    parts.append(_split(advice))
    parts.append(_conclusion(advice, ink, asked))
    said = [*advice.notes, *(note for device in advice.devices for note in device.notes)]
    if said:
        parts.append("\n".join(notes(list(dict.fromkeys(said)))))
    return "\n\n".join(parts + problems(problems_found, ink))


def ending(advice: Advice, ink: Ink, path: str) -> str:
    """What ``explain`` ends with: the device that ran out of memory, and what to change."""
    died = [
        number for number, outcome in enumerate(advice.current.outcomes) if outcome.first_oom is not None
    ] or [0]
    return "\n\n".join(
        [
            ink("Other settings, tried on this recording", "bold"),
            *(_device(advice, number, ink) for number in died),
            _split(advice),
            _conclusion(advice, ink, (path,)),
        ]
    )


def _device(advice: Advice, number: int, ink: Ink) -> str:
    device, capacity = advice.devices[number], advice.capacities[number]
    room = "no end of memory known" if capacity is None else f"{format_bytes(capacity)} for PyTorch"
    head = filled(f"{called(device)}, {room}, {release(device)}")
    # The recording's own: under another capacity the current settings may die before it.
    peak = recorded_outcome(device.history).peak_allocated_bytes
    needs_known = any(one.needs for one in _shown(advice))
    needs = f" {'needs':>10s}" if needs_known else ""
    lines = [
        ink(head, "bold"),
        filled(f"{trust(device)} The recorded blocks hold {format_bytes(peak)} at their peak."),
        "",
        f"  {'setting':{_NAME}s} {'survives':>{_SURVIVES}s} {'reserved':>10s} {'retry':>5s}{needs} basis",
    ]
    lines += [_row(advice, number, one, needs_known) for one in _shown(advice)]
    if advice.ends_at_oom and not all(one.survives == advice.current.survives for one in _shown(advice)):
        lines.append(ink("  survives: as far as was recorded, to where memory ran out", "dim"))
    if needs_known:
        lines.append(ink("  needs: the least memory for PyTorch that these requests survive with", "dim"))
    if needs_known and device.held_at_start:
        held = format_bytes(device.held_at_start)
        lines.append(ink(f"  and not less than the {held} reserved when the trace began", "dim"))
    if number in advice.unproved:
        lines += ["", filled(f"Not proved: {advice.unproved[number]}.")]
    lines += _proofs([proof for (of, _), proof in advice.proofs.items() if of == number])
    return "\n".join(lines)


def _proofs(proofs: Sequence[Proof]) -> list[str]:
    """On what the real allocator ran, and where it says otherwise."""
    lines = []
    for ground in dict.fromkeys(proof.ground for proof in proofs):
        which = [proof for proof in proofs if proof.ground == ground]
        names = ""
        if len(which) < len(proofs):
            names = f" {', '.join(proof.alloc_conf or 'the defaults' for proof in which)}:"
        why = f" ({ground.why_not})" if ground.why_not else ""
        lines.append(filled(f"The real allocator ran{names} on {ground}{why}."))
    for proof in proofs:
        name = proof.alloc_conf or "The defaults"
        if proof.disturbed is not None:
            lines.append(filled(f"{name}: not proved, since it was disturbed: {proof.disturbed}."))
        elif not proof.agrees:
            key, (ours, real) = next(iter(proof.differences.items()))
            lines.append(filled(f"{name}: the real allocator says otherwise: {key} {real}, replayed {ours}."))
    return ["", *lines] if lines else []


def _shown(advice: Advice) -> list[Tried]:
    """The current settings first, then the best, the best max_split_size_mb and the frontier.

    Of pairs of settings only those that are better than each alone: others there are many.
    """
    chosen = [advice.current]
    best = [one for one in advice.tried if one is not advice.current and not _adds_nothing(one, advice)]
    for one in (*best[:3], advice.max_split.tried, *frontier(advice.tried)[:2], *best[3:]):
        if one is not None and one not in chosen and len(chosen) < _ROWS:
            chosen.append(one)
    return chosen


def _adds_nothing(one: Tried, advice: Advice) -> bool:
    """Whether a part of the setting does as well alone."""
    parts = parse_options(one.alloc_conf).items()
    return one is not advice.best and any(
        parse_options(other.alloc_conf).items() < parts and not is_better(one, other)
        for other in advice.tried
        if other.alloc_conf
    )


def _row(advice: Advice, number: int, one: Tried, needs_known: bool) -> str:
    outcome = one.outcomes[number]
    survives = "yes"
    if outcome.first_oom is not None:
        survives = _dies_at(outcome.first_oom.alloc_index)
    elif advice.capacities[number] is None:
        survives = "-"
    name = one.alloc_conf or "the defaults"
    if one is advice.current:
        name = f"as recorded ({one.alloc_conf or 'defaults'})"
    needs = f" {narrow_size(one.needs[number]) if one.needs else '':>10s}" if needs_known else ""
    mark = " ←" if one is advice.best else ""
    lead = ""
    if len(name) > _NAME:
        lead, name = "".join(f"  {line}\n" for line in broken(name)), ""
    return (
        f"{lead}  {name:{_NAME}s} {survives:>{_SURVIVES}s}"
        f" {narrow_size(outcome.peak_reserved_bytes):>10s} {narrow_count(outcome.num_alloc_retries):>5s}"
        f"{needs} {advice.basis(number, one.alloc_conf)}{mark}"
    )


def _dies_at(index: int) -> str:
    """As many words as the column has room for."""
    said = [f"{lead}{index:,}" for lead in ("dies at ", "dies ", "at ")]
    return next((one for one in said if len(one) <= _SURVIVES), said[-1])


def broken(settings: str, width: int = WIDTH - 2) -> list[str]:
    """A long settings text in lines, broken behind commas."""
    lines = [""]
    for part in settings.split(","):
        if lines[-1] and len(lines[-1]) + len(part) + 1 > width:
            lines.append("")
        lines[-1] += part + ","
    lines[-1] = lines[-1][:-1]
    return lines


def _split(advice: Advice) -> str:
    answer = advice.max_split
    value = f"{answer.best} " if answer.helps else ""
    said = filled(f"max_split_size_mb: {value}{'— ' if answer.helps else ''}{answer.why}")
    return said + _again(advice.again_split, f"max_split_size_mb:{answer.best}")


def _what_else(advice: Advice) -> list[str]:
    """Where memory runs out under the best setting too: what is missing, and how much less would do."""
    return [
        shortfall_text.render(lack, called(device))
        for device, lack in zip(advice.devices, advice.shortfalls)
        if lack is not None
    ]


def _again(again: Optional[Again], name: str = "it") -> str:
    """How the whole program fared under a setting."""
    if again is None:
        return ""
    if again.why_not is not None:
        return f"\n\n{filled(f'The program was not run again: {again.why_not}.')}"
    on = "the same emulated devices"
    if again.capacity is not None:
        on = f"emulated devices with {format_bytes(again.capacity)} for PyTorch"
    if again.survives:
        return "\n\n" + filled(f"The whole program, run again under {name} on {on}, ends well.")
    how = (
        f"{again.ooms} of its processes {'runs' if again.ooms == 1 else 'run'} out of memory"
        if again.ooms
        else "no process runs out of memory"
    )
    said = f"The whole program, run again under {name} on {on}, ends with {again.exit_status}: {how}."
    lacks = [
        shortfall_text.render(lack, f"There, at allocation {index:,} of GPU {number}")
        for number, index, lack in again.lacks[:1]
    ]
    return "\n\n" + "\n\n".join([filled(said), *lacks])


def _command(words: Sequence[str]) -> str:
    """A command in lines that a shell takes for one."""
    pieces = [pasteable(words[:1])]
    for before, word in zip(words, words[1:]):
        quoted = shlex.quote(word)
        if before.startswith("-") and not word.startswith("-"):
            pieces[-1] += f" {quoted}"  # an option's value
        else:
            pieces.append(quoted)
    lines = ["  "]
    for piece in pieces:
        if lines[-1].strip() and len(lines[-1]) + len(piece) + 3 > WIDTH:
            lines[-1] += "\\"
            lines.append("    ")
        lines[-1] += f"{piece} "
    return "\n".join(line.rstrip() for line in lines)


def _to_see(steps: Steps) -> str:
    where = "" if steps.room is None else f" where PyTorch has {format_bytes(steps.room)}"
    return f"To see that it helps, record again with it{where}, and compare:"


def _conclusion(advice: Advice, ink: Ink, asked: Sequence[str]) -> str:
    if advice.best is None or advice.steps is None:
        return "\n\n".join([filled(f"No setting to change: {advice.why}."), *_what_else(advice)])
    parts = [
        filled(f"Best: {advice.why}."),
        f"  {ink(advice.steps.export, 'bold')}{_again(advice.again)}",
        f"{filled(_to_see(advice.steps))}\n{_command(advice.steps.record)}\n{_command(advice.steps.compare)}",
        *_what_else(advice),
    ]
    if not advice.proofs and not advice.unproved:
        parts[2] += f"\nThe real allocator's word:\n{_command(('oomdoctor', 'advise', *asked, '--prove'))}"
    return "\n\n".join(parts)
