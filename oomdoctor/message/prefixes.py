"""What launchers, containers and loggers put before a line, and the rank or process that it names."""

from __future__ import annotations

import re
from typing import Optional

_TIME = r"\d\d:\d\d:\d\d(?:[.,]\d+)?"
_DATE = r"(?:\d{4}[-/]\d\d[-/]\d\d|\d\d[-/]\d\d(?:[-/]\d{4})?)"
_ZONE = r"(?:Z|\s?[+-]\d\d:?\d\d)?"

# One prefix each; a line may carry several. A group named rank* is the rank, source* says who speaks.
_PREFIXES = (
    r"\[rank(?P<rank_torch>\d{1,6})\]:?",  # torch 2.2+, every line of a distributed traceback
    r"\[(?:rank: ?|RANK )(?P<rank_logger>\d{1,6})\]:?",  # Lightning
    r"\{\"(?:log|message|msg)\": ?\"",  # Docker's json-file
    r"\d{1,9}\t",  # cat -n
    r"[\w./-]{1,200}\.(?:log|txt|out|err)(?:\.\d+)?[-:]\d{1,9}[-:]",  # grep -n over files
    rf"(?P<source_kubetail>[a-z0-9][\w.-]{{0,80}} [a-z0-9][\w.-]{{0,80}})(?= {_DATE}T{_TIME}Z)",
    r"(?P<source_stern>[a-z0-9][\w.-]{0,80} [a-z0-9][\w.-]{0,80}) ›",
    r"\[default(?P<rank_tee>\d{1,6})\]:",  # torchrun --tee
    r"\[\d+,(?P<rank_mpi>\d{1,6})\]<std(?:err|out)>:?",  # mpirun --tag-output
    # (VllmWorker rank=1 pid=7), (EngineCore pid=7), (raylet)
    r"(?P<source_process>\([A-Za-z_][\w.:-]*(?:\s(?:rank|pid|ip|id|TP|PP|DP|EP)[^()\n]{0,120})?\))(?=\s)",
    rf"\[{_DATE}[T ]{_TIME}{_ZONE}(?:\s[A-Z]{{2}}\d{{1,4}})*\]",  # [2025-01-01 00:00:00 TP1]
    rf"\[?{_DATE}[T\s,-]+{_TIME}{_ZONE}\]?[:,]?",
    rf"\[?{_TIME}{_ZONE}\]?",
    r"[A-Z][a-z]{2}\s+\d{1,2}\s"
    + _TIME
    + r"\s(?P<source_syslog>[\w.-]{1,80}\s[\w.@/-]{1,80}(?:\[\d+\])?):",  # syslog, journalctl
    r"std(?:err|out)\s[FP]\b",  # Kubernetes CRI
    r"\[(?P<source_pod>pod/[^\]\s]{1,200})\]",
    r"\[(?:std(?:err|out)|[EWIF]|ERROR|WARNING|WARN|INFO|DEBUG|FATAL|CRITICAL)\]:?",
    r"(?:ERROR|WARNING|WARN|INFO|DEBUG|FATAL|CRITICAL)\b:?(?=[\s:\[(])",
    r"\[[\w./-]{1,80}\.(?:py|cc|cpp|cu|h|go|rs):\d{1,6}\]:?",  # [core.py:390]
    r"(?P<source_compose>[A-Za-z0-9_./-]{1,80})\s*\|(?=\s)",  # docker compose
    r"(?:[>#|│┃║❱]|//)(?=\s|$|[>#|│┃║])",  # quotes, comments, table and box borders
    # pdsh, DeepSpeed: the host
    r"(?P<source_host>\d{1,3}(?:\.\d{1,3}){3}|(?!(?:cuda|gpu|hip|xpu|npu|dev|device)\d)[a-z][a-z.-]{0,60}\d{1,5}):(?=\s)",
    r"\d{1,9}[:-](?=[\[(0-9A-Za-z\"'>]|\s|$)",  # grep -n, srun --label
)
_PREFIX = re.compile(r"[ \t]*(?:" + "|".join(_PREFIXES) + r")[ \t]?")
_IN_PARENTHESES = re.compile(r"(?<![A-Za-z])(?:rank=|TP)(\d{1,6})(?!\d)")
_IN_JSON = re.compile(r"\"rank\" ?: ?\"?(\d{1,6})\b")
_LABEL = re.compile(r"[ \t]*(\d{1,5}):(?=\s|$)")
_MAX_PREFIXES = 10


def strip_prefixes(line: str) -> tuple[str, Optional[int], str]:
    """The line without what stands before it, the rank that was named there, if any, and who speaks ("" where
    it is not said)."""
    position, rank, sources = 0, None, []
    if line.startswith("{"):
        named = _IN_JSON.search(line, 0, 4000)
        rank = int(named.group(1)) if named else None
    for _ in range(_MAX_PREFIXES):
        match = _PREFIX.match(line, position)
        if match is None or match.end() == position:
            break
        if rank is None:
            rank = _rank(match)
        if match.lastgroup is not None and match.lastgroup.startswith("source"):
            sources.append(match.group(match.lastgroup))
        position = match.end()
    return line[position:], rank, " ".join(sources)


def label(line: str) -> Optional[int]:
    """The number that srun --label, and much else, puts before a line."""
    match = _LABEL.match(line)
    return int(match.group(1)) if match else None


def are_ranks(labels: list[int]) -> bool:
    """Whether the labels of lines on end name tasks: a line's number only rises, and hardly from 0."""
    if len(labels) < 2:
        return False
    return labels[0] == 0 or any(after <= before for before, after in zip(labels, labels[1:]))


def _rank(match: re.Match[str]) -> Optional[int]:
    if match.lastgroup is not None and match.lastgroup.startswith("rank"):
        return int(match.group(match.lastgroup))
    inside = _IN_PARENTHESES.search(match.group()) if match.group().lstrip()[:1] in "([" else None
    return int(inside.group(1)) if inside else None
