"""Tell a machine that becomes a control plane whether to create the cluster or to join it.

Which machine ran `kubeadm init` is a fact of the cluster, so the other control planes are asked at
the moment that one is made. Nobody creates a second cluster while a machine that could have the
first one is silent.
"""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Mapping

import pulumi

from components import encryption_keys
from components.handover import PIPE, Handovers, Line
from components.manifests import kubeadm
from components.peers import Asked, Peer, ask, problem
from components.remote.nodes_ssh import Sessions
from components.remote.script import login

INIT = "init"
"""The answer for the machine that creates the cluster."""

_LOOK_SECONDS, _OFFER_SECONDS = 30, 60
_OFFER = re.compile(
    r"^([a-z0-9]{6}\.[a-z0-9]{16}) ([0-9a-f]{64}) ([A-Za-z0-9+/=]+) ([A-Za-z0-9+/=]+|-)$",
    re.MULTILINE,
)
# What cluster-member.sh prints, and what is wrong with it.
_STATES = {
    "started": "it was interrupted while it created the cluster",
    "joining": "it was interrupted while it joined the cluster",
    "remains": "it has files of an unknown cluster",
}


class Membership:
    """Answers the machines that become control planes.

    peers: all of them, by node. is_running: whether a node existed before this run.
    """

    def __init__(
        self,
        peers: Mapping[str, Peer],
        *,
        endpoint: str,
        is_running: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._peers, self._endpoint, self._is_running = peers, endpoint, is_running
        self._places = Handovers("its place in the cluster", PIPE)
        self._keys = Handovers("the keys of the others", encryption_keys.PIPE)
        self._made: dict[str, pulumi.CustomResource] = {}
        self._before: list[pulumi.CustomResource] = []

    def add(self, node: str, script: pulumi.CustomResource) -> None:
        """Record the script that makes a node a control plane, in the order of their turns."""
        self._made[node] = script

    def add_before(self, script: pulumi.CustomResource) -> None:
        """Record a script that precedes each new control plane: etcd refuses a new member while
        another one is down.
        """
        self._before.append(script)

    async def turn(self, node: str) -> None:
        """Wait until it is a node's turn: etcd takes one member at a time, and new ones come last.

        Also waits until all machines are made: a hook that waited for them would hold one of the
        engine's slots. A preview never waits.
        """
        if pulumi.runtime.is_dry_run():
            return
        await self._others("")
        earlier = list(self._made)[: list(self._made).index(node)]
        running = {name for name in self._made if await self._is_running(name)}
        waits = [name for name in earlier if name in running]
        if node not in running:
            waits = [*(name for name in self._made if name in running), *earlier]
            for script in self._before:
                await script.id.future()
        for name in waits:
            await self._made[name].id.future()

    def hooks(self, node: str, *, seconds: int) -> pulumi.ResourceHookBinding:
        """The hooks of the script that makes a node a control plane."""

        async def place() -> Line:
            return answers(await self._others(node), endpoint=self._endpoint)

        async def keys() -> Line:
            return encryption_keys.answers(await self._others(node), endpoint=self._endpoint)

        connection = self._peers[node].connection
        return pulumi.ResourceHookBinding.merge(
            self._places.hooks(node, connection, place, seconds=seconds),
            self._keys.hooks(node, connection, keys, seconds=seconds),
        )

    async def _others(self, node: str) -> dict[str, Asked]:
        return {
            name: Asked(address=peer.address, login=await login(peer.connection))
            for name, peer in self._peers.items()
            if name != node
        }


def answers(others: Mapping[str, Asked], *, endpoint: str) -> Line:
    """Make the answer: INIT, what is needed to join, or why there is neither."""

    async def answer(sessions: Sessions) -> str:
        looks = await asyncio.gather(
            *(
                ask(sessions, name, asked, "cluster-member.sh", endpoint, _LOOK_SECONDS)
                for name, asked in others.items()
            )
        )
        states = {
            name: look.text.strip().rpartition("\n")[2]
            for name, look in zip(others, looks, strict=True)
        }
        members = [name for name, state in states.items() if state == "member"]
        problems = {}
        for name in members:
            offer = await ask(
                sessions, name, others[name], "cluster-offer.sh", endpoint, _OFFER_SECONDS
            )
            if found := _OFFER.search(offer.text):
                return _join_line(others[name].address, *found.groups(), endpoint=endpoint)
            problems[name] = offer.problem or "it printed no credentials to join with"
        if members:
            return problem(problems)
        for (name, state), look in zip(states.items(), looks, strict=True):
            if look.problem is not None:
                problems[name] = look.problem
            elif state != "none":
                owner = state.removeprefix("other ")
                problems[name] = _STATES.get(state, f"it is node {owner or 'unknown'}")
        return problem(problems) if problems else INIT

    return answer


def _join_line(address: str, token: str, key: str, ca: str, keys: str, *, endpoint: str) -> str:
    discovery = kubeadm.discovery_kubeconfig({"ca": ca}, endpoint=endpoint)
    return f"join {address} {token} {key} {base64.b64encode(discovery.encode()).decode()} {keys}"
