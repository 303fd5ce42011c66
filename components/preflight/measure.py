"""Measure all nodes at once: one script on each, and every network path between two of them."""

import asyncio
import shlex
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from math import ceil
from pathlib import Path

from components.host.table import KUBELET_START
from components.host.templates import render
from components.preflight import needs
from components.preflight.facts import Clock, Facts, Link, Measured, links
from components.remote.nodes_ssh import Answer, Login, NoSession, Session, Sessions
from config import StackConfig
from config.ports import OVERLAY
from config.scalars.durations import seconds

_HERE = Path(__file__).parent
# Beyond the window: names, hosts and the disk are tested for at most five seconds each.
_SCRIPT_SECONDS = 45
# The longest that measure.sh waits for an earlier run that still works on the node.
_WAIT_SECONDS = 120
_READY_SECONDS = 60
_CONNECT_SECONDS = 20  # and 20 more for each other node: a closed port takes up to 8
_CLOCK_READINGS = 3


def measure(config: StackConfig, logins: Mapping[str, Login]) -> dict[str, Measured]:
    """Measure each node, by name; this takes the window of `preflight` and a few seconds.

    It runs its own event loop: call it in a thread if the caller has one.
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
        nodes = {name: node for name, node in opened.items() if isinstance(node, Session)}
        own, (busy, paths) = await asyncio.gather(
            asyncio.gather(*(_own(config, name, node) for name, node in nodes.items())),
            _network(config, nodes),
        )
        result = {
            name: Measured(problem=why) for name, why in opened.items() if isinstance(why, str)
        }
        for name, (answer, clock) in zip(nodes, own, strict=True):
            ports = busy.get(name, frozenset())
            result[name] = _measured(answer, clock, paths.get(name, {}), ports)
        return result


async def _opened(sessions: Sessions, login: Login) -> Session | str:
    """Open a session, or say why that failed."""
    try:
        return await sessions.open(login)
    except NoSession as error:
        return str(error)


async def _own(config: StackConfig, name: str, node: Session) -> tuple[Answer, Clock | None]:
    """Run the script of measurements on a node, and read its clock."""
    clock = await _clock(node)
    window = ceil(seconds(config.preflight.window))
    limit = window + _WAIT_SECONDS + _SCRIPT_SECONDS
    return await node.run(_script(config, name, window), seconds=limit), clock


def _script(config: StackConfig, name: str, window: int) -> str:
    endpoints = needs.endpoints(config)
    names = [host for host, _ in endpoints if not _is_address(host)]
    settings = {
        "ADDRESS": config.machines.nodes[name].cluster_address,
        "PEERS": " ".join(
            node.cluster_address
            for other, node in sorted(config.machines.present.items())
            if other != name
        ),
        "WINDOW": str(window),
        "ETCD": str(bool(needs.etcd_ports(config, name))).lower(),
        "NAMES": " ".join(names),
        "ENDPOINTS": " ".join(f"{host}:{port}" for host, port in endpoints),
        "PACKAGES": " ".join(needs.packages(config, name)),
        "RESOLVER": needs.resolver(config),
        "VOLUMES": needs.volumes(config, name),
        "KUBELET_START": render(KUBELET_START.lstrip("/")),
        "PROBE": (_HERE / "probe.pl").read_text(),
    }
    if config.artifacts.proxy is not None:
        settings["https_proxy"] = config.artifacts.proxy.url
        settings["no_proxy"] = config.artifacts.direct
    exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in settings.items())
    return f"bash -c {shlex.quote(exports + (_HERE / 'measure.sh').read_text())}"


def _measured(
    answer: Answer, clock: Clock | None, paths: Mapping[str, Link], busy: frozenset[str]
) -> Measured:
    facts = Facts(answer.text)
    if answer.problem is not None or not facts.is_whole:
        return Measured(problem=answer.problem or "its output was cut off")
    return Measured(facts=facts, clock=clock, links=paths, busy=busy)


async def _clock(node: Session) -> Clock | None:
    """The reading with the shortest round trip; the clock counts as read in the middle of it."""
    best: Clock | None = None
    for _ in range(_CLOCK_READINGS):
        asked = time.time()
        answer = await node.run("date +%s.%N", seconds=5, as_root=False)
        answered = time.time()
        try:
            # A shell's startup file may print something before it.
            remote = float(answer.text.split()[-1])
        except (IndexError, ValueError):
            continue
        reading = Clock(ahead=remote - (asked + answered) / 2, error=(answered - asked) / 2)
        if best is None or reading.error < best.error:
            best = reading
    return best


Busy = dict[str, frozenset[str]]
Paths = dict[str, dict[str, Link]]


async def _network(config: StackConfig, nodes: Mapping[str, Session]) -> tuple[Busy, Paths]:
    """The ports in use on each node, and the paths between any two of them.

    Every node listens on the free ports while the other nodes connect.
    """
    limit = _CONNECT_SECONDS * (1 + len(nodes))
    async with AsyncExitStack() as listeners:
        busy = dict(
            zip(
                nodes,
                await asyncio.gather(
                    *(
                        _listening(config, name, node, listeners, seconds=_READY_SECONDS + limit)
                        for name, node in nodes.items()
                    )
                ),
                strict=True,
            )
        )
        in_use = {name: ports for name, ports in busy.items() if ports is not None}
        answers = await asyncio.gather(
            *(
                node.run(_connect(config, name, in_use), seconds=limit)
                for name, node in nodes.items()
            )
        )
        paths = {name: links(answer.text) for name, answer in zip(nodes, answers, strict=True)}
    return in_use, paths


async def _listening(
    config: StackConfig, name: str, node: Session, listeners: AsyncExitStack, *, seconds: int
) -> frozenset[str] | None:
    """The ports in use, for example `tcp 6443`; None if the node cannot listen at all."""
    import asyncssh  # 0.1 s to 0.3 s, which other commands do not need

    own = needs.own_ports(config, name)
    tcp = ",".join(map(str, dict.fromkeys((*own["tcp"], *needs.mesh_ports(config)))))
    udp = ",".join(map(str, own["udp"]))
    command = _perl("listen", "0.0.0.0", tcp, udp)  # noqa: S104
    in_use: set[str] = set()
    try:
        process = await listeners.enter_async_context(node.started(command, seconds=seconds))
        async with asyncio.timeout(_READY_SECONDS):
            async for line in process.stdout:
                word, _, port = line.strip().partition(" ")
                if word == "busy":
                    in_use.add(port)
                elif line.strip() == "ready":
                    return frozenset(in_use)
    except (NoSession, OSError, asyncssh.Error):  # a TimeoutError is an OSError
        pass
    return None


def _connect(config: StackConfig, name: str, in_use: Mapping[str, frozenset[str]]) -> str:
    """A command that connects to every other node; a running overlay never answers on its port."""
    is_etcd = bool(needs.etcd_ports(config, name))
    targets = []
    for other, ports in in_use.items():
        if other == name:
            continue
        tcp = [*needs.tcp_ports(config, other), *needs.mesh_ports(config)]
        if is_etcd:
            tcp += needs.etcd_ports(config, other)
        udp = [port for port in (OVERLAY,) if f"udp {port}" not in ports]
        address = config.machines.nodes[other].cluster_address
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
