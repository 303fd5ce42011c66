"""The gates on a real mesh: what they block, report and allow."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.manifests import echo
from config import catalogue
from lab.screen import Cluster
from tests.live.harness import Project
from tests.support.applied import apply

CHECKOUT = "http://checkout.shop.svc.cluster.local:8080/"
LEDGER = "http://ledger.shop.svc.cluster.local:9090"
GRPC = ["--grpc-addr", ":9090"]
GATE = {"minSuccessRate": 95, "maxP99": "2s", "minRequests": 20, "window": "15s"}


@pytest.fixture(autouse=True)
def restore(project: Project) -> Iterator[None]:
    """Restore the stack file and the stack at the end."""
    before = project.stack_file.read_text()
    yield
    project.stack_file.write_text(before)
    mesh_up(project)


def edit_mesh(project: Project, **changes: Any) -> None:
    """Change values of the section mesh by path, with `__` for dots."""
    with project.config() as config:
        for path, value in changes.items():
            section = config["nordmesh:mesh"]
            *keys, last = path.split("__")
            for key in keys:
                section = section.setdefault(key, {})
            section[last] = value


def mesh_up(project: Project, *, ok: bool = True) -> str:
    text = project.up(ok=ok).text
    print(text)
    assert "Traceback" not in text
    assert "PRIVATE KEY" not in text
    assert "client-key-data" not in text
    return text


@contextmanager
def calling(
    cluster: Cluster, namespace: str, *arguments: str, url: str = CHECKOUT
) -> Iterator[Future[dict[str, Any]]]:
    """Send requests in the background; the first is answered when the block starts."""
    with ThreadPoolExecutor() as threads:
        tally = threads.submit(cluster.call, namespace, url, *arguments)
        time.sleep(3)
        yield tally


def mode(cluster: Cluster) -> str:
    (policy,) = cluster.items("peerauthentication", "--namespace=shop")
    value: str = policy["spec"]["mtls"]["mode"]
    return value


def weight(cluster: Cluster, service: str = "checkout") -> int:
    routes = cluster.items("virtualservice", "--namespace=shop")
    (route,) = (route for route in routes if route["metadata"]["name"] == service)
    (rule,) = route["spec"]["http"]
    shares = {
        destination["destination"]["subset"]: destination.get("weight", 0)
        for destination in rule["route"]
    }
    return int(shares["v2"])


def abort(project: Project) -> str:
    """Run `nordmesh canary abort`; return its output."""
    command = [sys.executable, "-m", "cli", "canary", "abort", "checkout"]
    result = subprocess.run(
        [*command, "--stack", project.stack],
        cwd=project.directory,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout
    return result.stdout


def answer_with(cluster: Cluster, *arguments: str, service: str = "checkout") -> None:
    """Restart v2 with other arguments, and wait until the old pods are gone."""
    args = ["serve", "--addr", ":8080", *arguments]
    patch = yaml.safe_dump(
        {"spec": {"template": {"spec": {"containers": [{"name": "echo", "args": args}]}}}}
    )
    v2 = f"deployment/{service}-v2"
    cluster.kubectl("patch", v2, "--namespace=shop", "--patch", patch)
    cluster.kubectl("rollout", "status", v2, "--namespace=shop", "--timeout=300s", seconds=310)


def test_the_strict_gate_names_the_plaintext_client(project: Project, cluster: Cluster) -> None:
    edit_mesh(project, namespaces__shop__mtls="PERMISSIVE", mtlsGate__window="10s")
    mesh_up(project)
    edit_mesh(project, namespaces__shop__mtls="STRICT")

    with calling(cluster, "outside", "--duration", "25s", "--rate", "5", "--fresh") as tally:
        text = " ".join(mesh_up(project, ok=False).split())
        assert tally.result()["failed"] == 0
    assert "mesh.namespaces.shop.mtls [gate-plaintext]" in text
    assert re.search(r"shop/checkout-v1: \d+ connections to port 8080, from outside/client", text)
    assert "nordmesh:mesh.mtlsGate.override" in text
    assert mode(cluster) == "PERMISSIVE"

    text = mesh_up(project)
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", text)
    assert mode(cluster) == "STRICT"
    assert cluster.call("outside", CHECKOUT, "--count", "3")["ok"] == 0


def test_the_canary_gate_blocks_only_a_failing_v2(project: Project, cluster: Cluster) -> None:
    edit_mesh(project, services__checkout__canary__gate=GATE)
    mesh_up(project)
    steady = ("--duration", "40s", "--rate", "40", "--concurrency", "4")

    answer_with(cluster, "--status-rate", "503=0.5")
    edit_mesh(project, services__checkout__canary__weight=50)
    with calling(cluster, "shop", *steady):
        text = " ".join(mesh_up(project, ok=False).split())
    assert re.search(r"the canary v2 of shop/checkout had \d+ requests", text)
    assert "failed: gate.minSuccessRate is 95%" in text
    assert weight(cluster) == 10

    answer_with(cluster)
    with calling(cluster, "shop", *steady) as tally:
        text = mesh_up(project)
        assert tally.result()["failed"] == 0
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", text)
    assert weight(cluster) == 50

    text = abort(project)
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", text)
    assert "canary gate" not in text
    assert weight(cluster) == 0
    assert "weight: 0\n" in project.stack_file.read_text()


def test_the_strict_gate_names_pods_without_a_sidecar(project: Project, cluster: Cluster) -> None:
    edit_mesh(project, namespaces__shop__mtls="PERMISSIVE", mtlsGate__window="10s")
    mesh_up(project)
    pod = echo.echo_deployment("bare", "v1", namespace="shop", image=catalogue.ECHO_IMAGE)
    pod["spec"]["template"]["spec"] |= {"hostNetwork": True}
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    container["args"] = ["serve", "--addr", ":18080"]
    del container["ports"], container["readinessProbe"]
    apply(cluster, [pod])
    try:
        cluster.kubectl(
            "rollout", "status", "deployment/bare-v1", "--namespace=shop", "--timeout=300s",
            seconds=310,
        )  # fmt: skip
        edit_mesh(project, namespaces__shop__mtls="STRICT")
        text = " ".join(mesh_up(project, ok=False).split())
        assert "[gate-pods-without-sidecar]" in text
        assert "shop/bare-v1 have no sidecar (shop/bare-v1: hostNetwork)" in text
        assert mode(cluster) == "PERMISSIVE"
    finally:
        cluster.kubectl("delete", "deployment/bare-v1", "--namespace=shop", seconds=180)
    mesh_up(project)
    assert mode(cluster) == "STRICT"


def test_the_strict_gate_names_a_webhook_in_the_mesh(project: Project, cluster: Cluster) -> None:
    edit_mesh(project, namespaces__shop__mtls="PERMISSIVE", mtlsGate__window="10s")
    mesh_up(project)
    webhook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "guard.example.com"},
        "webhooks": [
            {
                "name": "guard.example.com",
                "clientConfig": {
                    "service": {"namespace": "shop", "name": "checkout", "port": 8080}
                },
                "rules": [
                    {
                        "apiGroups": ["guard.example.com"],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["nothing"],
                    }
                ],
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Ignore",
            }
        ],
    }
    apply(cluster, [webhook])
    try:
        edit_mesh(project, namespaces__shop__mtls="STRICT")
        text = " ".join(mesh_up(project, ok=False).split())
        assert "[gate-api-server-calls]" in text
        assert "the API server calls port 8080 of shop/checkout-" in text
        assert "ValidatingWebhookConfiguration guard.example.com" in text
        assert mode(cluster) == "PERMISSIVE"
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", "guard.example.com")


def test_a_version_without_ready_pods_gets_no_requests(project: Project, cluster: Cluster) -> None:
    scale = ("scale", "deployment/checkout-v2", "--namespace=shop")
    cluster.kubectl(*scale, "--replicas=0")
    try:
        deadline = time.monotonic() + 180
        while any(
            pod["metadata"]["labels"].get("version") == "v2"
            for pod in cluster.items("pods", "--namespace=shop", "--selector=app=checkout")
        ):
            assert time.monotonic() < deadline
            time.sleep(1)
        edit_mesh(project, services__checkout__canary__weight=50)
        text = " ".join(mesh_up(project, ok=False).split())
        assert "mesh.services.checkout.canary [gate-canary-without-pods]" in text
        assert "app=checkout,version=v2; its ready pods have v1" in text
        assert weight(cluster) == 10
    finally:
        cluster.kubectl(*scale, "--replicas=1")
    answer_with(cluster)
    mesh_up(project)
    assert weight(cluster) == 50


@pytest.fixture
def ledger(cluster: Cluster, tmp_path: Path) -> Iterator[None]:
    """A gRPC service in two versions."""
    ports = [{"name": "grpc-ledger", "port": 9090, "targetPort": 9090}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ledger", "namespace": "shop"},
        "spec": {"selector": {"app": "ledger"}, "ports": ports},
    }
    versions = [
        echo.echo_deployment("ledger", version, namespace="shop", image=catalogue.ECHO_IMAGE)
        for version in ("v1", "v2")
    ]
    for version in versions:
        (container,) = version["spec"]["template"]["spec"]["containers"]
        container["args"] += GRPC
    path = tmp_path / "ledger.yaml"
    path.write_text(yaml.safe_dump_all([service, *versions]))
    cluster.kubectl("apply", "--filename", str(path))
    try:
        for name in ("deployment/ledger-v1", "deployment/ledger-v2"):
            cluster.kubectl(
                "rollout", "status", name, "--namespace=shop", "--timeout=300s", seconds=310
            )
        yield
    finally:
        cluster.kubectl("delete", "--filename", str(path), "--wait=false")


@pytest.mark.usefixtures("ledger")
def test_the_canary_gate_counts_grpc_errors_in_responses_with_200(
    project: Project, cluster: Cluster
) -> None:
    canary = {"subset": "v2", "weight": 20, "gate": GATE}
    service = {"namespace": "shop", "port": 9090, "protocol": "grpc", "stable": "v1"}
    edit_mesh(project, services__ledger=service | {"canary": canary})
    mesh_up(project)
    steady = ("--grpc", "--duration", "40s", "--rate", "40", "--concurrency", "4")

    # INTERNAL, which proxies do not retry.
    answer_with(cluster, *GRPC, "--status-rate", "500=0.5", service="ledger")
    edit_mesh(project, services__ledger__canary__weight=50)
    with calling(cluster, "shop", *steady, url=LEDGER):
        text = " ".join(mesh_up(project, ok=False).split())
    assert re.search(r"the canary v2 of shop/ledger had \d+ requests.* gRPC INTERNAL", text)
    assert "failed: gate.minSuccessRate is 95%" in text
    assert weight(cluster, "ledger") == 20

    answer_with(cluster, *GRPC, service="ledger")
    with calling(cluster, "shop", *steady, url=LEDGER) as tally:
        text = mesh_up(project)
        assert tally.result()["statuses"] == {"OK": tally.result()["requests"]}
    assert re.search(r"~ 1 updated\n\s+\d+ unchanged", text)
    assert weight(cluster, "ledger") == 50
