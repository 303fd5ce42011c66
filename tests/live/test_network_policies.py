"""Pods without a sidecar: what leaves the nodes, counted on the bridge of the lab.

The pods are of the namespace shop, which is in the mesh. What a pod's processes send is sent from
its network on the node, where a shell is.
"""

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from components.manifests import Manifest
from config import catalogue
from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.live.edited import edited
from tests.live.harness import Project
from tests.live.test_egress import COUNT, WHY, Outside
from tests.support.applied import apply
from tests.support.ways_out import WAYS

LISTED, OTHER = 18090, 18099
JOB = "job"
NEW_PODS = 200
CHECKOUT = "http://checkout.shop.svc.cluster.local:8080/"
_TABLE = "nordmesh-counting"
_INSIDE = """
for pid in $(pgrep -x pause); do
    within=(nsenter --target "$pid" --net)
    "${{within[@]}}" ip -4 -o address show eth0 2>/dev/null | grep -qw {address} || continue
    "${{within[@]}}" timeout 3 bash -c {command} && echo succeeded
    exit 0
done
exit 1
"""


def bare_pod() -> Manifest:
    container = {
        "name": "main",
        "image": catalogue.ECHO_IMAGE,
        "args": ["serve", "--addr", ":8080"],
    }
    labels = {"app": JOB, "sidecar.istio.io/inject": "false"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": JOB, "namespace": "shop", "labels": labels},
        "spec": {"containers": [container]},
    }


@pytest.fixture(scope="module")
def outside(project: Project, cluster: Cluster) -> Iterator[Outside]:
    """A host on the bridge with a listed and another port; policies are enforced."""
    servers = Outside(f"{project.machine_addresses()['cp-1'].rsplit('.', 1)[0]}.1")

    def edit(mesh: dict[str, Any]) -> None:
        port = {"number": LISTED, "protocol": "TCP"}
        host = {"host": "db.test.example", "addresses": [servers.address], "through": "direct"}
        mesh["egress"] = {"hosts": {"db": WHY | host | {"ports": [port]}}}
        mesh["networkPolicy"] = True

    with servers.serve(LISTED), servers.serve(OTHER), edited(project, edit):
        status = ("rollout", "status", "daemonset/kube-router", "--timeout=300s")
        cluster.kubectl("-n", "kube-system", *status, seconds=310)
        apply(cluster, [bare_pod()])
        ready = ("wait", "--for=condition=Ready", f"pod/{JOB}", "--timeout=120s")
        cluster.kubectl("-n", "shop", *ready, seconds=130)
        yield servers
        cluster.kubectl("-n", "shop", "delete", "pod", JOB)


@contextmanager
def counting(address: str) -> Iterator[list[int]]:
    """Count the packets that arrive on the bridge for ports that are not listed, and pings."""
    rules = f"""table inet {_TABLE} {{ chain arriving {{
        type filter hook prerouting priority raw; policy accept;
        ip daddr {address} meta l4proto {{ tcp, udp }} th dport {OTHER} counter
        ip daddr {address} icmp type echo-request counter
    }}
    }}
    """
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    counted: list[int] = []
    try:
        yield counted
        listing = subprocess.run(
            ["nft", "-j", "list", "table", "inet", _TABLE], capture_output=True, check=True
        )
        counted += [
            part["counter"]["packets"]
            for item in json.loads(listing.stdout)["nftables"]
            for part in item.get("rule", {}).get("expr", [])
            if "counter" in part
        ]
    finally:
        subprocess.run(["nft", "delete", "table", "inet", _TABLE], check=True)


def in_pod(project: Project, cluster: Cluster, command: str) -> bool:
    """Run a shell command in the network of the pod; whether it succeeds within 3 s."""
    pod = json.loads(cluster.kubectl("-n", "shop", "get", "pod", JOB, "-o", "json"))
    script = _INSIDE.format(address=pod["status"]["podIP"], command=shlex.quote(command))
    node = project.machine_addresses()[pod["spec"]["nodeName"]]
    return "succeeded" in project.ssh(node, script)


def test_nothing_unlisted_leaves_a_pod_without_a_sidecar(
    project: Project, cluster: Cluster, outside: Outside
) -> None:
    left = set()
    for way in (way for way in WAYS if way.shell):
        with counting(outside.address) as packets:
            in_pod(project, cluster, way.shell.format(address=outside.address, port=OTHER))
        if any(packets):
            left.add(way.name)
    assert left == set()
    assert in_pod(project, cluster, f"echo x >/dev/tcp/{outside.address}/{LISTED}")
    # A node's own shell is no pod: docs/network-policy.md names it as open.
    node = project.machine_addresses()["worker-1"]
    with counting(outside.address) as packets:
        project.ssh(node, f"bash -c 'echo x >/dev/tcp/{outside.address}/{OTHER}'")
    assert packets[0] > 0


@pytest.mark.long
def test_the_first_packets_of_new_pods_go_nowhere(cluster: Cluster, outside: Outside) -> None:
    url = f"http://{outside.address}:{OTHER}/"
    pod = bare_pod()
    (container,) = pod["spec"]["containers"]
    container["args"] = ["call", "--url", url, "--count", "5", "--timeout", "1s"]
    pod["spec"]["restartPolicy"] = "Never"
    template = {"metadata": {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]}
    spec = {
        "completions": NEW_PODS, "parallelism": 20, "backoffLimit": 1000, "template": template,
    }  # fmt: skip
    name = {"name": "new-pods", "namespace": "shop"}
    with counting(outside.address) as packets:
        apply(cluster, [{"apiVersion": "batch/v1", "kind": "Job", "metadata": name, "spec": spec}])

        def ended() -> bool:
            text = cluster.kubectl("-n", "shop", "get", "job", "new-pods", "-o", "json")
            status = json.loads(text)["status"]
            return bool(status.get("succeeded", 0) + status.get("failed", 0) >= NEW_PODS)

        wait_for(f"{NEW_PODS} pods have run", ended, seconds=900)
    cluster.kubectl("-n", "shop", "delete", "job", "new-pods")
    print(f"{NEW_PODS} new pods, 5 requests each, at once: {packets[0]} packets on the bridge")
    assert packets == [0, 0]


@pytest.mark.usefixtures("outside")
def test_the_mesh_works_as_before(cluster: Cluster) -> None:
    tally = cluster.call("shop", CHECKOUT, *COUNT)
    assert tally["statuses"] == {"200": 20}
    # What the gates read: a proxy on another node than the API server's.
    for pod in cluster.items("pods", "--namespace=shop", "--selector=app=client"):
        path = (
            f"/api/v1/namespaces/shop/pods/{pod['metadata']['name']}:15090/proxy/stats/prometheus"
        )
        assert "envoy_" in cluster.kubectl("get", "--raw", path)


@pytest.mark.usefixtures("outside")
def test_a_second_up_changes_nothing(project: Project) -> None:
    project.up("--expect-no-changes")
