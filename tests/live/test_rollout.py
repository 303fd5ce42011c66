"""Changes under the nodes of a running cluster: node by node, and past a dead node."""

import base64
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from components.machines.drains import Drain
from components.remote.node_command import Script, text_of
from components.remote.script import Connection
from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.live.harness import Project
from tests.live.test_nodes import nodes

CP, WORKER, NEW = "10.67.0.11", "10.67.0.21", "10.67.0.22"
JOURNAL = "/etc/systemd/journald.conf.d/nordmesh.conf"
WEIGHT = "mesh.services.checkout.canary.weight"
AWAY_SECONDS = 180


def journal(project: Project, node: str) -> str:
    return project.ssh(node, f"grep ^SystemMaxUse {JOURNAL}").strip()


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


def answers(project: Project, node: str) -> bool:
    try:
        return project.ssh(node, "echo yes") == "yes\n"
    except AssertionError:
        return False


@contextmanager
def worker_away(project: Project, cluster: Cluster) -> Iterator[None]:
    """Stop SSH and kubelet of the worker; wait for its return, also after an error."""
    # The timer first: without SSH nobody could start it. By default it may fire a minute late.
    project.ssh(
        WORKER,
        f"systemd-run --on-active={AWAY_SECONDS} --timer-property=AccuracySec=1s "
        "systemctl start kubelet ssh && systemctl stop kubelet ssh",
    )
    try:
        wait_for("worker-1 to be unavailable", lambda: not answers(project, WORKER), seconds=20)
        yield
        assert not answers(project, WORKER), f"the test took longer than {AWAY_SECONDS} s"
    finally:
        seconds = AWAY_SECONDS + 60
        wait_for("worker-1 to answer", lambda: answers(project, WORKER), seconds=seconds)
        is_ready = {"cp-1": "True", "worker-1": "True"}
        wait_for("all nodes to be Ready", lambda: nodes(cluster) == is_ready, seconds=120)
        # No version gets more requests before its pods are ready again.
        ready = ("wait", "--for=condition=Ready", "pods", "--all", "--timeout=180s")
        cluster.kubectl("-n", "shop", *ready, seconds=190)


@pytest.mark.usefixtures("stack_file")
def test_a_dead_worker_stops_only_what_needs_it(project: Project, cluster: Cluster) -> None:
    control_plane = journal(project, CP)
    started = time.monotonic()
    with worker_away(project, cluster):
        project.set_config(WEIGHT, 5)
        weight = project.up().text
        assert re.search(r"~ 1 updated\n\s+\d+ unchanged\n", weight), weight
        with project.config() as config:
            config.setdefault("nordmesh:host", {})["journalSize"] = "310Mi"
        result = project.up(ok=False)
        assert result.code != 0
        text = " ".join(result.text.split())
        assert "The change stopped at worker-1 and did not start on cp-1." in text, text
        assert "node worker-1: The machine does not answer over SSH." in text, text
        assert journal(project, CP) == control_plane
        excluded = project.up("--exclude", "**::worker-1-*").text
        assert re.search(r"~ 1 updated\n", excluded), excluded
        assert "310M" in journal(project, CP)
        seconds = time.monotonic() - started
    print(f"\nthree updates in {seconds:.0f} s while worker-1 was unavailable")


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

    def logins() -> Mapping[str, Connection]:
        raise AssertionError("the scripts run without the program")

    async def report() -> None:
        raise AssertionError("nothing fails")

    drain = Drain(
        node="worker-2",
        planes=logins,
        restart_seconds=0,
        report_stop=report,
    )
    timers = "systemctl list-timers --no-legend 'nordmesh-uncordon-*'"
    run(project, drain.drain("cp-1"))
    assert is_cordoned()
    assert "nordmesh-uncordon-worker-2" in project.ssh(CP, timers)
    started = time.monotonic()
    assert "worker-2 accepts pods" in run(project, drain.uncordon("cp-1"))
    print(f"\nuncordoned after {time.monotonic() - started:.1f} s")
    assert not is_cordoned()
    assert project.ssh(CP, timers) == ""

    # A person's cordon stays.
    cluster.kubectl("cordon", "worker-2")
    run(project, drain.drain("cp-1"))
    run(project, drain.uncordon("cp-1"))
    assert is_cordoned()
