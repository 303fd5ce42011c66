"""`nordmesh ci affected` and `nordmesh ci kind`: which stacks a pipeline works on."""

import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from cli.programs import captured
from cli.pulumi_cli import project
from config import EXAMPLE, stack_file
from config.errors import NordmeshError

_PROGRAM = re.compile(
    r"(__main__\.py|Pulumi\.yaml|requirements\.lock)|(components|config|stacks|policy)/.*"
)
_NOTHING = "0" * 40  # what a forge gives as the commit before a branch's first push


def kinds(project: Path) -> dict[str, str]:
    """The kind of each stack of a project: deployed, example or lab; sorted by name."""
    return {stack: kind(project, stack) for stack in stack_file.names(project)}


def kind(project: Path, stack: str) -> str:
    """The kind of a stack. A file without settings is deployed: Pulumi environments have them."""
    try:
        return stack_file.read(project, stack).kind
    except NordmeshError as error:
        if error.code != "not-a-stack-file":
            raise
        return "deployed"


def deployed(project: Path) -> list[str]:
    """The stacks that pipelines preview and deploy, sorted."""
    return [stack for stack, kind in kinds(project).items() if kind == "deployed"]


def affected(project: Path, changed: Iterable[str]) -> list[str]:
    """The deployed stacks that changed files (relative to the project) affect."""
    files = set(changed)
    affects_all = any(_PROGRAM.fullmatch(file) for file in files)
    return [s for s in deployed(project) if affects_all or f"Pulumi.{s}.yaml" in files]


def changed_since(project: Path, base: str) -> list[str]:
    """The files that changed since HEAD branched off from BASE."""
    result = captured(["git", "diff", "--name-only", "-z", f"{base}...HEAD"], cwd=project)
    if result.returncode:
        raise NordmeshError(
            f"git cannot compare with {base}: {result.stderr.strip()}",
            code="git-failed",
            fix="fetch the whole history (fetch-depth: 0, GIT_DEPTH: 0)",
        )
    return [name for name in result.stdout.split("\0") if name]


def affected_command(
    base: Annotated[
        str, typer.Argument(help="The commit to compare with. Default: print all stacks.")
    ] = "",
) -> None:
    """Print the stacks that a change since BASE can change, as a JSON list.

    A stack's own file affects that stack; a change of the program affects every stack. Skips labs
    (stacks of container nodes) and examples (files with `nordmesh-ci:example: true`). In a GitHub
    workflow, the list is also the step's output `stacks`.
    """
    directory = project()
    if base in ("", _NOTHING):
        stacks = deployed(directory)
    else:
        stacks = affected(directory, changed_since(directory, base))
    for stack, treatment in kinds(directory).items():
        if treatment == "example":
            print(
                f"Pulumi.{stack}.yaml is an example and is skipped; remove {EXAMPLE} to deploy it",
                file=sys.stderr,
            )
    print(json.dumps(stacks))
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a") as file:
            file.write(f"stacks={json.dumps(stacks)}\n")


def kind_command(stack: Annotated[str, typer.Argument(help="The stack's name.")]) -> None:
    """Print the kind of a stack: deployed, example or lab."""
    print(kind(project(), stack))
