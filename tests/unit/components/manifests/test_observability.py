"""Observability manifests: golden files, and rules that all of them follow."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from components.manifests import (
    Manifest,
    alertmanager,
    grafana,
    kiali,
    monitoring,
    prometheus,
)
from config import ALERT_HEARTBEAT_URL, ALERT_SMTP_PASSWORD, ALERT_WEBHOOK_URL, catalogue
from config.observability import Prometheus
from config.observability.alertmanager import Alertmanager
from tests.support.golden import check

ON_NODE = Prometheus(enabled=True)
CLAIMED = Prometheus.model_validate(
    {"retention": "30d", "storage": {"size": "50Gi", "storageClass": "local-path"}}
)


RECEIVER = Alertmanager.model_validate(
    {
        "enabled": True,
        "webhook": {"host": "alerts.example.no"},
        "heartbeat": {"host": "heartbeat.example.no"},
        "email": {
            "to": ["on-call@example.no", "deputy@example.no"],
            "sender": "nordmesh@example.no",
            "host": "smtp.example.no",
            "username": "nordmesh",
        },
    }
)
SECRETS = dict.fromkeys((ALERT_WEBHOOK_URL, ALERT_HEARTBEAT_URL, ALERT_SMTP_PASSWORD), "s3cr3t")


def prometheus_objects(settings: Prometheus) -> list[Manifest]:
    return prometheus.prometheus(settings, image=catalogue.PROMETHEUS_IMAGE, sends_alerts=True)


def alertmanager_objects(settings: Alertmanager = RECEIVER) -> list[Manifest]:
    return alertmanager.alertmanager(settings, image=catalogue.ALERTMANAGER_IMAGE, secrets=SECRETS)


def receivers(settings: Alertmanager) -> dict[str, Any]:
    """The receivers that Alertmanager is configured with, by name."""
    (config,) = (m for m in alertmanager_objects(settings) if m["kind"] == "ConfigMap")
    text = config["data"]["alertmanager.yaml"]
    return {receiver["name"]: receiver for receiver in yaml.safe_load(text)["receivers"]}


def kiali_objects() -> list[Manifest]:
    image = catalogue.kiali_image("1.16.5")
    assert image is not None
    return kiali.kiali(image=image, revision="1-16-5")


def all_objects() -> list[Manifest]:
    return [
        monitoring.namespace(),
        *prometheus_objects(ON_NODE),
        *prometheus_objects(CLAIMED),
        *(manifest for manifest in alertmanager_objects() if manifest["kind"] != "Secret"),
        *grafana.grafana(image=catalogue.GRAFANA_IMAGE),
        *kiali_objects(),
    ]


def without_file_contents(manifests: list[Manifest]) -> list[Manifest]:
    """Replace the data of ConfigMaps that are copies of files in the checkout."""
    return [
        {**manifest, "data": dict.fromkeys(manifest["data"], "a file of the checkout")}
        if manifest["metadata"]["name"] in ("prometheus-rules", "grafana-dashboards")
        else manifest
        for manifest in manifests
    ]


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in all_objects():
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("file", "manifests"),
    [
        ("prometheus.yaml", [monitoring.namespace(), *prometheus_objects(ON_NODE)]),
        ("alertmanager.yaml", alertmanager_objects()),
        ("grafana.yaml", grafana.grafana(image=catalogue.GRAFANA_IMAGE)),
        ("kiali.yaml", kiali_objects()),
    ],
)
def test_manifests_match_their_golden_files(file: str, manifests: list[Manifest]) -> None:
    check(file, yaml.safe_dump_all(without_file_contents(manifests), sort_keys=False))


def test_a_storage_class_replaces_the_node_disk_with_a_claim() -> None:
    (stateful_set,) = (m for m in prometheus_objects(CLAIMED) if m["kind"] == "StatefulSet")
    (claim,) = stateful_set["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "local-path"
    template = stateful_set["spec"]["template"]["spec"]
    assert "data" not in [volume["name"] for volume in template["volumes"]]
    (container,) = template["containers"]
    assert "--storage.tsdb.retention.size=40960MB" in container["args"]
    assert "--storage.tsdb.retention.time=30d" in container["args"]


def test_no_manifest_names_a_host_outside_the_cluster() -> None:
    text = json.dumps(all_objects())
    hosts = {host.lower() for host in re.findall(r"[a-z][a-z0-9+.-]*://([^/\"'\s:\\]+)", text)}
    inside = {"127.0.0.1", "localhost"}
    assert {host for host in hosts if not host.endswith(".svc.cluster.local")} <= inside | {
        "istiod-1-16-5.istio-system"
    }
    assert not re.search(r"remote_write|remote_read|GF_INSTALL_PLUGINS", text)


def test_nothing_is_exposed_outside_the_cluster() -> None:
    kinds = {manifest["kind"] for manifest in all_objects()}
    assert not kinds & {"Ingress", "Gateway", "VirtualService"}
    services = [manifest for manifest in all_objects() if manifest["kind"] == "Service"]
    assert {service["spec"]["type"] for service in services} == {"ClusterIP"}
    assert all("hostPort" not in json.dumps(spec) for _, spec in pod_specs())


def test_pods_are_hardened() -> None:
    for name, spec in pod_specs():
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec.get("hostNetwork"), name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"], name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert not security["allowPrivilegeEscalation"], name
            assert container["resources"]["limits"]["memory"], name


def test_roles_are_read_only_and_exclude_secrets() -> None:
    roles = [manifest for manifest in all_objects() if manifest["kind"] == "ClusterRole"]
    assert roles
    for role in roles:
        for rule in role["rules"]:
            assert set(rule["verbs"]) <= {"get", "list", "watch"}
            forbidden = {"secrets", "pods/log", "pods/exec", "pods/portforward", "nodes/proxy"}
            assert not set(rule.get("resources", [])) & forbidden
            assert "*" not in rule.get("apiGroups", [""])
            assert rule.get("nonResourceURLs", ["/metrics"]) == ["/metrics"]


def test_a_configuration_change_restarts_the_pod() -> None:
    def pod_annotations(settings: Prometheus) -> str:
        (stateful_set,) = (m for m in prometheus_objects(settings) if m["kind"] == "StatefulSet")
        return str(stateful_set["spec"]["template"]["metadata"]["annotations"])

    assert pod_annotations(ON_NODE) == pod_annotations(Prometheus(enabled=True, retention="1d"))
    assert pod_annotations(ON_NODE) != pod_annotations(
        Prometheus(enabled=True, scrape_interval="30s")
    )


def test_dashboards_fit_into_a_config_map_and_have_unique_ids() -> None:
    files = grafana.dashboards()
    assert sorted(files) == ["control-plane.json", "mesh.json", "service.json"]
    assert sum(map(len, files.values())) < 500_000  # a ConfigMap holds 1 MiB
    dashboards = [json.loads(text) for text in files.values()]
    assert len({dashboard["uid"] for dashboard in dashboards}) == len(dashboards)
    for dashboard in dashboards:
        for panel in dashboard["panels"]:
            assert panel["datasource"]["uid"] == "prometheus"
            assert panel["targets"]


def test_dashboards_use_all_recording_rules_and_no_others() -> None:
    recorded = {
        rule["record"]
        for path in prometheus.RULES.values()
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    queried = set(re.findall(r"mesh:[a-z_:0-9]+", json.dumps(grafana.dashboards())))
    assert queried == recorded


@pytest.mark.parametrize(
    ("istio", "kiali"), [("1.16.5", "v1.63.2"), ("1.17.8", "v1.63.2"), ("1.18.7", "v1.73.0")]
)
def test_kiali_version_matches_istio(istio: str, kiali: str) -> None:
    assert catalogue.kiali_image(istio) == f"quay.io/kiali/kiali:{kiali}"


# --- alerts --------------------------------------------------------------------------------------


def test_secrets_of_the_receiver_are_in_a_secret_alone() -> None:
    """Not in a ConfigMap, an argument or the environment: many may read those."""
    with_them = [m["kind"] for m in alertmanager_objects() if "s3cr3t" in json.dumps(m)]
    assert with_them == ["Secret"]


def test_snapshots_have_alerts_only_where_the_stack_stores_some() -> None:
    image = catalogue.PROMETHEUS_IMAGE
    without = json.dumps(prometheus_objects(ON_NODE))
    assert "SnapshotOld" not in without
    assert "nordmesh_io_snapshot" not in without
    objects = prometheus.prometheus(ON_NODE, image=image, sends_alerts=True, snapshots=900)
    data = {key: text for one in objects for key, text in one.get("data", {}).items()}
    (rules,) = yaml.safe_load(data["backup.yaml"])["groups"]
    assert [rule["alert"] for rule in rules["rules"]] == ["SnapshotOld", "SnapshotMissing"]
    assert "offset 3600s" in rules["rules"][0]["expr"]
    jobs = {
        job["job_name"]: job for job in yaml.safe_load(data["prometheus.yaml"])["scrape_configs"]
    }
    assert "nordmesh_io_snapshot" in json.dumps(jobs["snapshots"]["relabel_configs"])
    # Anything that it scraped would be a new series with each snapshot.
    assert jobs["snapshots"]["metric_relabel_configs"] == [
        {"source_labels": ["__name__"], "regex": "none", "action": "keep"}
    ]


def test_prometheus_sends_alerts_only_where_there_is_an_alertmanager() -> None:
    image = catalogue.PROMETHEUS_IMAGE
    alone = json.dumps(prometheus.prometheus(ON_NODE, image=image, sends_alerts=False))
    assert "alertmanager.monitoring" not in alone
    assert "alertmanager.monitoring" in json.dumps(prometheus_objects(ON_NODE))


def test_mail_uses_tls_from_the_start_on_port_465_and_starttls_on_others() -> None:
    assert RECEIVER.email is not None
    for port, starttls in ((465, False), (587, True), (25, True)):
        email = RECEIVER.email.model_copy(update={"port": port})
        settings = RECEIVER.model_copy(update={"email": email})
        (mail,) = receivers(settings)["receiver"]["email_configs"]
        assert mail["smarthost"] == f"smtp.example.no:{port}"
        assert mail["require_tls"] is starttls


def test_the_watchdog_goes_nowhere_without_a_heartbeat() -> None:
    without = receivers(RECEIVER.model_copy(update={"heartbeat": None}))
    assert without["watchdog"] == {"name": "watchdog"}
    assert receivers(RECEIVER)["watchdog"]["webhook_configs"]


def test_the_receiver_has_what_the_stack_file_names_and_nothing_else() -> None:
    for left, kind in (("webhook", "webhook_configs"), ("email", "email_configs")):
        other = {"webhook": "email", "email": "webhook"}[left]
        settings = RECEIVER.model_copy(update={other: None})
        assert set(receivers(settings)["receiver"]) == {"name", kind}
