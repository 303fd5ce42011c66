"""Checks of the section `host` and of databases on nodes, and what is said of them."""

import ipaddress
from collections.abc import Iterator

from config import ContainerNode, StackConfig
from config.errors import KeyPath, Problem
from config.kubelet import RESERVING
from config.scalars.quantities import quantity
from config.sections import Sections

_SSH_FROM: KeyPath = ("host", "firewall", "sshFrom")
_API_FROM: KeyPath = ("host", "firewall", "apiFrom")


def _check_switched_off(sections: Sections) -> Iterator[Problem]:
    host = sections.host
    if host is None:
        return
    networks = {_SSH_FROM: host.firewall.ssh_from, _API_FROM: host.firewall.api_from}
    for path, given in networks.items():
        if given and not host.firewall.enabled:
            yield Problem(
                path=path,
                what="the networks are named, and the firewall is off",
                why="everybody would be let in, while the stack file says otherwise",
                fix="write host.firewall.enabled: true, or remove them",
                about=(("host", "firewall", "enabled"),),
            )
    if host.time_servers and not host.time_sync:
        yield Problem(
            path=("host", "timeServers"),
            what="servers are named, and host.timeSync is false",
            why="nothing would ask them",
            fix="write host.timeSync: true, or remove them",
            about=(("host", "timeSync"),),
        )


def _check_ssh_from(sections: Sections) -> Iterator[Problem]:
    machines, host = sections.machines, sections.host
    if machines is None or host is None or not host.firewall.enabled:
        return
    sources: dict[str, str] = {}
    for name, node in sorted(machines.nodes.items()):
        bastion = machines.login(node).bastion
        if bastion is not None:
            sources.setdefault(bastion.address, f"the bastion of {name}, {bastion.address},")
        elif isinstance(node, ContainerNode) and machines.container is not None:
            gateway = machines.container.gateway
            sources.setdefault(gateway, f"this machine on the bridge, {gateway},")
    for address, who in sources.items():
        if not _let_in(address, host.firewall.ssh_from):
            yield Problem(
                path=_SSH_FROM,
                what=f"{who} is in none of these networks",
                why="SSH to the nodes comes from there, and the next pulumi up could not log in",
                fix=f"add {address}/32",
                about=(("machines",),),
            )


def _check_api_from(sections: Sections) -> Iterator[Problem]:
    machines, host = sections.machines, sections.host
    if machines is None or host is None or not host.firewall.enabled:
        return
    sources = {
        node.address: (f"{name}, {node.address},", "it joins through the API server, before it is "
        "a member of the cluster")
        for name, node in sorted(machines.nodes.items())
        if node.role == "worker"
    }  # fmt: skip
    if machines.container is not None:
        gateway = machines.container.gateway
        sources[gateway] = (
            f"this machine on the bridge, {gateway},",
            "Pulumi reaches the API server from there",
        )
    for address, (who, why) in sources.items():
        if not _let_in(address, host.firewall.api_from):
            yield Problem(
                path=_API_FROM,
                what=f"{who} is in none of these networks",
                why=why,
                fix=f"add {address}/32, or the network that it is in",
                about=(("machines",),),
            )


def _let_in(address: str, networks: list[str]) -> bool:
    found = ipaddress.IPv4Address(address)
    return not networks or any(found in ipaddress.IPv4Network(each) for each in networks)


def _check_reserved(sections: Sections) -> Iterator[Problem]:
    if sections.kubernetes is None:
        return
    for key in RESERVING:
        amounts = sections.kubernetes.kubelet.get(key)
        if amounts is None:
            continue
        path = ("kubernetes", "kubelet", key)
        if not isinstance(amounts, dict):
            yield Problem(
                path=path,
                what="this is no mapping of resources to amounts",
                why="kubelet would not start",
                fix="write such as {cpu: 100m, memory: 256Mi}",
            )
            continue
        for name, amount in amounts.items():
            try:
                quantity(str(amount))
            except ValueError:
                yield Problem(
                    path=(*path, name),
                    what=f"{amount!r} is not an amount",
                    why="kubelet would not start",
                    fix="write such as 100m of cpu, or 256Mi of memory",
                )


def warnings(config: StackConfig) -> Iterator[str]:
    """Who must be in the named networks, which nobody can see from here, and databases' memory."""
    firewall, nodes = config.host.firewall, config.machines.nodes
    direct = [
        name
        for name, node in sorted(nodes.items())
        if not isinstance(node, ContainerNode) and config.machines.login(node).bastion is None
    ]
    limited = [
        *([f"SSH to {', '.join(direct)}"] if firewall.ssh_from and direct else []),
        *(["the API server"] if firewall.api_from else []),
    ]
    if limited:
        yield (
            f"{' and '.join(limited)}: only named networks are let in (host.firewall). The machine "
            "that runs pulumi must be in them, now and whenever its address changes"
        )
    for name, node in sorted(nodes.items()):
        if node.database is not None:
            pool = node.database.buffer_pool or "three quarters of its memory"
            yield (
                f"{name}: the database takes {pool}, and the scheduler does not know of it; keep "
                "pods away by a taint, or raise kubernetes.kubelet.systemReserved"
            )


CHECKS = (_check_switched_off, _check_ssh_from, _check_api_from, _check_reserved)
