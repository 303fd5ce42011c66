"""Copy scripts to the machines that run them, before the first command that names them.

Takes one SSH connection for each machine that a run changes. Deliberately never fails: a command
whose script is missing fails itself, and components.remote.failures explains why.
"""

import asyncio
import functools
import hashlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi

from components.remote.node_command import FOLDER, PHASES, digest, file, path_of, text_of
from components.remote.nodes_ssh import Login, NoSession, Session, Sessions

LIST = f"bash -c 'sha256sum {FOLDER}/*.sh 2>/dev/null || true'"
"""The command that prints the hash and the path of each script on a machine."""

_SECONDS = 60
_KEPT = 20
"""How many versions of a script a machine keeps: the state names an old one until it is updated."""


def install(file: str, sha256: str) -> str:
    """Return the command that writes a script atomically from its standard input.

    It removes what a command before it left, whose connection was cut.
    """
    path = path_of(file, sha256)
    versions = f"{FOLDER}/{file.removesuffix('.sh')}-????????????.sh"
    text = f"""\
set -e
umask 077
mkdir -p {FOLDER}
rm -f {path}.*
trap "rm -f {path}.$$" EXIT
cat >{path}.$$
[ "$(sha256sum <{path}.$$)" = "{sha256}  -" ]
mv -f {path}.$$ {path}
ls -t {versions} | tail -n +{_KEPT + 1} | xargs -r rm -f"""
    return f"bash -c {shlex.quote(text)}"


@dataclass
class _Machine:
    """present: the hashes of the scripts that are known to be on the machine."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    present: set[str] = field(default_factory=set)


class Copies:
    """The scripts that this run has copied, by machine."""

    def __init__(self) -> None:
        self._machines: dict[Login, _Machine] = {}

    async def ensure(self, inputs: Mapping[str, Any], *, again: bool = False) -> str | None:
        """Copy the scripts that a resource's commands name; return the error, or None.

        again: list the machine's scripts even if this run has done so already.
        """
        connection = await pulumi.Output.from_input(inputs["connection"]).future()
        if connection is None:
            return None
        return await self.ensure_on(Login.of(connection), inputs, again=again)

    async def ensure_on(
        self, login: Login, commands: Mapping[str, Any], *, again: bool = False
    ) -> str | None:
        """Copy the scripts that commands name to a machine; return the error, or None."""
        wanted = dict(_wanted(commands))
        if not wanted:
            return None
        machine = self._machines.setdefault(login, _Machine())
        async with machine.lock:
            if again:
                machine.present.clear()
            if wanted.keys() <= machine.present:
                return None
            try:
                async with Sessions() as sessions:
                    return await _copy(await sessions.open(login), wanted, machine.present)
            except NoSession as error:
                return str(error)


@functools.cache
def of_this_run() -> Copies:
    """The copies that all hooks of this run share."""
    return Copies()


@functools.cache
def hooks() -> pulumi.ResourceHookBinding:
    """The hooks that copy a resource's scripts before one of its commands runs."""
    copy = pulumi.ResourceHook("copy-scripts", _before)
    return pulumi.ResourceHookBinding(before_create=[copy], before_update=[copy])


async def _before(args: pulumi.ResourceHookArgs) -> None:
    await of_this_run().ensure(args.new_inputs or {})


async def _copy(session: Session, wanted: Mapping[str, str], present: set[str]) -> str | None:
    listing = await session.run(LIST, seconds=_SECONDS)
    if listing.problem is not None:
        return listing.problem
    present.update(_unchanged(listing.text))
    for sha256, script in wanted.items():
        if sha256 in present:
            continue
        text = text_of(script)
        if hashlib.sha256(text.encode()).hexdigest() != sha256:
            return (
                f"the state names a version of {script} that is not in this checkout; use the "
                "checkout of the last `pulumi up`"
            )
        answer = await session.run(install(script, sha256), stdin=text, seconds=_SECONDS)
        if answer.problem is not None:
            return answer.problem
        present.add(sha256)
    return None


def _unchanged(listing: str) -> Iterator[str]:
    """The hashes of the scripts whose content still matches their name."""
    for line in listing.splitlines():
        sha256, _, path = line.partition("  ")
        if path.endswith(f"-{sha256[:12]}.sh"):
            yield sha256


def _wanted(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the hash and the name of each script that a resource's commands run."""
    for phase in PHASES:
        command = str(inputs.get(phase))
        sha256, script = digest(command), file(command)
        if sha256 is not None and script is not None:
            yield sha256, script
