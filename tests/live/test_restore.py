"""The disk of the only control plane is lost, and the cluster is restored from a bucket.

The workers stay as they are.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.backup import scratch_etcd, snapshots
from components.manifests import Manifest, echo
from lab import paths
from lab.errors import LabError
from lab.screen import Cluster
from tests.live import bought
from tests.live.bucket import Bucket, bucket
from tests.live.counted import wait_for
from tests.live.encrypted import keys
from tests.live.harness import Project, Result, lab_project
from tests.live.power import cut_power
from tests.support.applied import apply

PLANE, ADDRESS, WORKER = "cp-1", "10.71.0.11", "10.71.0.21"
ASK = "kubectl --kubeconfig /etc/kubernetes/kubelet.conf --request-timeout 5s get --raw /readyz"
CHECKOUT = "http://checkout.shop.svc.cluster.local:8080"
KEPT = "kept"
# The objects whose content a snapshot must bring back; nobody writes them by himself.
KINDS = ("secrets", "configmaps", "services", "deployments.apps", "crds", "virtualservices")
PKI = "/etc/kubernetes/pki/etcd"
ETCD = f"curl --silent --show-error --fail --noproxy '*' --cacert {PKI}/ca.crt"
ETCD += f" --cert {PKI}/healthcheck-client.crt --key {PKI}/healthcheck-client.key"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What is left of the cluster: snapshots and the team's key.

    written: bytes in the namespace `kept` by kind and name. objects: before the snapshot; stored:
    the same as etcd has them. keys: those of Secrets.
    """

    project: Project
    bucket: Bucket
    identity: Path
    snapshot: str
    written: dict[tuple[str, str], bytes]
    objects: dict[str, str]
    stored: dict[bytes, bytes]
    keys: dict[str, str]

    def run(self, *arguments: str) -> Result:
        """Run a command of nordmesh, with etcd and etcdutl on PATH."""
        binaries = [str(paths.cache().bin / name) for name in scratch_etcd.PROGRAMS]
        path = ":".join([*binaries, self.project.environment()["PATH"]])
        command = ["env", f"PATH={path}", sys.executable, "-m", "cli", *arguments]
        return self.project.run(*command, "--stack", self.project.stack)

    def nordmesh(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.code == 0, result.text
        return result.text


def write_objects(cluster: Cluster) -> dict[tuple[str, str], bytes]:
    """Write Secrets and ConfigMaps of many lengths, with every byte; return what is in them."""
    cluster.kubectl("create", "namespace", KEPT)
    kinds = {"Secret": "data", "ConfigMap": "binaryData"}
    written = {
        (kind, f"object-{number}"): os.urandom(1 + 97 * number)
        for kind in kinds
        for number in range(50)
    }
    objects: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": KEPT},
            kinds[kind]: {"value": base64.b64encode(value).decode()},
        }
        for (kind, name), value in written.items()
    ]
    apply(cluster, objects)
    return written


def read_objects(cluster: Cluster) -> dict[tuple[str, str], bytes]:
    """Read what write_objects wrote."""
    found = {}
    for kind, field in (("Secret", "data"), ("ConfigMap", "binaryData")):
        for item in cluster.items(kind, "-n", KEPT):
            if value := item.get(field, {}).get("value"):
                found[kind, item["metadata"]["name"]] = base64.b64decode(value)
    return found


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


def stored(project: Project) -> dict[bytes, bytes]:
    """Every object as etcd has it, by key."""
    key, end = scratch_etcd.keys_below(scratch_etcd.OBJECTS)
    question = json.dumps({"key": key, "range_end": end})
    url = "https://127.0.0.1:2379/v3/kv/range"
    answer = json.loads(project.ssh(ADDRESS, f"{ETCD} --data '{question}' {url}"))
    return {base64.b64decode(kv["key"]): base64.b64decode(kv["value"]) for kv in answer["kvs"]}


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
        with bucket(project, tmp_path_factory.mktemp("s3")) as place:
            place.trust(project, ADDRESS)
            place.configure(project, public)
            project.up()
            with project.cluster() as cluster:
                written = write_objects(cluster)
                objects, before = contents(cluster), stored(project)
                now = project.run(
                    sys.executable, "-m", "cli", "backup", "now", "--stack", project.stack
                )
                assert now.code == 0, now.text
                # The timer may store another one at any time.
                newest = snapshots.complete(path.name for path in place.folder.iterdir())[-1]
                cluster.kubectl("create", "namespace", "lost")
            yield Saved(
                project=project,
                bucket=place,
                identity=identity,
                snapshot=newest,
                written=written,
                objects=objects,
                stored=before,
                keys=keys(project, ADDRESS),
            )


def lose_disk(saved: Saved) -> None:
    """Cut the power of the control plane, delete its disk, and install the machine again."""
    cut_power(saved.project, PLANE)
    shutil.rmtree(saved.project.state_directory / "machines" / PLANE / "root")
    bought.make_machine(saved.project, PLANE, ADDRESS)
    saved.bucket.trust(saved.project, ADDRESS)


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


def client_is_served(cluster: Cluster) -> bool:
    """Whether each of some requests of the demo's client is answered."""
    with suppress(LabError):
        tally = cluster.call("shop", CHECKOUT, "--count", "20", "--concurrency", "2")
        return bool(tally["ok"] == 20)
    return False


def print_unchanged(before: dict[bytes, bytes], now: dict[bytes, bytes]) -> None:
    """Print how many objects are as they were in etcd; servers write the others all the time."""
    same = sum(now.get(key) == value for key, value in before.items())
    print(f"{same} of {len(before)} objects are byte for byte as they were in etcd")


def test_the_nightly_proof_refuses_what_was_altered_in_the_bucket(saved: Saved) -> None:
    check = ("backup", "check", saved.snapshot, "--identity", str(saved.identity), "--compare")
    output = saved.nordmesh(*check)
    print(output)
    assert "0 differences" in output
    archive = saved.bucket.folder / f"{saved.snapshot}.age"
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    try:
        for altered in (whole[: len(whole) // 2], bytes(flipped), whole + b"\0"):
            archive.write_bytes(altered)
            result = saved.run(*check)
            assert (result.code, "[backup-altered]" in result.text) == (1, True), result.text
    finally:
        archive.write_bytes(whole)


def test_a_lost_cluster_comes_back_and_its_worker_goes_on(saved: Saved) -> None:
    project = saved.project
    before = project.ssh(WORKER, "systemctl show kubelet -p MainPID --value")
    lose_disk(saved)
    began, since = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    output = saved.nordmesh("restore", saved.snapshot, "--identity", str(saved.identity), "--yes")
    print(output)
    print(f"restored in {time.monotonic() - began:.0f} s")
    with project.cluster() as cluster:
        wait_for("both kubelets are back", lambda: is_back(cluster, since), seconds=300)
        wait_for("the worker's load balancer", lambda: worker_asks(project) == "ok", seconds=60)
        print(f"both nodes Ready after {time.monotonic() - began:.0f} s")
        wait_for("the client is served", lambda: client_is_served(cluster), seconds=120)
        print(f"the client's service answers after {time.monotonic() - began:.0f} s")
        assert read_objects(cluster) == saved.written
        print(f"{len(saved.written)} of {len(saved.written)} written objects byte for byte")
        print_unchanged(saved.stored, stored(project))
        now = contents(cluster)
        changed = {name for name, text in saved.objects.items() if now.get(name) != text}
        # Rewritten by `kubeadm init` and by controllers with the time of the write.
        assert not {name for name in changed if f" {KEPT}/" in name or " shop/" in name}, changed
        print(
            f"{len(saved.objects) - len(changed)} of {len(saved.objects)} as they were; {changed}"
        )
        assert keys(project, ADDRESS) == saved.keys
        namespaces = {one["metadata"]["name"] for one in cluster.items("namespaces")}
        assert KEPT in namespaces
        assert "lost" not in namespaces
        # The worker's kubelet never restarted, and sees a pod that is made now.
        assert project.ssh(WORKER, "systemctl show kubelet -p MainPID --value") == before
        cluster.kubectl("-n", "shop", "rollout", "restart", f"deploy/{echo.CLIENT}")
        cluster.kubectl("-n", "shop", "rollout", "status", f"deploy/{echo.CLIENT}", seconds=300)
    # The restored cluster stores its next snapshot in the same bucket.
    assert "stored " in saved.nordmesh("backup", "now")
    assert "0 differences" in saved.nordmesh(
        "backup", "check", "--identity", str(saved.identity), "--compare"
    )
    project.up("--expect-no-changes")
    project.up("--refresh")


def test_a_cluster_that_runs_is_not_replaced_by_itself(saved: Saved) -> None:
    result = saved.run("restore", saved.snapshot, "--identity", str(saved.identity), "--yes")
    assert result.code == 1
    assert "cp-1 (etcd runs)" in result.text
    assert "[restore-etcd-exists]" in result.text
    assert worker_asks(saved.project) == "ok"
