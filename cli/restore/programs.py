"""The scripts that `pulumi up` runs on control planes, with the settings of the stack file.

A preview has them, also where nothing would change.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.pulumi_cli import run
from cli.review.preview import Preview, UnreadableError, parse
from components import node_labels
from components.backup import FILE as BACKUP
from components.encryption_keys import RETIRE, USE
from components.remote.copies import Copies
from components.remote.node_command import Script, file, settings, time_limit
from components.remote.nodes_ssh import DIAL_SECONDS, Answer, Login, NoSession, Sessions
from config.errors import NordmeshError

PREPARE, MEMBER = "node-prepare.sh", "kubeadm-init.sh"
LATER = (USE, RETIRE, node_labels.FILE, BACKUP)
"""The scripts that run once all machines are members, each on every one before the next begins.

Others of a control plane work on what the snapshot has already.
"""
_UPLOAD_SECONDS = 3600
_ERRORS = 3  # of a failed preview that are shown


@dataclass(frozen=True, kw_only=True)
class Program:
    """A script on a control plane. inputs: those of its resource, with the commands."""

    name: str
    file: str
    inputs: Mapping[str, Any] = field(repr=False)

    @property
    def seconds(self) -> int:
        """The time limit of the command, and ten seconds to clean up."""
        return (time_limit(str(self.inputs["create"])) or 0) + DIAL_SECONDS


@dataclass(frozen=True)
class Programs:
    """The scripts on the control planes, by the name of the node that runs them."""

    by_node: Mapping[str, list[Program]]

    @classmethod
    def of(cls, stack: str, nodes: list[str]) -> "Programs":
        """Read them from a preview; raises NordmeshError if it fails."""
        preview = _preview(stack)
        by_node: dict[str, list[Program]] = {node: [] for node in nodes}
        for program in _programs(preview):
            node = settings(str(program.inputs["create"])).get("NODE_NAME", "")
            if node in by_node:
                by_node[node].append(program)
        return cls(by_node)

    def one(self, node: str, file: str) -> Program:
        """The only script of this name on a node."""
        (program,) = self.all(node, file)
        return program

    def all(self, node: str, file: str) -> list[Program]:
        """The scripts of this name on a node."""
        return [one for one in self.by_node[node] if one.file == file]


def _programs(preview: Preview) -> Iterator[Program]:
    for step in preview.steps:
        command = str(step.new.get("create"))
        if step.op != "delete" and (name := file(command)):
            yield Program(name=step.name, file=name, inputs=step.new)


def _preview(stack: str) -> Preview:
    result = run("preview", "--json", "--show-sames", stack=stack, streaming=True)
    try:
        preview = parse(result.stdout, stack=stack)
    except UnreadableError as error:
        raise _failed(stack, result.stderr.strip() or str(error)) from None
    if result.returncode:
        errors = "\n".join(message.text for message in preview.errors[:_ERRORS])
        raise _failed(stack, errors or result.stderr.strip())
    return preview


def _failed(stack: str, details: str) -> NordmeshError:
    return NordmeshError(
        "`pulumi preview` failed",
        code="restore-no-preview",
        path=stack,
        why="a restore takes the settings of the control planes from it; nothing was changed",
        fix="fix the error below. A reinstalled machine has a new host key: set it as hostKey, "
        "with hostKeyRotation",
        details=details,
    )


async def execute(
    login: Login, program: Program, *, phase: str = "create", stdin: str = ""
) -> None:
    """Run a command of a script's resource on its machine; raises NordmeshError if it fails.

    Its standard output is dropped: that of kubeadm-init.sh is a secret.
    """
    command = str(program.inputs[phase])
    # Its own error follows if a script is missing.
    await Copies().ensure_on(login, {phase: command})
    await _run(login, program.name, command, stdin=stdin, seconds=program.seconds, as_root=False)


async def execute_own(
    login: Login, script: Script, what: str, *, upload: Path | None = None, to: str = ""
) -> None:
    """Run a script of the restore itself, after the upload of a file; raises NordmeshError."""
    if upload is not None:
        receive = f"umask 077 && mkdir -p {Path(to).parent} && cat >{to}"
        await _run(
            login, what, f"bash -c {shlex.quote(receive)}", stdin=upload, seconds=_UPLOAD_SECONDS
        )
    await _run(login, what, "bash -s", stdin=script.text, seconds=script.seconds())


async def _run(
    login: Login,
    what: str,
    command: str,
    *,
    stdin: str | Path,
    seconds: int,
    as_root: bool = True,
) -> None:
    try:
        async with Sessions() as sessions:
            session = await sessions.open(login)
            answer = await session.run(command, stdin=stdin, seconds=seconds, as_root=as_root)
    except NoSession as error:
        answer = Answer(text="", problem=str(error))
    if answer.problem is not None:
        # Never the result on stdout: that of kubeadm-init.sh is a secret.
        raise _failed_step(what, answer.errors.strip() or answer.problem)


def _failed_step(what: str, output: str) -> NordmeshError:
    """The error for a step of a restore; output: what it printed."""
    return NordmeshError(
        f"{what} failed",
        code="restore-step-failed",
        why="the cluster is not restored yet",
        fix="fix the error below, and run the same command again: it continues from there",
        details=output.strip(),
    )
