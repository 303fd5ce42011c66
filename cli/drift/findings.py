"""The findings of a comparison, and their report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import indent

from cli.review.markdown import block, code, counted, plain

NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference from the expected state. subject: the node or the object.

    what, expected, actual, fix: Markdown; the last is a sentence in the imperative.
    """

    subject: str
    what: str
    expected: str
    actual: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Inconclusive:
    """A check without a result, and why."""

    subject: str
    why: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """A section of the report. checked: what was compared. notes: Markdown, not counted."""

    title: str
    checked: str
    differences: Sequence[Difference] = ()
    inconclusive: Sequence[Inconclusive] = ()
    notes: Sequence[str] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings of one stack."""

    stack: str
    groups: Sequence[Group]

    @property
    def status(self) -> int:
        """1 if anything differs, else 3 if a check was inconclusive, else 0."""
        if any(group.differences for group in self.groups):
            return 1
        return 3 if any(group.inconclusive for group in self.groups) else 0

    def render(self) -> str:
        """Render the report in Markdown; its last line is the result."""
        lines = [f"## Drift of {code(self.stack)}"]
        for group in self.groups:
            lines += ["", f"### {group.title}", "", *_group(group)]
        return "\n".join([*lines, "", f"**{self._result()}**", ""])

    def _result(self) -> str:
        differences = sum(len(group.differences) for group in self.groups)
        inconclusive = sum(len(group.inconclusive) for group in self.groups)
        result = counted(differences, "difference") if differences else "No drift found"
        if inconclusive:
            verb = "was" if inconclusive == 1 else "were"
            result += f"; {counted(inconclusive, 'check')} {verb} inconclusive"
        return f"{result}."


def _group(group: Group) -> Iterator[str]:
    if not group.differences and not group.inconclusive:
        yield f"No drift: {group.checked}."
    for difference in group.differences:
        yield f"- {code(difference.subject)}: {difference.what}"
        yield f"  - expected: {difference.expected}"
        yield f"  - found: {difference.actual}"
        yield f"  - {difference.fix}"
    for check in group.inconclusive:
        yield f"- {code(check.subject)}: **inconclusive**{_why(check.why)}"
        yield f"  - {check.fix}"
    yield from (f"- note: {note}" for note in group.notes)


def _why(text: str) -> str:
    lines = text.strip().splitlines()
    return f": {plain(text)}" if len(lines) < 2 else f":\n\n{indent(block(text.strip()), '  ')}\n"
