"""The control plane that runs a script for the cluster.

Each such script keeps the one that it began on, as long as the stack file has it: a choice at the
start of each run would change the scripts of all nodes while one control plane is down.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import pulumi
from pulumi_command import remote

from components.remote.node_command import Script
from components.remote.script import Connection


@dataclass(frozen=True, kw_only=True)
class Runner:
    """One of the control planes. name: which one. planes: the logins of all of them."""

    name: pulumi.Output[str]
    planes: Mapping[str, Connection]
    owner: None = None

    def to_args(self) -> pulumi.Output[remote.ConnectionArgs]:
        """The connection in the format of the command provider."""
        return self.name.apply(lambda name: self.planes[name].to_args())

    def command(self, script: Script) -> pulumi.Output[str]:
        """The command line that runs a script there; the script's node is replaced."""
        return self.name.apply(lambda name: self.planes[name].command(replace(script, node=name)))


@dataclass(frozen=True, kw_only=True)
class Member:
    """A control plane that can run scripts. id: of the resource that made it one, so that a machine
    that left and joined again is another member.
    """

    connection: Connection
    id: pulumi.Output[str]


class Runners:
    """Chooses a control plane for each script.

    members: all control planes, by name. ready: names one whose API server is ready. is_running:
    whether a node existed before this run.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        *,
        ready: Callable[[], Awaitable[str]],
        is_running: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._members, self._ready, self._is_running = members, ready, is_running
        self._planes = {name: member.connection for name, member in members.items()}

    def of(self, script: str, opts: pulumi.ResourceOptions) -> Runner:
        """The runner of a script's resource."""
        return Runner(name=pulumi.Output.from_input(self._name(script, opts)), planes=self._planes)

    async def _name(self, script: str, opts: pulumi.ResourceOptions) -> str:
        running = [name for name in self._members if await self._is_running(name)]
        candidates = running or list(self._members)
        if len(self._members) == 1:
            return candidates[0]
        ready = await self._ready()
        choice = ready if ready in candidates else candidates[0]
        record = f"{script}-runner"
        while (id_ := await self._recorded(record, choice, opts)) is not None:
            for name in dict.fromkeys((choice, *candidates)):
                if await self._members[name].id.future() == id_:
                    return name
            # It has left the cluster. Its successor is recorded too.
            record = f"{script}-runner-after-{id_}"
        return choice

    async def _recorded(self, record: str, choice: str, opts: pulumi.ResourceOptions) -> str | None:
        """The member in the state, or the choice that is written there now; None if a preview makes
        the record, and the choice itself.
        """
        stash = pulumi.Stash(
            record,
            input=self._members[choice].id,
            opts=pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(ignore_changes=["input"])
            ),
        )
        recorded: str | None = await stash.output.future()
        return recorded
