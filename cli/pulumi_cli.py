"""Run the pulumi command, and find the project and the stack to work on."""

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cli.programs import captured
from components.api_servers import first_ready
from components.manifests import kubeadm
from config import stack_file
from config.errors import NordmeshError

_LAB_BACKEND = "NORDMESH_LAB_BACKEND"
"""Set by the lab's environment (.lab/env): the backend that holds the lab's stacks alone."""


class PulumiError(NordmeshError):
    """pulumi is missing or failed, so that nordmesh knows nothing about the stack."""


def project() -> Path:
    """The directory of the Pulumi project: the current one or its nearest parent with one."""
    current = Path.cwd()
    above = (folder for folder in current.parents if (folder / "Pulumi.yaml").is_file())
    return current if (current / "Pulumi.yaml").is_file() else next(above, current)


def selected_stack() -> str:
    """The stack of PULUMI_STACK or `pulumi stack select`; raises NordmeshError without one."""
    if stack := os.environ.get("PULUMI_STACK"):
        return stack
    fix = "pass --stack, for example --stack prod, or run `pulumi stack select prod`"
    try:
        result = _pulumi("stack", "--show-name")
    except PulumiError as error:
        raise NordmeshError(
            f"no stack is selected: {error.what}", code="no-stack", fix=fix
        ) from None
    if result.returncode:
        reason = result.stderr.strip().removeprefix("error: ")
        raise NordmeshError(f"no stack is selected: {reason}", code="no-stack", fix=fix)
    return result.stdout.strip()


def run(*arguments: str, stack: str, streaming: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run pulumi on a stack of the project.

    streaming: a preview as JSON prints its events, one per line; only these contain what a refresh
    read and what a policy pack reported. Raises PulumiError if there is no pulumi.
    """
    refuse_lab_backend(stack)
    return _pulumi(*arguments, "--stack", stack, streaming=streaming)


def output(*arguments: str, stack: str) -> str:
    """Return what pulumi printed; raises PulumiError if it failed."""
    result = run(*arguments, stack=stack)
    if result.returncode:
        command = f"pulumi {' '.join(arguments)}"
        reason = result.stderr.strip() or f"exit status {result.returncode}"
        raise PulumiError(f"`{command}` failed with: {reason}", code="pulumi-failed", path=stack)
    return result.stdout


def kubeconfig(stack: str) -> str:
    """Return the administrator's kubeconfig in the stack's outputs; raises NordmeshError.

    The output has the address of a control plane that answered at the last update; this one has the
    address of one that answers now.
    """
    outputs = json.loads(output("stack", "output", "--json", "--show-secrets", stack=stack))
    if not (text := outputs.get("kubeconfig")):
        raise NordmeshError(
            "the stack has no cluster yet", code="no-cluster", path=stack, fix="run `pulumi up`"
        )
    nodes = outputs.get("nodes", {}).values()
    planes = [node["address"] for node in nodes if node["role"] == "control-plane"]
    return str(text) if len(planes) < 2 else _reachable(str(text), planes)


def _reachable(text: str, planes: Sequence[str]) -> str:
    """A kubeconfig with the address of a control plane that answers, unless it has another name."""
    if kubeadm.address_in(text) not in planes:
        return text
    return kubeadm.with_address(text, asyncio.run(first_ready(planes)))


def refuse_lab_backend(stack: str) -> None:
    """Refuse to use the lab's backend for another stack; raises NordmeshError."""
    backend = os.environ.get(_LAB_BACKEND)
    if backend and backend == os.environ.get("PULUMI_BACKEND_URL") and not _is_lab(stack):
        raise NordmeshError(
            "this shell uses the lab's backend and passphrase, which are only for the lab",
            code="lab-backend",
            path=stack,
            why="another stack's state and secrets must never depend on a backend that the lab "
            "deletes",
            fix="run the command in a shell in which you did not source .lab/env",
        )


def _is_lab(stack: str) -> bool:
    try:
        return stack_file.read(project(), stack).is_lab
    except NordmeshError:
        return False  # the command that reads the file reports this


def _pulumi(*arguments: str, streaming: bool = False) -> "subprocess.CompletedProcess[str]":
    events = {"PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true"} if streaming else {}
    try:
        return captured(
            ["pulumi", *arguments, "--non-interactive", "--color=never"],
            cwd=project(),
            environment={**os.environ, **events},
        )
    except FileNotFoundError:
        raise no_pulumi() from None


def no_pulumi() -> PulumiError:
    """The error for a machine without the pulumi command."""
    return PulumiError(
        "there is no pulumi on PATH",
        code="no-pulumi",
        fix="install Pulumi; for a stack of the lab, run `. .lab/env`",
    )
