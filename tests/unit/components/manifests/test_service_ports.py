"""Services with several ports: which requests are split, which go to the stable version."""

from typing import Any

import pytest

from components.manifests import Manifest, authorization, routes
from config import Mesh, Service
from tests.support.generated_routes import Request, routes_at
from tests.unit.conftest import Values

OWN_HOST = "checkout.shop.svc.cluster.local"
CHECKOUT: Values = {
    "namespace": "shop",
    "ports": {"http": 8080, "admin": 9090, "grpc-pay": 7070, "tcp-cache": 6379},
    "stable": "v1",
    "canary": {"subset": "v2", "weight": 10},
}
TESTERS = {"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}


def service(**more: object) -> Service:
    return Service.model_validate(CHECKOUT | more)


def shares(rule: Manifest) -> dict[tuple[str, int], int]:
    """Return the share of each subset and port in a route."""
    return {
        (to["destination"]["subset"], to["destination"]["port"]["number"]): to.get("weight", 100)
        for to in rule["route"]
    }


def answered(spec: Manifest, port: int, **headers: str) -> list[dict[tuple[str, int], int]]:
    """Return the shares of the first route that a sidecar has for a request, if it has any."""
    rules = routes_at(spec, port, OWN_HOST, request=Request(headers, "/"))
    return [shares(rule) for rule in rules[:1]]


def test_the_port_named_http_is_split_and_the_others_get_the_stable_version() -> None:
    spec = routes.virtual_service("checkout", service())["spec"]
    assert answered(spec, 8080) == [{("v1", 8080): 90, ("v2", 8080): 10}]
    assert answered(spec, 9090) == [{("v1", 9090): 100}]
    assert answered(spec, 7070) == [{("v1", 7070): 100}]
    assert answered(spec, 9091) == []  # a port of the Service that is not named
    (opaque,) = spec["tcp"]
    assert opaque["match"] == [{"port": 6379}]
    assert shares(opaque) == {("v1", 6379): 100}


@pytest.mark.parametrize(("split", "number"), [("admin", 9090), ("grpc-pay", 7070)])
def test_another_port_can_be_split(split: str, number: int) -> None:
    spec = routes.virtual_service("checkout", service(split=split))["spec"]
    assert answered(spec, number) == [{("v1", number): 90, ("v2", number): 10}]
    assert answered(spec, 8080) == [{("v1", 8080): 100}]


def test_an_opaque_port_can_be_split() -> None:
    spec = routes.virtual_service("checkout", service(split="tcp-cache"))["spec"]
    assert shares(spec["tcp"][0]) == {("v1", 6379): 90, ("v2", 6379): 10}
    assert answered(spec, 8080) == [{("v1", 8080): 100}]


def test_testers_reach_their_version_on_every_port_with_requests() -> None:
    spec = routes.virtual_service("checkout", service(testers=[TESTERS]))["spec"]
    for number in (8080, 9090, 7070):
        assert answered(spec, number, **{"x-tester": "yes"}) == [{("v2", number): 100}]


def test_a_weight_is_in_one_route_only() -> None:
    before, after = (
        routes.virtual_service("checkout", service(canary={"subset": "v2", "weight": weight}))
        for weight in (10, 25)
    )
    changed = [
        old["match"]
        for old, new in zip(before["spec"]["http"], after["spec"]["http"], strict=True)
        if old != new
    ]
    assert changed == [[{"port": 8080}]]
    assert routes.weight_of(after, "v2") == 25


@pytest.mark.parametrize(
    ("more", "protocols"),
    [
        ({}, {"http": "http", "admin": "http", "grpc-pay": "grpc", "tcp-cache": "tcp"}),
        (
            {"protocol": "tcp"},
            {"http": "http", "admin": "tcp", "grpc-pay": "grpc", "tcp-cache": "tcp"},
        ),
        (
            {"protocols": {"admin": "grpc", "http": "tcp"}},
            {"http": "tcp", "admin": "grpc", "grpc-pay": "grpc", "tcp-cache": "tcp"},
        ),
    ],
)
def test_a_port_has_the_protocol_of_its_name(more: Values, protocols: dict[str, str]) -> None:
    assert {port.name: port.protocol for port in service(**more).named_ports} == protocols


def test_pods_are_chosen_and_protected_on_every_named_port() -> None:
    settings = service(
        affinity={"header": "x-user"},
        connectionPool={"tcp": {"maxConnections": 7}, "http": {"maxRetries": 3}},
        outlierDetection={},
    )
    policy = routes.destination_rule("checkout", settings)["spec"]["trafficPolicy"]
    by_port = {entry["port"]["number"]: entry for entry in policy["portLevelSettings"]}
    assert by_port.keys() == {8080, 9090, 7070, 6379}
    for number in (8080, 9090, 7070):
        assert by_port[number]["loadBalancer"] == {"consistentHash": {"httpHeaderName": "x-user"}}
        assert by_port[number]["connectionPool"]["http"] == {"maxRetries": 3}
    # A connection has no headers.
    assert by_port[6379]["loadBalancer"] == {"simple": "LEAST_REQUEST"}
    assert by_port[6379]["connectionPool"] == {"tcp": {"maxConnections": 7}}
    assert all(entry["outlierDetection"] for entry in by_port.values())


def test_further_versions_get_no_share_and_can_be_reached_by_testers() -> None:
    to_v3 = {"header": {"name": "x-tester", "exact": "v3"}, "subset": "v3"}
    settings = service(versions=["v3", "v4"], testers=[to_v3], mirror={"subset": "v4"})
    spec = routes.virtual_service("checkout", settings)["spec"]
    assert answered(spec, 8080) == [{("v1", 8080): 90, ("v2", 8080): 10}]
    assert answered(spec, 8080, **{"x-tester": "v3"}) == [{("v3", 8080): 100}]
    assert spec["http"][-1]["mirror"]["subset"] == "v4"
    rules = routes.subset_rules("checkout", settings)
    assert [rule["metadata"]["name"] for rule in rules] == [
        f"checkout.{version}" for version in ("v1", "v2", "v3", "v4")
    ]


def test_faults_can_be_for_testers_only() -> None:
    fault = {"reason": "drill of 2027-01", "abort": {"percent": 100, "httpStatus": 500}}
    own, everyone = (
        {"reason": "drill of 2027-01", "abort": {"percent": 100, "httpStatus": 418}},
        {"reason": "drill of 2027-01", "abort": {"percent": 1, "httpStatus": 503}},
    )
    spec = routes.virtual_service("checkout", service(testers=[TESTERS | {"fault": fault}]))["spec"]
    faults = [rule.get("fault") for rule in routes_at(spec, 8080, OWN_HOST)]
    assert faults == [{"abort": {"percentage": {"value": 100}, "httpStatus": 500}}, None]
    both = service(testers=[TESTERS | {"fault": own}, TESTERS], fault=everyone)
    spec = routes.virtual_service("checkout", both)["spec"]
    statuses = [rule["fault"]["abort"]["httpStatus"] for rule in routes_at(spec, 8080, OWN_HOST)]
    assert statuses == [418, 503, 503]


def test_callers_are_limited_to_ports_by_name() -> None:
    callers = [{"serviceAccount": "shop/client", "ports": ["admin", "8443"]}]
    mesh = Mesh.model_validate({"services": {"checkout": CHECKOUT | {"callers": callers}}})
    policy: Any = authorization.authorization_policy("checkout", mesh.services)
    assert policy["spec"]["rules"][0]["to"] == [{"operation": {"ports": ["9090", "8443"]}}]
