"""Checks of the mesh's gateways: their ingress gateways, ports, hosts and services."""

from collections.abc import Iterator

from config import ROOT_NAMESPACE, Gateway, Mesh, ports
from config.errors import KeyPath, Problem, nearest
from config.gateways import jwt_checks
from config.mesh.checks import joining
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
                code="ingress-gateway-unknown",
                path=("mesh", "gateways", name, "ingressGateway"),
                what=f"there is no ingress gateway {gateway.ingress_gateway}",
                why="no pod would accept the requests; these are installed: "
                + (", ".join(installed) or f"none with profile {sections.istio.profile}"),
                fix=f"use {guess}"
                if guess
                else f"add {gateway.ingress_gateway}: {{}} to istio.ingressGateways",
                about=(("istio", "profile"), ("istio", "ingressGateways")),
            )


def _check_ports(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None or sections.istio is None:
        return
    for name, gateway in sections.mesh.gateways.items():
        pods = sections.istio.ingress.get(gateway.ingress_gateway)
        opened = {port.port: port.target for port in pods.ports} if pods else {}
        for key, number in gateway.listens_on.items():
            if pods and number not in opened:
                yield Problem(
                    code="gateway-port-not-open",
                    path=("mesh", "gateways", name, key),
                    what=f"{number} is not a port of {gateway.ingress_gateway}",
                    why="clients could not reach the hosts on it; the gateway's ports are "
                    + ", ".join(map(str, opened)),
                    fix=f"use one of them, or add a port {number} to "
                    f"istio.ingressGateways.{gateway.ingress_gateway}.ports",
                    about=(("istio", "ingressGateways"),),
                )
            elif opened.get(number) == ports.PROXY_HEALTH:
                yield Problem(
                    code="gateway-port-health",
                    path=("mesh", "gateways", name, key),
                    what=f"the proxy itself answers at {number} of {gateway.ingress_gateway}",
                    why=f"its target port is {ports.PROXY_HEALTH}, which is for health checks, so "
                    "no request would reach a service",
                    fix="use another of the gateway's ports",
                    about=(("istio", "ingressGateways"),),
                )


def _check_protocols(sections: Sections) -> Iterator[Problem]:
    """The problems of ports that one gateway uses for plain HTTP and another one for TLS."""
    taken: dict[tuple[str, str, int], tuple[str, str]] = {}
    for name, gateway in sections.mesh.gateways.items() if sections.mesh is not None else ():
        for key, number in gateway.listens_on.items():
            port = (gateway.namespace, gateway.ingress_gateway, number)
            owner, use = taken.setdefault(port, (name, key))
            if use != key:
                yield Problem(
                    code="gateway-port-protocol",
                    path=("mesh", "gateways", name, key),
                    what=f"{number} is the {use} of {owner}, at the same ingress gateway",
                    why="a port speaks plain HTTP or TLS; Istio would ignore the hosts of one of "
                    "the two gateways",
                    fix=f"use another port of {gateway.ingress_gateway}",
                    about=(("mesh", "gateways", owner, use), ("mesh", "gateways", owner, "tls")),
                )


def _check_namespaces(sections: Sections) -> Iterator[Problem]:
    mesh = sections.mesh
    for name, gateway in mesh.gateways.items() if mesh else ():
        if mesh and gateway.namespace not in (ROOT_NAMESPACE, *mesh.namespaces):
            yield Problem(
                code="gateway-namespace-unknown",
                path=("mesh", "gateways", name, "namespace"),
                what=f"the namespace {gateway.namespace} is not in mesh.namespaces",
                why="the ingress gateway's pods and the Secret that tls names must be in it",
                fix=f"remove it, which means {ROOT_NAMESPACE}, or "
                f"{joining(gateway.namespace, mesh.namespaces)}",
                about=(("mesh", "namespaces", gateway.namespace),),
            )


def _check_hosts_once(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None:
        return
    taken: dict[tuple[str, str, str], str] = {}
    for name, gateway in sections.mesh.gateways.items():
        for index, host in enumerate(gateway.hosts):
            claim = (gateway.namespace, gateway.ingress_gateway, host)
            owner = taken.setdefault(claim, name)
            if owner != name or host in gateway.hosts[:index]:
                yield Problem(
                    code="gateway-host-duplicate",
                    path=("mesh", "gateways", name, "hosts", f"[{index}]"),
                    what=f"{host} is already a host of {owner}",
                    why="an ingress gateway has one certificate and one set of ports for "
                    "each host; Istio would ignore one of the two",
                    fix="remove it from one of them",
                    about=(("mesh", "gateways", owner, "hosts"),),
                )


def _check_challenges(sections: Sections) -> Iterator[Problem]:
    gateways = sections.mesh.gateways if sections.mesh is not None else {}
    for name, gateway in gateways.items():
        taken = gateway.challenges(name)
        if taken in gateways:
            yield Problem(
                code="gateway-acme-name",
                path=("mesh", "gateways", taken),
                what=f"{taken} is also the name of the Gateway for the challenges of {name}",
                why="both would be the same object, and one of them would be lost",
                fix="rename it",
                about=(("mesh", "gateways", name, "tls"),),
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
                code="gateway-service-without-host",
                path=(*path, "hosts"),
                what=f"the service uses the gateway {service.gateway} but has no hosts",
                why="a gateway selects the service by the host that clients request",
                fix=f"set hosts: [{_example(gateway)}]",
                about=(declared,),
            )
        for index, host in enumerate(service.hosts):
            if not any(covers(taken, host) for taken in gateway.hosts):
                yield Problem(
                    code="gateway-host-not-accepted",
                    path=(*path, "hosts", f"[{index}]"),
                    what=f"the gateway {service.gateway} does not accept {host}",
                    why=f"it accepts {', '.join(gateway.hosts)}; requests for other hosts get 404",
                    fix=f"add it to mesh.gateways.{service.gateway}.hosts, or remove it",
                    about=(declared, (*declared, "hosts")),
                )
        yield from _check_inside(service.gateway, gateway, service.split_port.protocol, path)


def _check_inside(name: str, gateway: Gateway, protocol: str, path: KeyPath) -> Iterator[Problem]:
    """The problems of a gateway that cannot see what it routes by."""
    passthrough = gateway.tls is not None and gateway.tls.mode == "PASSTHROUGH"
    about = (("mesh", "gateways", name, "tls"), (*path, "protocol"))
    if passthrough and protocol != "tcp":
        yield Problem(
            code="gateway-passthrough-needs-tcp",
            path=(*path, "protocol"),
            what=f"the gateway {name} passes TLS through, but the protocol is {protocol}",
            why="the gateway cannot see requests inside TLS, so it can neither match nor "
            "retry them",
            fix=f"set protocol: tcp, or set mesh.gateways.{name}.tls.mode to SIMPLE",
            about=about,
        )
    if protocol == "tcp" and not passthrough:
        yield Problem(
            code="gateway-tcp-needs-passthrough",
            path=(*path, "gateway"),
            what=f"the protocol is tcp, but the gateway {name} does not pass TLS through",
            why="plain TCP does not name a host, so the gateway could not select the service",
            fix=f"set mesh.gateways.{name}.tls.mode to PASSTHROUGH if the service speaks "
            "TLS, set protocol: http if it speaks HTTP, or remove gateway",
            about=about,
        )


def _unknown(mesh: Mesh, gateway: str, path: KeyPath) -> Problem:
    guess = nearest(gateway, mesh.gateways)
    return Problem(
        code="service-gateway-unknown",
        path=(*path, "gateway"),
        what=f"there is no {gateway} in mesh.gateways",
        why="no gateway would apply the routes, and clients outside would get 404",
        fix=f"use {guess}"
        if guess
        else f"add {gateway}: {{hosts: [shop.example.com], tls: {{secret: shop-tls}}}} to "
        "mesh.gateways",
        about=(("mesh", "gateways", gateway),),
    )


def _example(gateway: Gateway) -> str:
    host = gateway.hosts[0]
    return "shop.example.com" if host == "*" else host.replace("*", "shop")


CHECKS = (
    _check_installed,
    _check_ports,
    _check_protocols,
    _check_namespaces,
    _check_hosts_once,
    _check_challenges,
    _check_services,
    *jwt_checks.CHECKS,
)
