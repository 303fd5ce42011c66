"""Every file that nordmesh writes on a node: its path, what reads it, and its values.

The script that writes the files and the drift report both take them from here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.host.files import NodeFile, Reader, to_setting
from components.host.templates import render
from config import Artifacts, Database, Host, Role, image_references, ports
from config.scalars.quantities import quantity

HOSTS = "/etc/hosts"
"""A file of the node's owner, in which node-prepare.sh has one line."""

ENDPOINT_CONFIG = "/etc/nordmesh/endpoint.cfg"
ENDPOINT_SERVERS = "/etc/nordmesh/endpoint-servers.cfg"
"""The servers of a worker's load balancer, which the node itself writes."""

LOOPBACK = "127.0.0.1"
"""Where a worker's load balancer listens, and where the API server's name leads there."""

REGISTRIES = "/etc/containerd/certs.d"
SYSCTL_FILE = "/etc/sysctl.d/99-nordmesh.conf"
UNITS = "/etc/systemd/system"
RULES = "/etc/nordmesh/firewall.nft"
SSHD = "/etc/ssh/sshd_config.d/00-nordmesh.conf"
CERTIFICATES = "/usr/local/lib/nordmesh/certificates.sh"
KUBELET_START = "/usr/local/lib/nordmesh/kubelet-start.sh"

POD_RESOLVER = "/run/nordmesh/resolv.conf"
"""The resolv.conf of pods, which KUBELET_START points to a file of the node."""

BUFFER_POOL_PLACE = "@BUFFER_POOL@"
"""Where host.sh writes the size of the InnoDB buffer pool: only the node knows its memory."""


@dataclass(frozen=True, kw_only=True)
class RegistryHost:
    """A registry whose images come from a mirror.

    name: the registry in image references. mirror: the URL of the mirror, which holds these images
    below the path NAME/. fallback: whether to pull from the official registry what the mirror
    lacks.
    """

    name: str
    mirror: str
    fallback: bool


@dataclass(frozen=True, kw_only=True)
class HostArgs:
    """The inputs of one node's files. ssh_port: the port of sshd. address: the node's for the other
    nodes. private_address: the same if the node has another one for people, else None. endpoint:
    the API server's name. service_cidr: the network of services. own_resolver: whether the stack
    file sets kubelet's resolvConf. kubelet_flags: its other flags by name. network_policy: whether
    kube-router filters the node's pods.
    """

    host: Host
    role: Role
    ssh_port: int
    address: str
    private_address: str | None = None
    endpoint: str
    service_cidr: str
    own_resolver: bool
    kubelet_flags: Mapping[str, str]
    database: Database | None
    pause_image: str
    cgroup_driver: str
    restrict_oom_score_adj: bool
    registry_hosts: Sequence[RegistryHost]
    artifacts: Artifacts
    network_policy: bool = False

    @property
    def api_address(self) -> str:
        """The address of the API server's name on the node. It names no other node, so that no
        change of the control planes changes this node's settings.
        """
        return self.address if self.role == "control-plane" else LOOPBACK


Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A template of files/ at its path on the node, in which {name} stands for a variable.

    values: the variables of each file that it renders; none if it is switched off.
    """

    path: str
    reader: Reader
    values: Callable[[HostArgs], Iterator[Values]]
    mode: str = "644"


def registry_hosts(
    *, registry: str | None, images: Sequence[str], fallback: bool = False
) -> list[RegistryHost]:
    """The registries in the image references; none without a mirror."""
    if registry is None:
        return []
    names = sorted({image_references.registry(image) for image in images})
    return [
        RegistryHost(name=name, mirror=registry.rstrip("/"), fallback=fallback) for name in names
    ]


def cluster_ports(role: Role) -> tuple[int, ...]:
    """The TCP ports of a node that only cluster members may reach."""
    members: tuple[int, ...] = (ports.KUBELET, *ports.KUBE_PROXY)
    if role == "control-plane":
        members += (*ports.ETCD, ports.ETCD_METRICS, *ports.CONTROL_PLANE_OWN)
    return tuple(sorted(members))


# --- values ---------------------------------------------------------------------------------------


def _always(_: HostArgs) -> Iterator[Values]:
    yield {}


def _firewall(args: HostArgs) -> Iterator[Values]:
    """The values of the firewall's service. The rules do not list the members of the cluster, so
    that a new node changes no file of another one.
    """
    if args.host.firewall.enabled:
        yield {"filters_pods": args.network_policy}


def _endpoint(args: HostArgs) -> Iterator[Values]:
    """The values of a worker's load balancer. Its files do not list the control planes either."""
    if args.role == "worker":
        yield {
            "endpoint": args.endpoint,
            "address": args.api_address,
            "port": ports.API,
            "config": ENDPOINT_CONFIG,
            "servers": ENDPOINT_SERVERS,
        }


def _members(args: HostArgs) -> Iterator[Values]:
    """The values of the service that follows the members for the firewall and the load balancer."""
    if args.host.firewall.enabled or args.role == "worker":
        yield {"firewall": args.host.firewall.enabled}


def _rules(args: HostArgs) -> Iterator[Values]:
    firewall = args.host.firewall
    ssh = {"name": "ssh", "port": args.ssh_port, "networks": firewall.ssh_from}
    api = {"name": "api", "port": ports.API, "networks": firewall.api_from, "allows_members": True}
    limits = [ssh, api] if args.role == "control-plane" else [ssh]
    if firewall.enabled:
        yield {
            "limits": [{"allows_members": False, **limit} for limit in limits if limit["networks"]],
            "cluster_ports": cluster_ports(args.role),
            "overlay_port": ports.OVERLAY,
            "private_address": args.private_address,
            "filters_pods": args.network_policy,
        }


def _certificates(args: HostArgs) -> Iterator[Values]:
    if args.role == "control-plane":
        yield {}


def _sshd(args: HostArgs) -> Iterator[Values]:
    if args.host.ssh.hardened:
        yield {}


def _time(args: HostArgs) -> Iterator[Values]:
    if args.host.time_sync and args.host.time_servers:
        yield {"servers": args.host.time_servers}


def _journal(args: HostArgs) -> Iterator[Values]:
    if args.host.journal_size is not None:
        yield {"mebibytes": _mebibytes(args.host.journal_size)}


def _database(engine: str) -> Callable[[HostArgs], Iterator[Values]]:
    def values(args: HostArgs) -> Iterator[Values]:
        if args.database is not None and args.database.engine == engine:
            yield {"buffer_pool": BUFFER_POOL_PLACE}

    return values


def _containerd(args: HostArgs) -> Iterator[Values]:
    yield {
        "pause_image": args.pause_image,
        "restrict_oom_score_adj": args.restrict_oom_score_adj,
        "systemd_cgroup": args.cgroup_driver == "systemd",
    }


def _containerd_unit(args: HostArgs) -> Iterator[Values]:
    proxy = args.artifacts.proxy
    yield {"proxy": proxy and proxy.url, "direct": args.artifacts.direct}


def _registries(args: HostArgs) -> Iterator[Values]:
    for host in args.registry_hosts:
        yield {
            "registry": host.name,
            "mirror": host.mirror,
            "fallback": host.fallback,
            "server": image_references.server(host.name),
        }


def _kubelet(args: HostArgs) -> Iterator[Values]:
    yield {
        "start": KUBELET_START,
        "address": args.address,
        "api_address": args.api_address,
        "endpoint": args.endpoint,
        "service_cidr": args.service_cidr,
        "has_etcd": args.role == "control-plane",
    }


def _kubelet_flags(args: HostArgs) -> Iterator[Values]:
    resolver = {} if args.own_resolver else {"resolv-conf": POD_RESOLVER}
    flags = {**resolver, **args.kubelet_flags}
    yield {"flags": " ".join(f"--{name}={value}" for name, value in flags.items())}


def _mebibytes(amount: str) -> int:
    return int(quantity(amount) / 1024**2)


# --- the table ------------------------------------------------------------------------------------

_MYSQL, _MARIADB = "/etc/mysql/conf.d", "/etc/mysql/mariadb.conf.d"

TABLE: Sequence[Row] = (
    Row(path="/etc/modules-load.d/nordmesh.conf", reader="kernel", values=_always),
    Row(path=SYSCTL_FILE, reader="sysctls", values=_always),
    Row(path=RULES, reader="firewall", values=_rules),
    Row(path=f"{UNITS}/nordmesh-firewall.service", reader="firewall", values=_firewall),
    Row(path=ENDPOINT_CONFIG, reader="endpoint", values=_endpoint),
    Row(path="/usr/local/lib/nordmesh/endpoint.sh", reader="endpoint", values=_endpoint),
    Row(path=f"{UNITS}/nordmesh-endpoint.service", reader="endpoint", values=_endpoint),
    Row(path="/usr/local/lib/nordmesh/members.sh", reader="members", values=_members),
    Row(path=f"{UNITS}/nordmesh-members.service", reader="members", values=_members),
    Row(path=CERTIFICATES, reader="certificates", values=_certificates),
    Row(path=f"{UNITS}/nordmesh-certificates.service", reader="certificates", values=_certificates),
    Row(path=f"{UNITS}/nordmesh-certificates.timer", reader="certificates", values=_certificates),
    Row(path=SSHD, reader="sshd", values=_sshd),
    Row(path="/etc/systemd/timesyncd.conf.d/nordmesh.conf", reader="timesyncd", values=_time),
    Row(path="/etc/systemd/journald.conf.d/nordmesh.conf", reader="journald", values=_journal),
    Row(path="/etc/logrotate.d/nordmesh", reader="logrotate", values=_always),
    Row(path=f"{_MYSQL}/nordmesh.cnf", reader="database", values=_database("mysql")),
    Row(path=f"{_MARIADB}/60-nordmesh.cnf", reader="database", values=_database("mariadb")),
    Row(path=f"{UNITS}/containerd.service", reader="containerd", values=_containerd_unit),
    Row(path="/etc/containerd/config.toml", reader="containerd", values=_containerd),
    Row(path=f"{REGISTRIES}/{{registry}}/hosts.toml", reader="registries", values=_registries),
    Row(path=KUBELET_START, reader="kubelet", values=_always),
    Row(path=f"{UNITS}/kubelet.service", reader="kubelet", values=_kubelet),
    Row(path=f"{UNITS}/kubelet.service.d/10-kubeadm.conf", reader="kubelet", values=_kubelet_flags),
)


def node_files(args: HostArgs) -> list[NodeFile]:
    """Render the files of a node."""
    return [
        NodeFile(
            path=row.path.format(**values),
            reader=row.reader,
            mode=row.mode,
            text=render(row.path.lstrip("/"), **values),
        )
        for row in TABLE
        for values in row.values(args)
    ]


def settings(args: HostArgs) -> dict[str, str]:
    """The settings of node-prepare.sh for these files, the host and the API server's name."""
    host = args.host
    pool = args.database.buffer_pool if args.database else None
    return {
        "BUFFER_POOL": f"{_mebibytes(pool)}M" if pool else "",
        "ENDPOINT": args.endpoint,
        "ENDPOINT_ADDRESS": args.api_address,
        "FILES": to_setting(node_files(args)),
        "HOLD_PACKAGES": str(host.hold_packages).lower(),
        "SSH_FROM": ", ".join(host.firewall.ssh_from),
        "TIME_SYNC": str(host.time_sync).lower(),
    }


# --- values that only the node knows --------------------------------------------------------------


def sshd_on(text: str, current: str) -> str:
    """The text of SSHD on a node: where it lists several values, keep the node's, else the last.

    text: as rendered. current: the file on the node.
    """
    has = dict(line.split(" ", 1) for line in current.splitlines() if " " in line)
    lines = []
    for line in text.splitlines():
        keyword, _, rest = line.partition(" ")
        values = rest.split("|")
        lines.append(f"{keyword} {has[keyword] if has.get(keyword) in values else values[-1]}")
    return "\n".join(lines)


def is_least(sysctl: str) -> bool:
    """Whether a sysctl is a limit, so that a higher value on the node stays."""
    return sysctl.startswith("fs.")


def sysctls_on(text: str, current: str) -> str:
    """The text of SYSCTL_FILE on a node: limits keep the node's value if that is higher.

    text: as rendered. current: the file on the node.
    """
    has, lines = sysctls(current), []
    for line in text.splitlines():
        for key, value in sysctls(line).items():
            own = has.get(key, "")
            if is_least(key) and own.isdecimal() and int(own) > int(value):
                lines.append(f"{key} = {own}")
                break
        else:
            lines.append(line)
    return "\n".join(lines)


def sysctls(text: str) -> dict[str, str]:
    """The values in a file of sysctls, by name."""
    pairs = (line.partition("=") for line in text.splitlines() if line[:1] not in ("#", ";"))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def default_buffer_pool(memory_kib: int) -> str:
    """The size that host.sh writes at BUFFER_POOL_PLACE by default: 75% of the machine's memory.

    In whole GiB from 3 GiB up: the MySQL host guide's 12G on a machine with 16 GB.
    """
    mebibytes = memory_kib * 3 // 4096
    unit = 128 if mebibytes < 3072 else 1024
    return f"{(mebibytes + unit // 2) // unit * unit}M"
