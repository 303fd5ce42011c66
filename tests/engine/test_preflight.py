"""The preflight in a real engine: when it runs, what it stops, and which connections it opens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.preflight import CHECKS
from lab import paths
from tests.engine.conftest import Project, Sshd

Projects = Callable[..., Project]

# Two nodes that are this machine. The second is created by a command, like a guest, so its host key
# is known only afterwards. This machine would fail many checks, so all but one are waived.
PROGRAM = """
import sys
sys.path.insert(0, settings["checkout"])
from components.machines import Machine
from components.preflight.hook import Preflight
from components.remote.script import Connection, PrivateKey
from tests.support import mocked

names = {"cp-1": "control-plane", "worker-1": "worker"}
config = mocked.config(
    machines={"nodes": {
        name: mocked.node(role, f"192.0.2.{number}")
        for number, (name, role) in enumerate(names.items(), 11)
    }},
    artifacts={"mirror": "http://127.0.0.1:9", "registry": "http://127.0.0.1:9"},
    preflight={
        "window": "1s",
        "limits": {"cores": settings["cores"]},
        "override": {
            check: {"reason": "the machine of a test"}
            for check in settings["checks"] if check != "cores"
        },
    },
)
machines = []
for name, login in settings["logins"].items():
    made, host_key = None, login["host_key"]
    if name == "worker-1":
        key = local.Command(f"{name}-key", create=f"sleep 0.5; echo '{host_key}'")
        make = key.stdout.apply(lambda text: f"{settings['make']}; echo '{text}'")
        made = local.Command(f"{name}-machine", create=make)
        host_key = made.stdout
    machines.append(Machine(
        name=name, role=names[name], address=config.machines.nodes[name].address,
        cluster_address=config.machines.nodes[name].cluster_address,
        connection=Connection(
            host=login["host"], user=login["user"], port=login["port"], host_key=host_key,
            private_key=PrivateKey(text=pulumi.Output.secret(login["private_key"])),
            owner=made,
        ),
    ))


async def is_known(name):
    return False


preflight = Preflight(config, machines, is_known)
for machine in machines:
    remote.Command(
        f"{machine.name}-prepare",
        connection=machine.connection.to_args(),
        create=f"echo {machine.name} >>{settings['journal']}",
        opts=preflight.before_first_change,
    )
"""


def settings(
    journal: Path, first: Sshd, second: dict[str, Any], *, cores: int, make: str = "true"
) -> dict[str, Any]:
    return {
        "checkout": str(paths.PROJECT),
        "checks": CHECKS,
        "cores": cores,
        "journal": str(journal),
        "logins": {"cp-1": first.connection(), "worker-1": second},
        "make": make,
    }


@pytest.mark.parametrize("parallel", ["1", "16"])
def test_no_node_is_changed_before_all_pass_the_preflight(
    project: Projects, sshd: Sshd, tmp_path: Path, parallel: str
) -> None:
    journal, good = tmp_path / "journal", sshd.connection()
    stack = project(PROGRAM, **settings(journal, sshd, good, cores=512))
    opened = sshd.connections()
    stack.preview().ok()
    assert sshd.connections() == opened, "a preview has opened an SSH connection"

    output = stack.up("--parallel", parallel, "--continue-on-error").failed().output
    plain = " ".join(output.split())
    assert "preflight failed on 2 of 2 nodes (2 checks)" in plain
    assert "cp-1 [preflight-cores]" in plain
    assert "worker-1 [preflight-cores]" in plain
    assert "another error of this run has the report" in plain
    assert "waived: the machine of a test" in plain
    assert "Traceback" not in output
    assert not journal.exists()

    stack.write(PROGRAM, **settings(journal, sshd, good, cores=1))
    stack.up("--parallel", parallel).ok()
    assert sorted(journal.read_text().split()) == ["cp-1", "worker-1"]
    opened = sshd.connections()
    stack.up("--expect-no-changes").ok()
    assert sshd.connections() == opened, "an unchanged stack has opened an SSH connection"


def test_an_unreachable_machine_stops_the_update(
    project: Projects, sshd: Sshd, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    absent = sshd.connection(port=1)
    stack = project(PROGRAM, **settings(journal, sshd, absent, cores=1))
    plain = " ".join(stack.up().failed().output.split())
    assert "preflight failed on 1 of 2 nodes (1 check)" in plain
    assert "worker-1 [preflight-login]" in plain
    assert "Connection refused" in plain
    assert "node worker-1: The machine does not answer over SSH" in plain
    assert not journal.exists()
    state = stack.state()
    assert sshd.private_key.splitlines()[2] not in state


@pytest.mark.parametrize("parallel", ["1", "16"])
def test_a_machine_that_cannot_be_created_fails_the_update(
    project: Projects, sshd: Sshd, tmp_path: Path, parallel: str
) -> None:
    journal, good = tmp_path / "journal", sshd.connection()
    failing = "sleep 2; echo no room for it >&2; exit 1"
    stack = project(PROGRAM, **settings(journal, sshd, good, cores=1, make=failing))
    output = stack.up("--parallel", parallel).failed().output
    assert "no room for it" in output
    assert "Traceback" not in output
    assert not journal.exists()
    stack.write(PROGRAM, **settings(journal, sshd, good, cores=1))
    stack.up("--parallel", parallel).ok()
    assert sorted(journal.read_text().split()) == ["cp-1", "worker-1"]


# Two nodes of a bought stack; the measurements say which machines are in a cluster already.
NODES = """
import sys
sys.path.insert(0, settings["checkout"])
from components.machines import Machine
from components.preflight import measure
from components.preflight.facts import Facts, Measured
from components.preflight.hook import Preflight
from components.remote.script import Connection, PrivateKey
from tests.support import mocked

def facts(name):
    member = "member\\tyes\\n" if name in settings["members"] else ""
    return Facts(f"architecture\\tx86_64\\n{member}end\\tyes\\n")

measure.measure = lambda config, logins: {name: Measured(facts=facts(name)) for name in logins}
waived = [check for check in settings["checks"] if check != "in-use"]
config = mocked.config(
    preflight={"override": {check: {"reason": "the machine of a test"} for check in waived}}
)
machines = [
    Machine(name=name, role=node.role, address=node.address,
            cluster_address=node.cluster_address, connection=Connection(
        host=node.address, user="root", port=22, host_key="ssh-ed25519 AAAA",
        private_key=PrivateKey(text="key"),
    ))
    for name, node in config.machines.nodes.items()
]


async def is_known(name):
    return False


preflight = Preflight(config, machines, is_known)
for machine in machines:
    node = pulumi.ComponentResource("test:index:Node", machine.name, None, preflight.before_node)
    local.Command(
        f"{machine.name}-prepare",
        create=f"echo {machine.name} >>{settings['journal']}",
        opts=pulumi.ResourceOptions(parent=node),
    )
"""


def test_a_machine_of_another_cluster_is_refused_to_a_new_stack(
    project: Projects, tmp_path: Path
) -> None:
    """A refused run leaves nothing in the state that would make the machine this stack's."""
    journal = tmp_path / "journal"
    values = {"checkout": str(paths.PROJECT), "checks": CHECKS, "journal": str(journal)}
    stack = project(NODES, members=["cp-1", "worker-1"], **values)
    for _ in range(2):
        output = stack.up().failed().output
        assert "cp-1 [preflight-in-use]" in output, output
        assert "the state of this stack does not have it" in " ".join(output.split())
        assert "Traceback" not in output
        assert not journal.exists()
    stack.write(NODES, members=[], **values)
    stack.up().ok()
    assert sorted(journal.read_text().split()) == ["cp-1", "worker-1"]
    # The members are this stack's from here on.
    stack.write(NODES, members=["cp-1", "worker-1"], **values)
    stack.up("--expect-no-changes").ok()
