"""Alerts in the lab: one that fires reaches the receiver that the stack file names."""

import time
from collections.abc import Iterator

import pytest

from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.live.harness import Project
from tests.support.applied import apply
from tests.support.receiver import Webhook, webhook

pytestmark = pytest.mark.long

# The time after which the pods of a node that does not answer are evicted: 40 s until it counts as
# lost, and 300 s of their default tolerations.
EVICTION_SECONDS = 340
RECEIVER = "receiver"
HOST = f"{RECEIVER}.default.svc.cluster.local"


@pytest.fixture(scope="module")
def received(project: Project, cluster: Cluster) -> Iterator[Webhook]:
    """Send alerts to a server of this test on the bridge, which a Service leads to."""
    addresses = project.machine_addresses()
    bridge = f"{addresses['cp-1'].rpartition('.')[0]}.1"
    before = project.stack_file.read_text()
    with webhook(bridge) as kept:
        apply(cluster, _service(bridge, kept.port))
        with project.config() as config:
            config["nordmesh:observability"] = {
                "prometheus": {"enabled": True, "scrapeInterval": "5s"},
                "alertmanager": {
                    "enabled": True,
                    "webhook": {"host": HOST, "port": 80},
                    "heartbeat": {"host": HOST, "port": 80},
                },
            }
        for key, path in (("alertWebhookUrl", "hooks"), ("alertHeartbeatUrl", "heartbeat")):
            url = f"http://{HOST}/{path}"
            project.pulumi("config", "set", "--secret", f"nordmesh:{key}", stdin=url)
        try:
            project.up()
            yield kept
        finally:
            project.stack_file.write_text(before)
            project.up()
            cluster.kubectl("-n", "default", "delete", f"service/{RECEIVER}")


def _service(address: str, port: int) -> list[dict[str, object]]:
    metadata = {"name": RECEIVER, "namespace": "default"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"ports": [{"port": 80, "targetPort": port}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": metadata,
            "subsets": [{"addresses": [{"ip": address}], "ports": [{"port": port}]}],
        },
    ]


def test_the_heartbeat_arrives_every_minute(received: Webhook) -> None:
    wait_for("a heartbeat", lambda: received.alerts("/heartbeat"), seconds=120)
    before, started = len(received.requests["/heartbeat"]), time.monotonic()
    wait_for(
        "two more heartbeats",
        lambda: len(received.requests["/heartbeat"]) >= before + 2,
        seconds=240,
    )
    print(f"two more heartbeats within {time.monotonic() - started:.0f} s")
    assert set(received.alerts("/heartbeat")) == {("firing", "Watchdog")}


def test_no_alert_fires_in_a_healthy_cluster(received: Webhook) -> None:
    """Of those that need a person at once: the lab's disks may be slow."""
    critical = [
        alert["labels"]["alertname"]
        for request in received.requests.get("/hooks", [])
        for alert in request["alerts"]
        if alert["labels"]["severity"] == "critical"
    ]
    assert critical == []


def test_a_lost_node_reaches_the_receiver_and_so_does_its_return(
    project: Project, received: Webhook
) -> None:
    """Prometheus and Alertmanager run on the lost node, so its kubelet returns before they go. A
    replica of CoreDNS runs on the other one, without which Alertmanager would find no receiver.

    A new Alertmanager knows of no alert, and so sends no end of it.
    """
    worker = project.machine_addresses()["worker-1"]
    started = time.monotonic()
    try:
        project.ssh(worker, "systemctl stop kubelet")
        wait_for(
            "the alert",
            lambda: ("firing", "NodeDown") in received.alerts("/hooks"),
            seconds=EVICTION_SECONDS - 20,
        )
    finally:
        project.ssh(worker, "systemctl start kubelet")
    print(f"the alert arrived {time.monotonic() - started:.0f} s after the node was lost")
    (alert,) = (
        alert
        for request in received.requests["/hooks"]
        for alert in request["alerts"]
        if alert["labels"]["alertname"] == "NodeDown"
    )
    assert alert["labels"]["node"] == "worker-1"
    assert alert["annotations"]["summary"] == "the kubelet on worker-1 does not answer"
    wait_for(
        "the end of the alert",
        lambda: ("resolved", "NodeDown") in received.alerts("/hooks"),
        seconds=420,
    )


def test_the_urls_are_in_a_secret_alone(cluster: Cluster, received: Webhook) -> None:
    assert received
    for kind in ("configmaps", "deployments", "pods"):
        assert "/hooks" not in str(cluster.items(kind, "-n", "monitoring"))
    (secret,) = (
        secret
        for secret in cluster.items("secrets", "-n", "monitoring")
        if secret["metadata"]["name"] == "alertmanager-receiver"
    )
    assert sorted(secret["data"]) == ["alertHeartbeatUrl", "alertWebhookUrl"]
