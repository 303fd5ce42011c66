"""Hosts of nodes: reachable ports, sshd, reserved resources, held packages."""

import socket
import subprocess

import pytest

from config.scalars.quantities import quantity
from lab.screen import Cluster
from tests.live.harness import Project

CP, WORKER, STRANGER = "10.67.0.11", "10.67.0.21", "10.67.0.1"
KUBELET, API, SSH = 10250, 6443, 22
DATABASE = "/etc/mysql/mariadb.conf.d/60-nordmesh.cnf"


def answers(address: str, port: int) -> bool:
    """Return whether this machine, which is not a cluster member, reaches a port."""
    try:
        with socket.create_connection((address, port), timeout=5):
            return True
    except TimeoutError:
        return False


def reaches(project: Project, node: str, address: str, port: int) -> bool:
    """Return whether a node reaches a port of another node."""
    command = f"timeout 5 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null && echo yes || echo no"
    return project.ssh(node, command).strip() == "yes"


def test_cluster_ports_are_open_to_members_only(project: Project) -> None:
    for here, target in ((CP, WORKER), (WORKER, CP)):
        assert reaches(project, here, target, KUBELET)
        assert not answers(target, KUBELET)
    for port in (2379, 2380, 2381):
        assert not answers(CP, port)
        assert reaches(project, WORKER, CP, port)
    assert answers(CP, API)
    assert "drop" in project.ssh(WORKER, "nft list chain inet nordmesh cluster")


def test_rules_are_restored_after_a_restart_and_after_a_flush(project: Project) -> None:
    project.ssh(WORKER, "systemctl restart nordmesh-firewall nordmesh-members")
    assert not answers(WORKER, KUBELET)
    assert reaches(project, CP, WORKER, KUBELET)
    project.ssh(WORKER, "nft delete table inet nordmesh")
    assert answers(WORKER, KUBELET)
    project.ssh(
        WORKER, "timeout 20 sh -c 'until nft list table inet nordmesh; do sleep 1; done' 2>&1"
    )
    assert not answers(WORKER, KUBELET)
    assert reaches(project, CP, WORKER, KUBELET)


@pytest.mark.usefixtures("stack_file")
def test_the_firewall_allows_listed_networks_and_can_be_disabled(project: Project) -> None:
    assert reaches(project, WORKER, CP, SSH)
    with project.config() as config:
        config["nordmesh:host"] = {"firewall": {"sshFrom": [f"{STRANGER}/32"]}}
        worker = config["nordmesh:machines"]["nodes"]["worker-1"]
        worker["database"] = {"engine": "mariadb", "bufferPool": "3Gi"}
    project.up()
    assert not reaches(project, WORKER, CP, SSH)
    assert answers(CP, SSH)
    assert "innodb_buffer_pool_size = 3072M" in project.ssh(WORKER, f"cat {DATABASE}")

    with project.config() as config:
        config["nordmesh:host"] = {"firewall": {"enabled": False}, "holdPackages": False}
        del config["nordmesh:machines"]["nodes"]["worker-1"]["database"]
    project.up()
    assert answers(WORKER, KUBELET)
    left = project.ssh(
        WORKER, "nft list tables; systemctl list-unit-files --no-legend 'nordmesh-f*' || true"
    )
    assert "nordmesh" not in left
    # The worker's load balancer still follows the control planes.
    assert project.ssh(WORKER, "systemctl is-active nordmesh-members").strip() == "active"
    assert project.ssh(WORKER, f"ls {DATABASE} 2>/dev/null || true") == ""
    assert project.ssh(WORKER, "apt-mark showhold") == ""


def test_sshd_accepts_keys_only(project: Project) -> None:
    effective = project.ssh(WORKER, "sshd -T").splitlines()
    for line in (
        "passwordauthentication no", "kbdinteractiveauthentication no", "x11forwarding no",
        "permitrootlogin without-password", "maxauthtries 4", "logingracetime 30",
    ):  # fmt: skip
        assert line in effective
    refused = subprocess.run(
        [
            "ssh", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "PubkeyAuthentication=no",
            "-o", "PreferredAuthentications=password", f"root@{WORKER}", "true",
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Permission denied (publickey)" in refused.stderr


def test_kubelet_reserves_resources_for_the_system(cluster: Cluster) -> None:
    """As in Pulumi.local.yaml: both reservations, and for memory the eviction threshold."""
    for item in cluster.items("nodes"):
        status = item["status"]
        for resource, reserved in (("cpu", "20m"), ("memory", "612Mi")):
            whole, left = (quantity(status[key][resource]) for key in ("capacity", "allocatable"))
            assert whole - left == quantity(reserved), resource


def test_packages_that_kubernetes_needs_are_held(project: Project) -> None:
    held = project.ssh(WORKER, "apt-mark showhold").split()
    assert held == ["conntrack", "ebtables", "iptables", "nftables"]
