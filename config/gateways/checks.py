"""Checks of the mesh's gateways: that there is one behind each, and a service for each host."""

from collections.abc import Iterator

from config import ROOT_NAMESPACE, Gateway, Mesh
from config.errors import KeyPath, Problem, nearest
from config.scalars.http import covers
from config.sections import Sections


def _check_installed(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None or sections.istio is None:
        return
    installed = sorted(sections.istio.ingress)
    for name, gateway in sections.mesh.gateways.items():
        if gateway.ingress_gateway not in installed:
            guess = nearest(gateway.ingress_gateway, installed)
            yield Problem(
                path=("mesh", "gateways", name, "ingressGateway"),
                what=f"there is no ingress gateway {gateway.ingress_gateway}",
                why="no pod would take the requests; the installed ones are: "
                + (", ".join(installed) or f"none with profile {sections.istio.profile}"),
                fix=f"write {guess}"
                if guess
                else f"add {gateway.ingress_gateway}: {{}} to istio.ingressGateways",
                about=(("istio", "profile"), ("istio", "ingressGateways")),
            )


def _check_ports(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None or sections.istio is None:
        return
    for name, gateway in sections.mesh.gateways.items():
        pods = sections.istio.ingress.get(gateway.ingress_gateway)
        opened = [port.port for port in pods.ports] if pods else []
        for key, number in gateway.listens_on.items():
            if pods and number not in opened:
                yield Problem(
                    path=("mesh", "gateways", name, key),
                    what=f"{number} is no port of {gateway.ingress_gateway}",
                    why="no client could reach the hosts there; its ports are "
                    + ", ".join(map(str, opened)),
                    fix=f"write one of them, or add a port {number} to "
                    f"istio.ingressGateways.{gateway.ingress_gateway}.ports",
                    about=(("istio", "ingressGateways"),),
                )


def _check_namespaces(sections: Sections) -> Iterator[Problem]:
    mesh = sections.mesh
    for name, gateway in mesh.gateways.items() if mesh else ():
        if mesh and gateway.namespace not in (ROOT_NAMESPACE, *mesh.namespaces):
            yield Problem(
                path=("mesh", "gateways", name, "namespace"),
                what=f"the namespace {gateway.namespace} is not in mesh.namespaces",
                why="the ingress gateway's pods must be there, and the Secret that tls names",
                fix=f"remove it for {ROOT_NAMESPACE}, or add {gateway.namespace} to "
                "mesh.namespaces",
                about=(("mesh", "namespaces", gateway.namespace),),
            )


def _check_hosts_once(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    taken: dict[tuple[str, str, str], str] = {}
    for name, gateway in sections.mesh.gateways.items():
        for index, host in enumerate(gateway.hosts):
            place = (gateway.namespace, gateway.ingress_gateway, host)
            owner = taken.setdefault(place, name)
            if owner != name or host in gateway.hosts[:index]:
                yield Problem(
                    path=("mesh", "gateways", name, "hosts", f"[{index}]"),
                    what=f"{host} is a host of {owner} already",
                    why="one ingress gateway has one certificate and one set of ports for a host; "
                    "Istio would drop one of the two",
                    fix="remove it from one of them",
                    about=(("mesh", "gateways", owner, "hosts"),),
                )


def _check_services(sections: Sections) -> Iterator[Problem]:
    mesh = sections.mesh
    if mesh is None:
        return
    for name, service in mesh.services.items():
        if service.gateway is None:
            continue
        path = ("mesh", "services", name)
        gateway = mesh.gateways.get(service.gateway)
        if gateway is None:
            yield _unknown(mesh, service.gateway, path)
            continue
        declared = ("mesh", "gateways", service.gateway)
        if not service.hosts:
            yield Problem(
                path=(*path, "hosts"),
                what=f"the service is behind the gateway {service.gateway} without a host",
                why="at a gateway services are told apart by the host that clients ask for",
                fix=f"write hosts: [{_example(gateway)}]",
                about=(declared,),
            )
        for index, host in enumerate(service.hosts):
            if not any(covers(taken, host) for taken in gateway.hosts):
                yield Problem(
                    path=(*path, "hosts", f"[{index}]"),
                    what=f"the gateway {service.gateway} does not take {host}",
                    why=f"it takes {', '.join(gateway.hosts)}; requests for others get 404",
                    fix=f"add it to mesh.gateways.{service.gateway}.hosts, or remove it",
                    about=(declared, (*declared, "hosts")),
                )
        yield from _check_inside(service.gateway, gateway, service.protocol, path)


def _check_inside(name: str, gateway: Gateway, protocol: str, path: KeyPath) -> Iterator[Problem]:
    """Whether the gateway can see what it tells services apart by."""
    passthrough = gateway.tls is not None and gateway.tls.mode == "PASSTHROUGH"
    about = (("mesh", "gateways", name, "tls"), (*path, "protocol"))
    if passthrough and protocol != "tcp":
        yield Problem(
            path=(*path, "protocol"),
            what=f"the gateway {name} hands TLS through, and the protocol is {protocol}",
            why="the gateway cannot see requests inside of TLS: there is nothing to match or retry",
            fix=f"write protocol: tcp, or mode: SIMPLE at mesh.gateways.{name}.tls",
            about=about,
        )
    if protocol == "tcp" and not passthrough:
        yield Problem(
            path=(*path, "gateway"),
            what=f"the protocol is tcp, and the gateway {name} does not hand TLS through",
            why="plain TCP names no host, so that the gateway could not tell services apart",
            fix=f"write mode: PASSTHROUGH at mesh.gateways.{name}.tls if the service speaks "
            "TLS, protocol: http if it speaks HTTP, or remove gateway",
            about=about,
        )


def _unknown(mesh: Mesh, gateway: str, path: KeyPath) -> Problem:
    guess = nearest(gateway, mesh.gateways)
    return Problem(
        path=(*path, "gateway"),
        what=f"there is no {gateway} in mesh.gateways",
        why="the routes would hold at no gateway, and clients outside would get 404",
        fix=f"write {guess}"
        if guess
        else f"add {gateway}: {{hosts: [shop.example.com], tls: {{secret: shop-tls}}}} to "
        "mesh.gateways",
        about=(("mesh", "gateways", gateway),),
    )


def _example(gateway: Gateway) -> str:
    host = gateway.hosts[0]
    return "shop.example.com" if host == "*" else host.replace("*", "shop")


CHECKS = (_check_installed, _check_ports, _check_namespaces, _check_hosts_once, _check_services)
