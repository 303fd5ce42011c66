"""Checks of Istio's control plane and gateways, and of the nodes that they run on."""

from collections.abc import Iterator

from config import (
    ExternalIpsExposure,
    GatewayDeployment,
    HostPortExposure,
    IngressGateway,
    Istio,
    Machines,
    NodePortExposure,
    ports,
)
from config.errors import KeyPath, Problem, nearest, one_of
from config.scalars.durations import seconds
from config.sections import Sections

# Ports that a proxy listens on: Istio, docs/ops/deployment/requirements.
_PROXY_PORTS = range(15000, 15091)

# Kubernetes's default terminationGracePeriodSeconds is 30; a proxy needs some seconds to end.
_FITTING_DRAIN_SECONDS = 25

Named = tuple[KeyPath, str, GatewayDeployment]


def _check_mesh_has_istio(sections: Sections) -> Iterator[Problem]:
    if not sections.has_no_mesh:
        return
    mesh, demo = sections.mesh, sections.demo
    wants: list[str] = []
    if mesh is not None:
        wants += [f"mesh.mtls: {mesh.mtls}"] if mesh.mtls != "PERMISSIVE" else []
        wants += [f"mesh.services.{name}" for name in mesh.services]
        wants += [f"mesh.gateways.{name}" for name in mesh.gateways]
        wants += [f"mesh.namespaces.{name} (injection)" for name in mesh.injected]
    if demo is not None and demo.enabled:
        wants.append("demo.enabled")
    if sections.observability is not None:
        wants += [f"observability.{part}.enabled" for part in sections.observability.parts]
    if wants:
        yield Problem(
            code="istio-missing",
            path=("istio",),
            what=f"the section istio is missing, and these need a mesh: {', '.join(wants)}",
            why="without istiod no pod gets a sidecar, so nothing splits, encrypts or "
            "counts requests",
            fix="add nordmesh:istio with at least version; or, to remove the mesh, set "
            "injection: false for the namespaces and remove everything else named here",
            about=(("mesh",), ("demo",), ("observability",)),
        )


def gateways_of(istio: Istio) -> list[Named]:
    """The gateways of the stack file, with their paths."""
    ingress, egress = istio.ingress_gateways or {}, istio.egress_gateways
    return [
        *((("istio", "ingressGateways", name), name, gateway) for name, gateway in ingress.items()),
        *((("istio", "egressGateways", name), name, gateway) for name, gateway in egress.items()),
    ]


def _check_names(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    for name in sorted(
        (sections.istio.ingress_gateways or {}).keys() & sections.istio.egress_gateways
    ):
        yield Problem(
            code="gateway-name-duplicate",
            path=("istio", "egressGateways", name),
            what=f"{name} is also an ingress gateway",
            why="both would be the Deployment and Service of that name in istio-system",
            fix="rename one of them",
            about=(("istio", "ingressGateways", name),),
        )
    for path, name, _ in gateways_of(sections.istio):
        if name.startswith("istiod"):
            yield Problem(
                code="gateway-name-reserved",
                path=path,
                what=f"{name} is reserved for the control plane",
                why="the gateway and istiod would overwrite each other's objects",
                fix="use another name, for example edge",
            )


def _check_ports(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    for path, _, gateway in gateways_of(sections.istio):
        seen: dict[tuple[str, object], int] = {}
        for index, port in enumerate(gateway.ports):
            port_path = (*path, "ports", f"[{index}]")
            for key, value in (
                ("name", port.name),
                ("port", port.port),
                ("targetPort", port.target),
            ):
                first = seen.setdefault((key, value), index)
                if first != index:
                    yield Problem(
                        code="gateway-port-duplicate",
                        path=(*port_path, key),
                        what=f"{value} is already the {key} of another port of this gateway",
                        why="names, ports and target ports must be unique; for a port "
                        "below 1024, the target port is 8000 higher",
                        fix="use another value, or remove one of the two ports",
                        about=((*path, "ports", f"[{first}]", key),),
                    )
            # Load balancers check a gateway's health; Istio's own gateways have that port too.
            if port.target in _PROXY_PORTS and port.target != ports.PROXY_HEALTH:
                yield Problem(
                    code="gateway-port-reserved",
                    path=(*port_path, "targetPort" if port.target_port else "port"),
                    what=f"{port.target} is reserved for the proxy itself",
                    why="Istio uses 15000 to 15090 for its proxies, so the gateway could "
                    "not listen on it",
                    fix="set a targetPort outside that range, for example 8443; for health checks "
                    f"of a load balancer, use {ports.PROXY_HEALTH}",
                )


def _check_node_ports(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    taken: dict[int, str] = {}
    for path, name, gateway in gateways_of(sections.istio):
        exposed = isinstance(gateway, IngressGateway) and isinstance(
            gateway.expose, NodePortExposure | ExternalIpsExposure
        )
        for index, port in enumerate(gateway.ports):
            port_path = (*path, "ports", f"[{index}]", "nodePort")
            if port.node_port is None:
                continue
            if not exposed:
                yield Problem(
                    code="node-port-not-exposed",
                    path=port_path,
                    what=f"{name} has a nodePort but is not exposed through one",
                    why="the port would have no effect, and clients would wait for an answer",
                    fix="set expose: {type: NodePort}, or remove nodePort",
                    about=((*path, "expose"),),
                )
            elif port.node_port in taken:
                yield Problem(
                    code="node-port-duplicate",
                    path=port_path,
                    what=f"{port.node_port} is already a nodePort of {taken[port.node_port]}",
                    why="a node port is open on every node, and leads to one gateway only",
                    fix="use another port from 30000 to 32767",
                )
            else:
                taken[port.node_port] = name


def _exposed(istio: Istio) -> list[tuple[KeyPath, str, IngressGateway]]:
    return [
        (("istio", "ingressGateways", name), name, gateway)
        for name, gateway in (istio.ingress_gateways or {}).items()
        if gateway.expose is not None
    ]


def _check_nodes(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None or sections.machines is None:
        return
    known = sections.raw_nodes
    for path, _, gateway in _exposed(sections.istio):
        for index, node in enumerate(gateway.nodes):
            node_path = (*path, "expose", "nodes", f"[{index}]")
            if node not in known:
                free = [name for name in known if name not in gateway.nodes]
                guess = nearest(node, free)
                yield Problem(
                    code="gateway-node-unknown",
                    path=node_path,
                    what=f"there is no node {node}",
                    why="the gateway's pod would wait for this node, and the install would fail",
                    fix=f"use {guess}" if guess else one_of(free) if free else "remove it",
                    about=(("machines", "nodes"),),
                )
            elif node in gateway.nodes[:index]:
                yield Problem(
                    code="gateway-node-duplicate",
                    path=node_path,
                    what=f"{node} is listed twice",
                    why="a node runs one pod of the gateway; a second would never start",
                    fix="remove one of the two",
                )


def _check_scale(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    for path, _, gateway in _exposed(sections.istio):
        if isinstance(gateway.expose, HostPortExposure):
            if gateway.replicas is not None:
                yield Problem(
                    code="host-port-replicas",
                    path=(*path, "replicas"),
                    what="a gateway behind host ports has one pod on each of its nodes",
                    why="a host port is free only once on each node, so the autoscaler's "
                    "pods would never start",
                    fix="remove replicas, and list the nodes in expose.nodes",
                    about=((*path, "expose"),),
                )
        elif gateway.scale.min < len(gateway.nodes):
            yield Problem(
                code="gateway-replicas-below-nodes",
                path=(*path, "replicas", "min"),
                what=f"{len(gateway.nodes)} nodes are listed, but there may be as few as "
                f"{gateway.scale.min} pods",
                why="a node without a pod answers no request: requests stay on the node "
                "where they arrive, to preserve the client's address",
                fix=f"set replicas: {{min: {len(gateway.nodes)}}}, or list fewer nodes",
                about=((*path, "expose"),),
            )


def _check_claims(sections: Sections) -> Iterator[Problem]:
    """The problems of ports that two gateways, or a gateway and the node itself, would use."""
    if sections.istio is None:
        return
    machines = sections.machines
    names = _node_names(machines) if machines else {}
    taken: dict[tuple[str, int], str] = {}
    for path, name, gateway in _exposed(sections.istio):
        expose = gateway.expose
        if isinstance(expose, HostPortExposure):
            key, targets = "nodes", expose.nodes
        elif isinstance(expose, ExternalIpsExposure):
            key, targets = "addresses", [names.get(x, x) for x in expose.addresses]
        else:
            continue
        for index, target in enumerate(targets):
            own = _own_ports(machines, target)
            for port in (port.port for port in gateway.ports):
                owner = taken.setdefault((target, port), name)
                if owner == name and port not in own:
                    continue
                yield Problem(
                    code="gateway-port-taken",
                    path=(*path, "expose", key, f"[{index}]"),
                    what=f"{own.get(port, owner)} already uses port {port} of {target}",
                    why="the node's rules would send every connection to one of the two"
                    + (", so the node or you could be cut off" if port in own else ""),
                    fix="use another port, or another node or address",
                    about=((*path, "ports"), ("machines", "nodes"), ("machines", "ssh")),
                )


def _node_names(machines: Machines) -> dict[str, str]:
    """The nodes by each of their addresses."""
    return {
        address: name
        for name, node in machines.nodes.items()
        for address in (node.address, node.cluster_address)
    }


def _own_ports(machines: Machines | None, target: str) -> dict[int, str]:
    """The ports that a node listens on; {} for an address that is not a node."""
    node = machines.nodes.get(target) if machines else None
    if machines is None or node is None:
        return {}
    return {**ports.OWNERS, 22: "sshd", machines.login(node).port: "sshd"}


def _check_addresses(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None or sections.machines is None:
        return
    names = _node_names(sections.machines)
    for path, _, gateway in _exposed(sections.istio):
        if not isinstance(gateway.expose, ExternalIpsExposure) or not gateway.nodes:
            continue
        for index, address in enumerate(gateway.expose.addresses):
            node = names.get(address)
            if node is not None and node not in gateway.nodes:
                yield Problem(
                    code="external-ip-without-pod",
                    path=(*path, "expose", "addresses", f"[{index}]"),
                    what=f"{address} is the address of {node}, which has no pod of this gateway",
                    why="requests stay on the node where they arrive, so nothing would answer",
                    fix=f"add {node} to expose.nodes, or remove the address",
                    about=((*path, "expose", "nodes"), ("machines", "nodes", node)),
                )


def warnings(istio: Istio | None) -> Iterator[str]:
    """The warning about a drain that the kubelet may cut short."""
    if istio is not None and seconds(istio.proxy.drain_duration) > _FITTING_DRAIN_SECONDS:
        yield (
            f"istio.proxy.drainDuration: {istio.proxy.drain_duration} needs pods with a "
            "terminationGracePeriodSeconds above it; the kubelet kills others after 30 s, with "
            "their requests in progress"
        )


CHECKS = (
    _check_mesh_has_istio,
    _check_names,
    _check_ports,
    _check_node_ports,
    _check_nodes,
    _check_scale,
    _check_claims,
    _check_addresses,
)
