"""What launchers, containers and loggers put before a line, and the rank that some of them name."""

from __future__ import annotations

import re
from typing import Optional

_TIME = r"\d\d:\d\d:\d\d(?:[.,]\d+)?"
_DATE = r"(?:\d{4}[-/]\d\d[-/]\d\d|\d\d[-/]\d\d(?:[-/]\d{4})?)"
_ZONE = r"(?:Z|\s?[+-]\d\d:?\d\d)?"

# One prefix each; a line may carry several. A group named rank* is the rank.
_PREFIXES = (
    r"\[rank(?P<rank_torch>\d{1,6})\]:?",  # torch 2.2+, every line of a distributed traceback
    r"\[default(?P<rank_tee>\d{1,6})\]:",  # torchrun --tee
    r"\[\d+,(?P<rank_mpi>\d{1,6})\]<std(?:err|out)>:?",  # mpirun --tag-output
    # (VllmWorker rank=1 pid=7), (EngineCore pid=7), (raylet)
    r"\([A-Za-z_][\w.:-]*(?:\s(?:rank|pid|ip|id|TP|PP|DP|EP)[^()\n]{0,120})?\)(?=\s)",
    rf"\[{_DATE}[T ]{_TIME}{_ZONE}(?:\s[A-Z]{{2}}\d{{1,4}})*\]",  # [2025-01-01 00:00:00 TP1]
    rf"\[?{_DATE}[T\s,-]+{_TIME}{_ZONE}\]?[:,]?",
    rf"\[?{_TIME}{_ZONE}\]?",
    r"[A-Z][a-z]{2}\s+\d{1,2}\s"
    + _TIME
    + r"\s[\w.-]{1,80}\s[\w.@/-]{1,80}(?:\[\d+\])?:",  # syslog, journalctl
    r"std(?:err|out)\s[FP]\b",  # Kubernetes CRI
    r"\[(?:std(?:err|out)|pod/[^\]\s]{1,200}|[EWIF]|ERROR|WARNING|WARN|INFO|DEBUG|FATAL|CRITICAL)\]:?",
    r"(?:ERROR|WARNING|WARN|INFO|DEBUG|FATAL|CRITICAL)\b:?(?=[\s:\[(])",
    r"\[[\w./-]{1,80}\.(?:py|cc|cpp|cu|h|go|rs):\d{1,6}\]:?",  # [core.py:390]
    r"[A-Za-z0-9_./-]{1,80}\s*\|(?=\s)",  # docker compose
    r"(?:[>#|│┃║❱]|//)(?=\s|$|[>#|│┃║])",  # quotes, comments, table and box borders
    r"\d{1,9}[:-](?=[\[(0-9A-Za-z\"'>]|\s|$)",  # grep -n, srun --label
)
_PREFIX = re.compile(r"[ \t]*(?:" + "|".join(_PREFIXES) + r")[ \t]?")
_IN_PARENTHESES = re.compile(r"\b(?:rank=|TP)(\d{1,6})\b")
_MAX_PREFIXES = 10


def strip_prefixes(line: str) -> tuple[str, Optional[int]]:
    """The line without what stands before it, and the rank that was named there, if any."""
    position, rank = 0, None
    for _ in range(_MAX_PREFIXES):
        match = _PREFIX.match(line, position)
        if match is None or match.end() == position:
            break
        if rank is None:
            rank = _rank(match)
        position = match.end()
    return line[position:], rank


def _rank(match: re.Match[str]) -> Optional[int]:
    if match.lastgroup is not None:
        return int(match.group(match.lastgroup))
    inside = _IN_PARENTHESES.search(match.group()) if match.group().lstrip()[:1] in "([" else None
    return int(inside.group(1)) if inside else None
