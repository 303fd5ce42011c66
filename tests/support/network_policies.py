"""What NetworkPolicies allow, by the rules of networking.k8s.io/v1, without a cluster."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.manifests import Manifest


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod with its labels and address."""

    namespace: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)


def allows(
    policies: Sequence[Manifest], source: Pod, target: Pod | str, port: int, protocol: str = "TCP"
) -> bool:
    """Whether a pod may connect to a port of another pod, or of an address outside."""
    if not _one_way(policies, "Egress", source, target, port, protocol):
        return False
    if isinstance(target, str):
        return True
    return _one_way(policies, "Ingress", target, source, port, protocol)


def _one_way(
    policies: Sequence[Manifest], way: str, pod: Pod, peer: Pod | str, port: int, protocol: str
) -> bool:
    rules = [
        policy["spec"].get(way.lower()) or []
        for policy in policies
        if way in policy["spec"]["policyTypes"]
        and policy["metadata"]["namespace"] == pod.namespace
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    peers = "to" if way == "Egress" else "from"
    return not rules or any(
        _has_port(rule.get("ports"), port, protocol)
        and (not rule.get(peers) or any(_is_peer(x, pod, peer) for x in rule[peers]))
        for several in rules
        for rule in several
    )


def _has_port(ports: Sequence[Manifest] | None, number: int, protocol: str) -> bool:
    return not ports or any(
        port.get("protocol", "TCP") == protocol and port.get("port", number) == number
        for port in ports
    )


def _is_peer(peer: Manifest, pod: Pod, other: Pod | str) -> bool:
    """Whether `other` is a peer of a rule about `pod`. A block means addresses of pods, too."""
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        address = ipaddress.ip_address(other.address if isinstance(other, Pod) else other)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(cidr) for cidr in block.get("except", [])
        )
    if not isinstance(other, Pod):
        return False
    if "namespaceSelector" in peer:
        label = {"kubernetes.io/metadata.name": other.namespace}
        if not _selects(peer["namespaceSelector"], label):
            return False
    elif other.namespace != pod.namespace:
        return False
    return _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, "an operator that no policy of nordmesh uses"
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
