"""Hand each joining node a bootstrap token, in the moment that it joins.

The token is made on a control plane, lives ten minutes, and reaches the join script through a pipe:
it is never in the state, in a file, or on a command line. The addresses of all control planes come
with it: as settings of the node, they would change when a control plane is added.
"""

import asyncio
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import pulumi

from components.nodes_ssh import Login, NoSession, Session, Sessions
from components.remote import Connection, login
from components.threads import in_thread

PIPE = "/run/nordmesh/join-token"
"""Where kubeadm-join.sh reads a line: a token and addresses, or what begins with ERROR."""
ERROR = "error: "
TTL = "10m"

# Prints which pipe there is, once it is not $0: its inode, which a later pipe may get too, and the
# time when it was made. Also ends when its input ends, because this program is gone.
_WAIT = f"""bash -c 'until pipe=$(stat -c %i.%.9W {PIPE} 2>/dev/null) && [ "$pipe" != "$0" ]; do
    read -r -t 0.2 _
    [ $? -gt 128 ] || exit 1
done
echo "$pipe"'"""
# Without the environment, to ask the API server directly: a machine's proxy is for downloads.
_MAKE = f"""PATH=/usr/local/bin:$PATH
env -i PATH="$PATH" kubeadm token create --ttl {TTL} --kubeconfig /etc/kubernetes/admin.conf
env -i PATH="$PATH" kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 10s \\
    --cache-dir /run/nordmesh/kubectl get nodes \\
    --selector node-role.kubernetes.io/control-plane --output 'jsonpath={{range .items[*]}}server=\
{{.status.addresses[?(@.type=="InternalIP")].address}}{{"\\n"}}{{end}}'"""
# Never creates a file: a token must not be in one.
_WRITE = f"dd of={PIPE} conv=nocreat,notrunc status=none"
_TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
_SERVER = re.compile(r"^server=([0-9.]+)$", re.MULTILINE)
_MAKE_SECONDS, _WRITE_SECONDS, _PAUSE_SECONDS = 60, 5, 1


class JoinTokens:
    """Hands tokens to the nodes of a stack. control_planes: the logins by node."""

    def __init__(self, control_planes: Mapping[str, Connection]) -> None:
        self._control_planes = control_planes
        self._handovers: dict[str, Handover] = {}

    def hooks(
        self, node: str, connection: Connection, *, seconds: int
    ) -> pulumi.ResourceHookBinding:
        """The hooks of the script that joins a node. seconds: how long it may take."""

        async def start(_: pulumi.ResourceHookArgs) -> None:
            planes = {name: await login(one) for name, one in self._control_planes.items()}
            handover = Handover(await login(connection), planes, seconds)
            self._handovers[node] = handover
            handover.start()

        async def end(_: pulumi.ResourceHookArgs) -> None:
            # It closes connections, which must not hold up the other hooks.
            await in_thread(self._handovers.pop(node).end)

        before = pulumi.ResourceHook(f"hand a join token to {node}", start)
        after = pulumi.ResourceHook(f"{node} has joined", end)
        return pulumi.ResourceHookBinding(
            before_create=[before],
            before_update=[before],
            after_create=[after],
            after_update=[after],
        )


class Handover(threading.Thread):
    """Waits beside the join script until it asks for a token, and hands it over.

    A thread, because no hook runs after a script that failed: nothing waits for a daemon thread.
    """

    def __init__(self, node: Login, control_planes: Mapping[str, Login], seconds: int) -> None:
        super().__init__(daemon=True)
        self._node, self._control_planes, self._seconds = node, control_planes, seconds
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._hand_over())

    def run(self) -> None:
        # The script itself reports that no token came.
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    def end(self) -> None:
        """Stop waiting: the script has ended."""
        with suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._task.cancel)
        self.join()

    async def _hand_over(self) -> None:
        import asyncssh  # 0.3 s, which only a node that joins takes

        ends = time.monotonic() + self._seconds
        while time.monotonic() < ends:
            # This connection may be lost and the script's live on.
            with suppress(NoSession, OSError, asyncssh.Error):
                await self._serve()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _serve(self) -> None:
        """Hand a token to each script that asks, until the time is up or the connection is lost."""
        async with Sessions() as sessions:
            node = await sessions.open(self._node)
            served = "none"
            while pipe := await self._wait(node, served):
                # The pipe of a killed script has no reader; and the script of an earlier run, whose
                # connection was cut, may ask before the one of this run.
                if await write_line(node, await self._token(sessions)):
                    served = pipe

    async def _wait(self, node: Session, served: str) -> str:
        """A pipe that was not served yet; empty without one."""
        async with node.started(f"{_WAIT} {served}", seconds=self._seconds) as waiting:
            return str((await waiting.wait()).stdout).strip()

    async def _token(self, sessions: Sessions) -> str:
        """A new token and the control planes' addresses, or why no control plane made one."""
        problems = []
        for name, plane in self._control_planes.items():
            answer = await sessions.run(plane, "bash -s", stdin=_MAKE, seconds=_MAKE_SECONDS)
            tokens, servers = _TOKEN.findall(answer.text), _SERVER.findall(answer.text)
            if tokens and servers:
                return " ".join((tokens[-1], *servers))
            missing = "kubectl printed no control plane" if tokens else "kubeadm printed no token"
            problems.append(f"{name}: {answer.problem or missing}")
        return ERROR + "; ".join(problems)


async def write_line(node: Session, line: str) -> bool:
    """Write a line into the pipe of a node; false if nobody reads it."""
    answer = await node.run(_WRITE, stdin=f"{line}\n", seconds=_WRITE_SECONDS)
    return answer.problem is None
