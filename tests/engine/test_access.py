"""Egress, callers and sidecar sizes in a real engine: a preview shows them, with no cluster."""

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


def everything(config: dict[str, Any]) -> None:
    mesh = config["nordmesh:mesh"]
    mesh["namespaces"]["backend"] |= {"limitView": True, "pods": 100}
    mesh["services"]["payment-service"]["callers"] = [{"serviceAccount": "backend/reports"}]
    mesh["egress"]["hosts"]["card-acquirer"] |= {"tls": "originate", "caSecret": SECRET_OF_A_CA}
    mesh["workloads"] = {"payment-service-v1": {"namespace": "backend", "concurrency": 1}}
    for name in ("worker-1", "worker-2"):
        node = config["nordmesh:machines"]["nodes"][name]
        node["capacity"] = {"cpu": "4", "memory": "15Gi"}


def test_a_preview_shows_who_may_call_whom(own_program: Program) -> None:
    shown = own_program.preview(everything)
    assert shown.returncode == 0, shown.stdout
    for kind in ("AuthorizationPolicy", "Sidecar", "ServiceEntry", "Gateway", "DeploymentPatch"):
        assert kind in shown.stdout
    assert "cluster.local/ns/backend/sa/reports" in shown.stdout
    assert "nordmesh.io/legal-basis" in shown.stdout
    assert "are 12 cores, and the nodes have 8 cores" in shown.stdout


def test_a_list_beside_allow_any_fails_at_preview(own_program: Program) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["nordmesh:istio"]["outboundTrafficPolicy"] = "ALLOW_ANY"

    shown = own_program.preview(edit)
    assert shown.returncode != 0
    assert "[egress-policy-allows-any]" in shown.stdout
    assert "Traceback" not in shown.stdout
