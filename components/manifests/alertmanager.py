"""Alertmanager: sends the alerts of Prometheus to the receiver that the stack file names."""

from collections.abc import Mapping

import pulumi

from components.manifests import Manifest, monitoring
from components.manifests.kubeadm import to_yaml
from config import ALERT_HEARTBEAT_URL, ALERT_SMTP_PASSWORD, ALERT_WEBHOOK_URL
from config.observability import MONITORING_NAMESPACE, MonitoringResources
from config.observability.alertmanager import SMTPS, Alertmanager, Email

NAME = "alertmanager"
PORT = 9093
ADDRESS = f"{NAME}.{MONITORING_NAMESPACE}.svc.cluster.local:{PORT}"
WATCHDOG = "Watchdog"
"""The alert that always fires, so that its absence shows that no alert can be sent."""

_NOBODY = 65534  # the official image's user
_CONFIG, _SECRETS, _DATA = "/etc/alertmanager/config", "/etc/alertmanager/secrets", "/alertmanager"
SECRET_NAME = "alertmanager-receiver"  # noqa: S105 (of an object)
_RESOURCES = MonitoringResources(cpu="10m", memory="32Mi", memory_limit="128Mi")


def alertmanager(
    settings: Alertmanager, *, image: str, secrets: Mapping[str, pulumi.Input[str]]
) -> list[Manifest]:
    """Every object of Alertmanager but the namespace.

    secrets: the URLs and the password that the settings need, by their key in the stack file, in
    base64. They are in a Secret alone, and the configuration names their files. Silences and the
    memory of what was sent belong to the pod: after its replacement, a firing alert is sent again.
    """
    config = monitoring.config_map(
        "alertmanager-config", {"alertmanager.yaml": to_yaml([_config(settings)])}
    )
    pod = monitoring.Pod(
        name=NAME,
        image=image,
        port=PORT,
        user=_NOBODY,
        probe={"httpGet": {"path": "/-/ready", "port": "http"}},
        resources=_RESOURCES,
        args=(
            f"--config.file={_CONFIG}/alertmanager.yaml",
            f"--storage.path={_DATA}",
            "--cluster.listen-address=",  # a single replica
        ),
        configs={_CONFIG: config},
        secrets={_SECRETS: SECRET_NAME},
        writable={_DATA: {"name": "data", "emptyDir": {"sizeLimit": "100Mi"}}},
    )
    return [
        monitoring.service_account(NAME),
        config,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {**monitoring.metadata(NAME), "name": SECRET_NAME},
            "type": "Opaque",
            "data": dict(secrets),
        },
        monitoring.service(NAME, PORT),
        monitoring.deployment(pod),
    ]


def _config(settings: Alertmanager) -> Manifest:
    return {
        "route": {
            "receiver": "receiver",
            "group_by": ["alertname", "node", "service_namespace", "service"],
            "group_wait": "15s",
            "group_interval": "2m",
            "repeat_interval": "4h",
            "routes": [_watchdog_route()],
        },
        "receivers": [_receiver(settings), _watchdog_receiver(settings)],
        # A lost node makes its programs unreadable, too: one alert is enough.
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="NodeDown"'],
                "target_matchers": ['alertname=~"EtcdMemberDown|ApiServerDown"'],
                "equal": ["node"],
            }
        ],
    }


def _watchdog_route() -> Manifest:
    return {
        "matchers": [f'alertname="{WATCHDOG}"'],
        "receiver": "watchdog",
        "group_wait": "0s",
        "group_interval": "30s",
        "repeat_interval": "1m",
    }


def _watchdog_receiver(settings: Alertmanager) -> Manifest:
    """Where the alert goes that always fires: nowhere without a heartbeat."""
    webhook = {"url_file": f"{_SECRETS}/{ALERT_HEARTBEAT_URL}", "send_resolved": False}
    sends = {"webhook_configs": [webhook]} if settings.heartbeat is not None else {}
    return {"name": "watchdog", **sends}


def _receiver(settings: Alertmanager) -> Manifest:
    receiver: Manifest = {"name": "receiver"}
    if settings.webhook is not None:
        url = f"{_SECRETS}/{ALERT_WEBHOOK_URL}"
        receiver["webhook_configs"] = [{"url_file": url, "send_resolved": True}]
    if settings.email is not None:
        receiver["email_configs"] = [_mail(settings.email)]
    return receiver


def _mail(email: Email) -> Manifest:
    login: Manifest = (
        {
            "auth_username": email.username,
            "auth_password_file": f"{_SECRETS}/{ALERT_SMTP_PASSWORD}",
        }
        if email.username is not None
        else {}
    )
    return {
        "to": ", ".join(email.to),
        "from": email.sender,
        "smarthost": f"{email.host}:{email.port}",
        # With SMTPS, the connection is TLS from the start.
        "require_tls": email.port != SMTPS,
        **login,
        "send_resolved": True,
        "html": "",
        "text": _TEXT,
        "headers": {"Subject": _SUBJECT},
    }


_SUBJECT = "{{ .Status | toUpper }}: {{ .CommonLabels.alertname }}"
_TEXT = """\
{{ range .Alerts }}{{ .Status }} {{ .Labels.alertname }} ({{ .Labels.severity }})
{{ .Annotations.summary }}
fix: {{ .Annotations.fix }}
since {{ .StartsAt }}

{{ end }}"""
