"""label-node.sh against a real API server, without nodes or controllers."""

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.node_labels import FILE, settings
from components.remote.node_command import Script
from config import Taint
from lab import paths
from tests.engine.api_server import ApiServer, serving
from tests.unit.machine import Machine, Result

Values = dict[str, Any]
NODE = "worker-1"
DEDICATED = Taint(key="dedicated", value="db", effect="NoSchedule")
UNREACHABLE = {
    "key": "node.kubernetes.io/unreachable",
    "effect": "NoExecute",
    "timeAdded": "2026-01-02T03:04:05Z",
}


class Api:
    """An API server, and a machine with kubectl whose administrator's kubeconfig leads to it."""

    def __init__(self, machine: Machine, server: ApiServer) -> None:
        self._machine = machine
        self.kubectl = server.kubectl

    @contextmanager
    def interfering(self, arguments: str) -> Iterator[None]:
        """Run kubectl with these arguments once, between the script's read and its write."""
        program = "/usr/local/bin/kubectl"
        real = self._machine.path(f"{program}.real")
        self._machine.path(program).rename(real)
        text = f"""#!/bin/bash
        if [[ $* == *' patch '* ]] && mkdir /run/interfered 2>/dev/null; then
            {program}.real --kubeconfig /etc/kubernetes/admin.conf {arguments} >/dev/null
        fi
        exec {program}.real "$@"
        """
        self._machine.write(program, textwrap.dedent(text), mode=0o755)
        yield
        assert self._machine.exists("/run/interfered")
        real.rename(self._machine.path(program))

    def make_node(self, **spec: object) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": spec}
        self.kubectl("create", "--filename", "-", stdin=json.dumps(node))

    def node(self) -> Values:
        found: Values = json.loads(self.kubectl("get", "node", NODE, "--output", "json"))
        return found

    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.node()["metadata"].get("labels", {})
        return labels

    def taints(self) -> list[Values]:
        taints: list[Values] = self.node()["spec"].get("taints", [])
        return sorted(taints, key=lambda taint: (taint["key"], taint["effect"]))

    def run(self, script: Script) -> Result:
        """Run a script on the machine."""
        return self._machine.shell(self._machine.command(script), has_network=True)

    def script(self, labels: dict[str, str], taints: Sequence[Taint] = ()) -> Result:
        """Run label-node.sh as a change of the stack file does."""
        values = {**settings(NODE, labels, taints), "REGISTRATION_SECONDS": "1"}
        return self.run(Script(file=FILE, node="cp-1", settings=values))

    def set(self, labels: dict[str, str], taints: Sequence[Taint] = ()) -> None:
        result = self.script(labels, taints)
        assert result.status == 0, result.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serve(tmp_path_factory.mktemp("api")) as api:
        yield api


@contextmanager
def serve(folder: Path) -> Iterator[Api]:
    """Run an API server, with a machine that has kubectl."""
    machine = Machine.make(folder / "machine")
    shutil.copy(
        paths.cache().bin / "kubernetes" / "kubectl", machine.path("/usr/local/bin/kubectl")
    )
    with serving(folder) as running:
        machine.write("/etc/kubernetes/admin.conf", running.kubeconfig.read_text())
        yield Api(machine, running)


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    """The API server with one node that nothing has labelled."""
    server.make_node()
    yield server
    server.kubectl("delete", "node", NODE, "--ignore-not-found")


def test_labels_and_taints_follow_the_stack_file(api: Api) -> None:
    api.set({"tier": "gold", "example.com/disk": "ssd", "empty": ""}, [DEDICATED])
    assert api.labels() == {"tier": "gold", "example.com/disk": "ssd", "empty": ""}
    assert api.taints() == [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]
    soft = Taint(key="dedicated", value="web", effect="PreferNoSchedule")
    api.set({"tier": "silver"}, [soft])
    assert api.labels() == {"tier": "silver"}
    assert api.taints() == [{"key": "dedicated", "value": "web", "effect": "PreferNoSchedule"}]


def test_what_others_have_set_stays(api: Api) -> None:
    api.kubectl("label", "node", NODE, "by-hand=yes", "tier=bronze")
    api.kubectl("taint", "node", NODE, "by-hand=yes:NoSchedule")
    api.kubectl(
        "patch", "node", NODE, "--type=json", "--patch",
        json.dumps([{"op": "add", "path": "/spec/taints/-", "value": UNREACHABLE}]),
    )  # fmt: skip
    others = api.taints()
    assert len(others) == 2
    api.set({"tier": "gold"}, [DEDICATED])
    assert api.labels() == {"by-hand": "yes", "tier": "gold"}
    assert [taint for taint in api.taints() if taint["key"] != "dedicated"] == others
    api.set({})
    assert api.labels() == {"by-hand": "yes"}
    assert api.taints() == others


def test_nothing_of_the_script_stays_on_a_node_without_settings(api: Api) -> None:
    before = api.node()
    api.set({"tier": "gold"}, [DEDICATED])
    record = api.node()["metadata"]["annotations"]
    assert record == {"nordmesh.io/labels": "tier", "nordmesh.io/taints": "dedicated:NoSchedule"}
    api.set({})
    after = api.node()
    assert after["spec"] == before["spec"]
    assert after["metadata"].get("labels", {}) == {}
    assert after["metadata"].get("annotations", {}) == {}


def test_a_second_run_writes_nothing(api: Api) -> None:
    api.set({"tier": "gold"}, [DEDICATED])
    version = api.node()["metadata"]["resourceVersion"]
    api.set({"tier": "gold"}, [DEDICATED])
    assert api.node()["metadata"]["resourceVersion"] == version


def test_a_taint_that_comes_while_the_script_runs_stays(api: Api) -> None:
    """The API server refuses the write of a node that has changed; the script reads it again."""
    with api.interfering(f"taint node {NODE} meanwhile=yes:NoExecute"):
        api.set({"tier": "gold"}, [DEDICATED])
    assert [taint["key"] for taint in api.taints()] == ["dedicated", "meanwhile"]
    assert api.labels() == {"tier": "gold"}


def test_a_node_that_is_gone(api: Api) -> None:
    api.kubectl("delete", "node", NODE)
    result = api.script({"tier": "gold"})
    assert result.status == 1
    assert "worker-1 is not a node of the cluster [node-not-labelled]" in result.stderr
    assert api.script({}).status == 0


def test_what_the_api_server_refuses_is_shown(api: Api) -> None:
    twice = [DEDICATED, Taint(key="dedicated", value="web", effect="NoSchedule")]
    result = api.script({}, twice)
    assert result.status == 1
    assert "[labels-refused]" in result.stderr
    assert "taints must be unique by key and effect pair" in result.stderr
