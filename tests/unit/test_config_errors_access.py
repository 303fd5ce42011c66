"""Wrong egress lists, callers and sidecar sizes: each an edit of a good stack, with one error."""

from copy import deepcopy
from typing import Any

import pytest

from config import Namespace, capacity
from config.access import checks as access
from config.sections import Sections
from tests.unit.conftest import Load, Values
from tests.unit.test_config_errors import GONE, Wrong, edited, expect, refused

PARTNER = "mesh.egress.hosts.partner"
CALLERS = "mesh.services.checkout.callers"
SMALL = "mesh.workloads.checkout-v1"

GOOD_HOST: dict[str, Any] = {
    "host": "api.partner.example",
    "owner": "team-payments",
    "purpose": "settle card payments",
    "legalBasis": "GDPR art. 6(1)(b)",
    "country": "NO",
    "namespaces": ["shop"],
}
TCP = [{"number": 5432, "protocol": "TCP"}]
WILDCARD: dict[str, object] = {f"{PARTNER}.host": "*.store.example", f"{PARTNER}.through": "direct"}
REASON: dict[str, object] = {f"{PARTNER}.wildcardReason": "each tenant has a host of its own"}


@pytest.fixture
def access_stack(container_stack: Values) -> Values:
    """The stack with a host outside, a second service, a caller and a small sidecar."""
    stack = deepcopy(container_stack)
    mesh = stack["mesh"]
    mesh["egress"] = {"hosts": {"partner": deepcopy(GOOD_HOST)}}
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
        ("ALLOW_ANY lets every host through", "leaves the EEA", "write REGISTRY_ONLY"),
    ),
    Wrong(
        "no egress gateway",
        {"istio.egressGateways": {}},
        "mesh.egress.gateway",
        ("there is no gateway istio-egressgateway", "503", "through: direct"),
    ),
    Wrong(
        "another egress gateway",
        {"mesh.egress.gateway": "istio-egresgateway"},
        "mesh.egress.gateway",
        ("there is no gateway istio-egresgateway", "write istio-egressgateway"),
    ),
    Wrong(
        "an egress gateway with other ports",
        {
            "istio.egressGateways": {
                "istio-egressgateway": {"ports": [{"name": "https", "port": 443}]}
            }
        },
        "mesh.egress.gateway",
        ("the gateway istio-egressgateway has no port 80", "TLS on port 443"),
    ),
    Wrong(
        "the same host twice",
        {"mesh.egress.hosts.again": GOOD_HOST},
        "mesh.egress.hosts.again.host",
        ("api.partner.example is on the list already, as partner", "remove again"),
    ),
    Wrong(
        "an address as host",
        {f"{PARTNER}.host": "192.0.2.50"},
        f"{PARTNER}.host",
        ("192.0.2.50 is an address, not a host", "addresses: [192.0.2.50]"),
    ),
    Wrong(
        "a URL as host",
        {f"{PARTNER}.host": "https://api.partner.example:8443/v1"},
        f"{PARTNER}.host",
        ("an address of a page", "write api.partner.example"),
    ),
    Wrong(
        "a host with a port",
        {f"{PARTNER}.host": "api.partner.example:8443"},
        f"{PARTNER}.host",
        ("has a port in it", "write api.partner.example", "number: 8443"),
    ),
    Wrong(
        "a host inside the cluster",
        {f"{PARTNER}.host": "cart.shop.svc.cluster.local"},
        f"{PARTNER}.host",
        ("inside the cluster", "without mTLS", "callers"),
    ),
    Wrong(
        "a short name",
        {f"{PARTNER}.host": "cart"},
        f"{PARTNER}.host",
        ("cart is a host inside the cluster",),
    ),
    Wrong(
        "a host with an underscore",
        {f"{PARTNER}.host": "api_1.partner.example"},
        f"{PARTNER}.host",
        ("is not a host name", "labels joined by dots"),
    ),
    Wrong(
        "any host",
        {f"{PARTNER}.host": "*"},
        f"{PARTNER}.host",
        ("'*' would allow any host", "wildcard below a domain"),
    ),
    Wrong(
        "any host of a top-level domain",
        {f"{PARTNER}.host": "*.com"},
        f"{PARTNER}.host",
        ("'*.com' would allow any host",),
    ),
    Wrong(
        "a wildcard without a reason",
        WILDCARD,
        f"{PARTNER}.wildcardReason",
        ("wildcardReason is missing", "nobody has named"),
    ),
    Wrong(
        "a wildcard through the gateway",
        {**WILDCARD, **REASON, f"{PARTNER}.through": "gateway"},
        f"{PARTNER}.through",
        ("is a wildcard, and through does not go with it", "write through: direct"),
    ),
    Wrong(
        "a wildcard with TLS origination",
        {**WILDCARD, **REASON, f"{PARTNER}.tls": "originate"},
        f"{PARTNER}.tls",
        ("tls does not go with it", "which name to verify"),
    ),
    Wrong(
        "a reason without a wildcard",
        REASON,
        f"{PARTNER}.wildcardReason",
        ("is no wildcard", "remove it"),
    ),
    Wrong("no owner", {f"{PARTNER}.owner": GONE}, f"{PARTNER}.owner", ("owner is missing",)),
    Wrong(
        "a purpose that says nothing",
        {f"{PARTNER}.purpose": "todo"},
        f"{PARTNER}.purpose",
        ("'todo' does not say what is sent there", "settle card payments"),
    ),
    Wrong(
        "a legal basis of one word",
        {f"{PARTNER}.legalBasis": "GDPR"},
        f"{PARTNER}.legalBasis",
        ("does not say on what legal basis", "GDPR art. 6(1)(b)"),
    ),
    Wrong(
        "outside the EEA without a basis",
        {f"{PARTNER}.country": "US"},
        f"{PARTNER}.transferBasis",
        ("is in US, outside the EEA", "Schrems II", "standard contractual clauses"),
    ),
    Wrong(
        "a country's name",
        {f"{PARTNER}.country": "Norway"},
        f"{PARTNER}.country",
        ("'Norway' is not a country's code", "NO, DE or US"),
    ),
    Wrong(
        "a namespace that is not in the mesh",
        {f"{PARTNER}.namespaces": ["shopp"]},
        f"{PARTNER}.namespaces[0]",
        ("shopp is not in mesh.namespaces", "write shop"),
    ),
    Wrong(
        "a namespace without sidecars",
        {f"{PARTNER}.namespaces": ["shop", "plain"]},
        f"{PARTNER}.namespaces[1]",
        ("plain has injection: false", "on the list or not"),
    ),
    Wrong(
        "nobody may call it",
        {f"{PARTNER}.namespaces": []},
        f"{PARTNER}.namespaces",
        ("no namespace may call api.partner.example", "remove the entry"),
    ),
    Wrong(
        "no port may be called",
        {f"{PARTNER}.ports": []},
        f"{PARTNER}.ports",
        ("no port of api.partner.example may be called", "443"),
    ),
    Wrong(
        "TCP through the gateway",
        {f"{PARTNER}.ports": TCP, f"{PARTNER}.addresses": ["192.0.2.50"]},
        f"{PARTNER}.through",
        ("TCP cannot go through the egress gateway", "protocol: TLS"),
    ),
    Wrong(
        "TCP without addresses",
        {f"{PARTNER}.ports": TCP, f"{PARTNER}.through": "direct"},
        f"{PARTNER}.addresses",
        ("called over TCP", "port 5432 of any host", "192.0.2.50"),
    ),
    Wrong(
        "two TCP hosts at one address",
        {
            f"mesh.egress.hosts.{name}": {
                **GOOD_HOST,
                "host": f"{name}.partner.example",
                "ports": TCP,
                "addresses": ["192.0.2.50"],
                "through": "direct",
            }
            for name in ("db-1", "db-2")
        },
        "mesh.egress.hosts.db-2.addresses[0]",
        ("192.0.2.50 with TCP port 5432 is db-1 already",),
    ),
    Wrong(
        "an address inside the cluster",
        {f"{PARTNER}.addresses": ["10.96.0.7"]},
        f"{PARTNER}.addresses[0]",
        ("10.96.0.7 lies in kubernetes.serviceCidr", "inside the cluster"),
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
        ("has 2 ports and is called through the gateway", "through: direct"),
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
        ("port 443 is there already",),
    ),
    Wrong(
        "a protocol that there is not",
        {f"{PARTNER}.ports": [{"number": 443, "protocol": "https"}]},
        f"{PARTNER}.ports[0].protocol",
        ("'https' is none of HTTPS, HTTP, TLS, TCP", "write HTTPS"),
    ),
    Wrong(
        "origination of what is no HTTPS",
        {f"{PARTNER}.tls": "originate", f"{PARTNER}.ports": [{"number": 80, "protocol": "HTTP"}]},
        f"{PARTNER}.ports",
        ("originate takes one port with HTTPS",),
    ),
    Wrong(
        "a CA that nobody uses",
        {f"{PARTNER}.caSecret": "partner-ca"},
        f"{PARTNER}.caSecret",
        ("without effect", "tls: originate and through: gateway"),
    ),
]

ACCESS = [
    Wrong(
        "a caller that is no service",
        {CALLERS: [{"service": "carts"}]},
        f"{CALLERS}[0].service",
        ("carts is not in mesh.services", "write cart", "serviceAccount: shop/client"),
    ),
    Wrong(
        "a caller in another namespace",
        {CALLERS: [{"service": "cart"}, {"service": "plain/cart"}]},
        f"{CALLERS}[1].service",
        ("plain/cart is not in mesh.services", "write shop/cart"),
    ),
    Wrong(
        "callers that share an account",
        {
            "mesh.services.cart.serviceAccount": "default",
            "mesh.services.checkout.serviceAccount": "default",
        },
        f"{CALLERS}[0].service",
        ("cart runs as shop/default, and so does checkout", "whoever lets one in lets in all"),
    ),
    Wrong(
        "an account outside the mesh",
        {CALLERS: [{"serviceAccount": "ship/client"}]},
        f"{CALLERS}[0].serviceAccount",
        ("ship is not in mesh.namespaces", "pods outside the mesh have none"),
    ),
    Wrong(
        "an account without sidecars",
        {CALLERS: [{"serviceAccount": "plain/client"}]},
        f"{CALLERS}[0].serviceAccount",
        ("plain has injection: false",),
    ),
    Wrong(
        "an account without a namespace",
        {CALLERS: [{"serviceAccount": "client"}]},
        f"{CALLERS}[0].serviceAccount",
        ("'client' is not a namespace and a name", "write shop/client"),
    ),
    Wrong(
        "a service by its host name",
        {CALLERS: [{"service": "cart.shop.svc.cluster.local"}]},
        f"{CALLERS}[0].service",
        ("does not name a service", "write shop/cart"),
    ),
    Wrong(
        "a gateway that there is not",
        {CALLERS: [{"gateway": "istio-ingresgateway"}]},
        f"{CALLERS}[0].gateway",
        ("there is no gateway istio-ingresgateway", "write istio-ingressgateway"),
    ),
    Wrong(
        "a caller with two names",
        {CALLERS: [{"service": "cart", "gateway": "istio-ingressgateway"}]},
        f"{CALLERS}[0]",
        ("named 2 times", "two entries"),
    ),
    Wrong(
        "a caller without a name",
        {CALLERS: [{"methods": ["GET"]}]},
        f"{CALLERS}[0]",
        ("the caller has no name", "write service: cart"),
    ),
    Wrong(
        "a method in small letters",
        {CALLERS: [{"service": "cart", "methods": ["GET", "post"]}]},
        f"{CALLERS}[0].methods[1]",
        ("'post' is not an HTTP method", "write POST"),
    ),
    Wrong(
        "a method that there is not",
        {CALLERS: [{"service": "cart", "methods": ["FETCH"]}]},
        f"{CALLERS}[0].methods[0]",
        ("'FETCH' is not an HTTP method", "write one of CONNECT, DELETE, GET"),
    ),
    Wrong(
        "a path without its slash",
        {CALLERS: [{"service": "cart", "paths": ["orders"]}]},
        f"{CALLERS}[0].paths[0]",
        ("does not begin with /", "write /orders"),
    ),
    Wrong(
        "a path with a star in it",
        {CALLERS: [{"service": "cart", "paths": ["/orders/*/items"]}]},
        f"{CALLERS}[0].paths[0]",
        ("not a path that can be compared", "write /orders/*"),
    ),
    Wrong(
        "a caller's port",
        {CALLERS: [{"service": "cart", "ports": [0]}]},
        f"{CALLERS}[0].ports[0]",
        ("0 is not a port",),
    ),
    Wrong(
        "a limited view without sidecars",
        {"mesh.namespaces.plain.limitView": True},
        "mesh.namespaces.plain.limitView",
        ("without sidecars", "remove limitView"),
    ),
    Wrong(
        "calls without a limit",
        {"mesh.namespaces.shop.calls": ["monitoring/prometheus"]},
        "mesh.namespaces.shop.calls",
        ("calls is written without limitView", "write limitView: true"),
    ),
]

SIZES = [
    Wrong(
        "a workload in no namespace of the mesh",
        {f"{SMALL}.namespace": "shopp"},
        f"{SMALL}.namespace",
        ("shopp is not in mesh.namespaces", "write shop"),
    ),
    Wrong(
        "a workload without sidecars",
        {f"{SMALL}.namespace": "plain"},
        f"{SMALL}.namespace",
        ("plain has injection: false",),
    ),
    Wrong(
        "a workload that says nothing",
        {f"{SMALL}.requests": GONE},
        SMALL,
        ("no size of its own", "write requests"),
    ),
    Wrong(
        "one Deployment twice",
        {
            "mesh.workloads.other": {
                "namespace": "shop",
                "deployment": "checkout-v1",
                "concurrency": 1,
            }
        },
        "mesh.workloads.other",
        ("shop/checkout-v1 is checkout-v1 already", "undo each other"),
    ),
    Wrong(
        "a request above the mesh's limit",
        {f"{SMALL}.requests.cpu": "3"},
        f"{SMALL}.requests.cpu",
        ("the request of 3 is above the limit of 2000m", "as in istio.proxy"),
    ),
    Wrong(
        "a limit that is too low",
        {f"{SMALL}.limits": {"cpu": "100m"}},
        f"{SMALL}.limits.cpu",
        ("a CPU limit of 100m is too low", "at least 500m"),
    ),
    Wrong(
        "a way that there is not",
        {f"{SMALL}.apply": "paste"},
        f"{SMALL}.apply",
        ("'paste' is none of patch, snippet",),
    ),
    Wrong(
        "a number of pods below 0",
        {"mesh.namespaces.shop.pods": -1},
        "mesh.namespaces.shop.pods",
        ("-1 is below 0",),
    ),
    Wrong(
        "a node's memory in words",
        {"machines.nodes.worker-1.capacity": {"cpu": 2, "memory": "lots"}},
        "machines.nodes.worker-1.capacity.memory",
        ("'lots' is not an amount of memory",),
    ),
]


def test_the_stack_to_start_from_is_right(load: Load, access_stack: Values) -> None:
    config = load(access_stack)
    assert list(access.warnings(config)) == []
    assert list(capacity.warnings(config)) == []


@pytest.mark.parametrize("wrong", HOSTS, ids=[wrong.name for wrong in HOSTS])
def test_wrong_egress(load: Load, access_stack: Values, wrong: Wrong) -> None:
    expect(refused(load, edited(access_stack, wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", ACCESS, ids=[wrong.name for wrong in ACCESS])
def test_wrong_access(load: Load, access_stack: Values, wrong: Wrong) -> None:
    expect(refused(load, edited(access_stack, wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", SIZES, ids=[wrong.name for wrong in SIZES])
def test_wrong_sizes(load: Load, access_stack: Values, wrong: Wrong) -> None:
    expect(refused(load, edited(access_stack, wrong.edit)), wrong)


def test_callers_need_mtls(access_stack: Values, project: Any) -> None:
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


def test_callers_need_mtls_of_the_service_itself(load: Load, access_stack: Values) -> None:
    mtls = "mesh.services.checkout.mtls"
    error = refused(load, edited(access_stack, {mtls: {"mode": "DISABLE"}}))
    expect(error, Wrong("", {}, CALLERS, (f"{mtls}.mode is DISABLE", "write PERMISSIVE")))


def test_callers_of_the_same_pods(load: Load, access_stack: Values) -> None:
    """Rules for one pod add up, so each list would mean more than it says."""
    same: dict[str, object] = {
        "mesh.services.cart.selector": {"app": "checkout"},
        "mesh.services.cart.callers": [{"serviceAccount": "shop/client"}],
    }
    wrong = Wrong(
        "", {}, "mesh.services.cart.callers",
        ("the pods of checkout", "could call the other", "mesh.services.cart.selector"),
    )  # fmt: skip
    expect(refused(load, edited(access_stack, same)), wrong)
    load(edited(access_stack, {**same, "mesh.services.cart.selector": {"app": "cart"}}))


def test_norway_in_yaml(load: Load, access_stack: Values) -> None:
    config = load(edited(access_stack, {f"{PARTNER}.country": False}))
    assert config.mesh.egress.hosts["partner"].country == "NO"
