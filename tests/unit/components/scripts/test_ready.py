"""node-prepare.sh ends once a node that was Ready is Ready again, with what has changed."""

from collections.abc import Callable

import pytest

from tests.unit import node
from tests.unit.machine import Machine, Result

BREAKS, REPAIRS = "printf False >/ready", "printf True >/ready"
MARK = "/etc/kubernetes/nordmesh-ready"
# /ready: the status of the condition; without it, the API server does not answer. /lease: the time
# of the last renewal; without it, the lease is renewed at each call.
_KUBECTL = """
case "$*" in
*renewTime*) [ -e /ready ] && { cat /lease 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%S.999999Z; } ;;
*.message*) echo 'container runtime is down' ;;
*.status*) cat /ready ;;
*metadata.name*) [ -e /ready ] && printf worker-1 ;;
esac
"""


@pytest.fixture
def member(machine: Machine) -> Machine:
    """A worker that is Ready."""
    node.prepared(machine)
    machine.write("/etc/kubernetes/kubelet.conf", f"    server: https://{node.ENDPOINT}:6443\n")
    machine.fake("kubectl", _KUBECTL)
    machine.write("/ready", "True")
    machine.skip_waits()
    return machine


def change(
    machine: Machine, to: Callable[[Machine], Result] = node.changed, *, ctr: str = ""
) -> Result:
    """Change the node's settings. ctr: what else happens when containerd has started."""
    machine.fake("ctr", ctr)
    # The one that is served is no program, and cannot print its version.
    machine.path("/usr/local/bin/kubelet").unlink()
    return to(machine)


def test_a_node_is_ready_after_a_change(member: Machine) -> None:
    result = change(member)
    assert result.status == 0, result.stderr
    assert member.exists(MARK)


def test_a_change_that_breaks_a_node_fails(member: Machine) -> None:
    result = change(member, ctr=BREAKS)
    assert result.status == 1
    assert "not Ready 300 s after the change [node-not-ready]" in result.stderr
    assert "container runtime is down" in result.stderr


def test_a_condition_from_before_the_change_is_not_believed(member: Machine) -> None:
    member.write("/lease", "2020-01-01T00:00:00.000000Z")
    result = change(member)
    assert "[node-not-ready]" in result.stderr


def test_a_broken_node_is_checked_again_after_the_next_change(member: Machine) -> None:
    change(member, ctr=BREAKS)
    assert change(member, node.first).status == 1
    assert change(member, ctr=REPAIRS).status == 0


def test_a_node_that_was_never_ready_is_not_checked(member: Machine) -> None:
    member.write("/ready", "False")
    assert change(member, ctr=BREAKS).status == 0
    assert not member.exists(MARK)


def test_a_new_machine_is_not_checked(machine: Machine) -> None:
    node.make(machine)
    assert node.first(machine).status == 0
    assert machine.calls("kubectl") == []


def test_a_change_without_an_api_server_warns(member: Machine) -> None:
    assert change(member).status == 0
    member.path("/ready").unlink()
    result = change(member, node.first)
    assert result.status == 0, result.stderr
    assert "WARNING: the API server did not answer, so nobody has checked" in result.stderr
