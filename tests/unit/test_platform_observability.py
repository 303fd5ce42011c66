"""Observability in the platform: nothing where it is off, nothing else where it is turned on."""

from tests.support.mocked import changed, config, run

SECTION = {
    "prometheus": {"enabled": True},
    "grafana": {"enabled": True},
    "kiali": {"enabled": True},
}


def test_off_is_nothing() -> None:
    recorder, _ = run(config())
    assert not [name for name in recorder.names("") if "monitoring" in name]


def test_turned_on_it_changes_no_other_resource() -> None:
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
        "Service monitoring/prometheus",
        "ServiceAccount monitoring/grafana",
        "ServiceAccount monitoring/kiali",
        "ServiceAccount monitoring/prometheus",
        "StatefulSet monitoring/prometheus",
    ]


def test_images_come_through_the_mirror_but_are_not_pulled_beforehand() -> None:
    mirror = {"registry": "http://198.51.100.1:5000"}
    recorder, _ = run(config(artifacts=mirror, observability=SECTION))
    command = recorder.inputs("remote:Command", "worker-1-prepare")["create"]
    assert "quay.io" in command
    assert "quay.io/kiali" not in command
