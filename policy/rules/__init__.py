"""All rules of the pack, and the one on the reasons for letting something through."""

from collections.abc import Iterator

from config.keys import POLICY_NAMESPACE
from policy.rules import hardening, residency, secrets, supply
from policy.rules.rule import Finding, Rule
from policy.stack import Stack

_OWN = (*residency.RULES, *hardening.RULES, *supply.RULES, *secrets.RULES)
_SHORTEST_REASON = 10


def _found(stack: Stack) -> dict[str, Finding]:
    return {
        finding.subject: finding for rule in _OWN if rule.is_open for finding in rule.find(stack)
    }


def _reasons(stack: Stack) -> Iterator[Finding]:
    for subject, reason in stack.accepted.items():
        if len(reason.strip()) < _SHORTEST_REASON:
            yield Finding(
                subject=subject,
                text=f"{POLICY_NAMESPACE}:accept lets {subject} through without a reason that a "
                f"reader could judge: write a sentence of at least {_SHORTEST_REASON} characters",
            )


def _let_through(stack: Stack) -> Iterator[Finding]:
    found = _found(stack)
    for subject, reason in stack.accepted.items():
        if subject in found:
            yield Finding(subject=subject, text=f"{subject} is let through: {reason}")
        else:
            yield Finding(
                subject=subject,
                text=f"{POLICY_NAMESPACE}:accept names {subject}, which no rule objects to; "
                "take it out",
            )


RULES = (
    *_OWN,
    Rule(
        name="reasons",
        description="What is let through is let through for a reason.",
        find=_reasons,
    ),
    Rule(
        name="let-through",
        description="These were let through by nordmesh-policy:accept.",
        find=_let_through,
        is_mandatory=False,
    ),
)
