"""A build over a fast and a slow SSH connection, and adding a node to a large cluster."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.bench_lab import BenchLab, Say
from tests.bench.build import pulumi_seconds
from tests.bench.ratios import Ratio
from tests.support.fleet import Fleet, Server, serving
from tests.support.ssh_way import Way, redirected

NEAR, FAR = 0.005, 0.1
"""Seconds of a round trip."""
LIMIT = 2.0
FEW, MANY = 5, 50


def measure_build(lab: BenchLab, *, say: Say) -> Ratio:
    """Measure a build from booted nodes to a healthy mesh over slow SSH; delete the nodes."""
    seconds = {}
    for round_trip in (NEAR, FAR):
        lab.project.pulumi("destroy", "--yes", "--skip-preview")
        lab.delete_machines()
        lab.boot()
        with Way(round_trip=round_trip) as way, redirected(str(lab.lab.subnet), way.port):
            say(f"with {round_trip * 1000:g} ms there and back")
            seconds[round_trip] = pulumi_seconds(lab, say)
            say(f"  {way.opened} connections, {way.carried / 1024:.0f} KiB from the nodes")
    lab.project.pulumi("destroy", "--yes", "--skip-preview")
    return Ratio(
        name=f"booted nodes to healthy mesh, SSH at {FAR * 1000:g} ms",
        beside=f"at {NEAR * 1000:g} ms",
        ours=[seconds[FAR]],
        theirs=[seconds[NEAR]],
        limit=LIMIT,
    )


def measure_node(*, say: Say) -> Ratio:
    """Compare adding a node to a large cluster with a small one; the machines are simulated.

    A node costs what its run takes longer than one without changes, in which Pulumi compares every
    resource. tests/engine/test_fleet.py asserts that both change as many resources. The preflight
    measures the connections of all machines with the new one.
    """
    with serving(MANY + 1, "198.51.100.0/24") as server:
        few, many = (_added(server, nodes, say) for nodes in (FEW, MANY))
    return Ratio(
        name=f"a node more among {MANY}",
        beside=f"among {FEW}",
        ours=[many],
        theirs=[few],
    )


def _added(server: Server, nodes: int, say: Say) -> float:
    with TemporaryDirectory(prefix="nordmesh-fleet-") as directory:
        fleet = Fleet(Path(directory), server)
        fleet.deploy(nodes)
        unchanged = fleet.up().seconds
        server.forget()
        fleet.write(nodes + 1)
        done = fleet.up()
    elsewhere = sum(node != f"node-{nodes}" for node, _ in server.ran)
    say(
        f"among {nodes}: {done.seconds:.1f} s, without changes {unchanged:.1f} s; "
        f"{len(done.touched)} resources changed, {done.same} did not; "
        f"{elsewhere} of {len(server.ran)} scripts on another node"
    )
    return done.seconds - unchanged
