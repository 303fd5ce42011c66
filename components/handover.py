"""Hand a line to a script on a node at the moment that it asks for it, through a pipe over SSH.

The line is never in the state, in a file, or on a command line.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import pulumi

from components.remote.nodes_ssh import Login, NoSession, Session, Sessions
from components.remote.script import Connection, login
from components.threads import in_thread

PIPE = "/run/nordmesh/join-token"
"""Where the scripts that join a node read their line."""
ERROR = "error: "
"""How a line begins that tells a problem."""

Line: TypeAlias = Callable[[Sessions], Awaitable[str]]
"""Makes a line, once for each script that asks."""

# Prints which pipe there is, once it is not $0: its inode, which a later pipe may get too, and the
# time when it was made. Also ends when its input ends, because this program is gone.
_WAIT = """bash -c 'until pipe=$(stat -c %i.%.9W "$1" 2>/dev/null) && [ "$pipe" != "$0" ]; do
    read -r -t 0.2 _
    [ $? -gt 128 ] || exit 1
done
echo "$pipe"'"""
# Never creates a file: a secret must not be in one.
_WRITE = "conv=nocreat,notrunc status=none"
_WRITE_SECONDS, _PAUSE_SECONDS = 5, 1


class Handovers:
    """The handovers to the nodes of a stack. what: what is handed over, for the hooks' names.

    pipe: where the script reads it.
    """

    def __init__(self, what: str, pipe: str) -> None:
        self._what, self._pipe = what, pipe
        self._running: dict[str, Handover] = {}

    def hooks(
        self,
        node: str,
        connection: Connection,
        line: Callable[[], Awaitable[Line]],
        *,
        seconds: int,
    ) -> pulumi.ResourceHookBinding:
        """The hooks of the script that asks on a node. seconds: how long it may take."""

        async def start(_: pulumi.ResourceHookArgs) -> None:
            handover = Handover(await login(connection), await line(), seconds, self._pipe)
            self._running[node] = handover
            handover.start()

        async def end(_: pulumi.ResourceHookArgs) -> None:
            # It closes connections, which must not hold up the other hooks.
            await in_thread(self._running.pop(node).end)

        before = pulumi.ResourceHook(f"hand {self._what} to {node}", start)
        after = pulumi.ResourceHook(f"{node} has {self._what}", end)
        return pulumi.ResourceHookBinding(
            before_create=[before],
            before_update=[before],
            after_create=[after],
            after_update=[after],
        )


class Handover(threading.Thread):
    """Waits beside a script until it asks for its line, and hands it over.

    A thread, because no hook runs after a script that failed: nothing waits for a daemon thread.
    """

    def __init__(self, node: Login, line: Line, seconds: int, pipe: str = PIPE) -> None:
        super().__init__(daemon=True)
        self._node, self._line, self._seconds, self._pipe = node, line, seconds, pipe
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._hand_over())

    def run(self) -> None:
        # The script itself reports that nothing came.
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
        """Hand a line to each script that asks, until the time is up or the connection is lost."""
        async with Sessions() as sessions:
            node = await sessions.open(self._node)
            served = "none"
            while pipe := await self._wait(node, served):
                # The pipe of a killed script has no reader; and the script of an earlier run, whose
                # connection was cut, may ask before the one of this run.
                if await write_line(node, await self._line(sessions), self._pipe):
                    served = pipe

    async def _wait(self, node: Session, served: str) -> str:
        """A pipe that was not served yet; empty without one."""
        async with node.started(f"{_WAIT} {served} {self._pipe}", seconds=self._seconds) as waiting:
            return str((await waiting.wait()).stdout).strip()


async def write_line(node: Session, line: str, pipe: str = PIPE) -> bool:
    """Write a line into a pipe of a node; false if nobody reads it."""
    answer = await node.run(f"dd of={pipe} {_WRITE}", stdin=f"{line}\n", seconds=_WRITE_SECONDS)
    return answer.problem is None
