"""Properties of every generated service: it is refused with a fix, or its routes match it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from components.manifests import Manifest
from config import Mesh, Service
from config.scalars.durations import seconds
from config.scalars.names import subset_name
from config.services import routes
from tests.support.generated import Values, examples
from tests.support.generated_mesh import NAME, accepted_services, meshes_of_one, problems
from tests.support.generated_routes import (
    Request,
    assert_varied,
    objects,
    routes_at,
    split,
    text_matches,
)

EXAMPLES = 400
OWN_HOST = f"{NAME}.shop.svc.cluster.local"
PLAIN_REQUEST = Request(headers={}, path="/")
# A text that matches each pattern of the generated services.
MATCHED = {"(a|b)+": "ab", "v[0-9]x": "v7x", "^a.*": "abc", "/beta/.+": "/beta/1"}


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A service and the Istio objects that it renders to."""

    service: Service
    route: Manifest
    rules: list[Manifest]

    @classmethod
    def render(cls, mesh: Mesh) -> "Rendered":
        manifests = objects(mesh)
        (route,) = (manifest for manifest in manifests if manifest["kind"] == "VirtualService")
        rules = [manifest for manifest in manifests if manifest["kind"] == "DestinationRule"]
        return cls(service=mesh.services[NAME], route=route["spec"], rules=rules)

    @property
    def protocols(self) -> set[str]:
        return {"http", "tcp", "tls"} & self.route.keys()

    @property
    def listeners(self) -> Iterator[tuple[int, str, str]]:
        """Port, host and proxy of every listener that the routes of the service apply to."""
        hosts = [host.replace("*", "any") for host in self.service.hosts]
        number = self.service.split_port.number
        # Port 80 belongs to another named port, if there is one.
        default = {80} - {port.number for port in self.service.named_ports}
        if self.service.in_mesh:
            yield number, OWN_HOST, "mesh"
            yield from ((port, host, "mesh") for port in {number, *default} for host in hosts)
        if self.service.gateway is not None:
            reference = f"istio-system/{self.service.gateway}"
            yield from ((port, host, reference) for port in (80, 443) for host in hosts)


@pytest.fixture(scope="module")
def rendered() -> list[Rendered]:
    return [Rendered.render(mesh) for mesh in accepted_services(EXAMPLES)]


@pytest.fixture(scope="module")
def http_services(rendered: list[Rendered]) -> list[Rendered]:
    return [item for item in rendered if item.service.split_port.has_requests]


def test_the_generated_services_are_varied(rendered: list[Rendered]) -> None:
    """Otherwise the other tests could pass without testing anything."""
    assert_varied((item.service for item in rendered), shapes=300, of_each=20)


def test_a_refused_service_gets_a_path_a_reason_and_a_fix() -> None:
    refused = [
        against for _, against in map(problems, examples(meshes_of_one, EXAMPLES)) if against
    ]
    assert len(refused) >= 30
    for problem in (problem for against in refused for problem in against):
        assert problem.path[:3] == ("mesh", "services", NAME)
        assert all((problem.what, problem.why, problem.fix))


def test_every_destination_is_a_subset_of_the_pods_with_its_version(
    rendered: list[Rendered],
) -> None:
    for item in rendered:
        labels = {
            (rule["spec"]["host"], subset["name"]): subset["labels"]
            for rule in item.rules
            for subset in rule["spec"].get("subsets", [])
        }
        reached = {(to["host"], to["subset"]) for to in destinations(item.route)}
        assert reached <= labels.keys(), item.service
        service = item.service
        versions = {subset_name(version): version for version in service.subsets.values()}
        for (_, subset), pods in labels.items():
            assert pods == {service.version_label: versions[subset]}
        assert {to["host"] for to in destinations(item.route)} == {OWN_HOST}
        named = {port.number for port in item.service.named_ports}
        split_number = item.service.split_port.number
        numbers = {to["port"]["number"] for to in destinations(item.route)}
        assert numbers == (named if item.service.in_mesh else {split_number}), item.service


def test_weights_match_the_canary_weight(rendered: list[Rendered]) -> None:
    for item in rendered:
        stable, canary = item.service.stable, item.service.canary
        shares = (
            {stable: 100}
            if canary is None
            else {stable: 100 - canary.weight, canary.subset: canary.weight}
        )
        shares = {subset_name(version): share for version, share in shares.items()}
        assert item.protocols
        opaque = not item.service.split_port.has_requests
        for protocol in item.protocols & ({"tcp", "tls"} if opaque else {"http"}):
            targets = split(item.route, protocol)["route"]
            assert {
                target["destination"]["subset"]: target["weight"] for target in targets
            } == shares
            assert sum(target["weight"] for target in targets) == 100, item.service


def test_requests_are_split_on_every_listener(http_services: list[Rendered]) -> None:
    for item in http_services:
        for port, host, proxy in item.listeners:
            first = routes_at(item.route, port, host, proxy=proxy, request=PLAIN_REQUEST)[0]
            assert first == split(item.route, "http"), (port, host, proxy, item.service)


def test_other_ports_of_the_service_are_not_split(http_services: list[Rendered]) -> None:
    for item in http_services:
        named = {port.number for port in item.service.named_ports}
        for port in {80, 8080, 9091, item.service.split_port.number % 65535 + 1} - named:
            answers = routes_at(item.route, port, OWN_HOST)
            assert not destinations(answers), item.service
            # If a route matches one of the hosts, Istio omits the default route of the Service.
            hosts = [host.replace("*", "any") for host in item.service.hosts]
            if item.service.in_mesh and any(routes_at(item.route, port, host) for host in hosts):
                assert answers, item.service


def test_testers_reach_their_version_on_every_listener(http_services: list[Rendered]) -> None:
    for item in http_services:
        for testers in item.service.testers:
            request = request_of(testers)
            first = next(t for t in item.service.testers if matches(t, request))
            for port, host, proxy in item.listeners:
                rule = routes_at(item.route, port, host, proxy=proxy, request=request)[0]
                subsets = [target["destination"]["subset"] for target in rule["route"]]
                assert subsets == [subset_name(first.subset)], (port, host, proxy, item.service)


def test_connections_are_split_on_the_service_port_only(rendered: list[Rendered]) -> None:
    for item in (item for item in rendered if not item.service.split_port.has_requests):
        service = item.service
        ports = {
            protocol: [
                match["port"]
                for rule in item.route[protocol]
                for match in rule["match"]
                if "weight" in rule["route"][0]
            ]
            for protocol in item.protocols - {"http"}
        }
        inside = {"tcp": [service.split_port.number]} if service.in_mesh else {}
        assert ports == inside | ({"tls": [443]} if service.gateway else {})
        for match in item.route.get("tls", [{"match": []}])[0]["match"]:
            assert match["sniHosts"] == service.hosts
            assert match["gateways"] == [f"istio-system/{service.gateway}"]


def test_routes_bind_to_the_hosts_and_the_gateway(rendered: list[Rendered]) -> None:
    for item in rendered:
        service = item.service
        inside = [OWN_HOST] if service.in_mesh else []
        assert item.route["hosts"] == [*inside, *service.hosts]
        if service.gateway is None:
            assert "gateways" not in item.route
        else:
            mesh = ["mesh"] if service.in_mesh else []
            assert item.route["gateways"] == [*mesh, f"istio-system/{service.gateway}"]


def test_routes_and_rules_are_exported_to_the_same_namespaces(rendered: list[Rendered]) -> None:
    for item in rendered:
        for spec in (item.route, *(rule["spec"] for rule in item.rules)):
            assert spec.get("exportTo", []) == item.service.export_to, item.service


def test_the_traffic_policy_matches_the_service(rendered: list[Rendered]) -> None:
    for item in rendered:
        service = item.service
        (policy,) = (
            rule["spec"]["trafficPolicy"] for rule in item.rules if "trafficPolicy" in rule["spec"]
        )
        settings, *others = policy["portLevelSettings"]
        named = [port.number for port in service.named_ports]
        assert [entry["port"]["number"] for entry in (settings, *others)] == named
        settings_in_file = service.model_dump(by_alias=True, exclude_none=True)
        wanted = for_port(settings_in_file, has_requests=service.split_port.has_requests)
        for key in ("outlierDetection", "connectionPool"):
            assert in_seconds(settings.get(key)) == in_seconds(wanted.get(key)), service
        balancer = dict(settings["loadBalancer"])
        locality = {
            k: v for k, v in settings_in_file.get("locality", {}).items() if v or k == "enabled"
        }
        assert balancer.pop("localityLbSetting", {}) == locality
        assert in_seconds(balancer) == in_seconds(load_balancer(wanted)), service
        # Istio reads some settings only in the top-level policy: see test_routes.
        assert policy.keys() <= {"portLevelSettings", "loadBalancer"}
        if "loadBalancer" in policy:
            assert policy["loadBalancer"] == {"consistentHash": {"useSourceIp": True}}, service


def for_port(settings_in_file: Values, *, has_requests: bool) -> Values:
    """Return the settings of a service that apply to a port: those of requests only to some."""
    if has_requests:
        return settings_in_file
    affinity, pool = settings_in_file.get("affinity", {}), settings_in_file.get("connectionPool")
    settings = {**settings_in_file, "affinity": affinity if affinity.get("sourceIp") else {}}
    if pool:
        settings["connectionPool"] = {key: value for key, value in pool.items() if key == "tcp"}
        if not settings["connectionPool"]:
            del settings["connectionPool"]
    return settings


def load_balancer(settings_in_file: Values) -> Manifest:
    """Return the Istio load balancer settings of a service."""
    affinity = settings_in_file.get("affinity", {})
    if "cookie" in affinity:
        return {"consistentHash": {"httpCookie": affinity["cookie"]}}
    if "header" in affinity:
        return {"consistentHash": {"httpHeaderName": affinity["header"]}}
    if affinity:
        return {"consistentHash": {"useSourceIp": True}}
    return {"simple": settings_in_file.get("loadBalancer", "LEAST_REQUEST")}


def test_retries_timeouts_and_faults_match_the_service(http_services: list[Rendered]) -> None:
    for item in http_services:
        service = item.service
        retries = (service.retries or routes.Retries()).model_dump(by_alias=True, exclude_none=True)
        if retries["attempts"] == 0:
            retries = {"attempts": 0}
        # Every port with requests has a route for each entry of testers, and one for the others.
        faults = [entry.fault or service.fault for entry in service.testers] + [service.fault]
        rules = [rule for rule in item.route["http"] if destinations(rule["route"])]
        assert len(rules) % len(faults) == 0
        for rule, fault in zip(rules, faults * (len(rules) // len(faults)), strict=True):
            assert in_seconds(rule["retries"]) == in_seconds(retries), service
            assert in_seconds(rule.get("timeout")) == in_seconds(service.timeout), service
            injected = {
                kind: {"percent": settings.pop("percentage")["value"], **settings}
                for kind, settings in ((k, dict(v)) for k, v in rule.get("fault", {}).items())
            }
            declared = (
                fault.model_dump(by_alias=True, exclude_none=True, exclude={"reason"})
                if fault
                else {}
            )
            assert in_seconds(injected) == in_seconds(declared), service


def test_only_the_split_route_is_mirrored(http_services: list[Rendered]) -> None:
    for item in http_services:
        mirror, last = item.service.mirror, split(item.route, "http")
        assert [rule for rule in item.route["http"] if "mirror" in rule] == [last] * bool(mirror)
        if mirror is not None:
            assert last["mirror"]["subset"] == subset_name(mirror.subset)
            assert last["mirrorPercentage"] == {"value": mirror.percent}


# --- requests and values -------------------------------------------------------------------------


def request_of(testers: routes.Testers) -> Request:
    """Build a request that these testers match."""
    headers = {}
    if testers.header is not None:
        headers[testers.header.name] = matching_text(testers.header.model_dump(exclude_none=True))
    if testers.cookie is not None:
        headers["cookie"] = f"a=b; {testers.cookie.name}={testers.cookie.value}; c=d"
    uri = testers.uri.model_dump(exclude_none=True) if testers.uri else {"exact": "/"}
    return Request(headers=headers, path=matching_text(uri))


def matching_text(condition: Values) -> str:
    if "regex" in condition:
        return MATCHED[condition["regex"]]
    return condition["exact"] if "exact" in condition else f"{condition['prefix']}x"


def matches(testers: routes.Testers, request: Request) -> bool:
    header, cookie, uri = testers.header, testers.cookie, testers.uri
    if header is not None:
        condition = header.model_dump(exclude={"name"}, exclude_none=True)
        if not text_matches(condition, request.headers.get(header.name, "")):
            return False
    if cookie is not None:
        cookies = request.headers.get("cookie", "").split("; ")
        if f"{cookie.name}={cookie.value}" not in cookies:
            return False
    return uri is None or text_matches(uri.model_dump(exclude_none=True), request.path)


def in_seconds(value: Any) -> Any:
    """Replace the durations in a value by seconds."""
    if isinstance(value, dict):
        return {key: in_seconds(below) for key, below in value.items()}
    try:
        return seconds(value)
    except (TypeError, ValueError):
        return value


def destinations(value: Any) -> list[Manifest]:
    """List all destinations nested in a value."""
    if isinstance(value, list):
        return [destination for child in value for destination in destinations(child)]
    if not isinstance(value, dict):
        return []
    own_value = [value] if "subset" in value else []
    return own_value + [
        destination for child in value.values() for destination in destinations(child)
    ]
