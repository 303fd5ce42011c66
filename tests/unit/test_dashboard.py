"""`nordmesh dashboard` with a pulumi and a kubectl of the test's own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import dashboard
from components.manifests import grafana, kiali
from lab import paths

KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >>"$LOG"
echo $$ >>"$LOG.pid"
for word in "$@"; do
    case $word in --kubeconfig=*) stat -c '%a %s' "${word#--kubeconfig=}" >>"$LOG.mode" ;; esac
done
[ -z "$BROKEN" ] || { echo 'error: no such pod' >&2; exit 1; }
echo 'Forwarding from 127.0.0.1:45678 -> 9090'
trap 'echo ended >>"$LOG"; exit 0' TERM
while :; do sleep 0.05; done
"""
PULUMI = """#!/bin/sh
case "$*" in
    *output*) printf '{"kubeconfig": "the secret"}' ;;
esac
"""


class Desk:
    """Where the command runs: its tools on PATH, and what they wrote."""

    def __init__(self, directory: Path, stack: dict[str, Any]) -> None:
        self.log, self._directory, self._stack = directory / "log", directory, stack
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
            "PYTHONPATH": str(paths.PROJECT),
            "TMPDIR": str(self.tmp),
            "BROKEN": "",
        }

    def turn_on(self, *parts: str) -> None:
        observability = {part: {"enabled": True} for part in parts}
        values = {**self._stack, "observability": observability}
        config = {f"nordmesh:{key}": value for key, value in values.items()}
        (self._directory / "Pulumi.test.yaml").write_text(yaml.safe_dump({"config": config}))

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "cli", "dashboard", "--stack", "test"],
            cwd=self._directory,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def desk(tmp_path: Path, container_stack: dict[str, Any]) -> Desk:
    return Desk(tmp_path, container_stack)


def read_until(process: "subprocess.Popen[str]", last: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith(last):
            break
    return lines


def test_it_shows_addresses_until_it_is_interrupted_and_leaves_nothing(desk: Desk) -> None:
    desk.turn_on("prometheus", "kiali")
    process = desk.start()
    lines = read_until(process, "Ctrl-C")
    assert lines[:2] == [
        "Prometheus  http://127.0.0.1:45678/",
        "Kiali       http://127.0.0.1:45678/kiali/",
    ]
    assert [path.read_text() for path in desk.tmp.glob("*.kubeconfig")] == ["the secret"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert list(desk.tmp.iterdir()) == []
    assert desk.log.read_text().count("ended") == 2
    assert Path(f"{desk.log}.mode").read_text().split() == ["600", "10"] * 2
    assert "the secret" not in desk.log.read_text()


def test_a_forward_that_fails_is_told_with_its_reason(desk: Desk) -> None:
    desk.turn_on("prometheus")
    process = desk.start(BROKEN="yes")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Prometheus does not answer: error: no such pod [dashboard-unreachable]" in errors
    assert "Traceback" not in errors
    assert list(desk.tmp.iterdir()) == []


def test_a_stack_without_observability(desk: Desk) -> None:
    process = desk.start()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nordmesh:observability.prometheus [no-observability]" in errors


def test_a_kubectl_that_ends_ends_it(desk: Desk) -> None:
    desk.turn_on("prometheus")
    process = desk.start()
    read_until(process, "Ctrl-C")
    os.kill(int(Path(f"{desk.log}.pid").read_text()), signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the port-forward to Prometheus ended" in errors


@pytest.mark.parametrize(
    ("part", "module"), [("grafana", grafana), ("kiali", kiali)], ids=lambda value: str(value)[:20]
)
def test_ports_are_those_of_the_manifests(part: str, module: Any) -> None:
    assert dashboard.DASHBOARDS[part].port == module.PORT
    assert re.fullmatch(rf"deployment/{module.NAME}", dashboard.DASHBOARDS[part].target)
