"""The keys of Secrets on the machines of a lab, and where a text is on their disks."""

import json
import re

from components.manifests import hardening
from tests.live.harness import Project

ADMIN = "kubectl --kubeconfig /etc/kubernetes/admin.conf"


def keys(project: Project, address: str) -> dict[str, str]:
    """The keys of a control plane by name, in order."""
    text = project.ssh(address, f"cat {hardening.ENCRYPTION_FILE}")
    return dict(re.findall(r"- name: (\S+)\n +secret: (\S+)", text))


def used_keys(project: Project, address: str) -> dict[str, str]:
    """The names of the keys that each API server runs with, by node."""
    pods = json.loads(
        project.ssh(address, f"{ADMIN} -n kube-system get pods -l component=kube-apiserver -o json")
    )
    return {
        pod["spec"]["nodeName"]: pod["metadata"]["annotations"]["nordmesh.io/settings"].split()[-1]
        for pod in pods["items"]
    }


def secrets(project: Project, address: str) -> dict[tuple[str, str], dict[str, str]]:
    """What the API server of a control plane reads: each lasting Secret's data."""
    items = json.loads(project.ssh(address, f"{ADMIN} get secrets -A -o json"))["items"]
    return {
        (item["metadata"]["namespace"], item["metadata"]["name"]): item["data"]
        for item in items
        if "data" in item and item["type"] != "bootstrap.kubernetes.io/token"
    }


def files_with(project: Project, address: str, text: str) -> list[str]:
    """The files of a machine that hold a text: in etcd's data, /etc, logs and /run."""
    folders = "/var/lib/etcd /etc /var/log /var/lib/nordmesh /run/nordmesh"
    return project.ssh(address, f"grep -rlF -- {text} {folders} || true").split()
