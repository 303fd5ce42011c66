"""The stack and the backend that a command of nordmesh uses, also in the shell of a lab."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lab import paths, stack
from tests.support.paths import PROJECT
from tests.unit.commands import nordmesh

LOCAL = {
    "config": {
        "nordmesh:machines": {
            "container": {"bridge": "nmunit0", "subnet": "198.51.100.0/24"},
            "nodes": {"cp-1": {"provider": "container", "address": "198.51.100.11"}},
        },
        "nordmesh:artifacts": {
            "mirror": "http://198.51.100.1:8080",
            "registry": "http://198.51.100.1:5000",
        },
    }
}
LAB = {
    "PULUMI_BACKEND_URL": f"file://{paths.state().pulumi}",
    "PULUMI_CONFIG_PASSPHRASE_FILE": str(paths.state().passphrase),
}
OWN = {"PULUMI_BACKEND_URL": "s3://own", "PULUMI_CONFIG_PASSPHRASE_FILE": "/own"}
PULUMI = """#!/bin/sh
echo "$PULUMI_BACKEND_URL $PULUMI_CONFIG_PASSPHRASE_FILE" >backend
exit 1
"""


class Shell:
    """A checkout with a running lab, and a fake pulumi that records its backend."""

    def __init__(self, checkout: Path, patch: pytest.MonkeyPatch) -> None:
        self.checkout, self._patch = checkout, patch
        (checkout / "bin").mkdir()
        (checkout / "bin" / "pulumi").write_text(PULUMI)
        (checkout / "bin" / "pulumi").chmod(0o755)
        (checkout / "Pulumi.local.yaml").write_text(yaml.safe_dump(LOCAL))
        shutil.copy(PROJECT / "Pulumi.prod.yaml", checkout)
        stack.write_env(checkout / ".lab" / "env")
        self.export(PATH=f"{checkout / 'bin'}:{os.environ['PATH']}")

    def source_lab_env(self) -> None:
        """Set the variables of .lab/env."""
        script = ". .lab/env && env -0"
        result = subprocess.run(
            ["bash", "-c", script], cwd=self.checkout, capture_output=True, text=True, check=True
        )
        variables = dict(line.partition("=")[::2] for line in result.stdout.split("\0") if line)
        self.export(
            **{k: v for k, v in variables.items() if k.startswith(("PULUMI_", "NORDMESH_"))}
        )

    def export(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def used_backend(self) -> str:
        """The backend and the passphrase file that pulumi got; empty if it did not run."""
        file = self.checkout / "backend"
        return file.read_text().strip() if file.exists() else ""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(tmp_path, monkeypatch)


COMMANDS = [
    ["preflight"],
    ["dashboard"],
    ["review"],
    ["drift"],
    ["canary", "abort", "payment-service"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_another_stack_never_uses_the_lab_backend(
    shell: Shell, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shell.source_lab_env()
    file = shell.checkout / "Pulumi.prod.yaml"
    before = file.read_text()
    assert nordmesh(shell.checkout, *command, "--stack", "prod") == 1
    assert "prod [lab-backend]" in capsys.readouterr().err
    assert shell.used_backend() == ""
    assert file.read_text() == before


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_another_stack_uses_its_own_backend(shell: Shell, command: list[str]) -> None:
    shell.source_lab_env()
    shell.export(**OWN)
    assert nordmesh(shell.checkout, *command, "--stack", "prod") != 0
    assert shell.used_backend() == " ".join(OWN.values())


@pytest.mark.parametrize("command", COMMANDS[:4], ids=" ".join)
def test_the_lab_stack_uses_the_lab_backend(shell: Shell, command: list[str]) -> None:
    shell.source_lab_env()
    assert nordmesh(shell.checkout, *command, "--stack", "local") != 0
    assert shell.used_backend() == " ".join(LAB.values())


def test_the_default_stack_is_the_selected_one(
    shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.export(**OWN)
    assert nordmesh(shell.checkout, "explain") == 1
    error = capsys.readouterr().err
    assert "[no-stack]" in error
    assert "pulumi stack select" in error
    (shell.checkout / "bin" / "pulumi").write_text(
        '#!/bin/sh\n[ "$1 $2" = "stack --show-name" ] && echo prod\n'
    )
    assert nordmesh(shell.checkout, "report", "egress") == 0
    assert "api.acquirer.example" in capsys.readouterr().out
    monkeypatch.setenv("PULUMI_STACK", "nope")
    assert nordmesh(shell.checkout, "explain") == 1
    assert "Pulumi.nope.yaml [no-stack-file]" in capsys.readouterr().err
