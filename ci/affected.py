"""`python -m ci.affected BASE`: the stacks that a change since BASE can change, as a JSON list.

A stack's own file concerns it alone; a change of the program concerns every stack. Two kinds of
stacks are left out: labs (stacks of container nodes, on the machine that runs them) and examples
(stack files with `nordmesh-ci:example: true`). In a GitHub workflow the list is also the step's
output `stacks`.

`python -m ci.affected --kind STACK` prints the kind of one stack: deployed, example or lab.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from config import EXAMPLE, stack_file

PROJECT = Path(__file__).resolve().parents[1]

_PROGRAM = re.compile(
    r"(__main__\.py|Pulumi\.yaml|requirements\.lock)|(components|config|stacks|policy)/.*"
)
_NOTHING = "0" * 40  # what a forge gives as the commit before a branch's first push


def kinds(project: Path) -> dict[str, str]:
    """The kind of each stack of a project: deployed, example or lab; sorted by name."""
    return {stack: stack_file.read(project, stack).kind for stack in stack_file.names(project)}


def deployed(project: Path) -> list[str]:
    """The stacks that pipelines preview and deploy, sorted."""
    return [stack for stack, kind in kinds(project).items() if kind == "deployed"]


def affected(project: Path, changed: Iterable[str]) -> list[str]:
    """The deployed stacks that changed files (relative to the project) concern."""
    files = set(changed)
    concerns_all = any(_PROGRAM.fullmatch(file) for file in files)
    return [s for s in deployed(project) if concerns_all or f"Pulumi.{s}.yaml" in files]


def changed_since(project: Path, base: str) -> list[str]:
    """The files that differ between the work tree's commit and where it left BASE."""
    command = ["git", "diff", "--name-only", "-z", f"{base}...HEAD"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(
            f"git cannot compare with {base}: {result.stderr.strip()}\n"
            "fetch the whole history (fetch-depth: 0, GIT_DEPTH: 0)"
        )
    return [name for name in result.stdout.split("\0") if name]


def _print_kind(stack: str, project: Path) -> int:
    found = kinds(project)
    if stack not in found:
        print(f"there is no Pulumi.{stack}.yaml; stacks: {', '.join(found)}", file=sys.stderr)
        return 1
    print(found[stack])
    return 0


def main(arguments: list[str] | None = None, project: Path = PROJECT) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ci.affected", description=__doc__)
    parser.add_argument("base", nargs="?", help="the commit to compare with; default: all stacks")
    parser.add_argument("--kind", metavar="STACK", help="print the kind of this stack instead")
    options = parser.parse_args(arguments)
    if options.kind is not None:
        return _print_kind(options.kind, project)
    base = options.base
    if base in (None, "", _NOTHING):
        stacks = deployed(project)
    else:
        stacks = affected(project, changed_since(project, base))
    for stack, kind in kinds(project).items():
        if kind == "example":
            print(
                f"Pulumi.{stack}.yaml is an example and is left out; remove {EXAMPLE} to deploy it",
                file=sys.stderr,
            )
    print(json.dumps(stacks))
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a") as file:
            file.write(f"stacks={json.dumps(stacks)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
