"""The order in which the nodes of a running cluster change: one after another.

The program waits for a node's turn before it registers the node's script. A wait in a hook would
hold one of the engine's slots, and block a run with fewer slots than nodes; a dependency in the
state would tie a node to its neighbours when one of them is removed or targeted.
"""

import asyncio
import functools
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum

import pulumi

from components.remote.failures import error_hooks, is_repeated

_KNOWN_SECONDS = 5


class Stage(Enum):
    """A part of the change of a node; each part goes through all nodes before the next begins. Its
    value is the end of the name of the part's last script.
    """

    GUEST = "guest"
    PREPARE = "prepare"
    JOIN = "ready"


class Rollout:
    """Turns of the nodes: each starts once the node before it has changed without an error.

    order: the names of the nodes; the first is the canary. Nodes that this run creates change in
    parallel, and nobody waits for them. The same holds for a script that this run creates on an
    older node: an earlier run ended before the node was Ready for the first time.
    """

    def __init__(self, order: Iterable[str]) -> None:
        self._order = tuple(order)
        self._nodes: dict[str, pulumi.ComponentResource] = {}
        self._last: dict[tuple[str, Stage], pulumi.CustomResource] = {}
        self._new: set[str] = set()
        self._noted: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._created: defaultdict[tuple[str, Stage], asyncio.Event] = defaultdict(asyncio.Event)

    @functools.cached_property
    def of_node(self) -> pulumi.ResourceHookBinding:
        """The hooks of each node's own resource."""
        options = pulumi.ResourceHookOptions(on_dry_run=True)
        created = pulumi.ResourceHook("note a new node", self._note_new, options)
        return pulumi.ResourceHookBinding(before_create=[created])

    @functools.cached_property
    def of_scripts(self) -> pulumi.ResourceHookBinding:
        """The hooks of the scripts that have a turn."""
        created = pulumi.ResourceHook("note a new script", self.note_created)
        return pulumi.ResourceHookBinding.merge(
            pulumi.ResourceHookBinding(before_create=[created]),
            error_hooks("name the nodes that keep what they have", self._on_error),
        )

    def add_node(self, name: str, node: pulumi.ComponentResource) -> None:
        """Record the resource of a node."""
        self._nodes[name] = node

    def add_last(self, name: str, stage: Stage, script: pulumi.CustomResource) -> None:
        """Record the last script of a node's turn."""
        self._last[name, stage] = script

    async def turn(self, name: str, stage: Stage) -> None:
        """Wait for a node's turn. A preview never waits; after an error no turn comes."""
        if pulumi.runtime.is_dry_run() or not await self.is_running(name):
            return
        for earlier in reversed(self._order[: self._order.index(name)]):
            script = self._last.get((earlier, stage))
            if script is None or not await self.is_running(earlier):
                continue
            if not await self._is_created(earlier, stage, script):
                return

    async def _is_created(self, name: str, stage: Stage, script: pulumi.CustomResource) -> bool:
        """Whether this run creates a part of a node; waits for the end of any other change."""
        changed = asyncio.ensure_future(script.id.future())
        created = asyncio.ensure_future(self._created[name, stage].wait())
        await asyncio.wait([changed, created], return_when=asyncio.FIRST_COMPLETED)
        if self._created[name, stage].is_set():
            return True
        created.cancel()
        await changed
        return False

    async def is_known(self, name: str) -> bool:
        """Whether a node existed before this run, for the hooks of a new one.

        They hold up the engine, which registers a few resources at a time: a node that it has not
        come to by then counts as new.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_KNOWN_SECONDS):
                noted = asyncio.ensure_future(self._noted[name].wait())
                known = asyncio.ensure_future(self._nodes[name].urn.future())
                await asyncio.wait([noted, known], return_when=asyncio.FIRST_COMPLETED)
                noted.cancel()
                return name not in self._new
        return False

    async def is_running(self, name: str) -> bool:
        """Whether a node existed before this run."""
        await self._nodes[name].urn.future()
        return name not in self._new

    async def _note_new(self, args: pulumi.ResourceHookArgs) -> None:
        self._new.add(args.name)
        self._noted[args.name].set()

    async def note_created(self, args: pulumi.ResourceHookArgs) -> None:
        """Record that this run begins to create a script's resource."""
        name, stage = _part(args.name)
        self._created[name, stage].set()

    async def _on_error(self, args: pulumi.ErrorHookArgs) -> bool:
        """Report a failed update; never retry."""
        if args.failed_operation == "update" and not is_repeated(args.errors):
            await self.report_stop(*_part(args.name))
        return False

    async def report_stop(self, failed: str, stage: Stage) -> None:
        """Name the nodes whose turn does not come after an error on this one."""
        later = self._order[self._order.index(failed) + 1 :]
        waiting = [name for name in later if (name, stage) in self._last]
        kept = [name for name in waiting if await self.is_running(name)]
        if kept:
            pulumi.log.error(stopped(failed, kept))


def _part(script: str) -> tuple[str, Stage]:
    """The node of a script's resource, and the part of its change."""
    node, _, end = script.rpartition("-")
    return node, next((stage for stage in Stage if stage.value == end), Stage.JOIN)


def stopped(failed: str, kept: list[str]) -> str:
    """The message for a change that failed on a node, so that later nodes keep what they have."""
    return (
        f"The change stopped at {failed} and did not start on {', '.join(kept)}. Fix {failed} and "
        f"run `pulumi up` again: it continues from there. To change the others without it, run "
        f"`pulumi up --exclude '**::{failed}-*'`."
    )
