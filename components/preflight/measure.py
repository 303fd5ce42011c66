"""Asking all nodes at once what they are: one script on each, and every way between two of them."""

import asyncio
import shlex
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from math import ceil
from pathlib import Path

from components.nodes_ssh import Answer, Login, NoSession, Session, Sessions
from components.preflight import needs
from components.preflight.facts import Clock, Facts, Link, Measured, links
from config import StackConfig
from config.scalars.durations import seconds

_HERE = Path(__file__).parent
# Beyond the window: names, places and the disk are tried for five seconds each, at most.
_SCRIPT_SECONDS = 45
# How long measure.sh waits for what an earlier run still does there.
_WAIT_SECONDS = 120
_READY_SECONDS = 15
_CONNECT_SECONDS = 20  # and as much again for each other node: a closed port takes up to 8
_CLOCK_READINGS = 3


def measure(config: StackConfig, logins: Mapping[str, Login]) -> dict[str, Measured]:
    """What each node is, by name; takes the window of `preflight` and a few seconds.

    Runs an event loop of its own: call it in a thread where there is another.
    """
    return asyncio.run(_measure(config, logins))


async def _measure(config: StackConfig, logins: Mapping[str, Login]) -> dict[str, Measured]:
    async with Sessions() as sessions:
        opened = dict(
            zip(
                logins,
                await asyncio.gather(*(_opened(sessions, login) for login in logins.values())),
                strict=True,
            )
        )
        there = {name: node for name, node in opened.items() if isinstance(node, Session)}
        own, (busy, ways) = await asyncio.gather(
            asyncio.gather(*(_own(config, name, node) for name, node in there.items())),
            _network(config, there),
        )
        found = {
            name: Measured(problem=why) for name, why in opened.items() if isinstance(why, str)
        }
        for name, (answer, clock) in zip(there, own, strict=True):
            found[name] = _measured(answer, clock, ways.get(name, {}), busy.get(name, frozenset()))
        return found


async def _opened(sessions: Sessions, login: Login) -> Session | str:
    """A session, or why there is none."""
    try:
        return await sessions.open(login)
    except NoSession as error:
        return str(error)


async def _own(config: StackConfig, name: str, node: Session) -> tuple[Answer, Clock | None]:
    """What a node says of itself."""
    clock = await _clock(node)
    window = ceil(seconds(config.preflight.window))
    limit = window + _WAIT_SECONDS + _SCRIPT_SECONDS
    return await node.run(_script(config, name, window), seconds=limit), clock


def _script(config: StackConfig, name: str, window: int) -> str:
    endpoints = needs.endpoints(config)
    names = [host for host, _ in endpoints if not _is_address(host)]
    settings = {
        "ADDRESS": config.machines.nodes[name].address,
        "WINDOW": str(window),
        "ETCD": str(bool(needs.etcd_ports(config, name))).lower(),
        "NAMES": " ".join(names),
        "ENDPOINTS": " ".join(f"{host}:{port}" for host, port in endpoints),
        "PROBE": (_HERE / "probe.pl").read_text(),
    }
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in settings.items())
    return f"bash -c {shlex.quote(exports + (_HERE / 'measure.sh').read_text())}"


def _measured(
    answer: Answer, clock: Clock | None, ways: Mapping[str, Link], busy: frozenset[str]
) -> Measured:
    facts = Facts(answer.text)
    if answer.problem is not None or not facts.is_whole:
        return Measured(problem=answer.problem or "what it printed was cut off")
    return Measured(facts=facts, clock=clock, links=ways, busy=busy)


async def _clock(node: Session) -> Clock | None:
    """The reading with the shortest way there and back; a clock is read in the middle of it."""
    best: Clock | None = None
    for _ in range(_CLOCK_READINGS):
        asked = time.time()
        answer = await node.run("date +%s.%N", seconds=5, as_root=False)
        answered = time.time()
        try:
            there = float(answer.text)
        except ValueError:
            continue
        reading = Clock(ahead=there - (asked + answered) / 2, error=(answered - asked) / 2)
        if best is None or reading.error < best.error:
            best = reading
    return best


Busy = dict[str, frozenset[str]]
Ways = dict[str, dict[str, Link]]


async def _network(config: StackConfig, there: Mapping[str, Session]) -> tuple[Busy, Ways]:
    """Which ports are taken on each node, and the ways between any two of them.

    Every node listens where nothing listens yet, for as long as the others try.
    """
    limit = _CONNECT_SECONDS * (1 + len(there))
    async with AsyncExitStack() as listeners:
        busy = dict(
            zip(
                there,
                await asyncio.gather(
                    *(
                        _listening(config, name, node, listeners, seconds=_READY_SECONDS + limit)
                        for name, node in there.items()
                    )
                ),
                strict=True,
            )
        )
        heard = {name: taken for name, taken in busy.items() if taken is not None}
        tried = await asyncio.gather(
            *(
                node.run(_connect(config, name, heard), seconds=limit)
                for name, node in there.items()
            )
        )
        ways = {name: links(answer.text) for name, answer in zip(there, tried, strict=True)}
    return heard, ways


async def _listening(
    config: StackConfig, name: str, node: Session, listeners: AsyncExitStack, *, seconds: int
) -> frozenset[str] | None:
    """The ports that are taken, such as `tcp 6443`; None where the node cannot listen at all."""
    import asyncssh

    own = needs.own_ports(config, name)
    tcp = ",".join(map(str, dict.fromkeys((*own["tcp"], *needs.mesh_ports(config)))))
    udp = ",".join(map(str, own["udp"]))
    command = _perl("listen", "0.0.0.0", tcp, udp)  # noqa: S104
    taken: set[str] = set()
    try:
        process = await listeners.enter_async_context(node.started(command, seconds=seconds))
        async with asyncio.timeout(_READY_SECONDS):
            async for line in process.stdout:
                if line.strip() == "ready":
                    return frozenset(taken)
                taken.add(line.strip().removeprefix("busy "))
    except (NoSession, OSError, asyncssh.Error):  # a TimeoutError is an OSError
        pass
    return None


def _connect(config: StackConfig, name: str, heard: Mapping[str, frozenset[str]]) -> str:
    """Tries every other node that listens; an overlay that is there already answers to nobody."""
    is_etcd = bool(needs.etcd_ports(config, name))
    targets = []
    for other, taken in heard.items():
        if other == name:
            continue
        tcp = [*needs.tcp_ports(config, other), *needs.mesh_ports(config)]
        if is_etcd:
            tcp += needs.etcd_ports(config, other)
        udp = [port for port in (needs.OVERLAY,) if f"udp {port}" not in taken]
        address = config.machines.nodes[other].address
        targets.append(f"{other}={address}={','.join(map(str, tcp))}={','.join(map(str, udp))}")
    return _perl("connect", *targets)


def _perl(*arguments: str) -> str:
    return shlex.join(["perl", "-e", (_HERE / "probe.pl").read_text(), *arguments])


def _is_address(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True
