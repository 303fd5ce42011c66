"""Tables of text, with aligned columns."""

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 1000
"""The width of output that is not for a terminal, wide enough that no line is wrapped."""


def table(rows: Iterable[Sequence[str]], columns: Sequence[str] = ()) -> Table:
    """A table for a console, without lines. columns: their headings, if they have any."""
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.show_header = bool(columns)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Format rows as lines of plain text; none without rows."""
    content, text = table(rows), StringIO()
    if content.row_count:
        Console(file=text, width=WIDE, color_system=None).print(content)
    return [line.rstrip() for line in text.getvalue().splitlines()]
