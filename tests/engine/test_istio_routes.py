"""What Istio's own control plane tells a sidecar of a service's objects, without a cluster."""

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
# In their order: the testers' subset, then the split.
SPLIT = [
    {f"outbound|8080|v2|{OWN}": 100},
    {f"outbound|8080|v1|{OWN}": 90, f"outbound|8080|v2|{OWN}": 10},
]


def registered(name: str, address: str, ports: Mapping[str, int]) -> Manifest:
    """A Service, as Istio knows it."""
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
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Values]]:
    """All that Istio tells a sidecar of the services; the configuration dump of it."""
    program = paths.cache().bin / "istio" / "pilot-discovery"
    if not program.exists():
        pytest.fail(f"there is no {program}; `make test` and `make up` make it", pytrace=False)
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


def part(seen: list[Values], kind: str, key: str) -> list[Values]:
    (found,) = (entry for entry in seen if entry["@type"].endswith(f".{kind}"))
    entries: list[Values] = found[key]
    return entries


def routes_of(seen: list[Values], port: int, host: str) -> list[Values]:
    """The routes for a host at a port of the sidecar, in their order."""
    configs = [one["routeConfig"] for one in part(seen, "RoutesConfigDump", "dynamicRouteConfigs")]
    (config,) = (one for one in configs if one["name"] == str(port))
    (found,) = (one for one in config["virtualHosts"] if host in one["domains"])
    routes: list[Values] = found["routes"]
    return routes


def clusters(route: Values) -> dict[str, int]:
    """Where a route leads, in shares of 100."""
    action = route["route"]
    if "cluster" in action:
        return {action["cluster"]: 100}
    return {one["name"]: one["weight"] for one in action["weightedClusters"]["clusters"]}


def authority(route: Values) -> str | None:
    """The pattern of the host that a route is for, if it is for one only."""
    headers = {one["name"]: one for one in route["match"].get("headers", [])}
    match = headers.get(":authority")
    return match["stringMatch"]["safeRegex"]["regex"] if match else None


def test_the_named_port_is_split(seen: list[Values]) -> None:
    for host in (OWN, OTHER_HOST):
        routes = routes_of(seen, 8080, host)
        assert [clusters(route) for route in routes] == SPLIT
        assert all(route["route"]["hashPolicy"] for route in routes)


def test_another_port_is_as_without_routes(seen: list[Values]) -> None:
    (route,) = routes_of(seen, 9090, OWN)
    assert clusters(route) == {f"outbound|9090||{OWN}": 100}
    assert "hashPolicy" not in route["route"]


def test_other_hosts_leave_port_80_of_the_service_alone(seen: list[Values]) -> None:
    *of_host, last = routes_of(seen, 80, OWN)
    assert all(authority(route) for route in of_host)
    assert authority(last) is None
    assert clusters(last) == {f"outbound|80||{OWN}": 100}
    assert [clusters(route) for route in routes_of(seen, 80, OTHER_HOST)[:2]] == SPLIT


def test_pods_are_chosen_and_protected_on_the_named_port_only(seen: list[Values]) -> None:
    known = [one["cluster"] for one in part(seen, "ClustersConfigDump", "dynamicActiveClusters")]
    by_name = {one["name"]: one for one in known}

    def limit(name: str) -> int:
        return int(by_name[name]["circuitBreakers"]["thresholds"][0]["maxConnections"])

    for subset in ("", "v1", "v2"):
        name = f"outbound|8080|{subset}|{OWN}"
        assert (by_name[name]["lbPolicy"], limit(name)) == ("RING_HASH", 7)
        for port in (9090, 80):
            name = f"outbound|{port}|{subset}|{OWN}"
            assert by_name[name]["lbPolicy"] == "LEAST_REQUEST"
            assert limit(name) > 7


def test_connections_have_their_affinity(seen: list[Values]) -> None:
    listeners = part(seen, "ListenersConfigDump", "dynamicListeners")
    (listener,) = (one for one in listeners if one["name"].endswith("_5432"))
    (chain,) = listener["activeState"]["listener"]["filterChains"]
    proxy = chain["filters"][-1]["typedConfig"]
    weights = {one["name"]: one["weight"] for one in proxy["weightedClusters"]["clusters"]}
    assert sorted(weights.values()) == [10, 90]
    assert proxy["hashPolicy"] == [{"sourceIp": {}}]
