"""Checks of addresses and networks: each machine can be reached, and no two share an address."""

import ipaddress
from collections.abc import Iterator
from itertools import combinations
from urllib.parse import urlsplit

from config import Bastion, ExistingNode, ExternalIpsExposure
from config.errors import KeyPath, Problem
from config.sections import Sections


def _check_addresses(sections: Sections) -> Iterator[Problem]:
    owners: dict[ipaddress.IPv4Address, str] = {}
    for name, address in _addresses(sections):
        owner = owners.setdefault(address, name)
        if owner != name:
            yield Problem(
                code="node-address-duplicate",
                path=("machines", "nodes", name, "address"),
                what=f"{address} is already the address of {owner}",
                why="each entry must be its own machine; setting up both would overwrite "
                "one with the other",
                fix=f"use the address that {name} has, or remove one of the two",
            )


def _check_networks(sections: Sections) -> Iterator[Problem]:
    networks = _networks(sections)
    for (path, one), (other_path, other) in combinations(networks.items(), 2):
        if one.overlaps(other):
            yield Problem(
                code="networks-overlap",
                path=other_path,
                what=f"{other} overlaps {'.'.join(path)} ({one})",
                why="an address in both networks could be a pod, a service or a machine, "
                "so traffic could go to the wrong one",
                fix=f"use a network that does not overlap {one}",
                about=(path,),
            )
    for key in ("address", "privateAddress"):
        for name, address in _addresses(sections, key):
            yield from _in_cluster_network(("machines", "nodes", name, key), address, networks)
    for address_path, text in _other_addresses(sections):
        for path, network in networks.items():
            if path[0] == "kubernetes" and ipaddress.IPv4Address(text) in network:
                yield Problem(
                    code="address-in-cluster-network",
                    path=address_path,
                    what=f"{text} is inside {'.'.join(path)} ({network})",
                    why="the nodes would look for it among pods or services, so nothing could be "
                    "reached at it",
                    fix=f"use the address that it has outside the cluster, or another {path[-1]}",
                    about=(path,),
                )


def _in_cluster_network(
    path: KeyPath, address: ipaddress.IPv4Address, networks: dict[KeyPath, ipaddress.IPv4Network]
) -> Iterator[Problem]:
    """The problems of a node's address in the network of pods or services."""
    for network_path, network in networks.items():
        if network_path[0] == "kubernetes" and address in network:
            yield Problem(
                code="node-address-in-cluster-network",
                path=path,
                what=f"{address} is inside {'.'.join(network_path)} ({network})",
                why="the other nodes would look for this machine among pods or services",
                fix=f"use a {network_path[-1]} that contains none of the nodes' addresses",
                about=(network_path,),
            )


def _check_endpoint(sections: Sections) -> Iterator[Problem]:
    endpoint = sections.kubernetes.endpoint if sections.kubernetes is not None else ""
    if endpoint.split(".")[0] in sections.raw_nodes and "." not in endpoint:
        yield Problem(
            code="endpoint-node-name",
            path=("kubernetes", "endpoint"),
            what=f"{endpoint} is the name of a node",
            why="the endpoint must lead to whichever node runs the API server, and every node "
            "resolves its own name to itself",
            fix="use another name, for example api.prod.example.internal",
            about=(("machines", "nodes", endpoint),),
        )
    for path, host in _hosts_of_nodes(sections):
        if host and host == endpoint:
            yield Problem(
                code="endpoint-of-another-host",
                path=("kubernetes", "endpoint"),
                what=f"{endpoint} is also the host at {'.'.join(path)}",
                why="on every node the endpoint means the API server, so nothing else could be "
                "reached by that name",
                fix=f"use another name, for example kubernetes.{endpoint}",
                about=(path,),
            )


def _hosts_of_nodes(sections: Sections) -> Iterator[tuple[KeyPath, str]]:
    """The hosts that nodes call by name, with the keys that name them."""
    artifacts, host, access = sections.artifacts, sections.host, sections.access
    if artifacts is not None:
        proxy = artifacts.proxy.url if artifacts.proxy is not None else None
        for path, url in (
            (("mirror",), artifacts.mirror),
            (("registry",), artifacts.registry),
            (("proxy", "url"), proxy),
        ):
            yield ("artifacts", *path), urlsplit(url or "").hostname or ""
    if sections.backup is not None and sections.backup.s3 is not None:
        yield ("backup", "s3", "host"), sections.backup.s3.host
    for server in host.time_servers if host is not None else ():
        yield ("host", "timeServers"), server
    if access is not None and access.oidc is not None:
        yield ("access", "oidc", "issuerUrl"), access.oidc.host


def _check_pod_network_size(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None or sections.kubernetes is None:
        return
    network = ipaddress.IPv4Network(sections.kubernetes.pod_cidr)
    room, nodes = 2 ** (24 - network.prefixlen), len(sections.machines.nodes)
    if nodes > room:
        yield Problem(
            code="pod-network-size",
            path=("kubernetes", "podCidr"),
            what=f"{network} has room for {room} of the {nodes} nodes",
            why="Kubernetes gives each node a /24 of it; pods on the other nodes would never start",
            fix="use a larger network, for example 10.244.0.0/16, which has room for 256 nodes",
        )


def _check_container_nodes(sections: Sections) -> Iterator[Problem]:
    names = _named(sections, "container")
    if sections.machines is None or not names:
        return
    network = sections.machines.container
    if network is None:
        yield Problem(
            code="container-network-missing",
            path=("machines", "container"),
            what=f"the section is missing, and these nodes need it: {', '.join(names)}",
            why="nodes with provider container are connected to a bridge of this machine",
            fix="add container: {bridge: nordmesh0, subnet: 10.66.0.0/24}",
        )
        return
    subnet = ipaddress.IPv4Network(network.subnet)
    taken = {
        subnet.network_address: "the network's own address",
        subnet.broadcast_address: "the broadcast address",
        ipaddress.IPv4Address(network.gateway): "the gateway's address, which this machine has",
    }
    for name, address in _addresses(sections):
        if name not in names or (address in subnet and address not in taken):
            continue
        wrong = f"is {taken[address]}" if address in taken else f"lies outside {subnet}"
        yield Problem(
            code="container-node-address",
            path=("machines", "nodes", name, "address"),
            what=f"{address} {wrong}",
            why="the node is connected to the bridge of machines.container and must be "
            "reachable there",
            fix=f"use an address from {subnet[2]} to {subnet[-2]}",
            about=(("machines", "container"), ("machines", "container", "subnet")),
        )


def _addresses(
    sections: Sections, key: str = "address"
) -> Iterator[tuple[str, ipaddress.IPv4Address]]:
    """Names and addresses of the nodes in the file, without invalid addresses."""
    for name, node in sorted(sections.raw_nodes.items()):
        try:
            yield name, ipaddress.IPv4Address(str(node.get(key)))
        except ValueError:
            continue


def _other_addresses(sections: Sections) -> Iterator[tuple[KeyPath, str]]:
    """The paths and addresses of machines that are not nodes, and of gateways."""
    machines, istio = sections.machines, sections.istio
    if machines is not None:
        bastions: dict[KeyPath, Bastion | None] = {("machines", "ssh"): machines.ssh.bastion}
        for name, node in machines.nodes.items():
            if isinstance(node, ExistingNode):
                bastions["machines", "nodes", name] = node.bastion
        for path, bastion in bastions.items():
            if bastion is not None:
                yield (*path, "bastion", "address"), bastion.address
        for name, hypervisor in machines.hypervisors.items():
            yield ("machines", "hypervisors", name, "address"), hypervisor.address
    for name, gateway in istio.ingress.items() if istio is not None else ():
        if isinstance(gateway.expose, ExternalIpsExposure):
            for index, address in enumerate(gateway.expose.addresses):
                expose = ("istio", "ingressGateways", name, "expose")
                yield (*expose, "addresses", f"[{index}]"), address


def _networks(sections: Sections) -> dict[KeyPath, ipaddress.IPv4Network]:
    networks: dict[KeyPath, str] = {}
    if sections.machines is not None and sections.machines.container is not None:
        networks["machines", "container", "subnet"] = sections.machines.container.subnet
    if sections.kubernetes is not None:
        networks["kubernetes", "podCidr"] = sections.kubernetes.pod_cidr
        networks["kubernetes", "serviceCidr"] = sections.kubernetes.service_cidr
    return {path: ipaddress.IPv4Network(network) for path, network in networks.items()}


def _named(sections: Sections, provider: str) -> list[str]:
    nodes = sections.raw_nodes.items()
    return sorted(name for name, node in nodes if node.get("provider") == provider)


CHECKS = (
    _check_addresses,
    _check_networks,
    _check_endpoint,
    _check_pod_network_size,
    _check_container_nodes,
)
