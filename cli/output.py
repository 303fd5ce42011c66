"""Print tables, Markdown and JSON; plain text if the output is not a terminal."""

import json
import re
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markdown import Markdown
from rich.syntax import Syntax
from rich.text import Text

from components.tables import WIDE, table


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
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    console.print(table(rows, columns))
