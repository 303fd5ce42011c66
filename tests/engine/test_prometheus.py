"""The real Prometheus with the rendered configuration, and an API server that knows one pod."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.manifests import alertmanager, prometheus
from config import catalogue
from config.observability import MONITORING_NAMESPACE, Prometheus
from lab import paths
from lab.ports import reserved_port
from tests.engine.conftest import wait_until

ADDRESS = "127.77.9.3"
"""The address of Alertmanager's pod: of the loopback, so that the port is free."""

PODS = f"/api/v1/namespaces/{MONITORING_NAMESPACE}/pods"


def pod(*, ready: bool) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "alertmanager-0",
            "namespace": MONITORING_NAMESPACE,
            "uid": "1",
            "labels": {"app": alertmanager.NAME},
        },
        "spec": {
            "nodeName": "worker-1",
            "containers": [
                {
                    "name": alertmanager.NAME,
                    "ports": [{"name": "http", "containerPort": alertmanager.PORT}],
                }
            ],
        },
        "status": {
            "phase": "Running",
            "podIP": ADDRESS,
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


@contextmanager
def serving(address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve HTTP in a thread; return the port."""
    with ThreadingHTTPServer(address, handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class Silent(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


def api_server(pods: list[dict[str, Any]], stop: threading.Event) -> type[Silent]:
    class Handler(Silent):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            assert path == PODS, path
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            if "watch=true" in query:
                stop.wait()
                return
            head = {"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}}
            self.wfile.write(json.dumps({**head, "items": pods}).encode())

    return Handler


def receiver(names: set[str]) -> type[Silent]:
    class Handler(Silent):
        def do_POST(self) -> None:
            assert self.path == "/api/v2/alerts"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            names.update(alert["labels"]["alertname"] for alert in json.loads(body))
            self.send_response(200)
            self.end_headers()

    return Handler


def write_config(directory: Path, api: int) -> Path:
    """Write what Prometheus' pod has, without its targets; return the configuration's path."""
    objects = prometheus.prometheus(
        Prometheus.model_validate({"enabled": True, "scrapeInterval": "5s"}),
        image=catalogue.PROMETHEUS_IMAGE,
        sends_alerts=True,
    )
    data = {m["metadata"]["name"]: m["data"] for m in objects if m["kind"] == "ConfigMap"}
    for name, text in data["prometheus-rules"].items():
        (directory / name).write_text(text)
    config = yaml.safe_load(data["prometheus-config"]["prometheus.yaml"])
    config |= {"rule_files": [f"{directory}/*.yaml"], "scrape_configs": []}
    (alertmanagers,) = config["alerting"]["alertmanagers"]
    (discovery,) = alertmanagers["kubernetes_sd_configs"]
    discovery["api_server"] = f"http://127.0.0.1:{api}"
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.parametrize("ready", [True, False])
def test_alerts_reach_alertmanager_without_its_service(tmp_path: Path, *, ready: bool) -> None:
    """Its pod is not ready as soon as its kubelet stops, which the alert is about. There is no DNS
    here either.
    """
    names: set[str] = set()
    stop = threading.Event()
    with (
        serving((ADDRESS, alertmanager.PORT), receiver(names)),
        serving(("127.0.0.1", 0), api_server([pod(ready=ready)], stop)) as api,
        reserved_port() as port,
        (tmp_path / "log").open("w") as log,
    ):
        process = subprocess.Popen(
            [
                str(paths.cache().bin / "prometheus" / "prometheus"),
                f"--config.file={write_config(tmp_path, api)}",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        started = time.monotonic()
        try:
            wait_until(lambda: alertmanager.WATCHDOG in names, "the alert arrives")
        finally:
            process.terminate()
            process.wait()
            stop.set()
            print((tmp_path / "log").read_text())
    print(f"the alert arrived {time.monotonic() - started:.1f} s after the start")
