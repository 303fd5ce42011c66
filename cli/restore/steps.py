"""The steps of a restore, in their order. Each can run again after a kill."""

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.restore.data import Bundle
from cli.restore.machines import Machine, Planes
from cli.restore.programs import LATER, MEMBER, PREPARE, Programs, execute, execute_own
from components import encryption_keys
from components.handover import ERROR, PIPE, Handover, Line
from components.membership import INIT, answers
from components.peers import Asked
from components.remote.node_command import Script
from components.remote.nodes_ssh import Sessions

UPLOAD = "/var/lib/nordmesh/restore.tar.gz"
"""Where a machine gets the data; the file is removed as soon as it is unpacked."""
_SECONDS = 300
_PLACE_SECONDS = 1800


@dataclass(frozen=True, kw_only=True)
class Restore:
    """A restore that has been confirmed.

    addresses: of the control planes, for the other nodes. bundle: None if the data is in place.
    secrets: the standard input of scripts, by their file.
    """

    snapshot: str
    endpoint: str
    planes: Planes
    programs: Programs
    addresses: Mapping[str, str]
    bundle: Bundle | None
    secrets: Mapping[str, str] = field(repr=False)

    async def run(self) -> None:
        """Do all steps; raises NordmeshError at the first that fails."""
        planes, target = self.planes, self.planes.target
        for machine in planes.cleared:
            with _step(machine, "delete the cluster that it has"):
                await execute(
                    machine.login, self.programs.one(machine.name, MEMBER), phase="delete"
                )
        await self._mark(self.snapshot)
        await asyncio.gather(*map(self._prepare, planes.all))
        if self.bundle is not None:
            with _step(target, f"place the data of {self.snapshot}"):
                await self._place(self.bundle)
        with _step(target, "start the control plane"):
            await self._make_member(target, _create)
        if not any(map(self._has_begun, planes.others)):
            with _step(target, "remove the other control planes from the cluster"):
                await self._own(target, "restore-forget.sh")
        for machine in planes.others:
            with _step(machine, "join the cluster"):
                place = answers(self._others(machine), endpoint=self.endpoint)
                await self._make_member(machine, _joining(place))
        for file in LATER:
            for machine in planes.all:
                for program in self.programs.all(machine.name, file):
                    with _step(machine, f"run {program.name}"):
                        await execute(machine.login, program, stdin=self.secrets.get(file, ""))
        await self._mark("")

    def _others(self, machine: Machine) -> dict[str, Asked]:
        return {
            one.name: Asked(address=self.addresses[one.name], login=one.login)
            for one in self.planes.all
            if one is not machine
        }

    def _has_begun(self, machine: Machine) -> bool:
        """Whether an earlier run has begun to join it; then the cluster has its node rightly."""
        return machine.name in self.planes.kept and not machine.is_empty

    async def _mark(self, snapshot: str) -> None:
        for machine in self.planes.all:
            await self._own(machine, "restore-mark.sh", SNAPSHOT=snapshot, BUNDLE=UPLOAD)

    async def _prepare(self, machine: Machine) -> None:
        with _step(machine, "prepare the machine"):
            await execute(machine.login, self.programs.one(machine.name, PREPARE))

    async def _place(self, bundle: Bundle) -> None:
        settings = {"SNAPSHOT": self.snapshot, "BUNDLE": UPLOAD, "SHA256": bundle.sha256}
        await self._own(self.planes.target, "restore-place.sh", upload=bundle.path, **settings)

    async def _own(
        self, machine: Machine, file: str, *, upload: Path | None = None, **settings: str
    ) -> None:
        script = Script(
            file=file,
            node=machine.name,
            settings={"ENDPOINT": self.endpoint, **settings},
            timeout=_SECONDS if upload is None else _PLACE_SECONDS,
        )
        what = f"{file} on {machine.name}"
        await execute_own(machine.login, script, what, upload=upload, to=UPLOAD)

    async def _make_member(self, machine: Machine, place: Line) -> None:
        program = self.programs.one(machine.name, MEMBER)
        # It asks for keys if the stack file names a key that the snapshot does not have.
        keys = encryption_keys.answers(self._others(machine), endpoint=self.endpoint)
        handovers = [
            Handover(machine.login, line, program.seconds, pipe)
            for line, pipe in ((place, PIPE), (keys, encryption_keys.PIPE))
        ]
        for handover in handovers:
            handover.start()
        try:
            await execute(machine.login, program)
        finally:
            for handover in handovers:
                await asyncio.to_thread(handover.end)


async def _create(_: Sessions) -> str:
    """Let kubeadm-init.sh start the cluster: its data is in place."""
    return INIT


def _joining(answer: Line) -> Line:
    """The answer for a machine that must join: it never creates a cluster beside the restored."""

    async def line(sessions: Sessions) -> str:
        state = await answer(sessions)
        return f"{ERROR}no control plane has the restored cluster" if state == INIT else state

    return line


@contextmanager
def _step(machine: Machine, what: str) -> Iterator[None]:
    """Print a step, and how long it took."""
    say(f"{machine.name}: {what}")
    began = time.monotonic()
    yield
    say(f"{machine.name}: {what}: done in {time.monotonic() - began:.0f} s")


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)
