"""Routes, gateways and resilience, tested by counting requests at their destination."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from components.manifests import Manifest, echo
from config import catalogue
from lab import paths
from lab.screen import Cluster
from tests.live import http10
from tests.live.counted import assert_share, repeated
from tests.live.harness import Project
from tests.live.tls import Pair, forwarded, self_signed, status_line
from tests.support.generated_mesh import NAME, accepted_services
from tests.support.generated_routes import assert_varied, objects

Values = dict[str, Any]
NS = "routes"
EXAMPLES = paths.PROJECT / "examples"
GATEWAY = "istio-ingressgateway.istio-system.svc.cluster.local"
OUTSIDE_HOST = "my-service.example.com"
TUNNEL_HOST = "tunnel.example.com"
KNOWN_HOST = "known.example.com"
PORTED_HOST = "ported.example.com"
PATHS_HOST = "paths.example.com"
PLAIN_HOST = "plain.example.com"
PATIENT_HOST = "patient.example.com"
SECONDS_OF_A_REQUEST = 15
SLOW_REQUESTS = (
    *("--duration", "20s", "--rate", "2", "--concurrency", "40"),
    *("--timeout", f"{2 * SECONDS_OF_A_REQUEST}s"),
)
ON_TRIAL = {"stable": "v1", "canary": {"subset": "v2", "weight": 0}}
NO_RETRIES = {"attempts": 0}

# Additions to the stack, besides the examples. Many services share a few pods.
SERVICES: dict[str, Values] = {
    "trial": ON_TRIAL
    | {
        "testers": [
            {"header": {"name": "X-Tester", "exact": "yes"}, "subset": "v2"},
            {"cookie": {"name": "tester", "value": "yes-1"}, "subset": "v2"},
            {"uri": {"prefix": "/beta"}, "subset": "v2"},
        ]
    },
    "mirrored": ON_TRIAL | {"mirror": {"subset": "v2", "percent": 30}},
    "promoted": {"stable": "v1", "canary": {"subset": "v2", "weight": 50}, "retries": NO_RETRIES},
    "by-cookie": {"stable": "v1", "affinity": {"cookie": {"name": "session"}}},
    "by-header": {"stable": "v1", "affinity": {"header": "x-user"}},
    "faulty": {
        "stable": "v1",
        "fault": {
            "reason": "counted by a test",
            "delay": {"percent": 30, "fixedDelay": "2s"},
            "abort": {"percent": 20, "httpStatus": 418},
        },
    },
    "unretried": {"stable": "v1", "retries": NO_RETRIES},
    "retried": {"stable": "v1", "retries": {"attempts": 3}},
    "ledger": {
        "port": 9090,
        "protocol": "grpc",
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 20},
        "testers": [{"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}],
    },
    "flaky-ledger": {
        "port": 9090,
        "protocol": "grpc",
        "stable": "v1",
        "retries": {"attempts": 3},
    },
    "timed": {"stable": "v1", "timeout": "300ms"},
    "pooled": {
        "stable": "v1",
        "retries": NO_RETRIES,
        "connectionPool": {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1}},
    },
    "detected": {
        "stable": "v1",
        "retries": NO_RETRIES,
        "outlierDetection": {"consecutive5xxErrors": 3, "baseEjectionTime": "5m"},
    },
    "tunnel": {
        "port": 8443,
        "protocol": "tcp",
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 30},
        "gateway": "tunnels",
        "hosts": [TUNNEL_HOST],
    },
    "for-known": {"stable": "v1", "gateway": "known", "hosts": [KNOWN_HOST]},
    "ported": ON_TRIAL
    | {
        "canary": {"subset": "v2", "weight": 25},
        "testers": [{"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}],
        "gateway": "ported",
        "hosts": [PORTED_HOST],
    },
    "pages": {
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 25},
        "gateway": "paths",
        "hosts": [PATHS_HOST],
    },
    "api": {
        "ports": {"http-echo": 8080, "http-admin": 8090},
        "split": "http-echo",
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 40},
        "testers": [
            {
                "header": {"name": "x-tester", "exact": "yes"},
                "subset": "v2",
                "fault": {
                    "reason": "counted by a test",
                    "abort": {"percent": 50, "httpStatus": 418},
                },
            }
        ],
        "gateway": "paths",
        "hosts": [PATHS_HOST],
        "paths": [
            {"prefix": "/api", "rewrite": "/"},
            {"prefix": "/api/admin", "port": "http-admin"},
            {"exact": "/old", "redirect": {"path": "/api", "status": 302}},
        ],
    },
    "plain": {
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 25},
        "gateway": "plain",
        "hosts": [PLAIN_HOST],
    },
    "patient": {
        "stable": "v1",
        "canary": {"subset": "v2", "weight": 10},
        "gateway": "patient",
        "hosts": [PATIENT_HOST],
    },
    "nearby": {"stable": "v1", "outlierDetection": {"consecutive5xxErrors": 3}},
    "shared": {
        "stable": "v1",
        "locality": {"distribute": [{"from": "oslo/*", "to": {"oslo/*": 80, "bergen/*": 20}}]},
    },
    "stood-in": {
        "stable": "v1",
        "retries": NO_RETRIES,
        "outlierDetection": {"consecutive5xxErrors": 3, "baseEjectionTime": "5m"},
        "locality": {"failover": [{"from": "oslo", "to": "bergen"}]},
    },
}
GATEWAYS = {
    "tunnels": {"hosts": [TUNNEL_HOST], "tls": {"mode": "PASSTHROUGH"}},
    "known": {"hosts": [KNOWN_HOST], "tls": {"mode": "MUTUAL", "secret": "known-tls"}},
    "ported": {"hosts": [PORTED_HOST]},
    "paths": {"hosts": [PATHS_HOST]},
    "plain": {
        "hosts": [PLAIN_HOST],
        "tls": {"secret": "plain-tls", "httpsRedirect": False, "plainHttp": True},
    },
    "patient": {"hosts": [PATIENT_HOST]},
}
# Stands in for the locality labels of a node.
IN_OSLO, IN_BERGEN = {"istio-locality": "oslo.oslo-1"}, {"istio-locality": "bergen.bergen-1"}
# The services that have their own pods, and the labels of those pods.
POOLS = {
    "detected": {"pool": "detected"},
    "patient": {"app": "patient"},
    "nearby": {"pool": "places"},
    "shared": {"pool": "places"},
    "stood-in": {"stood-in": "yes"},
}
FLAKY, SLOW = {"unretried", "retried", "flaky-ledger"}, {"timed", "pooled"}


def deployment(
    namespace: str,
    app: str,
    version: str,
    *arguments: str,
    replicas: int = 1,
    labels: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """Return a Deployment of echo pods with small resource requests."""
    manifest = echo.echo_deployment(app, version, namespace=namespace, image=catalogue.ECHO_IMAGE)
    manifest["spec"]["replicas"] = replicas
    template = manifest["spec"]["template"]
    template["metadata"] = {
        "labels": {**template["metadata"]["labels"], **labels},
        "annotations": {
            "sidecar.istio.io/proxyCPU": "10m",
            "sidecar.istio.io/proxyMemory": "64Mi",
        },
    }
    (container,) = template["spec"]["containers"]
    container["args"] = [*container["args"], "--grpc-addr", ":9090", *arguments]
    return manifest


def with_admin(manifest: Manifest) -> Manifest:
    """Add two more servers with the version `admin` to the pods of a Deployment."""
    containers = manifest["spec"]["template"]["spec"]["containers"]
    server = {key: containers[0][key] for key in ("image", "resources", "securityContext")}
    server["env"] = [{"name": "VERSION", "value": "admin"}]
    for name, port in (("admin", 8090), ("old", 8091)):
        containers.append({**server, "name": name, "args": ["serve", "--addr", f":{port}"]})
    return manifest


def client_in_oslo() -> Manifest:
    manifest = echo.client_deployment(NS, image=catalogue.ECHO_IMAGE)
    template = manifest["spec"]["template"]
    template["spec"]["serviceAccountName"] = "default"
    template["metadata"] = {"labels": {**template["metadata"]["labels"], **IN_OSLO}}
    return manifest


def service(namespace: str, name: str, **selector: str) -> Manifest:
    ports = [
        {"name": "http-echo", "port": 8080, "targetPort": 8080},
        {"name": "grpc-ledger", "port": 9090, "targetPort": 9090},
        {"name": "tcp-tunnel", "port": 8443, "targetPort": 8443},
    ]
    if name in ("ported", "api"):
        ports += [
            {"name": "http-admin", "port": 8090, "targetPort": 8090},
            {"name": "http-old", "port": 80, "targetPort": 8091},
        ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": selector, "ports": ports},
    }


def workloads() -> list[Manifest]:
    tls = ("--tls-self-signed", TUNNEL_HOST)
    pods = [
        with_admin(deployment(NS, "good", "v1", *tls, replicas=2, labels=POOLS["detected"])),
        with_admin(deployment(NS, "good", "v2", *tls)),
        deployment(NS, "flaky", "v1", "--status-rate", "503=0.3"),
        deployment(NS, "slow", "v1", "--delay", "2s"),
        deployment(NS, "broken", "v1", "--status-rate", "503=1", labels=POOLS["detected"]),
        deployment(NS, "oslo", "v1", labels=POOLS["nearby"] | IN_OSLO),
        deployment(NS, "bergen", "v1", labels=POOLS["nearby"] | POOLS["stood-in"] | IN_BERGEN),
        deployment(NS, "sick", "v1", "--status-rate", "503=1", labels=POOLS["stood-in"] | IN_OSLO),
        client_in_oslo(),
    ]
    # A pod that ends accepts requests for as long as proxies may take to learn it, and has 10 s
    # more for those in progress.
    slow = ("--delay", f"{SECONDS_OF_A_REQUEST}s", "--drain", "9s")
    pods += [deployment(NS, "patient", version, *slow) for version in ("v1", "v2")]
    services = [
        service(NS, name, app="flaky" if name in FLAKY else "slow" if name in SLOW else "good")
        for name in SERVICES.keys() - POOLS.keys()
    ]
    services += [service(NS, name, **selector) for name, selector in POOLS.items()]
    # Without a Service, a client has no locality.
    services.append(service(NS, echo.CLIENT, app=echo.CLIENT))
    for namespace, name in (("web", "my-service"), ("backend", "payment-service")):
        pods += [deployment(namespace, name, version) for version in ("v1", "v2")]
        services.append(service(namespace, name, app=name))
    return [*pods, *services]


def mesh_with_examples(mesh: Values) -> Values:
    """Return the mesh of the stack with every example and the services of this test."""
    sections: dict[str, Values] = {
        "namespaces": {NS: {}},
        "gateways": GATEWAYS,
        "services": {
            name: {"namespace": NS} | ({} if "ports" in settings else {"port": 8080}) | settings
            for name, settings in SERVICES.items()
        },
    }
    for path in sorted(EXAMPLES.glob("*.yaml")):
        example = yaml.safe_load(path.read_text())["config"]["nordmesh:mesh"]
        sections = {
            name: sections.get(name, {}) | example.get(name, {})
            for name in sections.keys() | example.keys()
        }
    return mesh | {name: mesh.get(name, {}) | entries for name, entries in sections.items()}


def edit_mesh(project: Project, mesh: Values) -> None:
    with project.config() as config:
        config["nordmesh:mesh"] = mesh


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with the certificates of the gateways and their clients."""
    return tmp_path_factory.mktemp("routes")


@pytest.fixture(scope="module")
def mesh(project: Project, cluster: Cluster, directory: Path) -> Iterator[Values]:
    """Deploy the mesh section with all additions, and the pods of its services."""
    before = project.stack_file.read_text()
    section = mesh_with_examples(yaml.safe_load(before)["config"]["nordmesh:mesh"])
    edit_mesh(project, section)
    up = project.up()
    assert "mesh.services.faulty.fault: requests fail on purpose: counted by a test" in up.text
    certificates(cluster, directory)
    objects = directory / "workloads.yaml"
    objects.write_text(yaml.safe_dump_all(workloads()))
    try:
        cluster.kubectl("apply", "-f", str(objects))
        for namespace in (NS, "web", "backend"):
            cluster.kubectl(
                "-n", namespace, "wait", "--for=condition=Available", "deployment", "--all",
                "--timeout=280s", seconds=300,
            )  # fmt: skip
        yield section
    finally:
        cluster.kubectl("delete", "--wait=false", "-f", str(objects))
        secrets = ("my-service-tls", "known-tls", "plain-tls")
        cluster.kubectl("-n", "istio-system", "delete", "secret", *secrets)
        project.stack_file.write_text(before)
        project.up()


def certificates(cluster: Cluster, directory: Path) -> None:
    """Create the Secrets of the gateways; one of them accepts the certificate of `friend`."""
    make_secret = ("-n", "istio-system", "create", "secret")
    names = (OUTSIDE_HOST, PLAIN_HOST, KNOWN_HOST, "friend", "stranger")
    outside, plain, known, friend, _ = (self_signed(directory, name) for name in names)
    for secret, pair in (("my-service-tls", outside), ("plain-tls", plain)):
        tls = (f"--cert={pair.certificate}", f"--key={pair.key}")
        cluster.kubectl(*make_secret, "tls", secret, *tls)
    cluster.kubectl(
        *make_secret, "generic", "known-tls", f"--from-file=tls.crt={known.certificate}",
        f"--from-file=tls.key={known.key}", f"--from-file=ca.crt={friend.certificate}",
    )  # fmt: skip


def send(
    cluster: Cluster, name: str, *options: str, namespace: str = NS, port: int = 8080
) -> Values:
    """Send requests from the demo client in the mesh."""
    tally = cluster.call("shop", f"http://{name}.{namespace}.svc.cluster.local:{port}", *options)
    print(f"{name} {' '.join(options)}: {json.dumps(tally)}")
    return tally


def arrived(cluster: Cluster, deployment: str) -> Values:
    """Return the requests that the only pod of a Deployment has counted."""
    text = cluster.kubectl(
        "-n", NS, "exec", f"deploy/{deployment}", "-c", "echo", "--",
        "/echo", "call", "--url", "http://localhost:8080/counts", "--last",
    )  # fmt: skip
    counts: Values = json.loads(json.loads(text)["last"]["body"])
    return counts


def copies(cluster: Cluster) -> int:
    """Return the mirrored requests that v2 has received, after the last one has arrived."""
    counted = -1
    while True:
        hosts = arrived(cluster, "good-v2")["hosts"]
        assert all("-shadow" in host for host in hosts if "mirrored" in host), hosts
        last, counted = counted, sum(n for host, n in hosts.items() if "mirrored" in host)
        if counted == last:
            return counted
        time.sleep(2)


@pytest.mark.parametrize(
    ("path", "options", "version"),
    [
        ("", (), "v1"),
        ("", ("--header", "x-tester=yes"), "v2"),
        ("", ("--header", "x-tester=no"), "v1"),
        ("", ("--cookie", "a=b", "--cookie", "tester=yes-1", "--cookie", "c=d"), "v2"),
        ("", ("--cookie", "tester=yes-12"), "v1"),
        ("/beta/new", (), "v2"),
        ("/alpha", (), "v1"),
    ],
)
def test_testers_reach_the_canary_at_weight_0(
    mesh: Values, cluster: Cluster, path: str, options: tuple[str, ...], version: str
) -> None:
    assert mesh["services"]["trial"]["canary"]["weight"] == 0
    url = f"http://trial.{NS}.svc.cluster.local:8080{path}"
    tally = cluster.call("shop", url, "--count", "50", *options)
    assert tally["versions"] == {version: 50}, tally


@pytest.mark.usefixtures("mesh")
def test_the_mirror_gets_its_share_and_its_responses_are_dropped(cluster: Cluster) -> None:
    # Mirrored requests are asynchronous: the first ones still wait for a connection.
    send(cluster, "mirrored", "--count", "200", "--concurrency", "8")
    before = copies(cluster)
    assert before > 0
    tally = send(cluster, "mirrored", "--count", "2000", "--concurrency", "8")
    assert tally["versions"] == {"v1": 2000}
    assert_share(copies(cluster) - before, 2000, 30)


@pytest.mark.usefixtures("mesh")
def test_a_timeout_returns_504(cluster: Cluster) -> None:
    tally = send(cluster, "timed", "--count", "10", "--concurrency", "2")
    assert tally["statuses"] == {"504": 10}
    assert 250 < tally["latency_ms"]["p50"] < 1900


@pytest.mark.usefixtures("mesh")
def test_retries_hide_most_of_a_fault(cluster: Cluster) -> None:
    """A pod fails 30% of requests; with three retries, 0.3^4 of them fail."""
    plan = ("--count", "1500", "--concurrency", "4")
    before, after = send(cluster, "unretried", *plan), send(cluster, "retried", *plan)
    print(f"errors: {before['failed']} of 1500 without retries, {after['failed']} with three")
    assert_share(before["failed"], 1500, 30)
    assert_share(after["failed"], 1500, 100 * 0.3**4)


@pytest.mark.usefixtures("mesh")
def test_grpc_is_split_request_by_request(cluster: Cluster) -> None:
    """Over one connection, where a TCP balancer would send all requests to one version."""
    plan = ("--grpc", "--count", "1000", "--concurrency", "4")
    tally = send(cluster, "ledger", *plan, port=9090)
    testers = send(cluster, "ledger", *plan, "--header", "x-tester=yes", port=9090)
    assert tally["statuses"] == {"OK": 1000}
    assert_share(tally["versions"]["v2"], 1000, 20)
    assert testers["versions"] == {"v2": 1000}


@pytest.mark.usefixtures("mesh")
def test_retries_hide_grpc_status_unavailable(cluster: Cluster) -> None:
    """The responses are 200 with a gRPC status; of 30% failures, 0.3^4 remain."""
    plan = ("--grpc", "--count", "1500", "--concurrency", "4")
    tally = send(cluster, "flaky-ledger", *plan, port=9090)
    print(f"errors: {tally['failed']} of 1500 with three retries")
    assert set(tally["statuses"]) <= {"OK", "Unavailable"}
    assert_share(tally["failed"], 1500, 100 * 0.3**4)


@pytest.mark.usefixtures("mesh")
def test_injected_faults_have_the_configured_shares(cluster: Cluster) -> None:
    tally = send(cluster, "faulty", "--count", "400", "--concurrency", "40")
    assert set(tally["statuses"]) == {"200", "418"}
    assert_share(tally["statuses"]["418"], 400, 20)
    # 30% are delayed: the slowest tenth, but not the median.
    assert tally["latency_ms"]["p50"] < 1990 < tally["latency_ms"]["p90"]


@pytest.mark.usefixtures("mesh")
def test_affinity_keeps_a_client_on_one_pod(cluster: Cluster) -> None:
    plan = ("--count", "60", "--fresh")
    without = send(cluster, "by-cookie", *plan)
    with_cookie = send(cluster, "by-cookie", *plan, "--jar")
    assert len(without["pods"]) == 2
    assert len(with_cookie["pods"]) == 1
    pods = set()
    for user in ("anna", "berit", "cecilie", "dag", "erik", "frida", "gunnar", "hilde"):
        tally = send(cluster, "by-header", *plan, "--header", f"x-user={user}")
        assert len(tally["pods"]) == 1
        pods |= set(tally["pods"])
    assert len(pods) > 1


@pytest.mark.usefixtures("mesh")
def test_a_failing_pod_is_ejected(cluster: Cluster) -> None:
    """One of three pods fails all requests: it gets three per worker thread, and then none."""
    tally = send(cluster, "detected", "--count", "600", "--rate", "150")
    assert 3 <= tally["failed"] <= 8, tally
    again = send(cluster, "detected", "--count", "300", "--rate", "150")
    assert again["failed"] == 0
    assert len(again["pods"]) == 2


@pytest.mark.usefixtures("mesh")
def test_the_circuit_breaker_refuses_immediately(cluster: Cluster) -> None:
    """A request takes two seconds; beyond one active and one pending, requests get 503."""
    patient = ("--timeout", "30s")
    tally = send(cluster, "pooled", "--count", "60", "--concurrency", "20", *patient)
    assert set(tally["statuses"]) == {"200", "503"}
    assert 1 <= tally["statuses"]["200"] <= 6
    assert tally["latency_ms"]["p50"] < 1900
    within = send(cluster, "pooled", "--count", "2", *patient)
    assert within["statuses"] == {"200": 2}


@pytest.mark.usefixtures("mesh")
def test_tcp_connections_are_split(cluster: Cluster) -> None:
    url = f"https://tunnel.{NS}.svc.cluster.local:8443/"
    plan = ("--count", "400", "--concurrency", "8", "--fresh", "--insecure")
    tally = cluster.call("shop", url, *plan)
    assert tally["failed"] == 0, tally
    assert_share(tally["versions"]["v2"], 400, 30)


@pytest.mark.usefixtures("mesh")
def test_the_payment_example_is_split_in_the_mesh(cluster: Cluster) -> None:
    plan = ("--count", "1000", "--concurrency", "8")
    tally = send(cluster, "payment-service", *plan, namespace="backend")
    assert tally["failed"] == 0
    assert_share(tally["versions"]["v2"], 1000, 10)


@pytest.mark.usefixtures("mesh")
def test_the_checkout_example_has_testers_and_a_small_canary(cluster: Cluster) -> None:
    plan = ("--count", "1000", "--concurrency", "8")
    tally = send(cluster, "checkout", *plan, namespace="shop")
    testers = send(cluster, "checkout", *plan, "--header", "x-tester=yes", namespace="shop")
    assert_share(tally["versions"]["v2"], 1000, 5)
    assert testers["versions"] == {"v2": 1000}


@pytest.mark.usefixtures("mesh")
def test_the_gateway_example_serves_https_to_external_clients(cluster: Cluster) -> None:
    """A client without a sidecar connects to the address of the gateway, as from the internet."""
    host = ("--host", OUTSIDE_HOST)
    secure = ("--insecure", "--count", "1000", "--concurrency", "8")
    tally = cluster.call("outside", f"https://{GATEWAY}/", *host, *secure)
    assert tally["failed"] == 0, tally
    assert_share(tally["versions"]["v2"], 1000, 10)
    plain = cluster.call("outside", f"http://{GATEWAY}/x?y=1", *host, "--follow=false", "--last")
    assert plain["statuses"] == {"301": 1}
    assert plain["last"]["headers"]["Location"] == [f"https://{OUTSIDE_HOST}/x?y=1"]
    other = cluster.call("outside", f"https://{GATEWAY}/", "--host", "other.example.com")
    assert other["ok"] == 0


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("url", [f"http://{GATEWAY}/", f"https://{GATEWAY}/"])
def test_a_gateway_serves_the_same_routes_in_plain_http(cluster: Cluster, url: str) -> None:
    plan = ("--host", PLAIN_HOST, "--follow=false", "--insecure")
    tally = cluster.call("outside", url, *plan, "--count", "600", "--concurrency", "8")
    assert tally["statuses"] == {"200": 600}, tally
    assert_share(tally["versions"]["v2"], 600, 25)


@pytest.mark.usefixtures("mesh")
def test_requests_of_http_1_0_are_asked_to_upgrade(project: Project, cluster: Cluster) -> None:
    """By a gateway, and by the sidecar of a pod that a node calls, as a load balancer does."""
    with forwarded(cluster, "deploy/istio-ingressgateway", 8080) as address:
        assert http10.status(address, f"Host: {PORTED_HOST}") == "426"
    (pod,) = cluster.items("pods", "-n", NS, "--selector=app=good,version=v2")
    node = project.machine_addresses()["worker-1"]
    command = http10.command((pod["status"]["podIP"], 8080), "Host: good")
    assert http10.status_of(project.ssh(node, command)) == "426"


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("port", [8090, 80])
def test_other_ports_of_a_service_reach_their_own_server(cluster: Cluster, port: int) -> None:
    tally = send(cluster, "ported", "--count", "20", port=port)
    assert tally["versions"] == {"admin": 20}, tally
    # The header that marks testers on the service port has no effect here.
    tally = send(cluster, "ported", "--count", "20", "--header", "x-tester=yes", port=port)
    assert tally["versions"] == {"admin": 20}, tally


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize(
    ("namespace", "url", "options"),
    [
        ("shop", f"http://ported.{NS}.svc.cluster.local:8080/", ()),
        # Another host also works on port 80, although the Service has its own port 80.
        ("shop", f"http://ported.{NS}.svc.cluster.local:80/", ("--host", PORTED_HOST)),
        ("outside", f"http://{GATEWAY}/", ("--host", PORTED_HOST)),
    ],
)
def test_the_service_port_is_split_in_the_mesh_and_at_a_gateway(
    cluster: Cluster, namespace: str, url: str, options: tuple[str, ...]
) -> None:
    tally = cluster.call(namespace, url, *options, "--count", "600", "--concurrency", "8")
    assert tally["failed"] == 0, tally
    assert_share(tally["versions"]["v2"], 600, 25)
    testers = ("--header", "x-tester=yes")
    tally = cluster.call(namespace, url, *options, *testers, "--count", "50")
    assert tally["versions"] == {"v2": 50}, tally


def send_to_gateway(cluster: Cluster, path: str, *options: str) -> Values:
    """Send requests for a host that two services share, from outside the mesh."""
    host = ("--host", PATHS_HOST)
    tally = cluster.call("outside", f"http://{GATEWAY}{path}", *host, *options)
    print(f"{path} {' '.join(options)}: {json.dumps(tally)}")
    return tally


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize(
    ("path", "share", "received"),
    [
        ("/", 25, "/"),
        ("/apiary", 25, "/apiary"),
        ("/api", 40, "/"),
        ("/api/carts/7", 40, "/carts/7"),
    ],
)
def test_services_share_a_host_by_path(
    cluster: Cluster, path: str, share: int, received: str
) -> None:
    tally = send_to_gateway(cluster, path, "--count", "600", "--concurrency", "8", "--last")
    assert tally["failed"] == 0, tally
    assert_share(tally["versions"]["v2"], 600, share)
    assert json.loads(tally["last"]["body"])["path"] == received


@pytest.mark.usefixtures("mesh")
def test_a_path_reaches_another_port_or_a_redirect(cluster: Cluster) -> None:
    tally = send_to_gateway(cluster, "/api/admin/users", "--count", "40")
    assert tally["versions"] == {"admin": 40}, tally
    assert {pod.rpartition("-")[0].rpartition("-")[0] for pod in tally["pods"]} == {"good-v1"}
    tally = send_to_gateway(cluster, "/old", "--follow=false", "--last")
    assert tally["statuses"] == {"302": 1}
    assert tally["last"]["headers"]["Location"] == [f"http://{PATHS_HOST}/api"]


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("outside", [True, False])
def test_faults_of_testers_hit_no_other_requests(cluster: Cluster, outside: bool) -> None:
    plan = ("--count", "400", "--concurrency", "8")
    testers = ("--header", "x-tester=yes")
    if outside:
        tally, others = (send_to_gateway(cluster, "/api", *plan, *more) for more in (testers, ()))
    else:
        tally, others = (send(cluster, "api", *plan, *more) for more in (testers, ()))
    assert_share(tally["statuses"]["418"], 400, 50)
    assert set(tally["versions"]) == {"v2"}
    assert others["failed"] == 0
    assert_share(others["versions"]["v2"], 400, 40)


@pytest.mark.usefixtures("mesh")
def test_a_port_that_is_not_split_gets_the_stable_version(cluster: Cluster) -> None:
    tally = send(cluster, "api", "--count", "100", port=8090)
    assert tally["versions"] == {"admin": 100}, tally
    assert {pod.rpartition("-")[0].rpartition("-")[0] for pod in tally["pods"]} == {"good-v1"}


def test_a_weight_of_a_shared_host_is_one_update(
    project: Project, mesh: Values, cluster: Cluster
) -> None:
    edited = json.loads(json.dumps(mesh))
    edited["services"]["api"]["canary"]["weight"] = 70
    edit_mesh(project, edited)
    plan = ("--count", "2000", "--rate", "40")
    with ThreadPoolExecutor() as pool:
        outside = pool.submit(send_to_gateway, cluster, "/api", *plan)
        up = project.up()
        during = outside.result()
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", up.text)
    assert during["failed"] == 0
    plan = ("--count", "600", "--concurrency", "8")
    for tally in (send_to_gateway(cluster, "/api", *plan), send(cluster, "api", *plan)):
        assert_share(tally["versions"]["v2"], 600, 70)
    edit_mesh(project, mesh)
    project.up()


def test_a_host_becomes_shared_without_a_failed_request(
    project: Project, mesh: Values, cluster: Cluster
) -> None:
    """The routes move to other objects; new ones come before old ones go."""
    alone = json.loads(json.dumps(mesh))
    del alone["services"]["api"]
    for section in (alone, mesh):
        edit_mesh(project, section)
        plan = ("--count", "2000", "--rate", "40")
        with ThreadPoolExecutor() as pool:
            outside = pool.submit(send_to_gateway, cluster, "/", *plan)
            inside = pool.submit(send, cluster, "pages", *plan)
            project.up()
            for tally in (outside.result(), inside.result()):
                assert tally["failed"] == 0, tally
                assert_share(tally["versions"]["v2"], 2000, 25)


@pytest.mark.usefixtures("mesh")
def test_a_gateway_passes_tls_through(cluster: Cluster) -> None:
    plan = ("--count", "200", "--concurrency", "4", "--fresh", "--insecure")
    tally = cluster.call("outside", f"https://{GATEWAY}/", "--host", TUNNEL_HOST, *plan)
    assert tally["failed"] == 0, tally
    assert_share(tally["versions"]["v2"], 200, 30)


@pytest.mark.usefixtures("mesh")
def test_a_gateway_accepts_only_known_client_certificates(
    cluster: Cluster, directory: Path
) -> None:
    with forwarded(cluster, "deploy/istio-ingressgateway", 8443) as address:
        friend, stranger, nobody = (
            status_line(address, KNOWN_HOST, pair)
            for pair in (Pair(directory, "friend"), Pair(directory, "stranger"), None)
        )
    assert friend == "HTTP/1.1 200 OK"
    assert "UNKNOWN_CA" in stranger
    assert "CERTIFICATE_REQUIRED" in nobody


@pytest.mark.usefixtures("mesh")
def test_pods_in_the_locality_of_the_caller_are_preferred(cluster: Cluster) -> None:
    tally = send_from_oslo(cluster, "nearby", "--count", "300")
    assert by_locality(tally) == {"oslo": 300}


@pytest.mark.usefixtures("mesh")
def test_requests_are_distributed_between_localities(cluster: Cluster) -> None:
    tally = send_from_oslo(cluster, "shared", "--count", "1000", "--concurrency", "8")
    assert tally["failed"] == 0
    assert_share(by_locality(tally)["bergen"], 1000, 20)


@pytest.mark.usefixtures("mesh")
def test_requests_fail_over_to_another_locality(cluster: Cluster) -> None:
    tally = send_from_oslo(cluster, "stood-in", "--count", "300", "--rate", "150")
    assert 3 <= tally["failed"] <= 8, tally
    again = send_from_oslo(cluster, "stood-in", "--count", "300", "--rate", "150")
    assert again["failed"] == 0
    assert by_locality(again) == {"bergen": 300}


def send_from_oslo(cluster: Cluster, name: str, *options: str) -> Values:
    """Send requests from a client in Oslo."""
    tally = cluster.call(NS, f"http://{name}:8080", *options)
    print(f"{name} {' '.join(options)}: {json.dumps(tally)}")
    return tally


def by_locality(tally: Values) -> Values:
    """Count responses by the locality of their pod."""
    return {pod.partition("-")[0]: count for pod, count in tally["pods"].items()}


@pytest.mark.usefixtures("mesh")
def test_istioctl_and_the_api_server_accept_every_object(cluster: Cluster, tmp_path: Path) -> None:
    kinds = "virtualservice,destinationrule,gateway"
    items = cluster.items(kinds, "--all-namespaces")
    assert len(items) > 40
    file = tmp_path / "objects.yaml"
    file.write_text(
        yaml.safe_dump_all(
            {
                **{key: item[key] for key in ("apiVersion", "kind", "spec")},
                "metadata": {key: item["metadata"][key] for key in ("name", "namespace")},
            }
            for item in items
        )
    )
    cluster.istioctl("validate", "-f", str(file))
    cluster.kubectl("apply", "--dry-run=server", "-f", str(file), seconds=180)
    findings = cluster.istioctl("analyze", "--namespace", NS).splitlines()
    assert [line for line in findings if line.startswith(("Error", "Warning"))] == []


def test_istio_accepts_every_service_that_a_preview_accepts(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The objects of sixty different services pass istioctl and the webhook of the API server."""
    made_up = accepted_services(120)
    assert_varied((mesh.services[NAME] for mesh in made_up), shapes=60, of_each=3)
    items = [
        {**manifest, "metadata": {"name": f"x{index}-{manifest['metadata']['name']}"}}
        for index, mesh in enumerate(made_up)
        for manifest in objects(mesh)
    ]
    # JSON, as Pulumi writes it, because YAML parsers disagree on `y`.
    file = tmp_path / "made-up.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    cluster.istioctl("validate", "-f", str(file))
    applied = cluster.kubectl(
        "-n", "default", "apply", "--dry-run=server", "-f", str(file), seconds=240
    )
    assert applied.count("(server dry run)") == len(items)


def test_an_edit_of_testers_is_one_update(mesh: Values, project: Project, cluster: Cluster) -> None:
    mesh["services"]["trial"]["testers"][2]["uri"]["prefix"] = "/gamma"
    edit_mesh(project, mesh)
    updated = project.up()
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", updated.text), updated.text
    url = f"http://trial.{NS}.svc.cluster.local:8080"
    assert cluster.call("shop", f"{url}/gamma", "--count", "20")["versions"] == {"v2": 20}
    assert cluster.call("shop", f"{url}/beta", "--count", "20")["versions"] == {"v1": 20}


def test_finishing_a_canary_fails_no_request(
    mesh: Values, project: Project, cluster: Cluster
) -> None:
    """At weight 50 and without retries: the old subset is deleted after the route is updated."""
    del mesh["services"]["promoted"]["canary"]
    mesh["services"]["promoted"]["stable"] = "v2"
    edit_mesh(project, mesh)
    steady = ("--duration", "25s", "--rate", "150", "--concurrency", "4")
    with ThreadPoolExecutor() as threads:
        client = threads.submit(send, cluster, "promoted", *steady)
        updated = project.up()
        during = client.result()
    assert during["failed"] == 0
    assert set(during["versions"]) == {"v1", "v2"}
    assert re.search(r"~ 1 updated\n\s+- 1 deleted\n", updated.text), updated.text
    assert send(cluster, "promoted", "--count", "100")["versions"] == {"v2": 100}


def restart(cluster: Cluster, namespace: str, *deployments: str) -> None:
    names = [f"deployment/{name}" for name in deployments]
    cluster.kubectl("-n", namespace, "rollout", "restart", *names)
    for name in names:
        cluster.kubectl("-n", namespace, "rollout", "status", name, "--timeout=180s", seconds=190)


def test_no_slow_request_is_cut(mesh: Values, project: Project, cluster: Cluster) -> None:
    """Requests of 15 s, in the mesh and from outside: through a rollout of the service, one of the
    gateway's proxies, and a weight edit.

    Proxies of ending pods drain for 20 s, and the pods have 30 s.
    """
    mesh["services"]["patient"]["canary"]["weight"] = 60
    edit_mesh(project, mesh)
    in_mesh = ("shop", f"http://patient.{NS}.svc.cluster.local:8080/")
    at_gateway = ("outside", f"http://{GATEWAY}/", "--host", PATIENT_HOST)
    with (
        repeated(partial(cluster.call, *in_mesh, *SLOW_REQUESTS)) as inside,
        repeated(partial(cluster.call, *at_gateway, *SLOW_REQUESTS)) as outside,
    ):
        time.sleep(SECONDS_OF_A_REQUEST + 1)  # connections that are reused
        restart(cluster, NS, "patient-v1", "patient-v2")
        restart(cluster, "istio-system", "istio-ingressgateway")
        updated = project.up()
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", updated.text), updated.text
    for tallies in (inside, outside):
        requests, failed = (sum(tally[key] for tally in tallies) for key in ("requests", "failed"))
        print(f"{requests} requests of 15 s, {failed} failed")
        assert requests >= 40
        assert failed == 0, tallies
