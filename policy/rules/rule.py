"""A rule of the policy pack, and its findings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from config.keys import POLICY_NAMESPACE
from policy.stack import Stack

ACCEPT = f"{POLICY_NAMESPACE}:accept"
"""The key of the reasons in a stack file, by subject."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A violation of a rule: what is wrong, why it matters, how to fix it.

    subject: the key of a reason at ACCEPT. urn: the resource, None for the whole stack.
    """

    subject: str
    what: str
    why: str = ""
    fix: str = ""
    urn: str | None = None

    @property
    def text(self) -> str:
        """The finding in a line, as Pulumi shows it after the rule's name."""
        labelled = (("why", self.why), ("fix", self.fix))
        return "; ".join([self.what, *(f"{label}: {text}" for label, text in labelled if text)])


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of the pack. name: a code that never changes.

    is_mandatory: whether it fails a preview; otherwise it warns. is_open: whether a reason in the
    stack file waives its findings.
    """

    name: str
    description: str
    find: Callable[[Stack], Iterator[Finding]]
    is_mandatory: bool = True
    is_open: bool = False

    def violations(self, stack: Stack) -> list[Finding]:
        """The findings that no reason waives, without duplicates, in a stable order."""
        findings = {(finding.subject, finding.text): finding for finding in self.find(stack)}
        return [
            findings[key]
            for key in sorted(findings)
            if not (self.is_open and findings[key].subject in stack.accepted)
        ]
