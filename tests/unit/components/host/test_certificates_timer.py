"""The timer that renews certificates, on a fake node: which nodes have it, and when it runs."""

import pytest

from components.host.table import CERTIFICATES
from tests.unit import node
from tests.unit.machine import Machine

TIMER = "nordmesh-certificates.timer"
FILES = (
    CERTIFICATES,
    f"/etc/systemd/system/{TIMER}",
    "/etc/systemd/system/nordmesh-certificates.service",
)


@pytest.fixture
def plane(machine: Machine) -> Machine:
    node.make(machine)
    machine.fake("ip")
    prepare(machine)
    return machine


def prepare(machine: Machine) -> None:
    result = node.prepare(machine, "1", node.stack("1Gi"), role="control-plane")
    assert result.status == 0, result.stderr


def runs(machine: Machine) -> bool:
    return machine.exists(f"/services/{TIMER}/runs")


def restarts(machine: Machine) -> int:
    return machine.calls("systemctl").count(f"systemctl restart {TIMER}")


def test_a_control_plane_has_the_timer_now_and_after_a_boot(plane: Machine) -> None:
    assert all(map(plane.exists, FILES))
    assert runs(plane)
    assert plane.exists(f"/enabled/{TIMER}")
    prepare(plane)
    assert restarts(plane) == 1


def test_a_worker_has_none(machine: Machine) -> None:
    node.make(machine)
    result = node.prepare(machine, "1", node.stack("1Gi"))
    assert result.status == 0, result.stderr
    assert not any(map(machine.exists, FILES))
    assert not runs(machine)


def test_a_stopped_timer_starts_again(plane: Machine) -> None:
    plane.shell(f"systemctl stop {TIMER}")
    assert not runs(plane)
    prepare(plane)
    assert runs(plane)


def test_a_machine_that_is_no_node_any_more_has_none(plane: Machine) -> None:
    result = node.reset(plane)
    assert result.status == 0, result.stderr
    assert not any(map(plane.exists, FILES))
    assert not runs(plane)
    assert not plane.exists(f"/enabled/{TIMER}")
