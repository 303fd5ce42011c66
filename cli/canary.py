"""The steps of a canary: `python -m cli.canary advance|abort SERVICE`, through make.

A weight lives in one place, the stack file. `advance` writes the next of canary.steps there, for a
commit; `abort` writes 0 and applies that at once. Nothing else in the file changes, not even a
comment or a blank line.
"""

import argparse
import difflib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from config import Canary
from config.errors import NAMESPACE, nearest

_PROJECT = Path(__file__).resolve().parent.parent


class Refusal(Exception):
    """Why a command does nothing, with what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A service with a canary in the text of a stack file. weight: from where to where it is."""

    name: str
    namespace: str
    stable: str
    canary: Canary
    weight: tuple[int, int]

    def written(self, text: str, weight: int) -> str:
        """The text with another weight."""
        begin, end = self.weight
        return f"{text[:begin]}{weight}{text[end:]}"


def find(text: str, name: str) -> Place:
    """The place of a service's canary in the text of a stack file; raises Refusal."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise Refusal(f"the stack file is not YAML: {error}") from None
    services = _below(root, "config", f"{NAMESPACE}:mesh", "services")
    known = _keys(services)
    service = _below(services, name)
    if service is None:
        guess = nearest(name, known)
        hint = f"did you mean {guess}?" if guess else f"there are {', '.join(known) or 'none'}"
        raise Refusal(f"there is no service {name} in mesh.services: {hint}")
    canary, weight = _below(service, "canary"), _below(service, "canary", "weight")
    if canary is None or not isinstance(weight, yaml.ScalarNode):
        raise Refusal(
            f"{name} has no canary: write canary: {{subset: v2, weight: 5, steps: [5, 25, 50, "
            "100]}} at "
            f"mesh.services.{name}, and run `pulumi up`"
        )
    values = yaml.safe_load(yaml.serialize(service))
    try:
        parsed = Canary.model_validate(values["canary"], by_alias=True, by_name=False)
    except ValidationError:
        raise Refusal(
            f"the canary of {name} has wrong values: `pulumi preview` says which and why"
        ) from None
    return Place(
        name=name,
        namespace=str(values.get("namespace")),
        stable=str(values.get("stable")),
        canary=parsed,
        weight=(weight.start_mark.index, weight.end_mark.index),
    )


def next_weight(place: Place) -> int:
    """The next step; raises Refusal, saying what follows, when there is none."""
    canary, name = place.canary, place.name
    if not canary.steps:
        raise Refusal(
            f"{name} has no steps: write steps: [5, 25, 50, 100] at mesh.services.{name}.canary, "
            "or edit the weight by hand"
        )
    step = canary.next_step
    if step is not None:
        return step
    if canary.weight == 100:
        raise Refusal(
            f"{canary.subset} has all requests of {name} already. To finish, make it the stable "
            f"version: at mesh.services.{name} write stable: {canary.subset} and remove canary; "
            f"then commit, and run `pulumi up`. Keep the pods of {place.stable} until that is done"
        )
    raise Refusal(
        f"the weight of {name} is {canary.weight}, and its last step is {canary.steps[-1]}: add a "
        f"step, such as 100, or finish with stable: {canary.subset} and without canary"
    )


def advance(file: Path, name: str) -> None:
    """Write the next step into the stack file, show it, and say what comes next."""
    text = _read(file)
    place = find(text, name)
    weight = next_weight(place)
    _write(file, text, place.written(text, weight))
    gate = "; its gate measures first" if place.canary.gate else ""
    print(
        f"\n{name}: {place.canary.subset} is to get {weight}% of the requests. Next:\n"
        f"  git commit -m 'Give {name} {place.canary.subset} {weight}% of the requests' "
        f"{file.name}\n"
        f"  a pull request with `pulumi preview`, and `pulumi up` when it is merged{gate}"
    )


def abort(file: Path, stack: str, name: str) -> None:
    """Write weight 0 into the stack file and apply that to the service's route alone, now.

    Alone, because other edits of the file may not be reviewed, and a node that does not answer
    must not hold this up. A gate never waits when a weight goes down.
    """
    text = _read(file)
    place = find(text, name)
    pulumi = shutil.which("pulumi")
    if pulumi is None:
        raise Refusal("there is no pulumi on PATH; install Pulumi, or, for a lab, run `. .lab/env`")
    if place.canary.weight:
        _write(file, text, place.written(text, 0))
    route = f"**:VirtualService::{place.namespace}/{name}"
    arguments = ["up", "--yes", "--skip-preview", "--stack", stack, "--target", route]
    print(f"\npulumi {' '.join(arguments)}", flush=True)
    if subprocess.run([pulumi, *arguments], cwd=file.parent, check=False).returncode:
        raise Refusal(
            f"the weight in {file.name} is 0, but it could not be applied; what is wrong is said "
            "above. Run the same command again"
        )
    print(
        f"\n{name}: {place.canary.subset} gets no requests any more. Commit {file.name}, so that "
        "the next `pulumi up` from git does not bring them back."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 1 when it was refused."""
    parser = argparse.ArgumentParser(prog="python -m cli.canary", description=__doc__)
    parser.add_argument("--stack", default="local", help="the stack's name (default: local)")
    parser.add_argument("--project", type=Path, default=_PROJECT, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("advance", "write the next of canary.steps into the stack file, for a commit"),
        ("abort", "write weight 0 into the stack file and apply it now"),
    ):
        commands.add_parser(command, help=text).add_argument(
            "service", help="the service's name in mesh.services"
        )
    chosen = parser.parse_args(arguments)
    file = chosen.project / f"Pulumi.{chosen.stack}.yaml"
    try:
        if chosen.command == "advance":
            advance(file, chosen.service)
        else:
            abort(file, chosen.stack, chosen.service)
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 1
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except FileNotFoundError:
        raise Refusal(f"there is no {file.name} here: name the stack, STACK=prod") from None


def _write(file: Path, before: str, after: str) -> None:
    file.write_bytes(after.encode())
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    sys.stdout.writelines(difflib.unified_diff(old, new, file.name, file.name, n=2))


def _below(node: Any, *keys: str) -> Any:
    """The node below keys; None if there is none."""
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((value for name, value in pairs if name.value == key), None)
    return node


def _keys(node: Any) -> list[str]:
    return [str(k.value) for k, _ in node.value] if isinstance(node, yaml.MappingNode) else []


if __name__ == "__main__":
    sys.exit(main())
