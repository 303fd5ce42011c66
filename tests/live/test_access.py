"""Authorization, Sidecar resources and proxy resources, tested with counted requests."""

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

# Enough requests that the canary, with a tenth of the traffic, answers some of them.
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
    """Allow only the client to call checkout; return the number of its clusters before."""

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
    """Wait until all requests get this status, at the latest after old connections are drained.

    A connection keeps the policy that it was opened with for Envoy's drain time, at most 45 s; the
    rest is for a busy machine.
    """
    deadline = time.monotonic() + 180
    url = f"{service}{path}"
    while (result := statuses(cluster, namespace, url, *options)) != {status: REQUESTS}:
        assert time.monotonic() < deadline, result
        time.sleep(0.5)


def clusters(cluster: Cluster) -> int:
    """Count the upstream clusters of the proxy of the demo client."""
    listed = cluster.istioctl("proxy-config", "clusters", "deploy/client.shop", "-o", "short")
    return len(listed.splitlines()) - 1


@pytest.mark.usefixtures("limited")
def test_a_declared_caller_is_allowed_and_others_get_403(cluster: Cluster) -> None:
    expect(cluster, "shop", "/", "200")
    expect(cluster, STRANGER, "/", "403")


@pytest.mark.usefixtures("limited")
def test_paths_and_methods_are_limited(cluster: Cluster) -> None:
    expect(cluster, "shop", "/cart/7", "200")
    expect(cluster, "shop", "/admin", "403")
    expect(cluster, "shop", "/", "403", ("--method", "POST"))


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/cart/..%2fadmin", "403"),
        ("/cart/..%2Fadmin", "403"),
        ("/cart/..%5cadmin", "403"),
        ("/cart/%2e%2e/admin", "403"),
        # What the service gets: /cart/admin.
        ("/cart//../admin", "200"),
        ("//admin", "403"),
        ("//cart/7", "200"),
        ("/cart%2f7", "200"),
    ],
)
def test_paths_are_normalized_before_they_are_compared(
    cluster: Cluster, path: str, status: str
) -> None:
    """A service that decodes would read the first ones as /admin; it gets the normalized path."""
    expect(cluster, "shop", path, status)


def test_a_limited_view_reduces_the_clusters_of_a_proxy(cluster: Cluster, limited: int) -> None:
    after = clusters(cluster)
    print(f"the client's proxy knew {limited} clusters, and {after} with a limited view")
    assert after <= limited - len(OTHERS)
    listed = cluster.istioctl("proxy-config", "clusters", "deploy/client.shop", "-o", "short")
    assert f".{STRANGER}." not in listed
    assert "checkout.shop.svc.cluster.local" in listed


@pytest.mark.usefixtures("limited")
def test_an_empty_list_of_callers_denies_all_and_can_be_reverted(
    project: Project, cluster: Cluster
) -> None:
    result = bring_up(project, callers())
    assert "~ 1 updated" in result
    expect(cluster, "shop", "/", "403")
    bring_up(project, callers(CLIENT))
    expect(cluster, "shop", "/", "200")


@pytest.fixture
def vault(project: Project, cluster: Cluster) -> Iterator[None]:
    """Deploy a Service whose pods have labels other than `app`, and delete it at the end."""
    before = project.stack_file.read_text()
    deployment = echo.echo_deployment("vault", "v1", namespace="shop", image=catalogue.ECHO_IMAGE)
    deployment["spec"]["selector"]["matchLabels"] = VAULT_LABELS
    deployment["spec"]["template"]["metadata"]["labels"] = {**VAULT_LABELS, "version": "v1"}
    service = echo.echo_service("vault", Service.model_validate(CLOSED))
    service["spec"]["selector"] = VAULT_LABELS
    apply(cluster, [deployment, service])
    metadata = ("-n", "shop", "deployment/vault-v1")
    cluster.kubectl("rollout", "status", *metadata, "--timeout=300s", seconds=310)
    yield
    project.stack_file.write_text(before)
    project.up()
    cluster.kubectl("-n", "shop", "delete", "--wait=false", "deployment/vault-v1", "service/vault")


@pytest.mark.usefixtures("vault")
def test_callers_apply_to_the_pods_of_the_service(project: Project, cluster: Cluster) -> None:
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


def test_callers_of_a_service_without_pods_are_refused(project: Project, cluster: Cluster) -> None:
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


def test_proxy_resources_of_a_workload_are_applied(project: Project, cluster: Cluster) -> None:
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
    """Return the sidecar of the newest pod of a Deployment, after its rollout."""
    deployment = ("-n", "shop", f"deploy/{app}-{version}")
    cluster.kubectl("rollout", "status", *deployment, "--timeout=300s", seconds=310)
    pods = cluster.items("pods", "--namespace=shop", f"--selector=app={app},version={version}")
    newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    (proxy,) = (c for c in newest["spec"]["containers"] if c["name"] == "istio-proxy")
    return dict(proxy)
