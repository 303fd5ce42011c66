"""Edits of the list of control planes, with `pulumi up` killed at each script.

tests/live/test_killed_planes.py does the same on real machines.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet, Server
from tests.support.killed_runs import kill_at_each_moment, kill_with_descendants, moments

NODES = 3
ADDRESSES = NODES + 3
NETWORK = "198.18.43.0/24"
# In order; the first of a cluster with node-0.
EDITS = {"two join": (0, 3, 4), "one is replaced": (3, 4, 5), "two leave": (3,)}
WORKERS = (1, 2)

# About a hundred runs.
pytestmark = pytest.mark.long


def write(fleet: Fleet, planes: Sequence[int]) -> None:
    """Write these control planes and two workers."""

    def edit(config: dict[str, Any]) -> None:
        machines = config["nordmesh:machines"]
        machines["nodes"] = {
            name: {**node, "role": "control-plane" if number in planes else "worker"}
            for number, (name, node) in enumerate(machines["nodes"].items())
            if number in (*planes, *WORKERS)
        }

    fleet.write(ADDRESSES, edit)


def memberships(before: set[str], ran: Sequence[tuple[str, str]]) -> Iterator[set[str]]:
    """The members of etcd after each script, if each script that began has ended."""
    members = before
    for node, file in ran:
        if file == "kubeadm-init.sh":
            members = members | {node}
        if file == "plane-leave.sh":
            members = members - {node}
        yield members


def test_a_run_killed_at_each_script_is_continued(
    fleet: Fleet, server: Server, tmp_path: Path
) -> None:
    members, log = {"node-0"}, tmp_path / "log"
    # Long enough for a run to be killed while a script runs.
    server.seconds = 0.2
    for edit, planes in EDITS.items():
        write(fleet, planes)
        server.forget()
        expected = moments(json.loads(fleet.run("preview", "--json").stdout)["steps"])
        killed = kill_at_each_moment(
            lambda: fleet.started("up", "--yes", "--skip-preview", log=log),
            log,
            kill=kill_with_descendants,
            after=lambda _: fleet.cancel(),
        )
        known = killed.reached & set(expected)
        print(f"{edit}: {len(killed.at)} kills, {len(known)} of {len(expected)} moments converged")
        assert expected
        assert not set(expected) - killed.reached
        wanted = {f"node-{number}" for number in planes}
        seen = [members, *memberships(members, server.ran)]
        assert seen[-1] == wanted
        # A new one joins before an old one leaves, also if the run was killed in between.
        assert min(map(len, seen)) == min(len(members), len(wanted))
        for node in members - wanted:
            leave, reset = (
                server.ran.index((node, file)) for file in ("plane-leave.sh", "node-reset.sh")
            )
            assert leave < reset
        members = wanted
        assert fleet.up().touched == []
