"""The disk of the only control plane is lost, and the cluster is restored from a snapshot.

The workers stay as they are. The snapshots are in a directory of the control plane that the test
copies, as a mounted one would outlive the machine.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.manifests import echo
from lab import paths
from lab.errors import LabError
from lab.screen import Cluster
from tests.live import bought
from tests.live.counted import wait_for
from tests.live.encrypted import keys
from tests.live.harness import Project, lab_project
from tests.live.power import cut_power

PLANE, ADDRESS, WORKER = "cp-1", "10.71.0.11", "10.71.0.21"
DIRECTORY = "/srv/backup"
ASK = "kubectl --kubeconfig /etc/kubernetes/kubelet.conf --request-timeout 5s get --raw /readyz"
# The objects whose content a snapshot must bring back; nobody writes them by himself.
KINDS = ("secrets", "configmaps", "services", "deployments.apps", "crds", "virtualservices")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What is left of the cluster: snapshots and the team's key.

    objects: before the snapshot. keys: those of Secrets.
    """

    project: Project
    folder: Path
    identity: Path
    snapshot: str
    objects: dict[str, str]
    keys: dict[str, str]

    def nordmesh(self, *arguments: str) -> str:
        """Run a command on the copy of the snapshots."""
        options = ("--stack", self.project.stack, "--directory", str(self.folder))
        binaries = [str(paths.cache().bin / name) for name in ("etcd", "etcdutl")]
        path = ":".join([*binaries, self.project.environment()["PATH"]])
        command = ["env", f"PATH={path}", sys.executable, "-m", "cli", *arguments, *options]
        result = self.project.run(*command)
        assert result.code == 0, result.text
        return result.text


def contents(cluster: Cluster) -> dict[str, str]:
    """The content of objects by kind, namespace and name, without what servers write."""
    found = {}
    for kind in KINDS:
        for one in cluster.items(kind, "--all-namespaces"):
            about = one.pop("metadata")
            one.pop("status", None)
            name = f"{kind} {about.get('namespace', '')}/{about['name']}"
            found[name] = json.dumps([about["uid"], about.get("labels"), one], sort_keys=True)
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """A cluster of the lab that has stored a snapshot."""
    folder = tmp_path_factory.mktemp("saved")
    identity = folder / "identity"
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    public = subprocess.run(
        ["age-keygen", "-y", identity], check=True, capture_output=True, text=True
    ).stdout.strip()
    with lab_project("restore", bridge="nordmesh-res", network="10.71.0") as project:
        project.lab("up")
        project.ssh(ADDRESS, f"mkdir -p {DIRECTORY}")
        with project.config() as config:
            config["nordmesh:backup"] = {"keys": [public], "directory": DIRECTORY}
        project.up()
        nordmesh = (sys.executable, "-m", "cli")
        with project.cluster() as cluster:
            cluster.kubectl("create", "namespace", "kept")
            for number in range(50):
                value = f"--from-literal=value={'x' * (1 + 97 * number)}"
                cluster.kubectl("-n", "kept", "create", "secret", "generic", f"s-{number}", value)
            objects = contents(cluster)
            stored = project.run(*nordmesh, "backup", "now", "--stack", project.stack)
            assert stored.code == 0, stored.text
            # The timer may store another one at any time.
            signatures = project.ssh(ADDRESS, f"cd {DIRECTORY}/{project.stack} && ls *.sig")
            newest = max(signatures.split())
            cluster.kubectl("create", "namespace", "lost")
        archive = folder / "copy.tar"
        command = f"tar -C {DIRECTORY} -cf - . | base64"
        archive.write_bytes(_decoded(project.ssh(ADDRESS, command)))
        with tarfile.open(archive) as files:
            files.extractall(folder / "copy", filter="data")
        yield Saved(
            project=project,
            folder=folder / "copy",
            identity=identity,
            snapshot=newest.removesuffix(".sig"),
            objects=objects,
            keys=keys(project, ADDRESS),
        )


def _decoded(text: str) -> bytes:
    return subprocess.run(
        ["base64", "-d"], input=text.encode(), check=True, capture_output=True
    ).stdout


def lose_disk(project: Project) -> None:
    """Cut the power of the control plane, delete its disk, and install the machine again."""
    cut_power(project, PLANE)
    shutil.rmtree(project.state_directory / "machines" / PLANE / "root")
    bought.make_machine(project, PLANE, ADDRESS)
    # The storage of snapshots is mounted again.
    project.ssh(ADDRESS, f"mkdir -p {DIRECTORY}")


def is_back(cluster: Cluster, since: str) -> bool:
    """Whether both kubelets have written to the restored cluster, and both nodes are Ready.

    since: a time of the cluster. Until then, the API server shows what the snapshot has.
    """
    try:
        leases = cluster.items("leases", "--namespace", "kube-node-lease")
        nodes = cluster.items("nodes")
    except LabError:
        return False
    ready = [
        condition["status"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    ]
    renewed = [lease["spec"]["renewTime"] > since for lease in leases]
    return ready == ["True"] * 2 and renewed == [True] * 2


def worker_asks(project: Project) -> str:
    """What the worker's kubelet gets from the API server; empty without an answer."""
    with suppress(AssertionError):
        return project.ssh(WORKER, ASK).strip()
    return ""


def test_a_lost_cluster_comes_back_and_its_worker_goes_on(saved: Saved) -> None:
    project = saved.project
    listed = saved.nordmesh("backup", "check", "--identity", str(saved.identity), "--compare")
    print(listed)
    assert "0 differences" in listed
    before = project.ssh(WORKER, "systemctl show kubelet -p MainPID --value")
    lose_disk(project)
    began, since = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    output = saved.nordmesh("restore", saved.snapshot, "--identity", str(saved.identity), "--yes")
    print(output)
    print(f"restored in {time.monotonic() - began:.0f} s")
    with project.cluster() as cluster:
        wait_for("both kubelets are back", lambda: is_back(cluster, since), seconds=300)
        wait_for("the worker's load balancer", lambda: worker_asks(project) == "ok", seconds=60)
        print(f"both nodes Ready after {time.monotonic() - began:.0f} s")
        now = contents(cluster)
        changed = {name for name, text in saved.objects.items() if now.get(name) != text}
        # Rewritten by `kubeadm init` and by controllers with the time of the write.
        assert not {name for name in changed if " kept/" in name or " shop/" in name}, changed
        print(
            f"{len(saved.objects) - len(changed)} of {len(saved.objects)} as they were; {changed}"
        )
        assert keys(project, ADDRESS) == saved.keys
        namespaces = {one["metadata"]["name"] for one in cluster.items("namespaces")}
        assert "kept" in namespaces
        assert "lost" not in namespaces
        # The worker's kubelet never restarted, and sees a pod that is made now.
        assert project.ssh(WORKER, "systemctl show kubelet -p MainPID --value") == before
        cluster.kubectl("-n", "shop", "rollout", "restart", f"deploy/{echo.CLIENT}")
        cluster.kubectl("-n", "shop", "rollout", "status", f"deploy/{echo.CLIENT}", seconds=300)
    project.up("--expect-no-changes")
    project.up("--refresh")


def test_a_cluster_that_runs_is_not_replaced_by_itself(saved: Saved) -> None:
    project = saved.project
    options = ("--stack", project.stack, "--directory", str(saved.folder), "--yes")
    binaries = paths.cache().bin / "etcdutl"
    result = project.run(
        *("env", f"PATH={binaries}:{project.environment()['PATH']}", sys.executable, "-m", "cli"),
        *("restore", saved.snapshot, "--identity", str(saved.identity), *options),
    )
    assert result.code == 1
    assert "cp-1 (etcd runs)" in result.text
    assert "[restore-etcd-exists]" in result.text
    assert worker_asks(project) == "ok"
