"""`nordmesh canary`: advance or abort a canary by its weight in the stack file.

Nothing else in the file changes, not even a comment or a blank line.
"""

import difflib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from cli.options import Stack
from cli.pulumi_cli import no_pulumi, project, refuse_lab_backend
from components.manifests.hosts import split_name
from config import Canary, keys, stack_file, yaml_reader
from config.errors import NAMESPACE, NordmeshError, nearest
from config.sections import Sections


@dataclass(frozen=True, kw_only=True)
class CanaryEntry:
    """A service with a canary in the text of a stack file.

    name: its entry. service: the name of its Service. weight: its begin and end.
    """

    name: str
    namespace: str
    service: str
    stable: str
    canary: Canary
    weight: tuple[int, int]

    def with_weight(self, text: str, weight: int) -> str:
        """Return the text with another weight."""
        begin, end = self.weight
        return f"{text[:begin]}{weight}{text[end:]}"


def find(text: str, name: str) -> CanaryEntry:
    """Find a service's canary in the text of a stack file; raises NordmeshError."""
    config = _below(yaml_reader.compose(text), "config")
    mesh = next((key for key in _keys(config) if keys.full(key) == f"{NAMESPACE}:mesh"), "")
    services = _below(config, mesh, "services")
    known = _keys(services)
    service = _below(services, name)
    if service is None:
        guess = nearest(name, known)
        raise NordmeshError(
            f"there is no service {name} in mesh.services",
            code="unknown-service",
            fix=f"did you mean {guess}?"
            if guess
            else f"name one of these services: {', '.join(known) or 'none'}",
        )
    path = f"{NAMESPACE}:mesh.services.{name}"
    canary, weight = _below(service, "canary"), _below(service, "canary", "weight")
    if canary is None or not isinstance(weight, yaml.ScalarNode):
        raise NordmeshError(
            f"{name} has no canary",
            code="no-canary",
            path=path,
            fix="add canary: {subset: v2, weight: 5, steps: [5, 25, 50, 100]}, and run `pulumi up`",
        )
    values = yaml_reader.value_of(service)
    try:
        parsed = Canary.model_validate(values["canary"], by_alias=True, by_name=False)
    except ValidationError:
        raise NordmeshError(
            f"the canary of {name} has invalid values",
            code="wrong-canary",
            path=f"{path}.canary",
            fix="run `nordmesh explain`, which lists each error, and fix them",
        ) from None
    return CanaryEntry(
        name=name,
        namespace=str(values.get("namespace")),
        service=str(values.get("service") or name),
        stable=str(values.get("stable")),
        canary=parsed,
        weight=(weight.start_mark.index, weight.end_mark.index),
    )


def next_weight(entry: CanaryEntry) -> int:
    """Return the next step; raises NordmeshError, with the fix, when no step is left."""
    canary, name = entry.canary, entry.name
    path = f"{NAMESPACE}:mesh.services.{name}"
    if not canary.steps:
        raise NordmeshError(
            f"the canary of {name} has no steps",
            code="no-canary-steps",
            path=f"{path}.canary",
            fix="add steps: [5, 25, 50, 100], or edit the weight by hand",
        )
    step = canary.next_step
    if step is not None:
        return step
    if canary.weight == 100:
        raise NordmeshError(
            f"{canary.subset} gets all requests of {name} already",
            code="canary-at-100",
            path=path,
            fix=f"to finish the rollout, write stable: {canary.subset} and remove canary; commit, "
            f"and run `pulumi up`. Keep the pods of {entry.stable} until that is done",
        )
    raise NordmeshError(
        f"the weight of {name} is {canary.weight}, and its last step is {canary.steps[-1]}",
        code="no-canary-steps-left",
        path=f"{path}.canary.steps",
        fix=f"add a step, for example 100, or finish the rollout: write stable: {canary.subset} "
        "and remove canary",
    )


def advance(file: Path, name: str) -> None:
    """Write the next step into the stack file, show the change, and say what to do next."""
    text = _read(file)
    entry = find(text, name)
    weight = next_weight(entry)
    _write(file, text, entry.with_weight(text, weight))
    gate = "; its gate measures first" if entry.canary.gate else ""
    print(
        f"\n{name}: {entry.canary.subset} will get {weight}% of the requests. Next:\n"
        f"  git commit -m 'Give {name} {entry.canary.subset} {weight}% of the requests' "
        f"{file.name}\n"
        f"  open a pull request, which shows the preview; after the merge, run `pulumi up`{gate}"
    )


def abort(file: Path, stack: str, name: str) -> None:
    """Write weight 0 into the stack file and apply it now, to the service's route only.

    Only the route, because other edits of the file may not be reviewed, and because a node that is
    down must not block this. A gate never waits when a weight goes down.
    """
    text = _read(file)
    entry = find(text, name)
    refuse_lab_backend(stack)
    pulumi = shutil.which("pulumi")
    if pulumi is None:
        raise no_pulumi()
    if entry.canary.weight:
        _write(file, text, entry.with_weight(text, 0))
    route = f"**:VirtualService::{entry.namespace}/{_split_object(file, entry)}"
    arguments = ["up", "--yes", "--skip-preview", "--stack", stack, "--target", route]
    print(f"\npulumi {' '.join(arguments)}", flush=True)
    if subprocess.run([pulumi, *arguments], cwd=file.parent, check=False).returncode:
        raise NordmeshError(
            f"the weight in {file.name} is 0, but `pulumi up` failed",
            code="abort-not-applied",
            path=f"{NAMESPACE}:mesh.services.{name}.canary.weight",
            why=f"the mesh may still send requests to {entry.canary.subset}",
            fix="fix the error that pulumi printed above, and run the same command again",
        )
    print(
        f"\n{name}: {entry.canary.subset} gets no requests any more. Commit {file.name}; otherwise "
        "the next `pulumi up` from git restores its weight."
    )


def _split_object(file: Path, entry: CanaryEntry) -> str:
    """The name of the VirtualService that has a service's split."""
    mesh = Sections(stack_file.parse(file, _read(file)).values, file.parent).mesh
    is_by_path = mesh is not None and entry.name in mesh.by_path
    return split_name(entry.service) if is_by_path else entry.service


app = typer.Typer(no_args_is_help=True)
Service = Annotated[str, typer.Argument(help="The service's name in mesh.services.")]


@app.command("advance", epilog="Example: nordmesh canary advance checkout --stack prod")
def advance_command(service: Service, stack: Stack = "") -> None:
    """Write the next of canary.steps into the stack file, for a commit."""
    advance(_file(stack), service)


@app.command("abort", epilog="Example: nordmesh canary abort checkout --stack prod")
def abort_command(service: Service, stack: Stack = "") -> None:
    """Write weight 0 into the stack file and apply it now."""
    abort(_file(stack), stack, service)


def _file(stack: str) -> Path:
    return stack_file.read(project(), stack).path


def _read(file: Path) -> str:
    return file.read_bytes().decode()


def _write(file: Path, before: str, after: str) -> None:
    file.write_bytes(after.encode())
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    sys.stdout.writelines(difflib.unified_diff(old, new, file.name, file.name, n=2))


def _below(node: Any, *keys: str) -> Any:
    """Return the node below keys, or None."""
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((value for name, value in pairs if name.value == key), None)
    return node


def _keys(node: Any) -> list[str]:
    return [str(k.value) for k, _ in node.value] if isinstance(node, yaml.MappingNode) else []
