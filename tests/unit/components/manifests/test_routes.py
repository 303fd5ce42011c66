"""Routes and gateways against golden files, and the examples of stack files."""

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.manifests import Manifest, routes
from config import Gateway, Mesh, Service, StackConfig
from tests.support.generated_routes import objects, routes_at, split
from tests.support.golden import check
from tests.support.paths import PROJECT
from tests.unit.components.manifests.test_properties_routes import destinations
from tests.unit.conftest import Load, Values

EXAMPLES = PROJECT / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))

CHECKOUT: Values = {
    "namespace": "shop",
    "port": 8080,
    "stable": "v1",
    "canary": {"subset": "v2", "weight": 10},
}
ALL_ROUTES: Values = CHECKOUT | {
    "hosts": ["shop.example.com"],
    "gateway": "web",
    "exportTo": [".", "istio-system"],
    "testers": [
        {"header": {"name": "X-Tester", "regex": "(anna|ola)@.+"}, "subset": "v2"},
        {
            "cookie": {"name": "tester", "value": "a.b"},
            "uri": {"prefix": "/beta"},
            "subset": "v2",
        },
        {"uri": {"exact": "/old"}, "subset": "v1"},
    ],
    "mirror": {"subset": "v2", "percent": 12.5},
    "timeout": "1500ms",
    "retries": {"attempts": 3, "perTryTimeout": "0.25s", "retryOn": "5xx, 409"},
    "fault": {
        "reason": "drill of 2027-01",
        "delay": {"percent": 5, "fixedDelay": "2m"},
        "abort": {"percent": 0.1, "httpStatus": 503},
    },
    "affinity": {"cookie": {"name": "session", "ttl": "1h"}},
    "connectionPool": {
        "tcp": {"maxConnections": 100, "connectTimeout": "1s"},
        "http": {
            "http1MaxPendingRequests": 10,
            "http2MaxRequests": 200,
            "maxRequestsPerConnection": 1000,
            "maxRetries": 3,
            "idleTimeout": "10m",
        },
    },
    "outlierDetection": {"consecutiveGatewayErrors": 3, "minHealthPercent": 40},
    "locality": {"distribute": [{"from": "oslo/*", "to": {"oslo/*": 80, "bergen/*": 20}}]},
}
OPAQUE = {
    "namespace": "data",
    "port": 5432,
    "protocol": "tcp",
    "stable": "v1",
    "canary": {"subset": "v2", "weight": 10},
    "hosts": ["db.example.com"],
    "gateway": "through",
    "affinity": {"sourceIp": True},
    "locality": {"enabled": False},
}
GATEWAYS = {
    "web": {"hosts": ["shop.example.com"], "tls": {"secret": "shop-tls"}},
    "partners": {
        "hosts": ["*.partners.example.com"],
        "namespace": "edge",
        "ingressGateway": "partners",
        "httpsPort": 8443,
        "tls": {
            "mode": "MUTUAL",
            "secret": "partners-tls",
            "minVersion": "TLSV1_3",
            "httpsRedirect": False,
        },
    },
    "through": {"hosts": ["db.example.com"], "tls": {"mode": "PASSTHROUGH"}},
    "both": {
        "hosts": ["both.example.com"],
        "tls": {"secret": "both-tls", "httpsRedirect": False, "plainHttp": True},
    },
    "acme": {
        "hosts": ["pay.example.com"],
        "tls": {"secret": "pay-tls", "acme": {"service": "infra/solver", "port": 8089}},
    },
    "cert-manager": {
        "hosts": ["cart.example.com"],
        "tls": {"secret": "cart-tls", "acme": {}},
    },
    "lab": {"hosts": ["*"], "anyHost": "a lab without names", "httpPort": 8080},
}


def service(values: Values, **more: object) -> Service:
    return Service.model_validate(values | more)


def golden(file: str, manifests: list[Manifest]) -> None:
    # Through JSON, so that YAML has no aliases for objects that are used twice.
    check(file, yaml.safe_dump_all(json.loads(json.dumps(manifests)), sort_keys=False))


def test_a_service_with_every_setting_matches_its_golden_file() -> None:
    mesh = {"gateways": {"web": GATEWAYS["web"]}, "services": {"checkout": ALL_ROUTES}}
    golden("routes.yaml", objects(Mesh.model_validate(mesh)))


def test_a_tcp_service_matches_its_golden_file() -> None:
    mesh = {"gateways": {"through": GATEWAYS["through"]}, "services": {"db": OPAQUE}}
    golden("routes-tcp.yaml", objects(Mesh.model_validate(mesh)))


def test_gateways_match_their_golden_file() -> None:
    golden("gateways.yaml", objects(Mesh.model_validate({"gateways": GATEWAYS})))


def example(name: str) -> Values:
    content: Values = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    (key,) = content["config"]
    assert key == "nordmesh:mesh"
    mesh: Values = content["config"][key]
    return mesh


@pytest.mark.parametrize("name", NAMES)
def test_examples_match_their_golden_files(load: Load, container_stack: Values, name: str) -> None:
    container_stack["demo"] = {"enabled": False}
    container_stack["mesh"] = example(name)
    golden(f"example-{name}.yaml", objects(load(container_stack).mesh))


def test_all_examples_load_in_one_stack(load: Load, container_stack: Values) -> None:
    mesh: Values = {}
    for name in NAMES:
        for section, entries in example(name).items():
            mesh.setdefault(section, {}).update(entries)
    container_stack["mesh"] = mesh
    config: StackConfig = load(container_stack)
    assert list(config.mesh.services) == [
        "billing-service",
        "checkout",
        "my-service",
        "payment-service",
    ]


def test_every_destination_has_a_subset_and_weights_add_up_to_100() -> None:
    """At every canary weight, from 0 to 100."""
    for weight in (0, 1, 50, 100):
        settings = service(ALL_ROUTES, canary={"subset": "v2", "weight": weight})
        gateway = Gateway.model_validate(GATEWAYS["web"])
        route = routes.virtual_service("checkout", settings, gateway)
        subsets = {
            subset["name"]
            for rule in routes.subset_rules("checkout", settings)
            for subset in rule["spec"]["subsets"]
        }
        assert {d["subset"] for d in destinations(route["spec"])} == subsets == {"v1", "v2"}
        assert (
            sum(destination["weight"] for destination in split(route["spec"], "http")["route"])
            == 100
        )


@pytest.mark.parametrize(
    ("cookies", "matches"),
    [
        ("tester=a.b", True),
        ("x=1; tester=a.b", True),
        ("x=1;tester=a.b; y=2", True),
        ("tester=a.bc", False),
        ("tester=axb", False),
        ("nottester=a.b", False),
        ("", False),
    ],
)
def test_a_cookie_matches_by_its_whole_name_and_value(cookies: str, matches: bool) -> None:
    cookie = {"cookie": {"name": "tester", "value": "a.b"}, "subset": "v2"}
    route = routes.virtual_service("checkout", service(CHECKOUT, testers=[cookie]))
    pattern = route["spec"]["http"][0]["match"][0]["headers"]["cookie"]["regex"]
    assert bool(re.fullmatch(pattern, cookies)) is matches


def test_retries_are_always_explicit() -> None:
    retries = [
        routes.virtual_service("checkout", service(CHECKOUT, **more))["spec"]["http"][0]["retries"]
        for more in ({}, {"retries": {"attempts": 0}})
    ]
    assert retries == [
        {
            "attempts": 2,
            "retryOn": "connect-failure,refused-stream,unavailable,cancelled,503",
        },
        {"attempts": 0},
    ]


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("500ms", "0.5s"), ("1.50s", "1.5s"), ("2m", "120s"), ("1h", "3600s"), ("10s", "10s")],
)
def test_durations_are_rendered_in_seconds(duration: str, seconds: str) -> None:
    route = routes.virtual_service("checkout", service(CHECKOUT, timeout=duration))
    assert route["spec"]["http"][0]["timeout"] == seconds


def test_a_service_outside_the_mesh_is_routed_at_the_gateway_only() -> None:
    outside = service(CHECKOUT, gateway="web", hosts=["shop.example.com"], inMesh=False)
    gateway = Gateway.model_validate(GATEWAYS["web"])
    spec = routes.virtual_service("checkout", outside, gateway)["spec"]
    assert spec["hosts"] == ["shop.example.com"]
    assert spec["gateways"] == ["istio-system/web"]


WITH_GATEWAY = CHECKOUT | {"gateway": "web", "hosts": ["shop.example.com"]}
OWN_HOST = "checkout.shop.svc.cluster.local"


def http_routes(values: Values) -> Manifest:
    gateway = Gateway.model_validate(GATEWAYS["web"]) if "gateway" in values else None
    spec: Manifest = routes.virtual_service("checkout", service(values), gateway)["spec"]
    return spec


@pytest.mark.parametrize("values", [CHECKOUT, ALL_ROUTES, WITH_GATEWAY])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_sidecars_split_the_service_port_and_no_other(values: Values, protocol: str) -> None:
    spec = http_routes(values | {"protocol": protocol})
    assert routes_at(spec, 9090, OWN_HOST) == []
    assert routes_at(spec, 8080, OWN_HOST)[-1] == split(spec, "http")
    assert len(routes_at(spec, 8080, OWN_HOST)) == len(values.get("testers", [])) + 1
    # Istio looks up hosts without a Service on port 80, which may also be a port of the Service.
    assert not destinations(routes_at(spec, 80, OWN_HOST))


@pytest.mark.parametrize("port", [443, 80, 9090])
def test_a_gateway_splits_traffic_on_every_port(port: int) -> None:
    spec = http_routes(ALL_ROUTES)
    matched = routes_at(spec, port, "shop.example.com", proxy="istio-system/web")
    assert matched[-1] == split(spec, "http")
    assert len(matched) == len(ALL_ROUTES["testers"]) + 1


@pytest.mark.parametrize("authority", ["shop.example.com", "shop.example.com:80"])
@pytest.mark.parametrize("port", [80, 8080])
def test_extra_hosts_are_split_in_the_mesh(authority: str, port: int) -> None:
    for values in (WITH_GATEWAY, CHECKOUT | {"hosts": ["shop.example.com"]}):
        spec = http_routes(values)
        assert routes_at(spec, port, authority)[0] == split(spec, "http")


def test_the_traffic_policy_covers_the_service_port_only() -> None:
    policy = routes.destination_rule("checkout", service(ALL_ROUTES))["spec"]["trafficPolicy"]
    (settings,) = policy.pop("portLevelSettings")
    assert policy == {}
    assert settings["port"] == {"number": 8080}
    assert settings.keys() == {"port", "loadBalancer", "connectionPool", "outlierDetection"}


def test_tcp_affinity_is_set_in_the_top_level_policy() -> None:
    # Istio 1.16, networkfilter.go: maybeSetHashPolicy looks neither at ports nor, where there are
    # weights, at subsets.
    policy = routes.destination_rule("db", service(OPAQUE))["spec"]["trafficPolicy"]
    assert policy["loadBalancer"]["consistentHash"] == {"useSourceIp": True}


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http", "tcp"])
@given(weight=st.integers(min_value=0, max_value=100))
def test_reading_weights_undoes_rendering(protocol: str, weight: int) -> None:
    values = {
        "namespace": "shop",
        "port": 8080,
        "protocol": protocol,
        "stable": "v1",
        "canary": {"subset": "v2", "weight": weight},
    }
    service = Service.model_validate(values)
    manifest = routes.virtual_service("checkout", service)
    read = {subset: routes.weight_of(manifest, subset) for subset in ("v1", "v2", "v3")}
    assert read == {"v1": 100 - weight, "v2": weight, "v3": 0}
    (route,) = routes.routes_of(manifest)
    assert {to.host for to in route.destinations} == {routes.host("checkout", service)}
    assert [to.subset for to in route.destinations] == ["v1", "v2"]


def test_a_tester_route_has_no_weight() -> None:
    testers = {"route": [{"destination": {"host": "a", "subset": "v2"}}], "match": [{"uri": {}}]}
    (route,) = routes.routes_of({"spec": {"http": [testers]}})
    assert route == routes.Route(
        match=[{"uri": {}}],
        destinations=[routes.Destination(host="a", subset="v2", weight=None)],
    )
    assert routes.weight_of({"spec": {"http": [testers]}}, "v2") == 0


@pytest.mark.parametrize("manifest", [{}, {"spec": None}, {"spec": {"http": None}}, {"spec": "?"}])
def test_a_route_that_is_unknown_at_preview_has_no_routes(manifest: dict[str, Any]) -> None:
    assert list(routes.routes_of(manifest)) == []
