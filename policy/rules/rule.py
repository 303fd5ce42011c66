"""What a rule is, and what it finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from policy.stack import Stack


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a rule objects to.

    subject: what `nordmesh-policy:accept` has to name with a reason to let it through. urn: the
    resource, None for the whole stack.
    """

    subject: str
    text: str
    urn: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of the pack. is_mandatory: it fails a preview; else it warns.

    is_open: a reason in the stack file lets its findings through, as warnings.
    """

    name: str
    description: str
    find: Callable[[Stack], Iterator[Finding]]
    is_mandatory: bool = True
    is_open: bool = False

    def violations(self, stack: Stack) -> list[Finding]:
        """What it finds and nobody gave a reason for, each once, in a stable order."""
        found = {(finding.subject, finding.text): finding for finding in self.find(stack)}
        return [
            found[key]
            for key in sorted(found)
            if not (self.is_open and found[key].subject in stack.accepted)
        ]
