"""Grafana: read-only dashboards of the metrics, without requests to the internet."""

import json
from pathlib import Path

from components.manifests import Manifest, monitoring
from components.manifests.kubeadm import to_yaml
from config.observability import MonitoringResources

NAME = "grafana"
PORT = 3000
DASHBOARDS = Path(__file__).parent.parent / "dashboards"

_USER = 472  # the official image's
_FOLDER = "/etc/grafana/dashboards"
_PROVISIONING = "/etc/grafana/provisioning"
_RESOURCES = MonitoringResources(cpu="20m", memory="96Mi", memory_limit="256Mi")
_SETTINGS = {
    # On the pod's loopback: only a port-forward reaches it, which Kubernetes' own login guards, so
    # that whoever comes is let in to read.
    "GF_SERVER_HTTP_ADDR": "127.0.0.1",
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
    "GF_AUTH_BASIC_ENABLED": "false",
    "GF_AUTH_DISABLE_LOGIN_FORM": "true",
    "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
    # Features that would send requests to the internet.
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_FEEDBACK_LINKS_ENABLED": "false",
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PLUGIN_ADMIN_ENABLED": "false",
    "GF_SECURITY_DISABLE_GRAVATAR": "true",
    "GF_SNAPSHOTS_EXTERNAL_ENABLED": "false",
    # Prometheus has the alerts.
    "GF_ALERTING_ENABLED": "false",
    "GF_UNIFIED_ALERTING_ENABLED": "false",
    "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": f"{_FOLDER}/mesh.json",
    "GF_LOG_MODE": "console",
}


def grafana(*, image: str) -> list[Manifest]:
    """Every object of Grafana but the namespace; it has no storage, and is fully provisioned."""
    datasource = {
        "apiVersion": 1,
        "datasources": [
            {
                "name": "Prometheus",
                "uid": "prometheus",
                "type": "prometheus",
                "access": "proxy",
                "url": monitoring.PROMETHEUS_URL,
                "isDefault": True,
                "editable": False,
            }
        ],
    }
    provider = {
        "apiVersion": 1,
        "providers": [
            {
                "name": "nordmesh",
                "type": "file",
                "disableDeletion": True,
                "allowUiUpdates": False,
                "options": {"path": _FOLDER},
            }
        ],
    }
    configs = {
        f"{_PROVISIONING}/datasources": monitoring.config_map(
            "grafana-datasources", {"prometheus.yaml": to_yaml([datasource])}
        ),
        f"{_PROVISIONING}/dashboards": monitoring.config_map(
            "grafana-providers", {"nordmesh.yaml": to_yaml([provider])}
        ),
        _FOLDER: monitoring.config_map("grafana-dashboards", dashboards()),
    }
    pod = monitoring.Pod(
        name=NAME,
        image=image,
        port=PORT,
        user=_USER,
        probe={"exec": {"command": ["wget", "-q", "-O-", f"http://127.0.0.1:{PORT}/api/health"]}},
        resources=_RESOURCES,
        env=_SETTINGS,
        configs=configs,
        writable={
            "/var/lib/grafana": {"name": "data", "emptyDir": {"sizeLimit": "200Mi"}},
            "/tmp": {"name": "tmp", "emptyDir": {"sizeLimit": "50Mi"}},  # noqa: S108 (of the pod)
        },
    )
    return [
        monitoring.service_account(NAME),
        *configs.values(),
        monitoring.deployment(pod),
    ]


def dashboards() -> dict[str, str]:
    """The dashboards by file name, without white space."""
    return {
        path.name: json.dumps(json.loads(path.read_text()), separators=(",", ":"))
        for path in sorted(DASHBOARDS.glob("*.json"))
    }
