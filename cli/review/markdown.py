"""Markdown for a comment: tables, lists and folded parts, cut to a limit with a count.

Every text from outside nordmesh goes through plain, code or block, which mask the secrets in it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from components.engine_values import SECRET
from config.secret_values import masked

LIMIT = 64_000
"""In characters: GitHub accepts 65,536 in a comment, and the workflow adds a line."""

_CELL = 400
_CODE = 6_000
_RESERVE = 120  # of a part: for the line that says what was cut, and for its end
_LEAST = 400  # of a part: with less there is hardly room for a row


@dataclass(frozen=True, kw_only=True)
class Part:
    """A titled part. head: lines that stay; rows: what may be cut, a line or more each.

    folded: hidden behind its title until a reader opens it.
    """

    title: str
    head: Sequence[str] = ()
    rows: Sequence[str] = ()
    folded: bool = False

    def render(self, budget: int) -> str:
        """The part in at most about budget characters, with how many rows were cut."""
        lines = [*self._opening(), *self.head]
        left = budget - sum(len(line) + 1 for line in lines) - _RESERVE
        shown = 0
        for row in self.rows:
            left -= len(row) + 1
            if left < 0:
                break
            lines.append(row)
            shown += 1
        if cut := len(self.rows) - shown:
            lines += ["", f"*{cut:,} more {'row' if cut == 1 else 'rows'} cut here, for length.*"]
        return "\n".join([*lines, *(["", "</details>"] if self.folded else [])])

    def __len__(self) -> int:
        return len(self.render(10**9)) + _RESERVE + 1

    def _opening(self) -> list[str]:
        if self.folded:
            return [f"<details><summary>{self.title}</summary>", ""]
        return [f"### {self.title}", ""]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A comment. lead: what is never cut. parts: in the order in which they are read."""

    title: str
    lead: Sequence[str] = field(default=())
    parts: Sequence[Part] = ()

    def render(self, limit: int = LIMIT) -> str:
        """The whole text, never over the limit.

        Where it does not fit, what is folded is cut first; then the long parts, to one length.
        """
        top = "\n".join([f"## {self.title}", "", *self.lead]).rstrip()[: limit // 2]
        left = limit - len(top) - 2 * len(self.parts) - _RESERVE * 2
        folded = [part for part in self.parts if part.folded]
        kept = [min(len(part), _LEAST) for part in folded]
        shown = _shares([len(part) for part in self.parts if not part.folded], left - sum(kept))
        hidden = _shares([len(part) for part in folded], left - sum(shown))
        texts, dropped = [top], []
        for part in self.parts:
            budget = (hidden if part.folded else shown).pop(0)
            if budget >= min(len(part), _LEAST):
                texts.append(part.render(budget))
            else:  # there would be a title without a row
                dropped.append(part.title)
        if dropped:
            texts.append(f"*Cut for length: {listed(dropped)}*"[: _RESERVE * 2])
        return "\n\n".join(texts) + "\n"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Part:
    """A part with a table; cells are Markdown already, and stay on one line."""
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return Part(title=title, head=head, rows=[f"| {' | '.join(map(_cell, row))} |" for row in rows])


def plain(text: object) -> str:
    """A text of a user's or a provider's that Markdown shows as it is, on one line."""
    short = _one_line(text)
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", short)
    return (
        escaped.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("@", "&#64;")
    )


def code(text: object) -> str:
    """A name or a value as code, on one line."""
    short = _one_line(text).replace("`", "'")
    return f"`{short}`" if short else ""


def block(text: str) -> str:
    """Lines as they are, in a fence that they cannot end."""
    text = masked(text, SECRET)
    if len(text) > _CODE:
        cut = len(text) - _CODE
        text = f"{text[: _CODE // 2]}\n... {cut:,} characters cut ...\n{text[-_CODE // 2 :]}"
    runs = [len(run) for run in re.findall(r"`{3,}", text)]
    fence = "`" * max([3, *(length + 1 for length in runs)])
    return f"{fence}\n{text}\n{fence}"


def listed(words: Iterable[str]) -> str:
    """Words as a list in a sentence; `nobody` is the caller's to say."""
    *most, last = list(words) or [""]
    return f"{', '.join(most)} and {last}" if most else last


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """1 node, 2 nodes."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text) or "-"


def _one_line(text: object) -> str:
    line = " ".join(masked(str(text), SECRET).split())
    return line if len(line) <= _CELL else f"{line[: _CELL - 3]}..."


def _shares(wanted: list[int], total: int) -> list[int]:
    """What each gets of a total: all that it wants if that is little, else an equal share."""
    shares = [0] * len(wanted)
    for done, index in enumerate(sorted(range(len(wanted)), key=lambda index: wanted[index])):
        shares[index] = min(wanted[index], max(total, 0) // (len(wanted) - done))
        total -= shares[index]
    return shares
