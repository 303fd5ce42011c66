"""Prometheus in the lab: what it scrapes and records, and `nordmesh dashboard`."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from components.manifests import grafana, kiali, prometheus
from config import catalogue
from lab import paths
from lab.screen import Cluster
from tests.bench.workload import PORT, SERVICE, open_workload
from tests.live.counted import wait_for
from tests.live.harness import Project
from tests.support.applied import apply

PROXY = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1"
WATCHED = "watched"


class Prometheus:
    """Client for Prometheus, through the API server."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def ask(self, path: str) -> Any:
        answer = json.loads(self._cluster.kubectl("get", "--raw", f"{PROXY}/{path}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        samples: list[dict[str, Any]] = self.ask(f"query?query={quote(expression)}")["result"]
        return samples


@pytest.fixture(scope="module")
def watching(project: Project, cluster: Cluster) -> Iterator[Prometheus]:
    """Enable Prometheus with an edit of the stack file, and disable it at the end."""
    before = project.stack_file.read_text()
    with project.config() as config:
        config["nordmesh:observability"] = {"prometheus": {"enabled": True, "scrapeInterval": "5s"}}
    try:
        project.up()
        yield Prometheus(cluster)
    finally:
        project.stack_file.write_text(before)
        project.up()
    assert "monitoring" not in [n["metadata"]["name"] for n in cluster.items("namespaces")]


def test_a_second_run_changes_nothing(project: Project, watching: Prometheus) -> None:
    assert watching
    project.up("--expect-no-changes")


def test_all_targets_are_scraped_under_strict_mtls(cluster: Cluster, watching: Prometheus) -> None:
    pods = [
        pod
        for pod in cluster.items("pods", "--all-namespaces")
        if any(c["name"] == "istio-proxy" for c in pod["spec"]["containers"])
    ]
    assert any(pod["metadata"]["namespace"] == "shop" for pod in pods)
    wanted = {
        "istiod": 1,
        "proxies": len(pods),
        "kubelets": len(cluster.items("nodes")),
        "kubelets-own": len(cluster.items("nodes")),
        "api-servers": 1,
        "etcd": 1,
        "prometheus": 1,
    }

    def read() -> bool:
        samples = watching.query("sum by (job) (up)")
        return {sample["metric"]["job"]: int(sample["value"][1]) for sample in samples} == wanted

    wait_for(f"{wanted} targets are up: {watching.query('up == 0')}", read, seconds=180)
    for query in (
        'istio_agent_cert_expiry_seconds{resource_name="default",namespace="shop"}',
        'container_memory_working_set_bytes{container="istio-proxy",namespace="shop"}',
        'container_spec_memory_limit_bytes{container="istio-proxy",namespace="shop"} > 0',
        "pilot_proxy_convergence_time_bucket",
        "citadel_server_root_cert_expiry_timestamp",
        'envoy_cluster_upstream_cx_active{cluster_name="xds-grpc"} > 0',
        "envoy_listener_manager_lds_update_rejected",
        # Without these metrics, an alert about the cluster could never fire.
        "etcd_server_has_leader == 1",
        "etcd_mvcc_db_total_size_in_bytes / etcd_server_quota_backend_bytes > 0",
        "etcd_server_leader_changes_seen_total",
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="0.128"} > 0',
        'etcd_disk_backend_commit_duration_seconds_bucket{le="0.256"} > 0',
        'grpc_server_handled_total{job="etcd",grpc_code="ResourceExhausted",grpc_method="Txn"}',
        'apiserver_client_certificate_expiration_seconds_bucket{le="604800"}',
        'apiserver_client_certificate_expiration_seconds_bucket{le="2.592e+06"}',
        'apiserver_client_certificate_expiration_seconds_bucket{le="+Inf"} > 0',
        "kubelet_certificate_manager_client_ttl_seconds > 86400",
    ):
        wait_for(query, partial(watching.query, query), seconds=180)


def test_requests_are_recorded_by_version(cluster: Cluster, watching: Prometheus) -> None:
    url = f"http://{SERVICE}.{WATCHED}.svc.cluster.local:{PORT}/"
    with open_workload(cluster, WATCHED, injected=True):
        tally = cluster.call(WATCHED, url, "--duration", "30s", "--rate", "30")
        assert tally["failed"] == 0, tally
        of = f'{{service_namespace="{WATCHED}",service="{SERVICE}"}}'
        samples = watching.query(f"sum by (version, code_class) (mesh:requests:rate2m{of})")
        rates = {
            (sample["metric"]["version"], sample["metric"]["code_class"]): float(sample["value"][1])
            for sample in samples
        }
        share = rates["v2", "2xx"] / sum(rates.values())
        sent = tally["versions"]["v2"] / tally["requests"]
        print(f"recorded {rates}; v2 got {share:.1%}, its client counted {sent:.1%}")
        assert {version for version, _ in rates} == {"v1", "v2"}
        # Both count the same requests, but their first and last samples are at different times.
        assert abs(share - sent) < 0.05
        slowest = watching.query(
            f"histogram_quantile(0.99, sum by (le) (mesh:request_milliseconds_bucket:rate2m{of}))"
        )
        assert 0 < float(slowest[0]["value"][1]) < 10_000  # milliseconds, also on a busy machine


def test_prometheus_accepts_the_query_of_every_rule_and_panel(watching: Prometheus) -> None:
    groups = watching.ask("rules")["groups"]
    loaded = [rule for group in groups for rule in group["rules"]]
    written = [
        rule
        for path in prometheus.RULES.values()
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len(loaded) == len(written)
    wait_for(
        "every rule is evaluated",
        lambda: all(
            rule["health"] == "ok"
            for group in watching.ask("rules")["groups"]
            for rule in group["rules"]
        ),
        seconds=180,
    )
    for text in grafana.dashboards().values():
        for panel in json.loads(text)["panels"]:
            for target in panel["targets"]:
                watching.query(re.sub(r"\$\w+", "checkout", target["expr"]))


def test_the_dashboard_command_opens_prometheus_and_exits_cleanly(
    project: Project, watching: Prometheus
) -> None:
    assert watching
    environment = project.environment()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "dashboard", "--stack", project.stack],
        cwd=project.directory,
        env=environment | {"PATH": f"{paths.cache().bin / 'kubernetes'}:{environment['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    try:
        with urllib.request.urlopen(f"{address}-/ready", timeout=60) as answer:  # noqa: S310
            assert answer.status == 200
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")


def test_the_api_server_accepts_grafana_and_kiali(cluster: Cluster, watching: Prometheus) -> None:
    """Their images are not available here, so this is a server-side dry run."""
    assert watching
    image = catalogue.kiali_image("1.16.5")
    assert image is not None
    manifests = [
        *grafana.grafana(image=catalogue.GRAFANA_IMAGE),
        *kiali.kiali(image=image, revision="1-16-5"),
    ]
    taken = apply(cluster, manifests, "--dry-run=server")
    assert taken.count("created (server dry run)") == len(manifests), taken
