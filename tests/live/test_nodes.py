"""A node more, and a node less: nothing else is touched."""

import re

from lab.screen import Cluster
from tests.live.harness import Project

CP, WORKER_1, NEW = "10.67.0.11", "10.67.0.21", "10.67.0.22"
WORKER = {"role": "worker", "provider": "container", "address": NEW}


def nodes(cluster: Cluster) -> dict[str, str]:
    """Each node's condition Ready."""
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
    # The others' firewalls let it in, and it lets them in, without a change of their resources.
    for here, there in ((WORKER_1, NEW), (NEW, WORKER_1), (CP, NEW)):
        assert "open" in project.ssh(
            here, f"timeout 10 bash -c '</dev/tcp/{there}/10250' && echo open"
        )
    assert NEW in project.ssh(WORKER_1, "nft list set inet nordmesh members")

    project.stack_file.write_text(before)
    removed = project.up().text
    assert nodes(cluster) == {"cp-1": "True", "worker-1": "True"}
    assert re.search(r"- \d+ deleted\n\s+\d+ unchanged\n", removed), removed
    keeps_out = "until ! nft list set inet nordmesh members | grep -qw {}; do sleep 0.5; done"
    project.ssh(WORKER_1, f"timeout 15 bash -c '{keeps_out.format(NEW)}'")
    assert not (project.state_directory / "machines" / "worker-2").exists()
