"""Terminal, logger and escape residue taken off a text, each place still knowing its line and rank."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Optional

from oomdoctor.message.prefixes import are_ranks, label, strip_prefixes

# A run of backslashes is looked at once, from its start: else a long one would take quadratic time.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)|[@-Z\\-_])")
_ESCAPED_ANSI = re.compile(r"(?<!\\)\\+(?:u001[bB]|x1[bB]|033|e)\[[0-9;]*[A-Za-z]")
_ESCAPED_CODE = re.compile(r"(?<!\\)\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_ESCAPED_BREAK = re.compile(r"(?<!\\)\\+[nr](?![a-z]{2,}[\\/])|<br\s*/?>")  # not the \n of C:\new\...
_ESCAPED_OTHER = re.compile(r"(?<!\\)\\+([\"'`/t])")
_ENTITIES = (
    ("&nbsp;", " "),
    ("&#160;", " "),
    ("&gt;", ">"),
    ("&lt;", "<"),
    ("&quot;", '"'),
    ("&#34;", '"'),
    ("&#39;", "'"),
    ("&apos;", "'"),
    ("&amp;", "&"),
)
_FULL_WIDTH = str.maketrans("\uff08\uff09\uff1b", "();")
_SPACES = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_TRAILING = re.compile(r"\s\\+$")  # a shell's line end
_LAST_RUN = re.compile(r"[\w.]{1,40}$")
_FIRST_RUN = re.compile(r"[\w.]{1,40}")
_NUMBER_HEAD = re.compile(r"\d+(?:\.\d?)?$")
_NUMBER_TAIL = re.compile(r"\d*\.?\d+$|\d*\.$")

# Words of the messages that a terminal may have cut in two.
_VOCABULARY = frozenset(
    [
        "allocate",
        "allocated",
        "allocating",
        "allocation",
        "allocator",
        "allowed",
        "already",
        "available",
        "backend",
        "blocks",
        "buffer",
        "by",
        "bytes",
        "cache",
        "cached",
        "capacity",
        "capacty",
        "could",
        "cublas",
        "cuda",
        "cudamalloc",
        "current",
        "currently",
        "decreasing",
        "desired",
        "device",
        "documentation",
        "error",
        "estimated",
        "exceed",
        "exceeds",
        "failed",
        "failure",
        "for",
        "fragmentation",
        "free",
        "gib",
        "gpu",
        "graphs",
        "has",
        "hip",
        "in",
        "including",
        "increasing",
        "initializing",
        "insufficient",
        "is",
        "kib",
        "large",
        "larger",
        "length",
        "less",
        "limit",
        "long",
        "management",
        "max",
        "maximum",
        "memory",
        "mib",
        "model",
        "more",
        "needed",
        "not",
        "npu",
        "of",
        "on",
        "operation",
        "out",
        "outofmemoryerror",
        "physical",
        "pool",
        "pools",
        "private",
        "process",
        "pytorch",
        "requested",
        "required",
        "reserved",
        "resource",
        "runtimeerror",
        "segment",
        "sequence",
        "serve",
        "shared",
        "size",
        "startup",
        "status",
        "store",
        "stored",
        "than",
        "the",
        "this",
        "to",
        "tokens",
        "torch",
        "total",
        "tried",
        "trying",
        "unable",
        "unallocated",
        "use",
        "utilization",
        "valueerror",
        "which",
        "while",
        "with",
        "xpu",
    ]
)


@dataclass(frozen=True)
class CleanText:
    """A text to run grammars over.

    ``starts`` are offsets in ``text`` at which the lines of the original begin, ``lines`` their numbers (from
    1), ``ranks`` what their prefixes named and ``sources`` who speaks in them. Lines of several speakers that
    alternate stand speaker by speaker.
    """

    text: str
    starts: tuple[int, ...]
    lines: tuple[int, ...]
    ranks: tuple[Optional[int], ...]
    sources: tuple[str, ...] = ("",)

    def line_at(self, offset: int) -> int:
        """The number of the original line that stands at ``offset``."""
        return self.lines[bisect_right(self.starts, offset) - 1]

    def rank_at(self, offset: int) -> Optional[int]:
        """The rank named on that line."""
        return self.ranks[bisect_right(self.starts, offset) - 1]

    def source_at(self, offset: int) -> str:
        """Who speaks on that line, "" where it does not say."""
        return self.sources[bisect_right(self.starts, offset) - 1]


@dataclass(frozen=True)
class _Line:
    number: int
    body: str
    rank: Optional[int]
    source: str

    @property
    def speaker(self) -> Optional[tuple[Optional[int], str]]:
        return None if self.rank is None and not self.source else (self.rank, self.source)


def clean(lines: Iterable[tuple[int, str]]) -> CleanText:
    """Numbered lines as one text: colours and prefixes off, escapes undone, wrapped words put together
    again."""
    pieces: list[str] = []
    starts: list[int] = []
    length = 0
    previous: Optional[_Line] = None
    ordered = _by_speaker(_bodies(list(lines)))
    for line in ordered:
        joins = (
            previous is not None and previous.speaker == line.speaker and _cut_word(previous.body, line.body)
        )
        glue = "" if previous is None or joins else "\n"
        starts.append(length + len(glue))
        pieces.append(glue + line.body)
        length += len(glue) + len(line.body)
        previous = line
    if not starts:
        return CleanText("", (0,), (1,), (None,))
    return CleanText(
        "".join(pieces),
        tuple(starts),
        tuple(line.number for line in ordered),
        tuple(line.rank for line in ordered),
        tuple(line.source for line in ordered),
    )


def _bodies(lines: list[tuple[int, str]]) -> list[_Line]:
    """The lines, and those that escapes hold, each without its prefixes."""
    labels = _labels([raw for _, raw in lines])
    found: list[_Line] = []
    for (number, raw), labelled in zip(lines, labels):
        rank, source = labelled, ""
        for part in unescape(raw).split("\n"):
            body, named, speaks = strip_prefixes(part)
            rank = named if named is not None else rank
            source = speaks or source
            body = _TRAILING.sub("", body.rstrip().rstrip("|│┃║").rstrip())
            found.append(_Line(number, _SPACES.sub(" ", body), rank, source))
    return found


def _labels(lines: list[str]) -> list[Optional[int]]:
    """The task that each line names by a bare number, where its neighbours do too."""
    labels = [label(line) for line in lines]
    start = 0
    for index in range(len(labels) + 1):
        if index < len(labels) and labels[index] is not None:
            continue
        run = [number for number in labels[start:index] if number is not None]
        if not are_ranks(run):
            labels[start:index] = [None] * (index - start)
        start = index + 1
    return labels


def _by_speaker(lines: list[_Line]) -> list[_Line]:
    """Runs of lines in which several speakers alternate, put speaker by speaker."""
    ordered: list[_Line] = []
    for named, run in groupby(lines, key=lambda line: line.speaker is not None):
        if not named:
            ordered.extend(run)
            continue
        speakers: dict[object, list[_Line]] = {}
        for line in run:
            speakers.setdefault(line.speaker, []).append(line)
        for said in speakers.values():
            ordered.extend(said)
    return ordered


def unescape(line: str) -> str:
    """Colours off; JSON, Python and shell escapes undone, however often they were escaped; markup characters
    off."""
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    if "\\" in line:
        line = _ESCAPED_ANSI.sub("", line)
        line = _ESCAPED_BREAK.sub("\n", line)
        line = _ESCAPED_OTHER.sub(lambda match: " " if match.group(1) == "t" else match.group(1), line)
        line = _ESCAPED_CODE.sub(lambda match: chr(int(match.group(1) or match.group(2), 16)), line)
    elif "<br" in line:
        line = _ESCAPED_BREAK.sub("\n", line)
    if "&" in line:
        for entity, character in _ENTITIES:
            line = line.replace(entity, character)
    if "\uff08" in line or "\uff1b" in line:
        line = line.translate(_FULL_WIDTH)
    return line.replace("**", "").replace("`", "").replace("\r", "\n") if line else line


def _cut_word(left: str, right: str) -> bool:
    """Whether a line break fell inside a word or a number, as a terminal's hard wrap does.

    Two halves make one where together they are a word that messages use and apart they are not both words;
    digits on both sides make one number, for no message puts two numbers side by side.
    """
    if (not left[-1:].isalnum() and not left.endswith(".")) or (
        not right[:1].isalnum() and not right.startswith(".")
    ):
        return False
    tail, head = _LAST_RUN.search(left[-40:]), _FIRST_RUN.match(right)
    if tail is None or head is None:
        return False
    last, first = tail.group(), head.group()
    if _NUMBER_HEAD.fullmatch(last) and first[:1].isdigit():
        return True
    if last.endswith(".") and last[:-1].isdigit() and first[:1].isdigit():
        return True
    if last.isdigit() and first.startswith(".") and first[1:2].isdigit():
        return True
    last, first = last.lower(), first.lower().rstrip(".")
    whole = last + first
    return whole in _VOCABULARY and not (last in _VOCABULARY and first in _VOCABULARY)
