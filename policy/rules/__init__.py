"""All rules of the pack, and those about the reasons that waive a finding."""

from collections.abc import Iterator

from policy.rules import hardening, residency, secrets, supply
from policy.rules.rule import ACCEPT, Finding, Rule
from policy.stack import Stack

_OWN = (*residency.RULES, *hardening.RULES, *supply.RULES, *secrets.RULES)
_SHORTEST_REASON = 10


def _reasons(stack: Stack) -> Iterator[Finding]:
    for subject, reason in stack.accepted.items():
        if len(reason.strip()) < _SHORTEST_REASON:
            yield Finding(
                subject=subject,
                what=f"the reason for {subject} at {ACCEPT} is too short",
                why="a reviewer must be able to judge it",
                fix=f"write a sentence of at least {_SHORTEST_REASON} characters",
            )


def _waived(stack: Stack) -> Iterator[Finding]:
    waivable = {finding.subject for rule in _OWN if rule.is_open for finding in rule.find(stack)}
    for subject, reason in stack.accepted.items():
        if subject in waivable:
            yield Finding(subject=subject, what=f"{subject} is waived: {reason}")
        else:
            yield Finding(
                subject=subject,
                what=f"{ACCEPT} names {subject}, but it waives nothing",
                fix="remove it",
            )


RULES = (
    *_OWN,
    Rule(
        name="reasons",
        description="A waived finding has a reason that a reviewer can judge.",
        find=_reasons,
    ),
    Rule(
        name="let-through",
        description="These findings are waived at nordmesh-policy:accept.",
        find=_waived,
        is_mandatory=False,
    ),
)
