"""Checks of Istio's control plane and gateways, also against the nodes that they run on."""

from collections.abc import Iterator

from config import (
    ExternalIpsExposure,
    GatewayDeployment,
    HostPortExposure,
    IngressGateway,
    Istio,
    Machines,
    NodePortExposure,
)
from config.errors import KeyPath, Problem, nearest
from config.istio.gateways import Replicas
from config.resources import KINDS, Resources, check_proxy_limit, check_request
from config.sections import Sections

# What a node of a cluster listens on itself; the check adds its sshd.
_NODE_PORTS = {
    2379: "etcd",
    2380: "etcd",
    6443: "the API server",
    10250: "the kubelet",
    10256: "kube-proxy",
    10257: "the controller manager",
    10259: "the scheduler",
}
# What a proxy listens on itself: Istio, docs/ops/deployment/requirements.
_PROXY_PORTS = range(15000, 15091)

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
            path=("istio",),
            what=f"the section istio is missing, but {', '.join(wants)} needs a mesh",
            why="without istiod no pod gets a sidecar: nothing splits, encrypts or counts requests",
            fix="write nordmesh:istio with at least version; or, to take the mesh away, set "
            "injection: false for the namespaces and remove what else is named here",
            about=(("mesh",), ("demo",), ("observability",)),
        )


def _gateways(istio: Istio) -> list[Named]:
    """Each gateway of the stack file with its place in it."""
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
            path=("istio", "egressGateways", name),
            what=f"{name} is an ingress gateway too",
            why="both would be the Deployment and the Service of that name in istio-system",
            fix="give one of them another name",
            about=(("istio", "ingressGateways", name),),
        )
    for path, name, _ in _gateways(sections.istio):
        if name.startswith("istiod"):
            yield Problem(
                path=path,
                what=f"{name} is a name of the control plane",
                why="the gateway's objects and istiod's would overwrite each other",
                fix="write such as edge",
            )


def _check_replicas(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    pilot = sections.istio.pilot.replicas
    places: list[tuple[KeyPath, Replicas]] = [(("istio", "pilot", "replicas"), pilot)]
    places += [
        ((*path, "replicas"), gateway.replicas)
        for path, _, gateway in _gateways(sections.istio)
        if gateway.replicas
    ]
    for path, replicas in places:
        if replicas.min > replicas.max:
            yield Problem(
                path=(*path, "max"),
                what=f"at most {replicas.max} pods are less than the at least {replicas.min}",
                why="the API server refuses such an autoscaler, and the install would fail",
                fix=f"write {replicas.min} or more, or a smaller min",
                about=((*path, "min"),),
            )


def _check_resources(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    pilot, proxy = sections.istio.pilot, sections.istio.proxy
    places: list[tuple[KeyPath, Resources, Resources]] = [
        (("istio", "proxy"), proxy.requests, proxy.limits),
        *((path, each.requests, each.limits) for path, _, each in _gateways(sections.istio)),
    ]
    if pilot.requests and pilot.limits:
        places.append((("istio", "pilot"), pilot.requests, pilot.limits))
    for path, requests, limits in places:
        for kind in KINDS:
            yield from check_request(
                (*path, "requests", kind),
                getattr(requests, kind),
                getattr(limits, kind),
                limit_path=(*path, "limits", kind),
            )
    for kind in KINDS:
        limit = getattr(proxy.limits, kind)
        yield from check_proxy_limit(("istio", "proxy", "limits", kind), kind, limit)


def _check_ports(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    for path, _, gateway in _gateways(sections.istio):
        seen: dict[tuple[str, object], int] = {}
        for index, port in enumerate(gateway.ports):
            place = (*path, "ports", f"[{index}]")
            for key, value in (
                ("name", port.name),
                ("port", port.port),
                ("targetPort", port.target),
            ):
                first = seen.setdefault((key, value), index)
                if first != index:
                    yield Problem(
                        path=(*place, key),
                        what=f"{value} is the {key} of another port of this gateway",
                        why="names, ports and the proxy's own ports must differ; below 1024 the "
                        "proxy's own is 8000 more",
                        fix="write another, or remove one of the two ports",
                        about=((*path, "ports", f"[{first}]", key),),
                    )
            if port.target in _PROXY_PORTS:
                yield Problem(
                    path=(*place, "targetPort" if port.target_port else "port"),
                    what=f"{port.target} is a port of the proxy's own",
                    why="Istio keeps 15000 to 15090 for its proxies, and the listener would fail",
                    fix="write a targetPort outside of that range, such as 8443",
                )


def _check_node_ports(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    taken: dict[int, str] = {}
    for path, name, gateway in _gateways(sections.istio):
        exposed = isinstance(gateway, IngressGateway) and isinstance(
            gateway.expose, NodePortExposure | ExternalIpsExposure
        )
        for index, port in enumerate(gateway.ports):
            place = (*path, "ports", f"[{index}]", "nodePort")
            if port.node_port is None:
                continue
            if not exposed:
                yield Problem(
                    path=place,
                    what=f"{name} has a nodePort, but is not exposed by NodePort",
                    why="the port would be without effect, and clients would wait for an answer",
                    fix="write expose: {type: NodePort}, or remove nodePort",
                    about=((*path, "expose"),),
                )
            elif port.node_port in taken:
                yield Problem(
                    path=place,
                    what=f"{port.node_port} is a nodePort of {taken[port.node_port]} already",
                    why="each is one port on every node, and can lead to one gateway only",
                    fix="write another from 30000 to 32767",
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
            place = (*path, "expose", "nodes", f"[{index}]")
            if node not in known:
                guess = nearest(node, known)
                yield Problem(
                    path=place,
                    what=f"there is no node {node}",
                    why="the gateway's pod waits for this node, and the install fails",
                    fix=f"write {guess}" if guess else f"write one of {', '.join(known)}",
                    about=(("machines", "nodes"),),
                )
            elif node in gateway.nodes[:index]:
                yield Problem(
                    path=place,
                    what=f"{node} is named twice",
                    why="a node has one pod of the gateway, and the second would never start",
                    fix="remove one of the two",
                )


def _check_scale(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    for path, _, gateway in _exposed(sections.istio):
        if isinstance(gateway.expose, HostPortExposure):
            if gateway.replicas is not None:
                yield Problem(
                    path=(*path, "replicas"),
                    what="a gateway behind host ports has one pod on each of its nodes",
                    why="a host port is free once on a node, so the autoscaler's pods never start",
                    fix="remove replicas, and name the nodes in expose.nodes",
                    about=((*path, "expose"),),
                )
        elif gateway.scale.min < len(gateway.nodes):
            yield Problem(
                path=(*path, "replicas", "min"),
                what=f"{gateway.scale.min} pods are at least there, but {len(gateway.nodes)} nodes "
                "are named",
                why="a node without a pod answers nobody: requests stay on the node at which they "
                "arrive, so that the client's address is preserved",
                fix=f"write replicas: {{min: {len(gateway.nodes)}}}, or name fewer nodes",
                about=((*path, "expose"),),
            )


def _check_claims(sections: Sections) -> Iterator[Problem]:
    """Ports of nodes and addresses that two gateways, or a gateway and the node, would have."""
    if sections.istio is None:
        return
    machines = sections.machines
    names = {node.address: name for name, node in machines.nodes.items()} if machines else {}
    taken: dict[tuple[str, int], str] = {}
    for path, name, gateway in _exposed(sections.istio):
        expose = gateway.expose
        if isinstance(expose, HostPortExposure):
            key, places = "nodes", expose.nodes
        elif isinstance(expose, ExternalIpsExposure):
            key, places = "addresses", [names.get(x, x) for x in expose.addresses]
        else:
            continue
        for index, place in enumerate(places):
            own = _own_ports(machines, place)
            for port in (port.port for port in gateway.ports):
                owner = taken.setdefault((place, port), name)
                if owner == name and port not in own:
                    continue
                yield Problem(
                    path=(*path, "expose", key, f"[{index}]"),
                    what=f"port {port} of {place} is {own.get(port, owner)}'s already",
                    why="the node's rules would send every connection to one of the two"
                    + (", and the node or you could be cut off" if port in own else ""),
                    fix="write another port, or another node or address",
                    about=((*path, "ports"), ("machines", "nodes"), ("machines", "ssh")),
                )


def _own_ports(machines: Machines | None, place: str) -> dict[int, str]:
    """What a node listens on itself; {} for an address that is no node's."""
    node = machines.nodes.get(place) if machines else None
    if machines is None or node is None:
        return {}
    return {**_NODE_PORTS, 22: "sshd", machines.login(node).port: "sshd"}


def _check_addresses(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None or sections.machines is None:
        return
    names = {node.address: name for name, node in sections.machines.nodes.items()}
    for path, _, gateway in _exposed(sections.istio):
        if not isinstance(gateway.expose, ExternalIpsExposure) or not gateway.nodes:
            continue
        for index, address in enumerate(gateway.expose.addresses):
            node = names.get(address)
            if node is not None and node not in gateway.nodes:
                yield Problem(
                    path=(*path, "expose", "addresses", f"[{index}]"),
                    what=f"{address} is the address of {node}, which has no pod of this gateway",
                    why="requests stay on the node at which they arrive, and would not be answered",
                    fix=f"add {node} to expose.nodes, or remove the address",
                    about=((*path, "expose", "nodes"), ("machines", "nodes", node)),
                )


CHECKS = (
    _check_mesh_has_istio,
    _check_names,
    _check_replicas,
    _check_resources,
    _check_ports,
    _check_node_ports,
    _check_nodes,
    _check_scale,
    _check_claims,
    _check_addresses,
)
