"""Previews of a stack with KVM guests in a real engine, without a hypervisor."""

from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_program import Program
from tests.support.kvm_stack import machines, private_key


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    directory: Path = tmp_path_factory.mktemp("guests")
    return Program(directory, private_key())


def guests(config: dict[str, Any]) -> None:
    config["nordmesh:machines"] = machines()
    del config["nordmesh:istio"]["ingressGateways"]


def test_a_preview_needs_no_hypervisor(program: Program) -> None:
    result = program.preview(guests)
    assert result.returncode == 0, result.stdout
    for name in ("cp-1-guest", "worker-1-guest", "cp-1-host-key", "worker-1-prepare"):
        assert name in result.stdout
    assert "PRIVATE KEY" not in result.stdout


def test_an_invalid_stack_is_reported_without_a_traceback(program: Program) -> None:
    def edit(config: dict[str, Any]) -> None:
        guests(config)
        section = config["nordmesh:machines"]
        section["nodes"]["worker-1"]["hypervisor"] = "hv-9"
        section["kvm"] = {}

    result = program.preview(edit)
    assert result.returncode != 0
    text = " ".join(result.stdout.split())
    assert "nordmesh:machines.kvm.image" in text
    assert "there is no hypervisor hv-9" in text
    assert "2 errors" in text
    assert "Traceback" not in text
