"""Control planes that are replaced by edits of the list, and one that is lost, under load."""

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.live.harness import Project, lab_project
from tests.live.power import cut_power
from tests.live.test_control_planes import ADMIN, WEIGHT, WRITER
from tests.support.applied import apply

# A lab of six machines, and every edit of it takes minutes.
pytestmark = pytest.mark.long

NETWORK = "10.76.0"
PLANES = {f"cp-{number}": f"{NETWORK}.1{number}" for number in range(1, 8)}
WORKERS = {f"worker-{number}": f"{NETWORK}.2{number}" for number in range(1, 4)}
FIRST = ("cp-1", "cp-2", "cp-3")

# Calls a Service with two replicas once in 0.1 s.
CALLER = """
rm -f /run/called /run/failed
until [ -e /run/stop ]; do
    if curl --silent --fail --max-time 5 --output /dev/null "http://$1/"
    then echo ok >>/run/called; else echo failed >>/run/failed; fi
    sleep 0.1
done
"""


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with lab_project("replaced", bridge="nordmesh-rpl", network=NETWORK) as project:
        build(project)
        yield project


def build(project: Project) -> None:
    """Build the FIRST control planes and two workers, with the Service that is called."""
    set_nodes(project, *FIRST)
    project.start_services()
    project.make_stack()
    project.up()
    with project.cluster() as cluster:
        serve(cluster)


def set_nodes(project: Project, *planes: str, gone: str = "", workers: int = 2) -> None:
    """Write these nodes into the stack file. gone: another control plane whose machine is lost."""
    with project.config() as config:
        machines = config["nordmesh:machines"]
        kind = {"provider": "container"}
        machines["nodes"] = {
            name: {**kind, "role": "control-plane", "address": PLANES[name]} for name in planes
        }
        for name in list(WORKERS)[:workers]:
            machines["nodes"][name] = {**kind, "role": "worker", "address": WORKERS[name]}
        if gone:
            machines["nodes"][gone] = {
                **kind,
                "role": "control-plane",
                "address": PLANES[gone],
                "gone": "its disk broke in a test",
            }


def serve(cluster: Cluster) -> None:
    """Run a Service of two pods outside the mesh, and a namespace for what is written."""
    (demo,) = cluster.items("deployments", "-n", "shop", "-l", "version=v1")[:1]
    labels = {"app": "steady"}
    pod = {"containers": [demo["spec"]["template"]["spec"]["containers"][0]]}
    spread = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
    needed = {"requiredDuringSchedulingIgnoredDuringExecution": [spread]}
    template = {
        "metadata": {"labels": labels},
        "spec": {**pod, "affinity": {"podAntiAffinity": needed}},
    }
    name = {"name": "steady", "namespace": "written"}
    spec: dict[str, Any] = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": template,
    }
    apply(
        cluster,
        [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "written"}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": name, "spec": spec},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": name,
                "spec": {"selector": labels, "ports": [{"port": 8080}]},
            },
        ],
    )
    cluster.kubectl("-n", "written", "rollout", "status", "deployment/steady", seconds=120)


@contextmanager
def load(project: Project, plane: str) -> Iterator[None]:
    """Write and call from worker-1 while the block runs: nothing is lost, and no call fails.

    plane: one whose credentials are used.
    """
    worker = WORKERS["worker-1"]
    admin = project.ssh(PLANES[plane], "cat /etc/kubernetes/admin.conf")
    project.ssh(worker, f"umask 077; cat >{ADMIN} <<'END'\n{admin}\nEND")
    with project.cluster() as cluster:
        (service,) = cluster.items("services", "-n", "written")
    address = f"{service['spec']['clusterIP']}:8080"
    # A caller that finds the last block's file would end at once.
    project.ssh(worker, "rm -f /run/stop")
    for unit, script in (("writer", WRITER), ("caller", CALLER)):
        words = shlex.join(["bash", "-c", script, unit, address])
        project.ssh(worker, f"systemd-run --quiet --collect --unit {unit} {words}")
    try:
        yield
    finally:
        wait = "timeout 20 bash -c 'while systemctl is-active -q writer caller; do sleep 0.2; done'"
        project.ssh(worker, f"touch /run/stop; {wait}; systemctl stop writer caller || true")
    written = project.ssh(worker, "cat /run/written").splitlines()
    calls, failed = (
        int(project.ssh(worker, f"cat /run/{file} 2>/dev/null | wc -l"))
        for file in ("called", "failed")
    )
    moments = [float(line.split()[1]) for line in written]
    gap = max(after - before for before, after in itertools.pairwise(moments))
    print(f"{len(written)} writes, at most {gap:.1f} s between two; {calls} calls, {failed} failed")
    with project.cluster() as cluster:
        kept = {item["metadata"]["name"] for item in cluster.items("configmaps", "-n", "written")}
    assert {line.split()[0] for line in written} <= kept
    assert calls
    assert failed == 0


def members(project: Project, plane: str) -> set[str]:
    """The members of etcd that a control plane lists."""
    pki = "/etc/kubernetes/pki/etcd"
    answer = project.ssh(
        PLANES[plane],
        f"curl -sS --fail --noproxy '*' --cacert {pki}/ca.crt --data '{{}}' "
        f"--cert {pki}/healthcheck-client.crt --key {pki}/healthcheck-client.key "
        "https://127.0.0.1:2379/v3/cluster/member/list",
    )
    return {member["name"] for member in json.loads(answer)["members"]}


def nodes(project: Project) -> set[str]:
    with project.cluster() as cluster:
        return {item["metadata"]["name"] for item in cluster.items("nodes")}


def updates(text: str) -> int:
    found = re.search(r"~ (\d+) updated", text)
    return int(found[1]) if found else 0


@pytest.mark.parametrize(
    "planes",
    [("cp-2", "cp-3", "cp-4"), ("cp-3", "cp-4", "cp-5"), ("cp-4", "cp-5", "cp-6")],
)
def test_a_control_plane_is_replaced_under_load(project: Project, planes: tuple[str, ...]) -> None:
    """No machine of the first build is left in the end."""
    set_nodes(project, *planes)
    with load(project, planes[0]):
        project.up()
    for plane in planes:
        assert members(project, plane) == set(planes)
    assert nodes(project) == {*planes, "worker-1", "worker-2"}
    project.up("--expect-no-changes")


def test_three_become_one_and_three_again(project: Project) -> None:
    set_nodes(project, "cp-5")
    with load(project, "cp-5"):
        project.up()
    assert members(project, "cp-5") == {"cp-5"}
    assert nodes(project) == {"cp-5", "worker-1", "worker-2"}
    project.up("--expect-no-changes")
    set_nodes(project, "cp-1", "cp-5", "cp-6")
    with load(project, "cp-5"):
        text = project.up().text
    assert members(project, "cp-1") == {"cp-1", "cp-5", "cp-6"}
    # The list. cp-1 sorts first, and updates nothing else.
    assert updates(text) == 1
    # Only now it can serve Pulumi, which uses the first that is ready.
    assert updates(project.up().text) == 1
    project.up("--expect-no-changes")


def test_with_a_control_plane_off_the_mesh_is_edited_and_a_worker_joins(project: Project) -> None:
    cut_power(project, "cp-5")
    project.set_config(WEIGHT, 42)
    text = project.up().text
    assert updates(text) == 1, text  # the route
    set_nodes(project, "cp-1", "cp-5", "cp-6", workers=3)
    project.up()
    assert "worker-3" in nodes(project)
    project.up("--expect-no-changes")


def test_a_lost_control_plane_is_replaced_by_one_edit(project: Project) -> None:
    # The machine is off since the test before.
    set_nodes(project, "cp-1", "cp-6", "cp-7", gone="cp-5", workers=3)
    project.up()
    assert members(project, "cp-7") == {"cp-1", "cp-6", "cp-7"}
    assert nodes(project) == {"cp-1", "cp-6", "cp-7", *WORKERS}
    project.up("--expect-no-changes")
    # Everything that ran there has moved.
    set_nodes(project, "cp-1", "cp-6", "cp-7", gone="cp-5", workers=2)
    project.up()
    assert nodes(project) == {"cp-1", "cp-6", "cp-7", "worker-1", "worker-2"}


def test_a_lost_machine_does_not_come_back_unnoticed(project: Project) -> None:
    set_nodes(project, "cp-1", "cp-5", "cp-6")
    refused = project.up(ok=False).text
    assert "[node-came-back]" in refused
    assert "Traceback" not in refused
    set_nodes(project, "cp-1", "cp-6", "cp-7")
    project.up()
    wait_for(
        "the members agree",
        lambda: members(project, "cp-7") == {"cp-1", "cp-6", "cp-7"},
        seconds=30,
    )
    project.up("--expect-no-changes")
