"""Local volumes: their data outlives a pod, and their node stays until an entry names them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from components.manifests import Manifest
from config import STORAGE_CLASS, catalogue
from lab.screen import Cluster
from tests.live import bought
from tests.live.counted import wait_for
from tests.live.harness import Project
from tests.support.applied import apply

NODE, ADDRESS = "worker-4", "10.67.0.24"
DIRECTORY = "/srv/volumes"
CLAIM = "data-db-0"
# The user of the pod is not root, and not the owner of the directory.
USER = 1000


@pytest.fixture(scope="module")
def storage(project: Project) -> Iterator[None]:
    """The storage class, and a bought machine as a worker, in a stack that allows no data loss."""
    before = project.stack_file.read_text()
    try:
        with project.config() as config:
            config["nordmesh:storage"] = {"local": {"path": DIRECTORY}}
        with bought.joined(project, NODE, ADDRESS):
            yield
    finally:
        project.stack_file.write_text(before)
        project.up()


def database() -> Manifest:
    """One pod on the node that adds a line to its volume at each start."""
    script = "echo started >>/data/log; exec sleep 86400"
    template: Manifest = {
        "metadata": {"labels": {"app": "db"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": NODE},
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": USER, "fsGroup": USER},
            "containers": [
                {
                    "name": "db",
                    "image": catalogue.LOCAL_STORAGE_IMAGE,
                    "command": ["/bin/sh", "-c", script],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
        },
    }
    claim = {
        "metadata": {"name": "data"},
        # Without a class: it gets the default one.
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": template,
            "volumeClaimTemplates": [claim],
        },
    }


def log(cluster: Cluster) -> list[str]:
    """Return the lines in the volume once the pod is ready."""
    cluster.kubectl("rollout", "status", "statefulset/db", "--timeout=180s", seconds=200)
    return cluster.kubectl("exec", "db-0", "--", "cat", "/data/log").split()


def volumes(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return the volumes of the class by name."""
    return {
        item["metadata"]["name"]: item
        for item in cluster.items("persistentvolumes")
        if item["spec"].get("storageClassName") == STORAGE_CLASS
    }


def directories(project: Project) -> list[str]:
    return project.ssh(ADDRESS, f"ls {DIRECTORY}").split()


@pytest.mark.usefixtures("storage")
def test_a_volume_keeps_its_data_and_its_node_until_an_entry_names_it(
    project: Project, cluster: Cluster
) -> None:
    apply(cluster, [database()])
    assert log(cluster) == ["started"]
    ((name, volume),) = volumes(cluster).items()
    assert volume["spec"]["local"]["path"].startswith(f"{DIRECTORY}/{name}_default_{CLAIM}")
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"

    cluster.kubectl("delete", "pod", "db-0")
    assert log(cluster) == ["started", "started"]
    assert list(volumes(cluster)) == [name]

    with_node = project.stack_file.read_text()
    with project.config() as config:
        del config["nordmesh:machines"]["nodes"][NODE]
    refused = project.fails(f"{NODE} has the data of the volumes {name} (default/{CLAIM})")
    assert "[local-volumes]" in refused
    assert log(cluster) == ["started", "started"]

    project.stack_file.write_text(with_node)
    with project.config() as config:
        config["nordmesh:machines"]["allowDataLoss"] = [
            {"volumes": NODE, "reason": "the data of this test"}
        ]
    project.up()
    with project.config() as config:
        del config["nordmesh:machines"]["nodes"][NODE]
    removed = project.up().text
    assert f"lost with {NODE}: {name} (default/{CLAIM})" in removed

    # The node returns with its old name and an empty disk: the pod must not start on it.
    project.ssh(ADDRESS, f"rm -rf {DIRECTORY}")
    project.stack_file.write_text(with_node)
    project.up()

    def refusals() -> list[str]:
        events = json.loads(cluster.kubectl("get", "events", "-o", "json"))["items"]
        return [event["message"] for event in events if event["reason"] == "FailedMount"]

    missing = wait_for("a refused mount", refusals, seconds=300)
    assert f"{DIRECTORY}/{name}" in missing[0]
    # As docs/storage.md says: the pod first, or it waits for the deleted claim for ever.
    cluster.kubectl("scale", "statefulset/db", "--replicas=0")
    cluster.kubectl("delete", "pvc", CLAIM)
    cluster.kubectl("scale", "statefulset/db", "--replicas=1")
    assert log(cluster) == ["started"]
    cluster.kubectl("delete", "statefulset", "db")
    cluster.kubectl("delete", "pvc", CLAIM)
    cluster.kubectl("delete", "pv", *volumes(cluster))


@pytest.mark.usefixtures("storage")
def test_a_volume_is_deleted_with_its_claim_if_the_stack_says_so(
    project: Project, cluster: Cluster
) -> None:
    """The edit replaces the class, which Kubernetes does not change."""
    before = project.stack_file.read_text()
    project.ssh(ADDRESS, f"rm -rf {DIRECTORY}")
    try:
        with project.config() as config:
            config["nordmesh:storage"]["local"]["reclaimPolicy"] = "Delete"
        project.up()
        project.up("--expect-no-changes")
        apply(cluster, [database()])
        assert log(cluster) == ["started"]
        # Files that only their owner may delete.
        cluster.kubectl("exec", "db-0", "--", "install", "-d", "-m", "0700", "/data/own/below")
        (name,) = volumes(cluster)
        assert directories(project) == [f"{name}_default_{CLAIM}"]
        cluster.kubectl("delete", "statefulset", "db")
        cluster.kubectl("delete", "pvc", CLAIM)
        wait_for("the volume's end", lambda: not volumes(cluster), seconds=180)
        assert directories(project) == []
    finally:
        project.stack_file.write_text(before)
        project.up()
