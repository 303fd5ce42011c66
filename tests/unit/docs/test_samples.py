"""Istio's samples and the documents of setup guides as stack files: each routes as it states.

The tables below state what each sample asks for; docs/samples.md lists the unsupported ones.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from components.manifests import Manifest, istio_operator
from config import ROOT_NAMESPACE, StackConfig
from config.errors import ConfigError
from tests.support.generated_routes import Request, routes_at
from tests.support.mocked import kubernetes_objects, run
from tests.support.paths import PROJECT
from tests.unit.conftest import Load, Values

EXAMPLES = PROJECT / "examples"
# Istio's retries of a route that sets none.
DEFAULT_RETRIES = {
    "attempts": 2,
    "retryOn": "connect-failure,refused-stream,unavailable,cancelled,503",
}

Versions = Mapping[str, int]
"""The share of each version in percent."""


class Route(NamedTuple):
    """Expected destination of the requests to a service.

    user: for requests with this end-user header only. more: settings of the route besides retries.
    """

    service: str
    versions: Versions
    user: str | None = None
    more: Mapping[str, Any] = {}


JASON = Route("reviews", {"v2": 100}, user="jason")
ABORT = {"fault": {"abort": {"percentage": {"value": 100}, "httpStatus": 500}}}
DELAY = {"fault": {"delay": {"percentage": {"value": 100}, "fixedDelay": "7s"}}}
NO_DETAILS = {"fault": {"abort": {"percentage": {"value": 100}, "httpStatus": 555}}}

BOOKINFO = {
    "fault-injection-details-v1": [Route("details", {"v1": 100}, more=NO_DETAILS)],
    "virtual-service-all-v1": [
        Route(name, {"v1": 100}) for name in ("productpage", "reviews", "ratings", "details")
    ],
    "virtual-service-details-v2": [Route("details", {"v2": 100})],
    "virtual-service-ratings-db": [Route("reviews", {"v3": 100}), Route("ratings", {"v2": 100})],
    "virtual-service-ratings-test-abort": [
        Route("ratings", {"v1": 100}, user="jason", more=ABORT),
        Route("ratings", {"v1": 100}),
    ],
    "virtual-service-ratings-test-delay": [
        Route("ratings", {"v1": 100}, user="jason", more=DELAY),
        Route("ratings", {"v1": 100}),
    ],
    "virtual-service-ratings-mysql": [
        Route("reviews", {"v3": 100}),
        Route("ratings", {"v2-mysql": 100}),
    ],
    "virtual-service-ratings-mysql-vm": [
        Route("reviews", {"v3": 100}),
        Route("ratings", {"v2-mysql-vm": 100}),
    ],
    "virtual-service-reviews-50-v3": [Route("reviews", {"v1": 50, "v3": 50})],
    "virtual-service-reviews-80-20": [Route("reviews", {"v1": 80, "v2": 20})],
    "virtual-service-reviews-90-10": [Route("reviews", {"v1": 90, "v2": 10})],
    "virtual-service-reviews-jason-v2-v3": [JASON, Route("reviews", {"v3": 100})],
    "virtual-service-reviews-test-v2": [JASON, Route("reviews", {"v1": 100})],
    "virtual-service-reviews-v2-v3": [Route("reviews", {"v2": 50, "v3": 50})],
    "virtual-service-reviews-v3": [Route("reviews", {"v3": 100})],
}
RATINGS = ["v1", "v2", "v2-mysql", "v2-mysql-vm"]
ALL_VERSIONS = {
    "productpage": ["v1"],
    "reviews": ["v1", "v2", "v3"],
    "ratings": RATINGS,
    "details": ["v1", "v2"],
}
"""The subsets of each service."""


class Rules(NamedTuple):
    """Expected DestinationRules. strict: the services that accept only mTLS."""

    subsets: Mapping[str, list[str]]
    balancer: str = "LEAST_REQUEST"
    strict: tuple[str, ...] = ()


DESTINATION_RULES = {
    "destination-rule-all": Rules(ALL_VERSIONS),
    "destination-rule-all-mtls": Rules(ALL_VERSIONS, strict=tuple(ALL_VERSIONS)),
    "destination-rule-reviews": Rules({"reviews": ["v1", "v2", "v3"]}, balancer="RANDOM"),
}
BEHIND_GATEWAYS: Mapping[str, tuple[str, Mapping[str, bool]]] = {
    "bookinfo-gateway": (
        "productpage",
        {
            "/productpage": True,
            "/productpage/x": False,
            "/static/site.css": True,
            "/login": True,
            "/logout": True,
            "/api/v1/products/1": True,
            "/": False,
        },
    ),
    "helloworld-gateway": ("helloworld", {"/hello": True, "/hello/x": False, "/": False}),
    "httpbin-gateway": ("httpbin", {"/": True, "/status/200": True}),
}
"""The service of each sample with a gateway, and whether it gets the requests for a path."""
EGRESS = "egress-rule-google-apis"


class Guide(NamedTuple):
    """Requirements of a setup guide. strict: the namespaces whose policy is STRICT."""

    route: Route
    strict: list[str]
    breaker: Mapping[str, Any] = {}
    istiods: int = 1
    annotations: Mapping[str, str] = {}


GUIDES = {
    "2020-my-service": Guide(Route("my-service", {"v1": 90, "v2": 10}), strict=[]),
    "2021-payment-service": Guide(
        Route("payment-service", {"v1": 90, "v2": 10}),
        strict=["payments"],
        breaker={"consecutive5xxErrors": 5, "interval": "30s", "baseEjectionTime": "30s"},
    ),
    "2022-payment-service": Guide(
        Route("payment-service", {"v1": 90, "v2": 10}),
        strict=["backend"],
        annotations={
            "sidecar.istio.io/proxyCPU": "50m",
            "sidecar.istio.io/proxyMemory": "64Mi",
            "proxy.istio.io/config": '{"holdApplicationUntilProxyStarts": true}',
        },
    ),
    "2022-checkout": Guide(Route("checkout", {"v1": 95, "v2": 5}), strict=["shop"]),
    "2023-billing-service": Guide(
        Route("billing-service", {"v1": 90, "v2": 10}), strict=[ROOT_NAMESPACE], istiods=2
    ),
}


class Unsupported(NamedTuple):
    """A sample without an example.

    attempt: the setting that is refused, with the code. alternative: what docs/samples.md proposes.
    """

    attempt: Values
    code: str
    alternative: Values


def service_at(port: int, **more: Any) -> Values:
    return {"namespace": "bookinfo", "port": port, "stable": "v1", **more}


def behind(gateway: Values, service: str, settings: Values) -> Values:
    """Return a service behind a gateway, for the hosts of the gateway."""
    reached = settings | {"gateway": "public", "hosts": gateway["hosts"]}
    return {"gateways": {"public": gateway}, "services": {service: reached}}


def tcp_gateway(weight: int) -> Unsupported:
    echo = service_at(9000, protocol="tcp", canary={"subset": "v2", "weight": weight})
    gateway = {"hosts": ["echo.example.com"]}
    return Unsupported(
        attempt=behind(gateway, "tcp-echo", echo),
        code="gateway-tcp-needs-passthrough",
        alternative=behind(gateway | {"tls": {"mode": "PASSTHROUGH"}}, "tcp-echo", echo),
    )


SECURED = {"public": {"hosts": ["web.example.com"], "tls": {"secret": "web-tls"}}}
UNSUPPORTED = {
    "bookinfo/networking/certmanager-gateway.yaml": Unsupported(
        attempt={"namespaces": {ROOT_NAMESPACE: {"injection": True}}},
        code="namespace-system",
        alternative={"gateways": SECURED},
    ),
    "tcp-echo/tcp-echo-20-v2.yaml": tcp_gateway(20),
    "tcp-echo/tcp-echo-all-v1.yaml": tcp_gateway(0),
}


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (EXAMPLES / folder).glob("*.yaml"))


def stack_of(load: Load, base: Values, path: Path) -> StackConfig:
    """Return the stack of the lab with the sections of an example."""
    fragment: Values = yaml.safe_load(path.read_text())["config"]
    sections = {key.removeprefix("nordmesh:"): value for key, value in fragment.items()}
    istio = base["istio"] | sections.get("istio", {})
    return load(base | {"demo": {"enabled": False}} | sections | {"istio": istio})


class Rendered:
    """The objects of a stack, by kind and name."""

    def __init__(self, stack: StackConfig) -> None:
        self.stack = stack
        self.objects = kubernetes_objects(run(stack)[0])

    def specs(self, kind: str) -> dict[str, Manifest]:
        """Return the specs of the objects of a kind by name; those of modes by namespace."""
        key = "namespace" if kind == "PeerAuthentication" else "name"
        return {
            manifest["metadata"][key]: manifest["spec"]
            for manifest in self.objects
            if manifest["kind"] == kind
        }

    def route(self, service: str, user: str | None) -> Route:
        """Return where Istio sends a request for the service port, by the label of the pods."""
        settings = self.stack.mesh.services[service]
        host = f"{service}.{settings.namespace}.svc.cluster.local"
        spec = self.specs("VirtualService")[service]
        assert spec["hosts"] == [host]
        request = Request({"end-user": user} if user else {}, "/")
        number = settings.split_port.number
        first = routes_at(spec, number, host, request=request)[0]
        if "delegate" in first:
            (split,) = self.specs("VirtualService")[first["delegate"]["name"]]["http"]
            first = {key: value for key, value in first.items() if key != "delegate"} | split
        assert {to["destination"]["host"] for to in first["route"]} == {host}
        labels = {
            subset["name"]: subset["labels"]["version"]
            for rule in self.specs("DestinationRule").values()
            if rule["host"] == host
            for subset in rule.get("subsets", [])
        }
        weights = {
            labels[to["destination"]["subset"]]: to.get("weight", 100) for to in first["route"]
        }
        more = {key: value for key, value in first.items() if key not in ("match", "route")}
        assert more.pop("retries") == DEFAULT_RETRIES
        return Route(service, {name: share for name, share in weights.items() if share}, user, more)

    def policy(self, service: str) -> Manifest:
        """Return the traffic policy of the service port, without the port."""
        settings = self.specs("DestinationRule")[service]["trafficPolicy"]["portLevelSettings"]
        assert len(settings) == 1
        return {key: value for key, value in settings[0].items() if key != "port"}


def test_every_example_has_expectations() -> None:
    expected = [*BOOKINFO, *DESTINATION_RULES, *BEHIND_GATEWAYS, EGRESS]
    assert names("bookinfo") == sorted(expected)
    assert names("guides") == sorted(GUIDES)


@pytest.mark.parametrize("name", BOOKINFO)
def test_bookinfo_routes_as_stated(load: Load, container_stack: Values, name: str) -> None:
    rendered = Rendered(stack_of(load, container_stack, EXAMPLES / "bookinfo" / f"{name}.yaml"))
    stated = BOOKINFO[name]
    assert set(rendered.specs("VirtualService")) == {route.service for route in stated}
    assert not rendered.specs("Gateway")
    assert [rendered.route(route.service, route.user) for route in stated] == stated
    for route in stated:
        # Istio's own choice: the samples with a route set no policy.
        assert rendered.policy(route.service) == {"loadBalancer": {"simple": "LEAST_REQUEST"}}
        if route.user is None:
            assert rendered.route(route.service, "lisa") == route._replace(user="lisa")


@pytest.mark.parametrize("name", DESTINATION_RULES)
def test_every_version_of_a_service_has_a_subset(
    load: Load, container_stack: Values, name: str
) -> None:
    rendered = Rendered(stack_of(load, container_stack, EXAMPLES / "bookinfo" / f"{name}.yaml"))
    expected = DESTINATION_RULES[name]
    subsets: dict[str, list[str]] = {}
    for rule in rendered.specs("DestinationRule").values():
        for subset in rule.get("subsets", []):
            assert subset["labels"] == {"version": subset["name"]}
            subsets.setdefault(rule["host"].partition(".")[0], []).append(subset["name"])
    assert subsets == expected.subsets
    for service in expected.subsets:
        assert rendered.policy(service) == {"loadBalancer": {"simple": expected.balancer}}
    modes = [manifest for manifest in rendered.objects if manifest["kind"] == "PeerAuthentication"]
    strict = [
        mode["metadata"]["name"] for mode in modes if mode["spec"]["mtls"] == {"mode": "STRICT"}
    ]
    assert sorted(strict) == sorted(expected.strict)


@pytest.mark.parametrize("name", BEHIND_GATEWAYS)
def test_a_gateway_accepts_every_host_for_the_paths_of_a_service(
    load: Load, container_stack: Values, name: str
) -> None:
    rendered = Rendered(stack_of(load, container_stack, EXAMPLES / "bookinfo" / f"{name}.yaml"))
    service, paths = BEHIND_GATEWAYS[name]
    (server,) = rendered.specs("Gateway")["public"]["servers"]
    assert (server["hosts"], server["port"]["number"]) == (["*"], 80)
    spec = rendered.specs("VirtualService")["public.any"]
    assert spec["hosts"] == ["*"]
    for path, is_reached in paths.items():
        request = Request({}, path)
        matching = routes_at(spec, 80, "any.example", proxy="istio-system/public", request=request)
        targets = [rule["delegate"]["name"] for rule in matching[:1]]
        assert targets == ([f"{service}.split"] if is_reached else []), path
    assert rendered.route(service, None) == Route(service, {"v1": 100})


def test_http_is_upgraded_to_https_on_egress(load: Load, container_stack: Values) -> None:
    rendered = Rendered(stack_of(load, container_stack, EXAMPLES / "bookinfo" / f"{EGRESS}.yaml"))
    (entry,) = rendered.specs("ServiceEntry").values()
    (rule,) = rendered.specs("DestinationRule").values()
    assert (entry["hosts"], entry["resolution"]) == (["www.googleapis.com"], "DNS")
    (port,) = entry["ports"]
    assert (port["number"], port["protocol"], port["targetPort"]) == (80, "HTTP", 443)
    assert rule["host"] == "www.googleapis.com"
    (settings,) = rule["trafficPolicy"]["portLevelSettings"]
    assert (settings["port"], settings["tls"]["mode"]) == ({"number": 80}, "SIMPLE")
    assert not rendered.specs("VirtualService")


@pytest.mark.parametrize("name", GUIDES)
def test_examples_meet_the_requirements_of_the_guides(
    load: Load, container_stack: Values, name: str
) -> None:
    rendered = Rendered(stack_of(load, container_stack, EXAMPLES / "guides" / f"{name}.yaml"))
    guide, service = GUIDES[name], GUIDES[name].route.service
    assert rendered.route(service, None) == guide.route
    breaker = rendered.policy(service).get("outlierDetection", {})
    assert {key: breaker.get(key) for key in guide.breaker} == guide.breaker
    assert bool(breaker) == bool(guide.breaker)
    modes = rendered.specs("PeerAuthentication")
    assert [at for at in modes if modes[at]["mtls"] == {"mode": "STRICT"}] == guide.strict
    injected = {
        manifest["metadata"]["name"]: manifest["metadata"]["labels"]["istio-injection"]
        for manifest in rendered.objects
        if manifest["kind"] == "Namespace"
        and "istio-injection" in manifest["metadata"].get("labels", {})
    }
    assert injected == {rendered.stack.mesh.services[service].namespace: "enabled"}
    patched = [
        manifest["spec"]["template"]["metadata"]["annotations"]
        for manifest in rendered.objects
        if manifest["metadata"]["name"] == f"{service}-v1"
    ]
    assert [{**annotations, **guide.annotations} for annotations in patched] == patched
    assert bool(patched) == bool(guide.annotations)
    _check_installation(rendered.stack, guide)


def _check_installation(stack: StackConfig, guide: Guide) -> None:
    assert stack.istio is not None
    spec = istio_operator.control_plane(stack.istio)["spec"]
    assert spec["profile"] == "default"
    assert spec["values"]["global"]["proxy"]["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "2000m", "memory": "1024Mi"},
    }
    assert spec["meshConfig"]["enableTracing"] is False
    assert spec["meshConfig"]["defaultConfig"]["holdApplicationUntilProxyStarts"] is True
    assert spec["components"]["pilot"]["k8s"]["hpaSpec"]["minReplicas"] == guide.istiods
    gateways = istio_operator.gateways(stack.istio)["spec"]["components"]
    assert [gateway["enabled"] for gateway in gateways["egressGateways"]] == [True]


def in_bookinfo(base: Values, mesh: Values) -> Values:
    """Return a stack with a fragment of mesh, in the namespace bookinfo."""
    namespaces = {"bookinfo": {"injection": True}} | mesh.get("namespaces", {})
    return base | {"demo": {"enabled": False}, "mesh": mesh | {"namespaces": namespaces}}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_samples_are_refused(load: Load, container_stack: Values, name: str) -> None:
    """If this fails, the language has grown: write an example of the sample."""
    sample = UNSUPPORTED[name]
    with pytest.raises(ConfigError) as caught:
        load(in_bookinfo(container_stack, sample.attempt))
    assert sample.code in {problem.code for problem in caught.value.problems}
    load(in_bookinfo(container_stack, sample.alternative))


def test_the_table_names_the_samples_without_an_example() -> None:
    text = (PROJECT / "docs" / "samples.md").read_text()
    listed = re.findall(r"^\| `?([^`|]+\w)`? \|", text.partition("| --- |")[2], re.M)
    assert listed == list(UNSUPPORTED)


def test_the_document_counts_the_samples() -> None:
    supported = len(BOOKINFO) + len(DESTINATION_RULES) + len(BEHIND_GATEWAYS) + 1
    unsupported = [name for name in UNSUPPORTED if name.endswith(".yaml")]
    text = " ".join((PROJECT / "docs" / "samples.md").read_text().split())
    assert f"{supported} of {supported + len(unsupported)} networking samples" in text
    assert f"{len(GUIDES)} of 5 guides" in text
