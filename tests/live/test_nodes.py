"""Adding and removing a node changes nothing else."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from components.manifests import Manifest, echo
from config import Service, catalogue
from lab.screen import Cluster
from tests.live import bought
from tests.live.counted import wait_for
from tests.live.harness import Project
from tests.support.applied import apply

CP, WORKER_1, NEW, BOUGHT = "10.67.0.11", "10.67.0.21", "10.67.0.22", "10.67.0.23"
HOST = "kubernetes.io/hostname"
BUSY = "http://busy.shop.svc.cluster.local:8080/"
WORKER = {"role": "worker", "provider": "container", "address": NEW}


def nodes(cluster: Cluster) -> dict[str, str]:
    """Return the Ready condition of each node."""
    return {
        item["metadata"]["name"]: condition["status"]
        for item in cluster.items("nodes")
        for condition in item["status"]["conditions"]
        if condition["type"] == "Ready"
    }


def test_a_node_is_added_and_removed(project: Project, cluster: Cluster) -> None:
    before = project.stack_file.read_text()
    with project.config() as config:
        config["nordmesh:machines"]["nodes"]["worker-2"] = WORKER
    added = project.up().text
    assert nodes(cluster) == {"cp-1": "True", "worker-1": "True", "worker-2": "True"}
    assert re.search(r"\+ \d+ created\n\s+\d+ unchanged\n", added), added
    # All firewalls accept each other's traffic, without a change to the other nodes' resources.
    for here, target in ((WORKER_1, NEW), (NEW, WORKER_1), (CP, NEW)):
        assert "open" in project.ssh(
            here, f"timeout 10 bash -c '</dev/tcp/{target}/10250' && echo open"
        )
    assert NEW in project.ssh(WORKER_1, "nft list set inet nordmesh members")

    project.stack_file.write_text(before)
    removed = project.up().text
    assert nodes(cluster) == {"cp-1": "True", "worker-1": "True"}
    assert re.search(r"- \d+ deleted\n\s+\d+ unchanged\n", removed), removed
    keeps_out = "until ! nft list set inet nordmesh members | grep -qw {}; do sleep 0.5; done"
    project.ssh(WORKER_1, f"timeout 15 bash -c '{keeps_out.format(NEW)}'")
    assert not (project.state_directory / "machines" / "worker-2").exists()


def test_a_namespace_goes_once_an_entry_names_it(project: Project, cluster: Cluster) -> None:
    before = project.stack_file.read_text()

    def write(*, namespaces: list[str], allowed: list[str]) -> None:
        project.stack_file.write_text(before)
        reason = "nobody needs it after this test"
        with project.config() as config:
            machines, mesh = config["nordmesh:machines"], config["nordmesh:mesh"]
            machines["allowDataLoss"] = [{"namespace": n, "reason": reason} for n in allowed]
            mesh["namespaces"] |= {name: {} for name in namespaces}

    def existing() -> set[str]:
        return {item["metadata"]["name"] for item in cluster.items("namespaces")}

    try:
        write(namespaces=["spare"], allowed=[])
        project.up()
        write(namespaces=[], allowed=["spare"])
        project.fails("because it is protected")
        assert "spare" in existing()
        write(namespaces=["spare"], allowed=["spare"])
        # The refused update gave the rollout of Istio the namespaces before it stopped.
        again = project.up().text
        assert re.search(r"Resources:\n\s+~ 1 updated\n\s+\d+ unchanged\n", again), again
        assert "istio-rollout updated" in again
        write(namespaces=[], allowed=["spare"])
        project.up()
        assert "spare" not in existing()
    finally:
        project.stack_file.write_text(before)
        project.up()


def test_a_replaced_mesh_has_its_own_objects_again(project: Project, cluster: Cluster) -> None:
    modes = cluster.items("peerauthentications", "-n", "istio-system")
    state = json.loads(project.pulumi("stack", "export").text)
    urns = [str(resource["urn"]) for resource in state["deployment"]["resources"]]
    (mesh,) = (urn for urn in urns if urn.endswith("::istio-install"))
    project.up("--replace", mesh)
    again = cluster.items("peerauthentications", "-n", "istio-system")
    assert [item["spec"] for item in again] == [item["spec"] for item in modes]
    assert {item["metadata"]["uid"] for item in again}.isdisjoint(
        item["metadata"]["uid"] for item in modes
    )
    project.up("--expect-no-changes")
    # The new istiod has another CA: older sidecars trust no pod that starts from now on.
    cluster.kubectl("-n", "shop", "rollout", "restart", "deployment")
    for item in cluster.items("deployments", "-n", "shop"):
        name = f"deployment/{item['metadata']['name']}"
        cluster.kubectl("-n", "shop", "rollout", "status", name, seconds=180)


@pytest.fixture
def bought_worker(project: Project) -> Iterator[None]:
    """A bought machine as worker-3, in a stack that does not allow data loss."""
    with bought.joined(project, "worker-3", BOUGHT):
        yield


def busy_service() -> list[Manifest]:
    """A service of the mesh with a pod on each worker; its sidecars have scratch volumes."""
    service = Service(namespace="shop", port=8080, stable="v1")
    deployment = echo.echo_deployment("busy", "v1", namespace="shop", image=catalogue.ECHO_IMAGE)
    labels, spec = deployment["metadata"]["labels"], deployment["spec"]
    spec["replicas"] = 2
    pods = {"labelSelector": {"matchLabels": labels}}
    spread = {"maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule", **pods}
    spec["template"]["spec"]["topologySpreadConstraints"] = [spread]
    (container,) = spec["template"]["spec"]["containers"]
    container["args"] += ["--drain", "8s"]
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "busy", "namespace": "shop"},
        "spec": {"minAvailable": 1, "selector": pods["labelSelector"]},
    }
    return [deployment, echo.echo_service("busy", service), budget]


def test_a_busy_node_is_removed_without_allowing_data_loss(
    project: Project, cluster: Cluster, bought_worker: None
) -> None:
    del bought_worker
    objects = busy_service()
    apply(cluster, objects)

    def busy() -> bool:
        pods = cluster.items("pods", "-n", "shop", "-l", "app=busy")
        scratch = any("emptyDir" in volume for pod in pods for volume in pod["spec"]["volumes"])
        on = {pod["spec"].get("nodeName") for pod in pods}
        return scratch and on == {"worker-1", "worker-3"}

    wait_for("a pod of the service on both workers", busy, seconds=180)
    rollout = ("rollout", "status", "deployment/busy-v1", "--namespace=shop", "--timeout=180s")
    cluster.kubectl(*rollout, seconds=190)
    with project.config() as config:
        del config["nordmesh:machines"]["nodes"]["worker-3"]
    steady = ("--duration", "10s", "--rate", "50", "--concurrency", "4")
    tallies: list[dict[str, Any]] = []
    with ThreadPoolExecutor() as threads:
        removal = threads.submit(project.up)
        while not removal.done():
            tallies.append(cluster.call("shop", BUSY, *steady))
        removal.result()
    requests, failed = (sum(tally[key] for tally in tallies) for key in ("requests", "failed"))
    print(f"{requests} requests while the node was removed, {failed} failed")
    assert requests > 500
    assert failed == 0, tallies
    assert nodes(cluster) == {"cp-1": "True", "worker-1": "True"}
    assert project.ssh(BOUGHT, "ls -d /etc/kubernetes 2>/dev/null || echo reset") == "reset\n"
    for one in objects:
        cluster.kubectl("-n", "shop", "delete", one["kind"], one["metadata"]["name"])
