"""Grammars that one regular expression can hold, written as data.

In a template a space stands for any white space, line ends included (that is how wrapped messages are read),
a space and a question mark for any or none, and ``SIZE(name)`` for a size. Named groups become facts:
``requested``, ``total``, ... fill the fields of that name, ``device`` is a number, every other name goes to
``details``. Those that begin with ``mark_`` must agree between two prints of one event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Optional

from oomdoctor.diagnosis.model import Kind, OomFacts
from oomdoctor.message.sighting import Grammar, Sighting
from oomdoctor.message.sizes import SIZE, to_bytes

SIZE_FIELDS = (
    "requested",
    "total",
    "free",
    "allocated",
    "reserved",
    "reserved_unallocated",
    "process_in_use",
    "private_pool",
    "allowed",
)


@dataclass(frozen=True)
class Pattern:
    """One wording. See ``Sighting`` for what ``opens``, ``follows`` and ``tolerance`` mean."""

    family: str
    template: str
    kind: Kind = "oom"
    group: str = ""
    opens: bool = False
    follows: Optional[int] = None
    tolerance: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


@cache  # compiled when first needed: most texts need a few of them
def compile_template(template: str) -> re.Pattern[str]:
    """A template as a regular expression, case as written."""
    text = re.sub(r"SIZE\((\w+)\)", lambda name: f"(?P<{name.group(1)}>{SIZE})", template)
    return re.compile(text.replace(" ?", r"\s*").replace(" ", r"\s+"))


def facts_of(groups: dict[str, Optional[str]], family: str, kind: Kind, details: dict[str, Any]) -> OomFacts:
    """The facts in a match's named groups."""
    fields: dict[str, Any] = {}
    more = dict(details)
    for group, value in groups.items():
        if value is None:
            continue
        name = group.removeprefix("mark_").rstrip(
            "0123456789"
        )  # a regular expression names a group once: requested, requested2
        if name in SIZE_FIELDS:
            fields[f"{name}_bytes"] = to_bytes(value)
        elif name in ("total_gib", "free_gib"):  # a number whose unit stands before it
            fields[name.replace("_gib", "_bytes")] = to_bytes(f"{value} GiB")
        elif name == "device":
            fields["device"] = int(value)
        elif name.endswith("_bytes"):
            more[name] = to_bytes(value)
        else:
            more[name] = int(value) if value.isdecimal() and len(value) < 20 else " ".join(value.split())
    return OomFacts(family=family, kind=kind, details=more, **fields)


def grammar(name: str, needles: tuple[str, ...], patterns: tuple[Pattern, ...]) -> Grammar:
    """A grammar of several wordings. Where two overlap, the one listed first holds."""

    def read(text: str) -> Iterator[Sighting]:
        for pattern in patterns:
            for match in compile_template(pattern.template).finditer(text):
                groups = match.groupdict()
                marks = ((key, value) for key, value in groups.items() if key.startswith("mark_") and value)
                yield Sighting(
                    start=match.start(),
                    end=match.end(),
                    facts=facts_of(groups, pattern.family, pattern.kind, pattern.details),
                    group=pattern.group or pattern.family,
                    opens=pattern.opens,
                    follows=pattern.follows,
                    marks=tuple((key, " ".join(value.split())) for key, value in marks),
                    tolerance=pattern.tolerance,
                )

    return Grammar(name, needles, read)
