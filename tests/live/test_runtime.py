"""Nodes run the pinned containerd, runc and CNI plugins; changing them stops no container."""

import hashlib
import re
import sys
import tarfile
from pathlib import Path

import pytest

from config import catalogue
from config.catalogue import Binaries
from lab import paths
from lab.screen import Cluster
from tests.live.harness import Project

WORKER = "10.67.0.21"
# Each container of Kubernetes and its process.
_TASKS = "ctr -n k8s.io tasks ls | awk 'NR > 1 { print $1, $2 }' | sort"
_PID = "systemctl show containerd --property MainPID --value"


@pytest.fixture(scope="module")
def binaries(project: Project) -> Binaries:
    lock = catalogue.read_lock(project.directory / ".lab" / "artifacts.lock.json")
    return catalogue.binaries("1.23.17", None, lock)


def programs_in(archive: Path) -> dict[str, str]:
    """Return the checksums of the programs in an archive, by name."""
    checksums = {}
    with tarfile.open(archive) as content:
        for member in content:
            if file := content.extractfile(member):
                checksums[Path(member.name).name] = hashlib.sha256(file.read()).hexdigest()
    return checksums


def prepare_again(project: Project) -> str:
    """Prepare the worker again, as `nordmesh drift` says; return the output."""
    urns = project.pulumi("stack", "--show-urns").text
    (urn,) = re.findall(r"urn:\S+::worker-1-prepare", urns)
    return project.up("--target-replace", urn).text


def test_nodes_run_the_locked_versions(project: Project, cluster: Cluster) -> None:
    release = catalogue.KUBERNETES["1.23.17"]
    for node in cluster.items("nodes"):
        runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"]
        assert runtime == f"containerd://{release.containerd}"
    for address in project.machine_addresses().values():
        output = project.ssh(address, "runc --version; /opt/cni/bin/bridge --version 2>&1 || true")
        assert f"runc version {release.runc}\n" in output
        assert "libseccomp: " in output
        assert f"CNI bridge plugin v{release.cni_plugins}\n" in output


def test_the_programs_match_the_locked_archives(project: Project, binaries: Binaries) -> None:
    for binary in binaries.runtime:
        file = paths.cache().mirror / binary.url.partition("://")[2]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == binary.sha256
        expected = programs_in(file) if binary.members else {binary.name: binary.sha256}
        assert len(expected) == max(1, len(binary.members))
        for name, sha256 in expected.items():
            path = f"{binary.directory}/{name}"
            assert project.ssh(WORKER, f"sha256sum {path}").split()[0] == sha256
    running = project.ssh(WORKER, f"readlink /proc/$({_PID})/exe; command -v runc ctr")
    assert running.split() == [
        "/usr/local/bin/containerd", "/usr/local/sbin/runc", "/usr/local/bin/ctr",
    ]  # fmt: skip
    # No package provides another copy of a program.
    assert "no packages found" in project.ssh(WORKER, "dpkg -l containerd runc 2>&1 || true")


def restarts(cluster: Cluster) -> dict[str, int]:
    """Count the restarts of each container on worker-1."""
    return {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}/{status['name']}": int(
            status["restartCount"]
        )
        for pod in cluster.items("pods", "--all-namespaces")
        if pod["spec"].get("nodeName") == "worker-1"
        for status in pod["status"]["containerStatuses"]
    }


def test_updating_containerd_restarts_no_container(project: Project, cluster: Cluster) -> None:
    tasks, pid = project.ssh(WORKER, _TASKS), project.ssh(WORKER, _PID)
    assert len(tasks.splitlines()) > 4
    restarted_before = restarts(cluster)
    print({name: count for name, count in restarted_before.items() if count})
    prepare_again(project)
    assert project.ssh(WORKER, _PID) == pid, "nothing changed, so nothing was restarted"

    # As if another version had been installed, and a custom plugin.
    changes = (
        "rm /var/lib/nordmesh/containerd.sha256",
        "cat /opt/cni/bin/vlan >>/opt/cni/bin/vrf",
        "rm /usr/local/sbin/runc",
    )
    project.ssh(WORKER, " && ".join(changes))
    report = project.run(sys.executable, "-m", "cli", "drift", "--stack", project.stack)
    assert report.code == 1, report.text
    for messages in (
        "- `worker-1`: the archive of `containerd`, sha256\n",
        "- `worker-1`: `/opt/cni/bin/vrf`\n  - expected: as in the archive of `cni-plugins`\n",
        "- `worker-1`: `/usr/local/sbin/runc`, sha256\n",
        "**3 differences.**",
    ):
        assert messages in report.text, report.text
    project.ssh(WORKER, "rm /var/lib/nordmesh/cni-plugins.sha256")
    output = prepare_again(project)
    assert "worker-1: start containerd" in output
    assert project.ssh(WORKER, _PID) != pid
    assert project.ssh(WORKER, _TASKS) == tasks
    report = project.run(sys.executable, "-m", "cli", "drift", "--stack", project.stack)
    assert report.code == 0, report.text
    assert restarts(cluster) == restarted_before


def test_a_replaced_containerd_is_reported(project: Project) -> None:
    copy = "cp /usr/local/bin/containerd /root/copy && mv /root/copy /usr/local/bin/containerd"
    project.ssh(WORKER, copy)
    report = project.run(sys.executable, "-m", "cli", "drift", "--stack", project.stack)
    assert "- `worker-1`: the running containerd\n" in report.text, report.text
    assert "**1 difference.**" in report.text, report.text
    prepare_again(project)
    report = project.run(sys.executable, "-m", "cli", "drift", "--stack", project.stack)
    assert report.code == 0, report.text


def test_an_archive_with_the_wrong_checksum_is_not_installed(
    project: Project, binaries: Binaries
) -> None:
    """The archive is compared with the lock before it is read."""
    key = binaries.cni_plugins.url.partition("://")[2]
    scripts = paths.PROJECT / "components/scripts"
    text = "".join((scripts / name).read_text() for name in ("lib.sh", "fetch.sh"))
    line = f"copied {'0' * 64} /root/copied ./bridge,./vlan http://10.67.0.1:8080/{key}"
    script = f"export NODE_NAME=worker-1\n{text}\nfetch_all '{line}'"
    project.ssh(WORKER, f"cat >/root/script <<'END'\n{script}\nEND")
    output = project.ssh(
        WORKER, "bash /root/script 2>&1; ls /root/copied; rm -r /root/script /root/copied"
    )
    assert "wrong checksum of copied: got " in output
    assert "nothing was installed" in output
    assert "bridge" not in output
