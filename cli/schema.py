"""`nordmesh schema`: write the JSON Schema of stack files."""

from typing import Annotated

import typer

from config import schema
from config.errors import NordmeshError


def command(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the file is out of date.")
    ] = False,
) -> None:
    """Write the JSON Schema of stack files, generated from the models."""
    file = schema.PATH
    if file.exists() and file.read_text() == schema.text():
        return
    if check:
        raise NordmeshError(
            "the schema is out of date",
            code="schema-outdated",
            path=f"schema/{file.name}",
            fix="run `nordmesh schema`, review the change and commit it",
        )
    schema.write()
    print(f"wrote schema/{file.name}; review the change")
