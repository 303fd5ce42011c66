"""`nordmesh schema`: write what is generated from the models of the stack file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from config import changes_page, schema
from config.errors import NordmeshError


def command(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a file is out of date.")
    ] = False,
) -> None:
    """Write the JSON Schema of stack files, and the page of what each edit changes."""
    outdated = {
        file: text
        for file, text in _generated().items()
        if not file.exists() or file.read_text() != text
    }
    if check and outdated:
        names = ", ".join(map(_shown, outdated))
        raise NordmeshError(
            f"out of date: {names}",
            code="schema-outdated",
            path=_shown(next(iter(outdated))),
            fix="run `nordmesh schema`, review the change and commit it",
        )
    for file, text in outdated.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        print(f"wrote {_shown(file)}; review the change")


def _generated() -> Mapping[Path, str]:
    return {schema.PATH: schema.text(), changes_page.PATH: changes_page.page()}


def _shown(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"
