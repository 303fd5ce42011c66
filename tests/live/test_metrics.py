"""metrics-server: `kubectl top`, and the metric that an HPA uses."""

import json
from typing import Any

from lab.screen import Cluster
from tests.live.counted import wait_for

# Two cycles of metrics-server (15 s each) and one of the HPA controller (15 s), with a margin.
_SECONDS = 120


def test_kubectl_top_shows_the_usage_of_nodes_and_pods(cluster: Cluster) -> None:
    nodes = {item["metadata"]["name"] for item in cluster.items("nodes")}
    lines = cluster.kubectl("top", "nodes", "--no-headers").splitlines()
    usage = {name: (cpu, memory) for name, cpu, _, memory, _ in map(str.split, lines)}
    assert usage.keys() == nodes
    for cpu, memory in usage.values():
        assert int(cpu.removesuffix("m")) > 0
        assert int(memory.removesuffix("Mi")) > 100
    pods = cluster.kubectl("-n", "shop", "top", "pods", "--containers", "--no-headers")
    assert {"echo", "istio-proxy"} <= {line.split()[1] for line in pods.splitlines()}


def test_an_hpa_reads_the_cpu_usage_of_its_deployment(cluster: Cluster) -> None:
    """The HPA of the ingress gateway, which is part of the Istio profile."""

    def utilization() -> dict[str, Any]:
        text = cluster.kubectl("-n", "istio-system", "get", "hpa", "-o", "json")
        (gateway,) = (
            item
            for item in json.loads(text)["items"]
            if item["spec"]["scaleTargetRef"]["name"] == "istio-ingressgateway"
        )
        metrics = gateway["status"].get("currentMetrics") or [{}]
        current: dict[str, Any] = metrics[0].get("resource", {}).get("current", {})
        return current

    current = wait_for("the CPU usage in the gateway's HPA", utilization, seconds=_SECONDS)
    assert current["averageUtilization"] >= 0
    assert current["averageValue"].endswith("m")
