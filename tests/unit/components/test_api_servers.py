"""Which API server a run uses from outside the nodes, with real TLS servers on this machine."""

import asyncio
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import pulumi_cli
from components import api_servers
from components.api_servers import first_ready
from components.manifests import kubeadm
from config import ports

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
OFF, SILENT = 0, -1
"""Instead of a status: nothing listens, or nothing answers."""

Serve = Callable[..., list["_Server"]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody trusts, with its key."""
    path = tmp_path_factory.mktemp("certificate") / "pem"
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=kube-apiserver"
    subprocess.run(
        ["openssl", "req", "-x509", *key.split(), "-keyout", f"{path}.key", "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    path.write_text(Path(f"{path}.key").read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def serve(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start an API server at each address, which answers with a status."""
    with socket.create_server((ADDRESSES[0], 0)) as free:
        port = int(free.getsockname()[1])
    monkeypatch.setattr(ports, "API", port)
    # No busy machine takes so long; tests with a silent server set a shorter one.
    monkeypatch.setattr(api_servers, "_SECONDS", 120)
    with ExitStack() as stack:

        def start(*statuses: int) -> list[_Server]:
            servers = []
            for address, status in zip(ADDRESSES, statuses, strict=False):
                if status == SILENT:
                    stack.enter_context(socket.create_server((address, port)))
                elif status != OFF:
                    servers.append(_Server(address, port, status, certificate))
                    stack.enter_context(servers[-1])
            return servers

        yield start


class _Server(ThreadingHTTPServer):
    """A pretended API server. has_answered: is set after its first answer."""

    def __init__(self, address: str, port: int, status: int, certificate: Path) -> None:
        has_answered = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/readyz" else 404)
                self.end_headers()
                has_answered.set()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__((address, port), Handler)
        self.has_answered = has_answered
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((200, 200, 200), 0),
        ((OFF, 200, 200), 1),
        ((SILENT, 200, 200), 1),
        ((500, 200, 200), 1),
        ((OFF, SILENT, 200), 2),
        # A proxy on the way, or another program.
        ((404, 200, 200), 1),
        # A cluster may refuse requests without credentials.
        ((401, 200, 200), 0),
        ((OFF, 403, 200), 1),
        ((OFF, OFF, OFF), 0),
        ((500, 500, OFF), 0),
    ],
)
def test_the_first_api_server_that_is_ready(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, statuses: tuple[int, ...], expected: int
) -> None:
    serve(*statuses)
    # A busy machine may not answer within the limit that a silent server takes.
    for seconds in (1, 10, 60) if SILENT in statuses else (120,):
        monkeypatch.setattr(api_servers, "_SECONDS", seconds)
        chosen = asyncio.run(first_ready(ADDRESSES))
        if chosen == ADDRESSES[expected]:
            return
    pytest.fail(f"{chosen} was chosen")


def test_each_api_server_is_described(serve: Serve) -> None:
    serve(200, 500, OFF)
    assert asyncio.run(api_servers.statuses(ADDRESSES)) == [200, 500, None]


def test_all_are_asked_at_once(serve: Serve) -> None:
    """Each server hangs up once all of them have a connection."""
    serve()
    asked = threading.Barrier(len(ADDRESSES), timeout=60)

    def hang_up(server: socket.socket) -> None:
        with server.accept()[0], suppress(threading.BrokenBarrierError):
            asked.wait()

    with ExitStack() as stack:
        for address in ADDRESSES:
            server = stack.enter_context(socket.create_server((address, ports.API)))
            threading.Thread(target=hang_up, args=[server], daemon=True).start()
        assert asyncio.run(first_ready(ADDRESSES)) == ADDRESSES[0]
    assert not asked.broken


def test_a_program_that_is_busy_does_not_miss_an_answer(serve: Serve) -> None:
    second, _ = serve(OFF, 200, 200)

    async def busy() -> str:
        choice = asyncio.ensure_future(first_ready(ADDRESSES))
        await asyncio.sleep(0)
        assert second.has_answered.wait(60)
        return await choice

    assert asyncio.run(busy()) == ADDRESSES[1]


def test_the_only_control_plane_is_not_asked() -> None:
    assert asyncio.run(first_ready(["cp-1.invalid"])) == "cp-1.invalid"


def outputs(address: str, planes: int) -> str:
    credentials = {"ca": "Y2E=", "clientCertificate": "Yw==", "clientKey": "a2V5"}
    nodes = {
        f"cp-{number}": {"address": address, "role": "control-plane"}
        for number, address in enumerate(ADDRESSES[:planes], 1)
    }
    worker = {"address": "127.0.0.9", "role": "worker"}
    text = kubeadm.admin_kubeconfig(credentials, endpoint="api.internal", address=address)
    return json.dumps({"kubeconfig": text, "nodes": {**nodes, "worker-1": worker}})


@pytest.mark.parametrize(
    ("address", "planes", "expected"),
    [
        (ADDRESSES[0], 3, ADDRESSES[1]),
        (ADDRESSES[0], 1, ADDRESSES[0]),
        ("api.example.org", 3, "api.example.org"),
    ],
)
def test_commands_use_a_control_plane_that_answers_now(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    planes: int,
    expected: str,
) -> None:
    serve(OFF, 200, 200)
    printed = outputs(address, planes)
    monkeypatch.setattr(pulumi_cli, "output", lambda *_, **__: printed)
    text = pulumi_cli.kubeconfig("prod")
    assert kubeadm.address_in(text) == expected
    before, after = (yaml.safe_load(one) for one in (json.loads(printed)["kubeconfig"], text))
    assert before["users"] == after["users"]
    assert after["clusters"][0]["cluster"]["tls-server-name"] == "api.internal"
