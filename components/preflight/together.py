"""The checks of the preflight that compare nodes with each other: pure functions, one a check."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import combinations

from components.preflight import needs
from components.preflight.facts import exact, of_milliseconds
from components.preflight.findings import Finding, Node
from config import StackConfig, capacity
from config.resources import KINDS
from config.scalars.durations import seconds

_MICROSECONDS = 6  # decimals of a second, the precision of clock readings


def _unique(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    del config
    fixes = {
        "hostname": "run `hostnamectl set-hostname NAME` on one of them",
        "machine-id": "on one of them, run `rm /etc/machine-id && systemd-machine-id-setup` and "
        "reboot it",
        "mac": "give one of them another MAC address",
        "product-uuid": "give the guests different UUIDs on the hypervisor",
    }
    for check, fix in fixes.items():
        owners: dict[str, str] = {}
        for node in nodes:
            if check == "mac":
                value = node.facts.interface.mac if node.facts.interface else ""
            else:
                value = node.facts.value(check)
            if check == "machine-id" and not value:
                yield node.finding(
                    check, "it has none", "each node has its own", "run `systemd-machine-id-setup`"
                )
            owner = owners.setdefault(value, node.name)
            if value and owner != node.name:
                yield Finding(
                    check=check,
                    nodes=(owner, node.name),
                    measured=f"both have {value}",
                    limit="each node has its own, which clones of one image do not",
                    fix=fix,
                )


def _skew(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    limit = config.preflight.limits.clock_skew
    clocks = {node.name: node.measured.clock for node in nodes if node.measured.clock}
    if len(clocks) < 2:
        return
    # The least difference: an uncertain reading of one clock must not hide the others.
    earliest = {name: clock.ahead + clock.error for name, clock in clocks.items()}
    latest = {name: clock.ahead - clock.error for name, clock in clocks.items()}
    behind, ahead = min(earliest, key=earliest.__getitem__), max(latest, key=latest.__getitem__)
    apart = round(latest[ahead] - earliest[behind], _MICROSECONDS)
    if exact(apart) > seconds(limit):
        yield Finding(
            check="clock",
            nodes=(ahead, behind),
            measured=f"the clock of {ahead} is {apart:.1f} s ahead of {behind}",
            limit=f"at most {limit} apart",
            fix="run `timedatectl set-ntp true` on both",
        )


def _mtu(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    del config
    sizes = {node.name: node.facts.interface.mtu for node in nodes if node.facts.interface}
    if len(set(sizes.values())) > 1:
        yield Finding(
            check="mtu",
            nodes=tuple(sizes),
            measured=", ".join(f"{name} {mtu}" for name, mtu in sizes.items()),
            limit="the same on all nodes",
            fix="set the same MTU on the interfaces with the nodes' addresses",
            refuses=False,
        )
    for node in nodes:
        for other, link in sorted(node.measured.links.items()):
            if link.full_size is False:
                yield Finding(
                    check="mtu",
                    nodes=(node.name, other),
                    measured=f"packets of {sizes.get(node.name, 'full')} bytes do not arrive",
                    limit="the interface's MTU on the whole path",
                    fix="lower the MTU of the interfaces to that of the network: it drops larger "
                    "packets",
                )


def _latency(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    limits = config.preflight.limits
    for first, second in combinations(nodes, 2):
        times = [
            link.round_trip
            for link in (
                first.measured.links.get(second.name),
                second.measured.links.get(first.name),
            )
            if link is not None and link.round_trip is not None
        ]
        longest = max(times, default=0.0)
        if of_milliseconds(longest) > seconds(limits.latency_warning):
            are_etcd = first.is_etcd and second.is_etcd
            refuses = are_etcd and of_milliseconds(longest) > seconds(limits.latency)
            yield Finding(
                check="latency",
                nodes=(first.name, second.name),
                measured=f"a round trip takes {longest:.2f} ms",
                limit=f"at most {limits.latency} between members of etcd"
                if are_etcd
                else f"at most {limits.latency_warning} recommended",
                fix="put the nodes into one data centre",
                refuses=refuses,
            )


def _ports(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    mesh = set(needs.mesh_ports(config))
    facts = {node.name: node.facts for node in nodes}
    closed: dict[tuple[str, str, str], list[str]] = {}
    for node in nodes:
        if "perl" in node.facts.values("missing"):
            yield node.finding(
                "ports",
                "perl is not installed, so ports and the disk could not be tested",
                "perl-base, which is part of every Debian and Ubuntu",
                "run `apt-get install perl-base`",
            )
        for other, link in node.measured.links.items():
            # Until a node has joined, the firewalls of the members block it.
            address = config.machines.nodes[node.name].cluster_address
            is_blocked = other in facts and facts[other].blocks(address)
            blocked = needs.closed_ports(config, other) if is_blocked else {}
            for check, kind, results in (
                ("ports", "tcp", {p: result for p, result in link.tcp.items() if p not in mesh}),
                ("ports", "udp", link.udp),
                ("mesh-ports", "tcp", {p: result for p, result in link.tcp.items() if p in mesh}),
            ):
                failed = {
                    port: result
                    for port, result in results.items()
                    if result != "ok" and port not in blocked.get(kind, ())
                }
                for error in sorted(set(failed.values())):
                    ports = _spans(port for port, result in failed.items() if result == error)
                    closed.setdefault((check, other, f"{kind} {ports}: {error}"), []).append(
                        node.name
                    )
    for (check, target, what), sources in closed.items():
        yield Finding(
            check=check,
            nodes=(target, *sources),
            measured=f"{what}, from {', '.join(sources)}",
            limit="open between all nodes"
            if check == "ports"
            else "open between all nodes, as setup guides ask; the mesh itself uses the overlay",
            fix=f"allow these ports of {target} from the nodes' addresses, in the provider's "
            "firewall and on the machine",
            refuses=check == "ports",
        )


def _spans(ports: Iterator[int]) -> str:
    """Ports as ranges: 6443, 15000-15021."""
    spans: list[list[int]] = []
    for port in sorted(ports):
        if spans and spans[-1][-1] == port - 1:
            spans[-1].append(port)
        else:
            spans.append([port])
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else f"{span[0]}" for span in spans)


def _capacity(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    names = set(capacity.nodes(config))
    workers = [node for node in nodes if node.name in names]
    if {node.name for node in workers} != names:
        return
    wanted = capacity.needed(config)
    for_pods = [
        capacity.less_reserved(
            config,
            {
                "cpu": Decimal(node.facts.number("cores") or 0),
                "memory": node.facts.memory or Decimal(0),
            },
        )
        for node in workers
    ]
    available = {kind: sum((node[kind] for node in for_pods), Decimal(0)) for kind in KINDS}
    for kind in KINDS:
        if wanted[kind] > available[kind]:
            yield Finding(
                check="mesh-capacity",
                nodes=tuple(node.name for node in workers),
                measured=f"the workers have {capacity.shown(kind, available[kind])} of {kind} for "
                "pods",
                limit=f"at least {capacity.shown(kind, wanted[kind])} for the proxies of the "
                "declared pods, plus 20%",
                fix="add a node, or reduce the sidecars' requests (nordmesh:istio.proxy.requests, "
                "nordmesh:mesh.workloads)",
                # A new node that is too small still helps a full cluster.
                refuses=not any(node.facts.is_member for node in workers),
            )


CHECKS: tuple[Callable[[StackConfig, list[Node]], Iterator[Finding]], ...] = (
    _unique,
    _skew,
    _mtu,
    _latency,
    _ports,
    _capacity,
)
