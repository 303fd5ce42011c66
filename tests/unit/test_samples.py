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
from tests.support.documented import PROJECT
from tests.support.generated_routes import Request, routes_at
from tests.support.mocked import kubernetes_objects, run
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
NO_DETAILS = {"fault": {"abort": {"percentage": {"value": 100}, "httpStatus": 555}}}

BOOKINFO = {
    "fault-injection-details-v1": [Route("details", {"v1": 100}, more=NO_DETAILS)],
    "virtual-service-all-v1": [
        Route(name, {"v1": 100}) for name in ("productpage", "reviews", "ratings", "details")
    ],
    "virtual-service-details-v2": [Route("details", {"v2": 100})],
    "virtual-service-ratings-db": [Route("reviews", {"v3": 100}), Route("ratings", {"v2": 100})],
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
EGRESS = "egress-rule-google-apis"


class Guide(NamedTuple):
    """Requirements of a setup guide. strict: the namespaces whose policy is STRICT."""

    route: Route
    strict: list[str]
    breaker: Mapping[str, Any] = {}
    istiods: int = 1
    annotations: Mapping[str, str] = {}


GUIDES = {
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


def any_host(service: str, port: int, *paths: str) -> Unsupported:
    """Return a service for the host *. paths: the only ones that the gateway may request."""
    callers = [{"gateway": "istio-ingressgateway", "paths": list(paths)}]
    limits = {"callers": callers} if paths else {}
    any_name = {"hosts": ["*"], "anyHost": "the sample accepts every name"}
    return Unsupported(
        attempt=behind(any_name, service, service_at(port)),
        code="http-host-format",
        alternative=behind({"hosts": ["web.example.com"]}, service, service_at(port, **limits)),
    )


def three_versions(**more: Any) -> Unsupported:
    canaries = [{"subset": version, "weight": 0} for version in ("v2", "v3")]
    return Unsupported(
        attempt={"services": {"reviews": service_at(9080, canary=canaries)}},
        code="mapping-expected",
        alternative={"services": {"reviews": service_at(9080, canary=canaries[1], **more)}},
    )


def fault_for_testers(**fault: Any) -> Unsupported:
    jason = {"header": {"name": "end-user", "exact": "jason"}, "subset": "v1", "fault": fault}
    for_everyone = {"reason": "only in the stack of the testers", **fault}
    return Unsupported(
        attempt={"services": {"ratings": service_at(9080, testers=[jason])}},
        code="key-unknown",
        alternative={"services": {"ratings": service_at(9080, fault=for_everyone)}},
    )


def tcp_gateway(weight: int) -> Unsupported:
    echo = service_at(9000, protocol="tcp", canary={"subset": "v2", "weight": weight})
    gateway = {"hosts": ["echo.example.com"]}
    return Unsupported(
        attempt=behind(gateway, "tcp-echo", echo),
        code="gateway-tcp-needs-passthrough",
        alternative=behind(gateway | {"tls": {"mode": "PASSTHROUGH"}}, "tcp-echo", echo),
    )


PAGES = ("/productpage", "/static*", "/login", "/logout", "/api/v1/products*")
SECURED = {"public": {"hosts": ["web.example.com"], "tls": {"secret": "web-tls"}}}
UNSUPPORTED = {
    "bookinfo/networking/bookinfo-gateway.yaml": any_host("productpage", 9080, *PAGES),
    "bookinfo/networking/certmanager-gateway.yaml": Unsupported(
        attempt={"namespaces": {ROOT_NAMESPACE: {"injection": True}}},
        code="namespace-system",
        alternative={"gateways": SECURED},
    ),
    "bookinfo/networking/destination-rule-all.yaml": three_versions(),
    "bookinfo/networking/destination-rule-all-mtls.yaml": three_versions(mtls={"mode": "STRICT"}),
    "bookinfo/networking/destination-rule-reviews.yaml": three_versions(loadBalancer="RANDOM"),
    "bookinfo/networking/virtual-service-ratings-test-abort.yaml": fault_for_testers(
        abort={"percent": 100, "httpStatus": 500}
    ),
    "bookinfo/networking/virtual-service-ratings-test-delay.yaml": fault_for_testers(
        delay={"percent": 100, "fixedDelay": "7s"}
    ),
    "helloworld/helloworld-gateway.yaml": any_host("helloworld", 5000, "/hello"),
    "httpbin/httpbin-gateway.yaml": any_host("httpbin", 8000),
    "tcp-echo/tcp-echo-20-v2.yaml": tcp_gateway(20),
    "tcp-echo/tcp-echo-all-v1.yaml": tcp_gateway(0),
    "guide of 2020": any_host("my-service", 8080),
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
        first = routes_at(spec, settings.port, host, request=request)[0]
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
    assert names("bookinfo") == sorted([*BOOKINFO, EGRESS])
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
    supported = len(BOOKINFO) + 1
    unsupported = [name for name in UNSUPPORTED if name.endswith(".yaml")]
    text = " ".join((PROJECT / "docs" / "samples.md").read_text().split())
    assert f"{supported} of {supported + len(unsupported)} networking samples" in text
    assert f"{len(GUIDES)} of 5 guides" in text
