"""Nodes that reboot, one after the other: everything is as before, without a `pulumi up`."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from lab.errors import LabError
from lab.screen import Cluster
from tests.live.counted import assert_share, wait_for
from tests.live.harness import Project
from tests.live.power import reboot
from tests.live.test_hosts import KUBELET, answers
from tests.live.test_mesh import CHECKOUT
from tests.live.test_nodes import nodes

pytestmark = pytest.mark.long

REQUESTS = 2000


def assert_as_configured(cluster: Cluster) -> None:
    """The canary has its share, no request fails, and plaintext is refused."""
    tally = cluster.call("shop", CHECKOUT, "--count", str(REQUESTS), "--concurrency", "8")
    assert tally["failed"] == 0, tally
    assert_share(tally["versions"]["v2"], REQUESTS, 10)
    assert cluster.call("outside", CHECKOUT, "--count", "5")["ok"] == 0


def resolves(cluster: Cluster) -> bool:
    """Whether each of ten connections is made; every one of them looks up the name."""
    tally = cluster.call("shop", CHECKOUT, "--count", "10", "--fresh")
    return bool(tally["failed"] == 0)


def is_back(cluster: Cluster, node: str, since: datetime) -> bool:
    """Whether a node is Ready, and each container of its pods has started since a time."""
    try:
        selector = f"spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed"
        pods = cluster.items("pods", "-A", f"--field-selector={selector}")
        is_ready = nodes(cluster)[node] == "True"
    except LabError:  # the API server starts, too
        return False
    return is_ready and all(has_started(pod, since) for pod in pods)


def has_started(pod: dict[str, Any], since: datetime) -> bool:
    containers: list[dict[str, Any]] = pod["status"].get("containerStatuses", [])
    starts = [entry["state"]["running"]["startedAt"] for entry in containers if entry["ready"]]
    count = len(pod["spec"]["containers"])
    return len(starts) == count and all(datetime.fromisoformat(text) >= since for text in starts)


@pytest.mark.parametrize("node", ["worker-1", "cp-1"])
def test_a_node_that_reboots_is_as_before(project: Project, cluster: Cluster, node: str) -> None:
    assert_as_configured(cluster)
    started, since = time.monotonic(), datetime.now(UTC).replace(microsecond=0)
    reboot(project, node)
    off = time.monotonic() - started
    wait_for(f"{node} is back", lambda: is_back(cluster, node, since), seconds=300)
    pods = time.monotonic() - started
    # kube-proxy of the other nodes sends lookups of names to a replica of CoreDNS that has gone,
    # until it is connected to the API server again.
    wait_for("names are resolved", lambda: resolves(cluster), seconds=60)
    names = time.monotonic() - started
    print(f"{node}: sshd after {off:.0f} s, all pods after {pods:.0f} s, names after {names:.0f} s")
    assert_as_configured(cluster)
    # The firewall came back, too.
    assert not answers(project.machine_addresses()[node], KUBELET)
    project.up("--expect-no-changes")
