"""Labels and taints of nodes decide where pods run; an edit restarts no kubelet."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from components.manifests import Manifest, echo
from config import catalogue
from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.live.harness import Project
from tests.support.applied import apply

Values = dict[str, Any]
NODES = {"worker-1": "10.67.0.21", "worker-2": "10.67.0.22"}
WORKER_2 = {"role": "worker", "provider": "container", "address": NODES["worker-2"]}
TAINT = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
UNTOUCHED = {"by-hand": "yes"}


@pytest.fixture
def pooled(project: Project) -> Iterator[None]:
    """A second worker; it joins with a label of its pool and a taint."""
    before = project.stack_file.read_text()
    try:
        write(project, before, {"worker-1": "silver", "worker-2": "gold"}, tainted="worker-2")
        project.up()
        yield
    finally:
        project.stack_file.write_text(before)
        project.up()


def write(project: Project, before: str, tiers: dict[str, str], *, tainted: str | None) -> None:
    """Write the stack file with a pool for each tier, and a taint on one node."""
    project.stack_file.write_text(before)
    with project.config() as config:
        machines = config["nordmesh:machines"]
        machines["pools"] = {
            tier: {"labels": {"tier": tier}, "region": "oslo"} for tier in tiers.values()
        }
        machines["nodes"]["worker-2"] = dict(WORKER_2)
        for name, tier in tiers.items():
            machines["nodes"][name]["pool"] = tier
        if tainted is not None:
            machines["nodes"][tainted]["taints"] = [TAINT]


def pod(name: str, *, selector: dict[str, str], tolerates: bool = False) -> Manifest:
    """A Deployment of one pod with a node selector, outside the mesh."""
    deployment = echo.client_deployment("plain", image=catalogue.ECHO_IMAGE)
    deployment["metadata"]["name"] = name
    deployment["spec"]["selector"]["matchLabels"] = {"app": name}
    template = deployment["spec"]["template"]
    template["metadata"]["labels"] = {"app": name}
    template["spec"] |= {"nodeSelector": selector, "serviceAccountName": "default"}
    if tolerates:
        template["spec"]["tolerations"] = [{"key": TAINT["key"], "operator": "Exists"}]
    return deployment


def node_of(cluster: Cluster, app: str) -> str | None:
    """The node of a pod; None while it has none."""
    pods = cluster.items("pods", "-n", "plain", "--selector", f"app={app}")
    running = [item for item in pods if "deletionTimestamp" not in item["metadata"]]
    return running[0]["spec"].get("nodeName") if len(running) == 1 else None


def starts_on(cluster: Cluster, app: str, node: str) -> None:
    wait_for(f"{app} is on {node}", lambda: node_of(cluster, app) == node, seconds=60)


def restart(cluster: Cluster, app: str) -> None:
    cluster.kubectl("-n", "plain", "delete", "pod", "--selector", f"app={app}", "--wait=true")


def labels(cluster: Cluster, name: str) -> dict[str, str]:
    (node,) = (item for item in cluster.items("nodes") if item["metadata"]["name"] == name)
    found: dict[str, str] = node["metadata"]["labels"]
    return found


def kubelets(project: Project) -> dict[str, str]:
    show = "systemctl show kubelet --property MainPID,ActiveEnterTimestampMonotonic"
    return {name: project.ssh(address, show) for name, address in NODES.items()}


def taints(cluster: Cluster, name: str) -> list[str]:
    (node,) = (item for item in cluster.items("nodes") if item["metadata"]["name"] == name)
    return [f"{taint['key']}:{taint['effect']}" for taint in node["spec"].get("taints", [])]


def test_pods_follow_labels_and_taints(project: Project, cluster: Cluster, pooled: None) -> None:
    del pooled
    # The API server keeps the taint of a node that is not ready for a moment longer.
    wait_for(
        "worker-2 has its taint alone",
        lambda: taints(cluster, "worker-2") == ["dedicated:NoSchedule"],
        seconds=30,
    )
    assert labels(cluster, "worker-2")["topology.kubernetes.io/region"] == "oslo"
    gold, free = {"tier": "gold"}, {"kubernetes.io/os": "linux"}
    cluster.kubectl("label", "node", "worker-2", "by-hand=yes")
    cluster.kubectl("create", "namespace", "plain")
    try:
        apply(
            cluster,
            [pod("tolerant", selector=gold, tolerates=True), pod("shy", selector=gold),
             pod("free", selector=free)],
        )  # fmt: skip
        starts_on(cluster, "tolerant", "worker-2")
        starts_on(cluster, "free", "worker-1")
        assert node_of(cluster, "shy") is None
        before, running = kubelets(project), node_of(cluster, "tolerant")

        # The pools and the taint move to the other node.
        with project.config() as config:
            nodes = config["nordmesh:machines"]["nodes"]
            nodes["worker-1"]["pool"], nodes["worker-2"]["pool"] = "gold", "silver"
            nodes["worker-1"]["taints"] = nodes["worker-2"].pop("taints")
        edited = project.up().text
        assert re.search(r"Resources:\n\s+~ 2 updated\n\s+\d+ unchanged\n", edited), edited
        assert kubelets(project) == before
        assert node_of(cluster, "tolerant") == running  # a running pod stays
        assert taints(cluster, "worker-2") == []
        assert labels(cluster, "worker-2").items() >= {**UNTOUCHED, "tier": "silver"}.items()
        restart(cluster, "tolerant")
        restart(cluster, "free")
        starts_on(cluster, "tolerant", "worker-1")
        starts_on(cluster, "free", "worker-2")
        assert node_of(cluster, "shy") is None
        project.up("--expect-no-changes")
    finally:
        cluster.kubectl("delete", "namespace", "plain")
        cluster.kubectl("label", "node", "worker-2", "by-hand-")
