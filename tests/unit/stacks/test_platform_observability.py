"""Observability adds its own resources to the platform and changes no others."""

from base64 import b64decode

from tests.support.mocked import changed, config, run
from tests.support.sections import alertmanager

SECTION = {
    "prometheus": {"enabled": True},
    "grafana": {"enabled": True},
    "kiali": {"enabled": True},
}


def test_observability_is_off_by_default() -> None:
    recorder, _ = run(config())
    assert not [name for name in recorder.names("") if "monitoring" in name]


def test_enabling_it_adds_resources_and_changes_no_others() -> None:
    before, _ = run(config())
    after, _ = run(config(observability=SECTION))
    assert changed(before, after) == []
    new = sorted(
        f"{kind.rpartition(':')[2]} {name}"
        for kind, name in after.resources.keys() - before.resources.keys()
    )
    assert new == [
        "ClusterRole nordmesh-kiali",
        "ClusterRole nordmesh-prometheus",
        "ClusterRoleBinding nordmesh-kiali",
        "ClusterRoleBinding nordmesh-prometheus",
        "ConfigMap monitoring/grafana-dashboards",
        "ConfigMap monitoring/grafana-datasources",
        "ConfigMap monitoring/grafana-providers",
        "ConfigMap monitoring/kiali",
        "ConfigMap monitoring/prometheus-config",
        "ConfigMap monitoring/prometheus-rules",
        "Deployment monitoring/grafana",
        "Deployment monitoring/kiali",
        "Namespace monitoring",
        "Observability observability",
        "Protection namespace-monitoring",
        "Service monitoring/prometheus",
        "ServiceAccount monitoring/grafana",
        "ServiceAccount monitoring/kiali",
        "ServiceAccount monitoring/prometheus",
        "StatefulSet monitoring/prometheus",
    ]


SECRETS = {
    "alertWebhookUrl": "https://alerts.example.no/hooks/s3cr3t",
    "alertSmtpPassword": "s3cr3t",
}
RECEIVER = alertmanager()


def test_alertmanager_adds_its_resources_and_tells_prometheus() -> None:
    before, _ = run(config(observability=SECTION))
    after, _ = run(
        config(observability={**SECTION, "alertmanager": RECEIVER}), alert_secrets=SECRETS
    )
    assert changed(before, after) == ["monitoring/prometheus", "monitoring/prometheus-config"]
    new = sorted(
        f"{kind.rpartition(':')[2]} {name}"
        for kind, name in after.resources.keys() - before.resources.keys()
    )
    assert new == [
        "ConfigMap monitoring/alertmanager-config",
        "Deployment monitoring/alertmanager",
        "Secret monitoring/alertmanager-receiver",
        "Service monitoring/alertmanager",
        "ServiceAccount monitoring/alertmanager",
    ]


def test_the_secrets_of_the_receiver_are_secret_in_the_state_and_nowhere_else() -> None:
    recorder, _ = run(
        config(observability={**SECTION, "alertmanager": RECEIVER}), alert_secrets=SECRETS
    )
    assert recorder.secrets("Secret", "monitoring/alertmanager-receiver") == ["data"]
    data = recorder.inputs("Secret", "monitoring/alertmanager-receiver")["data"]
    assert {key: b64decode(text).decode() for key, text in data.items()} == SECRETS
    hidden = ("s3cr3t", *data.values())
    holders = {
        name
        for (_, name), args in recorder.resources.items()
        if any(text in str(args.inputs) for text in hidden)
    }
    assert holders == {"monitoring/alertmanager-receiver"}


def test_nodes_use_the_mirror_for_its_images_but_do_not_prepull_them() -> None:
    mirror = {"registry": "http://198.51.100.1:5000"}
    recorder, _ = run(config(artifacts=mirror, observability=SECTION))
    command = recorder.inputs("remote:Command", "worker-1-prepare")["create"]
    assert "quay.io" in command
    assert "quay.io/kiali" not in command
