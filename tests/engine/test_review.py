"""Summaries of previews from a real engine, for the stack of the lab, without machines."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import catalogue
from lab import paths, toolchain
from tests.engine.deployed import Deployed
from tests.support.program import copy_program

STACK = "local"
# Connections to this address are refused, so no cluster on this machine is contacted.
NO_CLUSTER = "http://127.0.0.1:9"

Edit = Callable[[dict[str, Any]], None]
Completed = subprocess.CompletedProcess[str]


class Program:
    """Copy of the program with the stack file of the lab, but no lab."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        copy_program(directory)
        keys = [download.key for download in catalogue.all_downloads()]
        (directory / ".lab").mkdir()
        lock = {"binaries": dict.fromkeys(keys, "0" * 64)}
        (directory / ".lab" / "artifacts.lock.json").write_text(json.dumps(lock))
        (directory / "backend").mkdir()
        passphrase = directory / "passphrase"
        passphrase.write_text("only for this test")
        self._environment = {
            **toolchain.environment(),
            "PULUMI_BACKEND_URL": (directory / "backend").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
            "HTTPS_PROXY": NO_CLUSTER,
            "NO_PROXY": "",
            "PYTHONPATH": os.pathsep.join([str(paths.PROJECT), *filter(None, sys.path)]),
        }
        shipped = yaml.safe_load((paths.PROJECT / f"Pulumi.{STACK}.yaml").read_text())
        self.config: dict[str, Any] = shipped["config"]
        self.write(no_change)
        self.pulumi("stack", "init", STACK)

    def write(self, edit: Edit) -> None:
        """Write the stack file with an edit of its config, and keep its encryption salt."""
        file = self._directory / f"Pulumi.{STACK}.yaml"
        document = yaml.safe_load(file.read_text()) if file.exists() else {}
        salt = {key: document[key] for key in ("encryptionsalt",) if key in document}
        config = json.loads(json.dumps(self.config))
        edit(config)
        file.write_text(yaml.safe_dump({"config": config, **salt}))

    def deploy(self, *, age: int = 0) -> None:
        """Import the state of a successful update. age: of the cluster, in days."""
        first = json.loads(self.pulumi("preview", "--json", "--stack", STACK).stdout)
        nodes = self.config["nordmesh:machines"]["nodes"]
        state = Deployed(
            first,
            addresses={name: node["address"] for name, node in nodes.items()},
            endpoint=self.config["nordmesh:kubernetes"]["endpoint"],
            age=age,
        )
        exported = json.loads(self.pulumi("stack", "export", "--stack", STACK).stdout)
        file = self._directory / "state.json"
        file.write_text(state.deployment(exported))
        self.pulumi("stack", "import", "--stack", STACK, "--file", str(file))

    def review(self, *arguments: str) -> Completed:
        """Run `python -m cli review --stack local`."""
        return self._run(sys.executable, "-m", "cli", "review", "--stack", STACK, *arguments)

    def pulumi(self, *arguments: str) -> Completed:
        completed = self._run("pulumi", *arguments, "--non-interactive")
        assert completed.returncode == 0, completed.stderr
        return completed

    def _run(self, *command: str) -> Completed:
        return subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Program:
    program = Program(tmp_path_factory.mktemp("deployed"))
    program.deploy()
    return program


def weight(value: int) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        config["nordmesh:mesh"]["services"]["checkout"]["canary"]["weight"] = value

    return edit


def without_worker(config: dict[str, Any]) -> None:
    del config["nordmesh:machines"]["nodes"]["worker-1"]


def no_change(config: dict[str, Any]) -> None:
    del config


def test_a_first_preview_is_summarized(program: Program) -> None:
    program.write(no_change)
    result = program.review()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("## First preview of `local`\n")
    for message in (
        "a cluster with Kubernetes `1.23.17` and Istio `1.16.5`",
        "| `shop/checkout` | all | `v1/v2` | no route | **90/10** |",
        "**shop**: plaintext will be refused (new, STRICT)",
        "**worker-1** is **added** (worker, 10.66.0.21, container)",
        "will be known only during the update",
    ):
        assert message in result.stdout


def test_an_invalid_stack_file_is_reported(program: Program) -> None:
    program.write(weight(101))
    result = program.review()
    assert result.returncode == 1
    assert result.stdout.startswith("## Preview of `local` failed\n")
    assert "nordmesh:mesh.services.checkout.canary.weight" in result.stdout
    assert "### Traffic" not in result.stdout


def test_a_missing_stack_is_reported(program: Program) -> None:
    result = program.review("--stack", "nowhere")
    assert result.returncode == 1
    assert "## Preview of `nowhere` failed" in result.stdout
    assert "no stack named 'nowhere' found" in result.stdout


def test_a_preview_without_changes_is_summarized(deployed: Program) -> None:
    deployed.write(no_change)
    result = deployed.review()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("## Preview of `local`: no changes\n")


def test_a_weight_edit_is_summarized_as_one_update(deployed: Program) -> None:
    deployed.write(weight(25))
    result = deployed.review()
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("## Preview of `local`: 1 updated\n")
    assert "| `shop/checkout` | all | `v1/v2` | 90/10 | **75/25** |" in result.stdout
    for title in ("Nodes", "Versions", "Egress", "Replacements", "Encryption"):
        assert f"### {title}" not in result.stdout


@pytest.mark.parametrize("name", ["cp-1-init", "worker-1-join", "worker-1-ready", "istio-install"])
def test_a_replacement_deletes_before_it_creates(deployed: Program, name: str) -> None:
    """Otherwise the delete script would undo the work of the new resource."""
    deployed.write(no_change)
    state = json.loads(deployed.pulumi("stack", "export", "--stack", STACK).stdout)
    resources = state["deployment"]["resources"]
    (urn,) = (resource["urn"] for resource in resources if resource["urn"].endswith(f"::{name}"))
    replace = ("preview", "--json", "--stack", STACK, "--target-replace", urn)
    steps = json.loads(deployed.pulumi(*replace, "--show-replacement-steps").stdout)["steps"]
    operations = [step["op"] for step in steps if step["urn"] == urn]
    assert operations == ["delete-replaced", "replace", "create-replacement"]


def test_a_removed_node_is_drained_and_no_other_change_is_shown(deployed: Program) -> None:
    deployed.write(without_worker)
    result = deployed.review()
    assert result.returncode == 0, result.stderr
    assert "**worker-1** is **removed**: drained within" in result.stdout
    assert "**DELETE** script on a node `worker-1-ready`" in result.stdout
    # The control plane, which pods may use now, prints the same kubeconfig.
    assert "without a visible change" not in result.stdout
    assert "### Traffic" not in result.stdout
    assert "BEGIN" not in result.stdout


@pytest.mark.parametrize("age", [270, 280])
def test_a_kubeconfig_is_renewed_from_90_days_before_its_end(tmp_path: Path, age: int) -> None:
    """The engine knows the day from the state: no node is asked."""
    program = Program(tmp_path)
    program.deploy(age=age)
    result = program.review()
    assert result.returncode == 0, result.stderr
    text = "**the kubeconfig in the stack's outputs gets a new certificate**"
    assert (text in result.stdout) == (age == 280)
    title = "## Preview of `local`: no changes\n"
    assert result.stdout.startswith(title) == (age == 270)
    if age == 280:
        assert "update script on a node `cp-1-credentials`" in result.stdout
        assert "without a visible change" in result.stdout
    assert "BEGIN" not in result.stdout
