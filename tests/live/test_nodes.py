"""A node more, and a node less: nothing else is touched."""

import re

from lab.screen import Cluster
from tests.live.harness import Project

WORKER = {"role": "worker", "provider": "container", "address": "10.67.0.22"}


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

    project.stack_file.write_text(before)
    removed = project.up().text
    assert nodes(cluster) == {"cp-1": "True", "worker-1": "True"}
    assert re.search(r"- \d+ deleted\n\s+\d+ unchanged\n", removed), removed
    assert not (project.state_directory / "machines" / "worker-2").exists()
