"""Previews of egress, callers and proxy resources in a real engine, without a cluster."""

import subprocess
from typing import Any

import pytest

from tests.engine.test_program import Program

SECRET_OF_A_CA = "acquirer-ca"  # noqa: S105 (a name)


@pytest.fixture(scope="module")
def own_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    directory = tmp_path_factory.mktemp("access")
    key = directory / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return Program(directory, key.read_text())


def add_access_rules(config: dict[str, Any]) -> None:
    mesh = config["nordmesh:mesh"]
    mesh["namespaces"]["backend"] |= {"limitView": True, "pods": 100}
    mesh["services"]["payment-service"]["callers"] = [{"serviceAccount": "backend/reports"}]
    mesh["egress"]["hosts"]["card-acquirer"] |= {"tls": "originate", "caSecret": SECRET_OF_A_CA}
    mesh["workloads"] = {"payment-service-v1": {"namespace": "backend", "concurrency": 1}}
    for name in ("worker-1", "worker-2"):
        node = config["nordmesh:machines"]["nodes"][name]
        node["capacity"] = {"cpu": "4", "memory": "15Gi"}


def test_a_preview_shows_callers_and_egress(own_program: Program) -> None:
    result = own_program.preview(add_access_rules)
    assert result.returncode == 0, result.stdout
    for kind in ("AuthorizationPolicy", "Sidecar", "ServiceEntry", "Gateway", "DeploymentPatch"):
        assert kind in result.stdout
    assert "cluster.local/ns/backend/sa/reports" in result.stdout
    assert "nordmesh.io/legal-basis" in result.stdout
    assert "are 12 cores, and the nodes have 8 cores" in result.stdout


def test_egress_hosts_with_allow_any_fail_at_preview(own_program: Program) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["nordmesh:istio"]["outboundTrafficPolicy"] = "ALLOW_ANY"

    result = own_program.preview(edit)
    assert result.returncode != 0
    assert "[egress-policy-allows-any]" in result.stdout
    assert "Traceback" not in result.stdout
