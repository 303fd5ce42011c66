"""Adding and removing a node touches the same few resources in a small and a large cluster."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import CONTROL_PLANE, Fleet, Server

SMALL, LARGE = 5, 50
ADDRESSES = LARGE + 1
NETWORK = "198.51.100.0/24"
COMMAND = "command:remote:Command"


@pytest.mark.parametrize("nodes", [SMALL, LARGE])
def test_adding_and_removing_a_node_touches_only_that_node(
    server: Server, tmp_path: Path, nodes: int
) -> None:
    fleet, new = Fleet(tmp_path, server), f"node-{nodes}"
    server.forget()
    fleet.deploy(nodes)
    assert server.opened == []
    of_node = [
        (COMMAND, f"{new}-join"),
        (COMMAND, f"{new}-prepare"),
        (COMMAND, f"{new}-ready"),
        ("nordmesh:kubernetes:Worker", new),
        ("nordmesh:node:Node", new),
    ]

    server.forget()
    fleet.write(nodes + 1)
    added = fleet.up()
    assert added.touched == [("create", *resource) for resource in of_node]
    assert server.ran == [
        (new, "node-prepare.sh"),
        (new, "kubeadm-join.sh"),
        (CONTROL_PLANE, "node-ready.sh"),
    ]
    # The preflight measures every node, because each must reach the new one; it changes nothing.
    measured = [f"node-{number}" for number in range(nodes + 1)]
    # Missing scripts are copied to the machine first.
    copied = [CONTROL_PLANE, new, new]
    # A further connection waits until the node asks for a token.
    scripts = [CONTROL_PLANE, new, new]
    assert sorted(server.opened) == sorted([*measured, *copied, *scripts])

    server.forget()
    fleet.write(nodes)
    removed = fleet.up()
    assert removed.touched == [("delete", *resource) for resource in of_node]
    assert removed.same == added.same
    assert server.ran == [(CONTROL_PLANE, "node-remove.sh"), (new, "node-reset.sh")]
    assert server.opened == [CONTROL_PLANE, new]


def test_a_machine_of_another_cluster_is_not_taken_over(server: Server, tmp_path: Path) -> None:
    """Its node and endpoint have the names of this stack, as in a copy of another stack's file."""
    fleet, new = Fleet(tmp_path, server), "node-3"
    fleet.deploy(3)
    server.members |= {"node-1", new}
    server.forget()

    def strict(config: dict[str, Any]) -> None:
        del config["nordmesh:preflight"]["override"]["in-use"]

    def adopt(config: dict[str, Any]) -> None:
        strict(config)
        reason = "the state of this stack was lost"
        config["nordmesh:machines"]["nodes"][new]["adopt"] = reason

    fleet.write(4, strict)
    # A refused run leaves nothing in the state that would count as its own machine.
    for _ in range(2):
        result = fleet.run("up", "--yes", "--skip-preview")
        assert result.returncode != 0
        assert f"{new} [preflight-in-use]" in result.stdout
        assert "the state of this stack does not have it" in " ".join(result.stdout.split())
        assert "node-1 [" not in result.stdout
        assert server.ran == []
    fleet.write(4, adopt)
    fleet.up()
    assert (new, "kubeadm-join.sh") in server.ran
    server.members.clear()
