"""Three control planes: a cluster grows to them, and survives the loss of each."""

import itertools
import json
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from components.manifests import hardening
from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.live.encrypted import ADMIN as ADMIN_KUBECTL
from tests.live.encrypted import files_with, keys, secrets, used_keys
from tests.live.harness import Project, Result, lab_project
from tests.live.power import cut_power, restore_power
from tests.live.test_hardening import OPEN
from tests.support.applied import apply

NETWORK = "10.75.0"
PLANES = {"cp-1": f"{NETWORK}.11", "cp-2": f"{NETWORK}.12", "cp-3": f"{NETWORK}.13"}
WORKERS = {"worker-1": f"{NETWORK}.21", "worker-2": f"{NETWORK}.22"}
WEIGHT = "mesh.services.checkout.canary.weight"
ADMIN = "/run/admin.conf"

# Creates ConfigMaps through the load balancer of a worker; notes those that were accepted, with
# their time in seconds.
WRITER = f"""
rm -f /run/written /run/stop
start=$(date +%s)
for ((i = 0; ; i++)); do
    [ ! -e /run/stop ] || exit 0
    name=w-$start-$i
    kubectl --kubeconfig {ADMIN} --request-timeout 2s -n written create configmap "$name" &&
        echo "$name $(cut -d ' ' -f 1 /proc/uptime)" >>/run/written
done
"""
# Calls a Service with two replicas from a worker, by its address in the cluster.
CLIENT = """
rm -f /run/called /run/failed
until [ -e /run/stop ]; do
    if curl --silent --show-error --fail --max-time 5 --output /dev/null "http://$1/"
    then echo ok >>/run/called; else echo failed >>/run/failed; fi
    sleep 0.1
done
"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the writer and the client on worker-1 saw. gap: the longest between two writes, in s."""

    written: list[str]
    gap: float
    calls: int
    failed: int


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with lab_project("planes", bridge="nordmesh-cps", network=NETWORK) as project:
        with project.config() as config:
            machines = config["nordmesh:machines"]["nodes"]
            machines["worker-2"] = {**machines["worker-1"], "address": WORKERS["worker-2"]}
        project.start_services()
        project.make_stack()
        project.up()
        yield project


def set_planes(project: Project, *names: str) -> None:
    with project.config() as config:
        machines = config["nordmesh:machines"]["nodes"]
        kind = machines["worker-1"]
        workers = {name: machines[name] for name in WORKERS}
        planes = {
            name: {**kind, "role": "control-plane", "address": PLANES[name]} for name in names
        }
        config["nordmesh:machines"]["nodes"] = {**planes, **workers}


def start(project: Project, unit: str, script: str, *arguments: str) -> None:
    """Run a script on worker-1 until it is stopped."""
    words = shlex.join(["bash", "-c", script, unit, *arguments])
    project.ssh(WORKERS["worker-1"], f"systemd-run --quiet --collect --unit {unit} {words}")


@contextmanager
def load(project: Project, seen: list[Seen]) -> Iterator[None]:
    """Write and call while the block runs; what was seen is in `seen` afterwards."""
    worker = WORKERS["worker-1"]
    admin = project.ssh(PLANES["cp-1"], "cat /etc/kubernetes/admin.conf")
    project.ssh(worker, f"umask 077; cat >{ADMIN} <<'END'\n{admin}\nEND")
    with project.cluster() as cluster:
        address = echo_address(cluster)
    start(project, "writer", WRITER)
    start(project, "client", CLIENT, address)
    try:
        time.sleep(5)
        yield
        time.sleep(5)
    finally:
        project.ssh(worker, "touch /run/stop")
        wait = "timeout 20 bash -c 'while systemctl is-active -q writer client; do sleep 0.2; done'"
        project.ssh(worker, f"{wait}; systemctl stop writer client || true")
    lines = project.ssh(worker, "cat /run/written").splitlines()
    written, times = zip(*(line.split() for line in lines), strict=True)
    moments = [float(text) for text in times]
    calls, failed = (
        int(project.ssh(worker, f"cat {file} 2>/dev/null | wc -l"))
        for file in ("/run/called", "/run/failed")
    )
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    seen.append(Seen(written=list(written), gap=max(gaps), calls=calls, failed=failed))


def echo_address(cluster: Cluster) -> str:
    """The address and port of a Service whose pods, one on each worker, are outside the mesh."""
    (service,) = cluster.items("services", "-n", "written")
    return f"{service['spec']['clusterIP']}:8080"


@pytest.fixture(scope="module")
def served(project: Project) -> None:
    """A namespace for what is written, with the Service that is called."""
    with project.cluster() as cluster:
        (demo,) = cluster.items("deployments", "-n", "shop", "-l", "version=v1")[:1]
        container = demo["spec"]["template"]["spec"]["containers"][0]
        labels = {"app": "steady"}
        pod: dict[str, Any] = {
            "containers": [container],
            "affinity": {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": labels},
                        }
                    ]
                }
            },
        }
        objects = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "written"}},
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "steady", "namespace": "written"},
                "spec": {
                    "replicas": 2,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": pod},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "steady", "namespace": "written"},
                "spec": {"selector": labels, "ports": [{"port": 8080}]},
            },
        ]
        apply(cluster, objects)
        cluster.kubectl("-n", "written", "rollout", "status", "deployment/steady", seconds=120)


def names(cluster: Cluster) -> set[str]:
    return {item["metadata"]["name"] for item in cluster.items("configmaps", "-n", "written")}


def etcd(project: Project, plane: str, path: str) -> dict[str, Any]:
    """Ask the etcd of a control plane."""
    pki = "/etc/kubernetes/pki/etcd"
    text = project.ssh(
        PLANES[plane],
        f"curl --silent --fail --max-time 3 --cacert {pki}/ca.crt --cert {pki}/peer.crt "
        f"--key {pki}/peer.key https://127.0.0.1:2379/{path}",
    )
    found: dict[str, Any] = json.loads(text)
    return found


def members(project: Project, plane: str) -> set[str]:
    found = etcd(project, plane, "v3/cluster/member/list --data '{}'")
    return {member["name"] for member in found["members"]}


def restarts(cluster: Cluster, node: str) -> dict[str, int]:
    """The restarts of the containers on a node, by pod."""
    return {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": sum(
            status["restartCount"] for status in pod["status"].get("containerStatuses", ())
        )
        for pod in cluster.items("pods", "-A", f"--field-selector=spec.nodeName={node}")
    }


@pytest.mark.usefixtures("served")
def test_one_control_plane_becomes_three(project: Project) -> None:
    with project.cluster() as cluster:
        before = {name: restarts(cluster, name) for name in WORKERS}
    set_planes(project, *PLANES)
    seen: list[Seen] = []
    with load(project, seen):
        text = project.up().text
    assert re.search(r"Resources:\n\s+\+ \d+ created\n\s+~ 1 updated\n", text), text
    assert "control-planes" in text
    for plane in PLANES:
        assert members(project, plane) == set(PLANES)
    with project.cluster() as cluster:
        assert {name: restarts(cluster, name) for name in WORKERS} == before
        assert set(seen[0].written) <= names(cluster)
    print(f"while 2 joined: {len(seen[0].written)} writes, {seen[0].calls} calls, "
          f"{seen[0].failed} failed; at most {seen[0].gap:.1f} s between two writes")  # fmt: skip
    assert seen[0].failed == 0
    project.up("--expect-no-changes")


def test_a_joined_control_plane_is_hardened_like_the_first(project: Project) -> None:
    first, *others = (keys(project, address) for address in PLANES.values())
    assert list(first) == ["key1"]
    assert others == [first] * len(others)
    for address in PLANES.values():
        modes = f"stat -c %a {hardening.ENCRYPTION_FILE} {hardening.AUDIT_LOG}"
        assert project.ssh(address, modes).split() == ["600", "600"]
        assert files_with(project, address, first["key1"]) == [hardening.ENCRYPTION_FILE]
    settings = {
        tuple(sorted(re.findall(r"--(?:audit|encryption|tls-min|tls-cipher|profiling)\S+", line)))
        for address in PLANES.values()
        for line in [project.ssh(address, "tr '\\0' ' ' </proc/$(pidof kube-apiserver)/cmdline")]
    }
    (one,) = settings
    assert len(one) == 9
    report = project.run(
        sys.executable, "-m", "cli", "report", "cis", "--stack", project.stack, "--json"
    )
    items = json.loads(report.text)
    assert {item["id"] for item in items if item["result"] in ("fail", "unknown")} <= OPEN


@pytest.mark.long
@pytest.mark.usefixtures("served")
def test_a_key_is_rotated_while_every_control_plane_serves(project: Project) -> None:
    first = PLANES["cp-1"]
    project.ssh(
        first, f"{ADMIN_KUBECTL} -n written create secret generic planted --from-literal=a=b"
    )
    old, before = keys(project, first), secrets(project, first)
    project.set_config("kubernetes.encryptionKey", 2)
    seen: list[Seen] = []
    started = time.monotonic()
    with load(project, seen):
        text = project.up().text
    took = time.monotonic() - started
    (found,) = seen
    print(
        f"3 control planes: a key was rotated in {took:.0f} s; {len(found.written)} writes, at "
        f"most {found.gap:.1f} s between two; {found.calls} calls, {found.failed} failed"
    )
    assert re.search(r"Resources:\n\s+~ 9 updated\n\s+\d+ unchanged\n", text), text
    new, *others = (keys(project, address) for address in PLANES.values())
    assert list(new) == ["key2"]
    assert others == [new] * len(others)
    assert used_keys(project, first) == dict.fromkeys(PLANES, "key2")
    for address in PLANES.values():
        after = secrets(project, address)
        assert {name: after.get(name) for name in before} == before
        assert files_with(project, address, old["key1"]) == []
    with project.cluster() as cluster:
        assert set(found.written) <= names(cluster)
    assert found.failed == 0
    project.up("--expect-no-changes")


@contextmanager
def powered(project: Project) -> Iterator[None]:
    """Start every machine again when the block ends."""
    try:
        yield
    finally:
        restore_power(project)


def status(project: Project) -> Result:
    return project.run_python("-m", "cli", "status", "--stack", project.stack, "--seconds", "1")


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.usefixtures("served")
def test_any_control_plane_may_be_lost(project: Project, plane: str) -> None:
    weight = 10 + 10 * int(plane[-1])
    seen: list[Seen] = []
    project.up()  # the provider has the address of the first control plane again
    with powered(project), load(project, seen):
        cut_power(project, plane)
        started = time.monotonic()
        shown = status(project)
        answered = time.monotonic() - started
        project.set_config(WEIGHT, weight)
        text = project.up().text
        restore_power(project)
        wait_for(f"{plane} catches up", lambda: all_healthy(project), seconds=120)
    (found,) = seen
    print(
        f"{plane} off: status in {answered:.1f} s; {len(found.written)} writes, at most "
        f"{found.gap:.1f} s between two; {found.calls} calls, {found.failed} failed\n"
        + "\n".join(re.findall(r"\S+ updated.*", text))
    )
    for name in (*PLANES, *WORKERS):
        assert name in shown.text, shown.text
    # The provider gets another address while the first control plane is off.
    updates = 2 if plane == "cp-1" else 1
    assert re.search(rf"Resources:\n\s+~ {updates} updated\n\s+\d+ unchanged\n", text), text
    with project.cluster() as cluster:
        assert set(found.written) <= names(cluster)
        (route,) = cluster.items("virtualservices", "-n", "shop")
    assert f"'weight': {weight}" in str(route)
    # About 7 s, if the machine does nothing else: the load balancer's checks, and etcd's election.
    assert found.gap < 30
    assert found.failed == 0


def all_healthy(project: Project) -> bool:
    try:
        return all(etcd(project, plane, "health")["health"] == "true" for plane in PLANES)
    except AssertionError:
        return False


def test_without_a_majority_status_says_so_and_nothing_is_lost(project: Project) -> None:
    with project.cluster() as cluster:
        before = names(cluster)
    with powered(project):
        for plane in ("cp-1", "cp-2"):
            cut_power(project, plane)
        shown = status(project)
    print(shown.text)
    assert shown.code == 3
    for fact in ("of 3 control planes", "cp-1 does not answer", "cp-2 does not answer"):
        assert fact in " ".join(shown.text.split())
    wait_for("all members are healthy", lambda: all_healthy(project), seconds=180)
    with project.cluster() as cluster:
        assert names(cluster) >= before
    project.up("--expect-no-changes")
