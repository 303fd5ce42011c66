"""The policy pack in a real engine: each rule on a stack that violates it and on a valid one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.review.preview import Preview, parse
from components.manifests import Manifest, istio_operator, kubeadm, mtls
from components.remote.node_command import Script
from config import Istio, Namespace, annotations, catalogue
from lab import paths, toolchain
from policy.rules import RULES
from tests.support.program import copy_program

STACK = "planted"
# The resources of a stack are read from a file, so that one program serves all tests.
PROGRAM = """
import json
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s
from pulumi_command import remote

planted = json.loads(Path("planted.json").read_text())
for name, command in planted["commands"].items():
    options = pulumi.ResourceOptions(protect=planted["protect"])
    made = remote.Command(name, opts=options, **command)
# The lab's command provider refuses such a connection by itself, the official one does not.
for name, connection in planted["connections"].items():
    pulumi.ComponentResource("command:remote:CopyToRemote", name, {"connection": connection})
# Its kubeconfig is unknown in a preview: no cluster is asked.
provider = k8s.Provider("cluster", kubeconfig=made.stdout, cluster_identifier="planted")
for manifest in planted["manifests"]:
    version, metadata = manifest["apiVersion"], manifest["metadata"]
    group = version if "/" in version else f"core/{version}"
    pulumi.CustomResource(
        f"kubernetes:{group}:{manifest['kind']}",
        "/".join(filter(None, (metadata.get("namespace"), metadata["name"]))),
        manifest,
        pulumi.ResourceOptions(provider=provider, protect=planted["protect"]),
    )
"""
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMzNsUV9RQZwmrc4raNm0Y4aFxMRzNjLZVZzGXBzMKhw"
TOKEN = "ghp_" + "a" * 36


class Program:
    """Copy of the project that previews any stack with the policy pack."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        copy_program(directory)
        (directory / "backend").mkdir()
        passphrase = directory / "passphrase"
        passphrase.write_text("only for this test")
        keys = [download.key for download in catalogue.all_downloads()]
        (directory / ".lab").mkdir()
        for lock in (".lab/artifacts.lock.json", "stacks/artifacts.lock.json"):
            content = {"binaries": dict.fromkeys(keys, "0" * 64)}
            (directory / lock).write_text(json.dumps(content))
        self._environment = {
            **toolchain.environment(),
            "PULUMI_BACKEND_URL": (directory / "backend").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
            "PULUMI_ENABLE_STREAMING_JSON_PREVIEW": "true",
        }

    def plant(self, planted: dict[str, Any], config: dict[str, Any]) -> Preview:
        """Preview a stack with these commands, objects and configuration."""
        (self._directory / "__main__.py").write_text(PROGRAM)
        (self._directory / "planted.json").write_text(json.dumps(planted))
        file = self._directory / f"Pulumi.{STACK}.yaml"
        file.write_text(yaml.safe_dump({"config": config}))
        if not any((self._directory / "backend").rglob(f"{STACK}.json")):
            self._pulumi("stack", "init", STACK)
        return self.preview(STACK)

    def ship(self, stack: str, key: str | None = None) -> None:
        """Copy a shipped stack file."""
        shutil.copy2(paths.PROJECT / "__main__.py", self._directory)
        shutil.copy2(paths.PROJECT / f"Pulumi.{stack}.yaml", self._directory)
        file = self._directory / f"Pulumi.{stack}.yaml"
        document = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({"config": document["config"]}))
        self._pulumi("stack", "init", stack)
        if key:
            command = ("config", "set", "--secret", "nordmesh:sshPrivateKey", "--stack", stack)
            self._pulumi(*command, stdin=key)

    def preview(self, stack: str) -> Preview:
        command = ("preview", "--json", "--stack", stack, "--policy-pack", "policy")
        result = self._pulumi(*command, check=False)
        assert result.stdout, result.stderr
        return parse(result.stdout)

    def review(self, stack: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m cli review` with the pack in the copy of the project."""
        command = (sys.executable, "-m", "cli", "review", "--stack", stack)
        return self._run(*command, "--policy-pack", "policy")

    def _pulumi(
        self, *arguments: str, stdin: str = "", check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        result = self._run("pulumi", *arguments, "--non-interactive", stdin=stdin)
        assert result.returncode == 0 or not check, result.stderr
        return result

    def _run(self, *command: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def command(file: str, settings: dict[str, str]) -> dict[str, Any]:
    login = {"host": "192.0.2.11", "user": "root", "private_key": "k", "host_key": HOST_KEY}
    script = Script(file=file, node="cp-1", settings=settings)
    return {"connection": login, "create": script.command("root")}


def operator(**values: Any) -> dict[str, str]:
    istio = Istio.model_validate({"version": "1.16.5", **values})
    return {"CONTROL_PLANE": kubeadm.to_yaml([istio_operator.control_plane(istio)])}


def service_entry(host: str, **stated: str) -> Manifest:
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "ServiceEntry",
        "metadata": {"name": host, "namespace": "shop", "annotations": stated},
        "spec": {"hosts": [host], "location": "MESH_EXTERNAL"},
    }


def gateway(host: str) -> Manifest:
    server = {"hosts": [host], "port": {"number": 443, "name": "https", "protocol": "HTTPS"}}
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "Gateway",
        "metadata": {"name": "public", "namespace": "shop"},
        "spec": {"servers": [server]},
    }


def deployment(image: str, url: str, cpu: str) -> Manifest:
    container = {"name": "app", "image": image, "env": [{"name": "LOGS", "value": url}]}
    annotated = {"annotations": {"sidecar.istio.io/proxyCPULimit": cpu}, "labels": {"app": "it"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "it"}},
            "template": {"metadata": annotated, "spec": {"containers": [container]}},
        },
    }


BAD: dict[str, Any] = {
    "protect": False,
    "connections": {"copy": {"host": "192.0.2.11", "proxy": {"host": "192.0.2.1"}}},
    "commands": {
        "prepare": command(
            "node-prepare.sh",
            {
                "KUBERNETES_VERSION": "1.23.17",
                "BINARIES": "kubeadm 00 /usr/local/bin - https://dl.k8s.io/kubeadm",
                "IMAGES": "docker.io/istio/pilot:1.16.5 -",
                "PASSED_ON": TOKEN,
            },
        ),
        "init": command("kubeadm-init.sh", {}),
        "guest": command("kvm-create.sh", {"IMAGE_PATH": "/srv/debian.qcow2"}),
        "install": command(
            "istio-install.sh",
            operator(values={"global": {"proxy": {"resources": {"limits": {"cpu": "100m"}}}}}),
        ),
    },
    "manifests": [
        mtls.namespace("shop", Namespace(), kubernetes="1.23.17"),
        mtls.peer_authentication("istio-system", "PERMISSIVE"),
        gateway("*"),
        service_entry("backups.s3.us-east-1.amazonaws.com"),
        service_entry("lake.s3.eu-north-1.amazonaws.com"),
        service_entry("unheard.of.partner.no"),
        service_entry("said.s3.us-east-2.amazonaws.com", **{annotations.COUNTRY: "NO"}),
        service_entry("moved.docker.com", **{annotations.COUNTRY: "NO"}),
        deployment("registry.internal/app:latest", "https://logs.datadoghq.com/v1", "200m"),
    ],
}
BAD_CONFIG = {
    "nordmesh:istio": {"values": {"apiKey": "hush-hush-hush"}},
    "nordmesh:host": {
        "firewall": {"enabled": False},
        "ssh": {"hardened": False},
        "timeServers": ["0.pool.ntp.org"],
    },
    "nordmesh-policy:accept": {"docker.io": "because", "quay.io": "once needed by the registry"},
}
GOOD: dict[str, Any] = {
    "protect": True,
    "connections": {"copy": {"host": "192.0.2.11", "hostKey": HOST_KEY}},
    "commands": {
        "prepare": command(
            "node-prepare.sh",
            {
                "BINARIES": "kubeadm 00 /usr/local/bin - https://mirror.internal/dl.k8s.io/kubeadm",
                "IMAGES": f"registry.internal/pilot:1.16.5 sha256:{'0' * 64}",
            },
        ),
        "init": command("kubeadm-init.sh", {}),
        "guest": command(
            "kvm-create.sh", {"IMAGE_PATH": "/srv/debian.qcow2", "IMAGE_SHA256": "0" * 64}
        ),
    },
    "manifests": [
        mtls.namespace("shop", Namespace(), kubernetes="1.23.17"),
        mtls.peer_authentication("istio-system", "STRICT"),
        gateway("shop.example.no"),
        service_entry("backups.s3.fr-par.scw.cloud"),
        service_entry("api.partner.no", **{annotations.COUNTRY: "NO"}),
        service_entry(
            "api.partner.com", **{annotations.COUNTRY: "US", annotations.TRANSFER_BASIS: "SCC"}
        ),
        deployment(f"registry.internal/app@sha256:{'0' * 64}", "https://logs.internal/v1", "1"),
    ],
}
GOOD_CONFIG: dict[str, Any] = {"nordmesh:istio": {"values": {"secretName": "shop-cert"}}}

# Rules that no resource or configuration can violate, because they read the environment.
UNIT_TESTED = {"visible-state"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def bad(program: Program) -> Preview:
    return program.plant(BAD, BAD_CONFIG)


@pytest.mark.parametrize(
    ("rule", "is_mandatory", "message"),
    [
        ("eea-residency", True, "the egress host backups.s3.us-east-1.amazonaws.com is outside"),
        ("eea-residency", True, "the country of the egress host unheard.of.partner.no is unknown"),
        ("eea-residency", True, "the egress host said.s3.us-east-2.amazonaws.com is outside"),
        ("eea-residency", True, "the egress host moved.docker.com in NO, but"),
        ("eea-residency", True, "the download host dl.k8s.io is outside"),
        ("eea-residency", True, "the time server 0.pool.ntp.org is not in"),
        ("hardened-hosts", True, "nordmesh:host.firewall.enabled is false"),
        ("hardened-hosts", True, "nordmesh:host.ssh.hardened is false"),
        ("eea-residency", True, "the endpoint in Deployment shop/app logs.datadoghq.com is out"),
        ("foreign-law", False, "lake.s3.eu-north-1.amazonaws.com is in SE"),
        ("strict-mtls", True, "the namespace shop is PERMISSIVE"),
        ("pinned-host-keys", True, "copy has a connection without a host key"),
        ("pinned-host-keys", True, "copy has a connection through a proxy without a host key"),
        ("no-wildcard-gateways", True, "the gateway shop/public accepts requests for every host"),
        ("protected-data", True, "the cluster of init is not protected"),
        ("protected-data", True, "Namespace shop is not protected"),
        ("proxy-limits", True, "the proxies of the mesh get at most 100m of cpu"),
        ("proxy-limits", True, "the proxies of shop/app get at most 200m of cpu"),
        ("pinned-images", True, "registry.internal/app:latest is not pinned"),
        ("pinned-guest-images", True, "the guest image /srv/debian.qcow2 has no sha256"),
        ("images-by-digest", False, "docker.io/istio/pilot:1.16.5"),
        ("end-of-life", False, "Kubernetes 1.23.17 has had no security fixes since 2023-02-28"),
        ("end-of-life", False, "Istio 1.16.5 has had no security fixes since 2023-07-25"),
        ("no-plain-secrets", True, "nordmesh:istio has a secret by its name in plaintext"),
        ("no-plain-secrets", True, "prepare has a GitHub token in its setting PASSED_ON"),
        ("reasons", True, "the reason for docker.io at nordmesh-policy:accept is too short"),
        ("let-through", False, "docker.io is waived: because"),
        ("let-through", False, "names quay.io, but it waives nothing"),
    ],
)
def test_a_violation_is_reported(bad: Preview, rule: str, is_mandatory: bool, message: str) -> None:
    texts = [
        violation.text
        for violation in bad.violations
        if violation.policy == rule and violation.is_mandatory is is_mandatory
    ]
    assert any(message in text for text in texts), texts


def test_every_rule_is_violated_and_none_fails(bad: Preview) -> None:
    assert {v.policy for v in bad.violations} | UNIT_TESTED == {rule.name for rule in RULES}
    assert bad.is_refused
    assert not bad.errors
    text = str(bad.violations)
    assert "hush" not in text
    assert TOKEN not in text


def test_a_bucket_in_the_us_is_refused_and_one_in_the_eea_passes(program: Program) -> None:
    entries = GOOD["manifests"]
    us = service_entry("logs.s3.us-east-1.amazonaws.com")
    program.plant({**GOOD, "manifests": [*entries, us]}, GOOD_CONFIG)
    result = program.review(STACK)
    assert result.returncode == 1
    assert ": refused by the policy pack (" in result.stdout.splitlines()[0]
    assert "- **eea-residency**: " in result.stdout
    assert "the egress host logs.s3.us-east-1.amazonaws.com is outside the EEA" in result.stdout
    eea = service_entry("logs.s3.nl-ams.scw.cloud")
    program.plant({**GOOD, "manifests": [*entries, eea]}, GOOD_CONFIG)
    result = program.review(STACK)
    assert result.returncode == 0
    assert "policy pack" not in result.stdout


def test_a_stack_without_violations_passes_every_rule(program: Program) -> None:
    good = program.plant(GOOD, GOOD_CONFIG)
    assert not good.violations
    assert not good.errors
    assert len(good.changes) > len(GOOD["manifests"])


def test_allowing_data_loss_in_production_is_refused(program: Program) -> None:
    config = {**GOOD_CONFIG, "nordmesh:machines": {"allowDataLoss": True}}
    (violation,) = program.plant(GOOD, config).violations
    assert violation.policy == "protected-data"


@pytest.mark.parametrize("stack", ["local", "prod", "staging"])
def test_the_shipped_stacks_pass_the_policy_pack(
    program: Program, tmp_path: Path, stack: str
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    program.ship(stack, None if stack == "local" else key.read_text())
    preview = program.preview(stack)
    assert not [violation for violation in preview.violations if violation.is_mandatory]
    assert not preview.errors
    assert preview.is_first
    assert {violation.policy for violation in preview.violations} >= {"end-of-life"}
