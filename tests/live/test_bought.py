"""A machine of the provider `existing`, with sudo: failures of `up`, and runs that recover.

The machine is a container of the lab, created by hand, so that the program only sees an address, a
user and a host key, as with a bought VPS.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.errors import LabError
from lab.screen import Cluster
from tests.live import bought
from tests.live.harness import Project, lab_project

ADDRESS = "10.69.0.11"
NAME = "cp-1"
USER = "deploy"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGkUj6CiBLpxleZG7pHU45YpGrNlagoWIz6T40ULcM2"

# The whole stack, which the last test destroys.
LOST = [
    {"etcd": NAME, "reason": "the machine of a test"},
    {"namespace": "istio-system", "reason": "the mesh of a test"},
    {"namespace": "shop", "reason": "the demo of a test"},
]


@dataclass(frozen=True, kw_only=True)
class Vps:
    """The machine and its stack."""

    project: Project
    host_key: str

    def configure(self, **changes: object) -> None:
        """Write the stack file, with changes to the entry of the node."""
        document = yaml.safe_load(self.project.stack_file.read_text())
        entry = {"provider": "existing", "role": "control-plane", "hostKey": self.host_key}
        node = entry | {"address": ADDRESS, "user": USER} | changes
        document["config"]["nordmesh:machines"] = {"allowDataLoss": LOST, "nodes": {NAME: node}}
        document["config"]["nordmesh:demo"] = {"enabled": False}
        self.project.stack_file.write_text(yaml.safe_dump(document))


@pytest.fixture(scope="module")
def vps() -> Iterator[Vps]:
    with lab_project("bought", bridge="nordmesh-buy", network="10.69.0") as lab_side:
        document: dict[str, Any] = yaml.safe_load(lab_side.stack_file.read_text())
        del document["config"]["nordmesh:machines"]["nodes"]["worker-1"]
        lab_side.stack_file.write_text(yaml.safe_dump(document))
        lab_side.start_services()
        keys = bought.make_machine(lab_side, NAME, ADDRESS)
        bought.add_user(lab_side, ADDRESS, USER)
        project = replace(lab_side, stack="vps")
        project.stack_file.write_text(yaml.safe_dump(document))
        vps = Vps(project=project, host_key=keys["hostKey"])
        vps.configure()
        project.make_stack()
        project.pulumi(
            "config", "set", "--secret", "nordmesh:sshPrivateKey", stdin=keys["privateKey"]
        )
        try:
            yield vps
        finally:
            project.pulumi("stack", "rm", "--yes", "--force", "--preserve-config", ok=False)


def files_on_node(vps: Vps) -> str:
    """List files that the first script would have changed."""
    return vps.project.ssh(
        ADDRESS, "ls -d /var/log/nordmesh /usr/local/bin/kube* /etc/containerd/certs.d 2>&1 || true"
    )


def test_an_unreachable_node_fails_the_update(vps: Vps) -> None:
    vps.configure(address="10.69.0.99")
    vps.project.fails("node cp-1:", "does not answer over SSH", "run `pulumi up` again")


def test_a_host_key_mismatch_fails_the_update(vps: Vps) -> None:
    before = files_on_node(vps)
    vps.configure(hostKey=OTHER_KEY)
    vps.project.fails("node cp-1:", "another SSH host key", "hostKey")
    assert files_on_node(vps) == before


def test_a_checksum_mismatch_from_the_mirror_fails_the_update(vps: Vps) -> None:
    vps.configure()
    lock = vps.project.directory / ".lab" / "artifacts.lock.json"
    right = lock.read_text()
    document = json.loads(right)
    document["binaries"] = {
        key: "0" * 64 if key.endswith("/kubelet") else sha256
        for key, sha256 in document["binaries"].items()
    }
    lock.write_text(json.dumps(document))
    vps.project.fails("ERROR on node cp-1: ", "kubelet", "[wrong-checksum]", " fix ")
    lock.write_text(right)
    assert "/usr/local/bin/kubelet" not in files_on_node(vps)


def test_a_full_disk_fails_the_update(vps: Vps) -> None:
    directory = "/var/lib/containerd"
    vps.project.ssh(
        ADDRESS, f"systemctl stop containerd; mount -t tmpfs -o size=64m none {directory}"
    )
    vps.project.fails(
        "cp-1 [preflight-disk-space]", "64 MiB free below /var/lib/containerd", "free space"
    )
    vps.project.ssh(ADDRESS, f"umount {directory}")


def test_a_later_update_continues(vps: Vps) -> None:
    vps.project.up()
    vps.project.up("--expect-no-changes")
    with vps.project.cluster() as cluster:
        (node,) = cluster.items("nodes")
        assert node["metadata"]["name"] == NAME
        assert len(cluster.istioctl("proxy-status").splitlines()) == 3  # two gateways and a title


def test_drift_is_detected_through_sudo(vps: Vps) -> None:
    look = (sys.executable, "-m", "cli", "drift", "--stack", vps.project.stack)
    result = vps.project.run(*look)
    assert result.code == 0, result.text
    vps.project.ssh(ADDRESS, "rm /etc/modules-load.d/nordmesh.conf")
    result = vps.project.run(*look)
    assert result.code == 1, result.text
    assert "- `cp-1`: `/etc/modules-load.d/nordmesh.conf`\n  - expected: a file\n" in result.text
    vps.project.ssh(
        ADDRESS, "printf 'overlay\\nbr_netfilter\\n' >/etc/modules-load.d/nordmesh.conf"
    )


def test_a_running_cluster_keeps_its_version(vps: Vps) -> None:
    before = vps.project.stack_file.read_text()
    lock = vps.project.directory / ".lab" / "artifacts.lock.json"
    document = json.loads(lock.read_text())
    for kind in ("binaries", "images"):
        others = {key.replace("1.23.17", "1.23.16"): of for key, of in document[kind].items()}
        document[kind] |= others
    lock.write_text(json.dumps(document))
    vps.project.set_config("kubernetes.version", "1.23.16")
    vps.project.fails("nordmesh:kubernetes.version", "1.23.17 to 1.23.16", "cp-1 was not touched")
    vps.project.stack_file.write_text(before)
    assert "v1.23.17" in vps.project.ssh(ADDRESS, "kubelet --version")
    vps.project.up("--expect-no-changes")


PACKAGES = ("containerd", "runc", "containernetworking-plugins")
# The node as an earlier nordmesh created it, with the containerd of the distribution and the same
# configuration. The change of containerd restarts every container.
EARLIER = """set -e
systemctl stop kubelet
for task in $(ctr -n k8s.io tasks ls -q); do
    ctr -n k8s.io tasks kill -s SIGKILL "$task" 2>/dev/null || true
done
for container in $(ctr -n k8s.io containers ls -q); do
    ctr -n k8s.io tasks delete -f "$container" >/dev/null 2>&1 || true
    ctr -n k8s.io containers delete "$container" 2>/dev/null || true
done
systemctl stop containerd
awk '$2 ~ "^/(run|var/lib)/containerd/" {print $2}' /proc/mounts | xargs -r umount -l || true
rm -rf /var/lib/containerd/io.* /run/containerd
rm /etc/systemd/system/containerd.service /usr/local/sbin/runc \
    /usr/local/bin/containerd /usr/local/bin/containerd-shim-runc-v2 /usr/local/bin/ctr
rm /var/lib/nordmesh/{containerd,runc,cni-plugins}.{sha256,files}
hash -r
systemctl daemon-reload
dpkg --install --force-confold /root/*.deb >/root/dpkg.log 2>&1
cp /usr/lib/cni/* /opt/cni/bin/
systemctl restart containerd kubelet
"""
TASKS = "ctr -n k8s.io tasks ls | awk 'NR > 1 { print $1, $2 }' | sort"
SHIMS = "ps -eo args | grep -c '^/usr/bin/containerd-shim-runc-v2' || true"


def running_tasks(project: Project) -> set[str]:
    """The containers with their processes. On a busy machine, more of them start later."""
    return set(project.ssh(ADDRESS, TASKS).splitlines())


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {
        condition["type"]: condition["status"] for condition in pod["status"].get("conditions", ())
    }
    return conditions.get("Ready") == "True"


def wait_for_pods(cluster: Cluster, runtime: str, seconds: float = 600) -> None:
    """Wait until the node runs this containerd and all of its pods are ready."""
    deadline = time.monotonic() + seconds
    pending: list[object] = []
    while time.monotonic() < deadline:
        with suppress(LabError):
            (node,) = cluster.items("nodes")
            pods = cluster.items("pods", "--all-namespaces")
            version = node["status"]["nodeInfo"]["containerRuntimeVersion"]
            pending = [version, *(x["metadata"]["name"] for x in pods if not is_ready(x))]
            if version.startswith(runtime) and len(pending) == 1:
                return
        time.sleep(2)
    raise AssertionError(pending)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download Debian's packages of a container runtime from the sources of the machine."""
    directory = tmp_path_factory.mktemp("packages")
    subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
    command = ["apt-get", "-q", "download", *PACKAGES]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory


def test_a_node_with_debian_containerd_is_migrated(vps: Vps, packages: Path) -> None:
    project = vps.project
    root = project.state_directory / "machines" / NAME / "root"
    for package in packages.glob("*.deb"):
        shutil.copy(package, root / "root" / package.name)
    project.ssh(ADDRESS, f"bash -c {shlex.quote(EARLIER)}")
    with project.cluster() as cluster:
        # Until kubelet reports, the API server has the old status of the pods.
        deadline = time.monotonic() + 300
        while int(project.ssh(ADDRESS, SHIMS)) < 10:
            assert time.monotonic() < deadline
            time.sleep(2)
        wait_for_pods(cluster, "containerd://1.6.")
        tasks = running_tasks(project)

        urns = project.pulumi("stack", "--show-urns").text
        (urn,) = re.findall(r"urn:\S+::cp-1-prepare", urns)
        project.up("--target-replace", urn)

        assert tasks <= running_tasks(project)
        running = project.ssh(ADDRESS, "readlink /proc/$(pidof containerd)/exe")
        assert running == "/usr/local/bin/containerd\n"
        wait_for_pods(cluster, "containerd://1.7.30")
        assert tasks <= running_tasks(project)
        # Containers under Debian's shim can be stopped and replaced.
        before = int(project.ssh(ADDRESS, SHIMS))
        delete = ("-n", "kube-system", "delete", "pod", "-l", "k8s-app=kube-dns")
        cluster.kubectl(*delete, seconds=180)
        wait_for_pods(cluster, "containerd://1.7.30")
        assert int(project.ssh(ADDRESS, SHIMS)) < before
    project.up("--expect-no-changes")


def test_destroy_removes_kubernetes_from_the_machine(vps: Vps) -> None:
    vps.project.pulumi("destroy", "--yes", "--skip-preview")
    assert (
        vps.project.ssh(ADDRESS, "ls /etc/kubernetes /var/lib/etcd 2>&1 || true").count(
            "No such file"
        )
        == 2
    )
    left = vps.project.ssh(
        ADDRESS,
        "pgrep -a containerd; ip -o link show type vxlan; ls -A /opt/cni/bin | grep -v flannel; "
        "ls /usr/local/bin/ctr /usr/local/sbin/runc /etc/systemd/system/containerd.service "
        "2>/dev/null; true",
    )
    assert left.strip() == ""
    assert Path(vps.project.state_directory / "machines" / NAME).exists()
