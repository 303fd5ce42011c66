"""The gates' API client with a real HTTP server that refuses, hangs or breaks off."""

import base64
import contextlib
import functools
import hashlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from kubernetes import client

from components.gates import api
from components.gates.inventory import Peers, parse_peers
from components.manifests import kubeadm
from config.errors import NordmeshError
from tests.engine.deployed import credentials
from tests.unit.components.gates.test_verdicts import proxy

PEERS = "open 0700000A\nended 0800000A\nlooked\nrecent 10.0.0.9\n"


@dataclass
class Answer:
    """A response of the server.

    size: a Content-Length that differs from the content. hangs: whether it comes only when the test
    is over, or after a minute. An exec that hangs has begun, and prints nothing until then.
    """

    content: bytes = b"{}"
    status: int = 200
    size: int | None = None
    hangs: bool = False
    exec_output: str | None = None
    exec_channel: int = 1


@dataclass
class Server:
    """A fake API server: its responses by path, and the requests that it received.

    least_at_once: it answers nothing before it has received this number of requests at once.
    """

    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    requests: list[tuple[str, Mapping[str, list[str]]]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    least_at_once: int = 1
    lock: threading.Condition = field(default_factory=threading.Condition)
    ended: threading.Event = field(default_factory=threading.Event)

    def answer(self, path: str) -> Answer:
        answer = self.answers.get(path, Answer(status=404))
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer


@contextlib.contextmanager
def serve(scripted: Server, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve a fake API server on this machine, and yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            with scripted.lock:
                scripted.requests.append((url.path, parse_qs(url.query)))
                scripted.at_once += 1
                scripted.most_at_once = max(scripted.most_at_once, scripted.at_once)
                answer = scripted.answer(url.path)
                scripted.lock.notify_all()
                scripted.lock.wait_for(
                    lambda: scripted.most_at_once >= scripted.least_at_once, timeout=60
                )
            if scripted.least_at_once > 1:
                time.sleep(0.02)  # in which too many would show
            # Before the response: after it, the client may send the next request.
            with scripted.lock:
                scripted.at_once -= 1
            if answer.exec_output is not None:
                self.run(answer.exec_output, answer.hangs, answer.exec_channel)
            else:
                if answer.hangs:
                    scripted.ended.wait(60)
                self.reply(answer)

        def reply(self, answer: Answer) -> None:
            size = len(answer.content) if answer.size is None else answer.size
            self.send_response(answer.status)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(answer.content)

        def run(self, output: str, hangs: bool, channel: int) -> None:
            """Stream a command's output in websocket frames of a channel, as Kubernetes does."""
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest())
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", accept.decode())
            self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
            self.end_headers()
            if hangs:
                scripted.ended.wait(60)
            data = bytes([channel]) + output.encode()
            self.wfile.write(b"\x82" + bytes([len(data)]) + data + b"\x88\x02\x03\xe8")
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    serve = functools.partial(http.serve_forever, poll_interval=0.01)
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield http.server_port
    finally:
        scripted.ended.set()
        http.shutdown()
        http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, api.Api]]:
    """A fake API server, and a client that is connected to it.

    The client waits longer than a busy machine may take, unless a test sets a limit.
    """
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 120)
    scripted = Server()
    with serve(scripted) as port:
        configuration = client.Configuration(host=f"http://127.0.0.1:{port}")
        configuration.retries = False
        yield scripted, api.Api(configuration)


def stats_path(pod: str) -> str:
    return f"/api/v1/namespaces/shop/pods/{pod}:15090/proxy/stats/prometheus"


def list_response(*items: Mapping[str, Any]) -> Answer:
    return Answer(json.dumps({"items": items}).encode())


def running_pod(name: str, *containers: str, **metadata: object) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": name}, **metadata},
        "spec": {"containers": [{"name": c, "args": ["proxy", "sidecar"]} for c in containers]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}]},
    }


NODE = {
    "metadata": {"name": "worker-1"},
    "spec": {"podCIDRs": ["10.0.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.21"}]},
}
UNUSABLE = {
    "forbidden": Answer(status=403),
    "a failure": Answer(status=500),
    "a redirection": Answer(status=302),
    "accepted": Answer(b'{"items": []}', status=202),
    "a page of a proxy in between": Answer(b"<html>Sign in</html>"),
    "a list": Answer(b"[]"),
    "another object": Answer(b'{"kind": "Status"}'),
    "nothing": Answer(b""),
    "broken off": Answer(b'{"items": []}', size=1000),
    "too slow": Answer(b'{"items": []}', hangs=True),
}


# --- the inventory -------------------------------------------------------------------------------


def test_the_inventory_lists_running_pods_and_nodes(server: tuple[Server, api.Api]) -> None:
    scripted, connected = server
    ending = running_pod("b", "app", "istio-proxy", deletionTimestamp="2027-01-01T00:00:00Z")
    scripted.answers["/api/v1/pods"] = list_response(
        running_pod("a", "istio-proxy"), ending, running_pod("c")
    )
    scripted.answers["/api/v1/nodes"] = list_response(NODE)
    inventory = connected.inventory()
    assert [(p.pod, p.sidecar, p.is_ending) for p in inventory.proxies] == [
        ("a", True, False),
        ("b", True, True),
    ]
    assert inventory.nodes == {"192.0.2.21": "worker-1", "10.0.0.0/24": "worker-1"}
    assert dict(scripted.requests)["/api/v1/pods"] == {"fieldSelector": ["status.phase=Running"]}


@pytest.mark.parametrize("path", ["/api/v1/pods", "/api/v1/nodes"])
@pytest.mark.parametrize("answer", UNUSABLE.values(), ids=UNUSABLE)
def test_an_invalid_list_is_an_error(
    server: tuple[Server, api.Api],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    answer: Answer,
) -> None:
    scripted, connected = server
    scripted.answers |= {"/api/v1/pods": list_response(), "/api/v1/nodes": list_response()}
    connected.inventory()
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 0.5)
    scripted.answers[path] = answer
    with pytest.raises(NordmeshError, match="gate-no-api-server"):
        connected.inventory()


@pytest.mark.parametrize("answer", UNUSABLE.values(), ids=UNUSABLE)
def test_an_invalid_answer_is_not_an_empty_one(
    server: tuple[Server, api.Api], monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    scripted, connected = server
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 0.5)
    scripted.answers["/api/v1/namespaces/shop/services/checkout"] = answer
    scripted.answers["/api/v1/namespaces/shop/pods"] = answer
    with pytest.raises(NordmeshError):
        connected.selector("shop", "checkout")
    with pytest.raises(NordmeshError):
        connected.pods("shop")


def test_the_selector_of_a_service_is_read(server: tuple[Server, api.Api]) -> None:
    scripted, connected = server
    assert connected.selector("shop", "checkout") is None
    for spec, labels in (
        ({"selector": {"a": "b"}}, {"a": "b"}),
        ({"selector": None}, {}),
        ({}, {}),
    ):
        content = json.dumps({"spec": spec}).encode()
        scripted.answers["/api/v1/namespaces/shop/services/checkout"] = Answer(content)
        assert connected.selector("shop", "checkout") == labels


def test_an_unreachable_server_is_an_error() -> None:
    disconnected = api.Api(client.Configuration(host="http://127.0.0.1:9"))
    with pytest.raises(NordmeshError, match="gate-no-api-server"):
        disconnected.inventory()


# --- statistics ----------------------------------------------------------------------------------


def test_unreadable_proxies_are_missing_from_statistics(
    server: tuple[Server, api.Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted, connected = server
    scripted.answers = {
        stats_path("good"): Answer(b"a 1\n"),
        stats_path("empty"): Answer(b""),
        stats_path("refusing"): Answer(status=503),
        stats_path("cut"): Answer(b"a 1\n", size=1000),
        stats_path("slow"): Answer(b"a 1\n", hangs=True),
    }
    pods = ["good", "empty", "refusing", "cut", "absent"]
    texts = connected.stats([proxy(pod) for pod in pods], "outbound|x+")
    assert texts == {"shop/good": "a 1\n", "shop/empty": ""}
    assert dict(scripted.requests)[stats_path("good")] == {"filter": ["outbound|x+"]}
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 0.5)
    assert connected.stats([proxy("slow")], "outbound|x+") == {}
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 120)
    assert connected.stats([proxy("slow")], "outbound|x+", limit=0.5) == {}


def test_statistics_are_read_from_at_most_8_proxies_at_once(server: tuple[Server, api.Api]) -> None:
    scripted, connected = server
    pods = [f"pod-{number}" for number in range(40)]
    scripted.answers = {stats_path(pod): Answer(pod.encode()) for pod in pods}
    scripted.least_at_once = 8
    texts = connected.stats([proxy(pod) for pod in pods], "x")
    assert texts == {f"shop/{pod}": pod for pod in pods}
    assert scripted.most_at_once == 8


def test_a_proxy_that_fails_once_can_be_read_again(server: tuple[Server, api.Api]) -> None:
    scripted, connected = server
    scripted.answers[stats_path("a")] = [Answer(status=503), Answer(b"a 1\n")]
    assert connected.stats([proxy("a")], "x") == {}
    assert connected.stats([proxy("a")], "x") == {"shop/a": "a 1\n"}


# --- peers ---------------------------------------------------------------------------------------

EXEC = "/api/v1/namespaces/shop/pods/db/exec"


def test_peers_are_read_in_the_sidecar(server: tuple[Server, api.Api]) -> None:
    scripted, connected = server
    scripted.answers[EXEC] = Answer(exec_output=PEERS)
    assert connected.peers(proxy("db"), 3) == Peers(
        open=frozenset({"10.0.0.7"}),
        connected=frozenset({"10.0.0.7", "10.0.0.8"}),
        recent=frozenset({"10.0.0.9"}),
    )
    ((_, query),) = scripted.requests
    assert query["container"] == ["istio-proxy"]
    assert query["command"][:2] == ["sh", "-c"]
    assert query["command"][-1] == "3"
    scripted.answers[EXEC] = Answer(exec_output="looked\n")
    assert connected.peers(proxy("db"), 3) == Peers()


INVALID_PEERS = {
    "refused": Answer(status=403),
    "a failure": Answer(status=500),
    "no websocket": Answer(b"looked\n"),
    "no shell": Answer(exec_output=""),
    "no table": Answer(exec_output="recent 10.0.0.9\n"),
    "cut off": Answer(exec_output=PEERS.partition("looked")[0]),
    "a word that only begins so": Answer(exec_output="looked away\n"),
}


@pytest.mark.parametrize("answer", INVALID_PEERS.values(), ids=INVALID_PEERS)
def test_an_unreadable_list_of_peers_is_not_an_empty_one(
    server: tuple[Server, api.Api], answer: Answer
) -> None:
    scripted, connected = server
    scripted.answers[EXEC] = answer
    assert connected.peers(proxy("db"), 3) is None


def test_an_exec_that_hangs_times_out(
    server: tuple[Server, api.Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted, connected = server
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 0.5)
    scripted.answers[EXEC] = Answer(exec_output=PEERS, hangs=True)
    assert connected.peers(proxy("db"), 0) is None


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: w"])
def test_an_unanswered_exec_times_out(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """The server accepts the connection, and sends no response or half of one."""
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 0.5)
    peers = []
    with socket.create_server(("127.0.0.1", 0)) as serve:
        configuration = client.Configuration(host=f"http://127.0.0.1:{serve.getsockname()[1]}")
        thread = threading.Thread(
            target=lambda: peers.append(api.Api(configuration).peers(proxy("db"), 0)), daemon=True
        )
        thread.start()
        connection, _ = serve.accept()
        with connection:
            connection.sendall(answer)
            thread.join(120)
            assert peers == [None]


def test_exec_output_of_other_channels_is_ignored(server: tuple[Server, api.Api]) -> None:
    scripted, connected = server
    scripted.answers[EXEC] = Answer(exec_output=PEERS, exec_channel=3)
    assert connected.peers(proxy("db"), 3) is None


@pytest.mark.parametrize("name", ["api.internal", "other.internal"])
def test_exec_uses_the_credentials_and_verifies_the_server(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server requires a client certificate. Its own is valid for api.internal only."""
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 120)
    issued = credentials("api.internal")
    for file, key in (("ca", "ca"), ("certificate", "clientCertificate"), ("key", "clientKey")):
        (tmp_path / file).write_bytes(base64.b64decode(issued[key]))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca"))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    scripted = Server({EXEC: Answer(exec_output=PEERS), "/api/v1/pods": list_response()})
    scripted.answers["/api/v1/nodes"] = list_response()
    with serve(scripted, tls) as port:
        content = yaml.safe_load(kubeadm.admin_kubeconfig(issued, endpoint=name, address="x"))
        content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        with api.connect(yaml.safe_dump(content)) as connected:
            peers = connected.peers(proxy("db"), 3)
            if name == "api.internal":
                assert peers is not None
                assert peers.open == {"10.0.0.7"}
                connected.inventory()
            else:
                assert peers is None
                with pytest.raises(NordmeshError, match="gate-no-api-server"):
                    connected.inventory()


# --- the script in the sidecar -------------------------------------------------------------------


@pytest.fixture
def run_peers(tmp_path: Path) -> Callable[[Mapping[str, str]], Peers | None]:
    """Run the script of the sidecar with fake tables of connections."""

    def run(tables: Mapping[str, str]) -> Peers | None:
        script = api._PEERS.replace("/proc/net", str(tmp_path))
        for name, text in tables.items():
            (tmp_path / name).write_text(text)
        output = subprocess.run(
            ["sh", "-c", script, "1"], capture_output=True, text=True, check=False
        ).stdout
        return parse_peers(output) if "looked" in output.splitlines() else None

    return run


HEADING = "  sl  local_address rem_address   st tx_queue rx_queue\n"


def test_the_script_lists_connections_to_the_inbound_port(
    run_peers: Callable[[Mapping[str, str]], Peers | None],
) -> None:
    lines = [
        "   0: 00000000:3A9E 00000000:0000 0A 0 0",
        "   1: 0200000A:3A9E 0700000A:C001 01 0 0",
        "   2: 0200000A:3A9E 0800000A:C002 06 0 0",
        "   3: 0200000A:3A9F 0900000A:C003 01 0 0",
        "   4: 0200000A:C004 0A00000A:3A9E 01 0 0",
    ]
    peers = run_peers({"tcp": HEADING + "\n".join(lines) + "\n", "tcp6": HEADING})
    assert peers is not None
    assert peers.open == {"10.0.0.7"}
    assert peers.connected == {"10.0.0.7", "10.0.0.8"}


def test_the_script_lists_recent_clients_from_the_kernel(
    run_peers: Callable[[Mapping[str, str]], Peers | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only clients within the window of 1 s."""
    ip = tmp_path / "ip"
    ip.write_text("#!/bin/sh\necho 10.0.0.7 age 0.9sec cwnd 10\necho 10.0.0.8 age 1.5sec\n")
    ip.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    peers = run_peers({"tcp": HEADING})
    assert peers is not None
    assert peers.recent == {"10.0.0.7"}


def test_the_script_lists_no_clients_only_if_it_can_read_the_table(
    run_peers: Callable[[Mapping[str, str]], Peers | None],
) -> None:
    assert run_peers({}) is None
    peers = run_peers({"tcp": HEADING})
    assert peers is not None
    assert peers.connected == frozenset()
