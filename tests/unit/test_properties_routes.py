"""What holds for every stack of services: it is refused in words, or its routes lead somewhere."""

from typing import Any

from hypothesis import HealthCheck, event, given, settings

from components.manifests import Manifest
from config import Mesh
from tests.generated_routes import Values, objects, routes_at, services, split, understood


@given(service=services)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_service_is_refused_or_its_routes_lead_somewhere(service: Values) -> None:
    mesh = understood(service)
    event("refused" if mesh is None else "accepted")
    if mesh is None:
        return
    manifests = objects(mesh)
    (route,) = (found["spec"] for found in manifests if found["kind"] == "VirtualService")
    known = {
        subset["name"]
        for found in manifests
        if found["kind"] == "DestinationRule"
        for subset in found["spec"].get("subsets", [])
    }
    assert route["hosts"]
    assert {place["subset"] for place in destinations(route)} <= known
    for protocol in {"http", "tcp", "tls"} & route.keys():
        last = split(route, protocol)
        assert sum(part["weight"] for part in last["route"]) == 100
        assert mesh.services["made-up"].stable in {
            part["destination"]["subset"] for part in last["route"]
        }
    if "http" in route:
        assert_every_request_has_a_route(route, mesh)


def assert_every_request_has_a_route(route: Manifest, mesh: Mesh) -> None:
    """In the mesh at the service's port and at no other of its ports, and at the gateway."""
    service = mesh.services["made-up"]
    own_host = "made-up.shop.svc.cluster.local"
    if service.in_mesh:
        last = split(route, "http")
        assert last in routes_at(route, service.port, own_host)
        other = routes_at(route, service.port % 65535 + 1, own_host)
        assert not destinations(other)
        for host in service.hosts:
            assert last in routes_at(route, 80, host)
    for proxy in set(route.get("gateways", [])) - {"mesh"}:
        assert split(route, "http") in routes_at(route, 443, service.hosts[0], proxy=proxy)


def destinations(value: Any) -> list[Manifest]:
    """All destinations below a value."""
    if isinstance(value, list):
        return [found for part in value for found in destinations(part)]
    if not isinstance(value, dict):
        return []
    own = [value] if "subset" in value else []
    return own + [found for part in value.values() for found in destinations(part)]
