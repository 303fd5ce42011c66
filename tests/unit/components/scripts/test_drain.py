"""The drain of a node before its machine restarts, and the way back."""

import pytest

from tests.unit.machine import Machine, Result

MARK = "/var/lib/nordmesh/cordoned.worker-1"
UNCORDON = "kubectl --request-timeout 30s uncordon worker-1"
# /node.NAME: whether a node is Ready; /cordoned: a person's cordon. /lease: the last renewal.
_KUBECTL = """
[ ! -e /api-down ] || { echo 'i/o timeout' >&2; exit 1; }
case "$*" in
*renewTime*) cat /lease 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%S.999999Z ;;
*unschedulable*) cat /cordoned 2>/dev/null || true ;;
*status.conditions*) cat "/node.$5" 2>/dev/null || true ;;
*metadata.name*) [ ! -e "/node.$5" ] || printf %s "$5" ;;
'drain '*) [ ! -e /stuck ] || { echo 'cannot evict pod'; exit 1; } ;;
esac
"""


@pytest.fixture
def control_plane(machine: Machine) -> Machine:
    machine.fake("kubectl", _KUBECTL)
    machine.fake("systemctl")
    machine.fake("systemd-run")
    machine.write("/node.worker-1", "True")
    machine.skip_waits()
    return machine


def drain(machine: Machine) -> Result:
    settings = {"JOINED_NODE": "worker-1", "UNCORDON": "undo", "UNDO_SECONDS": "900"}
    return machine.run("node-drain.sh", settings, node="cp-1")


def uncordon(machine: Machine, *, anyway: bool = False) -> Result:
    settings = {
        "ANYWAY": str(anyway).lower(),
        "JOINED_NODE": "worker-1",
        "READY_SECONDS": "300",
    }
    return machine.run("node-uncordon.sh", settings, node="cp-1")


def test_a_node_is_drained_and_accepts_pods_again(control_plane: Machine) -> None:
    result = drain(control_plane)
    assert result.status == 0, result.stderr
    (drained,) = control_plane.calls("kubectl drain")
    assert "--force" not in drained
    assert UNCORDON not in control_plane.calls()
    result = uncordon(control_plane)
    assert result.status == 0, result.stderr
    assert UNCORDON in control_plane.calls()
    assert control_plane.calls()[-1] == "systemctl stop nordmesh-uncordon-worker-1.timer"
    assert not control_plane.exists(MARK)


def test_a_timer_that_a_killed_run_left_is_stopped_by_the_next(control_plane: Machine) -> None:
    """It was killed after it had removed its mark."""
    drain(control_plane)
    control_plane.path(MARK).unlink()
    assert uncordon(control_plane).status == 0
    assert UNCORDON not in control_plane.calls()
    assert control_plane.calls()[-1] == "systemctl stop nordmesh-uncordon-worker-1.timer"


def test_a_timer_undoes_the_drain_of_a_killed_run(control_plane: Machine) -> None:
    drain(control_plane)
    (timer,) = control_plane.calls("systemd-run")
    assert timer.endswith("--unit nordmesh-uncordon-worker-1 --on-active 900 bash -c undo")
    # It is set before the node is cordoned.
    calls = control_plane.calls()
    (drained,) = control_plane.calls("kubectl drain")
    assert calls.index(timer) < calls.index(drained)
    control_plane.write("/node.worker-1", "False")
    assert uncordon(control_plane, anyway=True).status == 0
    assert not control_plane.exists(MARK)


def test_a_node_that_cannot_be_drained_accepts_pods(control_plane: Machine) -> None:
    control_plane.write("/stuck", "")
    result = drain(control_plane)
    assert result.status == 1
    assert "cannot evict pod" in result.stderr
    assert "worker-1 was not drained, and accepts pods again" in result.stderr
    assert not control_plane.exists(MARK)


def test_a_cordon_of_a_person_stays(control_plane: Machine) -> None:
    control_plane.write("/cordoned", "true")
    assert drain(control_plane).status == 0
    assert control_plane.calls("kubectl drain")
    assert control_plane.calls("systemd-run") == []
    assert uncordon(control_plane).status == 0
    assert UNCORDON not in control_plane.calls()


def test_a_resumed_drain_still_owns_its_cordon(control_plane: Machine) -> None:
    drain(control_plane)
    control_plane.write("/cordoned", "true")
    assert drain(control_plane).status == 0
    assert uncordon(control_plane).status == 0
    assert UNCORDON in control_plane.calls()


@pytest.mark.parametrize("lease", ["2020-01-01T00:00:00.000000Z", None])
def test_a_node_that_is_not_back_is_reported(control_plane: Machine, lease: str | None) -> None:
    drain(control_plane)
    if lease:
        control_plane.write("/lease", lease)
    else:
        control_plane.write("/node.worker-1", "Unknown")
    result = uncordon(control_plane)
    assert result.status == 1
    assert "worker-1 is not Ready 300 s after its restart [node-not-back]" in result.stderr
    assert control_plane.exists(MARK)


def test_a_dead_node_is_cordoned_only(control_plane: Machine) -> None:
    control_plane.write("/node.worker-1", "Unknown")
    result = drain(control_plane)
    assert result.status == 0
    assert control_plane.calls("kubectl drain") == []
    assert "kubectl cordon worker-1" in control_plane.calls()


@pytest.mark.parametrize(("ready", "status"), [("True", 0), ("Unknown", 1), (None, 0)])
def test_one_node_at_a_time_is_away(control_plane: Machine, ready: str | None, status: int) -> None:
    control_plane.write("/var/lib/nordmesh/cordoned.worker-2", "")
    if ready is not None:
        control_plane.write("/node.worker-2", ready)
    result = drain(control_plane)
    assert result.status == status
    assert ("[node-still-away]" in result.stderr) == (status == 1)
    assert bool(control_plane.calls("kubectl drain")) == (status == 0)
    assert control_plane.exists("/var/lib/nordmesh/cordoned.worker-2") == (status == 1)


def test_a_silent_api_server_is_no_answer(control_plane: Machine) -> None:
    control_plane.write("/api-down", "")
    result = drain(control_plane)
    assert "[drain-without-answer]" in result.stderr
    assert not control_plane.exists(MARK)


def test_a_new_node_is_not_drained(control_plane: Machine) -> None:
    control_plane.path("/node.worker-1").unlink()
    assert drain(control_plane).status == 0
    assert control_plane.calls("kubectl drain") == []


@pytest.mark.parametrize("call", range(1, 6))
def test_a_failed_kubectl_leaves_no_cordon(control_plane: Machine, call: int) -> None:
    fails = f"[ \"$(grep -c '^kubectl ' /calls)\" != {call} ] || exit 1\n"
    control_plane.fake("kubectl", fails + _KUBECTL)
    result = drain(control_plane)
    assert (result.status == 0) == (call == 5)  # the script makes four calls
    assert control_plane.exists(MARK) == (call == 5)
    assert bool(control_plane.calls("kubectl drain")) == (call > 3)
    assert (UNCORDON in control_plane.calls()) == (call == 4)


def test_a_timer_undoes_a_cordon_that_the_script_cannot_undo(control_plane: Machine) -> None:
    control_plane.write("/stuck", "")
    control_plane.fake("kubectl", f"case $* in *uncordon*) exit 1 ;; esac\n{_KUBECTL}")
    assert drain(control_plane).status == 1
    assert control_plane.exists(MARK)
    assert control_plane.calls()[-1] == UNCORDON
    control_plane.fake("kubectl", _KUBECTL)
    assert uncordon(control_plane, anyway=True).status == 0
    assert not control_plane.exists(MARK)
