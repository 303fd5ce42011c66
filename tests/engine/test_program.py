"""The program in a real engine: previews of valid and invalid stack files, without machines."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import catalogue
from lab import paths, toolchain
from lab.ports import reserved_port
from lab.stack import strip_salt
from tests.support.program import copy_program
from tests.support.ssh_way import redirected

STACK = "bought"
LOCK = "test.lock.json"

Edit = Callable[[dict[str, Any]], None]


class Program:
    """A copy of the program with the example of bought machines as its stack."""

    def __init__(self, directory: Path, private_key: str) -> None:
        self._directory = directory
        copy_program(directory)
        keys = [download.key for download in catalogue.all_downloads()]
        (directory / LOCK).write_text(json.dumps({"binaries": dict.fromkeys(keys, "0" * 64)}))
        backend = directory / "backend"
        backend.mkdir()
        passphrase = directory / "passphrase"
        passphrase.write_text("only for this test")
        self._environment = {
            **toolchain.environment(),
            "PULUMI_BACKEND_URL": backend.as_uri(),
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
        }
        self._file = directory / f"Pulumi.{STACK}.yaml"
        self.local_file = directory / "Pulumi.local.yaml"
        shutil.copy2(paths.PROJECT / "Pulumi.prod.yaml", self._file)
        self.pulumi("stack", "init", STACK)
        self.pulumi("config", "set", "--secret", "nordmesh:sshPrivateKey", stdin=private_key)
        self._stack_file = yaml.safe_load(self._file.read_text())
        self._stack_file["config"]["nordmesh:artifacts"] = {"lock": LOCK}

    def preview(self, edit: Edit, *, more: str = "") -> "subprocess.CompletedProcess[str]":
        """Run `pulumi preview` after an edit of the stack file. more: text to append."""
        self.write(edit, more=more)
        return self.pulumi("preview", "--diff", check=False)

    def up(self, edit: Edit, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `pulumi up` after an edit of the stack file."""
        self.write(edit)
        return self.pulumi("up", "--yes", "--skip-preview", *arguments, check=False)

    def write(self, edit: Edit, *, more: str = "") -> None:
        document = json.loads(json.dumps(self._stack_file))
        edit(document["config"])
        self._file.write_text(yaml.safe_dump(document) + more)

    def pulumi(
        self, *arguments: str, stdin: str = "", check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--color=never"],
            cwd=self._directory,
            env=self._environment,
            input=stdin,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
            check=check,
        )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    directory = tmp_path_factory.mktemp("program")
    key = directory / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return Program(directory, key.read_text())


def weight(value: object) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        config["nordmesh:mesh"]["services"]["payment-service"]["canary"]["weight"] = value

    return edit


def canary_is_stable(config: dict[str, Any]) -> None:
    config["nordmesh:mesh"]["services"]["payment-service"]["canary"]["subset"] = "v1"


def inject_system(config: dict[str, Any]) -> None:
    config["nordmesh:mesh"]["namespaces"]["kube-system"] = {"injection": True}


def unknown_profile(config: dict[str, Any]) -> None:
    config["nordmesh:istio"]["profile"] = "fast"


def unsupported_pair(config: dict[str, Any]) -> None:
    config["nordmesh:istio"]["version"] = "1.18.7"


def duplicate_address(config: dict[str, Any]) -> None:
    nodes = config["nordmesh:machines"]["nodes"]
    nodes["worker-2"]["address"] = nodes["worker-1"]["address"]


def no_control_plane(config: dict[str, Any]) -> None:
    del config["nordmesh:machines"]["nodes"]["cp-1"]


def no_host_key(config: dict[str, Any]) -> None:
    del config["nordmesh:machines"]["nodes"]["cp-1"]["hostKey"]


def bad_cidr(config: dict[str, Any]) -> None:
    config["nordmesh:kubernetes"]["podCidr"] = "10.244.0.0/99"


def unknown_key(config: dict[str, Any]) -> None:
    config["nordmesh:istio"]["egresGateways"] = {}


@pytest.mark.parametrize(
    ("edit", "path", "message"),
    [
        (
            weight(101),
            "nordmesh:mesh.services.payment-service.canary.weight",
            "[canary-weight-range]",
        ),
        (
            weight(-1),
            "nordmesh:mesh.services.payment-service.canary.weight",
            "[canary-weight-range]",
        ),
        (
            canary_is_stable,
            "nordmesh:mesh.services.payment-service.canary",
            "[canary-equals-stable]",
        ),
        (inject_system, "nordmesh:mesh.namespaces.kube-system", "[namespace-system]"),
        (unknown_profile, "nordmesh:istio.profile", "default"),
        (unsupported_pair, "nordmesh:istio.version", "1.17.8"),
        (duplicate_address, "nordmesh:machines.nodes.worker-2.address", "192.0.2.21"),
        (no_control_plane, "nordmesh:machines.nodes", "control-plane"),
        (no_host_key, "nordmesh:machines.nodes.cp-1.hostKey", "host key"),
        (bad_cidr, "nordmesh:kubernetes.podCidr", "10.244.0.0/99"),
        (unknown_key, "nordmesh:istio.egresGateways", "egressGateways"),
    ],
)
def test_an_invalid_stack_file_fails_at_preview(
    program: Program, edit: Edit, path: str, message: str
) -> None:
    result = program.preview(edit)
    assert result.returncode != 0
    assert (
        "the stack's configuration is invalid; nothing was changed [config-invalid]"
        in result.stdout
    )
    assert path in result.stdout
    assert message in " ".join(result.stdout.split())
    assert "1 error\n" in result.stdout
    assert "Traceback" not in result.stdout


def no_edit(config: dict[str, Any]) -> None:
    pass


def plaintext_key(config: dict[str, Any]) -> None:
    text = "-----BEGIN OPENSSH PRIVATE KEY-----\naHVudGVyMg\n-----END OPENSSH PRIVATE KEY-----\n"
    config["nordmesh:sshPrivateKey"] = text


@pytest.mark.parametrize(
    ("edit", "more", "message"),
    [
        (plaintext_key, "", "nordmesh:sshPrivateKey [ssh-key-unencrypted]"),
        (no_edit, "nordmesh:host:\n  timeSync: false\n", "[key-outside-config]"),
        (no_edit, "---\nconfig:\n  nordmesh:demo: {}\n", "[several-documents]"),
    ],
)
def test_mistakes_outside_the_sections_fail_at_preview(
    program: Program, edit: Edit, more: str, message: str
) -> None:
    result = program.preview(edit, more=more)
    assert result.returncode != 0
    text = " ".join(result.stdout.split())
    assert message in text
    assert "1 error " in f"{text} "
    assert "Traceback" not in text
    assert "aHVudGVyMg" not in text


def test_a_misspelt_prefix_is_an_error(program: Program) -> None:
    program.write(weight(10))
    path = "nordmsh:mesh.services.payment-service.canary.weight"
    program.pulumi("config", "set", "--path", path, "0")
    result = program.pulumi("preview", check=False)
    assert result.returncode != 0
    assert path in result.stdout
    assert "nordmesh:mesh" in result.stdout
    assert "Traceback" not in result.stdout


def test_all_errors_are_reported_at_once(program: Program) -> None:
    def edit(config: dict[str, Any]) -> None:
        for mistake in (weight(101), inject_system, unknown_profile, bad_cidr, unknown_key):
            mistake(config)

    result = program.preview(edit)
    assert "5 errors\n" in result.stdout, result.stdout


def test_the_first_preview_needs_no_network_to_the_nodes(program: Program) -> None:
    result = program.preview(weight(10))
    assert result.returncode == 0, result.stdout
    for text in ("worker-2-join", "istio-install", "VirtualService", "to create"):
        assert text in result.stdout
    assert "BEGIN OPENSSH" not in result.stdout


@pytest.mark.parametrize("pack", [(), ("--policy-pack", "policy")])
def test_a_failed_update_ends_with_its_reason(program: Program, pack: tuple[str, ...]) -> None:
    with reserved_port() as closed, redirected("192.0.2.0/24", closed):
        result = program.up(weight(10), *pack)
    assert result.returncode != 0
    assert "does not answer over SSH" in " ".join(result.stdout.split())
    assert "KeyboardInterrupt" not in result.stdout
    assert "Traceback" not in result.stdout


def test_the_lab_restores_its_stack_file(program: Program) -> None:
    shutil.copy2(paths.PROJECT / "Pulumi.local.yaml", program.local_file)
    before = program.local_file.read_text()
    program.pulumi("stack", "init", "local", "--no-select")
    assert "encryptionsalt" in program.local_file.read_text()
    strip_salt(program.local_file)
    assert program.local_file.read_text() == before


def test_two_nodes_with_the_same_name_are_refused(program: Program) -> None:
    text = (paths.PROJECT / "Pulumi.local.yaml").read_text()
    program.local_file.write_text(text.replace("worker-1:", "cp-1:"))
    result = program.pulumi("preview", "--stack", "local", check=False)
    assert result.returncode != 0
    assert 'mapping key "cp-1" already defined' in result.stdout
