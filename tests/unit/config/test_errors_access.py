"""Invalid egress lists, callers and sidecar sizes: each edit gives one error."""

from copy import deepcopy
from typing import Any

import pytest

from config import Namespace, capacity
from config.access import checks as access
from config.sections import Sections
from tests.support.sections import partner
from tests.unit.config.test_errors import GONE, Wrong, edited, expect, refusal
from tests.unit.conftest import Load, Values

PARTNER = "mesh.egress.hosts.partner"
CALLERS = "mesh.services.checkout.callers"
SMALL = "mesh.workloads.checkout-v1"

TCP = [{"number": 5432, "protocol": "TCP"}]
WILDCARD: dict[str, object] = {f"{PARTNER}.host": "*.store.example", f"{PARTNER}.through": "direct"}
REASON: dict[str, object] = {f"{PARTNER}.wildcardReason": "each tenant has its own host"}


@pytest.fixture
def access_stack(container_stack: Values) -> Values:
    """A stack with an egress host, a second service, a caller and a small sidecar."""
    stack = deepcopy(container_stack)
    mesh = stack["mesh"]
    mesh["egress"] = {"hosts": {"partner": partner()}}
    mesh["services"]["cart"] = {
        "namespace": "shop",
        "port": 8080,
        "stable": "v1",
        "serviceAccount": "cart",
    }
    mesh["services"]["checkout"]["callers"] = [{"service": "cart", "methods": ["GET"]}]
    mesh["workloads"] = {"checkout-v1": {"namespace": "shop", "requests": {"cpu": "50m"}}}
    return stack


HOSTS = [
    Wrong(
        "a list beside ALLOW_ANY",
        {"istio.outboundTrafficPolicy": "ALLOW_ANY"},
        "istio.outboundTrafficPolicy",
        "egress-policy-allows-any",
        ("leaves the EEA", "use REGISTRY_ONLY"),
    ),
    Wrong(
        "no egress gateway",
        {"istio.egressGateways": {}},
        "mesh.egress.gateway",
        "egress-gateway-unknown",
        ("there is no gateway istio-egressgateway", "503", "through: direct"),
    ),
    Wrong(
        "another egress gateway",
        {"mesh.egress.gateway": "istio-egresgateway"},
        "mesh.egress.gateway",
        "egress-gateway-unknown",
        ("there is no gateway istio-egresgateway", "use istio-egressgateway"),
    ),
    Wrong(
        "an egress gateway with other ports",
        {
            "istio.egressGateways": {
                "istio-egressgateway": {"ports": [{"name": "https", "port": 443}]}
            }
        },
        "mesh.egress.gateway",
        "egress-gateway-ports",
        ("the gateway istio-egressgateway has no port 80", "TLS on port 443"),
    ),
    Wrong(
        "the same host twice",
        {"mesh.egress.hosts.again": partner()},
        "mesh.egress.hosts.again.host",
        "egress-host-duplicate",
        ("api.partner.example is", "remove again"),
    ),
    Wrong(
        "an address as host",
        {f"{PARTNER}.host": "192.0.2.50"},
        f"{PARTNER}.host",
        "egress-host-address",
        ("192.0.2.50 is an address, not a host", "addresses: [192.0.2.50]"),
    ),
    Wrong(
        "a URL as host",
        {f"{PARTNER}.host": "https://api.partner.example:8443/v1"},
        f"{PARTNER}.host",
        "egress-host-url",
        ("use api.partner.example",),
    ),
    Wrong(
        "a host with a port",
        {f"{PARTNER}.host": "api.partner.example:8443"},
        f"{PARTNER}.host",
        "egress-host-port",
        ("use api.partner.example", "number: 8443"),
    ),
    Wrong(
        "a host inside the cluster",
        {f"{PARTNER}.host": "cart.shop.svc.cluster.local"},
        f"{PARTNER}.host",
        "egress-host-inside",
        ("inside the cluster", "without mTLS", "callers"),
    ),
    Wrong(
        "a short name",
        {f"{PARTNER}.host": "cart"},
        f"{PARTNER}.host",
        "egress-host-inside",
        ("cart is a host inside the cluster",),
    ),
    Wrong(
        "a host with an underscore",
        {f"{PARTNER}.host": "api_1.partner.example"},
        f"{PARTNER}.host",
        "egress-host-format",
        ("is not a host name",),
    ),
    Wrong(
        "any host",
        {f"{PARTNER}.host": "*"},
        f"{PARTNER}.host",
        "egress-host-any",
        ("'*' would allow any host", "wildcard below a domain"),
    ),
    Wrong(
        "any host of a top-level domain",
        {f"{PARTNER}.host": "*.com"},
        f"{PARTNER}.host",
        "egress-host-any",
        ("'*.com' would allow any host",),
    ),
    Wrong(
        "a wildcard without a reason",
        WILDCARD,
        f"{PARTNER}.wildcardReason",
        "egress-wildcard-reason-missing",
        ("wildcardReason is missing", "nobody has named"),
    ),
    Wrong(
        "a wildcard through the gateway",
        {**WILDCARD, **REASON, f"{PARTNER}.through": "gateway"},
        f"{PARTNER}.through",
        "egress-wildcard-conflict",
        ("through does not", "set through: direct"),
    ),
    Wrong(
        "a wildcard with TLS origination",
        {**WILDCARD, **REASON, f"{PARTNER}.tls": "originate"},
        f"{PARTNER}.tls",
        "egress-wildcard-conflict",
        ("tls does not", "which name to verify"),
    ),
    Wrong(
        "a reason without a wildcard",
        REASON,
        f"{PARTNER}.wildcardReason",
        "egress-wildcard-reason-unneeded",
        ("remove it",),
    ),
    Wrong(
        "no owner",
        {f"{PARTNER}.owner": GONE},
        f"{PARTNER}.owner",
        "key-missing",
        ("owner is missing",),
    ),
    Wrong(
        "a purpose without meaning",
        {f"{PARTNER}.purpose": "todo"},
        f"{PARTNER}.purpose",
        "egress-purpose",
        ("'todo' does not say what is sent there", "settle card payments"),
    ),
    Wrong(
        "a legal basis of one word",
        {f"{PARTNER}.legalBasis": "GDPR"},
        f"{PARTNER}.legalBasis",
        "egress-legal-basis",
        ("does not say on what legal basis", "GDPR art. 6(1)(b)"),
    ),
    Wrong(
        "outside the EEA without a basis",
        {f"{PARTNER}.country": "US"},
        f"{PARTNER}.transferBasis",
        "egress-transfer-basis-missing",
        ("is in US, outside the EEA", "Schrems II", "standard contractual clauses"),
    ),
    Wrong(
        "a country's name",
        {f"{PARTNER}.country": "Norway"},
        f"{PARTNER}.country",
        "country-format",
        ("'Norway' is not a", "NO, DE or US"),
    ),
    Wrong(
        "a namespace that is not in the mesh",
        {f"{PARTNER}.namespaces": ["shopp"]},
        f"{PARTNER}.namespaces[0]",
        "namespace-not-in-mesh",
        ("shopp is not in mesh.namespaces", "use shop"),
    ),
    Wrong(
        "a namespace without sidecars",
        {f"{PARTNER}.namespaces": ["shop", "plain"]},
        f"{PARTNER}.namespaces[1]",
        "namespace-without-sidecars",
        ("plain has injection: false", "on the list or not"),
    ),
    Wrong(
        "an outbound gate without a reason",
        {"mesh.egress.gate": {"override": "x"}},
        "mesh.egress.gate.override",
        "egress-gate-reason",
        ("reviewers must learn",),
    ),
    Wrong(
        "an empty list of namespaces",
        {f"{PARTNER}.namespaces": []},
        f"{PARTNER}.namespaces",
        "egress-namespaces-empty",
        ("no namespace may call api.partner.example", "remove the entry"),
    ),
    Wrong(
        "no port may be called",
        {f"{PARTNER}.ports": []},
        f"{PARTNER}.ports",
        "egress-ports-empty",
        ("no port of api.partner.example may be called", "443"),
    ),
    Wrong(
        "TCP through the gateway",
        {f"{PARTNER}.ports": TCP, f"{PARTNER}.addresses": ["192.0.2.50"]},
        f"{PARTNER}.through",
        "egress-tcp-through-gateway",
        ("TCP cannot go through the egress gateway", "protocol: TLS"),
    ),
    Wrong(
        "TCP without addresses",
        {f"{PARTNER}.ports": TCP, f"{PARTNER}.through": "direct"},
        f"{PARTNER}.addresses",
        "egress-addresses-missing",
        ("called over TCP", "port 5432 of any host", "192.0.2.50"),
    ),
    Wrong(
        "two TCP hosts at one address",
        {
            f"mesh.egress.hosts.{name}": {
                **partner(),
                "host": f"{name}.partner.example",
                "ports": TCP,
                "addresses": ["192.0.2.50"],
                "through": "direct",
            }
            for name in ("db-1", "db-2")
        },
        "mesh.egress.hosts.db-2.addresses[0]",
        "egress-address-duplicate",
        ("192.0.2.50 with TCP port 5432 is",),
    ),
    Wrong(
        "an address inside the cluster",
        {f"{PARTNER}.addresses": ["10.96.0.7"]},
        f"{PARTNER}.addresses[0]",
        "egress-address-in-cluster",
        ("kubernetes.serviceCidr",),
    ),
    Wrong(
        "two ports through the gateway",
        {
            f"{PARTNER}.ports": [
                {"number": 443, "protocol": "HTTPS"},
                {"number": 80, "protocol": "HTTP"},
            ]
        },
        f"{PARTNER}.ports",
        "egress-gateway-one-port",
        ("is called through the gateway", "through: direct"),
    ),
    Wrong(
        "a port twice",
        {
            f"{PARTNER}.ports": [
                {"number": 443, "protocol": "HTTPS"},
                {"number": 443, "protocol": "TLS"},
            ],
            f"{PARTNER}.through": "direct",
        },
        f"{PARTNER}.ports[1].number",
        "egress-port-duplicate",
        ("port 443 is",),
    ),
    Wrong(
        "an unknown protocol",
        {f"{PARTNER}.ports": [{"number": 443, "protocol": "https"}]},
        f"{PARTNER}.ports[0].protocol",
        "choice-unknown",
        ("of HTTPS, HTTP, TLS, TCP", "use HTTPS"),
    ),
    Wrong(
        "TLS origination of a port that is not HTTPS",
        {f"{PARTNER}.tls": "originate", f"{PARTNER}.ports": [{"number": 80, "protocol": "HTTP"}]},
        f"{PARTNER}.ports",
        "egress-originate-ports",
        (),
    ),
    Wrong(
        "an unused CA",
        {f"{PARTNER}.caSecret": "partner-ca"},
        f"{PARTNER}.caSecret",
        "egress-ca-secret-unused",
        ("tls: originate and through: gateway",),
    ),
]

ACCESS = [
    Wrong(
        "a caller that is not a service",
        {CALLERS: [{"service": "carts"}]},
        f"{CALLERS}[0].service",
        "caller-service-unknown",
        ("carts is not in mesh.services", "use cart", "serviceAccount: shop/client"),
    ),
    Wrong(
        "a caller in another namespace",
        {CALLERS: [{"service": "cart"}, {"service": "plain/cart"}]},
        f"{CALLERS}[1].service",
        "caller-service-unknown",
        ("plain/cart is not in mesh.services", "use shop/cart"),
    ),
    Wrong(
        "callers that share an account",
        {
            "mesh.services.cart.serviceAccount": "default",
            "mesh.services.checkout.serviceAccount": "default",
        },
        f"{CALLERS}[0].service",
        "caller-account-shared",
        ("cart shares the service account shop/default with checkout",),
    ),
    Wrong(
        "an account outside the mesh",
        {CALLERS: [{"serviceAccount": "ship/client"}]},
        f"{CALLERS}[0].serviceAccount",
        "namespace-not-in-mesh",
        ("ship is not in mesh.namespaces", "pods outside the mesh"),
    ),
    Wrong(
        "an account without sidecars",
        {CALLERS: [{"serviceAccount": "plain/client"}]},
        f"{CALLERS}[0].serviceAccount",
        "namespace-without-sidecars",
        ("plain has injection: false",),
    ),
    Wrong(
        "an account without a namespace",
        {CALLERS: [{"serviceAccount": "client"}]},
        f"{CALLERS}[0].serviceAccount",
        "full-reference-format",
        ("'client' is not a namespace and a name", "use shop/client"),
    ),
    Wrong(
        "a service by its host name",
        {CALLERS: [{"service": "cart.shop.svc.cluster.local"}]},
        f"{CALLERS}[0].service",
        "service-reference-format",
        ("does not name a service", "use shop/cart"),
    ),
    Wrong(
        "an unknown gateway",
        {CALLERS: [{"gateway": "istio-ingresgateway"}]},
        f"{CALLERS}[0].gateway",
        "caller-gateway-unknown",
        ("there is no gateway istio-ingresgateway", "use istio-ingressgateway"),
    ),
    Wrong(
        "a caller with two names",
        {CALLERS: [{"service": "cart", "gateway": "istio-ingressgateway"}]},
        f"{CALLERS}[0]",
        "caller-name-count",
        ("named 2 times", "two entries"),
    ),
    Wrong(
        "a caller without a name",
        {CALLERS: [{"methods": ["GET"]}]},
        f"{CALLERS}[0]",
        "caller-name-count",
        ("the caller has no name", "service: cart"),
    ),
    Wrong(
        "a method in lower case",
        {CALLERS: [{"service": "cart", "methods": ["GET", "post"]}]},
        f"{CALLERS}[0].methods[1]",
        "http-method-unknown",
        ("'post' is not an HTTP method", "use POST"),
    ),
    Wrong(
        "an unknown method",
        {CALLERS: [{"service": "cart", "methods": ["FETCH"]}]},
        f"{CALLERS}[0].methods[0]",
        "http-method-unknown",
        ("'FETCH' is not an HTTP method", "use one of CONNECT, DELETE, GET"),
    ),
    Wrong(
        "a path without its slash",
        {CALLERS: [{"service": "cart", "paths": ["orders"]}]},
        f"{CALLERS}[0].paths[0]",
        "caller-path-start",
        ("does not begin with /", "use /orders"),
    ),
    Wrong(
        "a path with a star in it",
        {CALLERS: [{"service": "cart", "paths": ["/orders/*/items"]}]},
        f"{CALLERS}[0].paths[0]",
        "caller-path-pattern",
        ("not a path", "use /orders/*"),
    ),
    *(
        Wrong(
            f"the caller's path {path}, which is not normalized",
            {CALLERS: [{"service": "cart", "paths": [path]}]},
            f"{CALLERS}[0].paths[0]",
            "path-not-normal",
            ("is not a normalized path", f"use {proposal}"),
        )
        for path, proposal in (
            ("//orders", "/orders"),
            ("/orders//*", "/orders/*"),
            ("/a/../orders", "/orders"),
            ("/orders/.", "/orders"),
            ("/a%2Forders", "/a/orders"),
            ("/a%5corders", "/a/orders"),
            ("/a/%2e%2e/orders", "/orders"),
            ("/a\\orders", "/a/orders"),
        )
    ),
    Wrong(
        "a caller's port",
        {CALLERS: [{"service": "cart", "ports": [0]}]},
        f"{CALLERS}[0].ports[0]",
        "port-range",
        ("0 is not a port",),
    ),
    Wrong(
        "a limited view without sidecars",
        {"mesh.namespaces.plain.limitView": True},
        "mesh.namespaces.plain.limitView",
        "limit-view-without-sidecars",
        ("without sidecars", "remove limitView"),
    ),
    Wrong(
        "calls without a limit",
        {"mesh.namespaces.shop.calls": ["monitoring/prometheus"]},
        "mesh.namespaces.shop.calls",
        "calls-without-limit-view",
        ("without limitView", "set limitView: true"),
    ),
]

SIZES = [
    Wrong(
        "a workload outside the mesh",
        {f"{SMALL}.namespace": "shopp"},
        f"{SMALL}.namespace",
        "namespace-not-in-mesh",
        ("shopp is not in mesh.namespaces", "use shop"),
    ),
    Wrong(
        "a workload without sidecars",
        {f"{SMALL}.namespace": "plain"},
        f"{SMALL}.namespace",
        "namespace-without-sidecars",
        ("plain has injection: false",),
    ),
    Wrong(
        "a workload without settings",
        {f"{SMALL}.requests": GONE},
        SMALL,
        "workload-size-missing",
        ("set requests",),
    ),
    Wrong(
        "two workloads with the same Deployment",
        {
            "mesh.workloads.other": {
                "namespace": "shop",
                "deployment": "checkout-v1",
                "concurrency": 1,
            }
        },
        "mesh.workloads.other",
        "workload-deployment-duplicate",
        ("shop/checkout-v1 is",),
    ),
    Wrong(
        "a request above the mesh's limit",
        {f"{SMALL}.requests.cpu": "3"},
        f"{SMALL}.requests.cpu",
        "request-above-limit",
        ("the request of 3 is above the limit of 2000m", "values of istio.proxy"),
    ),
    Wrong(
        "a limit that is too low",
        {f"{SMALL}.limits": {"cpu": "100m"}},
        f"{SMALL}.limits.cpu",
        "proxy-limit-too-low",
        ("a CPU limit of 100m is too low", "at least 500m"),
    ),
    Wrong(
        "an unknown way to apply",
        {f"{SMALL}.apply": "paste"},
        f"{SMALL}.apply",
        "choice-unknown",
        ("of patch, snippet",),
    ),
    Wrong(
        "a negative number of pods",
        {"mesh.namespaces.shop.pods": -1},
        "mesh.namespaces.shop.pods",
        "pods-range",
        ("-1 is below 0",),
    ),
    Wrong(
        "a node's memory in words",
        {"machines.nodes.worker-1.capacity": {"cpu": 2, "memory": "lots"}},
        "machines.nodes.worker-1.capacity.memory",
        "memory-format",
        ("'lots' is not",),
    ),
]


def test_the_unedited_stack_is_valid(load: Load, access_stack: Values) -> None:
    config = load(access_stack)
    assert list(access.warnings(config)) == []
    assert list(capacity.warnings(config)) == []


@pytest.mark.parametrize("wrong", HOSTS, ids=[wrong.name for wrong in HOSTS])
def test_an_invalid_egress_list_is_refused(load: Load, access_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(access_stack, wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", ACCESS, ids=[wrong.name for wrong in ACCESS])
def test_invalid_callers_and_views_are_refused(
    load: Load, access_stack: Values, wrong: Wrong
) -> None:
    expect(refusal(load, edited(access_stack, wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", SIZES, ids=[wrong.name for wrong in SIZES])
def test_invalid_sidecar_sizes_are_refused(load: Load, access_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(access_stack, wrong.edit)), wrong)


def test_callers_need_mtls_in_the_namespace(access_stack: Values, project: Any) -> None:
    sections = Sections(access_stack, project)
    assert sections.mesh is not None
    off = Namespace.model_construct(injection=True, mtls="DISABLE")
    sections.by_name["mesh"] = sections.mesh.model_copy(
        update={"namespaces": {**sections.mesh.namespaces, "shop": off}}
    )
    (problem,) = [problem for check in access.CHECKS for problem in check(sections)]
    assert problem.key == f"nordmesh:{CALLERS}"
    assert "mesh.namespaces.shop.mtls is DISABLE" in problem.what
    assert "mesh.namespaces.shop.mtls" in problem.fix


def test_callers_need_mtls_of_the_service(load: Load, access_stack: Values) -> None:
    mtls = "mesh.services.checkout.mtls"
    error = refusal(load, edited(access_stack, {mtls: {"mode": "DISABLE"}}))
    expect(
        error,
        Wrong(
            "",
            {},
            CALLERS,
            "callers-need-mtls",
            (f"{mtls}.mode is DISABLE", f"set {mtls}.mode to PERMISSIVE"),
        ),
    )


def test_callers_of_two_services_with_the_same_pods_are_refused(
    load: Load, access_stack: Values
) -> None:
    """Istio adds up the policies of a pod, so each service would get the callers of both."""
    same: dict[str, object] = {
        "mesh.services.cart.selector": {"app": "checkout"},
        "mesh.services.cart.callers": [{"serviceAccount": "shop/client"}],
    }
    wrong = Wrong(
        "", {}, "mesh.services.cart.callers", "callers-pods-overlap",
        ("the same pods as checkout", "could call the other", "mesh.services.cart.selector"),
    )  # fmt: skip
    expect(refusal(load, edited(access_stack, same)), wrong)
    load(edited(access_stack, {**same, "mesh.services.cart.selector": {"app": "cart"}}))


def test_the_word_no_is_not_yet_norway(load: Load, access_stack: Values) -> None:
    (problem,) = refusal(load, edited(access_stack, {f"{PARTNER}.country": "no"})).problems
    assert problem.fix == "use NO"
