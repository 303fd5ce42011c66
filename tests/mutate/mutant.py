"""A mutant: one small, realistic change in one file."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A mutant, as an edit of the text of a file.

    `kind` groups similar mutants, `what` describes the edit, and offsets count bytes.
    """

    kind: str
    what: str
    start: int
    end: int
    replacement: bytes

    def apply(self, source: bytes) -> bytes:
        """Return the content of the file after the edit."""
        return source[: self.start] + self.replacement + source[self.end :]

    def line(self, source: bytes) -> int:
        """Return the line of the edit, counted from 1."""
        return source.count(b"\n", 0, self.start) + 1


def shorten(text: bytes) -> str:
    """Return code as one short line for a description."""
    line = " ".join(text.decode().split())
    return line if len(line) <= 50 else f"{line[:47]}..."
