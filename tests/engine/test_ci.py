"""The steps of the CI pipelines, run in a checkout with a real engine."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from config import catalogue
from lab import paths, toolchain
from tests.support.program import copy_program

Completed = subprocess.CompletedProcess[str]

_SMALL = """\
import pulumi

pulumi.ComponentResource("test:index:Thing", "first")
"""
# Records the policy packs and runs without them, because test_policy.py tests them.
_PULUMI = """\
#!/usr/bin/env bash
arguments=()
while (($#)); do
    if [[ $1 == --policy-pack ]]; then
        echo "$2" >>"$PACKS"
        shift
    else
        arguments+=("$1")
    fi
    shift
done
exec "$REAL_PULUMI" "${arguments[@]}"
"""


class Checkout:
    """A checkout of the program in a separate directory, with a separate state."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "checkout"
        self.packs = root / "packs"
        self.directory.mkdir(parents=True)
        copy_program(self.directory)
        for name in ("ci", "lab"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(paths.PROJECT / name, self.directory / name, ignore=ignored)
        for name in (".gitignore", "requirements.lock", "Pulumi.staging.yaml"):
            shutil.copy2(paths.PROJECT / name, self.directory)
        (self.directory / ".gitignore").write_text(".venv\n__pycache__\n")
        (root / "state").mkdir()
        self.environment = self._environment(root)

    def _environment(self, root: Path) -> dict[str, str]:
        environment = toolchain.environment()
        real = shutil.which("pulumi", path=environment["PATH"])
        assert real, "there is no pulumi; `make test` and `make up` make it"
        command = root / "bin" / "pulumi"
        command.parent.mkdir()
        command.write_text(_PULUMI)
        command.chmod(0o755)
        del environment["PULUMI_CONFIG_PASSPHRASE_FILE"]
        return {
            **environment,
            "PATH": f"{command.parent}{os.pathsep}{environment['PATH']}",
            "PACKS": str(self.packs),
            "REAL_PULUMI": real,
            "PULUMI_BACKEND_URL": (root / "state").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "only for this test",
        }

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def run(self, *command: str) -> Completed:
        return subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def commit(self) -> None:
        author = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
            assert self.run("git", *author, *arguments).returncode == 0


def output_of(result: Completed) -> str:
    return result.stdout + result.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def small(checkout: Checkout) -> Checkout:
    """Checkout of a program with one resource, and its stack."""
    checkout.write("__main__.py", _SMALL)
    checkout.write("Pulumi.staging.yaml", "config: {}\n")
    result = checkout.run("pulumi", "stack", "init", "staging", "--non-interactive")
    assert result.returncode == 0, output_of(result)
    return checkout


def test_the_offline_preview_needs_no_secrets(checkout: Checkout) -> None:
    keys = [download.key for download in catalogue.all_downloads()]
    lock = {"binaries": dict.fromkeys(keys, "0" * 64)}
    checkout.write("stacks/artifacts.lock.json", json.dumps(lock))
    document = yaml.safe_load((checkout.directory / "Pulumi.staging.yaml").read_text())
    document["config"]["nordmesh:sshPrivateKey"] = {"secure": "v1:of:another"}
    document["config"]["nordmesh:alertWebhookUrl"] = {"secure": "v1:of:another"}
    document["config"]["nordmesh:observability"] = {
        "prometheus": {"enabled": True},
        "alertmanager": {
            "enabled": True,
            "webhook": {"host": "bridge.shop.svc.cluster.local", "port": 8443},
        },
    }
    checkout.write("Pulumi.staging.yaml", yaml.safe_dump({**document, "encryptionsalt": "v1:x:y"}))
    checkout.commit()
    for name in ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE"):
        del checkout.environment[name]
    result = checkout.run("ci/offline-preview.sh", "staging", "summary.md")
    summary = (checkout.directory / "summary.md").read_text()
    assert result.returncode == 0, output_of(result) + summary
    assert "worker-1" in summary
    assert "PRIVATE KEY" not in output_of(result) + summary
    assert "removed the secret nordmesh:sshPrivateKey" in result.stderr
    assert checkout.packs.read_text() == "policy\n"
    assert checkout.run("git", "status", "--short").stdout == "?? summary.md\n"


def test_the_steps_preview_deploy_and_check_for_drift(small: Checkout) -> None:
    preview = small.run("ci/preview.sh", "staging", "summary.md")
    assert preview.returncode == 0, output_of(preview)
    assert "first" in (small.directory / "summary.md").read_text()

    up = small.run("ci/up.sh", "staging")
    assert up.returncode == 0, output_of(up)
    assert "1 created" in up.stdout or "2 created" in up.stdout
    again = small.run("ci/up.sh", "staging")
    assert "2 unchanged" in again.stdout, output_of(again)
    assert set(small.packs.read_text().split()) == {"policy"}

    none = small.run("ci/drift.sh", "staging", "drift.md")
    assert none.returncode == 0, output_of(none)
    assert (small.directory / "drift.md").read_text() == none.stdout
    assert none.stdout.endswith("**No drift found.**\n")
    small.write("__main__.py", _SMALL + _SMALL.splitlines()[-1].replace("first", "second"))
    some = small.run("ci/drift.sh", "staging", "drift.md")
    assert some.returncode == 1, output_of(some)
    assert "`second`" in (small.directory / "drift.md").read_text()
    small.write("__main__.py", "import pulumi\n\nraise pulumi.RunError('no such sense')\n")
    failed = small.run("ci/drift.sh", "staging", "drift.md")
    assert failed.returncode == 3, output_of(failed)
    assert "no such sense" in (small.directory / "drift.md").read_text()


def test_a_failed_preview_reports_the_reason(small: Checkout) -> None:
    small.write("__main__.py", "import pulumi\n\nraise pulumi.RunError('no such sense')\n")
    result = small.run("ci/preview.sh", "staging", "summary.md")
    assert result.returncode == 1, output_of(result)
    assert "no such sense" in (small.directory / "summary.md").read_text()


@pytest.mark.parametrize("script", ["preview", "offline-preview", "up", "drift"])
def test_missing_arguments_are_refused(checkout: Checkout, script: str) -> None:
    result = checkout.run(f"ci/{script}.sh")
    assert result.returncode == 2
    assert f"usage: ci/{script}.sh STACK" in result.stderr


def test_the_workflows_are_valid() -> None:
    command = [str(paths.PROJECT / "ci" / "actionlint.sh")]
    subprocess.run(command, cwd=paths.PROJECT, check=True, timeout=600)


def test_an_invalid_workflow_is_refused(tmp_path: Path) -> None:
    workflow = tmp_path / "wrong.yaml"
    text = (paths.PROJECT / ".github" / "workflows" / "up.yaml").read_text()
    workflow.write_text(text.replace("matrix.stack", "matrix.stak"))
    command = [str(paths.PROJECT / "ci" / "actionlint.sh"), str(workflow)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 1
    assert 'property "stak" is not defined' in result.stdout
