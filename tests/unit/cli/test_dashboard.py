"""`nordmesh dashboard` with a fake pulumi and a fake kubectl."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import dashboard
from components.manifests import grafana, kiali
from tests.support.paths import PROJECT

KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >>"$LOG"
echo $$ >>"$LOG.pid"
for word in "$@"; do
    case $word in --kubeconfig=*) stat -c '%a %s' "${word#--kubeconfig=}" >>"$LOG.mode" ;; esac
done
[ -z "$BROKEN" ] || { echo 'error: no such pod' >&2; exit 1; }
trap 'echo ended >>"$LOG"; exit 0' TERM
echo 'Forwarding from 127.0.0.1:45678 -> 9090'
while :; do sleep 0.05; done
"""
PULUMI = """#!/bin/sh
case "$*" in
    *output*) printf '{"kubeconfig": "the secret"}' ;;
esac
"""


class DashboardCommand:
    """The environment of the command: fake tools on PATH, and the log of their calls."""

    def __init__(self, directory: Path, stack: dict[str, Any]) -> None:
        self.log, self._directory, self._stack = directory / "log", directory, stack
        self._started: list[subprocess.Popen[str]] = []
        self.turn_on()
        tools = directory / "bin"
        tools.mkdir()
        for name, text in (("kubectl", KUBECTL), ("pulumi", PULUMI)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.tmp = directory / "tmp"
        self.tmp.mkdir()
        self.environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "LOG": str(self.log),
            "PYTHONPATH": str(PROJECT),
            "TMPDIR": str(self.tmp),
            "BROKEN": "",
        }

    def turn_on(self, *names: str) -> None:
        observability = {name: {"enabled": True} for name in names}
        values = {**self._stack, "observability": observability}
        config = {f"nordmesh:{key}": value for key, value in values.items()}
        (self._directory / "Pulumi.test.yaml").write_text(yaml.safe_dump({"config": config}))

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "dashboard", "--stack", "test"],
            cwd=self._directory,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """End what a failed test left running; the command then ends its port-forwards."""
        for process in self._started:
            process.terminate()
            process.communicate()


@pytest.fixture
def command(tmp_path: Path, container_stack: dict[str, Any]) -> Iterator[DashboardCommand]:
    command = DashboardCommand(tmp_path, container_stack)
    yield command
    command.end()


def read_until(process: "subprocess.Popen[str]", last: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith(last):
            break
    return lines


def test_dashboard_prints_addresses_and_cleans_up_on_ctrl_c(command: DashboardCommand) -> None:
    command.turn_on("prometheus", "kiali")
    process = command.start()
    lines = read_until(process, "Ctrl-C")
    assert lines[:2] == [
        "Prometheus    http://127.0.0.1:45678/",
        "Kiali         http://127.0.0.1:45678/kiali/",
    ]
    assert [path.read_text() for path in command.tmp.glob("*.kubeconfig")] == ["the secret"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert list(command.tmp.iterdir()) == []
    assert command.log.read_text().count("ended") == 2
    assert Path(f"{command.log}.mode").read_text().split() == ["600", "10"] * 2
    assert "the secret" not in command.log.read_text()


def test_a_failed_port_forward_is_reported_with_its_reason(command: DashboardCommand) -> None:
    command.turn_on("prometheus")
    process = command.start(BROKEN="yes")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Prometheus does not answer: error: no such pod [dashboard-unreachable]" in errors
    assert "Traceback" not in errors
    assert list(command.tmp.iterdir()) == []


def test_a_stack_without_observability_has_no_dashboards(command: DashboardCommand) -> None:
    process = command.start()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nordmesh:observability.prometheus [no-observability]" in errors


def test_a_port_forward_that_ends_is_an_error(command: DashboardCommand) -> None:
    command.turn_on("prometheus")
    process = command.start()
    read_until(process, "Ctrl-C")
    os.kill(int(Path(f"{command.log}.pid").read_text()), signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the port-forward to Prometheus ended" in errors


@pytest.mark.parametrize(
    ("name", "module"), [("grafana", grafana), ("kiali", kiali)], ids=lambda value: str(value)[:20]
)
def test_dashboards_use_the_ports_of_the_manifests(name: str, module: Any) -> None:
    assert dashboard.DASHBOARDS[name].port == module.PORT
    assert re.fullmatch(rf"deployment/{module.NAME}", dashboard.DASHBOARDS[name].target)
