"""Checks of private addresses: all nodes reach each other in one private network.

Where one node has a privateAddress, the `address` of a node without one must be in that network
too: a worker behind a bastion often has no other.
"""

import ipaddress
from collections.abc import Iterator

from config import AnyNode, ExistingNode, Machines, StackConfig
from config.errors import KeyPath, Problem
from config.sections import Sections

_RANGES = tuple(
    ipaddress.IPv4Network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)
"""The ranges of private networks: RFC 1918, and RFC 6598, which some providers use."""


def given(machines: Machines) -> dict[str, str]:
    """The private addresses in the file by node, sorted by name."""
    return {
        name: node.private_address
        for name, node in sorted(machines.nodes.items())
        if isinstance(node, ExistingNode) and node.private_address is not None
    }


def _check_duplicates(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    publics = {node.address: name for name, node in sorted(sections.machines.nodes.items())}
    owners: dict[str, str] = {}
    for name, address in given(sections.machines).items():
        path = _path(name)
        if publics.get(address) == name:
            yield Problem(
                code="private-address-same",
                path=path,
                what=f"{address} is the address of {name} too",
                why="the cluster's ports are open to nodes on the private address, and closed on "
                "the other one",
                fix="set it to the node's address in the private network, or remove it",
                about=(_path(name, "address"),),
            )
        elif owner := publics.get(address) or owners.get(address):
            yield Problem(
                code="private-address-duplicate",
                path=path,
                what=f"{address} is already an address of {owner}",
                why="the other nodes would reach one of the two machines at random",
                fix=f"use the private address that {name} has",
                about=(_path(owner, "address"), _path(owner)),
            )
        owners.setdefault(address, name)


def _check_network(sections: Sections) -> Iterator[Problem]:
    """Each node's address for the others must be in the range of the first private address."""
    if sections.machines is None:
        return
    private = given(sections.machines)
    outside = {name: text for name, text in private.items() if _range(text) is None}
    for name, address in outside.items():
        yield Problem(
            code="private-address-public",
            path=_path(name),
            what=f"{address} is not in a private range",
            why="etcd, kubelet and the pod network would be bound to an address that the internet "
            "can reach",
            fix=f"use an address in {', '.join(map(str, _RANGES))}; without a private network, "
            "remove privateAddress from all nodes",
        )
    first = next((name for name in private if name not in outside), None)
    if first is None:
        return
    network = _range(private[first])
    for name, node in sorted(sections.machines.nodes.items()):
        if name not in outside and _range(node.cluster_address) != network:
            yield _outside(name, node, f"{network}, the range of {first} ({private[first]})", first)


def _outside(name: str, node: AnyNode, network: str, first: str) -> Problem:
    about = (_path(first), _path(name, "address"))
    why = f"{name} and {first} must reach each other in one private network"
    if isinstance(node, ExistingNode) and node.private_address is not None:
        return Problem(
            code="private-address-network",
            path=_path(name),
            what=f"{node.private_address} lies outside {network}",
            why=why,
            fix="use the address that it has in the network of the other nodes",
            about=about,
        )
    return Problem(
        code="private-address-missing",
        path=_path(name),
        what=f"it is missing, and {node.address} lies outside {network}",
        why=why,
        fix=f"add the private address of {name}, or remove privateAddress from all nodes"
        if isinstance(node, ExistingNode)
        else f"give {name} an address in that network, or remove privateAddress from all nodes",
        about=about,
    )


def _check_kubelet(sections: Sections) -> Iterator[Problem]:
    kubernetes, machines = sections.kubernetes, sections.machines
    if kubernetes is None or machines is None or "address" not in kubernetes.kubelet:
        return
    if private := given(machines):
        yield Problem(
            code="kubelet-address-private",
            path=("kubernetes", "kubelet", "address"),
            what="kubelet listens on the privateAddress of each node",
            why="one address for all nodes has no effect",
            fix="remove it",
            about=tuple(map(_path, private)),
        )


def warnings(config: StackConfig) -> Iterator[str]:
    """The warning about private addresses without the firewall."""
    if given(config.machines) and not config.host.firewall.enabled:
        yield (
            "host.firewall is off: the kernel accepts packets of the pod network (UDP 8472) on "
            "every address of a node, not on its privateAddress alone. Turn it on, or block the "
            "port in the provider's firewall"
        )


def _range(address: str) -> ipaddress.IPv4Network | None:
    ip = ipaddress.IPv4Address(address)
    return next((network for network in _RANGES if ip in network), None)


def _path(name: str, key: str = "privateAddress") -> KeyPath:
    return ("machines", "nodes", name, key)


CHECKS = (_check_duplicates, _check_network, _check_kubelet)
