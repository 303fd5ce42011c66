"""Drain a guest's node before the guest restarts, and let it accept pods again afterwards.

Both run on a control plane, in hooks of the guest's resource: only an update that restarts the
guest runs them, and only if another worker can run its pods.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pulumi

from components.api_servers import first_ready
from components.machines.guest_sizes import restart
from components.remote import copies
from components.remote.failures import error_hooks, is_repeated
from components.remote.node_command import Script, settings_of
from components.remote.nodes_ssh import Login, Sessions
from components.remote.script import Connection, login
from config.errors import NordmeshError

_DRAIN_SECONDS = 360
_READY_SECONDS = 300
_MARGIN_SECONDS = 60
# kubelet renews its lease every 10 s.
_UNDO_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Drain:
    """The drain of a worker. planes: the logins of the control planes, for a restart only.

    restart_seconds: how long the guest may take to stop and to start. report_stop: names the nodes
    that an error here keeps from their turn.
    """

    node: str
    planes: Callable[[], Mapping[str, Connection]]
    restart_seconds: int
    report_stop: Callable[[], Awaitable[None]]
    _chosen: list[str] = field(default_factory=list)

    def hooks(self) -> pulumi.ResourceHookBinding:
        """The hooks of the guest's resource; they do not run in previews."""
        hook = pulumi.ResourceHook
        binding = pulumi.ResourceHookBinding(
            before_update=[hook(f"drain {self.node}", self._before)],
            after_update=[hook(f"uncordon {self.node}", self._after)],
        )
        return pulumi.ResourceHookBinding.merge(
            binding, error_hooks(f"undo the drain of {self.node}", self._on_error)
        )

    async def _before(self, args: pulumi.ResourceHookArgs) -> None:
        if restarts(args):
            await self._require(
                self.drain(await self._plane()), "was not drained, so it was not restarted"
            )

    async def _after(self, args: pulumi.ResourceHookArgs) -> None:
        if restarts(args):
            uncordon = self.uncordon(await self._plane())
            await self._require(uncordon, "was restarted and does not accept pods yet")

    async def _on_error(self, args: pulumi.ErrorHookArgs) -> bool:
        """Uncordon a node whose restart failed before it began; else the timer does it later."""
        if args.failed_operation == "update" and not is_repeated(args.errors) and restarts(args):
            try:
                undo = self.uncordon(await self._plane(), seconds=_UNDO_SECONDS)
                await self._run(undo, "still accepts no pods")
            except NordmeshError as error:
                pulumi.log.warn(f"{error.what}; it accepts pods once it is Ready")
        return False

    async def _plane(self) -> str:
        """The control plane that drains the node. It also uncordons it: it has a mark of that."""
        if not self._chosen:
            names = {connection.host: name for name, connection in self.planes().items()}
            self._chosen.append(names[await first_ready(list(names))])
        return self._chosen[0]

    def drain(self, plane: str) -> Script:
        """The script that drains the node, with a timer that undoes it if this program dies."""
        undo = self.uncordon(plane, anyway=True).command("root")
        seconds = _DRAIN_SECONDS + self.restart_seconds + _READY_SECONDS
        values = {"UNCORDON": undo, "UNDO_SECONDS": str(seconds)}
        return self._script("node-drain.sh", plane, values, _DRAIN_SECONDS)

    def uncordon(
        self, plane: str, *, anyway: bool = False, seconds: int = _READY_SECONDS
    ) -> Script:
        """The script that waits for the node and uncordons it. anyway: also if it is not Ready."""
        values = {"ANYWAY": str(anyway).lower(), "READY_SECONDS": str(seconds)}
        return self._script("node-uncordon.sh", plane, values, seconds + _MARGIN_SECONDS)

    def _script(self, file: str, plane: str, values: Mapping[str, str], seconds: int) -> Script:
        return Script(
            file=file,
            node=plane,
            settings={"JOINED_NODE": self.node, **values},
            timeout=seconds,
        )

    async def _require(self, script: Script, otherwise: str) -> None:
        try:
            await self._run(script, otherwise)
        except NordmeshError:
            await self.report_stop()
            raise

    async def _run(self, script: Script, otherwise: str) -> None:
        """Run a script on its control plane; raise NordmeshError if it fails."""
        plane = await login(self.planes()[script.node])
        uncordon = self.uncordon(script.node)
        commands = {"create": script.command("root"), "update": uncordon.command("root")}
        problem = await copies.of_this_run().ensure_on(plane, commands)
        if problem is None:
            pulumi.log.info(f"{script.file} {self.node}", ephemeral=True)
            problem = await _problem(plane, script)
        if problem is not None:
            raise NordmeshError(f"{self.node} {otherwise}", code="restart-failed", details=problem)


def restarts(args: pulumi.ResourceHookArgs | pulumi.ErrorHookArgs) -> bool:
    """Whether an update restarts the guest."""
    old, new = (settings_of(inputs) for inputs in (args.old_inputs, args.new_inputs))
    return restart(old, new) is not None


async def _problem(on: Login, script: Script) -> str | None:
    async with Sessions() as sessions:
        command, seconds = script.command("root"), script.seconds() + _MARGIN_SECONDS
        return (await sessions.run(on, command, seconds=seconds)).problem
