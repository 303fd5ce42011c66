"""Access to services, the configuration of proxies and sidecar sizes, by counted requests."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from components.manifests import echo
from config import Service, catalogue
from lab.screen import Cluster
from tests.live.edited import STRANGER, add_client, bring_up, edited
from tests.live.harness import Project
from tests.support.applied import apply

# So many that the canary, which gets a tenth, is surely among those that answer.
REQUESTS = 60
CHECKOUT = "http://checkout.shop.svc.cluster.local:8080"
VAULT = "http://vault.shop.svc.cluster.local:8080"
VAULT_LABELS = {"app.kubernetes.io/name": "vault"}
CLOSED = {"namespace": "shop", "port": 8080, "stable": "v1", "callers": []}
OTHER = Service(namespace=STRANGER, port=8080, stable="v1")
OTHERS = [f"other-{number}" for number in range(40)]
CLIENT = {"serviceAccount": "shop/client", "methods": ["GET"], "paths": ["/", "/cart/*"]}


def callers(*entries: dict[str, Any]) -> Any:
    def edit(mesh: dict[str, Any]) -> None:
        mesh["services"]["checkout"]["callers"] = list(entries)

    return edit


@pytest.fixture(scope="module")
def limited(project: Project, cluster: Cluster) -> Iterator[int]:
    """The client alone may call checkout; how many clusters its proxy knew before."""

    def stranger(mesh: dict[str, Any]) -> None:
        mesh["namespaces"][STRANGER] = {"injection": True}

    def limit(mesh: dict[str, Any]) -> None:
        callers(CLIENT)(mesh)
        mesh["namespaces"]["shop"]["limitView"] = True

    with edited(project, stranger):
        add_client(cluster, STRANGER)
        apply(cluster, [echo.echo_service(name, OTHER) for name in OTHERS])
        expect(cluster, STRANGER, "/", "200")
        before = clusters(cluster)
        bring_up(project, limit)
        yield before


def statuses(cluster: Cluster, namespace: str, url: str, *options: str) -> dict[str, int]:
    how = ("--count", str(REQUESTS), "--concurrency", "2", *options)
    counted: dict[str, int] = cluster.call(namespace, url, *how)["statuses"]
    return counted


def expect(
    cluster: Cluster,
    namespace: str,
    path: str,
    status: str,
    options: Sequence[str] = (),
    service: str = CHECKOUT,
) -> None:
    """All requests are answered so, at the latest when the proxies have drained old connections.

    A connection keeps the policy that it was opened under for Envoy's drain time, 45 s at most.
    """
    deadline = time.monotonic() + 75
    url = f"{service}{path}"
    while (said := statuses(cluster, namespace, url, *options)) != {status: REQUESTS}:
        assert time.monotonic() < deadline, said
        time.sleep(0.5)


def clusters(cluster: Cluster) -> int:
    """How many upstream clusters the proxy of the demo's client knows."""
    listed = cluster.istioctl("proxy-config", "clusters", "deploy/client.shop", "-o", "short")
    return len(listed.splitlines()) - 1


@pytest.mark.usefixtures("limited")
def test_a_declared_caller_is_answered_and_any_other_gets_403(cluster: Cluster) -> None:
    expect(cluster, "shop", "/", "200")
    expect(cluster, STRANGER, "/", "403")


@pytest.mark.usefixtures("limited")
def test_paths_and_methods_are_limited(cluster: Cluster) -> None:
    expect(cluster, "shop", "/cart/7", "200")
    expect(cluster, "shop", "/admin", "403")
    expect(cluster, "shop", "/", "403", ("--method", "POST"))


def test_a_limited_view_cuts_what_a_proxy_knows(cluster: Cluster, limited: int) -> None:
    now = clusters(cluster)
    print(f"the client's proxy knew {limited} clusters, and {now} with a limited view")
    assert now <= limited - len(OTHERS)
    listed = cluster.istioctl("proxy-config", "clusters", "deploy/client.shop", "-o", "short")
    assert f".{STRANGER}." not in listed
    assert "checkout.shop.svc.cluster.local" in listed


@pytest.mark.usefixtures("limited")
def test_nobody_and_back(project: Project, cluster: Cluster) -> None:
    said = bring_up(project, callers())
    assert "~ 1 updated" in said
    expect(cluster, "shop", "/", "403")
    bring_up(project, callers(CLIENT))
    expect(cluster, "shop", "/", "200")


@pytest.fixture
def vault(project: Project, cluster: Cluster) -> Iterator[None]:
    """A Service whose pods have other labels than `app`; the stack is afterwards as before."""
    before = project.stack_file.read_text()
    deployment = echo.echo_deployment("vault", "v1", namespace="shop", image=catalogue.ECHO_IMAGE)
    deployment["spec"]["selector"]["matchLabels"] = VAULT_LABELS
    deployment["spec"]["template"]["metadata"]["labels"] = {**VAULT_LABELS, "version": "v1"}
    service = echo.echo_service("vault", Service.model_validate(CLOSED))
    service["spec"]["selector"] = VAULT_LABELS
    apply(cluster, [deployment, service])
    place = ("-n", "shop", "deployment/vault-v1")
    cluster.kubectl("rollout", "status", *place, "--timeout=120s", seconds=130)
    yield
    project.stack_file.write_text(before)
    project.up()
    cluster.kubectl("-n", "shop", "delete", "--wait=false", "deployment/vault-v1", "service/vault")


@pytest.mark.usefixtures("vault")
def test_callers_hold_for_the_pods_of_the_service(project: Project, cluster: Cluster) -> None:
    with project.config() as config:
        config["nordmesh:mesh"]["services"]["vault"] = CLOSED
    project.fails(
        "nordmesh:mesh.services.vault.callers [gate-no-pod-selected]",
        "write {app.kubernetes.io/name: vault} at nordmesh:mesh.services.vault.selector",
    )
    expect(cluster, "shop", "/", "200", service=VAULT)

    with project.config() as config:
        config["nordmesh:mesh"]["services"]["vault"] = {**CLOSED, "selector": VAULT_LABELS}
    project.up()
    expect(cluster, "shop", "/", "403", service=VAULT)
    project.up("--expect-no-changes")


def test_callers_of_no_pod_are_refused(project: Project, cluster: Cluster) -> None:
    before = project.stack_file.read_text()
    try:
        with project.config() as config:
            config["nordmesh:mesh"]["services"]["ghost"] = CLOSED
        project.fails(
            "mesh.services.ghost.callers [gate-no-pod-selected]", "deploy the Service and its pods"
        )
        policies = cluster.items("authorizationpolicies", "--namespace=shop")
        assert "ghost-callers" not in {policy["metadata"]["name"] for policy in policies}
    finally:
        project.stack_file.write_text(before)
        project.up()


def test_a_sidecar_of_another_size(project: Project, cluster: Cluster) -> None:
    def small(mesh: dict[str, Any]) -> None:
        sizes = {"requests": {"cpu": "50m", "memory": "64Mi"}, "concurrency": 1}
        mesh["workloads"] = {"checkout-v1": {"namespace": "shop", **sizes}}

    with edited(project, small):
        proxy = proxy_of(cluster, "checkout", "v1")
        assert proxy["resources"]["requests"] == {"cpu": "50m", "memory": "64Mi"}
        assert proxy["resources"]["limits"] == {"cpu": "2", "memory": "1Gi"}
        assert "--concurrency" in proxy["args"]
        project.up("--expect-no-changes")
    proxy = proxy_of(cluster, "checkout", "v1")
    assert proxy["resources"]["requests"] == {"cpu": "100m", "memory": "128Mi"}
    expect(cluster, "shop", "/", "200")


def proxy_of(cluster: Cluster, app: str, version: str) -> dict[str, Any]:
    """The sidecar of the newest pod of a Deployment, when that has been rolled out."""
    deployment = ("-n", "shop", f"deploy/{app}-{version}")
    cluster.kubectl("rollout", "status", *deployment, "--timeout=120s", seconds=130)
    pods = cluster.items("pods", "--namespace=shop", f"--selector=app={app},version={version}")
    newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    (proxy,) = (c for c in newest["spec"]["containers"] if c["name"] == "istio-proxy")
    return dict(proxy)
