"""Invalid settings of the receiver of alerts: each edit gives one error."""

from typing import Any

import pytest

from config import StackConfig
from tests.support.sections import alertmanager
from tests.unit.config.test_errors import GONE, Wrong, edited, expect, refusal
from tests.unit.conftest import Load, Values

ALERTS = "observability.alertmanager"
URL = "https://alerts.example.no/hooks/t0p-s3cr3t"


def listed(host: str, port: int, protocol: str = "HTTPS", **other: object) -> dict[str, object]:
    """An entry of mesh.egress.hosts that Alertmanager may call."""
    return {
        "host": host,
        "ports": [{"number": port, "protocol": protocol}],
        "owner": "team-platform@example.no",
        "purpose": "alerts of the cluster",
        "legalBasis": "GDPR art. 6(1)(f), names of services and nodes only",
        "country": "NO",
        "namespaces": ["monitoring"],
        "through": "direct",
        **other,
    }


ALL = [
    Wrong(
        "Alertmanager without Prometheus",
        {"observability.prometheus.enabled": False},
        f"{ALERTS}.enabled",
        "alertmanager-without-prometheus",
        ("Prometheus is not", "nobody would get any"),
    ),
    Wrong(
        "no receiver",
        {ALERTS: {"enabled": True}, "alertWebhookUrl": GONE, "alertSmtpPassword": GONE},
        ALERTS,
        "alert-receiver-missing",
        ("neither webhook nor email", "set webhook.host or email"),
    ),
    Wrong(
        "a webhook that is not on the egress list",
        {
            f"{ALERTS}.webhook.host": "elsewhere.example",
            "alertWebhookUrl": "https://elsewhere.example/",
        },
        f"{ALERTS}.webhook.host",
        "alert-host-not-listed",
        ("elsewhere.example, port 443, is not in mesh.egress.hosts", "namespaces: [monitoring]"),
    ),
    Wrong(
        "a webhook at another port than the listed one",
        {f"{ALERTS}.webhook.port": 8443, "alertWebhookUrl": "https://alerts.example.no:8443/"},
        f"{ALERTS}.webhook.host",
        "alert-host-not-listed",
        ("alerts.example.no, port 8443",),
    ),
    Wrong(
        "a listed host that monitoring may not call",
        {"mesh.egress.hosts.alerts.namespaces": ["shop"]},
        f"{ALERTS}.webhook.host",
        "alert-host-not-listed",
        ("with namespaces: [monitoring]",),
    ),
    Wrong(
        "a mail server that is not on the egress list",
        {f"{ALERTS}.email.host": "smtp.elsewhere.example"},
        f"{ALERTS}.email.host",
        "alert-host-not-listed",
        ("smtp.elsewhere.example, port 465",),
    ),
    Wrong(
        "no URL",
        {"alertWebhookUrl": GONE},
        "alertWebhookUrl",
        "alert-secret-missing",
        ("the URL at alerts.example.no", "pulumi config set --secret nordmesh:alertWebhookUrl"),
    ),
    Wrong(
        "no password",
        {"alertSmtpPassword": GONE},
        "alertSmtpPassword",
        "alert-secret-missing",
        ("the password of nordmesh is missing",),
    ),
    Wrong(
        "a URL without a webhook",
        {"alertHeartbeatUrl": "https://heartbeat.example.no/t0p-s3cr3t"},
        "alertHeartbeatUrl",
        "alert-secret-unneeded",
        ("observability.alertmanager.heartbeat.host is not", "pulumi config rm"),
    ),
    Wrong(
        "a password without a user",
        {f"{ALERTS}.email.username": GONE},
        "alertSmtpPassword",
        "alert-secret-unneeded",
        ("email.username is not",),
    ),
    Wrong(
        "a URL of another host",
        {"alertWebhookUrl": "https://evil.example/t0p-s3cr3t"},
        "alertWebhookUrl",
        "alert-url-host",
        ("does not lead to alerts.example.no:443",),
    ),
    Wrong(
        "a URL with another port",
        {"alertWebhookUrl": "https://alerts.example.no:8443/t0p-s3cr3t"},
        "alertWebhookUrl",
        "alert-url-host",
        ("does not lead to alerts.example.no:443",),
    ),
    Wrong(
        "a URL without TLS",
        {"alertWebhookUrl": "http://alerts.example.no:443/t0p-s3cr3t"},
        "alertWebhookUrl",
        "alert-url-plaintext",
        ("begins with http://", "anyone on the way"),
    ),
    Wrong(
        "a token instead of a URL",
        {"alertWebhookUrl": "t0p-s3cr3t"},
        "alertWebhookUrl",
        "alert-url-format",
        ("not a URL", "https://alerts.example.no/..."),
    ),
    Wrong(
        "a URL with a port that is not a number",
        {"alertWebhookUrl": "https://alerts.example.no:t0p-s3cr3t/"},
        "alertWebhookUrl",
        "alert-url-format",
        ("not a URL",),
    ),
    Wrong(
        "a URL in the stack file",
        {f"{ALERTS}.webhook.host": URL},
        f"{ALERTS}.webhook.host",
        "host-name-format",
        ("neither a DNS name",),
    ),
    Wrong(
        "nobody to write to",
        {f"{ALERTS}.email.to": []},
        f"{ALERTS}.email.to",
        "mail-recipients-empty",
        ("the list of recipients is empty", "someone reads at night"),
    ),
    Wrong(
        "a name instead of an address",
        {f"{ALERTS}.email.to": ["the team on call"]},
        f"{ALERTS}.email.to[0]",
        "mail-address-format",
        ("'the team on call' is not a mail address",),
    ),
    Wrong(
        "a template instead of an address",
        {f"{ALERTS}.email.sender": "{{.x}}@example.no"},
        f"{ALERTS}.email.sender",
        "mail-address-format",
        ("is not a mail address",),
    ),
    Wrong(
        "a user name of two words",
        {f"{ALERTS}.email.username": "the team"},
        f"{ALERTS}.email.username",
        "mail-user-format",
        ("'the team' is not a user name",),
    ),
]


@pytest.fixture
def alerting(container_stack: Values) -> Values:
    """A valid stack that sends alerts to a webhook and by mail."""
    stack: dict[str, Any] = {
        **container_stack,
        "alertWebhookUrl": URL,
        "alertSmtpPassword": "t0p-s3cr3t",
        "observability": {
            "prometheus": {"enabled": True},
            "alertmanager": alertmanager(),
        },
    }
    hosts = {
        "alerts": listed("alerts.example.no", 443),
        "smtp": listed("smtp.example.no", 465, "TLS"),
    }
    stack["mesh"] = {**stack["mesh"], "egress": {"hosts": hosts}}
    return stack


@pytest.mark.parametrize("wrong", ALL, ids=[wrong.name for wrong in ALL])
def test_an_invalid_receiver_is_refused(load: Load, alerting: Values, wrong: Wrong) -> None:
    error = refusal(load, edited(alerting, wrong.edit))
    expect(error, wrong)
    if "webhook.host" not in wrong.path:
        assert "s3cr3t" not in str(error)


def test_the_unedited_stack_is_valid(load: Load, alerting: Values) -> None:
    config: StackConfig = load(alerting)
    assert config.observability.parts == ["prometheus", "alertmanager"]


def test_only_a_list_for_the_mesh_needs_registry_only(load: Load, alerting: Values) -> None:
    """No proxy is between Alertmanager and its hosts, so the policy does not concern them."""
    open_mesh = edited(alerting, {"istio.outboundTrafficPolicy": "ALLOW_ANY"})
    assert load(open_mesh).observability.alertmanager.enabled
    host = listed("api.example.no", 443, namespaces=["shop"])
    error = refusal(load, edited(open_mesh, {"mesh.egress.hosts.api": host}))
    assert [problem.code for problem in error.problems] == ["egress-policy-allows-any"]


def test_monitoring_may_call_a_host_only_to_send_alerts(load: Load, alerting: Values) -> None:
    error = refusal(load, edited(alerting, {f"{ALERTS}.enabled": False}))
    assert {problem.path[:3] for problem in error.problems} == {("mesh", "egress", "hosts")}


def test_a_service_of_the_cluster_needs_no_entry_and_no_tls(load: Load, alerting: Values) -> None:
    inside = "bridge.shop.svc.cluster.local"
    config = load(
        edited(
            alerting,
            {
                f"{ALERTS}.webhook": {"host": inside, "port": 8080},
                "alertWebhookUrl": f"http://{inside}:8080/",
            },
        )
    )
    assert config.observability.alertmanager.enabled
