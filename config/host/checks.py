"""Checks and warnings of the section `host`, and of databases on nodes."""

import ipaddress
from collections.abc import Iterator

from config import ContainerNode, StackConfig
from config.errors import KeyPath, Problem, step
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
                code="firewall-networks-unused",
                path=path,
                what="networks are listed, but the firewall is off",
                why="every network would have access, although the stack file says otherwise",
                fix="set host.firewall.enabled to true, or remove the networks",
                about=(("host", "firewall", "enabled"),),
            )
    if host.time_servers and not host.time_sync:
        yield Problem(
            code="time-servers-unused",
            path=("host", "timeServers"),
            what="time servers are listed, but host.timeSync is false",
            why="nothing would use them",
            fix="set host.timeSync to true, or remove the servers",
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
                code="ssh-source-not-allowed",
                path=_SSH_FROM,
                what=f"{who} is in none of these networks",
                why="SSH to the nodes comes from there, so the next `pulumi up` could not log in",
                fix=f"add {address}/32",
                about=(("machines",),),
            )


def _check_api_from(sections: Sections) -> Iterator[Problem]:
    machines, host = sections.machines, sections.host
    if machines is None or host is None or not host.firewall.enabled:
        return
    joins = "it joins through the API server, before it is a member of the cluster"
    sources = {
        node.cluster_address: (f"{name}, {node.cluster_address},", joins)
        for name, node in machines.workers
    }
    if machines.container is not None:
        gateway = machines.container.gateway
        sources[gateway] = (
            f"this machine on the bridge, {gateway},",
            "Pulumi reaches the API server from there",
        )
    for address, (who, why) in sources.items():
        if not _let_in(address, host.firewall.api_from):
            yield Problem(
                code="api-source-not-allowed",
                path=_API_FROM,
                what=f"{who} is in none of these networks",
                why=why,
                fix=f"add {address}/32, or the network that it is in",
                about=(("machines",),),
            )


def _let_in(address: str, networks: list[str]) -> bool:
    ip = ipaddress.IPv4Address(address)
    return not networks or any(ip in ipaddress.IPv4Network(network) for network in networks)


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
                code="kubelet-reserved-mapping",
                path=path,
                what="expected a mapping of resource to quantity",
                why="the kubelet would not start",
                fix="use a value such as {cpu: 100m, memory: 256Mi}",
            )
            continue
        for name, amount in amounts.items():
            try:
                quantity(str(amount))
            except ValueError:
                yield Problem(
                    code="kubelet-reserved-quantity",
                    path=(*path, name),
                    what=f"{amount!r} is not a quantity",
                    why="the kubelet would not start",
                    fix="use a value such as 100m for cpu, or 256Mi for memory",
                )


def warnings(config: StackConfig) -> Iterator[str]:
    """The warnings about access that cannot be checked here, and about the memory of databases."""
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
            f"{' and '.join(limited)}: only the listed networks have access (host.firewall). The "
            "machine that runs pulumi must stay in them, even if its address changes"
        )
    for name, node in sorted(nodes.items()):
        if node.database is not None and not any(taint.is_hard for taint in node.taints):
            pool = node.database.buffer_pool or "three quarters of its memory"
            yield (
                f"{name}: the database uses {pool}, which the scheduler does not know; keep pods "
                f"away with machines.nodes{step(name)}.taints, or raise "
                "kubernetes.kubelet.systemReserved"
            )


CHECKS = (_check_switched_off, _check_ssh_from, _check_api_from, _check_reserved)
