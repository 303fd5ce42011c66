"""`python -m ci.affected BASE`: the stacks that a change since BASE can change, as a JSON list.

A stack's own file concerns it alone; a change of the program concerns every stack. Stacks of
container nodes are left out: they are labs, on the machine that runs them. In a GitHub workflow
the list is also the step's output `stacks`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]

_PROGRAM = re.compile(
    r"(__main__\.py|Pulumi\.yaml|requirements\.lock)|(components|stacks|policy)/.*"
)
_NOTHING = "0" * 40  # what a forge gives as the commit before a branch's first push


def deployed(project: Path) -> list[str]:
    """The stacks of machines that can be reached from elsewhere, sorted."""
    return sorted(
        path.name.split(".")[1]
        for path in project.glob("Pulumi.*.yaml")
        if not _is_lab(yaml.safe_load(path.read_text()))
    )


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


def _is_lab(document: object) -> bool:
    """Whether a stack has nodes that the program makes on its own machine."""
    config = document.get("config") if isinstance(document, dict) else None
    machines = config.get("nordmesh:machines") if isinstance(config, dict) else None
    nodes = machines.get("nodes") if isinstance(machines, dict) else None
    return isinstance(nodes, dict) and any(
        isinstance(node, dict) and node.get("provider") == "container" for node in nodes.values()
    )


def main(arguments: list[str] | None = None, project: Path = PROJECT) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ci.affected", description=__doc__)
    parser.add_argument("base", nargs="?", help="the commit to compare with; default: all stacks")
    base = parser.parse_args(arguments).base
    if base in (None, "", _NOTHING):
        stacks = deployed(project)
    else:
        stacks = affected(project, changed_since(project, base))
    print(json.dumps(stacks))
    if output := os.environ.get("GITHUB_OUTPUT"):
        with Path(output).open("a") as file:
            file.write(f"stacks={json.dumps(stacks)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
