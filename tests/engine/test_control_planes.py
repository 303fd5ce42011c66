"""Edits of the list of control planes, from the state of one control plane and two workers."""

import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.engine.deployed import credentials
from tests.support.fleet import Fleet, Server, address

NODES = 3
ADDRESSES = NODES + 4
NETWORK = "198.18.11.0/24"
COMMAND = "command:remote:Command"
RECORD = "pulumi:index:Stash"
LIST = "nordmesh:kubernetes:ControlPlanes"
PREVIEW = ("preview",)
UPDATED = ("update", COMMAND)

Edit = Callable[[dict[str, Any]], None]


def planes(*numbers: int, without: int | None = None) -> Edit:
    """Make these nodes control planes, and remove one."""

    def edit(config: dict[str, Any]) -> None:
        nodes = config["nordmesh:machines"]["nodes"]
        for number in numbers:
            nodes[f"node-{number}"]["role"] = "control-plane"
        if without is not None:
            del nodes[f"node-{without}"]

    return edit


@contextmanager
def ready_api_server(address: str, folder: Path) -> Iterator[None]:
    """Answer /readyz at an address of the network, where no API server answers otherwise."""
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=kube-apiserver"
    certificate, private = folder / "crt", folder / "key"
    out = ["-out", str(certificate), "-keyout", str(private)]
    subprocess.run(["openssl", "req", "-x509", *key.split(), *out], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Ready) as listener:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        rule = ["OUTPUT", "-d", address, "-p", "tcp", "--dport", "6443"]
        redirect = ["-j", "REDIRECT", "--to-ports", str(listener.server_port)]
        subprocess.run(["iptables", "-w", "-t", "nat", "-I", *rule, *redirect], check=True)
        try:
            yield
        finally:
            subprocess.run(["iptables", "-w", "-t", "nat", "-D", *rule, *redirect], check=True)
            listener.shutdown()


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


def to_earlier_release(resources: list[dict[str, Any]]) -> None:
    """Turn the state into one of the release with one control plane."""
    (listed,) = (resource for resource in resources if resource["type"] == LIST)
    (member,) = (resource for resource in resources if resource["urn"].endswith("-member"))
    ((name, address),) = listed["inputs"]["addresses"].items()
    for new in (listed, member):
        resources.remove(new)
        for resource in resources:
            if new["urn"] in (resource.get("dependencies") or ()):
                resource["dependencies"].remove(new["urn"])
    for resource in resources:
        if resource["type"] == "nordmesh:node:Node":
            resource["inputs"]["madeWith"][f"machines.nodes.{name}.address"] = address
        if resource["urn"].endswith("-init"):
            for key in ("create", "update"):
                earlier = re.sub(r"[0-9a-f]{64}  -", f"{'0' * 64}  -", resource["inputs"][key])
                resource["inputs"][key] = resource["outputs"][key] = earlier


def test_one_control_plane_of_an_earlier_release_is_kept(fleet: Fleet, server: Server) -> None:
    fleet.change_state(to_earlier_release)
    server.forget()
    named = fleet.previewed()
    done = fleet.up()
    assert done.touched == named
    nodes = [("update", "nordmesh:node:Node", f"node-{number}") for number in range(1, NODES)]
    assert done.touched == [
        ("create", COMMAND, "node-0-member"),
        ("create", LIST, "control-planes"),
        ("update", COMMAND, "node-0-init"),
        *nodes,
    ]
    assert server.ran == [("node-0", "kubeadm-init.sh"), ("node-0", "etcd-ready.sh")]
    server.forget()
    assert fleet.up().touched == []
    assert server.opened == []


@pytest.mark.parametrize(
    ("nodes", "edit", "texts"),
    [
        (4, planes(3), ("2 nodes are control planes: node-0, node-3", "2 of 2")),
        (
            6,
            planes(3, 4, 5, without=0),
            ("node-0 would leave the cluster and node-3, node-4, node-5 would join", "0 of 1"),
        ),
        (4, planes(3, without=0), ("node-0 would leave the cluster and node-3 would join it",)),
    ],
)
def test_an_edit_that_would_lose_the_cluster_is_refused_at_preview(
    fleet: Fleet, server: Server, nodes: int, edit: Edit, texts: tuple[str, ...]
) -> None:
    fleet.write(nodes, edit)
    for command in (PREVIEW, ("up", "--yes", "--skip-preview")):
        server.forget()
        result = fleet.run(*command)
        assert result.returncode != 0
        output = " ".join(result.stdout.split())
        for text in texts:
            assert text in output
        assert "Traceback" not in result.stdout + result.stderr
        assert server.ran == []
    # The engine may have registered components, which change nothing, before it stopped.
    fleet.write(NODES)
    fleet.up()


def test_two_control_planes_join_and_touch_no_other_node(fleet: Fleet, server: Server) -> None:
    fleet.write(NODES + 2, planes(3, 4))
    server.forget()
    preview = fleet.run(*PREVIEW)
    assert preview.returncode == 0, preview.stdout
    assert "control-planes" in preview.stdout
    server.seconds = 0.2
    done = fleet.up()
    server.seconds = 0.0
    assert done.touched == sorted(
        [
            *(
                ("create", type_, name)
                for new in ("node-3", "node-4")
                for type_, name in (
                    (COMMAND, f"{new}-prepare"),
                    (COMMAND, f"{new}-init"),
                    (COMMAND, f"{new}-credentials"),
                    (COMMAND, f"{new}-key-use"),
                    (COMMAND, f"{new}-key-retire"),
                    (COMMAND, f"{new}-member"),
                    ("nordmesh:kubernetes:ControlPlane", new),
                    ("nordmesh:node:Node", new),
                    ("nordmesh:platform:Protection", f"etcd-{new}"),
                )
            ),
            # Where the scripts of these run, now that there is a choice.
            *(("create", RECORD, f"{of}-runner") for of in ("istio", "node-1", "node-2")),
            ("create", "pulumi:providers:pulumi", "default"),
            ("update", LIST, "control-planes"),
        ]
    )
    # etcd takes one member at a time; the machines are prepared side by side.
    made = [node for node, file in server.ran if file == "kubeadm-init.sh"]
    assert made == ["node-3", "node-4"]
    server.forget()
    assert fleet.up().touched == []


def test_new_settings_of_control_planes_are_all_that_a_preview_names(
    fleet: Fleet, server: Server
) -> None:
    """Their certificate was renewed on the node since the last update."""

    def edit(config: dict[str, Any]) -> None:
        planes(3, 4)(config)
        config["nordmesh:kubernetes"]["encryptionKey"] = 2
        config["nordmesh:host"] = {"journalSize": "300Mi"}

    fleet.write(NODES + 2, planes(3, 4))
    fleet.up()
    fleet.write(NODES + 2, edit)
    earlier, renewed = server.made, credentials("renewed")
    server.made = {**renewed, "ca": earlier["ca"]}
    server.forget()
    named = fleet.previewed()
    assert server.ran == []
    scripts = ("init", "key-use", "key-retire")
    of_planes = [f"node-{number}-{script}" for number in (0, 3, 4) for script in scripts]
    prepared = [f"node-{number}-prepare" for number in range(NODES + 2)]
    assert named == sorted((*UPDATED, name) for name in (*of_planes, *prepared))
    assert fleet.up().touched == named
    exported = fleet.run("stack", "export").stdout
    assert "node-0-init" in exported
    assert [
        key for key in (earlier["clientKey"], server.made["clientKey"]) if key in exported
    ] == []
    # The next run has the new certificate.
    assert fleet.previewed() == [("update", "pulumi:providers:kubernetes", "cluster")]
    server.forget()
    assert fleet.up().touched == [("update", "pulumi:providers:kubernetes", "cluster")]
    assert fleet.up().touched == []
    assert server.opened == []


def test_the_first_control_plane_is_removed_by_an_edit_of_the_list(
    fleet: Fleet, server: Server
) -> None:
    fleet.write(NODES + 2, planes(3, 4))
    fleet.up()

    # One joins, and one leaves: the first of the list, on which all scripts run.
    fleet.write(NODES + 3, planes(3, 4, 5, without=0))
    server.forget()
    done = fleet.up()
    removed = [step for step in server.ran if step[1] in ("plane-leave.sh", "node-reset.sh")]
    assert removed == [("node-0", "plane-leave.sh"), ("node-0", "node-reset.sh")]
    assert server.ran.index(("node-5", "kubeadm-init.sh")) < server.ran.index(removed[0])
    moved = {name for operation, type_, name in done.touched if (operation, type_) == UPDATED}
    assert moved == {"istio-install", "istio-rollout", "node-1-ready", "node-2-ready"}
    assert ("node-3", "node-ready.sh") in server.ran
    server.forget()
    assert fleet.up().touched == []

    # It comes back, and is first in the list again: nothing moves.
    fleet.write(NODES + 3, planes(3, 4, without=5))
    back = fleet.up()
    assert ("create", COMMAND, "node-0-init") in back.touched
    assert not [step for step in back.touched if (step[0], step[1]) == UPDATED]
    server.forget()
    assert fleet.up().touched == []


def test_two_control_planes_leave_one_after_another(fleet: Fleet, server: Server) -> None:
    fleet.write(NODES + 2, planes(3, 4))
    fleet.up()
    fleet.write(NODES)
    server.forget()
    fleet.up()
    left = [step for step in server.ran if step[1] == "plane-leave.sh"]
    assert left == [("node-4", "plane-leave.sh"), ("node-3", "plane-leave.sh")]
    assert {step for step in server.ran if step[1] == "node-reset.sh"} == {
        ("node-3", "node-reset.sh"),
        ("node-4", "node-reset.sh"),
    }
    server.forget()
    assert fleet.up().touched == []


def test_a_control_plane_that_cannot_leave_is_not_reset(fleet: Fleet, server: Server) -> None:
    fleet.write(NODES + 2, planes(3, 4))
    fleet.up()
    fleet.write(NODES)
    server.failing.add(("node-4", "plane-leave.sh"))
    server.forget()
    assert fleet.run("up", "--yes", "--skip-preview").returncode != 0
    server.failing.clear()
    assert [file for _, file in server.ran if file in ("plane-leave.sh", "node-reset.sh")] == [
        "plane-leave.sh"
    ]
    server.forget()
    fleet.up()
    assert ("node-4", "plane-leave.sh") in server.ran


def test_a_destroy_of_three_control_planes_deletes_nothing(fleet: Fleet, server: Server) -> None:
    def guarded(config: dict[str, Any]) -> None:
        planes(3, 4)(config)
        # Without the entry of one control plane.
        lost = [{"etcd": f"node-{number}", "reason": "a test of its entry"} for number in (0, 3)]
        config["nordmesh:machines"]["allowDataLoss"] = lost

    fleet.write(NODES + 2, planes(3, 4))
    fleet.up()
    fleet.write(NODES + 2, guarded)
    fleet.up()
    server.forget()
    for arguments in ((), ("--exclude-protected",)):
        result = fleet.run("destroy", "--yes", "--skip-preview", *arguments)
        assert "because it is protected" in result.stdout or arguments, result.stdout
        assert server.ran == []
    assert fleet.up().touched == []


def test_with_the_first_control_plane_dead_a_worker_joins(
    fleet: Fleet, server: Server, tmp_path: Path
) -> None:
    fleet.write(NODES + 2, planes(3, 4))
    fleet.up()
    fleet.write(NODES + 3, planes(3, 4))
    server.dead.add("node-0")
    server.forget()
    try:
        with ready_api_server(address(3, NETWORK), tmp_path):
            done = fleet.up()
            assert ("node-3", "node-ready.sh") in server.ran
            assert ("create", COMMAND, "node-5-ready") in done.touched
            assert {operation for operation, type_, _ in done.touched if type_ == COMMAND} == {
                "create"
            }
            assert fleet.up().touched == []
    finally:
        server.dead.clear()
    # It is back: nothing moves, but the provider.
    assert fleet.up().touched == [("update", "pulumi:providers:kubernetes", "cluster")]


def test_a_lost_control_plane_is_replaced_by_one_edit(
    fleet: Fleet, server: Server, tmp_path: Path
) -> None:
    def lost(config: dict[str, Any]) -> None:
        planes(3, 4, 5)(config)
        config["nordmesh:machines"]["nodes"]["node-0"]["gone"] = "its disk broke in a test"

    fleet.write(NODES + 2, planes(3, 4))
    fleet.up()
    server.dead.add("node-0")
    server.forget()
    try:
        fleet.write(NODES + 3, lost)
        with ready_api_server(address(3, NETWORK), tmp_path):
            preview = fleet.run(*PREVIEW)
            assert "node-0 is gone and is never asked again: its disk broke" in preview.stdout
            fleet.up()
            # etcd accepts no new member while another one is down.
            leave = server.ran.index(("node-3", "plane-leave.sh"))
            assert leave < server.ran.index(("node-5", "kubeadm-init.sh"))
            assert ("node-3", "node-ready.sh") in server.ran
            assert fleet.up().touched == []
            # It does not come back by an edit.
            fleet.write(NODES + 3, planes(3, 5, without=4))
            refused = fleet.run(*PREVIEW)
            assert refused.returncode != 0
            assert "[node-came-back]" in refused.stdout
            fleet.write(NODES + 3, planes(3, 4, 5, without=0))
            forgotten = fleet.up().touched
        assert {operation for operation, _, name in forgotten if "node-0" in name} == {"delete"}
        assert ("delete", COMMAND, "node-0-prepare") in forgotten
        assert "node-0" not in server.opened
    finally:
        server.dead.clear()


def test_the_api_server_of_another_control_plane_replaces_nothing(
    fleet: Fleet, server: Server, tmp_path: Path
) -> None:
    fleet.write(NODES + 2, planes(3, 4))
    fleet.up()
    server.forget()
    with ready_api_server(address(3, NETWORK), tmp_path):
        assert fleet.up().touched == [("update", "pulumi:providers:kubernetes", "cluster")]
        assert fleet.up().touched == []
    assert fleet.up().touched == [("update", "pulumi:providers:kubernetes", "cluster")]
    assert server.opened == []


def test_a_control_plane_that_cannot_be_made_stops_those_after_it(
    fleet: Fleet, server: Server
) -> None:
    fleet.write(NODES + 4, planes(3, 4, 5, 6))
    server.failing.add(("node-5", "kubeadm-init.sh"))
    server.forget()
    assert fleet.run("up", "--yes", "--skip-preview").returncode != 0
    server.failing.clear()
    assert ("node-5", "kubeadm-init.sh") in server.ran
    assert ("node-6", "kubeadm-init.sh") not in server.ran
    fleet.up()
    assert ("node-6", "kubeadm-init.sh") in server.ran
