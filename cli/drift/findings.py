"""What was found, and the report of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import indent

from cli.review.markdown import block, code, counted, plain

NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as expected. place: the node or the object.

    what, expected, found, remedy: Markdown; the last is a sentence that says what to do.
    """

    place: str
    what: str
    expected: str
    found: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """What could not be found out, and why."""

    place: str
    why: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """A part of the report. looked_at: what it is about, in words. notes: Markdown, not counted."""

    title: str
    looked_at: str
    differences: Sequence[Difference] = ()
    unknown: Sequence[Unknown] = ()
    notes: Sequence[str] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was found of one stack."""

    stack: str
    groups: Sequence[Group]

    @property
    def status(self) -> int:
        """1 if anything differs, else 3 if a check was inconclusive, else 0."""
        if any(group.differences for group in self.groups):
            return 1
        return 3 if any(group.unknown for group in self.groups) else 0

    def render(self) -> str:
        """Markdown, of which the last line says the result."""
        lines = [f"## Drift of {code(self.stack)}"]
        for group in self.groups:
            lines += ["", f"### {group.title}", "", *_group(group)]
        return "\n".join([*lines, "", f"**{self._result()}**", ""])

    def _result(self) -> str:
        differences = sum(len(group.differences) for group in self.groups)
        unknown = sum(len(group.unknown) for group in self.groups)
        words = counted(differences, "difference") if differences else "Nothing differs"
        if unknown:
            words = words if differences else "Nothing is seen to differ"
            words += f", but {counted(unknown, 'thing')} could not be found out"
        return f"{words}."


def _group(group: Group) -> Iterator[str]:
    if not group.differences and not group.unknown:
        yield f"Nothing differs: {group.looked_at}."
    for difference in group.differences:
        yield f"- {code(difference.place)}: {difference.what}"
        yield f"  - expected: {difference.expected}"
        yield f"  - found: {difference.found}"
        yield f"  - {difference.remedy}"
    for unknown in group.unknown:
        yield f"- {code(unknown.place)}: **could not be found out**{_why(unknown.why)}"
        yield f"  - {unknown.remedy}"
    yield from (f"- note: {note}" for note in group.notes)


def _why(text: str) -> str:
    lines = text.strip().splitlines()
    return f": {plain(text)}" if len(lines) < 2 else f":\n\n{indent(block(text.strip()), '  ')}\n"
