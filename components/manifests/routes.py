"""Istio objects for the services of a stack: which version gets which requests, and how."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.manifests import Manifest
from components.manifests.gateways import reference
from components.manifests.handling import fault_of, handling, percentage
from components.manifests.traffic_policy import choice_of_pods, traffic_policy
from config import Gateway, Service
from config.scalars.names import subset_name
from config.services.ports import ServicePort
from config.services.routes import (
    CookieMatch,
    HeaderMatch,
    Testers,
    UriMatch,
)

NETWORKING = "networking.istio.io/v1beta1"
_MESH = "mesh"  # Istio's name for all sidecars
_HTTP_PORT = 80
# istioctl analyze warns of a destination without port and subset, which is intended here.
_SUPPRESS = {"galley.istio.io/analyze-suppress": "IST0112,IST0140"}


def destination_rule(name: str, service: Service) -> Manifest:
    """Load balancing and protection of a service's pods on its named ports, for every version.

    It never holds TLS settings: auto mTLS finds out by itself which pods have a sidecar.
    """
    settings = [
        {"port": {"number": port.number}, **traffic_policy(service, port)}
        for port in service.named_ports
    ]
    policy: Manifest = {"portLevelSettings": settings}
    opaque = next((port for port in service.named_ports if not port.has_requests), None)
    if opaque and service.affinity is not None and service.affinity.source_ip:
        # Istio ignores the affinity of connections in port settings (maybeSetHashPolicy).
        policy["loadBalancer"] = choice_of_pods(service, opaque)
    rule = service.kubernetes_name(name)
    return _destination_rule(rule, name, service, {"trafficPolicy": policy})


def subset_rules(name: str, service: Service) -> list[Manifest]:
    """Render one DestinationRule for each subset: the pods with one value of the version's label.

    Istio merges the rules of one host. With separate rules, a subset is created before the route
    that uses it changes and deleted afterwards, so that no request meets a route to a missing
    subset. The name of a service never has a dot, so these names cannot collide with another's.
    """
    return [
        _destination_rule(
            f"{service.kubernetes_name(name)}.{subset}",
            name,
            service,
            {"subsets": [{"name": subset, "labels": {service.version_label: version}}]},
        )
        for subset, version in service.subsets.items()
    ]


def virtual_service(
    name: str,
    service: Service,
    gateway: Gateway | None = None,
    *,
    delegate: Manifest | None = None,
) -> Manifest:
    """The routes of a service's named ports: testers first, then the split over its subsets.

    One port is split; the requests to the other named ports go to the stable version. Sidecars
    route the ports that are not named as if this object did not exist.
    gateway: the entry of mesh.gateways that service.gateway names. delegate: the VirtualService
    that has the split, if this one does not.
    """
    own = [host(name, service)] if service.in_mesh else []
    spec: Manifest = {"hosts": [*own, *service.hosts]}
    metadata: Manifest = {
        "name": service.kubernetes_name(name),
        "namespace": service.namespace,
    }
    if service.gateway is not None and gateway is not None:
        inside = [_MESH] if service.in_mesh else []
        spec["gateways"] = [*inside, reference(service.gateway, gateway)]
    spec |= _opaque_routes(name, service, gateway)
    if requests := _request_routes(name, service, gateway, delegate):
        spec["http"] = requests
        if _answers_at_port_80(service):
            metadata["annotations"] = _SUPPRESS
    return {
        "apiVersion": NETWORKING,
        "kind": "VirtualService",
        "metadata": metadata,
        "spec": _exported(service, spec),
    }


def host(name: str, service: Service) -> str:
    """The service's full name: a short one depends on the namespace of its reader."""
    return f"{service.kubernetes_name(name)}.{service.namespace}.svc.cluster.local"


PROTOCOLS = ("http", "tls", "tcp")
"""The lists of routes in a VirtualService."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A destination of a route. subset: None for every version. weight: None if it sets none."""

    host: str
    subset: str | None
    weight: int | None


@dataclass(frozen=True, kw_only=True)
class Route:
    """A route of a VirtualService. match: its conditions, as in the manifest."""

    match: Any
    destinations: list[Destination]


def routes_of(virtual_service: Mapping[str, Any]) -> Iterator[Route]:
    """Read the routes of a VirtualService, without parts that a preview does not know yet."""
    spec = virtual_service.get("spec")
    if not isinstance(spec, Mapping):
        return
    for protocol in PROTOCOLS:
        for route in _mappings(spec.get(protocol)):
            yield Route(
                match=route.get("match"),
                destinations=[_read(entry) for entry in _mappings(route.get("route"))],
            )


def weight_of(virtual_service: Mapping[str, Any], subset: str) -> int:
    """A subset's weight in a VirtualService, 0 if no route splits requests.

    Routes that send testers to one subset have no weights.
    """
    weights = (
        destination.weight or 0
        for route in routes_of(virtual_service)
        for destination in route.destinations
        if destination.subset == subset
    )
    return max(weights, default=0)


def delegates(virtual_service: Mapping[str, Any]) -> bool:
    """Whether a VirtualService leaves its split to another one."""
    spec = virtual_service.get("spec")
    http = _mappings(spec.get("http")) if isinstance(spec, Mapping) else []
    return any("delegate" in route for route in http)


def _read(entry: Mapping[str, Any]) -> Destination:
    destination, weight = entry.get("destination") or {}, entry.get("weight")
    return Destination(
        host=str(destination.get("host")),
        subset=destination.get("subset"),
        weight=None if weight is None else int(weight),
    )


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value or [] if isinstance(item, Mapping)]


# --- routes --------------------------------------------------------------------------------------


def _request_routes(
    name: str, service: Service, gateway: Gateway | None, delegate: Manifest | None
) -> list[Manifest]:
    """The routes of requests; those of the split port come last."""
    routes = []
    for port in reversed(service.named_ports):
        if port.has_requests and (scopes := _scopes(service, port, gateway)):
            handled = handling(service)
            routes += [
                testers_route(name, service, port, testers, scopes, handled=handled)
                for testers in service.testers
            ]
            is_delegated = delegate is not None and port == service.split_port
            target = {"delegate": delegate} if is_delegated else answer(name, service, port)
            routes.append({"match": scopes, **target} | handled)
    if routes and _answers_at_port_80(service):
        routes.append(_untouched_route(name, service, gateway))
    return routes


def _scopes(service: Service, port: ServicePort, gateway: Gateway | None) -> list[Manifest]:
    """The match conditions of a port's routes: in the mesh, and all ports of a gateway."""
    scopes: list[Manifest] = []
    is_split = port == service.split_port
    if service.in_mesh:
        inside = _inside(gateway)
        scopes.append({"port": port.number, **inside})
        if is_split and _answers_at_port_80(service):
            hosts = [{"authority": {"regex": _host_pattern(host)}} for host in service.hosts]
            scopes += [{"port": _HTTP_PORT, **host, **inside} for host in hosts]
    if is_split and service.gateway is not None and gateway is not None:
        scopes.append({"gateways": [reference(service.gateway, gateway)]})
    return scopes


def _inside(gateway: Gateway | None) -> Manifest:
    """The condition that excludes a route from the gateway, if there is one."""
    return {"gateways": [_MESH]} if gateway is not None else {}


def _answers_at_port_80(service: Service) -> bool:
    """Whether callers in the mesh also reach the service's other hosts at HTTP's default port.

    Sidecars look up hosts that are no Service's at port 80 and at the service's own ports only.
    """
    named = {port.number for port in service.named_ports}
    splits_requests = service.split_port.has_requests
    return service.in_mesh and bool(service.hosts) and splits_requests and _HTTP_PORT not in named


def _host_pattern(host: str) -> str:
    wildcard, name = (".*", host[1:]) if host.startswith("*") else ("", host)
    return f"{wildcard}{re.escape(name)}(:{_HTTP_PORT})?"


def _untouched_route(name: str, service: Service, gateway: Gateway | None) -> Manifest:
    """Leave the Service's own port 80 unchanged, if it has one: other hosts have routes there.

    A destination without a port is the port that was called.
    """
    return {
        "match": [{"port": _HTTP_PORT, **_inside(gateway)}],
        "route": [{"destination": {"host": host(name, service)}}],
    }


def answer(name: str, service: Service, port: ServicePort) -> Manifest:
    """The pods that answer requests to a port, without those of testers."""
    if port == service.split_port:
        return split_of(name, service)
    return {"route": [{"destination": _destination(name, service, service.stable, port)}]}


def split_of(name: str, service: Service) -> Manifest:
    """The split of the requests over the subsets, and the copies of some."""
    route: Manifest = {"route": _split(name, service)}
    if service.mirror is not None:
        version, port = service.mirror.subset, service.split_port
        route["mirror"] = _destination(name, service, version, port)
        route["mirrorPercentage"] = percentage(service.mirror.percent)
    return route


def testers_route(
    name: str,
    service: Service,
    port: ServicePort,
    testers: Testers,
    scopes: list[Manifest],
    *,
    handled: Manifest,
) -> Manifest:
    """The route of testers to a port. handled: the handling of the requests."""
    headers: Manifest = {}
    if testers.header is not None:
        headers[testers.header.name] = _string_match(testers.header)
    if testers.cookie is not None:
        headers["cookie"] = _cookie_match(testers.cookie)
    match: Manifest = {"headers": headers} if headers else {}
    if testers.uri is not None:
        match["uri"] = _string_match(testers.uri)
    route = [{"destination": _destination(name, service, testers.subset, port)}]
    matches = [match | scope for scope in scopes]
    faults = {"fault": fault_of(testers.fault)} if testers.fault is not None else {}
    return {"match": matches, "route": route} | handled | faults


def _opaque_routes(name: str, service: Service, gateway: Gateway | None) -> Manifest:
    """Routes of TCP connections; a gateway selects them by the TLS server name."""
    routes: Manifest = {}
    split = service.split_port
    opaque = [port for port in service.named_ports if not port.has_requests]
    if service.in_mesh and opaque:
        routes["tcp"] = [
            {
                "match": [{"port": port.number, **_inside(gateway)}],
                "route": _split(name, service)
                if port == split
                else [{"destination": _destination(name, service, service.stable, port)}],
            }
            for port in reversed(opaque)
        ]
    if split in opaque and service.gateway is not None and gateway is not None:
        asked = {
            "port": gateway.https_port,
            "sniHosts": list(service.hosts),
            "gateways": [reference(service.gateway, gateway)],
        }
        routes["tls"] = [{"match": [asked], "route": _split(name, service)}]
    return routes


def _split(name: str, service: Service) -> list[Manifest]:
    return [
        {"destination": _destination(name, service, version, service.split_port), "weight": weight}
        for version, weight in service.weights.items()
    ]


def _destination(name: str, service: Service, version: str, port: ServicePort) -> Manifest:
    return {
        "host": host(name, service),
        "subset": subset_name(version),
        "port": {"number": port.number},
    }


def _string_match(match: HeaderMatch | UriMatch) -> Manifest:
    return match.model_dump(include={"exact", "prefix", "regex"}, exclude_none=True)


def _cookie_match(cookie: CookieMatch) -> Manifest:
    """One header has all cookies, and the pattern (RE2) must match the whole of it."""
    return {"regex": f"(.*; ?)?{re.escape(f'{cookie.name}={cookie.value}')}(;.*)?"}


# --- pods ----------------------------------------------------------------------------------------


def _destination_rule(rule: str, name: str, service: Service, spec: Manifest) -> Manifest:
    return {
        "apiVersion": NETWORKING,
        "kind": "DestinationRule",
        "metadata": {"name": rule, "namespace": service.namespace},
        "spec": _exported(service, {"host": host(name, service), **spec}),
    }


# --- values --------------------------------------------------------------------------------------


def _exported(service: Service, spec: Manifest) -> Manifest:
    return {**spec, "exportTo": list(service.export_to)} if service.export_to else spec
