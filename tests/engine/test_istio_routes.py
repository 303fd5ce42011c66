"""The configuration that istiod sends to a sidecar for a service, without a cluster."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from components.manifests import Manifest
from config import Mesh
from lab import paths
from tests.bench.xds import open_simulated
from tests.engine.conftest import free_port, wait_until
from tests.support.generated_routes import objects

Values = dict[str, Any]

NAMESPACE = "shop"
OWN, OTHER_HOST = "checkout.shop.svc.cluster.local", "shop.example.com"
ON_TRIAL = {"namespace": NAMESPACE, "stable": "v1", "canary": {"subset": "v2", "weight": 10}}
MESH = {
    "gateways": {"web": {"hosts": [OTHER_HOST]}},
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
        "db": ON_TRIAL | {"port": 5432, "protocol": "tcp", "affinity": {"sourceIp": True}},
    },
}
CHECKOUT_PORTS = {"http-shop": 8080, "http-admin": 9090, "http-old": 80}
# In order: the subset for testers, then the split.
SPLIT = [
    {f"outbound|8080|v2|{OWN}": 100},
    {f"outbound|8080|v1|{OWN}": 90, f"outbound|8080|v2|{OWN}": 10},
]


def registered(name: str, address: str, ports: Mapping[str, int]) -> Manifest:
    """Return a ServiceEntry that stands in for a Service of Kubernetes."""
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
                {"address": f"198.51.100.20{n}", "labels": {"version": f"v{n}"}} for n in (1, 2)
            ],
        },
    }


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Values]]:
    """Configuration dump of a sidecar that is connected to istiod."""
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
        registered("db", "198.51.100.102", {"tcp-db": 5432}),
    ]
    manifests = [*objects(Mesh.model_validate(MESH)), *services]
    (root / "objects" / "all.yaml").write_text(yaml.safe_dump_all(manifests))
    grpc, http, monitoring = (f"127.0.0.1:{free_port()}" for _ in range(3))
    command = [str(program), "discovery", "--registries=", "--configDir", str(root / "objects")]
    command += ["--meshConfig", str(root / "mesh.yaml"), "--grpcAddr", grpc, "--httpAddr", http]
    command += [
        "--monitoringAddr",
        monitoring,
        "--secureGRPCAddr=",
        "--httpsAddr=",
        "--ctrlz_port=0",
    ]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    log = root / "log"

    def is_ready() -> bool:
        assert server.poll() is None, log.read_text()
        return "Pushing:" in log.read_text()

    with log.open("wb") as stream:
        environment = {**os.environ, "POD_NAMESPACE": "istio-system"}
        server = subprocess.Popen(command, cwd=root, stdout=stream, stderr=stream, env=environment)
    try:
        wait_until(is_ready, "Istio's control plane has read the objects")
        names = ("8080", "9090", "80")
        with open_simulated(1, grpc, namespace=NAMESPACE, routes=names):
            url = f"http://{http}/debug/config_dump?proxyID=simulated-0.{NAMESPACE}"
            with opener.open(url, timeout=10) as answer:
                yield json.load(answer)["configs"]
    finally:
        server.kill()
        server.wait()


def section(dump: list[Values], kind: str, key: str) -> list[Values]:
    (config,) = (entry for entry in dump if entry["@type"].endswith(f".{kind}"))
    entries: list[Values] = config[key]
    return entries


def routes_of(dump: list[Values], port: int, host: str) -> list[Values]:
    """Return the routes of the sidecar for a host on a port, in order."""
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
