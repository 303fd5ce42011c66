"""Options that several commands share."""

from typing import Annotated

import typer

from cli.pulumi_cli import project, selected_stack
from config import stack_file

_STACK_HELP = "The stack's name, as in Pulumi.<stack>.yaml. Default: the stack selected in Pulumi."


def _resolved(context: typer.Context, stack: str | None) -> str | None:
    """Return the stack to work on; the default is the one selected in Pulumi."""
    return stack if stack or context.resilient_parsing else selected_stack()


def _known_stacks() -> list[str]:
    return stack_file.names(project())


Stack = Annotated[
    str,
    typer.Option(
        "--stack",
        "-s",
        show_default=False,
        callback=_resolved,
        autocompletion=_known_stacks,
        help=_STACK_HELP,
    ),
]
OptionalStack = Annotated[
    str | None,
    typer.Option(
        "--stack",
        "-s",
        show_default=False,
        autocompletion=_known_stacks,
        help=_STACK_HELP,
    ),
]
"""The stack of a command for which it is optional."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Timeout = Annotated[
    int, typer.Option(min=1, metavar="SECONDS", help="How long to wait for a node.")
]
