"""A message's facts become a diagnosis: the one entry to the rules for messages."""

from __future__ import annotations

from oomdoctor.diagnosis.message_accounting import account
from oomdoctor.diagnosis.message_findings import torch_findings
from oomdoctor.diagnosis.message_remedies import torch_remedies
from oomdoctor.diagnosis.message_verdict import rule
from oomdoctor.diagnosis.model import Diagnosis, Finding, OomFacts
from oomdoctor.diagnosis.torch_settings import expandable_segments_on

# Families of PyTorch's caching allocator; all others are looked up.
_ALLOCATOR = ("torch-1.", "torch-2.", "torch-legacy", "torch-1EB")


def diagnose(facts: OomFacts) -> Diagnosis:
    """What a message means and what to do about it."""
    if not facts.family.startswith(_ALLOCATOR):
        from oomdoctor.diagnosis.message_families import diagnose_other, knows  # a large table, seldom needed

        if knows(facts):
            return diagnose_other(facts)
    books = account(facts)
    ruling = rule(
        books,
        preempted=bool(facts.details.get("preemptively_rejected")),
        segment_reserve=int(facts.details.get("expandable_segment_reserve_bytes") or 0),
        largest_block=int(facts.details.get("largest_block_bytes") or 0),
        expandable=expandable_segments_on(facts.details),
        allowed=facts.allowed_bytes,
        at_least=int(facts.details.get("requested_at_least_bytes") or 0),
    )
    verdict = Finding("verdict", ruling.why, ruling.basis, None, {"rule": ruling.rule, **ruling.evidence})
    findings = [verdict, *torch_findings(facts, books, ruling)]
    return Diagnosis(facts, ruling.verdict, tuple(findings), torch_remedies(facts, books, ruling))
