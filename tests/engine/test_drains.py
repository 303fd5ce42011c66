"""A guest that restarts is drained first, and accepts pods again before the next one restarts."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.fleet import CONTROL_PLANE, Fleet, Server, guests

NODES, HYPERVISOR = 3, 5
ADDRESSES = HYPERVISOR + 1
NETWORK = "198.18.8.0/24"
GUEST, DRAIN, UNCORDON = "kvm-create.sh", "node-drain.sh", "node-uncordon.sh"

Values = dict[str, Any]


def memory(server: Server, amount: str) -> Callable[[Values], None]:
    """Return an edit that gives the guests this memory."""
    return guests(server, NODES, HYPERVISOR, amount)


@pytest.fixture(scope="module")
def fleet(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    server.names[HYPERVISOR] = "hv"
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), server)
    fleet.deploy(NODES, memory(server, "4Gi"), hypervisors={"hv": HYPERVISOR})
    # Without a restart, nothing is drained.
    assert {file for _, file in server.ran} <= {GUEST}
    return fleet


def test_guests_restart_one_after_another_drained(fleet: Fleet, server: Server) -> None:
    server.forget()
    fleet.write(NODES, memory(server, "6Gi"))
    preview = fleet.run("preview")
    assert "memory from 4Gi to 6Gi; it is drained first" in " ".join(preview.stdout.split())
    assert server.opened == []
    assert [name for _, _, name in fleet.up().touched] == ["node-1-guest", "node-2-guest"]
    assert server.ran == [
        (CONTROL_PLANE, DRAIN),
        ("hv", GUEST),
        (CONTROL_PLANE, UNCORDON),
    ] * (NODES - 1)
    print(f"\n{server.ran}")


def test_a_failed_drain_stops_the_restart(fleet: Fleet, server: Server) -> None:
    server.forget()
    server.failing.add((CONTROL_PLANE, DRAIN))
    fleet.write(NODES, memory(server, "8Gi"))
    result = fleet.run("up", "--yes", "--skip-preview")
    server.failing.clear()
    assert result.returncode != 0
    assert "node-1 was not drained, so it was not restarted [restart-failed]" in result.stdout
    assert "stopped at node-1 and did not start on node-2." in result.stdout
    assert "Traceback" not in result.stdout
    assert server.ran == [(CONTROL_PLANE, DRAIN)]


def test_a_failed_restart_is_followed_by_an_uncordon(fleet: Fleet, server: Server) -> None:
    server.forget()
    server.failing.add(("hv", GUEST))
    fleet.write(NODES, memory(server, "8Gi"))
    result = fleet.run("up", "--yes", "--skip-preview")
    server.failing.clear()
    assert result.returncode != 0
    assert "stopped at node-1 and did not start on node-2." in result.stdout
    assert server.ran == [(CONTROL_PLANE, DRAIN), ("hv", GUEST), (CONTROL_PLANE, UNCORDON)]


def test_a_node_that_does_not_come_back_stops_the_change(fleet: Fleet, server: Server) -> None:
    server.forget()
    server.failing.add((CONTROL_PLANE, UNCORDON))
    fleet.write(NODES, memory(server, "8Gi"))
    result = fleet.run("up", "--yes", "--skip-preview")
    server.failing.clear()
    assert result.returncode != 0
    assert "node-1 was restarted and does not accept pods yet [restart-failed]" in result.stdout
    assert "stopped at node-1 and did not start on node-2." in result.stdout
    assert server.ran == [(CONTROL_PLANE, DRAIN), ("hv", GUEST), (CONTROL_PLANE, UNCORDON)]
