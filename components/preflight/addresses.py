"""Checks of a machine's addresses: which it has, and from which one it reaches the other nodes."""

from collections.abc import Iterator

from components.preflight.findings import Finding, Node
from config.errors import step

_NO_WAY = "have no route"


def on_the_machine(node: Node) -> Iterator[Finding]:
    """The address for the other nodes. One for people alone may be a router's, behind NAT."""
    machine, addresses = node.config.machines.nodes[node.name], node.facts.values("address")
    if machine.cluster_address in addresses:
        return
    is_private = machine.cluster_address != machine.address
    key = "privateAddress" if is_private else "address"
    yield node.finding(
        "address",
        f"no interface has {machine.cluster_address}; the machine has "
        f"{', '.join(addresses) or 'no known address'}",
        f"nordmesh:machines.nodes{step(node.name)}.{key} on the machine itself",
        "attach the machine to the private network, and set it to the address that the machine "
        "has there"
        if is_private
        else "set it to an address of the machine; behind NAT, to one that the other nodes reach",
    )


def routes(node: Node) -> Iterator[Finding]:
    """Routes to the other nodes: their firewalls accept this node's own address only."""
    own = node.config.machines.nodes[node.name].cluster_address
    if own not in node.facts.values("address"):
        return  # The check `address` reports that.
    names = {machine.cluster_address: name for name, machine in node.config.machines.nodes.items()}
    ways: dict[str, list[str]] = {}
    for text in node.facts.values("route"):
        target, interface, source = text.split()
        if source != own and target in names:
            way = _NO_WAY if source == "-" else f"leave from {source} on {interface}"
            ways.setdefault(way, []).append(f"{names[target]} ({target})")
    for way, targets in ways.items():
        yield node.finding(
            "route",
            f"packets to {', '.join(targets)} {way}",
            f"from {own}, the address that the other nodes know",
            "set a route to them over the interface with that address; where the nodes share no "
            "network, correct the addresses in the stack file",
            refuses=way == _NO_WAY or node.config.host.firewall.enabled,
        )
