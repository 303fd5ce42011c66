"""Edits of immutable settings are refused before any node is touched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.deployed import Deployed
from tests.engine.test_program import Program
from tests.support.fleet import Fleet, Server, address
from tests.support.kvm_stack import HYPERVISOR_KEYS, machines, private_key

Edit = Callable[[dict[str, Any]], None]

NODES = 3
ADDRESSES = NODES + 2
NETWORK = "203.0.113.0/24"
NEW_ADDRESS = address(NODES + 1, NETWORK)
UP = ("up", "--yes", "--skip-preview")
PREVIEW = ("preview",)


def node(name: str, **changes: object) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        config["nordmesh:machines"]["nodes"][name] |= changes

    return edit


def kubernetes(**changes: object) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        config["nordmesh:kubernetes"] |= changes

    return edit


def rename_node(config: dict[str, Any]) -> None:
    nodes = config["nordmesh:machines"]["nodes"]
    nodes["other"] = nodes.pop("node-0")


def change_weight(config: dict[str, Any]) -> None:
    config["nordmesh:mesh"]["services"]["checkout"]["canary"]["weight"] = 25


def move_node(server: Server, name: str) -> Edit:
    """Move a node to a machine that is not in the stack."""
    return node(name, address=NEW_ADDRESS, hostKey=server.host_key(NODES + 1))


@pytest.mark.parametrize("command", [PREVIEW, UP], ids=["preview", "up"])
@pytest.mark.parametrize(
    ("edit", "path"),
    [
        (node("node-0", address=NEW_ADDRESS), "machines.nodes.node-0.address"),
        (node("node-0", hostKey=HYPERVISOR_KEYS[0]), "machines.nodes.node-0.hostKey"),
        (node("node-1", address=NEW_ADDRESS), "machines.nodes.node-1.address"),
        (node("node-1", hostKey=HYPERVISOR_KEYS[0]), "machines.nodes.node-1.hostKey"),
        (kubernetes(endpoint="api.other.internal"), "kubernetes.endpoint"),
        (kubernetes(cgroupDriver="systemd"), "kubernetes.cgroupDriver"),
        (kubernetes(podCidr="10.32.0.0/16"), "kubernetes.podCidr"),
        (kubernetes(kubelet={"maxPods": 50}), "kubernetes.kubelet.maxPods"),
        (rename_node, "machines.nodes.node-0"),
    ],
)
def test_an_immutable_edit_is_refused_before_any_node_is_touched(
    fleet: Fleet, server: Server, edit: Edit, path: str, command: tuple[str, ...]
) -> None:
    fleet.write(NODES, edit)
    server.forget()
    result = fleet.run(*command)
    assert result.returncode != 0
    assert f"nordmesh:{path} [" in result.stdout
    for label in ("what ", "why ", "fix "):
        assert f"    {label}" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert server.ran == []
    if edit is not rename_node:  # a new name is measured by the preflight, which changes nothing
        assert server.opened == []


def test_reverting_the_edit_changes_nothing(fleet: Fleet, server: Server) -> None:
    server.forget()
    fleet.write(NODES)
    fleet.up()
    assert server.ran == []


def test_all_errors_of_a_moved_control_plane_are_reported_at_once(
    fleet: Fleet, server: Server
) -> None:
    fleet.write(NODES, move_node(server, "node-0"))
    output = fleet.run(*PREVIEW).stdout
    assert "nordmesh:machines.nodes.node-0.address [" in output
    assert "nordmesh:machines.nodes.node-0.hostKey [" in output


@pytest.mark.parametrize(
    "edit", [change_weight, node("node-0", user="deploy"), node("node-1", port=2222)]
)
def test_mutable_settings_can_be_edited(fleet: Fleet, edit: Edit) -> None:
    fleet.write(NODES, edit)
    result = fleet.run(*PREVIEW)
    assert result.returncode == 0, result.stdout
    assert "to update" in result.stdout


def test_a_declared_host_key_rotation_is_accepted(fleet: Fleet, server: Server) -> None:
    reason = "the keys of sshd were rotated on the same machine"
    rotation = {"previous": server.host_key(0), "reason": reason}
    fleet.write(NODES, node("node-0", hostKey=HYPERVISOR_KEYS[0], hostKeyRotation=rotation))
    result = fleet.run(*PREVIEW)
    assert result.returncode == 0, result.stdout


def test_a_node_that_never_joined_can_move_to_another_machine(fleet: Fleet, server: Server) -> None:
    new = f"node-{NODES}"
    server.failing.add((new, "kubeadm-join.sh"))
    fleet.write(NODES + 1)
    assert fleet.run(*UP).returncode != 0
    server.failing.clear()
    server.names[NODES + 1] = new
    fleet.write(NODES + 1, move_node(server, new))
    assert fleet.run(*PREVIEW).returncode == 0
    server.forget()
    fleet.up()
    assert (new, "kubeadm-join.sh") in server.ran
    # Now it has joined.
    fleet.write(NODES + 1)
    assert fleet.run(*PREVIEW).returncode != 0
    fleet.write(NODES)
    fleet.up()
    server.names.clear()


def test_a_worker_can_be_removed_and_added_on_another_machine(fleet: Fleet, server: Server) -> None:
    fleet.write(NODES + 1)
    fleet.up()
    fleet.write(NODES)
    fleet.up()
    new = f"node-{NODES}"
    server.names[NODES + 1] = new
    server.forget()
    fleet.write(NODES + 1, move_node(server, new))
    fleet.up()
    assert (new, "kubeadm-join.sh") in server.ran
    fleet.write(NODES)
    fleet.up()
    server.names.clear()


# --- guests --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hypervisors(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("guests"), private_key())


def guests(config: dict[str, Any]) -> None:
    config["nordmesh:machines"] = machines()
    del config["nordmesh:istio"]["ingressGateways"]


def edit_hypervisor(**changes: object) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        guests(config)
        config["nordmesh:machines"]["hypervisors"]["hv-1"] |= changes

    return edit


def test_moving_the_disks_of_guests_is_refused(hypervisors: Program, tmp_path: Path) -> None:
    hypervisors.preview(guests)
    first = json.loads(hypervisors.pulumi("preview", "--json").stdout)
    state = Deployed(
        first,
        addresses={name: node["address"] for name, node in machines()["nodes"].items()},
        endpoint="api.prod.example.internal",
        hypervisors=dict(zip(["hv-1", "hv-2"], HYPERVISOR_KEYS, strict=True)),
    )
    file = tmp_path / "state.json"
    file.write_text(state.deployment(json.loads(hypervisors.pulumi("stack", "export").stdout)))
    hypervisors.pulumi("stack", "import", "--file", str(file))
    assert hypervisors.preview(guests).returncode == 0
    for key, value in {
        "directory": "/srv/guests",
        "hostKey": HYPERVISOR_KEYS[1][:-4] + "AAAA",
    }.items():
        result = hypervisors.preview(edit_hypervisor(**{key: value}))
        assert result.returncode != 0
        assert f"nordmesh:machines.hypervisors.hv-1.{key} [" in result.stdout
        assert "Traceback" not in result.stdout
    moved = hypervisors.preview(edit_hypervisor(address="192.0.2.4"))
    assert moved.returncode == 0, moved.stdout
