"""Who runs in the cluster, and who was connected to a pod: what is made of others' answers."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_KINDS = ("open", "ended", "recent")

STATS_PORT = 15090
"""Where a proxy shows its statistics; reading there is no traffic of the mesh."""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A pod with a proxy. sidecar: False for a gateway. workload: namespace and name.

    is_ending: whether the pod is being deleted, so that its proxy may have stopped before it.
    """

    namespace: str
    pod: str
    workload: str
    labels: Mapping[str, str]
    sidecar: bool
    is_ending: bool = False

    @property
    def key(self) -> str:
        """What no other pod has."""
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod that runs or is about to."""

    name: str
    labels: Mapping[str, str]
    has_proxy: bool
    is_ready: bool

    def has(self, labels: Mapping[str, str]) -> bool:
        return labels.items() <= self.labels.items()


@dataclass(frozen=True, kw_only=True)
class Peers:
    """Addresses that were connected to a pod. recent: those that it had any connection with.

    open: of those connected, those that were seen while they were.
    """

    open: frozenset[str] = frozenset()
    connected: frozenset[str] = frozenset()
    recent: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The running pods. without_sidecar: workloads by address. nodes: names by network."""

    proxies: Sequence[Proxy]
    without_sidecar: Mapping[str, str] = field(default_factory=dict)
    with_sidecar: frozenset[str] = frozenset()
    nodes: Mapping[str, str] = field(default_factory=dict)

    def owner(self, address: str) -> str | None:
        """Who has an address, if it is somebody without a sidecar: a workload, a node, a host."""
        if address in self.without_sidecar:
            return f"{self.without_sidecar[address]}, which has no sidecar"
        if address in self.with_sidecar or ipaddress.ip_address(address).is_loopback:
            return None
        for network, name in self.nodes.items():
            if ipaddress.ip_address(address) in ipaddress.ip_network(network):
                return f"node {name}: a pod with the host's network, or the kubelet"
        return f"{address}, outside the cluster"


def pods_of(items: Sequence[Mapping[str, Any]]) -> list[Pod]:
    """The pods that the API server lists, without those that have ended or are ending."""
    return [
        Pod(
            name=item["metadata"]["name"],
            labels=item["metadata"].get("labels", {}),
            has_proxy=any(c["name"] == "istio-proxy" for c in item["spec"]["containers"]),
            is_ready=any(
                condition["type"] == "Ready" and condition["status"] == "True"
                for condition in item["status"].get("conditions", ())
            ),
        )
        for item in items
        if item["status"].get("phase") in ("Pending", "Running")
        and "deletionTimestamp" not in item["metadata"]
    ]


def inventory_of(
    pods: Sequence[Mapping[str, Any]], nodes: Sequence[Mapping[str, Any]]
) -> Inventory:
    """The inventory of pods and nodes as the API server lists them."""
    proxies, without, injected = [], {}, set()
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
                )
            )
            injected.update(addresses)
        elif not spec.get("hostNetwork"):
            name = f"{metadata['namespace']}/{_workload(metadata)}"
            without.update(dict.fromkeys(addresses, name))
    return Inventory(
        proxies=proxies,
        without_sidecar=without,
        with_sidecar=frozenset(injected),
        nodes={network: node["metadata"]["name"] for node in nodes for network in _networks(node)},
    )


def parse_peers(said: str) -> Peers:
    """The peers of what the script in a sidecar printed."""
    lines = [words for line in said.splitlines() if len(words := line.split()) == 2]
    seen = {kind: {peer for word, peer in lines if word == kind} for kind in _KINDS}
    return Peers(
        open=frozenset(map(_address, seen["open"])),
        connected=frozenset(map(_address, seen["open"] | seen["ended"])),
        recent=frozenset(seen["recent"]),
    )


def _address(kernel: str) -> str:
    """An address as /proc/net/tcp and tcp6 have it: 32-bit words in this machine's byte order."""
    words = [bytes.fromhex(kernel[at : at + 8])[::-1] for at in range(0, len(kernel), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _workload(metadata: Mapping[str, Any]) -> str:
    owners = metadata.get("ownerReferences") or [{"name": metadata["name"]}]
    name: str = owners[0]["name"]
    return name.removesuffix(f"-{metadata.get('labels', {}).get('pod-template-hash', '')}")


def _networks(node: Mapping[str, Any]) -> Iterator[str]:
    """Where a node's own traffic comes from: its addresses, and its bridge's among the pods'."""
    for address in node["status"].get("addresses", ()):
        if address["type"] in ("InternalIP", "ExternalIP"):
            yield address["address"]
    yield from node["spec"].get("podCIDRs", ())
