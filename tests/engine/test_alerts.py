"""The real Alertmanager with the rendered configuration sends alerts to a webhook and by mail."""

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from components.manifests.alertmanager import alertmanager
from config import ALERT_HEARTBEAT_URL, ALERT_SMTP_PASSWORD, ALERT_WEBHOOK_URL, catalogue
from config.observability.alertmanager import Alertmanager
from lab import paths
from lab.ports import reserved_port
from tests.support.receiver import Mailbox, Webhook, mailbox, webhook


@dataclass(frozen=True, kw_only=True)
class Alerting:
    """A running Alertmanager and what its receiver gets."""

    url: str
    secrets: Path
    web: Webhook
    mail: Mailbox

    def fire(self, name: str) -> None:
        """Post an alert as Prometheus does."""
        alert = {
            "labels": {"alertname": name, "severity": "critical", "node": "cp-1"},
            "annotations": {"summary": f"{name} on cp-1", "fix": "turn it on again"},
        }
        request = urllib.request.Request(  # noqa: S310
            f"{self.url}/api/v2/alerts",
            data=json.dumps([alert]).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            assert answer.status == 200


@pytest.fixture(scope="module")
def alerting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alerting]:
    directory = tmp_path_factory.mktemp("alerts")
    certificate, key = directory / "localhost.crt", directory / "localhost.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    with webhook() as web, mailbox(certificate, key) as mail, reserved_port() as port:
        secrets = {
            ALERT_WEBHOOK_URL: f"http://localhost:{web.port}/hooks/1\n",
            ALERT_HEARTBEAT_URL: f"http://localhost:{web.port}/heartbeat",
            ALERT_SMTP_PASSWORD: "s3cr3t\n",
        }
        settings = {
            "enabled": True,
            "webhook": {"host": "localhost", "port": web.port},
            "heartbeat": {"host": "localhost", "port": web.port},
            "email": {
                "to": ["on-call@example.no", "deputy@example.no"],
                "sender": "nordmesh@example.no",
                "host": "localhost",
                "port": mail.port,
                "username": "nordmesh",
            },
        }
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in secrets.items()}
        file = write_files(directory, Alertmanager.model_validate(settings), encoded)
        address = f"127.0.0.1:{port}"
        with (directory / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    str(paths.cache().bin / "alertmanager" / "alertmanager"),
                    f"--config.file={file}", f"--storage.path={directory}/data",
                    "--cluster.listen-address=", f"--web.listen-address={address}",
                ],
                env={**os.environ, "SSL_CERT_FILE": str(certificate)},
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            ready(f"http://{address}/-/ready", process)
            yield Alerting(
                url=f"http://{address}", secrets=directory / "secrets", web=web, mail=mail
            )
        finally:
            process.terminate()
            process.wait()
            print((directory / "log").read_text())


def write_files(directory: Path, settings: Alertmanager, secrets: dict[str, str]) -> Path:
    """Write what kubelet mounts into the pod; return the configuration's path."""
    objects = alertmanager(settings, image=catalogue.ALERTMANAGER_IMAGE, secrets=secrets)
    (secret,) = (m for m in objects if m["kind"] == "Secret")
    (config,) = (m for m in objects if m["kind"] == "ConfigMap")
    (pod,) = (m["spec"]["template"]["spec"] for m in objects if m["kind"] == "Deployment")
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (directory / "secrets").mkdir()
    for name, text in secret["data"].items():
        (directory / "secrets" / name).write_bytes(base64.b64decode(text))
    text = config["data"]["alertmanager.yaml"]
    place = mounts[secret["metadata"]["name"]]
    assert place in text
    file = directory / "alertmanager.yaml"
    file.write_text(text.replace(place, str(directory / "secrets")))
    assert yaml.safe_load(file.read_text())["receivers"]
    return file


def ready(url: str, process: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert process.poll() is None, "Alertmanager refused its configuration"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    await_true(answers)


def await_true(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s"
        time.sleep(0.2)


def test_an_alert_reaches_the_webhook_and_both_readers_of_the_mail(alerting: Alerting) -> None:
    started = time.monotonic()
    alerting.fire("NodeDown")
    await_true(lambda: ("firing", "NodeDown") in alerting.web.alerts("/hooks/1"))
    await_true(lambda: any("NodeDown" in mail for mail in alerting.mail.mails))
    print(f"an alert arrived twice within {time.monotonic() - started:.1f} s")
    (mail,) = (mail for mail in alerting.mail.mails if "NodeDown" in mail)
    assert "Subject: FIRING: NodeDown" in mail
    assert "NodeDown on cp-1" in mail
    assert "fix: turn it on again" in mail
    assert sorted(alerting.mail.recipients[:2]) == ["deputy@example.no", "on-call@example.no"]
    assert base64.b64decode(alerting.mail.logins[0]) == b"\0nordmesh\0s3cr3t"


def test_the_watchdog_goes_to_the_heartbeat_and_not_to_a_person(alerting: Alerting) -> None:
    alerting.fire("Watchdog")
    await_true(lambda: alerting.web.alerts("/heartbeat"))
    assert set(alerting.web.alerts("/heartbeat")) == {("firing", "Watchdog")}
    assert not any(name == "Watchdog" for _, name in alerting.web.alerts("/hooks/1"))
    assert not any("Watchdog" in mail for mail in alerting.mail.mails)


def test_a_lost_node_is_one_alert(alerting: Alerting) -> None:
    """NodeDown of cp-1 fires since the first test."""
    alerting.fire("EtcdMemberDown")
    alerting.fire("EtcdSlowDisk")
    await_true(lambda: ("firing", "EtcdSlowDisk") in alerting.web.alerts("/hooks/1"))
    assert ("firing", "EtcdMemberDown") not in alerting.web.alerts("/hooks/1")


def test_a_new_url_is_used_without_a_restart(alerting: Alerting) -> None:
    file = alerting.secrets / ALERT_WEBHOOK_URL
    file.write_text(f"http://localhost:{alerting.web.port}/hooks/2")
    alerting.fire("ServiceFailing")
    await_true(lambda: ("firing", "ServiceFailing") in alerting.web.alerts("/hooks/2"))
    assert ("firing", "ServiceFailing") not in alerting.web.alerts("/hooks/1")
