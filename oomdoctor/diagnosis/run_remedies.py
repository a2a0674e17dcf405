"""What to do about a recorded OOM. Everything here is estimated: only a replay can tell what helps."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field
from typing import Optional

from oomdoctor.diagnosis.max_split import HoleySegments, mildest_mb, proposed_mb, within_reach
from oomdoctor.diagnosis.model import Diagnosis, OtherProcess, Remedy, Verdict
from oomdoctor.diagnosis.request import Request
from oomdoctor.diagnosis.run_account import Account
from oomdoctor.diagnosis.settings_text import (
    effective_variable,
    join_options,
    parse_options,
    variable_for,
    version_of,
)
from oomdoctor.diagnosis.torch_settings import EXPANDABLE_SEGMENTS_SINCE, first_max_split_size_mb
from oomdoctor.storage import is_url
from oomdoctor.units import GIB, MIB, format_bytes


@dataclass(frozen=True)
class Program:
    """What is known of the program: its torch, its settings, how to run it again.

    Attributes:
        asked: environment variables that bear on the allocator.
        command: the words that the launcher ran; empty where nobody knows.
        cwd: where it was run.
        verb: "trace", or "rehearse" with its options, to record it again.
        expandable: whether expandable segments were in effect; None where nothing says.
        backend: of the allocator: "native", "cudaMallocAsync"; None where nothing says.
    """

    torch_version: Optional[str] = None
    is_hip: bool = False
    asked: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    cwd: Optional[str] = None
    verb: tuple[str, ...] = ("trace",)
    expandable: Optional[bool] = None
    backend: Optional[str] = None


def remedies_for(
    verdict: Verdict,
    account: Account,
    request: Optional[Request],
    program: Program,
    device: int,
    holey: Optional[tuple[HoleySegments, ...]] = None,
) -> tuple[Remedy, ...]:
    """What may help, the likeliest first.

    Args:
        request: what failed; None for a state in which nothing did.
        holey: the segments with holes (see :func:`holey_segments`); None where no snapshot says.
    """
    if verdict == "fragmentation":
        return _against_fragmentation(account, request, program, holey)
    if verdict == "other-process":
        return tuple(_stop(other, device) for other in _largest(account.others))
    if verdict == "limit":
        return (
            Remedy(
                "raise-memory-fraction",
                "let PyTorch have more of the device",
                f"torch.cuda.set_per_process_memory_fraction(1.0, {device})",
                "estimated",
            ),
        )
    if verdict == "non-pytorch":
        return (
            Remedy(
                "find-memory-outside-pytorch",
                "see who holds memory outside PyTorch's allocator: NCCL, other libraries, other processes",
                "nvidia-smi --query-compute-apps=pid,used_memory --format=csv",
                "estimated",
            ),
        )
    if verdict == "capacity":
        return (
            Remedy(
                "less-live",
                "no allocator setting makes room; free some of the "
                f"{format_bytes(account.allocated + account.pending)} that live, or use a larger device",
                None,
                "derived",
            ),
        )
    if verdict == "impossible-request":
        return (
            Remedy(
                "check-the-shape",
                "look at the shapes where it was asked for: no setting makes this fit",
                None,
                "estimated",
            ),
        )
    return ()


def _against_fragmentation(
    account: Account,
    request: Optional[Request],
    program: Program,
    holey: Optional[tuple[HoleySegments, ...]],
) -> tuple[Remedy, ...]:
    version = version_of(program.torch_version)
    if program.backend not in (None, "native"):
        return (
            Remedy(
                "native-backend",
                f"leave backend:{program.backend} out: the native allocator has the settings against "
                "fragmentation, and can be recorded",
                None,
                "estimated",
            ),
        )
    found = []
    if program.expandable is not True and (version is None or version >= EXPANDABLE_SEGMENTS_SINCE):
        found.append(
            Remedy(
                "expandable-segments",
                "segments grow and give back their middle, so most holes close"
                + ("" if version else " (torch 2.1 or later)"),
                _assignment(program, {"expandable_segments": "True"}, without=("max_split_size_mb",)),
                "estimated",
            )
        )
    need = request.segment_bytes if request else None
    value = None
    if need is not None:
        value = (
            first_max_split_size_mb(need) if holey is None else proposed_mb(holey, need, account.room or 0)
        )
    elif holey is not None:
        value = mildest_mb(holey)
    if value is not None and program.expandable is not True:
        what = "blocks of that size and more stay whole"
        if need is not None:
            what = "below the failed request, so that blocks of its size stay whole"
        found.append(
            Remedy(
                "max-split-size",
                what
                + (_where_it_applies(holey, value) if holey is not None else ", a guess from its size alone"),
                _assignment(program, {"max_split_size_mb": str(value)}, without=("expandable_segments",)),
                "estimated",
            )
        )
    if account.free_private > account.free_default:
        found.append(
            Remedy(
                "share-private-pools",
                "most free memory lies in private pools: let CUDA graphs share one (pool=...)",
                None,
                "estimated",
            )
        )
    return tuple(found)


def _where_it_applies(holey: tuple[HoleySegments, ...], value: int) -> str:
    reached = [one for one in holey if one.segment_bytes >= value * MIB]
    held, count = within_reach(holey, value), sum(one.count for one in reached)
    what = "segment of that size or more has" if count == 1 else "segments of that size or more have"
    return f": {count:,} {what} {format_bytes(held)} of holes"


def _assignment(program: Program, options: dict[str, str], without: tuple[str, ...]) -> str:
    """The line to paste: the settings that were in effect, with these changed."""
    version = version_of(program.torch_version)
    winner = effective_variable(version, program.asked)
    kept = parse_options(program.asked[winner]) if winner else {}
    merged = {key: value for key, value in kept.items() if key not in without}
    merged.update(options)
    variable = variable_for(version, program.asked, is_hip=program.is_hip)
    return f"export {variable}={shlex.quote(join_options(merged))}"


def _largest(others: tuple[OtherProcess, ...], most: int = 3) -> list[OtherProcess]:
    return sorted(others, key=lambda other: -(other.bytes or 0))[:most]


def _stop(other: OtherProcess, device: int) -> Remedy:
    return Remedy(
        "other-process",
        f"process {other.pid} holds memory on GPU {device}: see what it is, stop it or use another GPU",
        f"ps -o pid,user,etime,args -p {other.pid}",
        "estimated",
    )


def next_command(run: str, diagnosis: Diagnosis, program: Program) -> Optional[str]:
    """The next command: the same program once more, with the first setting that may help.

    Where memory is really used no setting helps; there, how much it would need on a larger device, emulated.
    None where the command is not known.
    """
    if not program.command:
        return None
    words = list(program.verb)
    setting = next((r.command for r in diagnosis.remedies if (r.command or "").startswith("export ")), None)
    prefix = f"{setting[len('export ') :]} " if setting else ""
    if setting is None:
        total, device = diagnosis.facts.total_bytes, diagnosis.facts.device
        if diagnosis.verdict != "capacity" or total is None or device is None:
            return None
        gpus = ["--gpus", str(device + 1)]
        if "--gpus" in words:
            gpus = words[words.index("--gpus") : words.index("--gpus") + 2]
        words = ["rehearse", *gpus, "--memory", exact_size(2 * total)]
    away = elsewhere(program)
    words += ["-o", beside(run, whole=away is not None), "--", *program.command]
    go = f"cd {shlex.quote(away)} && " if away else ""
    return go + prefix + "oomdoctor " + " ".join(shlex.quote(word) for word in words)


def beside(run: str, *, whole: bool) -> str:
    """A new run folder beside this one, by this one's real name: "." has none of its own.

    Of one on shared storage the new one goes here: a recorder writes to files of its machine.
    """
    if is_url(run):
        name = os.path.basename(run.rstrip("/")) + "-2"
        return os.path.abspath(name) if whole else name
    if os.path.basename(os.path.normpath(run)) in ("", ".", ".."):
        real = os.path.abspath(run)
        return real + "-2" if whole else os.path.relpath(real + "-2")
    return (os.path.abspath(run) if whole else os.path.normpath(run)) + "-2"


def elsewhere(program: Program) -> Optional[str]:
    """Where the command has to be run, if not here: it names files by relative paths."""
    if program.cwd is None or os.path.realpath(program.cwd) == os.path.realpath(os.getcwd()):
        return None
    return program.cwd if any(_is_relative_path(word) for word in program.command) else None


def _is_relative_path(word: str) -> bool:
    value = word.partition("=")[2] if word.startswith("-") else word
    if value.startswith(("/", "~")) or "://" in value:
        return False
    return "/" in value or bool(re.search(r"\.(?:py|sh|json|ya?ml|toml|txt|cfg|ini|pt|bin)$", value))


def exact_size(size: int) -> str:
    """A SIZE for the command line that loses nothing."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
