"""Pods, proxies, nodes and a pod's peers, parsed from the answers of the API server and of pods."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_KINDS = ("open", "ended", "recent")


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A pod with a proxy. sidecar: False for a gateway. workload: namespace/name.

    is_ending: the pod is being deleted, so its proxy may have stopped already. down: why the proxy
    cannot carry requests, by what the cluster reports; empty if it can. port_names: the numbers of
    the pod's ports by name. excluded_ports: inbound ports that bypass the proxy.
    """

    namespace: str
    pod: str
    workload: str
    labels: Mapping[str, str]
    sidecar: bool
    is_ending: bool = False
    down: str = ""
    port_names: Mapping[str, str] = field(default_factory=dict)
    excluded_ports: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """The pod's unique name, namespace/name."""
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True, kw_only=True)
class BarePod:
    """A running pod without a proxy. workload: namespace/name.

    opted_out: its owner wrote sidecar.istio.io/inject: "false". on_host: it is on hostNetwork.
    """

    namespace: str
    workload: str
    labels: Mapping[str, str]
    opted_out: bool = False
    on_host: bool = False


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod that runs or is about to run."""

    name: str
    labels: Mapping[str, str]
    has_proxy: bool
    is_ready: bool

    def has(self, labels: Mapping[str, str]) -> bool:
        return labels.items() <= self.labels.items()


@dataclass(frozen=True, kw_only=True)
class Peers:
    """The addresses that a pod had connections with.

    connected: clients seen within the window. open: those of them whose connection was established
    when it was sampled. recent: clients and servers that the kernel remembers.
    """

    open: frozenset[str] = frozenset()
    connected: frozenset[str] = frozenset()
    recent: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The running pods. without_sidecar, with_sidecar: workloads by address. nodes: by network.

    bare: the pods without a proxy, including those on hostNetwork, which have a node's address.
    """

    proxies: Sequence[Proxy]
    bare: Sequence[BarePod] = ()
    without_sidecar: Mapping[str, str] = field(default_factory=dict)
    with_sidecar: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)

    def owner(self, address: str) -> str | None:
        """The workload, node or external host of an address; None if it has a sidecar."""
        if address in self.without_sidecar:
            return f"{self.without_sidecar[address]}, which has no sidecar"
        if address in self.with_sidecar or ipaddress.ip_address(address).is_loopback:
            return None
        for network, name in self.nodes.items():
            if ipaddress.ip_address(address) in ipaddress.ip_network(network):
                return f"node {name} (kubelet, or a pod with hostNetwork)"
        return f"{address}, outside the cluster"


def pods_of(items: Sequence[Mapping[str, Any]]) -> list[Pod]:
    """The pods of a list of the API server, without those that have ended or are ending."""
    return [
        Pod(
            name=item["metadata"]["name"],
            labels=item["metadata"].get("labels", {}),
            has_proxy=any(c["name"] == "istio-proxy" for c in item["spec"]["containers"]),
            is_ready=_is_true("Ready", item),
        )
        for item in items
        if item["status"].get("phase") in ("Pending", "Running")
        and "deletionTimestamp" not in item["metadata"]
    ]


def inventory_of(
    pods: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]
) -> Inventory:
    """The inventory of pods and nodes as the API server lists them."""
    proxies, bare, without, injected = [], [], {}, {}
    lost = {node["metadata"]["name"] for node in nodes if not _is_true("Ready", node)}
    for pod in pods:
        spec, metadata = pod["spec"], pod["metadata"]
        addresses = [entry["ip"] for entry in pod["status"].get("podIPs", ())]
        arguments = [c.get("args", []) for c in spec["containers"] if c["name"] == "istio-proxy"]
        if arguments:
            proxies.append(
                Proxy(
                    namespace=metadata["namespace"],
                    pod=metadata["name"],
                    workload=f"{metadata['namespace']}/{_workload(metadata)}",
                    labels=metadata.get("labels", {}),
                    sidecar="sidecar" in arguments[0],
                    is_ending="deletionTimestamp" in metadata,
                    down=_down(pod, lost),
                    port_names=dict(_port_names(spec["containers"])),
                    excluded_ports=_excluded_ports(metadata.get("annotations", {})),
                )
            )
            injected.update(dict.fromkeys(addresses, proxies[-1].workload))
            continue
        bare_pod = _bare(pod)
        if "deletionTimestamp" not in metadata:
            bare.append(bare_pod)
        if not bare_pod.on_host:
            without.update(dict.fromkeys(addresses, bare_pod.workload))
    return Inventory(
        proxies=proxies,
        bare=bare,
        without_sidecar=without,
        with_sidecar=injected,
        nodes={network: node["metadata"]["name"] for node in nodes for network in _networks(node)},
    )


def _port_names(containers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for container in containers:
        for port in container.get("ports", ()):
            if "name" in port:
                yield port["name"], str(port["containerPort"])


def _excluded_ports(annotations: Mapping[str, str]) -> frozenset[str]:
    ports = annotations.get("traffic.sidecar.istio.io/excludeInboundPorts", "")
    return frozenset(port.strip() for port in ports.split(",") if port.strip())


def _bare(pod: Mapping[str, Any]) -> BarePod:
    metadata = pod["metadata"]
    labels = metadata.get("labels", {})
    # The injector reads the label first, then the older annotation.
    inject = {**metadata.get("annotations", {}), **labels}.get("sidecar.istio.io/inject")
    return BarePod(
        namespace=metadata["namespace"],
        workload=f"{metadata['namespace']}/{_workload(metadata)}",
        labels=labels,
        opted_out=inject == "false",
        on_host=bool(pod["spec"].get("hostNetwork")),
    )


def parse_peers(output: str) -> Peers:
    """Parse what the script in a sidecar printed."""
    lines = [words for line in output.splitlines() if len(words := line.split()) == 2]
    seen = {kind: {peer for word, peer in lines if word == kind} for kind in _KINDS}
    return Peers(
        open=frozenset(map(_address, seen["open"])),
        connected=frozenset(map(_address, seen["open"] | seen["ended"])),
        recent=frozenset(seen["recent"]),
    )


def parse_destinations(output: str) -> frozenset[str]:
    """Parse remote addresses and ports, as the kernel writes them, into address:port."""
    lines = [words for line in output.splitlines() if len(words := line.split()) == 2]
    return frozenset(f"{_address(address)}:{int(port, 16)}" for address, port in lines)


def _address(kernel: str) -> str:
    """Parse an address of /proc/net/tcp or tcp6: 32-bit words in the machine's byte order."""
    words = [bytes.fromhex(kernel[at : at + 8])[::-1] for at in range(0, len(kernel), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _down(pod: Mapping[str, Any], lost: set[str]) -> str:
    """Why a pod's proxy cannot carry requests. lost: the nodes that are not Ready."""
    node = pod["spec"].get("nodeName", "")
    if node in lost:
        return f"node {node} is not ready"
    containers = pod["status"].get("containerStatuses", ())
    if any(c["name"] == "istio-proxy" and not c["ready"] for c in containers):
        return "its proxy is not ready"
    return ""


def _is_true(kind: str, item: Mapping[str, Any]) -> bool:
    """Whether a condition of a pod or node is true."""
    return any(
        condition["type"] == kind and condition["status"] == "True"
        for condition in item["status"].get("conditions", ())
    )


def _workload(metadata: Mapping[str, Any]) -> str:
    owners = metadata.get("ownerReferences") or [{"name": metadata["name"]}]
    name: str = owners[0]["name"]
    return name.removesuffix(f"-{metadata.get('labels', {}).get('pod-template-hash', '')}")


def _networks(node: Mapping[str, Any]) -> Iterator[str]:
    """The sources of a node's own traffic: its addresses, and its bridge's in the pod network."""
    for address in node["status"].get("addresses", ()):
        if address["type"] in ("InternalIP", "ExternalIP"):
            yield address["address"]
    yield from node["spec"].get("podCIDRs", ())
