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

from tests.support.fleet import Fleet, Server, address

NODES = 3
ADDRESSES = NODES + 4
NETWORK = "198.18.11.0/24"
COMMAND = "command:remote:Command"
LIST = "nordmesh:kubernetes:ControlPlanes"
PREVIEW = ("preview",)

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
    resources.remove(listed)
    ((name, address),) = listed["inputs"]["addresses"].items()
    for resource in resources:
        for key in ("dependencies", "propertyDependencies"):
            if listed["urn"] in (resource.get(key) or ()):
                resource[key].remove(listed["urn"])
        if resource["type"] == "nordmesh:node:Node":
            resource["inputs"]["madeWith"][f"machines.nodes.{name}.address"] = address
        if resource["urn"].endswith("-init"):
            for key in ("create", "update"):
                earlier = re.sub(r"[0-9a-f]{64}  -", f"{'0' * 64}  -", resource["inputs"][key])
                resource["inputs"][key] = resource["outputs"][key] = earlier


def test_one_control_plane_of_an_earlier_release_is_kept(fleet: Fleet, server: Server) -> None:
    fleet.change_state(to_earlier_release)
    server.forget()
    done = fleet.up()
    nodes = [("update", "nordmesh:node:Node", f"node-{number}") for number in range(1, NODES)]
    assert done.touched == [
        ("create", LIST, "control-planes"),
        ("update", COMMAND, "node-0-init"),
        *nodes,
    ]
    assert server.ran == [("node-0", "kubeadm-init.sh")]
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
                    ("nordmesh:kubernetes:ControlPlane", new),
                    ("nordmesh:node:Node", new),
                    ("nordmesh:platform:Protection", f"etcd-{new}"),
                )
            ),
            ("update", LIST, "control-planes"),
        ]
    )
    # etcd takes one member at a time; the machines are prepared side by side.
    made = [node for node, file in server.ran if file == "kubeadm-init.sh"]
    assert made == ["node-3", "node-4"]
    server.forget()
    assert fleet.up().touched == []


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
