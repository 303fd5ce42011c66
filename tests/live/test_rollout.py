"""Changes under the nodes of a running cluster, node by node."""

import base64
import shlex
import time

import pytest

from components.machines.drains import Drain
from components.node_command import Script, text_of
from components.remote import Connection
from lab.screen import Cluster
from tests.live.harness import Project
from tests.live.test_nodes import nodes

CP, WORKER, NEW = "10.67.0.11", "10.67.0.21", "10.67.0.22"


@pytest.mark.usefixtures("stack_file")
def test_a_change_ends_on_a_node_when_it_is_ready(project: Project, cluster: Cluster) -> None:
    with project.config() as config:
        config.setdefault("nordmesh:host", {})["journalSize"] = "300Mi"
    started = time.monotonic()
    output = project.up().text
    seconds = time.monotonic() - started
    worker, control_plane = (
        output.index(f"{name}-prepare updated") for name in ("worker-1", "cp-1")
    )
    assert worker < output.index("cp-1-prepare updating") < control_plane
    assert set(nodes(cluster).values()) == {"True"}
    assert "ready" in project.ssh(WORKER, "ls /etc/kubernetes/nordmesh-ready")
    print(f"\n2 nodes changed one after another in {seconds:.1f} s")


def run(project: Project, script: Script) -> str:
    """Run a script on the control plane; return what it prints."""
    exports = "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in script.settings.items()
    )
    text = f"export NODE_NAME={script.node}\n{exports}{text_of(script.file)}"
    encoded = base64.b64encode(text.encode()).decode()
    return project.ssh(CP, f"echo {encoded} | base64 -d | bash 2>&1")


@pytest.mark.usefixtures("stack_file")
def test_a_node_is_drained_and_uncordoned(project: Project, cluster: Cluster) -> None:
    with project.config() as config:
        config["nordmesh:machines"]["nodes"]["worker-2"] = {
            "role": "worker",
            "provider": "container",
            "address": NEW,
        }
    project.up()

    def is_cordoned() -> bool:
        return any(
            item["spec"].get("unschedulable", False)
            for item in cluster.items("nodes")
            if item["metadata"]["name"] == "worker-2"
        )

    def login() -> Connection:
        raise AssertionError("the scripts run without the program")

    async def report() -> None:
        raise AssertionError("nothing fails")

    drain = Drain(
        node="worker-2",
        control_plane="cp-1",
        connection=login,
        restart_seconds=0,
        report_stop=report,
    )
    timers = "systemctl list-timers --no-legend 'nordmesh-uncordon-*'"
    run(project, drain.drain())
    assert is_cordoned()
    assert "nordmesh-uncordon-worker-2" in project.ssh(CP, timers)
    started = time.monotonic()
    assert "worker-2 accepts pods" in run(project, drain.uncordon())
    print(f"\nuncordoned after {time.monotonic() - started:.1f} s")
    assert not is_cordoned()
    assert project.ssh(CP, timers) == ""

    # A person's cordon stays.
    cluster.kubectl("cordon", "worker-2")
    run(project, drain.drain())
    run(project, drain.uncordon())
    assert is_cordoned()
