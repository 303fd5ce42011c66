"""A change under the nodes of a running cluster goes from node to node, and stops at an error."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.conftest import wait_until
from tests.support.fleet import CONTROL_PLANE, Fleet, Server

NODES = 5
ADDRESSES = NODES + 3
NETWORK = "198.18.7.0/24"
WORKERS = [f"node-{number}" for number in range(1, NODES)]
ORDER = [*WORKERS, CONTROL_PLANE]
PREPARE, JOIN = "node-prepare.sh", "kubeadm-join.sh"

Values = dict[str, Any]


def journal(size: str) -> Callable[[Values], None]:
    """Return an edit that changes every node."""

    def edit(config: Values) -> None:
        config.setdefault("nordmesh:host", {})["journalSize"] = size

    return edit


@pytest.fixture
def slow(server: Server) -> Iterator[Server]:
    """Scripts take long enough to run at the same time, if they may."""
    server.seconds = 0.3
    server.forget()
    yield server
    server.seconds, server.meeting = 0.0, frozenset()
    server.failing.clear()
    server.dead.clear()


def nodes_of(server: Server, script: str) -> list[str]:
    return [node for node, file in server.ran if file == script]


def most_at_a_time(server: Server) -> int:
    return max(map(len, server.together), default=0)


@pytest.mark.parametrize("slots", ["1", "16"])
def test_a_change_goes_from_node_to_node(fleet: Fleet, slow: Server, slots: str) -> None:
    fleet.write(NODES, journal(f"{300 + int(slots)}Mi"))
    result = fleet.run("up", "--yes", "--skip-preview", "--parallel", slots)
    assert result.returncode == 0, result.stdout
    assert nodes_of(slow, PREPARE) == ORDER
    assert most_at_a_time(slow) == 1
    print(f"\n{slots} slots: {' '.join(nodes_of(slow, PREPARE))}, {most_at_a_time(slow)} at a time")


def test_a_change_stops_at_the_first_error(fleet: Fleet, slow: Server) -> None:
    slow.failing.add(("node-2", PREPARE))
    fleet.write(NODES, journal("400Mi"))
    result = fleet.run("up", "--yes", "--skip-preview")
    assert result.returncode != 0
    assert slow.ran == [("node-1", PREPARE), ("node-2", PREPARE)]
    assert "stopped at node-2 and did not start on node-3, node-4, node-0." in result.stdout
    assert "Traceback" not in result.stdout

    slow.failing.clear()
    slow.forget()
    fleet.up()
    assert nodes_of(slow, PREPARE) == ORDER[1:]
    assert most_at_a_time(slow) == 1


def test_joined_workers_join_again_one_after_another(fleet: Fleet, slow: Server) -> None:
    def edit(config: Values) -> None:
        for worker in WORKERS:
            config["nordmesh:machines"]["nodes"][worker]["user"] = "deploy"

    slow.failing.add(("node-2", JOIN))
    fleet.write(NODES, edit)
    result = fleet.run("up", "--yes", "--skip-preview")
    assert nodes_of(slow, JOIN) == ["node-1", "node-2"]
    assert "stopped at node-2 and did not start on node-3, node-4." in result.stdout
    slow.failing.clear()
    slow.forget()
    fleet.up()
    assert nodes_of(slow, JOIN) == WORKERS[1:]
    assert most_at_a_time(slow) == 1
    fleet.write(NODES)
    fleet.up()


def test_the_others_change_without_a_dead_node(fleet: Fleet, slow: Server) -> None:
    slow.dead.add("node-3")
    fleet.write(NODES, journal("600Mi"))
    result = fleet.run("up", "--yes", "--skip-preview")
    assert result.returncode != 0
    assert nodes_of(slow, PREPARE) == ORDER[:2]
    assert "node node-3: The machine does not answer over SSH." in result.stdout
    # The command that the error names.
    excluded = "**::node-3-*"
    assert f"`pulumi up --exclude '{excluded}'`" in result.stdout
    slow.forget()
    result = fleet.run("up", "--yes", "--skip-preview", "--exclude", excluded)
    assert result.returncode == 0, result.stdout
    assert nodes_of(slow, PREPARE) == ORDER[3:]

    # What does not need the dead node does not wait for it.
    slow.forget()

    def edit(config: Values) -> None:
        journal("600Mi")(config)
        config["nordmesh:machines"]["nodes"]["node-4"]["user"] = "deploy"

    fleet.write(NODES, edit)
    result = fleet.run("up", "--yes", "--skip-preview", "--exclude", excluded)
    assert slow.ran == [("node-4", PREPARE), ("node-4", JOIN)]
    slow.dead.clear()
    fleet.write(NODES, journal("600Mi"))
    fleet.up()


def test_new_nodes_change_at_the_same_time(fleet: Fleet, slow: Server) -> None:
    news = {f"node-{NODES}", f"node-{NODES + 1}"}
    slow.meeting = frozenset(news)
    fleet.write(NODES + 2)
    fleet.up()
    assert set(nodes_of(slow, JOIN)) == news
    assert any(news <= nodes for nodes in slow.together)
    fleet.write(NODES)
    fleet.up()


def test_nodes_that_never_were_ready_change_at_the_same_time(fleet: Fleet, slow: Server) -> None:
    """An interrupted build continues as it began."""
    news = {f"node-{number}" for number in range(NODES, NODES + 3)}
    fleet.write(NODES + 3)
    # A busy machine connects to one node after another.
    slow.seconds = 3.0
    slow.failing |= {(node, PREPARE) for node in news}
    assert fleet.run("up", "--yes", "--skip-preview").returncode != 0
    together = []
    for script in (PREPARE, JOIN):
        slow.failing.clear()
        if script == PREPARE:
            slow.failing |= {(node, JOIN) for node in news}
        slow.forget()
        result = fleet.run("up", "--yes", "--skip-preview")
        assert (result.returncode == 0) == (script == JOIN), result.stdout
        assert set(nodes_of(slow, script)) == news
        together.append(max(len(nodes & news) for nodes in slow.together))
    print(f"\nof 3 nodes, {together[0]} were prepared and {together[1]} joined at the same time")
    assert together == [3, 3]
    slow.seconds = 0.3
    fleet.write(NODES)
    fleet.up()


def test_one_node_can_be_targeted(fleet: Fleet, slow: Server) -> None:
    fleet.write(NODES, journal("700Mi"))
    result = fleet.run("up", "--yes", "--skip-preview", "--target", "**::node-3-prepare")
    assert result.returncode == 0, result.stdout
    assert slow.ran == [("node-3", PREPARE)]
    fleet.write(NODES)
    fleet.up()
    slow.forget()


def test_an_interrupted_change_continues(fleet: Fleet, slow: Server) -> None:
    slow.seconds = 5.0
    fleet.write(NODES, journal("800Mi"))
    with fleet.started("up", "--yes", "--skip-preview") as run:
        wait_until(lambda: bool(slow.ran), "the first script runs")
        run.send_signal(signal.SIGINT)
        run.wait(60)
    assert run.returncode != 0
    assert slow.ran == [("node-1", PREPARE)]
    slow.seconds = 0.1
    slow.forget()
    fleet.up()
    assert nodes_of(slow, PREPARE) == ORDER
