"""Texts that only name an out-of-memory error: source code, templates, advice and questions."""

from __future__ import annotations

import re

# The end of what stands before the words: "CUDA error: " belongs to them, an exception's class does not.
_OPENING = re.compile(r"(?:[\"'(\[]|\b(?:CUDA|HIP|GPU|XPU|driver|runtime|error|an?|the|any|this)\b:?|\s)+\Z")
_ADVICE = re.compile(
    r"(?i:\b(?:no|not|avoid(?:s|ing)?|prevent(?:s|ing)?|without|against|handles?|fix(?:es|ed|ing)?|in case of"
    r"|(?:when|if|once|before)\s[\w,\s]{1,40}\b(?:runs?|goes|gets?|hits?|sees?|encounters?|fails? with|is)"
    r"|how\s(?:to|do|can|should)\s[\w,\s]{1,40}|(?:if|whenever)\s\w+\s\w+))\Z"
)
_CODE_BEFORE = re.compile(
    r"(?:\b(?:match|msg_regex)\s?=\s?r?"
    r"|\b(?:assertRaises\w*|raises|raise\s[\w.]{1,80}|print|warn(?:ing)?|[Cc]ontains|includes|startswith)\("
    r"[^()\"'\n]{0,80}"
    r"|\b(?:return|assert|if|elif|or|and|not)\s(?:\w{1,40}\sin\s)?\(?r?f?"
    r"|\b\w{1,60}\s=\s[\[({]\s?r?|\b[A-Z][A-Z_]{2,60}\s?=\s?r?)[\"'][^\"'\n]{0,80}\Z"
    r"|^\s*except\b[^\n]{0,120}:|\b(?:TORCH_CHECK|CHECK)\w*\("
)
_CODE_AFTER = re.compile(
    r"[^\"'\n]{0,80}[\"']\s(?:not\s)?in\s(?:str|repr|e\b|err|exc|msg|message|\w{1,30}[.(\[])"
)
_PLACEHOLDER = re.compile(
    r"[^\n]{0,40}?[Tt]ried to allocate\s?(?:\{|%[.\d]*[sdf]|<\w|\$\{?\w"
    r"|[XYZN]{1,3}(?:\.[XY]{1,2})?\s?[KMG]i?B"
    r"|[\"']\s?(?:,\s?\w|<<|\+))"
)
_FRAME = re.compile(r"\s*File [\"'][^\n]{1,400}, line \d+")
_RAISED = re.compile(r"\s*[\w.]{1,120}(?:Error|Exception|Interrupt|Warning)\b\s?[:(]")


def only_named(text: str, start: int, end: int) -> bool:
    """Whether the words at ``start`` to ``end``, which give no number, name an error and report none."""
    begin = text.rfind("\n", max(0, start - 400), start) + 1
    if not begin:
        begin = max(0, start - 400)
    stop = text.find("\n", end, end + 300)
    before, after = text[begin:start], text[end : stop if stop >= 0 else end + 300]
    if _PLACEHOLDER.match(text, max(start, end - 40), end + 100) or _PLACEHOLDER.match(after):
        return True
    if _CODE_BEFORE.search(before) or _CODE_AFTER.match(after):
        return True
    above = text[text.rfind("\n", max(0, begin - 500), max(0, begin - 1)) + 1 : max(0, begin - 1)]
    if before[:1].isspace() and _FRAME.match(above) and not _RAISED.match(before):
        return True
    opening = _OPENING.search(before)
    lead = before[: opening.start()] if opening else before
    return _ADVICE.search(lead[-100:]) is not None
