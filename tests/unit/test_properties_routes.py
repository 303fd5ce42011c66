"""What holds for every service: it is refused in words, or its routes do what is written."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from components.manifests import Manifest
from config import Mesh, Service
from config.scalars.durations import seconds
from config.services import routes
from tests.support.generated import Values, examples
from tests.support.generated_mesh import NAME, accepted_services, meshes_of_one, problems
from tests.support.generated_routes import (
    Asked,
    assert_varied,
    objects,
    routes_at,
    split,
    text_matches,
)

EXAMPLES = 400
OWN_HOST = f"{NAME}.shop.svc.cluster.local"
NOBODY_SPECIAL = Asked(headers={}, path="/")
# A text that each pattern of the generated services matches.
MATCHED = {"(a|b)+": "ab", "v[0-9]x": "v7x", "^a.*": "abc", "/beta/.+": "/beta/1"}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A service of a stack, and the objects that it becomes."""

    service: Service
    route: Manifest
    rules: list[Manifest]

    @classmethod
    def of(cls, mesh: Mesh) -> "Made":
        manifests = objects(mesh)
        (route,) = (one for one in manifests if one["kind"] == "VirtualService")
        rules = [one for one in manifests if one["kind"] == "DestinationRule"]
        return cls(service=mesh.services[NAME], route=route["spec"], rules=rules)

    @property
    def protocols(self) -> set[str]:
        return {"http", "tcp", "tls"} & self.route.keys()

    @property
    def entrances(self) -> Iterator[tuple[int, str, str]]:
        """Port, host and proxy of every way to the service's routes."""
        hosts = [host.replace("*", "any") for host in self.service.hosts]
        if self.service.in_mesh:
            yield self.service.port, OWN_HOST, "mesh"
            yield from ((port, host, "mesh") for port in (80, self.service.port) for host in hosts)
        if self.service.gateway is not None:
            reference = f"istio-system/{self.service.gateway}"
            yield from ((port, host, reference) for port in (80, 443) for host in hosts)


@pytest.fixture(scope="module")
def made_up() -> list[Made]:
    return [Made.of(mesh) for mesh in accepted_services(EXAMPLES)]


@pytest.fixture(scope="module")
def with_requests(made_up: list[Made]) -> list[Made]:
    return [made for made in made_up if made.service.protocol != "tcp"]


def test_the_services_are_varied(made_up: list[Made]) -> None:
    """Without it, the other tests could hold for no service at all."""
    assert_varied((made.service for made in made_up), shapes=300, of_each=20)


def test_a_service_that_is_refused_is_refused_in_words() -> None:
    refused = [
        against for _, against in map(problems, examples(meshes_of_one, EXAMPLES)) if against
    ]
    assert len(refused) >= 30
    for problem in (problem for against in refused for problem in against):
        assert problem.path[:3] == ("mesh", "services", NAME)
        assert all((problem.what, problem.why, problem.fix))


def test_every_destination_is_a_subset_of_the_pods_with_its_version(made_up: list[Made]) -> None:
    for made in made_up:
        labels = {
            (rule["spec"]["host"], subset["name"]): subset["labels"]
            for rule in made.rules
            for subset in rule["spec"].get("subsets", [])
        }
        reached = {(to["host"], to["subset"]) for to in destinations(made.route)}
        assert reached <= labels.keys(), made.service
        assert all(pods == {"version": subset} for (_, subset), pods in labels.items())
        assert {to["host"] for to in destinations(made.route)} == {OWN_HOST}
        assert {to["port"]["number"] for to in destinations(made.route)} == {made.service.port}


def test_each_version_has_its_share(made_up: list[Made]) -> None:
    for made in made_up:
        stable, canary = made.service.stable, made.service.canary
        shares = (
            {stable: 100}
            if canary is None
            else {stable: 100 - canary.weight, canary.subset: canary.weight}
        )
        assert made.protocols
        for protocol in made.protocols:
            ways = split(made.route, protocol)["route"]
            assert {way["destination"]["subset"]: way["weight"] for way in ways} == shares
            assert sum(way["weight"] for way in ways) == 100, made.service


def test_requests_are_split_at_every_entrance(with_requests: list[Made]) -> None:
    for made in with_requests:
        for port, host, proxy in made.entrances:
            first = routes_at(made.route, port, host, proxy=proxy, asked=NOBODY_SPECIAL)[0]
            assert first == split(made.route, "http"), (port, host, proxy, made.service)


def test_other_ports_of_the_service_stay_as_they_are(with_requests: list[Made]) -> None:
    for made in with_requests:
        for port in {80, 8080, made.service.port % 65535 + 1} - {made.service.port}:
            answers = routes_at(made.route, port, OWN_HOST)
            assert not destinations(answers), made.service
            # Where Istio finds a route for one of the hosts, it leaves the Service's own out.
            hosts = [host.replace("*", "any") for host in made.service.hosts]
            if made.service.in_mesh and any(routes_at(made.route, port, host) for host in hosts):
                assert answers, made.service


def test_testers_get_their_version_at_every_entrance(with_requests: list[Made]) -> None:
    for made in with_requests:
        for testers in made.service.testers:
            asked = asked_by(testers)
            first = next(one for one in made.service.testers if is_one_of(one, asked))
            for port, host, proxy in made.entrances:
                rule = routes_at(made.route, port, host, proxy=proxy, asked=asked)[0]
                subsets = [way["destination"]["subset"] for way in rule["route"]]
                assert subsets == [first.subset], (port, host, proxy, made.service)


def test_connections_are_split_on_one_port(made_up: list[Made]) -> None:
    for made in (made for made in made_up if made.service.protocol == "tcp"):
        service = made.service
        ports = {
            protocol: [match["port"] for rule in made.route[protocol] for match in rule["match"]]
            for protocol in made.protocols
        }
        inside = {"tcp": [service.port]} if service.in_mesh else {}
        assert ports == inside | ({"tls": [443]} if service.gateway else {})
        for match in made.route.get("tls", [{"match": []}])[0]["match"]:
            assert match["sniHosts"] == service.hosts
            assert match["gateways"] == [f"istio-system/{service.gateway}"]


def test_the_routes_are_for_the_hosts_and_the_gateway(made_up: list[Made]) -> None:
    for made in made_up:
        service = made.service
        inside = [OWN_HOST] if service.in_mesh else []
        assert made.route["hosts"] == [*inside, *service.hosts]
        if service.gateway is None:
            assert "gateways" not in made.route
        else:
            mesh = ["mesh"] if service.in_mesh else []
            assert made.route["gateways"] == [*mesh, f"istio-system/{service.gateway}"]


def test_routes_and_rules_are_seen_by_the_same_callers(made_up: list[Made]) -> None:
    for made in made_up:
        for spec in (made.route, *(rule["spec"] for rule in made.rules)):
            assert spec.get("exportTo", []) == made.service.export_to, made.service


def test_pods_are_chosen_and_protected_as_written(made_up: list[Made]) -> None:
    for made in made_up:
        service = made.service
        (policy,) = (
            rule["spec"]["trafficPolicy"] for rule in made.rules if "trafficPolicy" in rule["spec"]
        )
        (settings,) = policy["portLevelSettings"]
        assert settings["port"] == {"number": service.port}
        written = service.model_dump(by_alias=True, exclude_none=True)
        for key in ("outlierDetection", "connectionPool"):
            assert in_seconds(settings.get(key)) == in_seconds(written.get(key)), service
        balancer = dict(settings["loadBalancer"])
        locality = {k: v for k, v in written.get("locality", {}).items() if v or k == "enabled"}
        assert balancer.pop("localityLbSetting", {}) == locality
        assert in_seconds(balancer) == in_seconds(choice(written)), service
        # The policy of all ports has what Istio does not read under one: see test_manifests_routes.
        assert policy.keys() <= {"portLevelSettings", "loadBalancer"}
        if "loadBalancer" in policy:
            assert policy["loadBalancer"] == {"consistentHash": {"useSourceIp": True}}, service


def choice(written: Values) -> Manifest:
    """How a pod is chosen, in Istio's words."""
    affinity = written.get("affinity", {})
    if "cookie" in affinity:
        return {"consistentHash": {"httpCookie": affinity["cookie"]}}
    if "header" in affinity:
        return {"consistentHash": {"httpHeaderName": affinity["header"]}}
    if affinity:
        return {"consistentHash": {"useSourceIp": True}}
    return {"simple": written.get("loadBalancer", "LEAST_REQUEST")}


def test_requests_are_retried_timed_and_failed_as_written(with_requests: list[Made]) -> None:
    for made in with_requests:
        service = made.service
        retries = (service.retries or routes.Retries()).model_dump(by_alias=True, exclude_none=True)
        if retries["attempts"] == 0:
            retries = {"attempts": 0}
        fault = (
            service.fault.model_dump(by_alias=True, exclude_none=True, exclude={"reason"})
            if service.fault
            else {}
        )
        for rule in (one for one in made.route["http"] if destinations(one["route"])):
            assert in_seconds(rule["retries"]) == in_seconds(retries), service
            assert in_seconds(rule.get("timeout")) == in_seconds(service.timeout), service
            injected = {
                kind: {"percent": settings.pop("percentage")["value"], **settings}
                for kind, settings in ((k, dict(v)) for k, v in rule.get("fault", {}).items())
            }
            assert in_seconds(injected) == in_seconds(fault), service


def test_copies_are_made_of_the_split_alone(with_requests: list[Made]) -> None:
    for made in with_requests:
        mirror, last = made.service.mirror, split(made.route, "http")
        assert [rule for rule in made.route["http"] if "mirror" in rule] == [last] * bool(mirror)
        if mirror is not None:
            assert last["mirror"]["subset"] == mirror.subset
            assert last["mirrorPercentage"] == {"value": mirror.percent}


# --- requests and values -------------------------------------------------------------------------


def asked_by(testers: routes.Testers) -> Asked:
    """A request of the testers."""
    headers = {}
    if testers.header is not None:
        headers[testers.header.name] = matched(testers.header.model_dump(exclude_none=True))
    if testers.cookie is not None:
        headers["cookie"] = f"a=b; {testers.cookie.name}={testers.cookie.value}; c=d"
    uri = testers.uri.model_dump(exclude_none=True) if testers.uri else {"exact": "/"}
    return Asked(headers=headers, path=matched(uri))


def matched(condition: Values) -> str:
    if "regex" in condition:
        return MATCHED[condition["regex"]]
    return condition["exact"] if "exact" in condition else f"{condition['prefix']}x"


def is_one_of(testers: routes.Testers, asked: Asked) -> bool:
    header, cookie, uri = testers.header, testers.cookie, testers.uri
    if header is not None:
        condition = header.model_dump(exclude={"name"}, exclude_none=True)
        if not text_matches(condition, asked.headers.get(header.name, "")):
            return False
    if cookie is not None:
        cookies = asked.headers.get("cookie", "").split("; ")
        if f"{cookie.name}={cookie.value}" not in cookies:
            return False
    return uri is None or text_matches(uri.model_dump(exclude_none=True), asked.path)


def in_seconds(value: Any) -> Any:
    """A value whose durations are numbers, however they are written."""
    if isinstance(value, dict):
        return {key: in_seconds(below) for key, below in value.items()}
    try:
        return seconds(value)
    except (TypeError, ValueError):
        return value


def destinations(value: Any) -> list[Manifest]:
    """All destinations below a value."""
    if isinstance(value, list):
        return [found for part in value for found in destinations(part)]
    if not isinstance(value, dict):
        return []
    own = [value] if "subset" in value else []
    return own + [found for part in value.values() for found in destinations(part)]
