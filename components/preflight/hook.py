"""The preflight as a Pulumi hook on the first step that changes a node.

It runs in the program's own process, in an update, before a node's first resource is created. A
preview, or an update that creates no node, opens no SSH connection.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import pulumi

from components.machines import Machine
from components.remote.failures import PREFLIGHT_REFUSES
from components.remote.script import Connection, login
from components.threads import in_thread
from config import StackConfig
from config.errors import NordmeshError

if TYPE_CHECKING:
    from components.preflight.facts import Measured
    from components.remote.nodes_ssh import Login


class Preflight:
    """Measures all nodes of a stack once, when the first new node is about to be changed.

    before_first_change: options of the script that changes a node first. before_node: options of a
    node's own resource, which precedes its scripts: a new node that is in a cluster already is
    refused, because it is another stack's. is_known: whether a node existed before this run: it
    may be down, and blocks no other one. Where this stack creates machines, nothing is refused
    there: the first nodes are registered before the last machine can be measured.
    """

    before_first_change: pulumi.ResourceOptions
    before_node: pulumi.ResourceOptions

    def __init__(
        self,
        config: StackConfig,
        machines: list[Machine],
        is_known: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._config, self._is_known = config, is_known
        self._connections = {machine.name: machine.connection for machine in machines}
        self._running: asyncio.Task[NordmeshError | None] | None = None
        self._is_reported = False
        self._measured: Mapping[str, Measured] = {}
        hook = pulumi.ResourceHook("preflight", self._check)
        # The hook needs every machine's host key. If the hook itself waited for them, it would hold
        # one of the engine's slots, and wait forever for a machine that could not be created.
        owners = [machine.connection.owner for machine in machines]
        self.before_first_change = pulumi.ResourceOptions(
            hooks=pulumi.ResourceHookBinding(before_create=[hook]),
            depends_on=[owner for owner in owners if owner is not None],
        )
        self.before_node = pulumi.ResourceOptions()
        if not any(owners):
            new = pulumi.ResourceHook("whose cluster", self._check_owner)
            self.before_node.hooks = pulumi.ResourceHookBinding(before_create=[new])

    async def _check_owner(self, args: pulumi.ResourceHookArgs) -> None:
        # 0.04 s, which only a new machine needs
        from components.preflight import ownership, report

        await self._check(args)
        finding = ownership.owned_elsewhere(self._config, args.name, self._measured[args.name])
        if finding is not None and finding.stops:
            raise report.failure([finding], nodes=len(self._measured))

    async def _check(self, args: pulumi.ResourceHookArgs) -> None:
        del args
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._measure())
        error = await asyncio.shield(self._running)
        if error is None:
            return
        if self._is_reported:
            raise NordmeshError(
                f"{PREFLIGHT_REFUSES} a node; another error of this run has the report",
                code=error.code,
            )
        self._is_reported = True
        raise error

    async def _measure(self) -> NordmeshError | None:
        """The error if a node is refused; other findings are logged."""
        # Imported here: a run that creates no node never needs these modules.
        # 0.04 s, which only a new machine needs
        from components.preflight import judge, measure, report

        logins = await _logins(self._connections)
        pulumi.log.info(f"preflight of {', '.join(logins)}", ephemeral=True)
        measured = await in_thread(lambda: measure.measure(self._config, logins))
        self._measured = measured
        findings = judge.judge(self._config, measured)
        down = [name for name, machine in measured.items() if machine.problem is not None]
        members = judge.members(measured) | {name for name in down if await self._is_known(name)}
        # A finding about members of the cluster alone is a warning: it must not block a new node.
        if any(finding.stops and not set(finding.nodes) <= members for finding in findings):
            return report.failure(findings, nodes=len(measured))
        # Every preview shows the waived findings.
        if others := [finding for finding in findings if finding.waived is None]:
            pulumi.log.warn(report.summary(others, nodes=len(measured)))
        return None


async def _logins(connections: Mapping[str, Connection]) -> "dict[str, Login]":
    logins = await asyncio.gather(*map(login, connections.values()))
    return dict(zip(connections, logins, strict=True))
