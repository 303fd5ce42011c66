"""The ways in which data could leave the cluster: docs/network-policy.md has a row for each.

The engine test sends the packet of every way that has one, the live test runs its shell command,
and a unit test compares the table of the document with this list.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Sender(StrEnum):
    """Who sends."""

    POD = "a pod"  # of a namespace in mesh.namespaces, without a sidecar
    NEW_POD = "a new pod"  # the API server does not know its address yet
    SIDECAR_USER = "user 1337 in a pod"  # whose packets no sidecar redirects
    OTHER_POD = "a pod of another namespace"  # that is not in mesh.namespaces
    MONITOR = "Prometheus' pod"
    NODE = "the node"


Target = Literal[
    "outside",  # a host that no entry lists; each way has its own address of it
    "outside over IPv6",
    "a listed host",
    "metadata",
    "an API server",
    "another node",
    "another node, by its pod network",
    "its own node",
    "its own node over IPv6",
    "a Service of a host outside",
    "a service with callers",
]
_NETWORK = "tests/engine/test_network_policies.py"
_CLUSTER = "tests/live/test_network_policies.py"
_GATEWAY = "tests/live/test_egress.py"
_POLICIES = "tests/unit/components/manifests/test_network_policy.py"


@dataclass(frozen=True, kw_only=True)
class Packet:
    """What the engine test sends.

    protocol: "tcp", "udp", or the number of an IP protocol. port: of TCP and UDP; the type of an
    ICMP message. spoofed: in whose name it is sent; empty: in the sender's own.
    """

    protocol: str
    port: int = 0
    target: Target = "outside"
    spoofed: Literal["", "a pod of another namespace", "no pod", "another node's pod"] = ""
    in_fragments: bool = False


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way out. note: why it is closed or open, or what closes it, in the words of the document.

    shell: what the live test runs in the pod, with the placeholders {address} and {port}.
    tried: other tests that try it. why_untried: why no test does.
    """

    name: str
    sender: Sender = Sender.POD
    packet: Packet | None = None
    is_open: bool = False
    note: str = ""
    shell: str = ""
    tried: tuple[str, ...] = ()
    why_untried: str = ""

    @property
    def tests(self) -> tuple[str, ...]:
        """The files of the tests that try it."""
        engine = (_NETWORK,) if self.packet else ()
        live = (_CLUSTER,) if self.shell else ()
        return (*engine, *live, *self.tried)


def tcp(port: int, target: Target = "outside") -> Packet:
    return Packet(protocol="tcp", port=port, target=target)


def udp(port: int, target: Target = "outside") -> Packet:
    return Packet(protocol="udp", port=port, target=target)


def icmp(kind: int) -> Packet:
    return Packet(protocol="icmp", port=kind)


_TCP, _UDP = "echo x >/dev/tcp/{address}/{port}", "echo x >/dev/udp/{address}/{port}"
_AS_SIDECAR = 'setpriv --reuid 1337 --clear-groups bash -c "{}"'

_WITHOUT_A_SIDECAR = (
    Way(name="a pod without a sidecar", packet=tcp(443), shell=_TCP),
    Way(name="a job without a sidecar", packet=tcp(80)),
    Way(name="an init container, before the sidecar runs", packet=tcp(8080)),
    Way(name="`excludeOutboundPorts`", packet=tcp(8443)),
    Way(name="`excludeOutboundIPRanges`", packet=tcp(5432)),
    Way(
        name="`excludeInboundPorts` of a service with `callers`",
        packet=tcp(9090, "a service with callers"),
    ),
    Way(
        name="user 1337, TCP",
        sender=Sender.SIDECAR_USER,
        packet=tcp(443),
        shell=_AS_SIDECAR.format(_TCP),
    ),
    Way(
        name="user 1337, UDP",
        sender=Sender.SIDECAR_USER,
        packet=udp(443),
        shell=_AS_SIDECAR.format(_UDP),
    ),
)
_PROTOCOLS = (
    Way(name="UDP", packet=udp(5000), shell=_UDP),
    Way(name="QUIC", packet=udp(443)),
    Way(name="DNS over UDP, to a server outside", packet=udp(53)),
    Way(name="DNS over TCP, to a server outside", packet=tcp(53)),
    Way(name="DNS over TLS", packet=tcp(853)),
    Way(name="NTP", packet=udp(123)),
    Way(name="ping", packet=icmp(8), note="Pods of the cluster answer"),
    Way(name="echo replies that nobody asked for", packet=icmp(0)),
    Way(name="ICMP errors of no connection", packet=icmp(3)),
    Way(name="ICMP timestamps", packet=icmp(13)),
    Way(name="SCTP", packet=Packet(protocol="132")),
    Way(name="IP in IP", packet=Packet(protocol="4")),
    Way(name="GRE", packet=Packet(protocol="47")),
    Way(name="ESP", packet=Packet(protocol="50")),
    Way(name="fragments", packet=Packet(protocol="udp", port=5001, in_fragments=True)),
    Way(
        name="IPv6, TCP",
        packet=tcp(443, "outside over IPv6"),
        note="kube-router filters IPv4 only; the node's firewall refuses what it has not passed",
    ),
    Way(name="IPv6, UDP", packet=udp(53, "outside over IPv6")),
    Way(
        name="IPv6, ping",
        packet=Packet(protocol="icmp6", port=128, target="outside over IPv6"),
    ),
    Way(name="IPv6, SSH of the pod's own node", packet=tcp(22, "its own node over IPv6")),
)
_TARGETS = (
    Way(name="a listed host, another port", packet=tcp(443, "a listed host")),
    Way(name="a listed host, UDP on its port", packet=udp(5432, "a listed host")),
    Way(name="a proxy of `HTTPS_PROXY`", packet=tcp(3128)),
    Way(
        name="a Service of type ExternalName",
        packet=tcp(8444),
        note="it is a name: the connection goes to the host itself",
    ),
    Way(
        name="a Service with Endpoints outside",
        packet=tcp(80, "a Service of a host outside"),
        note="the address after kube-proxy counts",
    ),
    Way(name="the provider's metadata, 169.254.169.254", packet=tcp(80, "metadata")),
    Way(
        name="other ports of a control plane, for example etcd's", packet=tcp(2379, "an API server")
    ),
    Way(name="SSH of another node", packet=tcp(22, "another node")),
    Way(name="the kubelet of another node", packet=tcp(10250, "another node")),
    Way(name="a NodePort of another node", packet=tcp(30080, "another node")),
    Way(
        name="another node, by its address in the pod network",
        packet=tcp(22, "another node, by its pod network"),
    ),
    Way(name="SSH of the pod's own node", packet=tcp(22, "its own node")),
    Way(name="the kubelet of the pod's own node", packet=tcp(10250, "its own node")),
    Way(
        name="ports 30000 to 32767 of the pod's own node",
        packet=tcp(30080, "its own node"),
        note="kube-router allows NodePorts before it looks at a pod; the node's firewall refuses "
        "what it has not passed. Behind a NodePort, the policies of its pods hold",
    ),
    Way(
        name="the egress gateway, for a host or a namespace that is not listed",
        tried=(_GATEWAY,),
        note="the gateway asks for the caller's certificate, and routes to listed hosts only",
    ),
)
_POD_LIFE = (
    Way(
        name="the first packets of a new pod, TCP",
        sender=Sender.NEW_POD,
        packet=tcp(443),
        tried=(_CLUSTER,),
    ),
    Way(name="the first packets of a new pod, UDP", sender=Sender.NEW_POD, packet=udp(53)),
    Way(
        name="a new pod, to its own node",
        sender=Sender.NEW_POD,
        packet=tcp(22, "its own node"),
    ),
    Way(
        name="packets in the name of an address that no pod has",
        packet=Packet(protocol="udp", port=5002, spoofed="no pod"),
    ),
    Way(
        name="packets in the name of another node's pod",
        packet=Packet(protocol="udp", port=5003, spoofed="another node's pod"),
    ),
)
_OPEN = (
    Way(
        name="a listed host, its port",
        packet=tcp(5432, "a listed host"),
        is_open=True,
        note="what the host does with the data is up to its owner",
    ),
    Way(
        name="a listed host without `addresses`, called directly",
        is_open=True,
        tried=(_POLICIES,),
        note="its ports are open to every address. Set `addresses`, or call it through the gateway",
    ),
    Way(
        name="the API server",
        packet=tcp(6443, "an API server"),
        is_open=True,
        note="it asks for a login",
    ),
    Way(
        name="DNS names that CoreDNS forwards",
        sender=Sender.OTHER_POD,
        packet=udp(53),
        is_open=True,
        note="data can leave in the names that a pod asks for. Point the nodes to a resolver of "
        "yours that answers for what you need",
    ),
    Way(
        name="Prometheus, ports 10250 and 2381",
        sender=Sender.MONITOR,
        packet=tcp(10250),
        is_open=True,
        note="of every address, so that a new node changes no policy. Run nothing of yours in "
        "`monitoring`",
    ),
    Way(
        name="a pod on `hostNetwork`",
        sender=Sender.NODE,
        packet=tcp(443),
        is_open=True,
        note="it has the node's address. A namespace without sidecars "
        "[refuses it](hardening.md#podsecurity); elsewhere let nobody create one, and use the "
        "provider's firewall",
    ),
    Way(
        name="the shell of a node",
        sender=Sender.NODE,
        packet=udp(443),
        is_open=True,
        tried=(_CLUSTER,),
        note="as above",
    ),
    Way(
        name="a privileged pod",
        is_open=True,
        why_untried="it can become the shell of the node",
        note="it can change the node. A namespace without sidecars "
        "[refuses it](hardening.md#podsecurity); elsewhere let nobody create one",
    ),
    Way(
        name="a namespace that is not in `mesh.namespaces`",
        sender=Sender.OTHER_POD,
        packet=tcp(443),
        is_open=True,
        note="add it, with `injection: false` if its pods need no sidecar",
    ),
    Way(
        name="packets in the name of another pod of the node",
        packet=Packet(protocol="udp", port=5004, spoofed="a pod of another namespace"),
        is_open=True,
        note="for what the other pod may call: kube-router tells pods apart by address. It needs "
        "`NET_RAW`, which containers have by default, or `NET_ADMIN`: drop the capabilities",
    ),
)
WAYS = (*_WITHOUT_A_SIDECAR, *_PROTOCOLS, *_TARGETS, *_POD_LIFE, *_OPEN)

_TESTS = {
    _NETWORK: "network",
    _CLUSTER: "cluster",
    _GATEWAY: "gateway",
    _POLICIES: "policies",
}


def table() -> Iterator[str]:
    """The lines of the document's table."""
    yield "| way out | state | tried |"
    yield "|---|---|---|"
    for way in WAYS:
        state = "**open**" if way.is_open else "closed"
        tried = ", ".join(_TESTS[test] for test in way.tests) or f"no: {way.why_untried}"
        yield f"| {way.name} | {f'{state}: {way.note}' if way.note else state} | {tried} |"
