"""The life cycle of Istio: exposure, a failed installation, an upgrade, a rollback, removal.

It has a separate lab, whose mesh can be upgraded and removed. Requests come from this machine, like
those of an external client, and are counted.
"""

import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from lab import paths
from lab.screen import Cluster
from tests.live import http10
from tests.live.counted import repeated, wait_for
from tests.live.harness import Project, lab_project
from tests.live.moments import kill_in_the_middle

WORKER = "10.72.0.21"
CLIENT = "10.72.0.1"
NODE_PORT = f"{WORKER}:30080"
HOST_PORT = f"{WORKER}:80"
EXTERNAL_IP = f"{WORKER}:8088"

SMALL = {"requests": {"cpu": "10m", "memory": "64Mi"}}
HTTP = {"name": "http2", "port": 80}
PILOT = {"requests": {"cpu": "50m", "memory": "256Mi"}}
ISTIO = {
    "ingressGateways": {
        "istio-ingressgateway": {
            "expose": {"type": "NodePort"},
            "ports": [{**HTTP, "nodePort": 30080}],
            "replicas": {"min": 2},
            **SMALL,
        },
        "edge": {"expose": {"type": "HostPort", "nodes": ["worker-1"]}, "ports": [HTTP], **SMALL},
        "fixed": {
            "expose": {"type": "ExternalIPs", "addresses": [WORKER], "nodes": ["worker-1"]},
            "ports": [{**HTTP, "port": 8088}],
            **SMALL,
        },
    },
    "accessLog": {"target": "stdout", "format": "json"},
    "outboundTrafficPolicy": "ALLOW_ANY",
    "pilot": PILOT,
    "proxy": {"requests": {"cpu": "10m", "memory": "64Mi"}, "certificateLifetime": "1h"},
}

# A service with two replicas. options: of `echo serve`.
ECHO = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http-echo, port: 8080}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: shop}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}, version: v1}}}}
    spec:
      containers:
        - name: echo
          image: docker.io/nordmesh/echo:1.1.0
          args: [serve, --addr, ":8080"{options}]
          readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 2}}
---
"""
# `pay`, with a disruption budget, behind each of the gateways, and `patient`, whose requests take
# 15 s. Until the upgrade has ended, `pay` accepts plaintext too.
PAY = f"""
{ECHO.format(name="pay", options="")}
{ECHO.format(name="patient", options=", --delay, 15s, --drain, 9s")}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: pay, namespace: shop}}
spec:
  minAvailable: 1
  selector: {{matchLabels: {{app: pay}}}}
---
apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata: {{name: pay, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: pay}}}}, mtls: {{mode: PERMISSIVE}}}}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {{name: pay, namespace: shop}}
spec:
  hosts: ["*"]
  gateways: [ingressgateway, edge, fixed]
  http:
    - match: [{{uri: {{prefix: /patient}}}}]
      route: [{{destination: {{host: patient.shop.svc.cluster.local, port: {{number: 8080}}}}}}]
    - route: [{{destination: {{host: pay.shop.svc.cluster.local, port: {{number: 8080}}}}}}]
"""
GATEWAY = """
---
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{istio: {name}}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]
"""


def configure(project: Project, **istio: object) -> None:
    """Change keys of the section istio; None removes a key."""
    with project.config() as config:
        section = config["nordmesh:istio"] | istio
        config["nordmesh:istio"] = {k: v for k, v in section.items() if v is not None}


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with lab_project("life", bridge="nordmesh-life", network="10.72.0") as project:
        configure(project, **ISTIO)
        project.lab("up")
        yield project


@pytest.fixture(scope="module")
def cluster(project: Project) -> Iterator[Cluster]:
    ports = {"ingressgateway": 80, "edge": 80, "fixed": 8088}
    manifest = PAY + "".join(GATEWAY.format(name=n, port=p) for n, p in ports.items())
    with project.cluster() as cluster:
        path = project.directory / "pay.yaml"
        path.write_text(manifest)
        cluster.kubectl("apply", "--filename", str(path))
        for name in ("pay", "patient"):
            ready = ("rollout", "status", f"deployment/{name}", "--timeout=300s")
            cluster.kubectl("-n", "shop", *ready, seconds=310)
        yield cluster


OFTEN = ("--duration", "5s", "--rate", "40", "--concurrency", "4")
SLOWLY = ("--duration", "20s", "--rate", "1", "--concurrency", "40", "--timeout", "30s")


class Load:
    """Send requests until closed, and count the responses."""

    def __init__(self, address: str, *options: str) -> None:
        self.requests = 0
        self.failed: list[dict[str, Any]] = []
        self._command = ("call", "--url", f"http://{address}", *(options or OFTEN))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _send(self) -> None:
        echo = str(paths.cache().bin / "demo" / "echo")
        while not self._stop.is_set():
            result = subprocess.run(
                [echo, *self._command], capture_output=True, text=True, check=False
            )
            tally: dict[str, Any] = json.loads(result.stdout)
            self.requests += tally["requests"]
            if tally["failed"]:
                self.failed.append(tally)


def revisions(cluster: Cluster) -> set[str]:
    return {
        item["metadata"]["labels"]["istio.io/rev"]
        for item in cluster.items("deployments", "-n", "istio-system", "-l", "app=istiod")
    }


def proxies_on(cluster: Cluster, revision: str) -> tuple[int, int]:
    """Count the proxies that are configured by the revision, and all proxies."""
    rows = [line.split() for line in cluster.istioctl("proxy-status").splitlines()[1:]]
    return sum(row[-2].startswith(f"istiod-{revision}-") for row in rows), len(rows)


@pytest.mark.parametrize(
    ("address", "gateway"),
    [(NODE_PORT, "istio-ingressgateway"), (HOST_PORT, "edge"), (EXTERNAL_IP, "fixed")],
)
def test_a_gateway_sees_the_client_address(cluster: Cluster, address: str, gateway: str) -> None:
    logs = ("logs", "-n", "istio-system", "-l", f"app={gateway}", "--tail=50")

    def answer() -> Any:
        # A gateway has its listener shortly after the cluster has the Gateway.
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{address}/{gateway}", timeout=60) as response,
        ):
            return json.load(response)
        return None

    def logged() -> list[str]:
        return [line for line in cluster.kubectl(*logs).splitlines() if f'"/{gateway}"' in line]

    assert wait_for("an answer", answer, seconds=180)["version"] == "v1"
    line = wait_for("the request in the access log", logged, seconds=180)[-1]
    assert json.loads(line)["downstream_remote_address"].rpartition(":")[0] == CLIENT


def test_no_service_needs_a_load_balancer(cluster: Cluster) -> None:
    services = cluster.items("services", "-n", "istio-system")
    assert {item["spec"]["type"] for item in services} == {"ClusterIP", "NodePort"}


def test_certificates_have_the_configured_lifetime(cluster: Cluster) -> None:
    table = cluster.istioctl("proxy-config", "secret", "deploy/pay", "--namespace", "shop")
    (row,) = (line.split() for line in table.splitlines() if line.startswith("default"))
    end, start = (datetime.fromisoformat(text.replace("Z", "+00:00")) for text in row[-2:])
    # istiod backdates certificates by two minutes to allow for clock skew.
    assert end - start == timedelta(hours=1, minutes=2)


@contextmanager
def server_outside() -> Iterator[str]:
    """Serve on this machine, which is not in the mesh; yield the URL."""
    echo = str(paths.cache().bin / "demo" / "echo")
    server = subprocess.Popen([echo, "serve", "--addr", f"{CLIENT}:18080"])
    try:
        yield f"http://{CLIENT}:18080/"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.long
def test_the_outbound_gate_waits_for_callers_of_hosts_that_are_not_listed(
    project: Project, cluster: Cluster
) -> None:
    def called(url: str, *options: str) -> Any:
        return cluster.call("shop", url, "--timeout", "5s", *options)

    steadily = ("--duration", "10s", "--rate", "20", "--concurrency", "2")
    with project.config() as config:
        config["nordmesh:mesh"]["egress"] = {"gate": {"window": "10s"}}
    configure(project, outboundTrafficPolicy="REGISTRY_ONLY")
    with server_outside() as url:
        with repeated(partial(called, url, *steadily)) as tallies:
            refused = " ".join(project.up(ok=False).text.split())
        text = project.up().text
        wait_for("calls are refused", lambda: called(url, "--count", "5")["ok"] == 0, seconds=60)
    requests, failed = (sum(tally[key] for tally in tallies) for key in ("requests", "failed"))
    assert "[gate-outbound]" in refused
    seen = re.search(rf"shop/client: (\d+) calls, to {CLIENT}:18080", refused)
    assert seen, refused
    print(f"{seen[1]} calls in the window, {requests} requests in all, {failed} failed")
    assert int(seen[1]) >= 2  # the open connections of the client
    assert failed == 0
    assert "outbound gate: no call" in text, text


def test_invalid_istio_values_change_nothing(project: Project, cluster: Cluster) -> None:
    before = project.stack_file.read_text()
    # A key of a key: a preview knows the settings themselves.
    configure(project, overlay={"meshConfig": {"localityLbSetting": {"failOver": []}}})
    output = " ".join(project.up(ok=False).text.split())
    project.stack_file.write_text(before)
    assert "[istio-values-invalid]" in output
    assert "failOver" in output
    assert "Traceback" not in output
    assert proxies_on(cluster, "1-16-5")[0] > 5


def test_a_failed_install_keeps_the_old_revision_serving(
    project: Project, cluster: Cluster
) -> None:
    before = project.stack_file.read_text()
    load = Load(NODE_PORT)
    with load.running():
        absurd = {"requests": {"cpu": "1000", "memory": "256Mi"}}
        configure(project, pilot=absurd, readinessTimeout="20s")
        output = project.up(ok=False).text
        moved, proxies = proxies_on(cluster, "1-16-5")
        project.stack_file.write_text(before)
        configure(project, http10=True)  # for the next test
        project.up()
    assert "istioctl install failed" in output
    assert "Insufficient cpu" in output
    assert moved == proxies
    print(f"{load.requests} requests while the install failed and was set right")
    assert not load.failed


def of_http_1_0(project: Project, cluster: Cluster) -> list[str]:
    """The statuses of requests of HTTP/1.0: at a gateway, and at the sidecar of a pod."""
    address, port = NODE_PORT.split(":")
    pods = cluster.items(
        "pods", "-n", "shop", "-l", "app=pay", "--field-selector=status.phase=Running"
    )
    command = http10.command((pods[0]["status"]["podIP"], 8080), "Host: pay")
    return [
        http10.status((address, int(port)), "Host: pay"),
        http10.status_of(project.ssh(WORKER, command)),
    ]


def test_running_proxies_accept_http_1_0(project: Project, cluster: Cluster) -> None:
    """The edit of the test before restarted istiod, and no proxy."""
    switched = cluster.items("pods", "-n", "istio-system", "-l", "app=istiod")[-1]
    started = switched["status"]["startTime"]
    proxies = [
        *cluster.items("pods", "-n", "shop", "-l", "app=pay"),
        *cluster.items("pods", "-n", "istio-system", "-l", "istio=ingressgateway"),
    ]
    assert all(pod["status"]["startTime"] < started for pod in proxies)
    wait_for("200", lambda: of_http_1_0(project, cluster) == ["200", "200"], seconds=60)


# Signals the proxies of one Deployment, whose command lines do not name it.
SIGNAL = """for pid in $(pgrep -x envoy); do
    if tr '\\0' '\\n' <"/proc/$pid/environ" | grep -q '^POD_NAME=pay-'; then kill -{} "$pid"; fi
done"""


def test_mesh_health_warnings_name_the_setting_to_raise(project: Project, cluster: Cluster) -> None:
    """With a twentieth of a core for istiod, and proxies that do not respond.

    A stopped proxy receives no configuration: it is STALE until istiod closes its connection, which
    may be before or after the check.
    """
    before = project.stack_file.read_text()
    project.ssh(WORKER, SIGNAL.format("STOP"))
    try:
        cluster.kubectl("-n", "shop", "create", "service", "clusterip", "news", "--tcp=80")
        wait_for("it is sent", lambda: "STALE" in cluster.istioctl("proxy-status"), seconds=180)
        with project.config() as config:
            config["nordmesh:mesh"]["namespaces"]["another"] = {}
        stale = " ".join(project.up().text.split())
        configure(project, pilot=PILOT | {"limits": {"cpu": "50m", "memory": "1Gi"}})
        starved = " ".join(project.up().text.split())
    finally:
        project.ssh(WORKER, SIGNAL.format("CONT"))
        cluster.kubectl("-n", "shop", "delete", "service", "news", "--ignore-not-found")
    project.stack_file.write_text(before)
    fixed = project.up().text
    pods = r"pay-\S+ pay-\S+"
    unconnected = rf"these proxies have no connection to istiod.*?: {pods}; see the logs"
    stale_or_gone = (
        rf"(?:these proxies are STALE because they or istiod lack resources: {pods}; "
        rf"|{unconnected})"
    )
    for output, warning in (
        (stale, stale_or_gone),
        (starved, unconnected),
        (starved, r"istiod-\S+ is held back by its CPU limit \d+% of the time: "
                  r"raise istio\.pilot\.limits"),
    ):  # fmt: skip
        matches = re.search(rf"warning: cp-1: {warning}", output)
        assert matches, output
        print(matches[0])
    assert "STALE" not in fixed
    assert "held back" not in fixed
    assert "no connection to istiod" not in fixed


def test_a_killed_upgrade_continues_and_fails_no_request(
    project: Project, cluster: Cluster
) -> None:
    load, slow = Load(NODE_PORT), Load(f"{NODE_PORT}/patient", *SLOWLY)
    with load.running(), slow.running():
        configure(project, version="1.18.1", allowUnsupported="the lab shows an upgrade with it")
        configure(project, http10=None)
        process = project.start_up()
        kill_in_the_middle(project, process, "rollout status Deployment/", 1.0)
        halfway = revisions(cluster)
        project.pulumi("cancel", "--yes")
        project.up()
    statuses = of_http_1_0(project, cluster)
    cluster.kubectl("-n", "shop", "delete", "peerauthentication", "pay")
    assert halfway == {"1-16-5", "1-18-1"}
    assert revisions(cluster) == {"1-18-1"}
    on_new, proxies = proxies_on(cluster, "1-18-1")
    assert on_new == proxies > 5
    print(f"upgrade: {load.requests} requests, {load.failed} with failures")
    print(f"upgrade: {slow.requests} requests of 15 s, {slow.failed} with failures")
    assert load.requests > 1000
    assert slow.requests > 50
    assert not load.failed
    assert not slow.failed
    assert statuses == ["426", "426"]


def test_reverting_the_edit_rolls_back(project: Project, cluster: Cluster) -> None:
    """It stops at a foreign namespace that uses the tag, which keeps its traffic."""
    cluster.kubectl("create", "namespace", "theirs")
    cluster.kubectl("label", "namespace", "theirs", "istio-injection=enabled")
    image = ("--image=docker.io/nordmesh/echo:1.1.0", "--port=8080")
    cluster.kubectl("-n", "theirs", "create", "deployment", "app", *image, "--", "/echo", "serve")
    wait = ("rollout", "status", "deployment/app", "--timeout=300s")
    cluster.kubectl("-n", "theirs", *wait, seconds=310)
    load = Load(NODE_PORT)
    with load.running():
        configure(project, version="1.16.5", allowUnsupported=None)
        stopped = " ".join(project.up(ok=False).text.split())
        assert revisions(cluster) == {"1-16-5", "1-18-1"}
        cluster.kubectl("-n", "theirs", "rollout", "restart", "deployment/app")
        cluster.kubectl("-n", "theirs", *wait, seconds=310)
        project.up()
    assert "[proxies-outdated]" in stopped
    assert "theirs Deployment/app" in stopped
    assert "has one replica" in stopped  # of the demo
    assert revisions(cluster) == {"1-16-5"}
    on_old, proxies = proxies_on(cluster, "1-16-5")
    assert on_old == proxies > 5
    print(f"rollback: {load.requests} requests, {load.failed} with failures")
    assert not load.failed
    project.up("--expect-no-changes")
    cluster.kubectl("delete", "namespace", "theirs", seconds=180)


def test_removing_istio_keeps_only_foreign_resources(project: Project, cluster: Cluster) -> None:
    with project.config() as config:
        for section in ("nordmesh:istio", "nordmesh:demo"):
            del config[section]
        config["nordmesh:mesh"] = {"namespaces": {"shop": {"injection": False}}}
    output = project.up().text
    webhooks = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
    assert cluster.items(webhooks) == []
    phases = {item["metadata"]["name"]: item["status"]["phase"] for item in cluster.items("ns")}
    assert "istio-system" not in phases
    assert set(phases.values()) == {"Active"}
    kinds = [item["metadata"]["name"] for item in cluster.items("customresourcedefinitions")]
    # The team of `pay` still has objects of these kinds.
    theirs = ["gateways.networking.istio.io", "virtualservices.networking.istio.io"]
    assert sorted(kind for kind in kinds if "istio.io" in kind) == theirs
    for kind in theirs:
        assert f"keep {kind}: it still has objects" in output
    maps = cluster.items("configmaps", "--all-namespaces")
    assert not [item for item in maps if "istio" in item["metadata"]["name"]]
    # A new pod has no sidecar, and no webhook rejects it.
    cluster.kubectl("-n", "shop", "rollout", "restart", "deployment/pay")
    wait = ("rollout", "status", "deployment/pay", "--timeout=300s")
    cluster.kubectl("-n", "shop", *wait, seconds=310)
    project.up("--expect-no-changes")
