"""The configuration that istiod sends to a sidecar for a service, without a cluster."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import yaml

from components.manifests import Manifest, jwt
from config import INGRESS_GATEWAY, Mesh, selector
from lab import paths
from lab.ports import reserved_port
from tests.bench.xds import open_simulated
from tests.engine.conftest import wait_until
from tests.support.generated_routes import objects

Values = dict[str, Any]

NAMESPACE = "shop"
OWN, OTHER_HOST = "checkout.shop.svc.cluster.local", "shop.example.com"
SHARED = "pages.example.com"
ISSUER = {
    "issuer": "https://login.example.no",
    "jwks": """{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}""",
    "audiences": ["shop"],
}
ON_TRIAL = {"namespace": NAMESPACE, "stable": "v1", "canary": {"subset": "v2", "weight": 10}}
MESH = {
    "gateways": {"web": {"hosts": [OTHER_HOST, SHARED], "jwt": {"issuers": [ISSUER]}}},
    "services": {
        "checkout": ON_TRIAL
        | {
            "port": 8080,
            "testers": [{"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}],
            "affinity": {"header": "x-user"},
            "connectionPool": {"tcp": {"maxConnections": 7}},
            "hosts": [OTHER_HOST],
            "gateway": "web",
        },
        "release": {
            "namespace": NAMESPACE,
            "port": 8080,
            "stable": "v1.2.0",
            "canary": {"subset": "Release_2024", "weight": 10},
            "versionLabel": "app.kubernetes.io/version",
        },
        "db": ON_TRIAL | {"port": 5432, "protocol": "tcp", "affinity": {"sourceIp": True}},
        "web": ON_TRIAL | {"port": 8080, "hosts": [SHARED], "gateway": "web"},
        "api": ON_TRIAL
        | {
            "ports": {"http": 8080, "admin": 9090},
            "hosts": [SHARED],
            "gateway": "web",
            "testers": [{"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}],
            "timeout": "3s",
            "paths": [
                {"prefix": "/api", "rewrite": "/", "timeout": "7s"},
                {"prefix": "/api/admin", "port": "admin"},
                {"exact": "/old", "redirect": {"path": "/api", "status": 302}},
            ],
        },
    },
}
PODS = ({"version": "v1"}, {"version": "v2"})
RELEASED = [{"app.kubernetes.io/version": name} for name in ("v1.2.0", "Release_2024")]
CHECKOUT_PORTS = {"http-shop": 8080, "http-admin": 9090, "http-old": 80}
# In order: the subset for testers, then the split.
SPLIT = [
    {f"outbound|8080|v2|{OWN}": 100},
    {f"outbound|8080|v1|{OWN}": 90, f"outbound|8080|v2|{OWN}": 10},
]


def registered(
    name: str, address: str, ports: Mapping[str, int], pods: Sequence[Mapping[str, str]] = PODS
) -> Manifest:
    """Return a ServiceEntry that stands in for a Service of Kubernetes. pods: their labels."""
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "hosts": [f"{name}.{NAMESPACE}.svc.cluster.local"],
            "addresses": [address],
            "location": "MESH_INTERNAL",
            "resolution": "STATIC",
            "ports": [
                {"name": key, "number": number, "protocol": key.partition("-")[0].upper()}
                for key, number in ports.items()
            ],
            "endpoints": [
                {"address": f"198.51.100.20{number}", "labels": labels}
                for number, labels in enumerate(pods, 1)
            ],
        },
    }


class Istiod(NamedTuple):
    """A control plane. grpc, http: its addresses."""

    grpc: str
    http: str

    def dump(self, namespace: str, routes: Sequence[str], **more: Any) -> list[Values]:
        """Return the configuration of a simulated proxy: a sidecar, or a gateway."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with open_simulated(1, self.grpc, namespace=namespace, routes=routes, **more):
            url = f"http://{self.http}/debug/config_dump?proxyID=simulated-0.{namespace}"
            with opener.open(url, timeout=60) as answer:
                configs: list[Values] = json.load(answer)["configs"]
                return configs


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """Addresses for the control plane to listen on: for gRPC, HTTP and monitoring."""
    with ExitStack() as reserved:
        yield [f"127.0.0.1:{reserved.enter_context(reserved_port())}" for _ in range(3)]


@pytest.fixture(scope="module")
def istiod(addresses: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Istiod]:
    """Control plane that has read the objects of MESH."""
    program = paths.cache().bin / "istio" / "pilot-discovery"
    if not program.exists():
        pytest.fail(
            f"{program} is missing; run `make test` or `make up` to build it", pytrace=False
        )
    root = tmp_path_factory.mktemp("istiod")
    (root / "objects").mkdir()
    (root / "mesh.yaml").write_text("{}\n")
    services = [
        registered("checkout", "198.51.100.101", CHECKOUT_PORTS),
        registered("release", "198.51.100.105", {"http-release": 8080}, RELEASED),
        registered("db", "198.51.100.102", {"tcp-db": 5432}),
        registered("web", "198.51.100.103", {"http-web": 8080}),
        registered("api", "198.51.100.104", {"http": 8080, "http-admin": 9090}),
    ]
    mesh = Mesh.model_validate(MESH)
    tokens = jwt.objects("web", mesh.gateways, preflights=False)
    manifests = [*objects(mesh), *tokens, *services]
    (root / "objects" / "all.yaml").write_text(yaml.safe_dump_all(manifests))
    grpc, http, monitoring = addresses
    command = [str(program), "discovery", "--registries=", "--configDir", str(root / "objects")]
    command += ["--meshConfig", str(root / "mesh.yaml"), "--grpcAddr", grpc, "--httpAddr", http]
    command += [
        "--monitoringAddr",
        monitoring,
        "--secureGRPCAddr=",
        "--httpsAddr=",
        "--ctrlz_port=0",
    ]
    log = root / "log"

    def is_ready() -> bool:
        assert server.poll() is None, log.read_text()
        return "Pushing:" in log.read_text()

    with log.open("wb") as stream:
        environment = {**os.environ, "POD_NAMESPACE": "istio-system"}
        server = subprocess.Popen(command, cwd=root, stdout=stream, stderr=stream, env=environment)
    try:
        wait_until(is_ready, "Istio's control plane has read the objects")
        yield Istiod(grpc, http)
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def dump(istiod: Istiod) -> list[Values]:
    """Configuration dump of a sidecar that is connected to istiod."""
    return istiod.dump(NAMESPACE, ("8080", "9090", "80"))


@pytest.fixture(scope="module")
def gateway(istiod: Istiod) -> list[Values]:
    """Configuration dump of an ingress gateway that is connected to istiod."""
    return istiod.dump("istio-system", ("http.80",), gateway=selector(INGRESS_GATEWAY))


def section(dump: list[Values], kind: str, key: str) -> list[Values]:
    (config,) = (entry for entry in dump if entry["@type"].endswith(f".{kind}"))
    entries: list[Values] = config[key]
    return entries


def routes_of(dump: list[Values], port: int | str, host: str) -> list[Values]:
    """Return the routes of a proxy for a host on a port, in order."""
    configs = [
        entry["routeConfig"] for entry in section(dump, "RoutesConfigDump", "dynamicRouteConfigs")
    ]
    (config,) = (entry for entry in configs if entry["name"] == str(port))
    (virtual_host,) = (entry for entry in config["virtualHosts"] if host in entry["domains"])
    routes: list[Values] = virtual_host["routes"]
    return routes


def clusters(route: Values) -> dict[str, int]:
    """Return the clusters of a route and their weights, which add up to 100."""
    action = route["route"]
    if "cluster" in action:
        return {action["cluster"]: 100}
    return {entry["name"]: entry["weight"] for entry in action["weightedClusters"]["clusters"]}


def authority(route: Values) -> str | None:
    """Return the pattern for the host that a route matches; None if it matches every host."""
    headers = {header["name"]: header for header in route["match"].get("headers", [])}
    match = headers.get(":authority")
    return match["stringMatch"]["safeRegex"]["regex"] if match else None


def test_traffic_on_the_service_port_is_split(dump: list[Values]) -> None:
    for host in (OWN, OTHER_HOST):
        routes = routes_of(dump, 8080, host)
        assert [clusters(route) for route in routes] == SPLIT
        assert all(route["route"]["hashPolicy"] for route in routes)


def test_versions_with_dots_are_split_by_their_labels(dump: list[Values]) -> None:
    """Istio ignores an object with a dot in a subset's name."""
    host = "release.shop.svc.cluster.local"
    (route,) = routes_of(dump, 8080, host)
    subsets = {"v1-2-0": 90, "release-2024": 10}
    assert clusters(route) == {
        f"outbound|8080|{name}|{host}": weight for name, weight in subsets.items()
    }
    active = [
        entry["cluster"]["name"]
        for entry in section(dump, "ClustersConfigDump", "dynamicActiveClusters")
    ]
    assert {f"outbound|8080|{name}|{host}" for name in subsets} <= set(active)


def test_other_ports_use_the_default_route(dump: list[Values]) -> None:
    (route,) = routes_of(dump, 9090, OWN)
    assert clusters(route) == {f"outbound|9090||{OWN}": 100}
    assert "hashPolicy" not in route["route"]


def test_extra_hosts_do_not_affect_port_80_of_the_service(dump: list[Values]) -> None:
    *of_host, last = routes_of(dump, 80, OWN)
    assert all(authority(route) for route in of_host)
    assert authority(last) is None
    assert clusters(last) == {f"outbound|80||{OWN}": 100}
    assert [clusters(route) for route in routes_of(dump, 80, OTHER_HOST)[:2]] == SPLIT


def test_the_traffic_policy_applies_to_the_service_port_only(dump: list[Values]) -> None:
    active = [
        entry["cluster"] for entry in section(dump, "ClustersConfigDump", "dynamicActiveClusters")
    ]
    by_name = {cluster["name"]: cluster for cluster in active}

    def limit(name: str) -> int:
        return int(by_name[name]["circuitBreakers"]["thresholds"][0]["maxConnections"])

    for subset in ("", "v1", "v2"):
        name = f"outbound|8080|{subset}|{OWN}"
        assert (by_name[name]["lbPolicy"], limit(name)) == ("RING_HASH", 7)
        for port in (9090, 80):
            name = f"outbound|{port}|{subset}|{OWN}"
            assert by_name[name]["lbPolicy"] == "LEAST_REQUEST"
            assert limit(name) > 7


def test_tcp_connections_have_source_ip_affinity(dump: list[Values]) -> None:
    listeners = section(dump, "ListenersConfigDump", "dynamicListeners")
    (listener,) = (entry for entry in listeners if entry["name"].endswith("_5432"))
    (chain,) = listener["activeState"]["listener"]["filterChains"]
    proxy = chain["filters"][-1]["typedConfig"]
    weights = {entry["name"]: entry["weight"] for entry in proxy["weightedClusters"]["clusters"]}
    assert sorted(weights.values()) == [10, 90]
    assert proxy["hashPolicy"] == [{"sourceIp": {}}]


# --- a host that two services share by path ------------------------------------------------------


def split_of(name: str) -> dict[str, int]:
    host = f"{name}.{NAMESPACE}.svc.cluster.local"
    return {f"outbound|8080|v1|{host}": 90, f"outbound|8080|v2|{host}": 10}


def test_a_gateway_selects_services_of_one_host_by_path(gateway: list[Values]) -> None:
    by_path: dict[str, list[Values]] = {}
    for route in routes_of(gateway, "http.80", SHARED):
        match = route["match"]
        key = match.get("path") or match.get("prefix") or match.get("pathSeparatedPrefix")
        by_path.setdefault(key, []).append(route)
    paths = list(by_path)
    assert sorted(paths) == ["/", "/api", "/api/", "/api/admin", "/api/admin/", "/old"]
    assert paths.index("/api/admin/") < paths.index("/api/")
    assert paths[-1] == "/"
    host = f"api.{NAMESPACE}.svc.cluster.local"
    for key in ("/api", "/api/"):
        testers, everyone = by_path[key]
        assert clusters(testers) == {f"outbound|8080|v2|{host}": 100}
        assert clusters(everyone) == split_of("api")
        assert {route["route"]["timeout"] for route in by_path[key]} == {"7s"}
        assert {route["route"]["prefixRewrite"] for route in by_path[key]} == {"/"}
    for key in ("/api/admin", "/api/admin/"):
        testers, everyone = by_path[key]
        assert clusters(testers) == {f"outbound|9090|v2|{host}": 100}
        assert clusters(everyone) == {f"outbound|9090|v1|{host}": 100}
        assert everyone["route"]["timeout"] == "3s"
    (old,) = by_path["/old"]
    assert old["redirect"]["pathRedirect"] == "/api"
    assert old["redirect"]["responseCode"] == "FOUND"
    (rest,) = by_path["/"]
    assert clusters(rest) == split_of("web")


def test_services_of_one_host_are_split_in_the_mesh_too(dump: list[Values]) -> None:
    (web,) = routes_of(dump, 8080, f"web.{NAMESPACE}.svc.cluster.local")
    assert clusters(web) == split_of("web")
    host = f"api.{NAMESPACE}.svc.cluster.local"
    testers, everyone = routes_of(dump, 8080, host)
    assert clusters(testers) == {f"outbound|8080|v2|{host}": 100}
    assert clusters(everyone) == split_of("api")
    assert everyone["route"]["timeout"] == "3s"
    testers, everyone = routes_of(dump, 9090, host)
    assert clusters(everyone) == {f"outbound|9090|v1|{host}": 100}


def test_a_host_that_is_shared_by_path_is_at_the_gateway_only(dump: list[Values]) -> None:
    domains = {
        domain
        for entry in section(dump, "RoutesConfigDump", "dynamicRouteConfigs")
        for virtual_host in entry["routeConfig"]["virtualHosts"]
        for domain in virtual_host["domains"]
    }
    assert OTHER_HOST in domains
    assert SHARED not in domains


# --- tokens --------------------------------------------------------------------------------------


def filters_of(dump: list[Values]) -> dict[str, Values]:
    """Return the HTTP filters of the only listener of a proxy, by name."""
    (entry,) = section(dump, "ListenersConfigDump", "dynamicListeners")
    (chain,) = entry["activeState"]["listener"]["filterChains"]
    (manager,) = chain["filters"]
    return {item["name"]: item["typedConfig"] for item in manager["typedConfig"]["httpFilters"]}


def test_a_gateway_verifies_tokens_and_refuses_requests_without(gateway: list[Values]) -> None:
    filters = filters_of(gateway)
    (provider,) = filters["envoy.filters.http.jwt_authn"]["providers"].values()
    assert provider["issuer"] == ISSUER["issuer"]
    assert provider["audiences"] == ISSUER["audiences"]
    assert provider["localJwks"] == {"inlineString": ISSUER["jwks"]}
    assert provider["forward"] is True
    rules = filters["envoy.filters.http.rbac"]["rules"]
    assert rules["action"] == "DENY"
    (policy,) = rules["policies"].values()
    assert policy["permissions"] == [{"andRules": {"rules": [{"any": True}]}}]
    # The principal that another filter takes from a verified token.
    assert "request.auth.principal" in json.dumps(policy["principals"])
    assert "notId" in json.dumps(policy["principals"])


def test_sidecars_require_no_token(dump: list[Values]) -> None:
    assert "jwt_authn" not in json.dumps(dump)
