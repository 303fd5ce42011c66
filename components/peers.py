"""Ask the control planes of the stack file over SSH."""

from collections.abc import Mapping
from dataclasses import dataclass

from components.handover import ERROR
from components.remote.node_command import Script
from components.remote.nodes_ssh import Answer, Login, Sessions
from components.remote.script import Connection


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A control plane of the stack file. address: for the other nodes."""

    address: str
    connection: Connection


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A control plane that can be asked over SSH."""

    address: str
    login: Login


async def ask(
    sessions: Sessions, name: str, asked: Asked, file: str, endpoint: str, seconds: int
) -> Answer:
    """Run a script that changes nothing on the machine. name: of its node."""
    script = Script(file=file, node=name, settings={"ENDPOINT": endpoint})
    return await sessions.run(asked.login, "bash -s", stdin=script.text, seconds=seconds)


def problem(problems: Mapping[str, str]) -> str:
    """The line to hand over instead of an answer. problems: by node."""
    text = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    return ERROR + " ".join(text.split())
