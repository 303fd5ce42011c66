"""The preflight as a Pulumi hook on the first step that changes a node.

It runs in the program's own process, in an update and before a node's first resource is made: never
in a preview, and never in a run that makes no node, which opens no SSH connection.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pulumi

from components.failures import PREFLIGHT_REFUSES
from components.machines import Machine
from components.remote import Connection
from config import StackConfig

if TYPE_CHECKING:
    from components.nodes_ssh import Login


class PreflightError(Exception):
    """A node that is not to be changed. Pulumi shows its text, without a traceback."""


class Preflight:
    """All nodes of a stack are measured once a run, when the first new one is about to be changed.

    before_first_change: for the resource that changes a node first.
    """

    before_first_change: pulumi.ResourceOptions

    def __init__(self, config: StackConfig, machines: list[Machine]) -> None:
        self._config = config
        self._connections = {machine.name: machine.connection for machine in machines}
        self._running: asyncio.Task[str | None] | None = None
        self._is_told = False
        hook = pulumi.ResourceHook("preflight", self._check)
        # The hook needs every machine's host key. Were it the one to wait for them, it would hold
        # one of the engine's few places, and wait for ever for a machine that could not be made.
        owners = [machine.connection.owner for machine in machines]
        self.before_first_change = pulumi.ResourceOptions(
            hooks=pulumi.ResourceHookBinding(before_create=[hook]),
            depends_on=[owner for owner in owners if owner is not None],
        )

    async def _check(self, args: pulumi.ResourceHookArgs) -> None:
        del args
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._measure())
        refusal = await asyncio.shield(self._running)
        if refusal is None:
            return
        if self._is_told:
            raise PreflightError(f"{PREFLIGHT_REFUSES} a node; the report is shown at another one")
        self._is_told = True
        raise PreflightError(refusal)

    async def _measure(self) -> str | None:
        """The report where a node is refused; what else was found is logged."""
        # What measures is imported here: a run that makes no node never needs it.
        from components.preflight import judge, measure, report

        logins = await _logins(self._connections)
        pulumi.log.info(f"preflight of {', '.join(logins)}", ephemeral=True)
        measured = await asyncio.to_thread(measure.measure, self._config, logins)
        findings = judge.judge(self._config, measured)
        members = judge.members(measured)
        # What a node of the cluster has become is told, and keeps no new node out.
        if any(found.stops and not set(found.nodes) <= members for found in findings):
            return report.told(findings, nodes=len(measured))
        # Overrides are shown by every preview, and need no second word here.
        if others := [found for found in findings if found.let_through is None]:
            pulumi.log.warn(report.told(others, nodes=len(measured)))
        return None


async def _logins(connections: Mapping[str, Connection]) -> "dict[str, Login]":
    logins = await asyncio.gather(*(_login(one) for one in connections.values()))
    return dict(zip(connections, logins, strict=True))


async def _login(connection: Connection) -> "Login":
    from components.nodes_ssh import Login

    key = connection.private_key
    return Login(
        host=connection.host,
        user=connection.user,
        port=connection.port,
        host_key=str(await _value(connection.host_key)),
        private_key=str(await _value(key.text)),
        password=None if key.password is None else str(await _value(key.password)),
        bastion=None if connection.bastion is None else await _login(connection.bastion),
    )


async def _value(given: pulumi.Input[str]) -> str | None:
    return await pulumi.Output.from_input(given).future()
