"""Compare the measurements of each node with the stack's limits: pure functions, one a check."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal

from components.preflight import addresses, disks, distribution, needs, together
from components.preflight.facts import Measured, of_milliseconds
from components.preflight.findings import Finding, Node
from components.remote.failures import explain, hint
from config import ExistingNode, StackConfig, capacity
from config.errors import step
from config.resources import KINDS
from config.scalars.durations import seconds
from config.scalars.quantities import quantity

_TESTED = {("debian", "12")}
_UNAME = {"amd64": "x86_64", "arm64": "aarch64"}
_MACHINES = ("none", "kvm", "amazon", "google", "qemu")
_CONTAINERS = ("docker", "lxc", "lxc-libvirt", "openvz", "podman", "systemd-nspawn", "wsl")
# With less stolen time since boot, a machine may well have dedicated cores.
_SHARED_CORES = 0.5
_ADOPTED = ("conflicts", "in-use")


def judge(config: StackConfig, measured: Mapping[str, Measured]) -> list[Finding]:
    """The findings of all nodes, in the order of their names."""
    nodes = [
        Node(name=name, config=config, facts=node.facts, measured=node)
        for name, node in sorted(measured.items())
        if node.problem is None
    ]
    findings = [*_logins(config, measured)]
    findings += [finding for node in nodes for check in _CHECKS for finding in check(node)]
    findings += [finding for check in together.CHECKS for finding in check(config, nodes)]
    return [waived(config, finding) for finding in findings]


def members(measured: Mapping[str, Measured]) -> set[str]:
    """The nodes that belong to the cluster already."""
    return {name for name, node in measured.items() if node.facts.is_member}


def waived(config: StackConfig, finding: Finding) -> Finding:
    """The finding with the reason of its override, if it has one."""
    override = config.preflight.override.get(finding.check)
    if override and (not override.nodes or set(override.nodes) & set(finding.nodes)):
        return replace(finding, waived=override.reason)
    if finding.check in _ADOPTED:
        node = config.machines.nodes[finding.nodes[0]]
        if isinstance(node, ExistingNode) and node.adopt:
            return replace(finding, waived=node.adopt)
    return finding


def _logins(config: StackConfig, measured: Mapping[str, Measured]) -> Iterator[Finding]:
    for name, node in sorted(measured.items()):
        if node.problem is None:
            continue
        login = config.machines.login(config.machines.nodes[name])
        if "sudo" in node.problem:
            fix = f"allow {login.user} to run sudo without a password, or set a user who may"
        else:
            bastion = login.bastion.address if login.bastion else None
            fix = (
                explain(name, node.problem, bastion=bastion)
                or hint(name, node.problem)
                or "check the machine on your provider's console, then run this again"
            )
        yield Finding(
            check="login",
            nodes=(name,),
            measured=node.problem,
            limit="a session as root",
            fix=fix,
        )


# --- the machine


def _system(node: Node) -> Iterator[Finding]:
    release = node.facts.value("os"), node.facts.value("os-version")
    if release not in _TESTED:
        yield node.finding(
            "os",
            " ".join(release),
            "Debian 12; Ubuntu 20.04 and 22.04 are supported, but not tested",
            "install Debian 12",
            refuses=release[0] not in ("debian", "ubuntu"),
        )
    machine = node.facts.value("architecture")
    declared = node.config.machines.nodes[node.name].architecture
    if machine != _UNAME[declared]:
        yield node.finding(
            "architecture",
            machine or "unknown",
            f"{_UNAME[declared]}, which {declared} binaries need",
            f"set nordmesh:machines.nodes{step(node.name)}.architecture to the machine's own",
        )


def _virtualization(node: Node) -> Iterator[Finding]:
    kind = node.facts.value("virtualization")
    if kind in _MACHINES:
        return
    yield node.finding(
        "virtualization",
        kind or "unknown",
        "KVM, or a physical machine",
        "use a machine with its own kernel: kubelet and the CNI change kernel settings"
        if kind in _CONTAINERS
        else "ask the provider whether it is KVM: nothing else is tested",
        refuses=kind in _CONTAINERS,
    )


def _aes(node: Node) -> Iterator[Finding]:
    if "aes" not in node.facts.value("cpu-flags").split():
        yield node.finding(
            "aes",
            "the CPU has no AES instructions",
            "aes in the CPU's flags",
            "ask the provider for the CPU model host-passthrough: without AES instructions, mutual "
            "TLS takes several times the CPU",
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
            "move to dedicated cores, or to a host with fewer neighbours: on this machine, a mesh "
            "needs seconds instead of milliseconds",
        )
    elif since_boot is not None and since_boot > _SHARED_CORES:
        yield node.finding(
            "dedicated-cores",
            f"{since_boot:.1f}% of the CPU time since boot was stolen",
            f"at most {_SHARED_CORES:g}% with dedicated cores",
            "ask the provider for dedicated cores",
            refuses=False,
        )


def _size(node: Node) -> Iterator[Finding]:
    limits = node.config.preflight.limits
    cores, memory = node.facts.number("cores"), node.facts.memory
    if cores is not None and cores < limits.cores:
        yield node.finding(
            "cores", f"{cores}", f"at least {limits.cores}", "use a machine with more cores"
        )
    if memory is not None and memory < quantity(limits.memory):
        yield node.finding(
            "memory",
            capacity.shown("memory", memory),
            f"at least {limits.memory}",
            "use a machine with more memory",
        )
    declared = node.config.machines.nodes[node.name].capacity
    if declared is None or cores is None or memory is None:
        return
    for_pods = capacity.less_reserved(node.config, {"cpu": Decimal(cores), "memory": memory})
    for kind in KINDS:
        if quantity(getattr(declared, kind)) > for_pods[kind]:
            yield node.finding(
                "mesh-capacity",
                f"the stack file declares {getattr(declared, kind)} of {kind}, but the machine has "
                f"{capacity.shown(kind, for_pods[kind])} for pods",
                "the machine's own, minus what kubelet keeps for itself and the system",
                f"set nordmesh:machines.nodes{step(node.name)}.capacity.{kind} to "
                f"{_rounded_down(kind, for_pods[kind])} or less",
            )


def _rounded_down(kind: str, amount: Decimal) -> str:
    """An amount as the stack file takes it."""
    return f"{int(amount * 1000)}m" if kind == "cpu" else f"{int(amount / 1024**2)}Mi"


# --- its disk


def _disk(node: Node) -> Iterator[Finding]:
    limits = node.config.preflight.limits
    if node.facts.disk_free is not None:
        directory, free = node.facts.disk_free
        needed = quantity(limits.disk_space) / 1024**2
        if free < needed:
            yield node.finding(
                "disk-space",
                f"{free} MiB free below {directory}",
                f"at least {needed:.0f} MiB",
                "free space or grow the disk: a full disk stops containerd, kubelet and etcd",
            )
    if node.facts.disk_is_rotational:
        yield node.finding(
            "disk-kind",
            f"{node.facts.value('disk').split()[0]} is a hard disk",
            "NVMe, because etcd waits for each write",
            "use a machine with NVMe, at least for the control plane",
            refuses=False,
        )


def _sync(node: Node) -> Iterator[Finding]:
    if not node.is_etcd or node.facts.is_member:
        return
    limit, p99 = node.config.preflight.limits.sync_latency, node.facts.sync_p99
    if p99 is None:
        yield node.finding(
            "sync-latency",
            f"could not be measured: {node.facts.value('sync') or 'no output'}",
            f"at most {limit}",
            "check that root can write below /var/lib",
        )
    elif of_milliseconds(p99) > seconds(limit):
        yield node.finding(
            "sync-latency",
            f"the p99 of fdatasync is {p99:.1f} ms",
            f"at most {limit} for etcd",
            "use NVMe with dedicated throughput: with slow writes, etcd keeps electing new leaders",
        )


# --- the machine in its network


def _clock_source(node: Node) -> Iterator[Finding]:
    answer = node.facts.value("clock-synchronized")
    if answer != "yes":
        yield node.finding(
            "time-sync",
            "the clock is not synchronised"
            if answer
            else "it is unknown whether the clock is synchronised",
            "set by NTP (adjtimex, as `timedatectl` shows it)",
            "run `apt-get install systemd-timesyncd` and `timedatectl set-ntp true`: certificates "
            "and etcd's leases depend on the clock",
        )


def _modules(node: Node) -> Iterator[Finding]:
    missing = [
        name
        for name in ("overlay", "br_netfilter", "vxlan")
        if name not in node.facts.values("module")
    ]
    if missing:
        yield node.finding(
            "kernel-modules",
            f"no {', '.join(missing)}",
            "overlay for containerd, br_netfilter for services, vxlan for the pod network",
            "install the distribution's own kernel (Debian: linux-image-amd64) and reboot",
        )


def _outside(node: Node) -> Iterator[Finding]:
    for host, port in needs.endpoints(node.config):
        is_name = not host.replace(".", "").isdigit()
        if f"{host}:{port}" in node.facts.values("reaches"):
            continue
        if is_name and host not in node.facts.values("resolves"):
            yield node.finding(
                "dns",
                f"{host} cannot be resolved",
                "the hosts that the node downloads from",
                "set a name server in /etc/resolv.conf that answers this machine",
            )
        else:
            yield node.finding(
                "downloads",
                f"{host} port {port} does not answer",
                "the hosts that the node downloads from",
                "allow the connection, or set nordmesh:artifacts.mirror and registry; for a proxy, "
                "set nordmesh:artifacts.proxy",
            )


# --- programs on the machine


def _conflicts(node: Node) -> Iterator[Finding]:
    if node.facts.is_prepared or node.facts.is_member:
        return
    firewalls = [name for name in ("ufw", "firewalld") if name in node.facts.values("service")]
    if firewalls:
        yield node.finding(
            "conflicts",
            f"{' and '.join(firewalls)} is on",
            "no firewall that drops the traffic of kube-proxy and the CNI",
            f"run {' and '.join(map(_stop, firewalls))}; nordmesh:host.firewall sets its own rules",
        )
    packages = [name for name in node.facts.values("package") if name not in ("ufw", "firewalld")]
    if packages:
        yield node.finding(
            "conflicts",
            f"installed: {', '.join(packages)}",
            "containerd and Kubernetes only from the lock file",
            f"run `apt-get remove {' '.join(packages)}`, or use another machine",
        )


def _stop(firewall: str) -> str:
    return "`ufw disable`" if firewall == "ufw" else f"`systemctl disable --now {firewall}`"


def _in_use(node: Node) -> Iterator[Finding]:
    facts = node.facts
    if facts.is_prepared or facts.is_member:
        return
    running = [name for name in facts.values("service") if name not in ("ufw", "firewalld")]
    running += [f"{len(facts.values('container'))} containers"] if facts.values("container") else []
    wanted = {
        f"{kind} {port}"
        for kind, ports in needs.own_ports(node.config, node.name).items()
        for port in ports
    }
    users = {f"{user.protocol} {user.port}": user.program for user in facts.listeners}
    running += [
        f"{port} is in use" + (f" by {users[port]}" if users.get(port, "-") != "-" else "")
        for port in sorted(node.measured.busy & wanted)
    ]
    running += facts.values("found")
    if running:
        yield node.finding(
            "in-use",
            "; ".join(running),
            "a machine that runs nothing yet",
            "use another machine, or remove these programs and files; to take the machine over as "
            f"it is, write the reason at nordmesh:machines.nodes{step(node.name)}.adopt",
        )


_CHECKS: tuple[Callable[[Node], Iterator[Finding]], ...] = (
    _system,
    _virtualization,
    _aes,
    _steal,
    _size,
    _disk,
    _sync,
    disks.etcd_mount,
    disks.volumes,
    _clock_source,
    addresses.on_the_machine,
    addresses.routes,
    _modules,
    distribution.swap,
    distribution.name_servers,
    distribution.packages,
    _outside,
    _conflicts,
    _in_use,
)
