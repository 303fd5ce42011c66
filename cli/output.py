"""Print tables, Markdown and JSON; plain text if the output is not a terminal."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from io import StringIO

from rich.console import Console
from rich.markdown import Markdown
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

_WIDE = 1000
"""The width of output that is not for a terminal, wide enough that no line is wrapped."""


def print_json(value: object) -> None:
    """Print a value as JSON, for programs."""
    print(json.dumps(value, indent=2, default=str))


def print_markdown(text: str) -> None:
    """Print Markdown: as it is, or formatted on a terminal."""
    if sys.stdout.isatty():
        # A terminal cannot fold: the folded parts of a comment get a heading.
        unfolded = re.sub(r"<details><summary>(.*)</summary>", r"### \1", text)
        Console().print(Markdown(unfolded.replace("</details>", "")))
    else:
        sys.stdout.write(text)


def print_yaml(text: str) -> None:
    """Print YAML: as it is, or with colours on a terminal."""
    if sys.stdout.isatty():
        Console().print(Syntax(text, "yaml", theme="ansi_dark", background_color="default"))
    else:
        sys.stdout.write(text)
    sys.stdout.flush()


def print_error(text: str) -> None:
    """Print an error to standard error, its first word in red on a terminal."""
    line = Text.assemble(("error:", "bold red"), f" {text}")
    Console(stderr=True, soft_wrap=True).print(line)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table with a heading for each column."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)
    console.print(_table(rows, columns))


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Format rows as lines of plain text with aligned columns."""
    text = StringIO()
    Console(file=text, width=_WIDE, color_system=None).print(_table(rows))
    return [line.rstrip() for line in text.getvalue().splitlines()]


def _table(rows: Iterable[Sequence[str]], columns: Sequence[str] = ()) -> Table:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.show_header = bool(columns)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
