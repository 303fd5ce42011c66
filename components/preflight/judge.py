"""What was measured, held against what the stack asks: pure functions, a check each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import combinations

from components.failures import explain
from components.preflight import needs
from components.preflight.facts import Facts, Measured
from config import ExistingNode, StackConfig, capacity
from config.resources import KINDS
from config.scalars.durations import seconds
from config.scalars.quantities import quantity

_TESTED = {("debian", "12")}
_UNAME = {"amd64": "x86_64", "arm64": "aarch64"}
_MACHINES = ("none", "kvm", "amazon", "google", "qemu")
_CONTAINERS = ("docker", "lxc", "lxc-libvirt", "openvz", "podman", "systemd-nspawn", "wsl")
# With less stolen time since it was started, a machine may well have cores of its own.
_SHARED_CORES = 0.5
_MICROSECONDS = 6  # decimals of a second, to which clocks are read
_ADOPTED = ("conflicts", "in-use")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check that failed: what was measured, how far it may go, and what to do.

    nodes: one, or the two ends of a way. refuses: whether it is more than a warning. let_through:
    the reason of an override.
    """

    check: str
    nodes: tuple[str, ...]
    measured: str
    limit: str
    remedy: str
    refuses: bool = True
    let_through: str | None = None

    @property
    def stops(self) -> bool:
        """Whether nothing may be changed because of it."""
        return self.refuses and self.let_through is None


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node that could be measured, as the checks see it."""

    name: str
    config: StackConfig
    facts: Facts
    measured: Measured

    @property
    def is_etcd(self) -> bool:
        return bool(needs.etcd_ports(self.config, self.name))

    def finding(
        self, check: str, measured: str, limit: str, remedy: str, *, refuses: bool = True
    ) -> Finding:
        return Finding(
            check=check,
            nodes=(self.name,),
            measured=measured,
            limit=limit,
            remedy=remedy,
            refuses=refuses,
        )


def judge(config: StackConfig, measured: Mapping[str, Measured]) -> list[Finding]:
    """Every check that fails on any node, in the order of the nodes' names."""
    nodes = [
        Node(name=name, config=config, facts=one.facts, measured=one)
        for name, one in sorted(measured.items())
        if one.problem is None
    ]
    found = [*_logins(config, measured)]
    found += [finding for node in nodes for check in _CHECKS for finding in check(node)]
    found += [finding for check in _TOGETHER for finding in check(config, nodes)]
    return [_let_through(config, finding) for finding in found]


def members(measured: Mapping[str, Measured]) -> set[str]:
    """The nodes that belong to the cluster already."""
    return {name for name, one in measured.items() if one.facts.is_member}


def _let_through(config: StackConfig, finding: Finding) -> Finding:
    override = config.preflight.override.get(finding.check)
    if override and (not override.nodes or set(override.nodes) & set(finding.nodes)):
        return replace(finding, let_through=override.reason)
    if finding.check in _ADOPTED:
        node = config.machines.nodes[finding.nodes[0]]
        if isinstance(node, ExistingNode) and node.adopt:
            return replace(finding, let_through=node.adopt)
    return finding


def _logins(config: StackConfig, measured: Mapping[str, Measured]) -> Iterator[Finding]:
    for name, one in sorted(measured.items()):
        if one.problem is None:
            continue
        login = config.machines.login(config.machines.nodes[name])
        if "sudo" in one.problem:
            remedy = f"let {login.user} use sudo without a password, or set a user who may"
        else:
            bastion = login.bastion.address if login.bastion else None
            remedy = explain(name, one.problem, bastion=bastion) or (
                "look at the machine over your provider's console, then run this again"
            )
        yield Finding(
            check="login",
            nodes=(name,),
            measured=one.problem,
            limit="a session as root",
            remedy=remedy,
        )


# --- what a machine is


def _system(node: Node) -> Iterator[Finding]:
    release = node.facts.one("os"), node.facts.one("os-version")
    if release not in _TESTED:
        yield node.finding(
            "os",
            " ".join(release),
            "Debian 12; Ubuntu 20.04 and 22.04 are written for, and not tested",
            "install Debian 12",
            refuses=release[0] not in ("debian", "ubuntu"),
        )
    machine = node.facts.one("architecture")
    declared = node.config.machines.nodes[node.name].architecture
    if machine != _UNAME[declared]:
        yield node.finding(
            "architecture",
            machine or "not known",
            f"{_UNAME[declared]}, which {declared} binaries are for",
            f"write what it is at nordmesh:machines.nodes.{node.name}.architecture",
        )


def _virtualization(node: Node) -> Iterator[Finding]:
    kind = node.facts.one("virtualization")
    if kind in _MACHINES:
        return
    yield node.finding(
        "virtualization",
        kind or "not known",
        "KVM, or a machine of its own",
        "take a machine with a kernel of its own: kubelet and the CNI change the kernel's settings"
        if kind in _CONTAINERS
        else "ask the provider whether it is KVM, which the guides and the tests are for",
        refuses=kind in _CONTAINERS,
    )


def _aes(node: Node) -> Iterator[Finding]:
    if "aes" not in node.facts.one("cpu-flags").split():
        yield node.finding(
            "aes",
            "the CPU shows no AES instructions",
            "aes among the CPU's flags",
            "ask the provider for the CPU model host-passthrough; without it mutual TLS takes "
            "several times the CPU",
            refuses=node.config.istio is not None,
        )


def _steal(node: Node) -> Iterator[Finding]:
    limit, window = node.config.preflight.limits.steal, node.config.preflight.window
    steal, since_boot = node.facts.steal, node.facts.steal_since_boot
    if steal is None:
        yield node.finding(
            "steal",
            "the kernel counted no CPU time",
            f"at most {limit:g}% over {window}",
            "set a longer preflight.window",
        )
    elif steal > limit:
        yield node.finding(
            "steal",
            f"{steal:.1f}% of the CPU time over {window}",
            f"at most {limit:g}%",
            "move to dedicated cores, or to a host with fewer neighbours: a mesh on such a machine "
            "takes seconds where it should take milliseconds",
        )
    elif since_boot is not None and since_boot > _SHARED_CORES:
        yield node.finding(
            "dedicated-cores",
            f"{since_boot:.1f}% of the CPU time stolen since the machine was started",
            f"dedicated cores lose less than {_SHARED_CORES:g}%",
            "ask the provider for dedicated cores",
            refuses=False,
        )


def _size(node: Node) -> Iterator[Finding]:
    limits = node.config.preflight.limits
    cores, memory = node.facts.number("cores"), _memory(node)
    if cores is not None and cores < limits.cores:
        yield node.finding(
            "cores", f"{cores}", f"at least {limits.cores}", "take a machine with more cores"
        )
    if memory is not None and memory < quantity(limits.memory):
        yield node.finding(
            "memory",
            capacity.shown("memory", memory),
            f"at least {limits.memory}",
            "take a machine with more memory",
        )
    declared = node.config.machines.nodes[node.name].capacity
    if declared is None or cores is None or memory is None:
        return
    there = capacity.less_reserved(node.config, {"cpu": Decimal(cores), "memory": memory})
    for kind in KINDS:
        if quantity(getattr(declared, kind)) > there[kind]:
            yield node.finding(
                "mesh-capacity",
                f"the stack file counts on {getattr(declared, kind)} of {kind}, and the machine "
                f"has {capacity.shown(kind, there[kind])} for pods",
                "what the machine has, less what kubelet keeps for itself and the system",
                f"write what `kubectl get node` shows at machines.nodes.{node.name}.capacity",
            )


def _of_milliseconds(time: float) -> Decimal:
    """A measured time in seconds."""
    return _exact(time) / 1000


def _exact(measured: float) -> Decimal:
    """A measurement as it was read, to be held against a limit as it is written: 1.1 is 1.1."""
    return Decimal(str(measured))


def _memory(node: Node) -> Decimal | None:
    kibibytes = node.facts.number("memory-kib")
    return None if kibibytes is None else Decimal(kibibytes) * 1024


# --- its disk


def _disk(node: Node) -> Iterator[Finding]:
    limits = node.config.preflight.limits
    if node.facts.disk_free is not None:
        place, free = node.facts.disk_free
        needed = quantity(limits.disk_space) / 1024**2
        if free < needed:
            yield node.finding(
                "disk-space",
                f"{free} MiB free below {place}",
                f"at least {needed:.0f} MiB",
                "free space or grow the disk: a full disk stops containerd, kubelet and etcd",
            )
    if node.facts.disk_is_rotational:
        yield node.finding(
            "disk-kind",
            f"{node.facts.one('disk').split()[0]} says that it turns",
            "NVMe, since etcd waits for each write",
            "take a machine with NVMe, at least for the control plane",
            refuses=False,
        )


def _sync(node: Node) -> Iterator[Finding]:
    if not node.is_etcd or node.facts.is_member:
        return
    limit, p99 = node.config.preflight.limits.sync_latency, node.facts.sync_p99
    if p99 is None:
        yield node.finding(
            "sync-latency",
            f"could not be measured: {node.facts.one('sync') or 'nothing was printed'}",
            f"at most {limit}",
            "see whether root may write below /var/lib",
        )
    elif _of_milliseconds(p99) > seconds(limit):
        yield node.finding(
            "sync-latency",
            f"99% of fdatasync calls within {p99:.1f} ms",
            f"at most {limit}, where etcd writes",
            "take NVMe with dedicated throughput: etcd elects a new leader when writes are slow",
        )


# --- its place among others


def _clock_source(node: Node) -> Iterator[Finding]:
    said = node.facts.one("clock-synchronized")
    if said != "yes":
        yield node.finding(
            "time-sync",
            "the clock is not synchronised" if said else "nothing says that the clock is set",
            "set by NTP (adjtimex, as `timedatectl` shows it)",
            "run `apt-get install systemd-timesyncd` and `timedatectl set-ntp true`: certificates "
            "and etcd's leases are read by the clock",
        )


def _address(node: Node) -> Iterator[Finding]:
    address = node.config.machines.nodes[node.name].address
    if address not in node.facts.all("address"):
        yield node.finding(
            "address",
            f"{address} is on none of its interfaces; it has "
            f"{', '.join(node.facts.all('address')) or 'none that is known'}",
            f"machines.nodes.{node.name}.address on the machine itself",
            "write the address that the machine has; behind NAT, one at which nodes reach it",
        )


def _kernel(node: Node) -> Iterator[Finding]:
    missing = [
        name
        for name in ("overlay", "br_netfilter", "vxlan")
        if name not in node.facts.all("module")
    ]
    if missing:
        yield node.finding(
            "kernel-modules",
            f"no {', '.join(missing)}",
            "overlay for containerd, br_netfilter for services, vxlan for the pod network",
            "install the distribution's own kernel (Debian: linux-image-amd64) and restart",
        )
    swaps = node.facts.all("swap")
    if swaps and node.config.kubernetes.kubelet.get("failSwapOn") is not False:
        yield node.finding(
            "swap",
            f"on: {', '.join(swaps)}",
            "none; kubelet 1.23 refuses to start with it",
            "run `swapoff -a` and take swap out of /etc/fstab",
        )


def _outside(node: Node) -> Iterator[Finding]:
    for host, port in needs.endpoints(node.config):
        is_name = not host.replace(".", "").isdigit()
        if is_name and host not in node.facts.all("resolves"):
            yield node.finding(
                "dns",
                f"{host} is not resolved",
                "the names that the node downloads from",
                "set a name server in /etc/resolv.conf that answers from this machine",
            )
        elif f"{host}:{port}" not in node.facts.all("reaches"):
            yield node.finding(
                "downloads",
                f"{host} port {port} does not answer",
                "the places that binaries and images come from",
                "open the way there, or set nordmesh:artifacts.mirror and registry",
            )


# --- what it runs already


def _conflicts(node: Node) -> Iterator[Finding]:
    if node.facts.is_prepared or node.facts.is_member:
        return
    firewalls = [name for name in ("ufw", "firewalld") if name in node.facts.all("service")]
    if firewalls:
        yield node.finding(
            "conflicts",
            f"{' and '.join(firewalls)} is on",
            "no firewall that drops what kube-proxy and the CNI let through",
            f"run `{_stop(firewalls[0])}`; nordmesh:host.firewall has rules of its own",
        )
    packages = [name for name in node.facts.all("package") if name not in ("ufw", "firewalld")]
    if packages:
        yield node.finding(
            "conflicts",
            f"installed: {', '.join(packages)}",
            "containerd and Kubernetes from the lock file alone",
            f"run `apt-get remove {' '.join(packages)}`, or take another machine",
        )


def _stop(firewall: str) -> str:
    return "ufw disable" if firewall == "ufw" else f"systemctl disable --now {firewall}"


def _in_use(node: Node) -> Iterator[Finding]:
    facts = node.facts
    if facts.is_prepared or facts.is_member:
        return
    running = [name for name in facts.all("service") if name not in ("ufw", "firewalld")]
    running += [f"{len(facts.all('container'))} containers"] if facts.all("container") else []
    wanted = {
        f"{kind} {port}"
        for kind, ports in needs.own_ports(node.config, node.name).items()
        for port in ports
    }
    users = {f"{one.protocol} {one.port}": one.program for one in facts.listeners}
    running += [
        f"{port} is taken" + (f" by {users[port]}" if users.get(port, "-") != "-" else "")
        for port in sorted(node.measured.busy & wanted)
    ]
    running += facts.all("found")
    if running:
        yield node.finding(
            "in-use",
            "; ".join(running),
            "a machine that runs nothing yet",
            "take another machine, or remove what it runs; to take it over with all that, write "
            f"the reason at nordmesh:machines.nodes.{node.name}.adopt",
        )


_CHECKS: tuple[Callable[[Node], Iterator[Finding]], ...] = (
    _system,
    _virtualization,
    _aes,
    _steal,
    _size,
    _disk,
    _sync,
    _clock_source,
    _address,
    _kernel,
    _outside,
    _conflicts,
    _in_use,
)


# --- what only all of them together tell


def _unique(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    del config
    remedies = {
        "hostname": "run `hostnamectl set-hostname NAME` on one of them",
        "machine-id": "on one of them, run `rm /etc/machine-id && systemd-machine-id-setup` and "
        "restart it",
        "mac": "give one of them another MAC address",
        "product-uuid": "give the guests different UUIDs on the hypervisor",
    }
    for check, remedy in remedies.items():
        owners: dict[str, str] = {}
        for node in nodes:
            if check == "mac":
                value = node.facts.interface.mac if node.facts.interface else ""
            else:
                value = node.facts.one(check)
            if check == "machine-id" and not value:
                yield node.finding(
                    check, "it has none", "one of its own", "run `systemd-machine-id-setup`"
                )
            owner = owners.setdefault(value, node.name)
            if value and owner != node.name:
                yield Finding(
                    check=check,
                    nodes=(owner, node.name),
                    measured=f"both have {value}",
                    limit="each node has its own; machines cloned from one image share it",
                    remedy=remedy,
                )


def _skew(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    limit = config.preflight.limits.clock_skew
    clocks = {node.name: node.measured.clock for node in nodes if node.measured.clock}
    if len(clocks) < 2:
        return
    # How far they are apart at least: a clock that was read badly hides no other.
    earliest = {name: clock.ahead + clock.error for name, clock in clocks.items()}
    latest = {name: clock.ahead - clock.error for name, clock in clocks.items()}
    behind, ahead = min(earliest, key=earliest.__getitem__), max(latest, key=latest.__getitem__)
    apart = round(latest[ahead] - earliest[behind], _MICROSECONDS)
    if _exact(apart) > seconds(limit):
        yield Finding(
            check="clock",
            nodes=(ahead, behind),
            measured=f"the clock of {ahead} is {apart:.1f} s ahead of that of {behind}",
            limit=f"at most {limit} apart",
            remedy="set both by NTP: `timedatectl set-ntp true`",
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
            remedy="set the same MTU on the interfaces that have the nodes' addresses",
            refuses=False,
        )
    for node in nodes:
        for other, link in sorted(node.measured.links.items()):
            if link.full_size is False:
                yield Finding(
                    check="mtu",
                    nodes=(node.name, other),
                    measured=f"packets of {sizes.get(node.name, 'full')} bytes do not arrive",
                    limit="the interface's MTU on the whole way",
                    remedy="lower the MTU of the interfaces to what the network carries: larger "
                    "packets of the pod network would vanish",
                )


def _latency(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    limits = config.preflight.limits
    for one, other in combinations(nodes, 2):
        times = [
            link.round_trip
            for link in (
                one.measured.links.get(other.name),
                other.measured.links.get(one.name),
            )
            if link is not None and link.round_trip is not None
        ]
        longest = max(times, default=0.0)
        if _of_milliseconds(longest) > seconds(limits.latency_warning):
            are_etcd = one.is_etcd and other.is_etcd
            refuses = are_etcd and _of_milliseconds(longest) > seconds(limits.latency)
            yield Finding(
                check="latency",
                nodes=(one.name, other.name),
                measured=f"a round trip takes {longest:.2f} ms",
                limit=f"at most {limits.latency} between members of etcd"
                if are_etcd
                else f"better below {limits.latency_warning}",
                remedy="put the nodes into one data centre",
                refuses=refuses,
            )


def _ports(config: StackConfig, nodes: list[Node]) -> Iterator[Finding]:
    mesh = set(needs.mesh_ports(config))
    facts = {node.name: node.facts for node in nodes}
    closed: dict[tuple[str, str, str], list[str]] = {}
    for node in nodes:
        if "perl" in node.facts.all("missing"):
            yield node.finding(
                "ports",
                "perl is not there, so neither ports nor the disk could be tried",
                "perl-base, which every Debian and Ubuntu has",
                "run `apt-get install perl-base`",
            )
        for other, link in node.measured.links.items():
            # A node that is to join is a stranger to those that are there.
            own = config.machines.nodes[node.name].address
            is_kept_out = other in facts and facts[other].keeps_out(own)
            kept = needs.closed_ports(config, other) if is_kept_out else {}
            for check, kind, tried in (
                ("ports", "tcp", {p: said for p, said in link.tcp.items() if p not in mesh}),
                ("ports", "udp", link.udp),
                ("mesh-ports", "tcp", {p: said for p, said in link.tcp.items() if p in mesh}),
            ):
                failed = {
                    port: said
                    for port, said in tried.items()
                    if said != "ok" and port not in kept.get(kind, ())
                }
                for said in sorted(set(failed.values())):
                    some = _spans(port for port, why in failed.items() if why == said)
                    closed.setdefault((check, other, f"{kind} {some}: {said}"), []).append(
                        node.name
                    )
    for (check, target, what), sources in closed.items():
        yield Finding(
            check=check,
            nodes=(target, *sources),
            measured=f"{what}, from {', '.join(sources)}",
            limit="open between all nodes"
            if check == "ports"
            else "open between all nodes, say the guides; the mesh itself is inside the overlay",
            remedy=f"let these ports of {target} in from the nodes' addresses, at the provider's "
            "firewall and on the machine",
            refuses=check == "ports",
        )


def _spans(ports: Iterator[int]) -> str:
    """Ports with neighbours drawn together: 15000-15021, 6443."""
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
                "memory": _memory(node) or Decimal(0),
            },
        )
        for node in workers
    ]
    there = {kind: sum((one[kind] for one in for_pods), Decimal(0)) for kind in KINDS}
    for kind in KINDS:
        if wanted[kind] > there[kind]:
            yield Finding(
                check="mesh-capacity",
                nodes=tuple(node.name for node in workers),
                measured=f"{capacity.shown(kind, there[kind])} of {kind} for pods in all",
                limit=f"{capacity.shown(kind, wanted[kind])} for the proxies of the declared pods, "
                "20% of it in reserve",
                remedy="add a node, or make sidecars smaller (istio.proxy.requests, "
                "mesh.workloads)",
                # A node that is added to a cluster without room is better than none.
                refuses=not any(node.facts.is_member for node in workers),
            )


_TOGETHER: tuple[Callable[[StackConfig, list[Node]], Iterator[Finding]], ...] = (
    _unique,
    _skew,
    _mtu,
    _latency,
    _ports,
    _capacity,
)
